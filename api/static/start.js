// A form that plans and starts a batch.

import { call, unique } from "./client.js";
import { made, tell, tellOrHide } from "./dom.js";
import { Fields } from "./fields.js";
import { Plan } from "./plan.js";
import { toBatch } from "./route.js";

// The field that a member of the request is written in.
const FIELDS = { rss: "source", s3: "source", preset: "preset", window: "window", naming: "naming", deadline: "deadline" };

export class StartView {
  // The request that was sent last, and the key it was sent with: sent again, it makes no second batch.
  #sent = { body: "", key: "" };
  // Counts what was typed and sent: a plan of something else than what stands there now is not shown.
  #round = 0;
  #busy = false;
  #closed = false;

  constructor(_, page) {
    [this.element, this.find] = made("start-view");
    this.page = page;
    this.form = this.find("form");
    this.fields = new Fields(this.find, FIELDS);
    this.plan = new Plan(this.find(".plan"));
    this.form.onsubmit = (event) => {
      event.preventDefault();
      this.#send(true);
    };
    this.form.oninput = (event) => this.#changed(event.target);
    this.find(".start").onclick = () => this.form.reportValidity() && this.#send(false);
    this.find("#windows").append(new Option(`22:00-06:00 ${Intl.DateTimeFormat().resolvedOptions().timeZone}`));
  }

  async open() {
    this.page.title("Start a batch");
    try {
      this.presets = (await call("GET", "/v1/presets")).items;
    } catch (error) {
      return this.page.notice.complain(error);
    }
    this.find("#preset").replaceChildren(...this.presets.map((preset) => new Option(preset.name)));
    const ready = this.presets.find((preset) => this.#engineOf(preset)?.ready);
    if (ready) this.find("#preset").value = ready.name;
    this.#describePreset();
  }

  close() {
    this.#closed = true;
  }

  #engineOf(preset) {
    return this.page.engines.find((one) => one.name === preset?.engine);
  }

  #describePreset() {
    const preset = this.presets?.find((one) => one.name === this.find("#preset").value);
    const engine = this.#engineOf(preset);
    const parts = [preset?.description && `${preset.description}.`];
    if (engine && !engine.ready) parts.push(`${engine.name} is not ready: ${engine.missing}. ${engine.hint ?? ""}`);
    tell(this.find("#preset-hint"), parts.filter(Boolean).join(" "));
  }

  #changed(field) {
    // What was planned is no longer what would be started.
    this.#round += 1;
    this.plan.hide();
    this.fields.mark(field.id, "");
    tellOrHide(this.find(".refusal"), "");
    if (field.id === "preset") this.#describePreset();
  }

  #request() {
    const value = (id) => this.find(`#${id}`).value.trim();
    const source = value("source");
    const deadline = value("deadline");
    const request = {
      ...(source.startsWith("s3://") ? { s3: { pattern: source } } : { rss: { url: source } }),
      preset: value("preset"),
      window: value("window"),
      naming: value("naming"),
      deadline: deadline && new Date(deadline).toISOString(),
    };
    return Object.fromEntries(Object.entries(request).filter(([, said]) => said));
  }

  async #send(dry) {
    if (this.#busy) return;
    this.fields.clear();
    this.page.notice.clear();
    this.#busy = true;
    tell(this.find(".doing"), dry ? "Planning …" : "Starting …");
    const request = this.#request();
    const mine = this.#round;
    try {
      if (dry) {
        const plan = await call("POST", "/v1/batches?dry_run=true", request);
        if (mine === this.#round) this.plan.show(plan);
      } else {
        const batch = await call("POST", "/v1/batches", request, { "Idempotency-Key": this.#keyOf(request) });
        if (!this.#closed) location.hash = toBatch(batch.id);
      }
    } catch (error) {
      if (!this.#closed) this.#refused(error);
    } finally {
      this.#busy = false;
      tell(this.find(".doing"), "");
    }
  }

  #keyOf(request) {
    const body = JSON.stringify(request);
    if (body !== this.#sent.body) this.#sent = { body, key: unique() };
    return this.#sent.key;
  }

  #refused(error) {
    if (error.code === "unauthenticated") return this.page.notice.complain(error);
    this.fields.refused(error);
  }
}
