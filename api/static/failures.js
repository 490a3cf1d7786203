// What went wrong in a batch: items that could not become jobs, and the jobs that failed last.

import { call, firstLines } from "./client.js";
import { Rows, made, tell, tellOrHide } from "./dom.js";
import { toJob } from "./route.js";
import { nameOf } from "./words.js";

const SHOWN = 5;
// Items come in their order, not in that of failing: the last of so many are the last ones of nearly every batch.
const LOOKED_AT = 200;

export class Failures {
  #known = { counted: "", rejected: [], failed: [] };

  constructor(section, path) {
    this.section = section;
    this.path = path;
    this.rows = new Rows(section.querySelector("ul"), () => new FailureRow());
  }

  // Asks only where there are others than before.
  async look({ counts }) {
    const counted = [counts.rejected, counts.failed, counts.expired].join();
    if (counted === this.#known.counted) return this.#known;
    // They stand before the jobs in the file.
    const rejected = counts.rejected ? await firstLines(`${this.path}/errors.jsonl`, Math.min(SHOWN, counts.rejected)) : [];
    let failed = [];
    if (counts.failed + counts.expired) {
      failed = (await call("GET", `${this.path}/items?state=failed&state=expired&limit=${LOOKED_AT}`)).items;
      failed.sort((a, b) => (a.finished_at < b.finished_at ? 1 : -1));
    }
    return { counted, rejected, failed: failed.slice(0, SHOWN) };
  }

  show({ counts }, found) {
    this.#known = found;
    const shown = [
      ...found.failed.map((job) => ({ id: job.id, name: nameOf(job), href: toJob(job.id), error: job.error })),
      ...found.rejected.map((line) => ({ id: `item ${line.item}`, name: line.source ?? "", item: line.item, error: line.error })),
    ];
    this.section.hidden = shown.length === 0;
    this.rows.show(shown);
    const more = counts.failed + counts.expired + counts.rejected - shown.length;
    tellOrHide(this.section.querySelector(".more"), more > 0 ? `and ${more} more, all of them in errors.jsonl` : "");
  }
}

class FailureRow {
  constructor() {
    [this.element, this.find] = made("failure-row");
  }

  update({ name, href, item, error }) {
    const link = this.find("a");
    if (href) link.href = href;
    tell(link, item ? [`Item ${item}`, name].filter(Boolean).join(": ") : name);
    tell(this.find("code"), error?.code ?? "");
    tell(this.find(".why"), [error?.message, error?.pointer && `(${error.pointer})`].filter(Boolean).join(" "));
    tellOrHide(this.find(".hint"), error?.hint);
  }
}
