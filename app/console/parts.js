// A message that is written anew: of its parts the text changes, the others stay.

const isText = (part) => typeof part?.text === "string";

/** The words of a message that can be written anew. */
export function wordsOf({ content }) {
  return Array.isArray(content) ? content.filter(isText).map(({ text }) => text).join("\n\n") : String(content ?? "");
}

/** A text as content, with the parts of other content that are no text. */
export function contentOf(text, content) {
  if (!Array.isArray(content)) return text;
  const place = content.findIndex(isText);
  if (place < 0) {
    const type = content.some((part) => String(part?.type).startsWith("input_")) ? "input_text" : "text";
    return [{ type, text }, ...content];
  }
  return content.filter((part, at) => at === place || !isText(part)).map((part) => (isText(part) ? { ...part, text } : part));
}
