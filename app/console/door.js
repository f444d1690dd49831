// Lets a person in: by the key of the link or of the tab, else as whoever stands before the service says, else by a key that is asked for.

import { Api } from "./api.js";
import { el } from "./dom.js";
import * as keys from "./key.js";
import { SAY, sayProblem } from "./strings.js";

const BASE = new URL("..", import.meta.url).href;

/** The API, for a key by which `look(api)` succeeds, and what that found. */
export async function enter(look) {
  for (let given = (await find()) ?? { key: "", user: "" }; ;) {
    const api = new Api(BASE, given.key, given.user);
    try {
      const found = await api.insist(() => look(api), { onPause: (pause) => show(waiting(pause)) });
      document.querySelector(".door")?.remove();
      return [api, found];
    } catch (problem) {
      given = await (await import("./who.js")).askKey(show, given, problem);
      keys.hold(given.key, given.user);
    }
  }
}

/** The key of the link, or the one that is here already; where they differ, whoever asks says which. */
async function find() {
  const here = keys.held();
  const given = keys.given();
  if (!given) return here;
  const isSame = here?.key === given.key && (!given.user || given.user === here.user);
  if (isSame || (here && !(await (await import("./who.js")).isReplaced(show)))) return here;
  keys.hold(given.key, given.user);
  return given;
}

function waiting(pause) {
  return el("p", { role: "status" }, `${sayProblem(pause)} ${SAY.waiting}`);
}

function show(...children) {
  document.querySelector(".door")?.remove();
  document.body.append(el("main", { class: "door" }, ...children));
}
