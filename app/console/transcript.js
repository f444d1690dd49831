// The messages on the screen: as few as it takes, and what is looked at does not move when others come or go.

import { el, visible } from "./dom.js";
import { blocksOf, buildBlock, dayOf } from "./blocks.js";
import { SAY } from "./strings.js";

const NODES_LIMIT = 800;
const AHEAD = 1.5; // screens
const AT_END_PX = 40;

export class Transcript {
  /** `onReach("older" | "newer")`: there should be more; `onMoved(isAtEnd)`; `onEdit(message)`, `onRetry(message)`. */
  constructor(scroller, actions) {
    this.scroller = scroller;
    this.actions = actions;
    this.list = el("ol", { class: "messages", data: { empty: SAY.welcome } });
    this.shown = new Map();
    this.isAtEnd = true;
    scroller.replaceChildren(this.list);
    scroller.onscroll = () => this.#look();
    this.resizing = new ResizeObserver(() => this.#stay());
    this.resizing.observe(this.list);
    this.resizing.observe(scroller);
  }

  close() {
    this.resizing.disconnect();
    this.scroller.onscroll = null;
  }

  /** Shows the run of messages, `pending` what is being sent behind it, and `live` the text of a reply so far. */
  show(history, pending, live) {
    this.#see();
    this.history = history;
    const places = this.#places();
    this.#patch(blocksOf(history.messages, history.hasNewer ? null : pending));
    this.#restore(places);
    this.say(live);
    this.#trim();
    this.#look();
  }

  /** Shows more of the reply that is being made. */
  say(live) {
    const text = live && this.shown.get(live.seq)?.element.querySelector(".live");
    const said = text && visible(live.text);
    if (!text || text.textContent === said) return;
    this.#see();
    if (said.startsWith(text.textContent)) text.append(said.slice(text.textContent.length));
    else text.textContent = said;
    text.normalize();
    this.#stay();
  }

  toEnd() {
    this.isAtEnd = true;
    this.#stay();
  }

  #patch(blocks) {
    const made = blocks.map((block) => {
      const known = this.shown.get(block.key);
      return { ...block, element: known?.mark === block.mark ? known.element : buildBlock(block, this.actions) };
    });
    const kept = new Set(made.map(({ element }) => element));
    for (const { element } of this.shown.values()) if (!kept.has(element)) element.remove();
    let next = this.list.firstElementChild;
    made.forEach((block, place) => {
      const { element } = block;
      const isNewDay = place ? dayOf(made[place - 1]) !== dayOf(block) : !this.history.hasOlder;
      if (isNewDay) element.dataset.day = dayOf(block);
      else delete element.dataset.day;
      element.classList.toggle("last", block === made.at(-1) && !this.history.hasNewer);
      if (element === next) next = next.nextElementSibling;
      else this.list.insertBefore(element, next);
    });
    this.shown = new Map(made.map((block) => [block.key, block]));
  }

  /** Where the messages stand that are seen. */
  #places() {
    if (this.isAtEnd) return [];
    const { top, bottom } = this.scroller.getBoundingClientRect();
    return [...this.shown.values()]
      .map(({ key, element }) => [key, topOf(element), element.getBoundingClientRect()])
      .filter(([, , rect]) => rect.bottom > top && rect.top < bottom);
  }

  #restore(places) {
    if (this.isAtEnd) return this.#stay();
    const [key, before] = places.find(([seen]) => this.shown.has(seen)) ?? [];
    if (key !== undefined) this.scroller.scrollTop += topOf(this.shown.get(key).element) - before;
  }

  #stay() {
    if (this.isAtEnd) this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  /** Lets go of what is farthest away, above or below, while there is too much. */
  #trim() {
    const { scroller, history } = this;
    const { top, bottom } = scroller.getBoundingClientRect();
    const blocks = [...this.shown.values()].map((block) => ({ ...block, rect: block.element.getBoundingClientRect() }));
    let nodes = this.list.getElementsByTagName("*").length;
    while (nodes > NODES_LIMIT && blocks.length > 1) {
      const above = top - blocks[0].rect.bottom;
      const below = blocks.at(-1).rect.top - bottom;
      if (Math.max(above, below) < scroller.clientHeight * AHEAD * 1.5) return;
      const { key, seq, element, rect } = above > below ? blocks.shift() : blocks.pop();
      const scrollTop = scroller.scrollTop - (above > below ? blocks[0].rect.top - rect.top : 0);
      nodes -= element.getElementsByTagName("*").length + 1;
      element.remove();
      this.shown.delete(key);
      scroller.scrollTop = scrollTop;
      if (above > below) history.cutOlder(blocks[0].seq);
      else if (seq) history.cutNewer(seq);
    }
  }

  /** Whether the end is looked at, which then stays in sight. */
  #see() {
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    const below = scrollHeight - scrollTop - clientHeight;
    if (this.history && clientHeight) this.isAtEnd = below < AT_END_PX && !this.history.hasNewer;
    return below;
  }

  #look() {
    const { scrollTop, clientHeight } = this.scroller;
    const below = this.#see();
    if (!this.history || !clientHeight) return;
    if (scrollTop < clientHeight * AHEAD && this.history.hasOlder) this.actions.onReach("older");
    if (below < clientHeight * AHEAD && this.history.hasNewer) this.actions.onReach("newer");
    this.actions.onMoved(this.isAtEnd);
  }
}

function topOf(element) {
  return element.firstElementChild.getBoundingClientRect().top;
}
