// The batches, newest first.

import { showParts } from "./bar.js";
import { Rows, made, tell, tellOrHide } from "./dom.js";
import { endOf, riskOf } from "./forecast.js";
import { Newest } from "./newest.js";
import { toBatch } from "./route.js";
import { barOf, countsOf, isOver, partsOf, stateOf } from "./standing.js";
import { Watch } from "./watch.js";
import { clock } from "./words.js";

const BUSY_MS = 2000;
// With nothing to wait for, somebody else or a schedule may still make one.
const IDLE_MS = 15_000;

export class BatchesView {
  constructor(_, page) {
    [this.element, this.find] = made("batches-view");
    this.page = page;
    this.batches = new Newest("/v1/batches", (batch) => !isOver(batch));
    this.rows = new Rows(this.find(".batches"), () => new BatchRow());
    this.watch = new Watch(
      () => this.batches.look(),
      () => this.#show(),
      page.notice,
    );
    this.find(".older").onclick = () => this.#older();
  }

  open() {
    this.page.title("Batches");
    this.watch.now();
  }

  close() {
    this.watch.stop();
  }

  #show() {
    this.rows.show(this.batches.values);
    this.find(".empty").hidden = this.batches.values.length > 0;
    this.find(".older").hidden = !this.batches.next;
    return this.batches.busy ? BUSY_MS : IDLE_MS;
  }

  async #older() {
    try {
      await this.batches.older();
      this.#show();
    } catch (error) {
      this.page.notice.complain(error);
    }
  }
}

class BatchRow {
  constructor() {
    [this.element, this.find] = made("batch-row");
  }

  update(batch) {
    const link = this.find("h3 a");
    tell(link, batch.name);
    link.href = toBatch(batch.id);
    showState(this.find(".state"), batch);
    showParts(this.find(".bar"), partsOf(batch), barOf(batch));
    this.find(".bar").setAttribute("aria-label", `Progress of ${batch.name}`);
    tell(this.find(".figures"), countsOf(batch));
    tellOrHide(this.find(".end"), whenOf(batch));
    tellOrHide(this.find(".window"), batch.window ? `window ${batch.window}` : "");
    showRisk(this.find(".risk"), batch);
  }
}

// When it is done, or was.
export function whenOf(batch) {
  if (batch.finished_at) return `${batch.state === "cancelled" ? "cancelled" : "ended"} ${clock(batch.finished_at)}`;
  return endOf(batch.forecast) || `made ${clock(batch.created_at)}`;
}

export function showState(node, batch) {
  const [text, tone] = stateOf(batch);
  tell(node, text);
  node.dataset.tone = tone;
}

// In words and in colour.
export function showRisk(node, batch) {
  const [risk, text] = riskOf(batch) ?? ["", ""];
  node.dataset.risk = risk;
  tellOrHide(node, text);
}
