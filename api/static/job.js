// One job on the page: made once, then brought up to date in place, so that focus and playing audio stay.

import { call } from "./client.js";

const ENDED = new Set(["succeeded", "failed", "cancelled", "expired"]);

export class JobCard {
  constructor(job, complain) {
    this.element = document.getElementById("job").content.firstElementChild.cloneNode(true);
    this.complain = complain;
    this.find = (selector) => this.element.querySelector(selector);
    this.find(".cancel").onclick = () => this.act("POST", "/cancel");
    this.find(".retry").onclick = () => this.act("POST", "/retry");
    this.find(".delete").onclick = () => this.act("DELETE", "");
    this.find(".show").onclick = () => this.toggle();
    this.update(job);
  }

  get ended() {
    return ENDED.has(this.job.state);
  }

  update(job) {
    this.job = job;
    const name = job.metadata.filename || job.input.url || job.input.s3 || job.input.upload || job.input.job;
    this.find("h3").textContent = name;
    const state = this.find(".state");
    const stopping = job.cancel_requested && !this.ended;
    state.dataset.state = job.state;
    state.textContent = stopping ? "stopping" : job.state;
    state.title = job.reason.replaceAll("_", " ");
    const prompts = (job.params.prompts || []).map((prompt) => prompt.description).join(", ");
    this.find(".what").textContent = `${prompts} · ${job.engine} · ${new Date(job.created_at).toLocaleString()}`;
    this.find(".id").textContent = job.id;
    this.#moving(job);
    const why = this.find(".why");
    const error = job.state === "succeeded" ? null : job.error;
    why.hidden = !error;
    why.textContent = error ? [error.message, error.hint].filter(Boolean).join(" ") : "";
    this.find(".cancel").hidden = this.ended || stopping;
    this.find(".retry").hidden = !["failed", "cancelled", "expired"].includes(job.state);
    this.find(".delete").hidden = !this.ended;
    this.find(".show").hidden = job.state !== "succeeded";
  }

  #moving(job) {
    const progress = job.progress;
    this.find(".moving").hidden = job.state !== "running";
    if (job.state !== "running") return;
    const bar = this.find("progress");
    bar.setAttribute("aria-label", `Progress of ${this.find("h3").textContent}`);
    if (progress?.percent == null) bar.removeAttribute("value");
    else bar.value = progress.percent;
    const parts = [progress?.phase || "starting"];
    if (progress?.percent != null) parts.push(`${Math.floor(progress.percent)} %`);
    if (progress?.blocks > 1) parts.push(`block ${progress.block ?? 0} of ${progress.blocks}`);
    if (progress?.eta_seconds != null) parts.push(`${span(progress.eta_seconds)} left`);
    this.find(".figures").textContent = parts.join(" · ");
  }

  async act(method, action) {
    try {
      const job = await call(method, `/v1/jobs/${this.job.id}${action}`);
      if (job) {
        this.hideResults();
        this.update(job);
      } else this.element.dispatchEvent(new CustomEvent("deleted", { bubbles: true, detail: this.job.id }));
    } catch (error) {
      this.complain(error);
    }
  }

  hideResults() {
    this.find(".results").hidden = true;
    this.find(".results").replaceChildren();
    this.find(".show").setAttribute("aria-expanded", "false");
  }

  async toggle() {
    if (!this.find(".results").hidden) return this.hideResults();
    try {
      const results = await call("GET", `/v1/jobs/${this.job.id}/results`);
      this.find(".results").replaceChildren(...results.warnings.map(warning), ...results.outputs.map(output).filter(Boolean));
      this.find(".results").hidden = false;
      this.find(".show").setAttribute("aria-expanded", "true");
    } catch (error) {
      this.complain(error);
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

function size(bytes) {
  const units = ["B", "kB", "MB", "GB"];
  let step = 0;
  for (; bytes >= 1000 && step < units.length - 1; step++) bytes /= 1000;
  return `${bytes.toFixed(step && bytes < 10 ? 1 : 0)} ${units[step]}`;
}

function span(seconds) {
  if (seconds < 90) return `${Math.ceil(seconds)} s`;
  const minutes = Math.ceil(seconds / 60);
  return minutes < 90 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
