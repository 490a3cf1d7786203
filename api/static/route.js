// Pure: the views of this page and their addresses, which are fragments: `#/batches/bat_…/failed`.

const ROUTES = [
  [/^#\/batches$/, () => ({ view: "batches" })],
  [/^#\/batches\/new$/, () => ({ view: "start" })],
  [/^#\/batches\/(bat_\w+)(?:\/(\w+))?$/, ([, id, part]) => ({ view: "batch", id, part: part ?? "all" })],
  [/^#\/jobs\/(job_\w+)$/, ([, id]) => ({ view: "job", id })],
];

// What an address does not name is the list of jobs.
export function routeOf(fragment) {
  for (const [pattern, read] of ROUTES) {
    const found = pattern.exec(fragment);
    if (found) return read(found);
  }
  return { view: "jobs" };
}

export const toBatch = (id, part = "all") => `#/batches/${id}${part === "all" ? "" : `/${part}`}`;
export const toJob = (id) => `#/jobs/${id}`;
