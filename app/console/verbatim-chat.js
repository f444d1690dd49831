// <verbatim-chat base key user conversation>: a conversation that any page may embed by this one module.
//
// base          where Verbatim is; default: where this module came from
// key, user     who is asking; without a key whoever serves the page must say so
// conversation  an id, or the user's own name for one, which is made when it is not there; default: "default";
//               empty: a new conversation, made with the first message
//
// It says "verbatim-made" with the conversation that it made, "verbatim-problem" with the Problem that ended one.

import { Api, newName, Problem } from "./api.js";
import { Composer } from "./composer.js";
import { el, iconButton } from "./dom.js";
import { Drafts, draftOf } from "./drafts.js";
import { SAY, sayProblem } from "./strings.js";

const LOADING_MS = 200;

const sheet = (name, given) => el("link", { rel: "stylesheet", href: new URL(name, import.meta.url).href, ...given });

class VerbatimChat extends HTMLElement {
  static observedAttributes = ["base", "key", "user", "conversation"];

  #api = null;
  #own = null; // made of the attributes
  #talk = null;
  #isDue = false;
  #opening = {}; // what was asked for last: {wanted, api}; isRead: it is here; isOver: it could not be read on
  #due = null; // what is to be sent once that is read
  #dressed = null; // for messages
  #torn = null; // a module did not come, which a browser tries once in a page
  drafts = new Drafts("");

  constructor() {
    super();
    this.scroller = el("div", { class: "scroller", tabIndex: 0, role: "region", ariaLabel: SAY.messages });
    this.trouble = el("p", { class: "trouble", role: "alert", hidden: true });
    this.away = el("p", { class: "away", role: "status" });
    this.voice = el("p", { class: "unseen", role: "status" });
    this.newest = iconButton("newest", SAY.newest, () => this.#talk.toNewest(), { hidden: true });
    this.again = el("button", { class: "framed again", hidden: true, onclick: () => this.#talk.askAgain() }, SAY.askAgain);
    this.composer = new Composer({
      onSend: (text, edited) => this.#send(text, edited),
      onWrite: (text, ...of) => { this.drafts.written = text || of[0] ? draftOf(text, ...of) : null; },
      onStop: () => this.#talk?.stop(),
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

  #open(opening) {
    this.#close();
    this.#opening = opening;
    this.#recall();
    return this.#read();
  }

  async #read(opening = this.#opening) {
    this.#opening = opening;
    this.trouble.hidden = true;
    opening.isRead = !opening.wanted;
    if (!opening.wanted) return this.scroller.replaceChildren(el("p", { class: "welcome" }, SAY.welcome));
    const loading = setTimeout(() => this.scroller.replaceChildren(el("p", { class: "loading" }, SAY.loading)), LOADING_MS);
    try {
      await (await this.#start(opening))?.open(opening.wanted);
      if (this.#opening !== opening) return;
      opening.isRead = true;
      if (this.#due && this.#due === this.composer.field.value) this.composer.say();
    } catch (problem) {
      if (this.#opening === opening) this.#end(problem);
    } finally {
      clearTimeout(loading);
    }
  }

  /** Gets what shows a conversation: a page that greets does without. */
  async #start(opening) {
    const [{ Talk }] = await Promise.all([
      import("./talk.js"), import("./conversation.js"), import("./transcript.js"), (this.#dressed ??= this.#dress()),
    ]).catch(() => { throw this.#torn = new Problem("offline"); });
    if (this.#opening !== opening) return null;
    return (this.#talk = new Talk(this, {
      api: opening.api,
      onMade: (made) => {
        opening.wanted = made.id;
        this.dispatchEvent(new CustomEvent("verbatim-made", { detail: made }));
      },
      onEnd: (problem) => this.#end(problem),
    }));
  }

  #dress() {
    return new Promise((done) => this.shadowRoot.prepend(sheet("messages.css", { onload: done, onerror: done })));
  }

  #close() {
    this.#talk?.close();
    this.#talk = this.#due = null;
    this.composer.isBusy = false;
  }

  #end(problem) {
    const { wanted, api } = this.#opening;
    const onclick = () => (this.#torn ? location.reload() : this.#read({ wanted, api }));
    const again = el("button", { class: "framed", onclick }, SAY.retry);
    this.#close();
    this.#opening = problem.name === "not-found" ? { wanted: "", api, isRead: true } : { wanted, api, isOver: true };
    this.#giveBack();
    this.scroller.replaceChildren(el("div", { class: "ended", role: "alert" }, el("p", {}, sayProblem(problem)), again));
    this.dispatchEvent(new CustomEvent("verbatim-problem", { detail: problem }));
  }

  /** Puts back what was written here, and what was on its way when the page or the conversation was left. */
  #recall() {
    this.drafts = new Drafts(this.#opening.wanted);
    const { written } = this.drafts;
    this.composer.put(written?.text ?? "", written?.edited, written?.aside);
    this.#giveBack();
  }

  #giveBack() {
    const { sent } = this.drafts;
    if (!sent || sent.isBack) return;
    this.drafts.sent = { ...sent, isBack: true };
    this.composer.giveBack(sent.text, sent.edited);
  }

  /** Whether it can be said now; else it stays where it is written until the conversation is read. */
  #send(text, edited) {
    const { wanted, api, isRead, isOver } = this.#opening;
    if (isOver) this.#read({ wanted, api });
    this.#due = isRead ? null : text;
    if (isRead) this.#say(text, edited);
    return isRead;
  }

  async #say(text, edited) {
    const opening = this.#opening;
    const before = opening.wanted ? null : this.drafts.sent; // a conversation that it made is found by the same name
    const clientId = before?.text === text ? before.clientId : newName();
    const sent = (this.drafts.sent = { ...draftOf(text, edited), clientId });
    if (!this.#talk) {
      this.composer.isBusy = true;
      await this.#start(opening).catch((problem) => this.#opening === opening && this.#end(problem));
      if (this.#opening !== opening) return; // it is put back when the conversation is opened again
      this.scroller.replaceChildren();
    }
    await this.#talk.say(sent);
  }
}

customElements.define("verbatim-chat", VerbatimChat);
