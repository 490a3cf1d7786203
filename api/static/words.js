// Pure: figures, instants and jobs in words. Times are those of whoever looks; a clock has 24 hours, as windows have.

const DAY_MS = 86_400_000;
const HOURS = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };

export function count(n, one, many = `${one}s`) {
  return `${n.toLocaleString("en-GB")} ${n === 1 ? one : many}`;
}

export function size(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let step = 0;
  for (; bytes >= 1000 && step < units.length - 1; step++) bytes /= 1000;
  return `${bytes.toFixed(step && bytes < 10 ? 1 : 0)} ${units[step]}`;
}

export function span(seconds) {
  if (seconds < 90) return `${Math.ceil(seconds)} s`;
  const minutes = Math.ceil(seconds / 60);
  if (minutes < 90) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 && minutes % 60 ? `${hours} h ${minutes % 60} min` : count(hours, "h", "h");
}

// A figure with its interval, {low, likely, high}: `about 14 (12 to 16)`.
export function about({ low, likely, high }, said = String) {
  const [from, most, to] = [low, likely, high].map(said);
  return from === to ? `about ${most}` : `about ${most} (${from} to ${to})`;
}

export const percent = (share) => `${Math.round(100 * share)} %`;

// `22:00`, `tomorrow 22:00`, `Thu 22:00`, `5 Mar 22:00`.
export function clock(instant, now = new Date()) {
  const at = new Date(instant);
  return [day(at, now), at.toLocaleTimeString("en-GB", HOURS)].filter(Boolean).join(" ");
}

function day(at, now) {
  const midnight = (date) => Date.UTC(date.getFullYear(), date.getMonth(), date.getDate());
  const days = Math.round((midnight(at) - midnight(now)) / DAY_MS);
  if (days >= -1 && days <= 1) return ["yesterday", "", "tomorrow"][days + 1];
  if (days > 1 && days < 7) return at.toLocaleDateString("en-GB", { weekday: "short" });
  const year = at.getFullYear() === now.getFullYear() ? undefined : "numeric";
  return at.toLocaleDateString("en-GB", { day: "numeric", month: "short", year });
}

// As a field for a local date and time has it, `2026-03-05T22:00`; empty for none.
export function toField(instant) {
  if (!instant) return "";
  const at = new Date(instant);
  return new Date(at - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);
}

// `02:40 to 04:30`, with the day of the later one only where it is another.
export function clocks(from, to, now = new Date()) {
  const [first, last] = [new Date(from), new Date(to)];
  const same = day(first, now) === day(last, now);
  return `${clock(first, now)} to ${same ? last.toLocaleTimeString("en-GB", HOURS) : clock(last, now)}`;
}

// What a job works on, by the best name there is for it.
export function nameOf(job) {
  const source = job.input ?? job.inputs?.[0] ?? {};
  const text = job.params.text ?? job.params.script?.map((turn) => turn.text).join(" ");
  const named = [job.metadata.title, job.metadata.filename, source.url, source.s3, text?.slice(0, 80), source.upload, source.job];
  return named.find(Boolean) ?? job.id;
}

// `separate · 41 % · block 3 of 12 · 2 min left`, as far as it is known.
export function progressOf(job) {
  const told = job.progress;
  const parts = [told?.phase || (job.state === "running" ? "starting" : "")];
  if (told?.percent != null) parts.push(`${Math.floor(told.percent)} %`);
  if (told?.blocks > 1) parts.push(`block ${told.block ?? 0} of ${told.blocks}`);
  if (told?.eta_seconds != null) parts.push(`${span(told.eta_seconds)} left`);
  return parts.filter(Boolean).join(" · ");
}

export const errorText = (error) => [error.message, error.hint].filter(Boolean).join(" ");
