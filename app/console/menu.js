// A menu at a button, and a question with one line for its answer.

import { el } from "./dom.js";
import "./over.js";
import { SAY } from "./strings.js";

/** Opens a menu below a button: `items` are pairs of a label and `act(isPointed)`: by a pointer. */
export function openMenu(button, items) {
  const menu = el("div", { class: "menu", role: "menu", popover: "auto" });
  const entries = items.map(([label, act]) =>
    el("button", { type: "button", role: "menuitem", onclick: (event) => { menu.hidePopover(); act(event.detail > 0); } }, label));
  menu.append(...entries);
  menu.onkeydown = (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const place = entries.indexOf(document.activeElement) + step;
    entries.at(place % entries.length).focus();
  };
  menu.ontoggle = ({ newState }) => {
    button.ariaExpanded = String(newState === "open");
    if (newState === "closed") menu.remove();
  };
  button.closest("aside, main").append(menu);
  menu.showPopover();
  const at = button.getBoundingClientRect();
  const { offsetWidth: width, offsetHeight: height } = menu;
  menu.style.left = `${Math.max(8, Math.min(at.right - width, innerWidth - width - 8))}px`;
  menu.style.top = `${at.bottom + height + 8 > innerHeight ? Math.max(8, at.top - height - 4) : at.bottom + 4}px`;
  entries[0].focus();
}

/** Asks for a line of text; null: never mind. */
export function askLine(label, value, maxLength) {
  return new Promise((resolve) => {
    const field = el("input", { name: "line", value, maxLength, autocomplete: "off" });
    const dialog = el(
      "dialog", { class: "ask", onclose: () => { dialog.remove(); resolve(dialog.returnValue ? field.value.trim() : null); } },
      el("form", { method: "dialog" },
        el("label", {}, label, field),
        el("div", { class: "row" },
          el("button", { class: "main", value: "save" }, SAY.save),
          el("button", { type: "button", onclick: () => dialog.close("") }, SAY.cancel))),
    );
    document.body.append(dialog);
    dialog.showModal();
    field.select();
  });
}
