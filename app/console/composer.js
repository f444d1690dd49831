// Where a person writes: Enter sends, the arrow up edits what was said last, Escape stops.

import { el, iconButton } from "./dom.js";
import { joined } from "./drafts.js";
import { SAY } from "./strings.js";

const isTouched = matchMedia("(pointer: coarse)");

export class Composer {
  /** `onSend(text, edited)`, whether it is taken, edited the message in whose place it is said; `onWrite(text, edited, aside)`; `onStop()`; `onEditLast()`. */
  constructor({ onSend, onWrite, onStop, onEditLast }) {
    Object.assign(this, { onSend, onWrite });
    this.edited = null;
    this.field = el("textarea", {
      rows: 1, placeholder: SAY.say, ariaLabel: SAY.message, oninput: () => this.#changed(),
      onkeydown: (event) => this.#onKey(event, onStop, onEditLast),
    });
    this.send = iconButton("send main", SAY.send, undefined, { type: "submit" });
    this.stop = iconButton("stop main", SAY.stop, onStop, { hidden: true });
    this.note = el(
      "p", { class: "editing", hidden: true }, SAY.editing, " ",
      el("button", { type: "button", onclick: () => this.edit(null) }, SAY.cancel),
    );
    this.element = el(
      "form", { class: "composer", onsubmit: (event) => { event.preventDefault(); this.say(); } },
      this.note, el("div", { class: "field" }, this.field, this.send, this.stop),
    );
    this.#fit();
  }

  /** Whether something is under way that can be stopped. */
  set isBusy(isBusy) {
    this.stop.hidden = !isBusy;
    this.send.hidden = isBusy;
  }

  /** Has a text to be said, in place of a message or of none; aside, what was being written before that is edited. */
  put(text, edited = null, aside = "") {
    Object.assign(this, { edited, aside });
    this.note.hidden = !edited?.seq;
    this.field.value = text;
    this.#changed();
  }

  /** Takes a message to be said otherwise; null: none. */
  edit(message, text = "") {
    const aside = this.edited ? this.aside : this.field.value;
    this.put(message ? text : aside, message, message ? aside : "");
    this.field.focus();
  }

  /** Gives back what could not be sent, before what is written by now. */
  giveBack(text, edited) {
    const { value } = this.field;
    this.put(edited ? text : joined(text, value), edited, edited ? value : "");
  }

  say() {
    const text = this.field.value;
    const { edited, aside } = this;
    if (text.trim() && !this.send.hidden && this.onSend(text, edited)) this.put(aside);
  }

  #onKey(event, onStop, onEditLast) {
    if (event.isComposing) return;
    if (event.key === "Enter" && !event.shiftKey && !isTouched.matches) {
      event.preventDefault();
      this.say();
    } else if (event.key === "ArrowUp" && !this.field.value) {
      event.preventDefault();
      onEditLast();
    } else if (event.key === "Escape") {
      if (this.edited) this.edit(null);
      else if (!this.stop.hidden) onStop();
    }
  }

  #changed() {
    this.#fit();
    this.onWrite(this.field.value, this.edited, this.aside);
  }

  #fit() {
    this.send.disabled = !this.field.value.trim();
    if (CSS.supports("field-sizing", "content")) return;
    this.field.style.height = "auto";
    this.field.style.height = `${this.field.scrollHeight}px`;
  }
}
