// Event streams by fetch, which sends headers: they go on where they broke off, and heal by themselves.

import { rest } from "./api.js";

const SILENCE_MS = 45_000; // the service says something every 15 seconds
const SHORTEST_PAUSE_MS = 250;
const LONGEST_PAUSE_MS = 8_000;
const TURN_MS = 1_000;
const SLOTS = ["verbatim.stream.0", "verbatim.stream.1", "verbatim.stream.2", "verbatim.stream.3"];
const LEFT = new DOMException("left", "AbortError");

/**
 * Follows a stream until the signal says so, as long as the page is seen. A browser has six connections to a server for
 * all its tabs: they stream by four of them, in turns if there are more streams.
 *
 * `onEvent(name, data)`; `onState("live" | "away" | "anew")`: anew, the stream begins with now, and all before is to be
 * read. Throws the Problem that ended it for good.
 */
export async function follow(api, path, { lastId, onEvent, onState = () => {}, signal }) {
  let pauseMs = SHORTEST_PAUSE_MS;

  async function listen(stretch) {
    let timer;
    const heard = () => {
      clearTimeout(timer);
      timer = setTimeout(() => stretch.abort(new DOMException("silent", "TimeoutError")), SILENCE_MS);
    };
    try {
      heard();
      const headers = { Accept: "text/event-stream", ...(lastId && { "Last-Event-ID": lastId }) };
      const answer = await api.request("GET", path, { headers, signal: stretch.signal });
      onState("live");
      for await (const event of eventsOf(answer.body, heard)) {
        if (event.id && !lastId) onState("anew");
        lastId = event.id ?? lastId;
        if (event.data) onEvent(event.name, JSON.parse(event.data));
      }
    } finally {
      clearTimeout(timer);
    }
  }

  /** How long to wait after this. */
  function pauseAfter(problem) {
    if (problem.status === 400 && lastId) lastId = undefined; // of a past that the server does not know
    else if (problem.status && !problem.isPassing) throw problem;
    else if (!document.hidden) onState("away");
    return Math.max(pauseMs, problem.pauseMs ?? 0);
  }

  while (!signal.aborted) {
    await shown(signal);
    const stretch = new AbortController();
    const begun = performance.now();
    try {
      signal.throwIfAborted();
      await whileWanted(stretch, signal, () => listen(stretch));
      await rest(pauseMs, signal);
    } catch (problem) {
      if (signal.aborted) return;
      if (stretch.signal.reason === LEFT) continue;
      await rest(pauseAfter(problem), signal).catch(() => {});
    }
    const isBroken = performance.now() - begun < LONGEST_PAUSE_MS;
    pauseMs = isBroken ? Math.min(pauseMs * 2, LONGEST_PAUSE_MS) : SHORTEST_PAUSE_MS;
  }
}

function shown(signal) {
  return new Promise((resolve) => {
    const look = () => {
      if (document.hidden && !signal.aborted) return;
      document.removeEventListener("visibilitychange", look);
      resolve();
    };
    document.addEventListener("visibilitychange", look);
    signal.addEventListener("abort", look, { once: true });
    look();
  });
}

/** Does the work until the page is hidden, or the signal says so. */
async function whileWanted(stretch, signal, work) {
  const end = () => stretch.abort(signal.reason);
  const leave = () => stretch.abort(LEFT);
  const look = () => document.hidden && leave();
  signal.addEventListener("abort", end);
  document.addEventListener("visibilitychange", look);
  try {
    await inTurn(stretch.signal, leave, work);
  } finally {
    signal.removeEventListener("abort", end);
    document.removeEventListener("visibilitychange", look);
  }
}

/** Does the work by one of the connections for streams; leaves after a turn if another stream waits for it. */
async function inTurn(signal, leave, work) {
  const { locks } = navigator;
  if (!locks) return work(); // the origin is not secure: no tab knows of another
  const use = async ({ name }) => {
    const look = async () => (await locks.query()).pending.some((other) => other.name === name) && leave();
    const timer = setInterval(look, TURN_MS);
    await work().finally(() => clearInterval(timer));
    return true;
  };
  for (const name of SLOTS) if (await locks.request(name, { ifAvailable: true }, (lock) => lock && use(lock))) return;
  const { pending } = await locks.query();
  const waiting = (name) => pending.filter((other) => other.name === name).length;
  await locks.request([...SLOTS].sort((one, other) => waiting(one) - waiting(other))[0], { signal }, use);
}

async function* eventsOf(body, heard) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let begun = "", event = { name: "message", data: "" };
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    heard();
    begun += value;
    if (!value.includes("\n")) continue;
    const lines = begun.split("\n");
    begun = lines.pop();
    for (const line of lines) {
      const [, field, text] = /^([^:]*):? ?(.*)$/.exec(line);
      if (line === "") {
        yield event;
        event = { name: "message", data: "" };
      } else if (field === "id") event.id = text;
      else if (field === "event") event.name = text;
      else if (field === "data") event.data += text;
    }
  }
}
