// <verbatim-chat base key user conversation>: a conversation that any page may embed by this one module.
//
// base          where Verbatim is; default: where this module came from
// key, user     who is asking; without a key whoever serves the page must say so
// conversation  an id, or the user's own name for one, which is made when it is not there; default: "default";
//               empty: a new conversation, made with the first message
//
// It says "verbatim-made" with the conversation that it made, "verbatim-problem" with the Problem that ended one.

import { Api } from "./api.js";
import { Composer } from "./composer.js";
import { el, iconButton } from "./dom.js";
import { SAY, sayProblem } from "./strings.js";

const LOADING_MS = 200;

const sheet = (name) => el("link", { rel: "stylesheet", href: new URL(name, import.meta.url).href });

class VerbatimChat extends HTMLElement {
  static observedAttributes = ["base", "key", "user", "conversation"];

  #api = null;
  #own = null; // made of the attributes
  #conversation = null;
  #transcript = null;
  #isDue = false;
  #opening = {}; // what was asked for last: {wanted, api}
  #spoken = { seq: 0, chars: 0 };

  constructor() {
    super();
    this.scroller = el("div", { class: "scroller", tabIndex: 0, role: "region", ariaLabel: SAY.messages });
    this.trouble = el("p", { class: "trouble", role: "alert", hidden: true });
    this.away = el("p", { class: "away", role: "status" });
    this.voice = el("p", { class: "unseen", role: "status" });
    this.newest = iconButton("newest", SAY.newest, () => this.#toNewest(), { hidden: true });
    this.again = el("button", { type: "button", class: "framed again", hidden: true }, SAY.askAgain);
    this.again.onclick = () => this.#try(this.#conversation.askAgain());
    this.composer = new Composer({
      onSend: (text, edited) => this.#say(text, edited),
      onStop: () => this.#try(this.#conversation.stop()),
      onEditLast: () => this.#editLast(),
    });
    this.attachShadow({ mode: "open" }).append(
      sheet("theme.css"), sheet("chat.css"), this.scroller,
      el("div", { class: "under" }, this.newest, this.again, this.trouble, this.away, this.composer.element, this.voice),
    );
  }

  connectedCallback() {
    this.#begin();
  }

  disconnectedCallback() {
    this.#opening = {};
    this.#close();
  }

  attributeChangedCallback(name) {
    if (name !== "conversation") this.#own = null;
    this.#begin();
  }

  focus() {
    this.composer.field.focus();
  }

  /** Who asks whom, in place of `base`, `key` and `user`. */
  set api(api) {
    this.#api = api;
    this.#begin();
  }

  /** The id of the conversation that is shown; null: none yet. */
  get conversationId() {
    return this.#conversation?.id ?? null;
  }

  /** Once for all attributes that change together. */
  #begin() {
    if (this.#isDue || !this.isConnected) return;
    this.#isDue = true;
    queueMicrotask(() => {
      this.#isDue = false;
      const wanted = this.getAttribute("conversation") ?? "default";
      const api = this.#api ?? (this.#own ??= this.#ownApi());
      const isHere = wanted && wanted === this.conversationId && api === this.#opening.api;
      if (this.isConnected && !isHere) this.#open({ wanted, api });
    });
  }

  #ownApi() {
    const base = this.hasAttribute("base") ? this.getAttribute("base") : new URL("..", import.meta.url).href;
    return new Api(base, this.getAttribute("key") ?? "", this.getAttribute("user") ?? "");
  }

  async #open(opening) {
    this.#close();
    this.#opening = opening;
    this.composer.edit(null);
    this.#complain(null);
    this.#show();
    if (!opening.wanted) return this.scroller.replaceChildren(el("p", { class: "welcome" }, SAY.welcome));
    const loading = setTimeout(() => this.scroller.replaceChildren(el("p", { class: "loading" }, SAY.loading)), LOADING_MS);
    try {
      await this.#start(opening);
      await this.#conversation?.open(opening.wanted);
    } catch (problem) {
      if (this.#opening === opening) this.#end(problem);
    } finally {
      clearTimeout(loading);
    }
  }

  /** Gets what shows a conversation: a page that greets does without. */
  async #start(opening) {
    const parts = [import("./conversation.js"), import("./transcript.js"), import("./markdown.js"), this.#dressed];
    const [{ Conversation }, { Transcript }, { textOf }] = await Promise.all(parts);
    if (this.#opening !== opening) return;
    Object.assign(this, { Transcript, textOf });
    const ifShown = (act) => (...given) => this.#opening === opening && act(...given);
    this.#conversation = new Conversation(opening.api, {
      onChange: ifShown(() => this.#show()),
      onText: ifShown(() => this.#hear()),
      onEnd: ifShown((problem) => this.#end(problem)),
      onMade: ifShown((made) => this.dispatchEvent(new CustomEvent("verbatim-made", { detail: made }))),
    });
  }

  get #dressed() {
    const link = sheet("messages.css");
    if (this.shadowRoot.querySelector(`link[href="${link.href}"]`)) return null;
    this.shadowRoot.prepend(link);
    return new Promise((resolve) => { link.onload = link.onerror = resolve; });
  }

  #close() {
    this.#conversation?.close();
    this.#transcript?.close();
    this.#conversation = this.#transcript = null;
  }

