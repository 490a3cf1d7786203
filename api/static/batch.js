// One batch: how it stands, when it is done, what runs, what went wrong, and the verbs that steer it.

import { showParts } from "./bar.js";
import { showRisk, showState } from "./batches.js";
import { Change } from "./change.js";
import { call, save } from "./client.js";
import { facts, made, tell, tellOrHide } from "./dom.js";
import { Failures } from "./failures.js";
import { Items } from "./items.js";
import { Outlook } from "./outlook.js";
import { Running } from "./running.js";
import { allowed, barOf, countsOf, isOver, partsOf, sourceOf } from "./standing.js";
import { Watch } from "./watch.js";
import { clock, count, errorText, span } from "./words.js";

const POLL_MS = 2000;

export class BatchView {
  constructor({ id, part }, page) {
    [this.element, this.find] = made("batch-view");
    this.path = `/v1/batches/${id}`;
    this.id = id;
    this.page = page;
    this.outlook = new Outlook(this.find(".outlook"));
    this.running = new Running(this.find(".running"), this.path);
    this.failures = new Failures(this.find(".failures"), this.path);
    this.items = new Items(this.find(".items"), id, part, () => this.watch.now());
    this.watch = new Watch(
      () => this.#look(),
      (found) => this.#show(found),
      page.notice,
    );
    for (const verb of this.element.querySelectorAll("[data-verb]")) {
      const asked = { cancel: () => this.#ask(), change: () => this.change.open(this.batch) }[verb.dataset.verb];
      verb.onclick = asked ?? (() => this.#steer(verb));
    }
    for (const file of this.element.querySelectorAll("[data-file]")) file.onclick = () => this.#save(file);
    this.change = new Change(this.find(".change"), this.path, page, () => this.watch.now());
    this.find(".sure").onclick = () => {
      this.find(".ending").close();
      this.#steer(this.find('[data-verb="cancel"]'));
    };
    this.find(".ending .back-out").onclick = () => this.find(".ending").close();
  }

  open() {
    this.page.title("Batch");
    this.watch.now();
  }

  close() {
    for (const dialog of this.element.querySelectorAll("dialog")) dialog.close();
    this.watch.stop();
  }

  async #look() {
    const [batch, items] = await Promise.all([call("GET", this.path), this.items.look()]);
    const [running, failures] = await Promise.all([this.running.look(batch), this.failures.look(batch)]);
    return { batch, running, failures, items };
  }

  #show({ batch, running, failures, items }) {
    this.batch = batch;
    for (const part of this.element.querySelectorAll(".whole")) part.hidden = false;
    tell(this.find("h2"), batch.name);
    this.page.title(batch.name);
    showState(this.find(".state"), batch);
    showRisk(this.find(".risk"), batch);
    showParts(this.find(".bar"), partsOf(batch), barOf(batch));
    tell(this.find(".figures"), countsOf(batch));
    tellOrHide(this.find(".unprepared"), batch.error ? errorText(batch.error) : "");
    this.#verbs();
    this.#facts();
    this.outlook.show(batch);
    this.running.show(batch, running);
    this.failures.show(batch, failures);
    this.items.show(batch, items);
    return isOver(batch) ? null : POLL_MS;
  }

  #verbs() {
    const may = allowed(this.batch);
    for (const verb of this.element.querySelectorAll("[data-verb]")) verb.disabled = !may[verb.dataset.verb];
    this.find('[data-file="output"]').disabled = !this.batch.counts.succeeded;
    const { failed, expired, cancelled, rejected } = this.batch.counts;
    this.find('[data-file="errors"]').disabled = !(failed + expired + cancelled + rejected);
  }

  #facts() {
    const { batch } = this;
    facts(this.find(".facts"), [
      ["Window", batch.window ?? "at any time"],
      ["Deadline", batch.deadline && clock(batch.deadline)],
      ["Source", sourceOf(batch)],
      ["Preset", batch.preset],
      ["Engine", batch.engine],
      ["Names", batch.naming],
      ["Wrong items", batch.on_error === "stop" ? "stop the batch" : ""],
      ["Made", clock(batch.created_at)],
      ["Ended", batch.finished_at && `${clock(batch.finished_at)}, after ${taken(batch)}`],
      ["Id", batch.id],
    ]);
  }

  #ask() {
    const { waiting, queued, running } = this.batch.counts;
    const left = count(waiting + queued + running, "item");
    tell(this.find(".left"), `${left} without a result will be cancelled. What is done stays.`);
    this.find(".ending").showModal();
  }

  async #steer(verb) {
    if (this.busy) return;
    const refusal = this.find(".whole .refusal");
    tellOrHide(refusal, "");
    this.busy = true;
    try {
      const answer = await call("POST", `${this.path}/${verb.dataset.verb}`);
      if (answer.refused) {
        const again = count(answer.again, "item runs", "items run");
        tellOrHide(refusal, `${again} again; ${answer.refused} cannot: what they wait for is not there.`);
      }
    } catch (error) {
      if (error.code === "unauthenticated") return this.page.notice.complain(error);
      tellOrHide(refusal, error.message);
    } finally {
      this.busy = false;
    }
    // Also after a refusal: the state is then another than the one that was shown.
    const held = document.activeElement === verb;
    await this.watch.now();
    // A keyboard is not left on a button that can no longer be pressed.
    if (held && verb.disabled) this.find("[data-verb]:enabled")?.focus();
  }

  async #save(file) {
    if (file.ariaBusy === "true") return;
    const name = `${file.dataset.file}.jsonl`;
    file.ariaBusy = "true";
    this.page.notice.clear();
    try {
      await save(`${this.path}/${name}`, `${this.id}-${name}`);
    } catch (error) {
      this.page.notice.complain(error);
    } finally {
      file.ariaBusy = "false";
    }
  }
}

const taken = (batch) => span((new Date(batch.finished_at) - new Date(batch.created_at)) / 1000);
