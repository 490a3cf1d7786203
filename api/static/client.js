// The API as this page uses it. The key lives in this tab's session and goes nowhere but into the Authorization header.

const STORED = "nightshift-key";

// places: what is wrong with which member of the request, [{pointer, detail}].
export class Refused extends Error {
  constructor(problem) {
    super([problem.detail, problem.hint].filter(Boolean).join(" "));
    this.code = problem.code;
    this.places = problem.errors ?? (problem.pointer ? [{ pointer: problem.pointer, detail: this.message }] : []);
  }
}

export const key = {
  get: () => sessionStorage.getItem(STORED),
  set: (value) => sessionStorage.setItem(STORED, value),
  forget: () => sessionStorage.removeItem(STORED),
};

// A key in the fragment never reaches a server; it is taken out of the address at once.
export function takeKeyFromAddress() {
  const found = new URLSearchParams(location.hash.slice(1)).get("key");
  if (!found) return;
  key.set(found);
  history.replaceState(null, "", location.pathname + location.search);
}

// For an Idempotency-Key. randomUUID is only there on https and on this machine itself.
export function unique() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function answered(response) {
  if (response.status === 204) return null;
  let body = null;
  try {
    body = await response.json();
  } catch {
    // A proxy's page, or a connection that broke: the status must do.
  }
  if (response.ok && body !== null) return body;
  throw new Refused(body?.code ? body : { code: "unavailable", detail: `The service answered ${response.status}.` });
}

async function send(method, path, body, headers = {}) {
  const sent = { Authorization: `Bearer ${key.get()}`, ...headers };
  if (body !== undefined) sent["Content-Type"] = "application/json";
  try {
    return await fetch(path, { method, headers: sent, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch {
    throw new Refused({ code: "unavailable", detail: "The service cannot be reached." });
  }
}

export async function call(method, path, body, headers) {
  return answered(await send(method, path, body, headers));
}

const broke = () => new Refused({ code: "unavailable", detail: "The connection broke." });

// A link cannot carry the key: the file is fetched, and then saved from here.
export async function save(path, filename) {
  const response = await send("GET", path);
  if (!response.ok) return answered(response);
  const blob = await response.blob().catch(() => Promise.reject(broke()));
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: filename });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

// The first objects of a file of JSON lines; the rest of it is not fetched.
export async function firstLines(path, most) {
  const response = await send("GET", path);
  if (!response.ok) return answered(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      text += value ?? "";
      const lines = text.split("\n").slice(0, -1);
      if (done || lines.length >= most) return lines.slice(0, most).map((line) => JSON.parse(line));
    }
  } catch {
    throw broke();
  } finally {
    reader.cancel().catch(() => {});
  }
}

// XMLHttpRequest, because fetch does not tell how much of a body has gone out.
export function upload(file, onProgress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", `/v1/uploads?filename=${encodeURIComponent(file.name)}`);
    request.setRequestHeader("Authorization", `Bearer ${key.get()}`);
    const media = /^(audio|video|image)\/[\w.+-]+$/.test(file.type) ? file.type : "application/octet-stream";
    request.setRequestHeader("Content-Type", media);
    request.upload.onprogress = (event) => onProgress(event.loaded / event.total);
    request.onerror = () => reject(broke());
    request.onload = () =>
      answered(new Response(request.status === 204 ? null : request.responseText, { status: request.status })).then(resolve, reject);
    request.send(file);
  });
}
