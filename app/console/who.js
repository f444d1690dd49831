// What a person is asked at the door; `show(...elements)` puts it there.

import { el } from "./dom.js";
import "./over.js";
import { SAY, sayProblem } from "./strings.js";

/** A key in place of one that is not let in, as `{key, user}`. */
export function askKey(show, given, problem) {
  const needsUser = problem.name === "user-required" || Boolean(given.user);
  const key = el("input", { type: "password", name: "key", required: true, autocomplete: "off", value: given.key });
  const user = el("input", { name: "user", required: true, autocomplete: "off", value: given.user });
  const refused = given.key && problem.name !== "user-required" ? sayProblem(problem) : "";
  return new Promise((resolve) => {
    const onsubmit = (event) => {
      event.preventDefault();
      resolve({ key: key.value.trim(), user: needsUser ? user.value.trim() : "" });
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

/** Whether the key of a link takes the place of the one that is here. */
export function isReplaced(show) {
  return new Promise((resolve) => {
    const stay = el("button", { class: "main" }, SAY.keepKey);
    const take = el("button", { type: "button", class: "framed", onclick: () => resolve(true) }, SAY.takeKey);
    const onsubmit = (event) => { event.preventDefault(); resolve(false); };
    show(el("form", { onsubmit }, el("h1", {}, SAY.otherKeyTitle), el("p", {}, SAY.otherKeyHelp), el("p", {}, stay, " ", take)));
    stay.focus();
  });
}
