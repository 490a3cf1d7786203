// What is wrong with a request, told at the fields it was written in.

import { tellOrHide } from "./dom.js";

export class Fields {
  // find: in the form, which has a place `#…-wrong` for each field, and `.refusal` for the rest.  names: the field that
  // each member of the request is written in.
  constructor(find, names) {
    this.find = find;
    this.names = names;
  }

  // Tells what the service refused, and leads to the first field that it is about.
  refused(error) {
    const others = [];
    for (const { pointer, detail } of error.places ?? []) {
      const field = this.names[pointer?.split("/")[1]];
      if (field) this.mark(field, detail);
      else others.push(detail);
    }
    const placed = this.find("[aria-invalid]");
    placed?.focus();
    tellOrHide(this.find(".refusal"), others.join(" ") || (placed ? "" : error.message));
  }

  clear() {
    Object.values(this.names).forEach((field) => this.mark(field, ""));
    tellOrHide(this.find(".refusal"), "");
  }

  mark(id, wrong) {
    const field = this.find(`#${id}`);
    if (wrong) field.setAttribute("aria-invalid", "true");
    else field.removeAttribute("aria-invalid");
    tellOrHide(this.find(`#${id}-wrong`), wrong);
  }
}
