// The API as this page uses it. The key lives in this tab's session and goes nowhere but into the Authorization header.

const STORED = "nightshift-key";

export class Refused extends Error {
  constructor(problem) {
    super([problem.detail, problem.hint].filter(Boolean).join(" "));
    this.code = problem.code;
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

export async function call(method, path, body, headers = {}) {
  const sent = { Authorization: `Bearer ${key.get()}`, ...headers };
  if (body !== undefined) sent["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers: sent, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch {
    throw new Refused({ code: "unavailable", detail: "The service cannot be reached." });
  }
  return answered(response);
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
    request.onerror = () => reject(new Refused({ code: "unavailable", detail: "The connection broke." }));
    request.onload = () =>
      answered(new Response(request.status === 204 ? null : request.responseText, { status: request.status })).then(resolve, reject);
    request.send(file);
  });
}
