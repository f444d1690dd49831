// The page of a tenant's activity, by day: for its admin keys.

import { el } from "./dom.js";
import { enter } from "./door.js";
import { FIGURES, sayBrief, sayCount, sayMoment } from "./figures.js";
import { Plot } from "./plot.js";
import { SAY, sayProblem } from "./strings.js";

const RANGES = [7, 30, 90];
const DAY_MS = 86_400_000;
const FRESH_MS = 60_000;
const LONG = 1_000_000;

let days = RANGES.find((range) => location.search === `?days=${range}`) ?? 30;
let wanted = new AbortController();

function ask(api) {
  return api.get("/v1/stats", { from_day: new Date(Date.now() - (days - 1) * DAY_MS).toISOString().slice(0, 10) }, wanted.signal);
}

/** The stats; null where the key is let in, but is no admin's. */
async function look(api) {
  try {
    return await ask(api);
  } catch (problem) {
    if (problem.name === "admin-required") return null;
    throw problem;
  }
}

let [api, stats] = await enter(look);
if (!stats) {
  await explained();
  [api, stats] = await enter(ask);
}
const plots = [
  new Plot(FIGURES.conversations, FIGURES.conversationsHelp, [{ name: FIGURES.conversations, of: (day) => day.conversations }]),
  new Plot(FIGURES.messages, FIGURES.messagesHelp, [{ name: FIGURES.messages, of: (day) => day.message_count }]),
  new Plot(FIGURES.users, FIGURES.usersHelp, [{ name: FIGURES.users, of: (day) => day.active_users }]),
  new Plot(FIGURES.tokens, FIGURES.tokensHelp, [
    { name: FIGURES.input, of: (day) => day.input_tokens },
    { name: FIGURES.output, of: (day) => day.output_tokens },
  ]),
];
const tiles = el("dl", { class: "tiles" });
const state = el("p", { class: "help", role: "status" });
const board = el("div", { class: "board" }, tiles, el("div", { class: "plots" }, ...plots.map(({ element }) => element)));
document.body.append(el(
  "main", { class: "activity" },
  el("header", {},
    el("h1", {}, SAY.activity), el("a", { href: "/" }, FIGURES.back),
    el("fieldset", {},
      el("legend", { class: "unseen" }, FIGURES.range),
      ...RANGES.map((range) => el("label", {},
        el("input", { type: "radio", name: "days", value: range, checked: range === days, onchange: () => choose(range) }),
        FIGURES.days(range))))),
  state, board,
));
show();
setInterval(() => document.hidden || refresh(), FRESH_MS);
addEventListener("visibilitychange", () => document.hidden || refresh());

function choose(range) {
  days = range;
  history.replaceState(null, "", `?days=${range}`);
  refresh();
}

async function refresh() {
  wanted.abort(new DOMException("asked anew", "AbortError"));
  wanted = new AbortController();
  const { signal } = wanted;
  board.ariaBusy = "true";
  try {
    stats = await api.insist(() => ask(api), { signal, onPause: () => { state.textContent = SAY.offline; } });
    show();
  } catch (problem) {
    if (signal.aborted) return;
    if (problem.name === "invalid-credentials") location.reload();
    state.textContent = sayProblem(problem);
  }
  board.ariaBusy = "false";
}

function show() {
  const { totals, rolled_up_at: countedAt } = stats;
  const mostUsers = Math.max(...stats.days.map((day) => day.active_users));
  const figures = [
    [FIGURES.begun, totals.new_conversations],
    [FIGURES.messages, totals.message_count],
    totals.active_users === null ? [FIGURES.mostUsers, mostUsers] : [FIGURES.users, totals.active_users],
    [FIGURES.inputTokens, totals.input_tokens],
    [FIGURES.outputTokens, totals.output_tokens],
  ];
  tiles.replaceChildren(...figures.map(([name, figure]) => el(
    "div", {}, el("dt", {}, name),
    el("dd", { title: sayCount(figure) }, figure < LONG ? sayCount(figure) : sayBrief(figure)))));
  state.textContent = countedAt ? `${FIGURES.countedAt(sayMoment(countedAt))} ${FIGURES.perDay}` : FIGURES.notCounted;
  for (const plot of plots) plot.show(stats.days);
}

/** Says why there is nothing to see, until another key is wanted. */
function explained() {
  return new Promise((resolve) => {
    const page = el(
      "main", { class: "activity refused" },
      el("h1", {}, FIGURES.notAdmin), el("p", {}, FIGURES.notAdminWhy),
      el("p", {}, el("code", {}, FIGURES.notAdminCommand)),
      el("p", {},
        el("button", { type: "button", class: "main", onclick: () => { page.remove(); resolve(); } }, FIGURES.otherKey), " ",
        el("a", { href: "/" }, FIGURES.back)),
    );
    document.body.append(page);
  });
}
