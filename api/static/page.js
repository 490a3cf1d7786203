// The page: a key, and the view that its address names.

import { BatchView } from "./batch.js";
import { BatchesView } from "./batches.js";
import { call, key, takeKeyFromAddress } from "./client.js";
import { JobView } from "./job.js";
import { JobsView } from "./jobs.js";
import { Notice } from "./notice.js";
import { routeOf } from "./route.js";
import { StartView } from "./start.js";

const VIEWS = { jobs: JobsView, job: JobView, batches: BatchesView, batch: BatchView, start: StartView };

const $ = (id) => document.getElementById(id);
const notice = new Notice($("notice"), () => leave("That key is not known here, or was revoked."));
let engines = null;
let view = null;

function leave(message = "") {
  key.forget();
  engines = null;
  close();
  $("views").hidden = $("leave").hidden = true;
  $("entrance").hidden = false;
  notice.clear(message);
  $("key").value = "";
  $("key").focus();
}

async function enter() {
  try {
    engines = (await call("GET", "/v1/engines")).items;
  } catch (error) {
    $("entrance").hidden = false;
    return notice.complain(error);
  }
  $("entrance").hidden = true;
  $("views").hidden = $("leave").hidden = false;
  open();
}

function close() {
  view?.close();
  view = null;
  $("view").replaceChildren();
  $("status").textContent = "";
}

function open() {
  close();
  notice.clear();
  const route = routeOf(location.hash);
  view = new VIEWS[route.view](route, { engines, notice, status: $("status"), title });
  $("view").replaceChildren(view.element);
  const part = { jobs: "jobs", job: "jobs" }[route.view] ?? "batches";
  for (const link of $("views").children) {
    if (link.dataset.part === part) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  view.open();
}

function title(text) {
  document.title = text ? `${text} · Nightshift` : "Nightshift";
}

$("enter").onsubmit = (event) => {
  event.preventDefault();
  key.set($("key").value.trim());
  enter();
};
$("leave").onclick = () => leave();
addEventListener("hashchange", () => {
  if (!engines) return;
  open();
  // Whoever reads by ear or walks by keyboard is taken to where the new view begins.
  $("view").querySelector("h2")?.focus();
  scrollTo(0, 0);
});

takeKeyFromAddress();
if (key.get()) enter();
else leave();
