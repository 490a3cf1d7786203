// Pure: how a batch stands, in words, and what may be done about it.

import { clock, count } from "./words.js";

const OVER = new Set(["finished", "cancelled", "failed"]);

// The parts a batch is shown in, in the order of its bar. states: of the jobs that make one up.
export const PARTS = [
  { name: "done", states: ["succeeded"] },
  { name: "failed", states: ["failed", "expired"] },
  { name: "cancelled", states: ["cancelled"] },
  { name: "running", states: ["running"] },
  { name: "waiting", states: ["queued", "waiting"] },
];

export const isOver = (batch) => OVER.has(batch.state);

export function partsOf({ counts }) {
  return PARTS.map((part) => ({ ...part, count: part.states.reduce((sum, state) => sum + counts[state], 0) }));
}

// What a bar of it shows and says.
export function barOf(batch) {
  const { counts } = batch;
  const ended = counts.succeeded + counts.failed + counts.expired + counts.cancelled;
  return { ended, total: Math.max(1, counts.total), text: countsOf(batch) };
}

// `62 of 100 done · 3 failed · 2 running · 33 waiting`.
export function countsOf(batch) {
  const { total, rejected, skipped } = batch.counts;
  const [done, ...others] = partsOf(batch);
  const more = [...others, { name: "rejected", count: rejected }, { name: "left out", count: skipped }];
  const told = more.filter((part) => part.count).map((part) => `${part.count.toLocaleString("en-GB")} ${part.name}`);
  return [`${done.count.toLocaleString("en-GB")} of ${total.toLocaleString("en-GB")} done`, ...told].join(" · ");
}

// Its state in words, and the tone of them: good, busy, bad, or idle.
export function stateOf(batch, now = new Date()) {
  const { running, succeeded, total, rejected } = batch.counts;
  switch (batch.state) {
    case "preparing":
      return batch.error ? ["its source cannot be read yet, it tries again", "bad"] : ["takes its items in", "busy"];
    case "active":
      if (batch.open) return [active(batch, now), running ? "busy" : "idle"];
      return [batch.changes_at ? `waits for its window, opens ${clock(batch.changes_at, now)}` : "its window never opens", "idle"];
    case "paused":
      if (batch.reason === "item_failed") return ["stopped, because an item failed", "bad"];
      return [running ? `pausing, ${count(running, "job")} at the end of a block` : "paused", "idle"];
    case "cancelling":
      return [batch.error ? "could not be prepared" : "is being cancelled", "bad"];
    case "finished":
      if (!total && !rejected) return ["finished, there was nothing new", "good"];
      if (succeeded === total && !rejected) return ["finished", "good"];
      return [`finished, ${count(total - succeeded + rejected, "item")} without a result`, "bad"];
    case "failed":
      return ["could not be prepared", "bad"];
    default:
      return [batch.state, "idle"];
  }
}

function active(batch, now) {
  const doing = batch.counts.running ? "running" : "waits for a free worker";
  return batch.changes_at ? `${doing}, its window closes ${clock(batch.changes_at, now)}` : doing;
}

// Which verbs its state allows.
export function allowed(batch) {
  const { failed, expired } = batch.counts;
  return {
    pause: batch.state === "active",
    resume: batch.state === "paused",
    change: batch.state === "active" || batch.state === "paused",
    "retry-failed": failed + expired > 0 && ["active", "paused", "finished", "cancelled"].includes(batch.state),
    cancel: !isOver(batch) && batch.state !== "cancelling",
  };
}

// Where its items come from.
export function sourceOf({ source }) {
  const named = { rss: source.rss?.url, s3: source.s3?.pattern, manifest: "a manifest", items: "a list of items" };
  return named[source.type] ?? "";
}
