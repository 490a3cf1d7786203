// Bars: a batch made of its parts, and a job of its blocks.

import { element } from "./dom.js";

// More cells than this would be lines.
const MOST_CELLS = 24;

// parts: [{name, count}]; widths move with the counts.
export function showParts(bar, parts, { ended, total, text }) {
  if (!bar.childElementCount) {
    bar.replaceChildren(...parts.map(({ name }) => element("span", { className: `part ${name}` })));
  }
  parts.forEach(({ count }, i) => {
    bar.children[i].style.flexGrow = count;
    bar.children[i].hidden = count === 0;
  });
  speak(bar, ended, total, text);
}

// block: how many are done, of `blocks`; the next one is under way where the job runs.
export function showBlocks(bar, { block, blocks }, running) {
  const cells = Math.min(blocks, MOST_CELLS);
  const done = Math.floor((cells * (block ?? 0)) / blocks);
  if (bar.childElementCount !== cells) bar.replaceChildren(...Array.from({ length: cells }, () => element("span")));
  [...bar.children].forEach((cell, i) => {
    cell.className = i < done ? "done" : i === done && running ? "running" : "";
  });
  speak(bar, block ?? 0, blocks, `block ${block ?? 0} of ${blocks}`);
}

function speak(bar, now, most, text) {
  bar.setAttribute("aria-valuemax", most);
  bar.setAttribute("aria-valuenow", now);
  bar.setAttribute("aria-valuetext", text);
}
