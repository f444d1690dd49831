// Lets a person in: by the key that is found, else as whoever stands before the service says, else by a key that is asked for.

import { Api } from "./api.js";
import { el } from "./dom.js";
import * as keys from "./key.js";
import { SAY, sayProblem } from "./strings.js";

const BASE = new URL("..", import.meta.url).href;

/** The API, for a key by which `look(api)` succeeds, and what that found. */
export async function enter(look) {
  for (let given = (await keys.find()) ?? { key: "", user: "" }; ;) {
    const api = new Api(BASE, given.key, given.user);
    try {
      const found = await api.insist(() => look(api), { onPause: (pause) => wait(sayProblem(pause)) });
      document.querySelector(".door")?.remove();
      return [api, found];
    } catch (problem) {
      given = await ask(given, problem);
    }
  }
}

function show(...children) {
  document.querySelector(".door")?.remove();
  document.body.append(el("main", { class: "door" }, ...children));
}

function wait(text) {
  show(el("p", { role: "status" }, `${text} ${SAY.waiting}`));
}

function ask(given, problem) {
  const needsUser = problem.name === "user-required" || Boolean(given.user);
  const key = el("input", { type: "password", name: "key", required: true, autocomplete: "off", value: given.key });
  const user = el("input", { name: "user", required: true, autocomplete: "off", value: given.user });
  const refused = given.key && problem.name !== "user-required" ? sayProblem(problem) : "";
  return new Promise((resolve) => {
    const onsubmit = (event) => {
      event.preventDefault();
      const made = { key: key.value.trim(), user: needsUser ? user.value.trim() : "" };
      keys.hold(made.key, made.user);
      resolve(made);
    };
    show(el(
      "form", { onsubmit },
      el("h1", {}, SAY.keyTitle), el("p", {}, SAY.keyHelp),
      el("label", {}, SAY.key, key),
      needsUser ? el("p", {}, SAY.userHelp) : null,
      needsUser ? el("label", {}, SAY.userName, user) : null,
      el("p", { class: "trouble", role: "alert" }, refused),
      el("button", { class: "main" }, SAY.enter),
    ));
    (needsUser ? user : key).focus();
  });
}
