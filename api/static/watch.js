// Looks again and again, for as long as there is something to see.

// Nobody looks at a tab in the background.
const HIDDEN_MS = 15_000;
const AFTER_TROUBLE_MS = 5_000;

// look: asks the service.  show: shows what it gave, and returns in how many milliseconds to look again; null: not any
// more.  notice: told of what goes wrong, and when it goes well again.
export class Watch {
  #timer = 0;
  #round = 0;
  #stopped = false;
  #turned = () => document.hidden || this.now();

  constructor(look, show, notice) {
    Object.assign(this, { look, show, notice });
    document.addEventListener("visibilitychange", this.#turned);
  }

  async now() {
    if (this.#stopped) return;
    clearTimeout(this.#timer);
    const mine = ++this.#round;
    let wait = AFTER_TROUBLE_MS;
    try {
      const found = await this.look();
      // Somebody looked later, or the view is closed: this answer is of no use.
      if (mine !== this.#round) return;
      wait = this.show(found);
      this.notice.passed();
    } catch (error) {
      if (mine !== this.#round) return;
      this.notice.trouble(error);
      if (mine !== this.#round || error.code === "not_found") return;
    }
    if (wait !== null) this.#timer = setTimeout(() => this.now(), document.hidden ? Math.max(wait, HIDDEN_MS) : wait);
  }

  stop() {
    this.#stopped = true;
    clearTimeout(this.#timer);
    this.#round += 1;
    document.removeEventListener("visibilitychange", this.#turned);
  }
}
