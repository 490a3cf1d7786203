// A dialog that gives a batch another window or deadline while it runs.

import { call } from "./client.js";
import { Fields } from "./fields.js";
import { toField } from "./words.js";

const FIELDS = { window: "window", deadline: "deadline" };

export class Change {
  // done: called when something was changed.
  constructor(dialog, path, page, done) {
    this.dialog = dialog;
    this.path = path;
    this.page = page;
    this.done = done;
    this.find = (selector) => dialog.querySelector(selector);
    this.fields = new Fields(this.find, FIELDS);
    this.find("form").onsubmit = (event) => {
      event.preventDefault();
      this.#send();
    };
    this.find(".back-out").onclick = () => dialog.close();
  }

  open(batch) {
    this.fields.clear();
    this.stood = { window: batch.window ?? "", deadline: toField(batch.deadline) };
    for (const [id, value] of Object.entries(this.stood)) this.find(`#${id}`).value = value;
    this.dialog.showModal();
  }

  // Only what was changed here: what somebody else has changed meanwhile stays.
  #request() {
    const typed = Object.keys(FIELDS).map((id) => [id, this.find(`#${id}`).value.trim()]);
    const changed = Object.fromEntries(typed.filter(([id, value]) => value !== this.stood[id]));
    if (changed.deadline) changed.deadline = new Date(changed.deadline).toISOString();
    return Object.fromEntries(Object.entries(changed).map(([id, value]) => [id, value || null]));
  }

  async #send() {
    if (this.busy) return;
    const request = this.#request();
    this.fields.clear();
    if (!Object.keys(request).length) return this.dialog.close();
    this.busy = true;
    try {
      await call("PATCH", this.path, request);
      this.dialog.close();
    } catch (error) {
      if (error.code !== "unauthenticated") return this.fields.refused(error);
      this.dialog.close();
      return this.page.notice.complain(error);
    } finally {
      this.busy = false;
    }
    this.done();
  }
}
