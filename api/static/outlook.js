// When a batch will be done: the earliest, the likely and the latest end, or what is missing to tell.

import { facts, element } from "./dom.js";
import { linesOf, missingOf } from "./forecast.js";
import { clock } from "./words.js";

export class Outlook {
  constructor(section) {
    this.section = section;
    this.find = (selector) => section.querySelector(selector);
  }

  show({ forecast }) {
    this.section.hidden = !forecast;
    if (forecast) showForecast(this.find(".ends"), this.find(".lines"), forecast);
  }
}

// ends: a list of terms.  lines: a list of sentences.
export function showForecast(ends, lines, forecast) {
  const shown = forecast.likely
    ? [
        ["Earliest", clock(forecast.earliest)],
        ["Likely", clock(forecast.likely)],
        ["Latest", forecast.latest ? clock(forecast.latest) : "not known"],
      ]
    : [];
  facts(ends, shown);
  const sentences = [...missingOf(forecast), ...linesOf(forecast)];
  const told = sentences.join("\n");
  if (lines.dataset.told === told) return;
  lines.dataset.told = told;
  lines.replaceChildren(...sentences.map((textContent) => element("li", { textContent })));
}
