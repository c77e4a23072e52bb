// Talks to the ops API, and to nothing else. It only reads, unless `post` or `remove` is called because somebody pressed a button.

import { setClock } from "./words.js";

// Wherever the page is, perhaps below a folder of a proxy's, the API is beside it.
const API = new URL("../ops/v1/", import.meta.url).pathname;
const KEPT_AS = "ollama-modal key";
const PATIENCE = 20000;

/** What went wrong, in one line with what to do. `status` is 0 when nobody answered. */
export class Trouble extends Error {
  constructor(status, error, hint, retryAfter = null) {
    super(hint ? `${error}. ${hint[0].toUpperCase()}${hint.slice(1)}.` : `${error}.`);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

// The key lives in this tab and nowhere else: not in the address, not in a cookie, not in another tab.
export const key = {
  get: () => sessionStorage.getItem(KEPT_AS),
  set: (text) => sessionStorage.setItem(KEPT_AS, text),
  forget: () => sessionStorage.removeItem(KEPT_AS),
};

export async function get(path) {
  const answer = await ask(path, { signal: AbortSignal.timeout(PATIENCE) });
  return answer.json();
}

/** `isNew` is false when what was asked for is under way already, and is shared. */
export async function post(path, document = null) {
  const answer = await ask(path, {
    method: "POST",
    headers: document === null ? {} : { "content-type": "application/json" },
    body: document === null ? undefined : JSON.stringify(document),
    signal: AbortSignal.timeout(PATIENCE),
  });
  return { isNew: answer.status === 201, document: await answer.json() };
}

/** Take something away, because somebody pressed a button. */
export async function remove(path) {
  const answer = await ask(path, { method: "DELETE", signal: AbortSignal.timeout(PATIENCE) });
  return answer.json();
}

/**
 * A job's events from a stream, one call of `onEvent(id, document)` each; returns when the stream ends. EventSource
 * would do all this, but cannot send a key.
 */
export async function follow(path, { signal, lastId, onEvent }) {
  const headers = { accept: "text/event-stream", ...(lastId ? { "last-event-id": lastId } : {}) };
  const answer = await ask(path, { headers, signal });
  if (answer.body === null) return; // 204: the job has ended, and we have heard so
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split(/\r?\n\r?\n/);
    rest = blocks.pop();
    for (const block of blocks) dispatch(block, onEvent);
  }
}

function dispatch(block, onEvent) {
  const fields = { id: null, data: [] };
  for (const line of block.split(/\r?\n/)) {
    const [, name, value] = /^([^:]*):? ?(.*)$/.exec(line);
    if (name === "data") fields.data.push(value);
    if (name === "id") fields.id = value;
  }
  if (fields.data.length) onEvent(fields.id, JSON.parse(fields.data.join("\n")));
}

async function ask(path, { headers = {}, ...options }) {
  const secret = key.get();
  let answer;
  try {
    answer = await fetch(`${API}${path}`, {
      ...options,
      headers: secret ? { ...headers, authorization: `Bearer ${secret}` } : headers,
      cache: "no-store",
      credentials: "omit",
      redirect: "error",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Trouble(0, "The gateway does not answer", "see whether it runs and this machine is online");
  }
  const date = Date.parse(answer.headers.get("date") ?? "");
  if (!Number.isNaN(date)) setClock(date);
  if (!answer.ok) throw await failure(answer);
  return answer;
}

async function failure(answer) {
  const body = await answer.json().catch(() => ({}));
  const seconds = Number.parseInt(answer.headers.get("retry-after") ?? "", 10);
  const error = typeof body.error === "string" ? body.error : `The gateway answers ${answer.status}`;
  const hint = typeof body.hint === "string" ? body.hint : null;
  return new Trouble(answer.status, error, hint, Number.isNaN(seconds) ? null : seconds * 1000);
}
