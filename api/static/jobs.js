// The jobs: a form that submits one, the list of them, and who works on them.

import { call, unique, upload } from "./client.js";
import { Rows, element, made } from "./dom.js";
import { JobCard, isEnded } from "./job.js";
import { Newest } from "./newest.js";
import { Watch } from "./watch.js";
import { count } from "./words.js";

const BUSY_MS = 1000;
const IDLE_MS = 5000;

export class JobsView {
  constructor(_, page) {
    [this.element, this.find] = made("jobs-view");
    this.page = page;
    this.jobs = new Newest("/v1/jobs", (job) => !isEnded(job));
    this.rows = new Rows(this.find(".jobs"), (job) => new JobCard(job, page.notice));
    this.watch = new Watch(
      () => this.#look(),
      (found) => this.#show(found),
      page.notice,
    );
    this.find("form").onsubmit = (event) => this.#submit(event);
    this.find("#engine").onchange = () => this.#describeEngine();
    this.find(".older").onclick = () => this.#older();
    this.find(".jobs").addEventListener("changed", (event) => {
      this.jobs.add(event.detail);
      this.watch.now();
    });
    this.find(".jobs").addEventListener("deleted", (event) => {
      this.jobs.forget(event.detail.id);
      this.#list();
    });
    this.#offerEngines();
  }

  open() {
    this.page.title("");
    this.watch.now();
  }

  close() {
    this.watch.stop();
  }

  #offerEngines() {
    const named = (engine) => (engine.ready ? engine.name : `${engine.name} (not ready)`);
    const separators = this.page.engines.filter((engine) => engine.kind === "separation");
    this.find("#engine").replaceChildren(...separators.map((engine) => new Option(named(engine), engine.name, false, engine.default)));
    this.#describeEngine();
  }

  #describeEngine() {
    const engine = this.page.engines.find((candidate) => candidate.name === this.find("#engine").value);
    if (!engine) return;
    const parts = [engine.summary + "."];
    if (!engine.ready) parts.push(`Not ready: ${engine.missing}. ${engine.hint ?? ""}`);
    this.find("#engine-hint").textContent = parts.join(" ");
    this.find("#words").replaceChildren(...(engine.vocabulary ?? []).map((word) => new Option(word)));
  }

  async #look() {
    const [queues, workers] = await Promise.all([call("GET", "/v1/queues"), call("GET", "/v1/workers"), this.jobs.look()]);
    return { queues, workers: workers.items };
  }

  #show({ queues, workers }) {
    this.#list();
    this.#surroundings(queues, workers);
    return this.jobs.busy ? BUSY_MS : IDLE_MS;
  }

  #list() {
    this.rows.show(this.jobs.values);
    this.find(".empty").hidden = this.jobs.values.length > 0;
    this.find(".older").hidden = !this.jobs.next;
  }

  #surroundings(queues, workers) {
    const alive = workers.filter((worker) => worker.alive).length;
    const sum = (state) => queues.lanes.reduce((total, lane) => total + lane[state], 0);
    const waiting = sum("waiting") + sum("queued") + sum("later");
    this.page.status.textContent = `${count(alive, "worker")} · ${sum("running")} running · ${waiting} waiting`;
    this.find(".lanes").replaceChildren(
      ...queues.lanes.map((lane) => {
        const told = [lane.lane, lane.waiting + lane.later, lane.queued, lane.running, lane.workers];
        return element("tr", {}, ...told.map((value) => element("td", { textContent: value })));
      }),
    );
    this.find(".workers").replaceChildren(
      ...workers.map((worker) => {
        const parts = [worker.name, worker.alive ? "alive" : "gone"];
        if (worker.control && worker.control !== "run") parts.push(worker.control);
        parts.push(...(worker.jobs ?? []));
        return element("li", { textContent: parts.join(" · ") });
      }),
    );
  }

  async #submit(event) {
    event.preventDefault();
    const file = this.find("#file").files[0];
    const [button, sending] = [this.find("#send"), this.find("#sending")];
    button.disabled = true;
    sending.hidden = false;
    this.page.notice.clear();
    try {
      const sent = await upload(file, (share) => (sending.value = share));
      const request = {
        kind: "separation",
        engine: this.find("#engine").value,
        input: { upload: sent.id },
        params: { prompts: [this.find("#prompt").value], output: { format: this.find("#format").value } },
        metadata: { filename: file.name.slice(0, 512) },
      };
      this.jobs.add(await call("POST", "/v1/jobs", request, { "Idempotency-Key": unique() }));
      this.find("#file").value = "";
      this.#list();
      await this.watch.now();
    } catch (error) {
      this.page.notice.complain(error);
    } finally {
      button.disabled = false;
      sending.hidden = true;
      sending.value = 0;
    }
  }

  async #older() {
    try {
      await this.jobs.older();
      this.#list();
    } catch (error) {
      this.page.notice.complain(error);
    }
  }
}
