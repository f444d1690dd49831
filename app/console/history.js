// The part of a conversation that is on the page: a run of its messages without a gap, by seq.

const PAGE_SIZE = 25;

export class History {
  constructor(api, conversationId, signal, insist) {
    this.messages = [];
    this.hasOlder = this.hasNewer = false;
    const path = `/v1/conversations/${conversationId}/messages`;
    this.list = (query) => insist(() => api.get(path, { format: "html", limit: PAGE_SIZE, ...query }, signal));
    this.turn = Promise.resolve();
  }

  get firstSeq() {
    return this.messages[0]?.seq ?? Infinity;
  }

  get lastSeq() {
    return this.messages.at(-1)?.seq ?? 0;
  }

  /** The newest page, in place of all else. */
  newest() {
    return this.#inTurn(async () => {
      const page = await this.list({ order: "desc" });
      this.messages = whole(page);
      this.hasOlder = page.has_more;
      this.hasNewer = false;
    });
  }

  older() {
    return this.#inTurn(async () => {
      const before = this.firstSeq;
      if (!this.hasOlder) return;
      const page = await this.list({ order: "desc", before });
      if (this.firstSeq !== before) return; // cut meanwhile
      this.messages.unshift(...whole(page));
      this.hasOlder = page.has_more;
    });
  }

  /** What follows the run, if it does not have that seq already; if it does, as it was before that revision, looks again. */
  newer(seq = Infinity, revision = 0) {
    return this.#inTurn(() => {
      const known = this.messages.find((message) => message.seq === seq);
      return known?.revision < revision ? this.#again(seq) : this.#newer(seq);
    });
  }

  async #newer(seq) {
    const after = this.lastSeq;
    if (after >= seq) return;
    const page = await this.list({ after });
    if (this.lastSeq !== after) return;
    this.messages.push(...page.data);
    this.hasNewer = page.has_more;
  }

  /** Looks again at a message, if it is of the run, or would follow it. */
  again(seq) {
    return this.#inTurn(() => this.#again(seq));
  }

  async #again(seq) {
    if (seq > this.lastSeq && !this.hasNewer) return this.#newer(seq);
    if (seq < this.firstSeq || seq > this.lastSeq) return;
    const { data } = await this.list({ after: seq - 1, before: seq + 1 });
    if (seq < this.firstSeq || seq > this.lastSeq) return;
    this.messages = [...this.#outside(seq, seq), ...data].sort((one, other) => one.seq - other.seq);
  }

  /** Forgets the messages from one seq through another: they are deleted. */
  drop(from, through = Infinity) {
    return this.#inTurn(async () => {
      this.messages = this.#outside(from, through);
    });
  }

  /** Lets go of what is far from what is looked at: it can be listed again. */
  cutOlder(beforeSeq) {
    this.messages = this.messages.filter(({ seq }) => seq >= beforeSeq);
    this.hasOlder = true;
  }

  cutNewer(fromSeq) {
    this.messages = this.messages.filter(({ seq }) => seq < fromSeq);
    this.hasNewer = true;
  }

  #outside(from, through) {
    return this.messages.filter(({ seq }) => seq < from || seq > through);
  }

  /** One after the other: each begins where the last one ended. */
  #inTurn(work) {
    const done = this.turn.then(work);
    this.turn = done.catch(() => {});
    return done;
  }
}

/** In order; results of tools at its beginning wait for the page that has their call. */
function whole(page) {
  const messages = page.data.reverse();
  const first = messages.findIndex(({ role }) => role !== "tool");
  return page.has_more && first > 0 ? messages.slice(first) : messages;
}
