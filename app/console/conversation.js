// One conversation as it stands and as it goes on: what was said, what is being sent, the reply that is being made.

import { newName } from "./api.js";
import { follow } from "./events.js";
import { History } from "./history.js";

const ID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const TITLE_CHARS = 60;
const PATIENCE_MS = 20_000;

export class Conversation {
  id = null;
  history = null;
  pending = null; // a message on its way
  reply = null; // the reply that is being made: {id, seq}
  live = null; // its text so far: {seq, text}
  isAway = false; // nobody answers
  #lastSeq = 0;
  #attached = null; // over when a conversation that was made here is read
  #life = new AbortController();

  /** `onChange()`; `onText()`: more of the reply; `onMade(conversation)`; `onEnd(problem)`: it is followed no more. */
  constructor(api, actions) {
    Object.assign(this, { api, ...actions });
  }

  close() {
    this.#life.abort(new DOMException("closed", "AbortError"));
  }

  get isClosed() {
    return this.#life.signal.aborted;
  }

  get isBusy() {
    return Boolean(this.pending || this.reply);
  }

  get #home() {
    return `/v1/conversations/${this.id}`;
  }

  /** Loads the conversation of an id, or of a name, which makes it if need be. */
  async open(wanted) {
    const { signal } = this.#life;
    const named = `/v1/conversations/by-key/${encodeURIComponent(wanted)}`;
    const found = await this.#insist(() =>
      ID.test(wanted) ? this.api.get(`/v1/conversations/${wanted}`, {}, signal) : this.api.ask("PUT", named, { signal }));
    await this.#attach(found);
  }

  /** Begins with the version that was found, so that nothing is missed between the list and the events. */
  async #attach({ id, last_seq, revision }) {
    this.id = id;
    this.#lastSeq = last_seq; // the last that was read or told of: what is sent in place of others names it
    const history = new History(this.api, id, this.#life.signal, (work) => this.#insist(work));
    if (last_seq) await history.newest();
    this.history = history;
    this.#settle();
    follow(this.api, `${this.#home}/events`, {
      lastId: `${last_seq}.${revision}`,
      signal: this.#life.signal,
      onEvent: (name, data) => this.#on(name, data),
      onState: (state) => this.#onState(state),
    }).catch((problem) => this.#end(problem));
  }

  // What a person does

  /** Says a message, in place of all from a seq on if there is one, and asks for a reply. */
  async say(message, fromSeq) {
    const leave = new AbortController();
    this.pending = { ...message, status: "sending", leave };
    this.onChange();
    try {
      const body = { messages: [message] };
      if (!this.id) await this.#make(message, leave.signal);
      else await (fromSeq ? this.#replace(fromSeq, body, leave.signal) : this.#ask(body, leave.signal));
    } finally {
      this.pending = null;
      if (!this.isClosed) this.onChange();
    }
  }

  /** Has a reply made anew: what it said is deleted, and all behind it. */
  async retry(message) {
    await this.#replace(message.seq, {}, this.#life.signal);
  }

  askAgain() {
    return this.#ask({}, this.#life.signal);
  }

  /** Stops the reply that is being made, or what is on its way. */
  async stop() {
    this.pending?.leave.abort(new DOMException("stopped", "AbortError"));
    if (this.reply) await this.#insist(() => this.api.ask("POST", `${this.#home}/replies/${this.reply.id}/cancel`));
  }

  /** With what is said first, so that none is empty; the same again finds it made. */
  async #make(message, signal) {
    const headers = { "Idempotency-Key": message.client_id };
    const words = message.content.trim().replace(/\s+/g, " ");
    const title = words.length > TITLE_CHARS ? `${words.slice(0, TITLE_CHARS).replace(/\s\S*$/, "")}…` : words;
    const body = { title, messages: [message] };
    const made = await this.#insist(() => this.api.ask("POST", "/v1/conversations", { headers, body }), signal);
    this.#attached = this.#load(this.#attach(made));
    this.onMade(made);
    const isDue = made.last_seq === 1 && !signal.aborted;
    await (isDue ? this.#ask({}, signal).finally(() => this.#attached) : this.#attached);
  }

  /** Asks in place of what was said from there on, which comes back if nobody will answer. */
  async #replace(seq, body, signal) {
    const headers = { "If-Match": `"${this.#lastSeq}"` };
    const { revision } = await this.#insist(
      () => this.api.ask("DELETE", `${this.#home}/messages`, { query: { from_seq: seq }, headers }), signal,
    ).catch(async (problem) => {
      if (problem.status === 412) await this.#load(this.#again());
      throw problem;
    });
    await this.#load(this.history.drop(seq));
    try {
      await this.#ask(body, signal);
    } catch (problem) {
      await this.#insist(() => this.api.ask("POST", `${this.#home}/messages/restore`, { body: { revision } }));
      await this.#load(this.history.newest());
      throw problem;
    }
  }

  /**
   * The reply is made whether or not we stay; the conversation's events tell of it, here as in every other tab.
   * The signal ends the waiting for a server that is away, as leaving does: no request that may be kept already.
   */
  async #ask(body, signal) {
    const headers = { "Idempotency-Key": newName(), Accept: "text/event-stream" };
    const answer = await this.#insist(() => this.api.request("POST", `${this.#home}/replies`, {
      headers, body, signal: AbortSignal.timeout(PATIENCE_MS),
    }), signal);
    answer.body.cancel();
    await this.#attached;
    if (this.isClosed) return;
    await this.#load(this.history.hasNewer ? this.history.newest() : this.history.newer());
    if (signal.aborted) await this.stop();
  }

  async #insist(work, signal = this.#life.signal) {
    let isLost = false;
    const done = await this.api.insist(work, {
      signal: AbortSignal.any([this.#life.signal, signal]), onPause: () => { isLost = true; this.#onState("away"); },
    });
    if (isLost) this.#onState("live");
    return done;
  }

  // What happens

  #on(name, data) {
    if (name === "reply.delta") this.#hear(data);
    else if (name === "message.created") this.#created(data);
    else if (name === "message.updated") this.#updated(data);
    else if (name === "messages.deleted") this.#deleted(data);
    else if (name === "conversation.deleted") this.#end({ name: "not-found" });
  }

  #created({ id, seq, role, status, revision }) {
    this.#lastSeq = Math.max(this.#lastSeq, seq);
    if (role === "assistant" && status === "in_progress") this.reply = { id, seq };
    this.#load(this.history.hasNewer ? null : this.history.newer(seq, revision));
  }

  #updated({ seq, status }) {
    if (seq === this.reply?.seq && status !== "in_progress") this.reply = null;
    this.#load(this.history.again(seq));
  }

  #deleted({ from_seq, through_seq }) {
    if (this.reply?.seq >= from_seq && this.reply.seq <= through_seq) this.reply = null;
    this.#load(this.history.drop(from_seq, through_seq));
  }

  /** More of the reply's text, behind so many code points of it. */
  #hear({ seq, message_id, from_char, text }) {
    const known = this.live?.seq === seq && from_char ? this.live.text : "";
    this.live = { seq, text: behind(known, from_char) + text };
    if (this.reply?.seq === seq) return this.onText();
    this.reply = { id: message_id, seq };
    this.onChange();
  }

  #onState(state) {
    this.isAway = state === "away";
    this.onChange();
    if (state === "anew") this.#load(this.#again());
  }

  /** Reads where it stands, whatever was known of it. */
  async #again() {
    this.#lastSeq = 0;
    const { last_seq } = await this.#insist(() => this.api.get(this.#home, {}, this.#life.signal));
    await this.history.newest();
    this.#lastSeq = Math.max(this.#lastSeq, last_seq);
  }

  async #load(done) {
    try {
      await done;
      this.#settle();
    } catch (problem) {
      this.#end(problem);
    }
  }

  /** Where the run has the newest message, that says whether a reply is being made. */
  #settle() {
    const last = this.history.messages.at(-1);
    this.#lastSeq = Math.max(this.#lastSeq, this.history.lastSeq);
    if (!this.history.hasNewer) {
      this.reply = last?.role === "assistant" && last.status === "in_progress" ? { id: last.id, seq: last.seq } : null;
    }
    this.onChange();
  }

  #end(problem) {
    if (this.isClosed) return;
    this.close();
    this.onEnd(problem);
  }
}

function behind(text, chars) {
  const signs = text.length > chars ? [...text] : [];
  return signs.length > chars ? signs.slice(0, chars).join("") : text;
}
