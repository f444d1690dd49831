// Messages as elements. A block is a message with what belongs under it: its tool calls' results.

import { el, iconButton, visible } from "./dom.js";
import { SAY, sayBytes, sayDay, sayMoment, sayTime, sayTokens } from "./strings.js";
import { callsOf, textOf } from "./markdown.js";

const COLLAPSED_CHARS = 4_000;
const MORE_CHARS = 64_000;
const CALLS_LIMIT = 20;
const NODES = { least: 30, ofLine: 8, most: 300 }; // of a message, until more is asked for
const LINE_CHARS = 80;

/** The blocks of a run of messages, and of what is being sent behind it. */
export function blocksOf(messages, pending) {
  const blocks = [];
  for (const message of messages) {
    const before = blocks.at(-1);
    if (message.role === "tool" && before && callsOf(before.messages[0]).length) before.messages.push(message);
    else blocks.push({ key: message.seq, seq: message.seq, messages: [message] });
  }
  if (pending) blocks.push({ key: "pending", messages: [pending] });
  for (const block of blocks) {
    block.mark = block.messages.map(({ seq, revision, status, html }) => [seq, revision, status, html?.length]).join();
  }
  return blocks;
}

export function dayOf({ messages: [message] }) {
  return message.created_at ? sayDay(message.created_at) : SAY.today;
}

/** `actions`: onEdit(message), onRetry(message). */
export function buildBlock({ messages: [message, ...results] }, actions) {
  const { role, status, seq } = message;
  const loose = new Set(results);
  const calls = callsOf(message).map((call) => {
    const result = results.find((one) => loose.has(one) && one.tool_call_id && one.tool_call_id === call.id);
    loose.delete(result);
    return [call, result];
  });
  return el(
    "li", { class: `message ${role}`, data: { seq: seq ?? "", status } },
    el("h2", { class: /user|assistant/.test(role) ? "unseen" : "who" }, message.name ? visible(message.name) : SAY[role]),
    role === "tool" ? buildCall(null, message) : buildBody(message),
    ...buildCalls([...calls, ...[...loose].map((result) => [null, result])]),
    buildFoot(message, actions),
  );
}

function buildBody(message) {
  const { html, role, status, content } = message;
  if (status === "in_progress" && role === "assistant" && !content) return el("div", { class: "body plain live", dir: "auto" });
  if (!html) return plain(textOf(message), "body");
  const body = el("div", { class: "body", dir: "auto" });
  const lines = textOf(message).split("\n").reduce((sum, line) => sum + Math.ceil(line.length / LINE_CHARS), 0);
  const limit = Math.min(NODES.most, Math.max(NODES.least, NODES.ofLine * lines));
  showUpTo(limit);
  return body;

  function showUpTo(count) {
    const made = el("template");
    made.innerHTML = html; // the only place: rendered and sanitised by the server
    const isCut = cutBehind(made.content, count);
    for (const code of made.content.querySelectorAll("pre")) {
      const box = el("div", { class: "code" });
      code.replaceWith(box);
      code.tabIndex = 0;
      box.append(code, copyButton(() => code.textContent));
    }
    for (const table of made.content.querySelectorAll("table")) {
      const box = el("div", { class: "wide", tabIndex: 0 });
      table.replaceWith(box);
      box.append(table);
    }
    body.replaceChildren(made.content, ...(isCut ? [moreButton(SAY.more, () => showUpTo(count + NODES.most))] : []));
  }
}

/** Whether there were more elements than so many, which are gone then; a row of a table goes whole. */
function cutBehind(root, count) {
  const next = root.querySelectorAll("*")[count];
  if (!next) return false;
  const row = next.closest("tr");
  const range = document.createRange();
  range.setStartBefore(row?.previousElementSibling ? row : next);
  range.setEndAfter(root.lastChild);
  range.deleteContents();
  return true;
}

function moreButton(label, onclick) {
  return el("button", { class: "framed", onclick }, label);
}

/** A text as it is; of a long one the beginning, and more on demand. */
function plain(text, className) {
  const box = el("div", { class: `${className} plain`, dir: "auto" });
  let shown = 0;
  const more = moreButton("", () => grow(MORE_CHARS));
  function grow(chars) {
    const from = shown;
    shown += chars;
    if (/[\udc00-\udfff]/.test(text[shown])) shown += 1; // not within a character
    more.before(visible(text.slice(from, shown)));
    const left = text.length - shown;
    if (left > 0) more.textContent = `${SAY.more} (${sayBytes(left)})`;
    else more.remove();
  }
  box.append(more);
  grow(text.length > COLLAPSED_CHARS * 2 ? COLLAPSED_CHARS : text.length);
  return box;
}

/** The folds of calls and their results; of many the first. */
function buildCalls(pairs) {
  const folds = pairs.slice(0, CALLS_LIMIT).map(([call, result]) => buildCall(call, result));
  if (pairs.length <= CALLS_LIMIT) return folds;
  const more = moreButton(SAY.more, () => more.replaceWith(...buildCalls(pairs.slice(CALLS_LIMIT))));
  return [...folds, more];
}

/** What was asked of a tool and what it answered, folded; its inside is made when it is opened. */
function buildCall(call, result) {
  const name = call?.name ?? result.name ?? SAY.tool;
  const fold = el(
    "details", { class: "call" },
    el("summary", {},
      el("b", {}, visible(name)), " ",
      el("span", { class: "brief" }, visible((call ? call.arguments : textOf(result)).slice(0, 400).replace(/\s+/g, " ").slice(0, 120))),
      el("span", { class: "state" }, result || !call ? "" : SAY.noResult)),
  );
  fold.addEventListener("toggle", () => {
    if (call) fold.append(el("h3", {}, SAY.asked), data(call.arguments));
    if (result) fold.append(el("h3", {}, SAY.answered), data(textOf(result)));
  }, { once: true });
  return fold;
}

function data(text) {
  const box = plain(pretty(text), "data");
  box.tabIndex = 0;
  return box;
}

function pretty(text) {
  if (text.length > 100_000) return text;
  try {
    const value = JSON.parse(text);
    return typeof value === "object" && value ? JSON.stringify(value, null, 2) : text;
  } catch {
    return text;
  }
}

function buildFoot(message, actions) {
  const { role, status, seq } = message;
  const about = [
    message.created_at && sayTime(message.created_at), message.model && visible(message.model), sayTokens(message.usage),
    status !== "completed" && SAY[`status-${status}`],
  ];
  return el(
    "footer", {},
    el("span", { class: "about", title: message.created_at ? sayMoment(message.created_at) : "" },
      about.filter(Boolean).join(" · ")),
    copyButton(() => textOf(message)),
    role === "user" && seq ? iconButton("edit", SAY.edit, () => actions.onEdit(message)) : null,
    role === "assistant" ? iconButton("retry", SAY.retry, () => actions.onRetry(message)) : null,
  );
}

function copyButton(text) {
  return iconButton("copy", SAY.copy, async ({ currentTarget: button }) => {
    await (await import("./clipboard.js")).copy(text());
    button.classList.replace("copy", "done");
    button.ariaLabel = SAY.copied;
    setTimeout(() => { button.classList.replace("done", "copy"); button.ariaLabel = SAY.copy; }, 1500);
  });
}
