// A list of the service, newest first, as far down as somebody wanted to see it.

import { call } from "./client.js";

const PAGE = 20;
// Further down, so many at a time are asked for one by one; few of those are unfinished.
const SINGLY = 5;

export class Newest {
  #found = new Map();
  #asked = new Map();
  #deep = false;
  next = null;

  // path: of the list, and of each thing in it.  unfinished: whether a thing may still change.
  constructor(path, unfinished) {
    this.path = path;
    this.unfinished = unfinished;
  }

  get values() {
    // Ids sort by time.
    return [...this.#found.values()].sort((a, b) => (a.id < b.id ? 1 : -1));
  }

  get busy() {
    return this.values.some(this.unfinished);
  }

  // An answer that was overtaken by a later one changes nothing.
  add(value) {
    if (this.#found.get(value.id)?.updated_at > value.updated_at) return;
    this.#found.set(value.id, value);
  }

  forget(id) {
    this.#found.delete(id);
  }

  async look() {
    const page = await call("GET", `${this.path}?limit=${PAGE}`);
    const fresh = new Set(page.items.map((value) => value.id));
    const end = page.next ? page.items.at(-1).id : "";
    // What is missing where the page tells of everything was deleted.
    for (const id of this.#found.keys()) if (id > end && !fresh.has(id)) this.forget(id);
    page.items.forEach((value) => this.add(value));
    if (!this.#deep) this.next = page.next;
    const open = this.values.filter((value) => this.unfinished(value) && !fresh.has(value.id));
    open.sort((a, b) => (this.#asked.get(a.id) ?? 0) - (this.#asked.get(b.id) ?? 0));
    await Promise.all(open.slice(0, SINGLY).map((value) => this.#again(value.id)));
  }

  async #again(id) {
    this.#asked.set(id, Date.now());
    try {
      this.add(await call("GET", `${this.path}/${id}`));
    } catch (error) {
      if (error.code !== "not_found") throw error;
      this.forget(id);
    }
  }

  async older() {
    const page = await call("GET", `${this.path}?limit=${PAGE}&cursor=${encodeURIComponent(this.next)}`);
    this.#deep = true;
    this.next = page.next;
    page.items.forEach((value) => this.add(value));
  }
}
