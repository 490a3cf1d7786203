// What of a batch runs now, each item with its blocks.

import { showBlocks } from "./bar.js";
import { call } from "./client.js";
import { Rows, made, tell, tellOrHide } from "./dom.js";
import { toJob } from "./route.js";
import { nameOf, progressOf } from "./words.js";

// About as many as a large installation has cards.
const MOST = 20;

export class Running {
  constructor(section, path) {
    this.section = section;
    this.path = path;
    this.rows = new Rows(section.querySelector("ul"), () => new RunningRow());
  }

  async look(batch) {
    if (!batch.counts.running) return [];
    return (await call("GET", `${this.path}/items?state=running&limit=${MOST}`)).items;
  }

  show(batch, jobs) {
    this.section.hidden = jobs.length === 0;
    this.rows.show(jobs);
    const more = jobs.length === MOST ? batch.counts.running - MOST : 0;
    tellOrHide(this.section.querySelector(".more"), more > 0 ? `and ${more} more` : "");
  }
}

class RunningRow {
  constructor() {
    [this.element, this.find] = made("running-row");
  }

  update(job) {
    const link = this.find("a");
    tell(link, nameOf(job));
    link.href = toJob(job.id);
    tell(this.find(".figures"), job.cancel_requested ? "stopping" : progressOf(job));
    const bar = this.find(".blocks");
    bar.hidden = !job.progress?.blocks;
    if (job.progress?.blocks) showBlocks(bar, job.progress, true);
    bar.setAttribute("aria-label", `Blocks of ${nameOf(job)}`);
  }
}
