// A word at the edge of the page, with something that can be done about it for a while.

import { el } from "./dom.js";

const SHOWN_MS = 10_000;
const place = el("div", { class: "toast", role: "status", hidden: true });
let timer;

/** Shows a text, and a button that does something once. */
export function toast(text, label, act) {
  const button = label && el("button", { type: "button", onclick: () => { hide(); act(); } }, label);
  place.replaceChildren(el("span", {}, text), ...(button ? [button] : []));
  place.hidden = false;
  document.body.append(place);
  wait();
}

function hide() {
  place.hidden = true;
}

function wait() {
  clearTimeout(timer);
  timer = setTimeout(hide, SHOWN_MS);
}

// Who points at it or is in it still reads.
for (const [name, then] of [["pointerenter", () => clearTimeout(timer)], ["focusin", () => clearTimeout(timer)], ["pointerleave", wait], ["focusout", wait]]) {
  place.addEventListener(name, then);
}
