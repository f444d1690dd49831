// The key of this tab: it comes in the fragment, by hand, or from another tab, and stays in session storage.

const PLACE = "verbatim.key";
const HAND_OVER_MS = 150;
const others = new BroadcastChannel("verbatim.key");

others.onmessage = ({ data }) => {
  if (data === "who?" && held()) others.postMessage(held());
  if (data === "forget") forgetHere();
};

/** What the tab holds: `{key, user}`, or null. */
export function held() {
  return JSON.parse(sessionStorage.getItem(PLACE));
}

export function hold(key, user = "") {
  sessionStorage.setItem(PLACE, JSON.stringify({ key, user }));
}

/** The key is forgotten in every tab. */
export function forget() {
  others.postMessage("forget");
  forgetHere();
}

function forgetHere() {
  sessionStorage.removeItem(PLACE);
  location.reload();
}

/** `{key, user}` from the fragment, which is dropped, else from this tab, else from another; null: there is none. */
export async function find() {
  const given = new URLSearchParams(location.hash.slice(1));
  if (given.get("key")) {
    hold(given.get("key"), given.get("user") ?? "");
    history.replaceState(history.state, "", location.pathname + location.search);
  }
  return held() ?? (await handedOver());
}

function handedOver() {
  return new Promise((resolve) => {
    const take = ({ data }) => {
      if (!data?.key) return;
      others.removeEventListener("message", take); // the first answer counts
      hold(data.key, data.user);
      resolve(data);
    };
    others.addEventListener("message", take);
    others.postMessage("who?");
    setTimeout(() => { others.removeEventListener("message", take); resolve(held()); }, HAND_OVER_MS);
  });
}

addEventListener("hashchange", () => {
  if (location.hash.startsWith("#key=")) find().then(() => location.reload());
});
