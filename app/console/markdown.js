// What messages say, as text.

import { SAY } from "./strings.js";

/** The words of a message; what is no text is named. */
export function textOf({ content }) {
  if (typeof content === "string") return content;
  if (!Array.isArray(content)) return "";
  return content.map((part) => (typeof part.text === "string" ? part.text : `[${part.type}]`)).join("\n\n");
}

/** The calls of a message, whatever vendor's they are: `[{id, name, arguments}]`, the arguments as text. */
export function callsOf({ tool_calls, function_calls }) {
  return [tool_calls, function_calls].flat().filter((call) => call && typeof call === "object").map((call) => {
    const inner = call.function && typeof call.function === "object" ? call.function : call;
    const given = inner.arguments ?? inner.input ?? inner.args ?? "";
    return {
      id: call.id ?? call.call_id,
      name: String(inner.name ?? call.type ?? SAY.tool),
      arguments: typeof given === "string" ? given : JSON.stringify(given),
    };
  });
}
