// The page: a key, a form, a list of jobs that is brought up to date now and then.

import { call, key, takeKeyFromAddress, upload } from "./client.js";
import { JobCard } from "./job.js";

const PAGE = 20;
const BUSY_MS = 1000;
const IDLE_MS = 5000;

const $ = (id) => document.getElementById(id);
const cards = new Map();
let engines = [];
let cursor = null;
let timer = 0;
let round = 0;

function complain(error) {
  if (error.code === "unauthenticated") return leave("That key is not known here, or was revoked.");
  $("notice").textContent = error.message;
  $("notice").hidden = false;
}

function leave(message = "") {
  clearTimeout(timer);
  round += 1;
  key.forget();
  cards.clear();
  $("jobs").replaceChildren();
  $("desk").hidden = $("leave").hidden = true;
  $("entrance").hidden = false;
  $("status").textContent = "";
  $("notice").textContent = message;
  $("notice").hidden = !message;
  $("key").value = "";
  $("key").focus();
}

async function enter() {
  try {
    engines = (await call("GET", "/v1/engines")).items;
  } catch (error) {
    $("entrance").hidden = false;
    return complain(error);
  }
  $("entrance").hidden = $("notice").hidden = true;
  $("desk").hidden = $("leave").hidden = false;
  $("engine").replaceChildren(
    ...engines
      .filter((engine) => engine.kind === "separation")
      .map((engine) => new Option(engine.ready ? engine.name : `${engine.name} (not ready)`, engine.name, false, engine.default)),
  );
  describeEngine();
  await refresh();
}

function describeEngine() {
  const engine = engines.find((candidate) => candidate.name === $("engine").value);
  if (!engine) return;
  const parts = [engine.summary + "."];
  if (!engine.ready) parts.push(`Not ready: ${engine.missing}. ${engine.hint ?? ""}`);
  $("engine-hint").textContent = parts.join(" ");
  $("words").replaceChildren(...(engine.vocabulary ?? []).map((word) => new Option(word)));
}

async function refresh() {
  clearTimeout(timer);
  const mine = ++round;
  let wait = IDLE_MS;
  try {
    const [page, queues, workers] = await Promise.all([
      call("GET", `/v1/jobs?limit=${PAGE}`),
      call("GET", "/v1/queues"),
      call("GET", "/v1/workers"),
    ]);
    if (mine !== round) return;
    show(page.items);
    if (cards.size <= PAGE) cursor = page.next;
    await catchUp(new Set(page.items.map((job) => job.id)));
    if (mine !== round) return;
    surroundings(queues, workers.items);
    if ([...cards.values()].some((card) => !card.ended)) wait = BUSY_MS;
    $("notice").hidden = true;
  } catch (error) {
    if (mine !== round) return;
    complain(error);
    if (!key.get()) return;
  }
  // A tab that nobody sees asks rarely.
  timer = setTimeout(refresh, document.hidden ? 10 * wait : wait);
}

function show(jobs) {
  for (const job of jobs) {
    const known = cards.get(job.id);
    if (known) {
      known.update(job);
      continue;
    }
    const card = new JobCard(job, complain);
    cards.set(job.id, card);
    // Ids sort by time, newest first on the page.
    const next = [...cards.keys()].filter((id) => id < job.id).sort().at(-1);
    $("jobs").insertBefore(card.element, next ? cards.get(next).element : null);
  }
  $("empty").hidden = cards.size > 0;
  $("older").hidden = !cursor;
}

// Jobs further down the list that have not ended are asked for one by one; there are rarely any.
async function catchUp(fresh) {
  const open = [...cards.values()].filter((card) => !card.ended && !fresh.has(card.job.id)).slice(0, 5);
  for (const card of open) card.update(await call("GET", `/v1/jobs/${card.job.id}`));
}

function surroundings(queues, workers) {
  const alive = workers.filter((worker) => worker.alive).length;
  const sum = (state) => queues.lanes.reduce((total, lane) => total + lane[state], 0);
  const workersText = alive === 1 ? "1 worker" : `${alive} workers`;
  $("status").textContent = `${workersText} · ${sum("running")} running · ${sum("waiting") + sum("queued") + sum("later")} waiting`;
  $("lanes").replaceChildren(
    ...queues.lanes.map((lane) => {
      const row = document.createElement("tr");
      for (const value of [lane.lane, lane.waiting + lane.later, lane.queued, lane.running, lane.workers]) row.insertCell().textContent = value;
      return row;
    }),
  );
  $("workers").replaceChildren(
    ...workers.map((worker) => {
      const parts = [worker.name, worker.alive ? "alive" : "gone"];
      if (worker.control && worker.control !== "run") parts.push(worker.control);
      if (worker.job) parts.push(worker.job);
      return Object.assign(document.createElement("li"), { textContent: parts.join(" · ") });
    }),
  );
}

async function submit(event) {
  event.preventDefault();
  const file = $("file").files[0];
  $("send").disabled = true;
  $("sending").hidden = false;
  $("notice").hidden = true;
  try {
    const sent = await upload(file, (share) => ($("sending").value = share));
    const request = {
      kind: "separation",
      engine: $("engine").value,
      input: { upload: sent.id },
      params: { prompts: [$("prompt").value], output: { format: $("format").value } },
      metadata: { filename: file.name.slice(0, 512) },
    };
    const job = await call("POST", "/v1/jobs", request, { "Idempotency-Key": crypto.randomUUID?.() ?? sent.id });
    show([job]);
    $("file").value = "";
    await refresh();
  } catch (error) {
    complain(error);
  } finally {
    $("send").disabled = false;
    $("sending").hidden = true;
    $("sending").value = 0;
  }
}

async function older() {
  try {
    const page = await call("GET", `/v1/jobs?limit=${PAGE}&cursor=${encodeURIComponent(cursor)}`);
    cursor = page.next;
    show(page.items);
  } catch (error) {
    complain(error);
  }
}

$("enter").onsubmit = (event) => {
  event.preventDefault();
  key.set($("key").value.trim());
  enter();
};
$("leave").onclick = () => leave();
$("new").onsubmit = submit;
$("engine").onchange = describeEngine;
$("older").onclick = older;
$("jobs").addEventListener("deleted", (event) => {
  cards.get(event.detail)?.element.remove();
  cards.delete(event.detail);
  $("empty").hidden = cards.size > 0;
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && key.get()) refresh();
});

takeKeyFromAddress();
if (key.get()) enter();
else leave();
