// The items of a batch, a page of one part of them at a time.

import { showBlocks } from "./bar.js";
import { call } from "./client.js";
import { Rows, made, tell, tellOrHide } from "./dom.js";
import { toBatch, toJob } from "./route.js";
import { PARTS, partsOf } from "./standing.js";
import { errorText, nameOf } from "./words.js";

const PAGE = 25;
const ALL = { name: "all", states: [] };

export class Items {
  // The cursors that lead to the page that is shown; a list is only walked forwards.
  #cursors = [null];
  #next = null;

  // changed: called when another page is wanted.
  constructor(section, id, part, changed) {
    this.section = section;
    this.id = id;
    this.part = [ALL, ...PARTS].find((one) => one.name === part) ?? ALL;
    this.changed = changed;
    this.find = (selector) => section.querySelector(selector);
    this.rows = new Rows(this.find("ol"), () => new ItemRow());
    this.chips = new Rows(this.find(".chips"), () => new Chip((chosen) => this.#choose(chosen)));
    this.find(".next").onclick = () => this.#turn([...this.#cursors, this.#next]);
    this.find(".previous").onclick = () => this.#turn(this.#cursors.slice(0, -1));
  }

  look() {
    const query = new URLSearchParams({ limit: PAGE });
    this.part.states.forEach((state) => query.append("state", state));
    const cursor = this.#cursors.at(-1);
    if (cursor) query.set("cursor", cursor);
    return call("GET", `/v1/batches/${this.id}/items?${query}`);
  }

  show(batch, { items, next }) {
    this.#next = next;
    const all = { ...ALL, count: batch.counts.total };
    const parts = [all, ...partsOf(batch)].filter((part) => part.count || part.name === this.part.name);
    const chosen = this.part.name;
    this.chips.show(
      parts.map((part) => ({ ...part, chosen: part.name === chosen })),
      (part) => part.name,
    );
    this.rows.show(items);
    this.find(".empty").hidden = items.length > 0;
    this.find(".next").disabled = !next;
    this.find(".previous").disabled = this.#cursors.length === 1;
    this.find(".turn").hidden = !next && this.#cursors.length === 1;
  }

  #choose(part) {
    this.part = part;
    // In the address, so that it can be passed on; going back leads to where one came from all the same.
    history.replaceState(null, "", toBatch(this.id, part.name));
    this.#turn([null]);
  }

  #turn(cursors) {
    this.#cursors = cursors;
    this.changed();
  }
}

class Chip {
  constructor(choose) {
    [this.element, this.find] = made("chip");
    this.element.onclick = () => choose(this.part);
  }

  update(part) {
    this.part = part;
    this.element.dataset.part = part.name;
    tell(this.find(".count"), part.count.toLocaleString("en-GB"));
    tell(this.find(".name"), part.name);
    this.element.setAttribute("aria-pressed", part.chosen);
  }
}

class ItemRow {
  constructor() {
    [this.element, this.find] = made("item-row");
  }

  update(job) {
    tell(this.find(".number"), String(job.item));
    const link = this.find("a");
    tell(link, nameOf(job));
    link.href = toJob(job.id);
    const state = this.find(".state");
    tell(state, job.state);
    state.dataset.state = job.state;
    state.title = job.reason.replaceAll("_", " ");
    const begun = job.state !== "succeeded" && job.progress?.blocks > 1;
    const bar = this.find(".blocks");
    bar.hidden = !begun;
    if (begun) showBlocks(bar, job.progress, job.state === "running");
    bar.setAttribute("aria-label", `Blocks of ${nameOf(job)}`);
    const succeeded = job.state === "succeeded";
    tellOrHide(this.find(".why"), job.error && !succeeded ? errorText(job.error) : "");
    // It has a result, but of what: of a recording that is cut short, for instance.
    const noted = succeeded ? job.warnings.map((one) => one.message).join(" ") : "";
    tellOrHide(this.find(".noted"), noted && `Note: ${noted}`);
  }
}
