// The line at the top that says what went wrong. What an action ran into stays until the next one; what a look ran into
// goes away with the next look that goes well.

import { tellOrHide } from "./dom.js";

export class Notice {
  #passing = false;

  // refused: called where the key is not known.
  constructor(node, refused) {
    this.node = node;
    this.refused = refused;
  }

  complain(error) {
    this.#say(error, false);
  }

  trouble(error) {
    this.#say(error, true);
  }

  passed() {
    if (this.#passing) this.clear();
  }

  clear(message = "") {
    this.#passing = false;
    tellOrHide(this.node, message);
  }

  #say(error, passing) {
    if (error.code === "unauthenticated") return this.refused();
    // Not a refusal of the service: a fault of this page, for whoever mends it.
    if (!error.code) console.error(error);
    this.#passing = passing;
    tellOrHide(this.node, error.message);
  }
}
