// The key of this tab: it comes in the fragment or by hand, and stays in session storage.

const PREFIX = "verbatim.";
const PLACE = `${PREFIX}key`;
const others = new BroadcastChannel(PLACE);

others.onmessage = ({ data }) => data === "forget" && forgetHere();

/** What the tab holds: `{key, user}`, or null. */
export function held() {
  return JSON.parse(sessionStorage.getItem(PLACE));
}

/** Takes a key; what was written with another one goes with that. */
export function hold(key, user = "") {
  const before = held();
  if (before && (before.key !== key || before.user !== user)) clear();
  sessionStorage.setItem(PLACE, JSON.stringify({ key, user }));
}

/** The key is forgotten in every tab. */
export function forget() {
  others.postMessage("forget");
  forgetHere();
}

function forgetHere() {
  clear();
  location.reload();
}

function clear() {
  for (const name of Object.keys(sessionStorage)) if (name.startsWith(PREFIX)) sessionStorage.removeItem(name);
}

/** `{key, user}` from the fragment, which is dropped; null: it has none. */
export function given() {
  const said = new URLSearchParams(location.hash.slice(1));
  if (!said.get("key")) return null;
  history.replaceState(history.state, "", location.pathname + location.search);
  return { key: said.get("key"), user: said.get("user") ?? "" };
}

addEventListener("hashchange", () => location.hash.startsWith("#key=") && location.reload());
