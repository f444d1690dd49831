// Event streams by fetch, which sends headers: they go on where they broke off, and heal by themselves.

import { rest } from "./api.js";

const SILENCE_MS = 45_000; // the service says something every 15 seconds
const LONGEST_PAUSE_MS = 5_000;

/**
 * Follows a stream until the signal says so. A hidden page lets its stream go: a browser has six connections to a server.
 *
 * `onEvent(name, data)`; `onState("live" | "away" | "missed")`: missed, the stream begins anew and something may have
 * happened. Throws the Problem that ended it for good.
 */
export async function follow(api, path, { lastId, onEvent, onState = () => {}, signal }) {
  let pauseMs = 250;
  while (!signal.aborted) {
    await shown(signal);
    const stretch = new AbortController();
    const leave = () => document.hidden && stretch.abort();
    document.addEventListener("visibilitychange", leave);
    let timer;
    const heard = () => { clearTimeout(timer); timer = setTimeout(() => stretch.abort(), SILENCE_MS); };
    try {
      const headers = { Accept: "text/event-stream", ...(lastId && { "Last-Event-ID": lastId }) };
      heard();
      const answer = await api.request("GET", path, { headers, signal: AbortSignal.any([signal, stretch.signal]) });
      onState("live");
      for await (const event of eventsOf(answer.body, heard)) {
        pauseMs = 250;
        lastId = event.id ?? lastId;
        if (event.data) onEvent(event.name, JSON.parse(event.data));
      }
    } catch (problem) {
      if (signal.aborted) return;
      if (problem.status === 400 && lastId) {
        lastId = undefined;
        onState("missed");
      } else if (problem.status >= 400 && !problem.isPassing) {
        throw problem;
      } else if (!document.hidden) {
        onState("away");
      }
    } finally {
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", leave);
    }
    await rest(pauseMs, signal).catch(() => {});
    pauseMs = Math.min(pauseMs * 2, LONGEST_PAUSE_MS);
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
