// A conversation in the chat element: its messages, its reply as it comes, and what can be done there.

import { Conversation } from "./conversation.js";
import { textOf } from "./markdown.js";
import { joined } from "./drafts.js";
import { contentOf, wordsOf } from "./parts.js";
import { sayProblem, SAY } from "./strings.js";
import { Transcript } from "./transcript.js";

export class Talk {
  #conversation;
  #transcript = null;
  #isClosed = false;
  #isReaching = false;
  #spoken = { seq: 0, chars: 0 };

  /** In the parts of an element `chat`; `onMade(conversation)`, `onEnd(problem)`. */
  constructor(chat, { api, onMade, onEnd }) {
    const { drafts } = chat;
    Object.assign(this, { chat, drafts });
    const whileOpen = (act) => (...given) => this.#isClosed || act(...given);
    this.#conversation = new Conversation(api, {
      onChange: whileOpen(() => this.#show()),
      onText: whileOpen(() => this.#hear()),
      onMade: whileOpen((made) => { drafts.rename(made.id); onMade(made); }),
      onEnd: whileOpen(onEnd),
    });
  }

  get id() {
    return this.#conversation.id;
  }

  async open(wanted) {
    await this.#conversation.open(wanted);
    if (!this.#isClosed) this.#findEdited();
  }

  close() {
    this.#isClosed = true;
    this.#conversation.close();
    this.#transcript?.close();
    const { classList, away, again, newest } = this.chat;
    classList.remove("busy");
    away.textContent = "";
    again.hidden = newest.hidden = true;
  }

  // What a person does

  /** Says what the drafts have as sent, in place of an edited message if there is one. */
  async say({ text, edited, clientId }) {
    const message = { role: "user", content: contentOf(text, edited?.content), client_id: clientId };
    const saying = this.#try(this.#conversation.say(message, edited?.seq));
    this.#transcript?.toEnd();
    const isSaid = await saying;
    if (isSaid || this.#has(clientId)) return this.#acknowledge(clientId);
    if (this.#isClosed) return; // it is put back when the conversation is opened again
    this.drafts.sent = null;
    this.chat.composer.giveBack(text, edited);
  }

  stop() {
    return this.#try(this.#conversation.stop());
  }

  askAgain() {
    return this.#try(this.#conversation.askAgain());
  }

  /** What was said last, if the end is there to be seen. */
  editLast() {
    const { history } = this.#conversation;
    if (history && !history.hasNewer) this.#edit(history.messages.findLast(({ role }) => role === "user"));
  }

  #edit(message) {
    if (message && !this.#conversation.isBusy) this.chat.composer.edit(message, wordsOf(message));
  }

  async toNewest() {
    const { history } = this.#conversation;
    if (history.hasNewer) await this.#try(history.newest());
    this.#transcript.toEnd();
    this.#show();
    this.chat.focus();
  }

  async #reach(side) {
    if (this.#isReaching) return;
    this.#isReaching = true;
    await this.#conversation.history[side]().catch(() => {});
    this.#isReaching = false;
    if (!this.#isClosed) this.#show();
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
    if (this.#isClosed) return;
    this.chat.trouble.hidden = !problem;
    this.chat.trouble.textContent = problem ? sayProblem(problem) : "";
  }

  // What was written before

  #has(clientId) {
    return this.#conversation.history?.messages.some(({ client_id }) => client_id === clientId);
  }

  /** The message in whose place something is said, with all of its parts; it may have been deleted for that already. */
  #findEdited() {
    const { edited, field, aside } = this.chat.composer;
    if (!edited?.seq) return;
    const { messages, firstSeq, hasOlder } = this.#conversation.history;
    const found = messages.find(({ seq }) => seq === edited.seq);
    const isGone = !found && (edited.seq > firstSeq || !hasOlder);
    this.chat.composer.put(field.value, found ?? (isGone ? { content: edited.content } : edited), aside);
  }

  /** What arrived is no draft, not even where it was put back. */
  #acknowledge(arrived) {
    const { text, clientId, isBack } = this.drafts.sent ?? {};
    const { composer, drafts } = this.chat;
    if (clientId !== arrived || (isBack && drafts.name !== this.drafts.name)) return;
    this.drafts.sent = null;
    if (!isBack) return;
    const { field: { value }, aside } = composer;
    if (value.startsWith(text)) composer.put(joined(value.slice(text.length).trimStart(), aside));
  }

  // What is seen and heard

  #show() {
    const { history, pending, reply, live, isAway, isBusy } = this.#conversation;
    const { composer, classList, away, again, newest, scroller } = this.chat;
    composer.isBusy = isBusy;
    classList.toggle("busy", isBusy);
    away.textContent = isAway ? SAY.offline : "";
    again.hidden = isBusy || !history || history.hasNewer || history.messages.at(-1)?.role !== "user";
    if (!history) return;
    this.#transcript ??= new Transcript(scroller, {
      onReach: (side) => this.#reach(side),
      onMoved: (isAtEnd) => { newest.hidden = isAtEnd; },
      onEdit: (message) => this.#edit(message),
      onRetry: (message) => this.#try(this.#conversation.retry(message)),
    });
    this.#transcript.show(history, pending && this.#has(pending.client_id) ? null : pending, live);
    const { sent } = this.drafts;
    if (sent?.isBack && this.#has(sent.clientId)) this.#acknowledge(sent.clientId);
    if (!reply && this.#spoken.seq) this.#speak(history.messages.find(({ seq }) => seq === this.#spoken.seq));
  }

  #hear() {
    const { live } = this.#conversation;
    this.#transcript?.say(live);
    if (this.#spoken.seq !== live.seq) this.#spoken = { seq: live.seq, chars: 0 };
    const sentences = /^[^]*[.!?:\n](?=\s)/.exec(live.text.slice(this.#spoken.chars));
    if (!sentences) return;
    this.#spoken.chars += sentences[0].length;
    this.chat.voice.textContent = sentences[0];
  }

  /** The rest of a reply, to those who listen. */
  #speak(message) {
    if (message?.status === "in_progress") return;
    this.chat.voice.textContent = message ? textOf(message).slice(this.#spoken.chars) : "";
    this.#spoken = { seq: 0, chars: 0 };
  }
}
