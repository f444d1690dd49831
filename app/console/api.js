// Verbatim's API as the pages ask it: with the key in a header, every refusal a Problem.

const PATIENCE_MS = 20_000;
const LONGEST_PAUSE_MS = 8_000;
const PASSING_STATUSES = new Set([408, 425, 429]);

/** Why a request failed: `name` as in urn:verbatim:problem:<name>; `offline` where nobody answered. */
export class Problem extends Error {
  constructor(name, status = 0, detail = "", pauseMs = 0) {
    super(detail);
    Object.assign(this, { name, status, pauseMs });
  }

  /** Whether asking again in a while is worth it, though the same answer may come many times. */
  get isPassing() {
    return this.name === "offline" || this.status >= 500 || PASSING_STATUSES.has(this.status);
  }
}

export class Api {
  /** `key` and `user` may be empty: then something before the service says who is asking. */
  constructor(base, key = "", user = "") {
    this.base = base.replace(/\/+$/, "");
    this.key = key;
    this.user = user;
  }

  /** The answer, whose status is below 300. Throws Problem; AbortError when the signal says so. */
  async request(method, path, { query = {}, headers = {}, body, signal } = {}) {
    const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null);
    const search = given.length ? `?${new URLSearchParams(given)}` : "";
    const sent = new Headers(headers);
    if (this.key) sent.set("Authorization", `Bearer ${this.key}`);
    if (this.user) sent.set("X-User-Id", String.fromCharCode(...new TextEncoder().encode(this.user)));
    if (body !== undefined) sent.set("Content-Type", "application/json");
    let answer;
    try {
      answer = await fetch(this.base + path + search, {
        method, headers: sent, signal, body: body === undefined ? undefined : JSON.stringify(body),
        cache: "no-store", credentials: "same-origin",
      });
    } catch (error) {
      if (signal?.aborted && signal.reason?.name !== "TimeoutError") throw error;
      throw new Problem("offline");
    }
    if (answer.ok) return answer;
    throw await problemOf(answer);
  }

  /** The JSON of the answer; null where there is none. */
  async ask(method, path, { signal, ...request } = {}) {
    const limit = AbortSignal.timeout(PATIENCE_MS);
    const answer = await this.request(method, path, { ...request, signal: signal ? AbortSignal.any([signal, limit]) : limit });
    try {
      const text = await answer.text();
      return text ? JSON.parse(text) : null;
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new Problem("offline");
    }
  }

  get(path, query, signal) {
    return this.ask("GET", path, { query, signal });
  }

  /** Asks until there is an answer that will not change; only for what may be said twice. */
  async insist(work, { signal, onPause = () => {} } = {}) {
    for (let pauseMs = 500; ; pauseMs = Math.min(pauseMs * 2, LONGEST_PAUSE_MS)) {
      try {
        return await work();
      } catch (problem) {
        if (!problem.isPassing) throw problem;
        onPause(problem);
        await rest(Math.max(pauseMs, problem.pauseMs), signal);
      }
    }
  }
}

async function problemOf(answer) {
  const body = await answer.json().catch(() => ({}));
  const known = String(body.type ?? "").replace("urn:verbatim:problem:", "");
  const isAway = [502, 503, 504].includes(answer.status);
  return new Problem(
    isAway ? "unavailable" : known || "unknown", answer.status, body.detail ?? body.title ?? "",
    1000 * (Number(answer.headers.get("Retry-After")) || 0),
  );
}

/** A pause, over early when the network comes back; throws the signal's reason when that says so. */
export function rest(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const end = () => { clearTimeout(timer); removeEventListener("online", end); resolve(); };
    const timer = setTimeout(end, milliseconds * (0.75 + Math.random() / 2));
    addEventListener("online", end);
    signal?.addEventListener("abort", () => { end(); reject(signal.reason); }, { once: true });
  });
}

/** A text that nobody has said before: for Idempotency-Key and client ids. */
export function newName() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
