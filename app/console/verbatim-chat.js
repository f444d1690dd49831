// <verbatim-chat base key user conversation>: a conversation that any page may embed by this one module.
//
// base          where Verbatim is; default: where this module came from
// key, user     who is asking; without a key whoever serves the page must say so
// conversation  an id, or the user's own name for one, which is made when it is not there; default: "default";
//               empty: a new conversation, made with the first message
//
// It says "verbatim-made" with the conversation that it made, "verbatim-problem" with the Problem that ended one.

import { Api, newName } from "./api.js";
import { Composer } from "./composer.js";
import { el, iconButton } from "./dom.js";
import { Drafts, draftOf } from "./drafts.js";
import { SAY, sayProblem } from "./strings.js";

const LOADING_MS = 200;

const sheet = (name) => el("link", { rel: "stylesheet", href: new URL(name, import.meta.url).href });

class VerbatimChat extends HTMLElement {
  static observedAttributes = ["base", "key", "user", "conversation"];

  #api = null;
  #own = null; // made of the attributes
  #talk = null;
  #isDue = false;
  #opening = {}; // what was asked for last: {wanted, api}
  #opened = null; // what is said before waits for it
  #drafts = new Drafts("");

  constructor() {
    super();
    this.scroller = el("div", { class: "scroller", tabIndex: 0, role: "region", ariaLabel: SAY.messages });
    this.trouble = el("p", { class: "trouble", role: "alert", hidden: true });
    this.away = el("p", { class: "away", role: "status" });
    this.voice = el("p", { class: "unseen", role: "status" });
    this.newest = iconButton("newest", SAY.newest, () => this.#talk.toNewest(), { hidden: true });
    this.again = el(
      "button", { type: "button", class: "framed again", hidden: true, onclick: () => this.#talk.askAgain() }, SAY.askAgain,
    );
    this.composer = new Composer({
      onSend: (text, edited) => this.#say(text, edited),
      onWrite: (text, ...of) => { this.#drafts.written = text || of[0] ? draftOf(text, ...of) : null; },
      onStop: () => this.#talk.stop(),
      onEditLast: () => this.#talk?.editLast(),
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
    return this.#talk?.id ?? null;
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
    this.#recall();
    this.trouble.hidden = true;
    if (!opening.wanted) return this.scroller.replaceChildren(el("p", { class: "welcome" }, SAY.welcome));
    const loading = setTimeout(() => this.scroller.replaceChildren(el("p", { class: "loading" }, SAY.loading)), LOADING_MS);
    try {
      this.#opened = this.#start(opening).then((talk) => talk?.open(opening.wanted));
      await this.#opened;
    } catch (problem) {
      if (this.#opening === opening) this.#end(problem);
    } finally {
      clearTimeout(loading);
    }
  }

  /** Gets what shows a conversation: a page that greets does without. */
  async #start(opening) {
    const [{ Talk }] = await Promise.all([
      import("./talk.js"), import("./conversation.js"), import("./transcript.js"), this.#dressed]);
    if (this.#opening !== opening) return null;
    return (this.#talk = new Talk(this, {
      api: opening.api, drafts: this.#drafts,
      onMade: (made) => this.dispatchEvent(new CustomEvent("verbatim-made", { detail: made })),
      onEnd: (problem) => this.#end(problem),
    }));
  }

  get #dressed() {
    const link = sheet("messages.css");
    if (this.shadowRoot.querySelector(`link[href="${link.href}"]`)) return null;
    this.shadowRoot.prepend(link);
    return new Promise((resolve) => { link.onload = link.onerror = resolve; });
  }

  #close() {
    this.#talk?.close();
    this.#talk = null;
  }

  #end(problem) {
    const { wanted, api } = this.#opening;
    const again = el("button", { type: "button", class: "framed" }, SAY.tryAgain);
    const opening = { wanted: this.conversationId ?? wanted, api };
    again.onclick = () => this.#open(opening);
    this.#close();
    this.#opening = { wanted: "", api };
    this.scroller.replaceChildren(el("div", { class: "ended", role: "alert" }, el("p", {}, sayProblem(problem)), again));
    this.dispatchEvent(new CustomEvent("verbatim-problem", { detail: problem }));
  }

  /** Puts back what was written here, and what was on its way when the page or the conversation was left. */
  #recall() {
    this.#drafts = new Drafts(this.#opening.wanted);
    const { written, sent } = this.#drafts;
    this.composer.put(written?.text ?? "", written?.edited, written?.aside);
    if (!sent || sent.isBack) return;
    this.#drafts.sent = { ...sent, isBack: true };
    this.composer.giveBack(sent.text, sent.edited);
  }

  async #say(text, edited) {
    const opening = this.#opening;
    const drafts = this.#drafts;
    const sent = { ...draftOf(text, edited), clientId: newName() };
    drafts.sent = sent;
    if (opening.wanted) await this.#opened.catch(() => {});
    else if (!this.#talk) await this.#start(opening);
    if (this.#opening !== opening) return; // it is put back when the conversation is opened again
    if (!this.#talk.isOpen) this.scroller.replaceChildren();
    await this.#talk.say(sent);
  }
}

customElements.define("verbatim-chat", VerbatimChat);
