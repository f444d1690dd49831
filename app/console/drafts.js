// What is written in a conversation: the tab's session storage has it until the server says that it is kept.

const PREFIX = "verbatim.";

/** Of a conversation by its name; empty: one that is not made yet. */
export class Drafts {
  constructor(name) {
    this.name = name;
  }

  /** What is being written: `{text, edited, aside}`, edited being `{seq, content}` of the message in whose place it is said. */
  get written() {
    return take(`written.${this.name}`);
  }

  set written(draft) {
    put(`written.${this.name}`, draft);
  }

  /** What is on its way: `{text, edited, clientId}`, with `isBack` once it was put back. */
  get sent() {
    return take(`sent.${this.name}`);
  }

  set sent(draft) {
    put(`sent.${this.name}`, draft);
  }

  /** The conversation is made. */
  rename(name) {
    const { written, sent } = this;
    this.written = this.sent = null;
    this.name = name;
    Object.assign(this, { written, sent });
  }
}

/** A draft; of the message in whose place it is said it has what is to be kept of that. */
export function draftOf(text, edited, aside) {
  const { seq, content } = edited ?? {};
  return { text, aside, edited: edited && { seq, content: Array.isArray(content) ? content : undefined } };
}

export const joined = (...texts) => texts.filter(Boolean).join("\n\n");

function take(name) {
  try {
    return JSON.parse(sessionStorage.getItem(PREFIX + name));
  } catch {
    return null; // a page that may store nothing
  }
}

function put(name, draft) {
  try {
    sessionStorage.removeItem(PREFIX + name);
    if (draft) sessionStorage.setItem(PREFIX + name, JSON.stringify(draft));
  } catch {
    if (draft?.edited?.content) put(name, { ...draft, edited: { seq: draft.edited.seq } }); // there is room for the words
  }
}
