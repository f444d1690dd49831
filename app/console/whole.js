// A whole conversation as Markdown.

import { callsOf, textOf } from "./markdown.js";
import { SAY, sayMoment } from "./strings.js";

/** Asks for all that was said, page by page. */
export async function conversationMarkdown(api, { id, title }) {
  const parts = title ? [`# ${title}`] : [];
  for (let after = 0; after !== null;) {
    const page = await api.get(`/v1/conversations/${id}/messages`, { after, limit: 1000 });
    for (const message of page.data) {
      parts.push(`## ${message.name || SAY[message.role]}, ${sayMoment(message.created_at)}`);
      if (textOf(message)) parts.push(textOf(message));
      for (const call of callsOf(message)) parts.push(`\`\`\`\n${call.name}(${call.arguments})\n\`\`\``);
    }
    after = page.has_more ? page.next_cursor : null;
  }
  return `${parts.join("\n\n")}\n`;
}
