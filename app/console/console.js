// The console: the list beside the chat, and what is in the address bar.

import { el, iconButton, visible } from "./dom.js";
import { enter } from "./door.js";
import { forget } from "./key.js";
import { List } from "./list.js";
import { Shelf } from "./shelf.js";
import { SAY, sayProblem } from "./strings.js";
import "./verbatim-chat.js";

const [api, firstPage] = await enter((asked) => Shelf.first(asked));

const list = new List({ onOpen: open, onMenu: showMenu, onMore: () => shelf.more().catch(complain) });
const chat = el("verbatim-chat", { conversation: "" });
const title = el("h1", {});
const more = iconButton("more", SAY.moreFor(SAY.name), () => showMenu(more, current), { ariaHasPopup: "menu", hidden: true });
const opener = iconButton("list", SAY.openList, () => showList(true), { class: "icon list narrow" });
const away = el("p", { class: "note", role: "status" });
const filing = el("button", { onclick: () => showShelf(!shelf.isArchived) }, SAY.archived);
const side = el(
  "aside", { id: "side", ariaLabel: SAY.conversations },
  el("header", {},
    el("b", {}, SAY.name),
    iconButton("list", SAY.closeList, () => showList(false), { class: "icon list narrow" }),
    iconButton("new", `${SAY.newConversation} (Alt+N)`, () => open(null), { ariaKeyShortcuts: "Alt+N" })),
  list.element, away,
  el("footer", {},
    filing, el("a", { href: "/activity" }, SAY.activity),
    el("button", { onclick: forget }, SAY.forgetKey)),
);
const page = el("main", {}, el("header", {}, opener, title, more), chat);
const shade = el("div", { class: "shade", onclick: () => showList(false) });

let current = null; // the conversation that is open, as far as it is known
let visits = 0; // how often something was opened
let shelf = null;
chat.api = api;
chat.addEventListener("verbatim-made", ({ detail }) => {
  shelf.put(detail);
  go(detail.id, detail);
});
chat.addEventListener("verbatim-problem", ({ detail }) => {
  if (detail.name === "invalid-credentials") location.reload();
});
document.body.append(side, page, shade);
showShelf(false, firstPage);
onpopstate = () => show(idOf(location.pathname));
show(idOf(location.pathname));
if (document.activeElement === document.body) write();

// The list

function showShelf(isArchived, page) {
  shelf?.close();
  const made = (shelf = new Shelf(api, { isArchived, onChange: () => shelf === made && refresh() }));
  filing.textContent = isArchived ? SAY.back : SAY.archived;
  shelf.more(page).then(() => made.findPinned()).catch(complain);
  shelf.follow((state) => { away.textContent = state === "away" ? SAY.offline : ""; }).catch(complain);
}

function refresh() {
  list.show(shelf);
  performance.mark("verbatim.listed");
  const known = current && shelf.get(current.id);
  if (known) name(known);
}

function showMenu(button, conversation) {
  const { id } = conversation;
  let left; // for nothing yet
  attempt(async () => {
    const { showDeeds } = await import("./deeds.js");
    showDeeds(button, conversation, {
      api, shelf, attempt, onChanged: (changed) => current?.id === id && name(changed),
      onGone: (isPointed) => {
        if (current?.id !== id) return;
        open(null, isPointed || button === more);
        left = visits;
      },
      onBack: () => (left === visits ? open(id) : list.reach(id)),
    });
  });
}

async function attempt(work) {
  try {
    await work();
  } catch (problem) {
    complain(problem);
  }
}

async function complain(problem) {
  if (problem.name === "invalid-credentials") location.reload();
  if (problem.name === "AbortError") return;
  const { toast } = await import("./toast.js");
  toast(sayProblem(problem));
}

// What is open

function idOf(path) {
  return /^\/c\/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})$/.exec(path)?.[1] ?? null;
}

/** Opens a conversation; who came by the keyboard stays where they are. */
function open(id, isPointed = true) {
  go(id);
  show(id);
  if (isPointed) write();
}

function write() {
  if (matchMedia("(pointer: fine)").matches) chat.focus();
}

function go(id, conversation) {
  if (idOf(location.pathname) !== id) history.pushState(null, "", id ? `/c/${id}` : "/");
  if (conversation) show(id, conversation);
}

async function show(id, conversation = id && shelf.get(id)) {
  visits += 1;
  current = id ? { id, ...conversation } : null;
  list.mark(id);
  chat.setAttribute("conversation", id ?? "");
  name(conversation || null);
  showList(false);
  if (id && !conversation) name(await api.get(`/v1/conversations/${id}`).catch(() => null), id);
}

function name(conversation, id = conversation?.id ?? null) {
  if (conversation && current?.id !== id) return;
  if (conversation) current = conversation;
  more.hidden = !conversation;
  title.textContent = conversation ? visible(shelf.nameOf(conversation)) : current ? "" : SAY.newConversation;
  document.title = [title.textContent, SAY.name].filter(Boolean).join(" · ");
}

function showList(isOpen) {
  const wasOpen = page.inert;
  document.body.classList.toggle("listing", isOpen);
  page.inert = isOpen;
  if (isOpen) list.search.focus();
  else if (wasOpen) opener.focus();
}

/** A tab that a link opens by itself would not have the key. */
function openTab(event) {
  const link = event.target.closest?.("a[href^='/']");
  if (!link || !(event.ctrlKey || event.metaKey || event.shiftKey || event.button === 1)) return;
  event.preventDefault();
  window.open(link.href, "_blank");
}

addEventListener("click", openTab);
addEventListener("auxclick", openTab);
addEventListener("keydown", (event) => {
  if (event.altKey && event.code === "KeyN") open(null);
  else if ((event.ctrlKey || event.metaKey) && event.code === "KeyK") showList(matchMedia("(max-width: 48rem)").matches), list.search.focus();
  else if (event.key === "Escape" && document.body.classList.contains("listing")) showList(false);
  else return;
  event.preventDefault();
});
