// What a batch would be: its plan, as the service tells it.

import { Rows, element, facts, tell, tellOrHide } from "./dom.js";
import { showForecast } from "./outlook.js";
import { about, clock, count, errorText, size, span } from "./words.js";

// Why an item is left out.
const LEFT_OUT = {
  taken_before: "taken by an earlier batch",
  duplicate_guid: "there twice",
  no_date: "without a date",
  before_since: "published before",
  after_until: "published after",
  title_differs: "by its title",
  beyond_count: "beyond the count",
  folder_marker: "a folder",
  empty_object: "empty",
  unusable_key: "with a name that cannot be used",
  excluded: "excluded",
};
const SAID = new Set([
  "name", "jobs", "skipped", "rejected", "rejects", "seconds", "seconds_known", "bytes", "names", "window", "opens_at",
  "first_window_seconds", "forecast", "starts",
]);

const INSTANT = /^\d{4}-\d\d-\d\dT\d\d:/;

export class Plan {
  constructor(section) {
    this.section = section;
    this.find = (selector) => section.querySelector(selector);
    this.rejects = new Rows(this.find(".rejects"), () => {
      const line = element("li");
      return { element: line, update: (reject) => tell(line, rejected(reject)) };
    });
  }

  hide() {
    this.section.hidden = true;
  }

  show(plan) {
    facts(this.find(".facts"), [...known(plan), ...further(plan)]);
    if (plan.forecast) showForecast(this.find(".ends"), this.find(".lines"), plan.forecast);
    this.find(".forecast").hidden = !plan.forecast;
    this.find(".names").replaceChildren(...plan.names.map((textContent) => element("li", { textContent })));
    this.find(".example").hidden = plan.names.length === 0;
    this.rejects.show(plan.rejects, (reject) => reject.item);
    this.find(".wrong").hidden = plan.rejected === 0;
    const more = plan.rejected - plan.rejects.length;
    tellOrHide(this.find(".more"), more > 0 ? `and ${more} more` : "");
    this.section.hidden = false;
    this.find("h3").focus();
  }
}

const rejected = ({ item, source, error }) => `${[`Item ${item}`, source].filter(Boolean).join(", ")}: ${errorText(error)}`;

function known(plan) {
  const ofSome = plan.seconds_known < plan.jobs ? `, of the ${plan.seconds_known} whose length the source tells` : "";
  return [
    ["Name", plan.name],
    ["Jobs", count(plan.jobs, "job")],
    ["Length", plan.seconds === null ? "the source does not tell" : span(plan.seconds) + ofSome],
    ["Size", plan.bytes === null ? "" : size(plan.bytes)],
    ["Left out", Object.entries(plan.skipped).map(([why, n]) => `${n} ${LEFT_OUT[why] ?? why.replaceAll("_", " ")}`).join(", ")],
    ["Wrong", plan.rejected ? count(plan.rejected, "item") : ""],
    ["Starts", begins(plan)],
    ["First window", plan.first_window_seconds === null ? "" : span(plan.first_window_seconds)],
  ];
}

function begins(plan) {
  // A service from before it told would have said nothing.
  if (plan.starts === false) return "not at all: an item is wrong, and it is to stop at that";
  return plan.opens_at ? `when its window opens, ${clock(plan.opens_at)}` : "at once";
}

// What a newer service tells beside that: figures and intervals by their names.
function further(plan) {
  return Object.entries(plan)
    .filter(([name, value]) => !SAID.has(name) && value !== null)
    .map(([name, value]) => {
      const words = name.replace(/_(seconds|at)$/, "").replaceAll("_", " ");
      return [words[0].toUpperCase() + words.slice(1), figure(name, value)];
    });
}

function figure(name, value) {
  const said = /seconds$/.test(name) ? span : /bytes$/.test(name) ? size : (one) => String(Math.round(100 * one) / 100);
  if (typeof value === "number") return said(value);
  if (typeof value === "string") return INSTANT.test(value) ? clock(value) : value;
  if (typeof value !== "object") return "";
  if ("likely" in value) return about(value, said);
  return typeof value.bytes === "number" ? size(value.bytes) : "";
}
