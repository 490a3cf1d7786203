// Pure: forecasts and risks in words.

import { about, clock, clocks, percent } from "./words.js";

// Why there is none, and what to do.
const MISSING = {
  no_cards: ({ lane }) => `No worker takes jobs of the lane ${lane}. Start one, or let one that is paused go on.`,
  not_measured: ({ engine, lane }) => `${engine} has not run on the lane ${lane} yet. The first jobs to finish tell how fast it is.`,
  lengths_unknown: () => "How long the recordings are is not known. The first of them to be read will tell.",
  beyond_horizon: () => "It would take more than ten years. Widen the window, or add workers.",
};

const RISKS = { on_time: "on time", at_risk: "may be late", late: "will be late", unknown: "not known whether in time" };

// `done about 03:10, 02:40 to 04:30`; empty where nobody can tell.
export function endOf(forecast, now = new Date()) {
  if (!forecast?.likely) return "";
  const { earliest, likely, latest } = forecast;
  const range = latest ? clocks(earliest, latest, now) : `not before ${clock(earliest, now)}`;
  return `done about ${clock(likely, now)}, ${range}`;
}

// [risk, in words] of missing the deadline; null without one.
export function riskOf(batch, now = new Date()) {
  if (!batch.deadline) return null;
  const due = clock(batch.deadline, now);
  if (batch.finished_at) {
    const late = new Date(batch.finished_at) > new Date(batch.deadline);
    return late ? ["late", `ended after its deadline, ${due}`] : ["on_time", `ended before its deadline, ${due}`];
  }
  const risk = batch.forecast?.risk ?? batch.risk;
  return risk ? [risk, `${RISKS[risk]}: due ${due}`] : ["", `due ${due}`];
}

// What there is to say beside the end.
export function linesOf(forecast, now = new Date()) {
  const lines = [];
  if (forecast.worker_seconds?.likely > 0) lines.push(`${workerHours(forecast.worker_seconds)} left`);
  if (forecast.by_close) {
    const closes = clock(forecast.closes, now);
    lines.push(`${about(forecast.by_close, percent)} of what is left is done by ${closes}, when its window closes`);
  }
  return lines.map((line) => `${line[0].toUpperCase()}${line.slice(1)}.`);
}

export const missingOf = (forecast) => forecast.missing.map((one) => MISSING[one.why]?.(one) ?? one.why);

// `about 12 (9 to 16) worker hours`.
export function workerHours(share) {
  const [unit, seconds] = share.likely < 5400 ? ["minutes", 60] : ["hours", 3600];
  const said = (value) => (value / seconds).toFixed(value / seconds < 10 ? 1 : 0).replace(/\.0$/, "");
  return `${about(share, said)} worker ${unit}`;
}
