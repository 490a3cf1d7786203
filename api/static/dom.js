// Elements: made once, then brought up to date in place, so that focus, selection and playing audio stay. Whatever comes
// from the service is text and never markup.

// The first element of a template, and a way to what is in it.
export function made(template) {
  const element = document.getElementById(template).content.firstElementChild.cloneNode(true);
  return [element, (selector) => element.querySelector(selector)];
}

// Only what changes is written: a live region speaks only then.
export function tell(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// Shows a sentence, or hides its place where there is none.
export function tellOrHide(node, text) {
  tell(node, text ?? "");
  node.hidden = !text;
}

export function element(tag, members = {}, ...children) {
  const node = Object.assign(document.createElement(tag), members);
  node.append(...children);
  return node;
}

// A list of terms and what is said of each: [[term, text]]; what has no text is left out.
export function facts(list, pairs) {
  const shown = pairs.filter(([, text]) => text);
  const told = JSON.stringify(shown);
  if (list.dataset.told === told) return;
  list.dataset.told = told;
  const pair = ([term, text]) => element("div", {}, element("dt", { textContent: term }), element("dd", { textContent: text }));
  list.replaceChildren(...shown.map(pair));
}

// Rows of a container, one for each value. make: of a value, something with `element` and `update(value)`.
export class Rows {
  #rows = new Map();

  constructor(container, make) {
    this.container = container;
    this.make = make;
  }

  show(values, key = (value) => value.id) {
    const wanted = new Map(values.map((value) => [key(value), value]));
    for (const [id, row] of this.#rows) {
      if (wanted.has(id)) continue;
      row.element.remove();
      this.#rows.delete(id);
    }
    let place = this.container.firstElementChild;
    for (const [id, value] of wanted) {
      let row = this.#rows.get(id);
      if (!row) this.#rows.set(id, (row = this.make(value)));
      row.update(value);
      // What stands where it belongs is not moved: moving takes the focus away.
      if (row.element === place) place = place.nextElementSibling;
      else this.container.insertBefore(row.element, place);
    }
  }
}
