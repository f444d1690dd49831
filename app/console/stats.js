// The panel of what is counted of one conversation.

import { el, visible } from "./dom.js";
import { FIGURES, sayCount, sayDuration, sayMoment } from "./figures.js";
import { SAY, sayProblem } from "./strings.js";

const dressed = new Promise((resolve) => {
  const sheet = el("link", { rel: "stylesheet", href: new URL("stats.css", import.meta.url).href, onload: resolve, onerror: resolve });
  document.head.append(sheet);
});

/** Opens the panel; it is done when that is closed. */
export async function showStats(api, { id, title }) {
  await dressed;
  const inside = el("div", { ariaBusy: "true" }, el("p", {}, SAY.loading));
  const leave = new AbortController();
  const dialog = el(
    "dialog", { class: "ask figures", ariaLabel: FIGURES.figures },
    el("h2", {}, FIGURES.figures), title ? el("p", { class: "of" }, visible(title)) : null, inside,
    el("form", { method: "dialog" }, el("button", { class: "framed" }, FIGURES.close)),
  );
  const closed = new Promise((resolve) => dialog.addEventListener("close", resolve));
  document.body.append(dialog);
  dialog.showModal();
  api.insist(() => api.get(`/v1/conversations/${id}/stats`, {}, leave.signal), { signal: leave.signal })
    .then(tableOf, (problem) => el("p", { role: "alert" }, sayProblem(problem)))
    .then((shown) => { inside.replaceChildren(shown); inside.ariaBusy = "false"; });
  await closed;
  leave.abort(new DOMException("closed", "AbortError"));
  dialog.remove();
}

function tableOf(stats) {
  const roles = Object.entries(stats.messages).filter(([, count]) => count);
  const rows = [
    [FIGURES.visible, sayCount(stats.message_count)],
    ...roles.map(([role, count]) => [FIGURES.from(SAY[role]), sayCount(count), "sub"]),
    [FIGURES.turns, sayCount(stats.turn_count)],
    [FIGURES.inputTokens, sayCount(stats.input_tokens)],
    [FIGURES.outputTokens, sayCount(stats.output_tokens)],
    [FIGURES.created, sayMoment(stats.created_at)],
    [FIGURES.updated, sayMoment(stats.updated_at)],
    [FIGURES.duration, sayDuration(stats.duration_seconds)],
    [FIGURES.revision, sayCount(stats.revision)],
    [FIGURES.archived, stats.is_archived ? FIGURES.yes : FIGURES.no],
  ];
  return el("table", {}, el("tbody", {}, ...rows.map(([name, figure, className = ""]) =>
    el("tr", { class: className }, el("th", { scope: "row" }, name), el("td", {}, figure)))));
}
