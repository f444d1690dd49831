// Words at the edge of the page, each with something that can be done about it for a while.

import { el } from "./dom.js";
import "./over.js";

const SHOWN_MS = 10_000;
const place = el("div", { class: "toasts", role: "status" });

/** Shows a text, and a button that does something once; the same text without one is shown once. */
export function toast(text, label, act) {
  let timer;
  const hide = () => { clearTimeout(timer); shown.remove(); };
  const wait = () => { clearTimeout(timer); timer = setTimeout(hide, SHOWN_MS); };
  const hold = () => clearTimeout(timer); // who points at it or is in it still reads
  const button = label && el("button", { type: "button", onclick: () => { hide(); act(); } }, label);
  const shown = el(
    "div", { class: "toast", onpointerenter: hold, onpointerleave: wait }, el("span", {}, text), ...(button ? [button] : []),
  );
  shown.addEventListener("focusin", hold);
  shown.addEventListener("focusout", wait);
  for (const other of place.children) if (!label && other.textContent === text) other.remove();
  place.append(shown);
  document.body.append(place);
  wait();
}