  #show() {
    const { history, pending, reply, live, isAway = false, isBusy = false } = this.#conversation ?? {};
    this.composer.isBusy = isBusy;
    this.classList.toggle("busy", isBusy);
    this.away.textContent = isAway ? SAY.offline : "";
    this.again.hidden = isBusy || !history || history.hasNewer || history.messages.at(-1)?.role !== "user";
    this.newest.hidden &&= true;
    if (!history) return;
    this.#transcript ??= new this.Transcript(this.scroller, {
      onReach: (side) => this.#reach(side),
      onMoved: (isAtEnd) => { this.newest.hidden = isAtEnd; },
      onEdit: (message) => this.#edit(message),
      onRetry: (message) => this.#try(this.#conversation.retry(message)),
    });
    const isHere = pending && history.messages.some(({ client_id }) => client_id === pending.client_id);
    this.#transcript.show(history, isHere ? null : pending, live);
    if (!reply && this.#spoken.seq) this.#speak(history.messages.find(({ seq }) => seq === this.#spoken.seq));
  }

  #end(problem) {
    const { wanted, api } = this.#opening;
    const again = el("button", { type: "button", class: "framed" }, SAY.tryAgain);
    const opening = { wanted: this.conversationId ?? wanted, api };
    again.onclick = () => this.#open(opening);
    this.#close();
    this.#opening = { wanted: "" };
    this.#show();
    this.scroller.replaceChildren(el("div", { class: "ended", role: "alert" }, el("p", {}, sayProblem(problem)), again));
    this.dispatchEvent(new CustomEvent("verbatim-problem", { detail: problem }));
  }

  async #reach(side) {
    if (this.isReaching) return;
    this.isReaching = true;
    const conversation = this.#conversation;
    await conversation.history[side]().catch(() => {});
    this.isReaching = false;
    if (this.#conversation === conversation) this.#show();
  }

  async #toNewest() {
    const { history } = this.#conversation;
    if (history.hasNewer) await this.#try(history.newest());
    this.#transcript.toEnd();
    this.#show();
    this.focus();
  }

  async #say(text, edited) {
    const opening = this.#opening;
    if (!opening.wanted && !this.#conversation) await this.#start(opening);
    const conversation = this.#conversation;
    const isReady = conversation?.history || !opening.wanted;
    if (!conversation?.history) this.scroller.replaceChildren();
    const isSaid = isReady && conversation && this.#try(conversation.say(text, edited));
    this.#transcript?.toEnd();
    if (!(await isSaid) && this.#opening === opening) this.composer.giveBack(text, edited);
  }

  /** What was said last, if the end is there to be seen. */
  #editLast() {
    const history = this.#conversation?.history;
    if (history && !history.hasNewer) this.#edit(history.messages.findLast(({ role }) => role === "user"));
  }

  #edit(message) {
    if (message && !this.#conversation.isBusy) this.composer.edit(message, this.textOf(message));
  }

  /** Whether it went well; what went wrong is said. */
  async #try(work) {
    this.#complain(null);
    try {
      await work;
      return true;
    } catch (problem) {
      if (problem.name !== "AbortError") this.#complain(problem);
      return false;
    }
  }

  #complain(problem) {
    this.trouble.hidden = !problem;
    this.trouble.textContent = problem ? sayProblem(problem) : "";
  }

  #hear() {
    const { live } = this.#conversation;
    this.#transcript?.say(live);
    if (this.#spoken.seq !== live.seq) this.#spoken = { seq: live.seq, chars: 0 };
    const sentences = /^[^]*[.!?:\n](?=\s)/.exec(live.text.slice(this.#spoken.chars));
    if (!sentences) return;
    this.#spoken.chars += sentences[0].length;
    this.voice.textContent = sentences[0];
  }

  /** The rest of a reply, to those who listen. */
  #speak(message) {
    if (message?.status === "in_progress") return;
    this.voice.textContent = message ? this.textOf(message).slice(this.#spoken.chars) : "";
    this.#spoken = { seq: 0, chars: 0 };
  }
}

customElements.define("verbatim-chat", VerbatimChat);
