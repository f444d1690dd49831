// The list on the page: of all its rows only those that are seen, and a few around them.

import { el, iconButton, visible } from "./dom.js";
import { SAY, sayDay } from "./strings.js";

const AROUND = 6;
const ROW_REM = 2.25;
const DAY_REM = 2.5;

export class List {
  /** `onOpen(id, isPointed)`: by a pointer; `onMenu(button, conversation)`, `onMore()`: the end is near. */
  constructor(actions) {
    this.actions = actions;
    this.rows = [];
    this.shown = new Map();
    this.openId = null;
    this.words = "";
    this.search = el("input", {
      type: "search", placeholder: SAY.search, ariaLabel: SAY.search, autocomplete: "off",
      oninput: () => { this.words = this.search.value.trim().toLowerCase(); this.scroller.scrollTop = 0; this.show(this.shelf); },
    });
    this.list = el("ul", { class: "rows" });
    this.note = el("p", { class: "note", role: "status" });
    this.scroller = el("div", { class: "scroller", onscroll: () => this.#draw() }, this.list, this.note);
    this.element = el("nav", { ariaLabel: SAY.conversations, onkeydown: (event) => this.#onKey(event) }, this.search, this.scroller);
    new ResizeObserver(() => this.#draw()).observe(this.scroller);
  }

  show(shelf) {
    const { rows, held } = this;
    this.shelf = shelf;
    const isFound = (one) => shelf.nameOf(one).toLowerCase().includes(this.words);
    const found = this.words ? shelf.conversations.filter(isFound) : shelf.conversations;
    const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
    this.rows = [];
    let top = 0, group;
    const add = (row, height) => { this.rows.push({ ...row, top, height }); top += height; };
    for (const conversation of found) {
      const { id, dayMs, pinned_at } = conversation;
      const of = pinned_at ? SAY.pinned : dayMs;
      if (of !== group) {
        const day = pinned_at ? of : sayDay(dayMs);
        add({ key: day, day }, DAY_REM * rem);
        group = of;
      }
      add({ key: id, conversation }, ROW_REM * rem);
    }
    this.list.style.height = `${top}px`;
    const nothing = this.words ? SAY.nothingFound : SAY.noConversations;
    this.note.textContent = shelf.hasMore ? SAY.loading : found.length ? "" : nothing;
    this.#draw();
    if (held && !this.#row(held)) this.#leave(rows, held);
  }

  /** The id of the row that has the focus. */
  get held() {
    return document.activeElement?.closest?.(".rows > .row")?.dataset.id;
  }

  #row(id) {
    return this.rows.find(({ key }) => key === id);
  }

  /** From a row that is gone to the nearest. */
  #leave(rows, id) {
    const place = rows.findIndex(({ key }) => key === id);
    const near = [...rows.slice(place), ...rows.slice(0, place).reverse()].find(({ key, day }) => !day && this.#row(key));
    if (near) this.reach(near.key);
    else this.search.focus();
  }

  /** Has the focus on a row, if it is here. */
  reach(id) {
    const row = this.#row(id);
    if (!row) return;
    const { scroller } = this;
    scroller.scrollTop = Math.min(row.top, Math.max(scroller.scrollTop, row.top + row.height - scroller.clientHeight));
    this.#draw();
    this.shown.get(id).link.focus({ preventScroll: true });
  }

  /** Marks the conversation that is open. */
  mark(id) {
    this.openId = id;
    for (const [key, { link }] of this.shown) this.#markLink(link, key);
  }

  #markLink(link, key) {
    if (link) link.ariaCurrent = key === this.openId ? "page" : null;
  }

  #draw() {
    const { scrollTop, clientHeight } = this.scroller;
    if (!this.shelf || !clientHeight) return;
    const first = Math.max(0, this.#placeAt(scrollTop) - AROUND);
    const seen = this.rows.slice(first, this.#placeAt(scrollTop + clientHeight) + AROUND);
    const { activeElement } = document;
    const focused = this.#row(this.held);
    if (focused && !seen.includes(focused)) seen.splice(focused.top < seen[0].top ? 0 : seen.length, 0, focused);
    const kept = new Set(seen.map(({ key }) => key));
    for (const [key, { element }] of this.shown) {
      if (kept.has(key)) continue;
      element.remove();
      this.shown.delete(key);
    }
    let next = this.list.firstElementChild;
    for (const row of seen) {
      const { element } = this.#place(row);
      if (element === next) next = next.nextElementSibling;
      else this.list.insertBefore(element, next);
    }
    if (focused) activeElement.focus({ preventScroll: true }); // which it loses where it is moved
    if (scrollTop + 2 * clientHeight > this.scroller.scrollHeight && this.shelf.hasMore) this.actions.onMore();
  }

  /** The row at a height. */
  #placeAt(top) {
    let low = 0, high = this.rows.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.rows[middle].top + this.rows[middle].height > top) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  #place(row) {
    const shown = this.shown.get(row.key) ?? (row.day ? this.#newDay(row) : this.#newRow(row));
    this.shown.set(row.key, shown);
    shown.element.style.translate = `0 ${row.top}px`;
    if (row.day) return shown;
    this.shelf.lookUp(row.conversation);
    shown.conversation = row.conversation;
    const name = visible(this.shelf.nameOf(row.conversation)) || (row.conversation.message_count ? SAY.untitled : SAY.empty);
    if (shown.link.textContent !== name) shown.link.textContent = shown.link.title = name;
    shown.more.ariaLabel = SAY.moreFor(name);
    return shown;
  }

  #newDay({ day }) {
    return { element: el("li", { class: "day" }, el("h2", {}, day)) };
  }

  #newRow({ key }) {
    const shown = {};
    shown.link = el("a", { href: `/c/${key}`, onclick: (event) => this.#onClick(event, key) });
    shown.more = iconButton("more", "", () => this.actions.onMenu(shown.more, shown.conversation), { ariaHasPopup: "menu", title: "" });
    shown.element = el("li", { class: "row", data: { id: key } }, shown.link, shown.more);
    this.#markLink(shown.link, key);
    return shown;
  }

  #onClick(event, id) {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    this.actions.onOpen(id, event.detail > 0);
  }

  #onKey(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    let place = this.rows.indexOf(this.#row(this.held));
    if (place < 0 && step < 0) return;
    do place += step; while (this.rows[place]?.day);
    const row = this.rows[place];
    if (!row) return step < 0 && this.search.focus();
    this.reach(row.key);
  }
}
