// The conversations as the list has them: pages as far as they were asked for, kept up to date by events.

import { follow } from "./events.js";

const PAGE_SIZE = 100;
const AT_ONCE = 4;
const WORDS_CHARS = 80;

export class Shelf {
  hasMore = true;
  isLoading = false;
  #cursor = null;
  #round = {}; // replaced when the list is read anew: what was asked for before is of the list as it was
  #read = Promise.resolve(); // over when it is read anew
  #known = new Map(); // by id
  #words = new Map(); // the first words of those without a title, by id
  #due = []; // whose first words are still to be looked up
  #asking = 0;
  #life = new AbortController();

  constructor(api, { isArchived = false, onChange }) {
    Object.assign(this, { api, isArchived, onChange });
  }

  close() {
    this.#life.abort();
  }

  /** A first page, as `more` takes it. */
  static first(api) {
    return api.get("/v1/conversations", { limit: PAGE_SIZE, archived: false });
  }

  /** Pinned ones first, then the last used first. */
  get conversations() {
    return [...this.#known.values()].sort((one, other) =>
      Boolean(other.pinned_at) - Boolean(one.pinned_at) || other.usedMs - one.usedMs || (one.id < other.id ? 1 : -1));
  }

  /** What to call a conversation; empty where nothing is known yet. */
  nameOf({ id, title }) {
    return title || this.#words.get(id) || "";
  }

  get(id) {
    return this.#known.get(id);
  }

  /** What is asked for until it is answered. */
  #get(path, query) {
    const { signal } = this.#life;
    return this.api.insist(() => this.api.get(`/v1/conversations${path}`, query, signal), { signal });
  }

  async more(page) {
    if (this.isLoading || !this.hasMore) return;
    const round = this.#round;
    this.isLoading = true;
    try {
      page ??= await this.#get("", { limit: PAGE_SIZE, archived: this.isArchived, after: this.#cursor });
      if (round === this.#round) this.#take(page);
    } finally {
      if (round === this.#round) this.isLoading = false;
    }
    this.onChange();
  }

  #take(page) {
    page.data.forEach((conversation) => this.#keep(conversation));
    this.#cursor = page.next_cursor;
    this.hasMore = page.has_more;
  }

  /** Those that are pinned may be far down. */
  async findPinned() {
    for (let after = null, more = !this.isArchived; more;) {
      const page = await this.#get("", { pinned: true, limit: PAGE_SIZE, after });
      page.data.forEach((conversation) => this.#keep(conversation));
      [after, more] = [page.next_cursor, page.has_more];
    }
    this.onChange();
  }

  put(conversation) {
    if (Boolean(conversation.archived_at) === this.isArchived) this.#keep(conversation);
    else this.#known.delete(conversation.id);
    this.onChange();
  }

  remove(id) {
    this.#known.delete(id);
    this.onChange();
  }

  /** Keeps the list as it is elsewhere, until it is closed. Throws the Problem that ends it. */
  follow(onState) {
    return follow(this.api, "/v1/events", {
      signal: this.#life.signal,
      onState: (state) => {
        onState(state);
        if (state === "anew") this.#begin();
      },
      onEvent: (name, data) => (name === "conversation.updated" ? this.#look(data) : this.#begin()),
    });
  }

  async #look({ id, last_seq, revision }) {
    await this.#read;
    const known = this.#known.get(id);
    if (known?.last_seq === last_seq && known.revision === revision) return;
    try {
      this.put(await this.#get(`/${id}`));
    } catch (problem) {
      if (problem.status === 404) this.remove(id);
    }
  }

  #begin() {
    this.#read = this.#anew().catch(() => {}); // closed, or no longer let in: the stream ends of it too
  }

  async #anew() {
    const round = (this.#round = {});
    this.isLoading = true;
    try {
      const page = await this.#get("", { limit: PAGE_SIZE, archived: this.isArchived });
      if (round !== this.#round) return;
      this.#known.clear();
      this.#take(page);
    } finally {
      if (round === this.#round) this.isLoading = false;
    }
    await this.findPinned();
  }

  #keep(conversation) {
    if (this.#known.get(conversation.id)?.revision > conversation.revision) return; // read before it was changed
    conversation.usedMs = Date.parse(conversation.updated_at);
    conversation.dayMs = new Date(conversation.usedMs).setHours(0, 0, 0, 0);
    if (!conversation.message_count) this.#words.delete(conversation.id);
    this.#known.set(conversation.id, conversation);
  }

  /** Looks up the first words of a conversation without a title: only those that are seen. */
  lookUp({ id, title, message_count }) {
    if (title || !message_count || this.#words.has(id)) return;
    this.#words.set(id, "");
    this.#due.push(id);
    this.#ask();
  }

  async #ask() {
    if (this.#asking >= AT_ONCE || !this.#due.length) return;
    const id = this.#due.pop();
    this.#asking += 1;
    try {
      const { data } = await this.api.get(`/v1/conversations/${id}/messages`, { limit: 3 }, this.#life.signal);
      const { textOf } = await import("./markdown.js");
      const first = data.find(({ role }) => role === "user") ?? data[0];
      this.#words.set(id, first ? textOf(first).slice(0, 4 * WORDS_CHARS).trim().replace(/\s+/g, " ").slice(0, WORDS_CHARS) : "");
    } catch {
      // it stays without: asked again with every draw, a refusal would never end
    } finally {
      this.#asking -= 1;
    }
    if (this.#life.signal.aborted) return;
    this.onChange();
    this.#ask();
  }
}
