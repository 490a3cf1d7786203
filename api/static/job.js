// One job on the page: made once, then brought up to date in place, so that focus and playing audio stay.

import { call } from "./client.js";
import { made, tell, tellOrHide } from "./dom.js";
import { toBatch, toJob } from "./route.js";
import { Watch } from "./watch.js";
import { errorText, nameOf, progressOf, size } from "./words.js";

const ENDED = new Set(["succeeded", "failed", "cancelled", "expired"]);
const POLL_MS = 1000;

export const isEnded = (job) => ENDED.has(job.state);

export class JobCard {
  constructor(job, notice) {
    [this.element, this.find] = made("job");
    this.notice = notice;
    this.find(".cancel").onclick = () => this.act("POST", "/cancel");
    this.find(".retry").onclick = () => this.act("POST", "/retry");
    this.find(".delete").onclick = () => this.act("DELETE", "");
    this.find(".show").onclick = () => this.toggle();
    this.update(job);
  }

  get ended() {
    return isEnded(this.job);
  }

  update(job) {
    this.job = job;
    const name = this.find("h3 a");
    tell(name, nameOf(job));
    name.href = toJob(job.id);
    const state = this.find(".state");
    const stopping = job.cancel_requested && !this.ended;
    state.dataset.state = job.state;
    tell(state, stopping ? "stopping" : job.state);
    state.title = job.reason.replaceAll("_", " ");
    const prompts = (job.params.prompts || []).map((prompt) => prompt.description ?? prompt.name);
    tell(this.find(".what"), [...prompts.filter(Boolean), job.engine, new Date(job.created_at).toLocaleString()].join(" · "));
    tell(this.find(".id"), job.id);
    this.#moving(job);
    tellOrHide(this.find(".why"), job.error && job.state !== "succeeded" ? errorText(job.error) : "");
    this.find(".cancel").hidden = this.ended || stopping;
    this.find(".retry").hidden = !["failed", "cancelled", "expired"].includes(job.state);
    this.find(".delete").hidden = !this.ended;
    this.find(".show").hidden = job.state !== "succeeded";
  }

  #moving(job) {
    this.find(".moving").hidden = job.state !== "running";
    if (job.state !== "running") return;
    const bar = this.find("progress");
    bar.setAttribute("aria-label", `Progress of ${nameOf(job)}`);
    if (job.progress?.percent == null) bar.removeAttribute("value");
    else bar.value = job.progress.percent;
    tell(this.find(".figures"), progressOf(job));
  }

  async act(method, action) {
    this.notice.clear();
    try {
      const job = await call(method, `/v1/jobs/${this.job.id}${action}`);
      if (job) {
        this.hideResults();
        this.update(job);
        this.#announce("changed", job);
      } else this.#announce("deleted", this.job);
    } catch (error) {
      this.notice.complain(error);
    }
  }

  #announce(what, job) {
    this.element.dispatchEvent(new CustomEvent(what, { bubbles: true, detail: job }));
  }

  hideResults() {
    this.find(".results").hidden = true;
    this.find(".results").replaceChildren();
    this.find(".show").setAttribute("aria-expanded", "false");
  }

  toggle() {
    if (this.find(".results").hidden) this.showResults();
    else this.hideResults();
  }

  async showResults() {
    try {
      const results = await call("GET", `/v1/jobs/${this.job.id}/results`);
      this.find(".results").replaceChildren(...results.warnings.map(warning), ...results.outputs.map(output).filter(Boolean));
      this.find(".results").hidden = false;
      this.find(".show").setAttribute("aria-expanded", "true");
    } catch (error) {
      this.notice.complain(error);
    }
  }
}

function warning({ message }) {
  return Object.assign(document.createElement("p"), { className: "hint", textContent: `Note: ${message}` });
}

function output(file) {
  const box = Object.assign(document.createElement("div"), { className: "output" });
  const title = document.createElement("h4");
  const link = Object.assign(document.createElement("a"), { href: here(file.url), textContent: file.filename });
  link.download = file.filename;
  title.append(`${file.name} · `, link, ` · ${size(file.bytes)}`);
  box.append(title);
  if (file.content_type.startsWith("image/")) {
    box.append(Object.assign(document.createElement("img"), { src: here(file.url), alt: `${file.role} of ${file.name}`, loading: "lazy" }));
  } else if (file.content_type.startsWith("audio/")) {
    const player = Object.assign(document.createElement("audio"), { src: here(file.url), controls: true, preload: "metadata" });
    player.setAttribute("aria-label", file.name);
    box.append(player);
  }
  return box;
}

// Links name the service's public address; this page may have been opened by another, whose origin its policy allows.
function here(address) {
  const url = new URL(address, location.href);
  return url.pathname.startsWith("/v1/files/") ? url.pathname : address;
}

// One job by itself, at an address of its own: what it made is open.
export class JobView {
  constructor({ id }, page) {
    [this.element, this.find] = made("job-view");
    this.id = id;
    this.page = page;
    this.watch = new Watch(
      () => call("GET", `/v1/jobs/${id}`),
      (job) => this.#show(job),
      page.notice,
    );
    this.element.addEventListener("changed", () => this.watch.now());
    this.element.addEventListener("deleted", () => history.back());
  }

  open() {
    this.page.title("Job");
    this.watch.now();
  }

  close() {
    this.watch.stop();
  }

  #show(job) {
    const first = !this.card;
    this.card ??= new JobCard(job, this.page.notice);
    if (first) this.find(".jobs").append(this.card.element);
    this.card.update(job);
    this.page.title(nameOf(job));
    const batch = this.find(".batch");
    batch.hidden = !job.batch_id;
    tell(batch, `Of the batch ${job.batch}`);
    batch.href = toBatch(job.batch_id ?? "");
    if (job.state === "succeeded" && this.shown !== job.attempt) {
      this.shown = job.attempt;
      this.card.showResults();
    }
    return isEnded(job) ? null : POLL_MS;
  }
}
