// Follows a few jobs live, each over a stream. What has no stream is still seen by the polls of the whole list.

import { follow } from "./api.js";

const STREAMS = 3; // a browser opens six connections to one host; the polls need some of them
const REST = 10000; // after a stream that broke

export class Following {
  #open = new Map();
  #heard = new Map();
  #rested = new Map();
  #onJob;

  constructor(onJob) {
    this.#onJob = onJob;
  }

  /** From now on follow the first few of these, and no others. */
  follow(jobs) {
    if (document.hidden) return;
    const wanted = new Set([...new Set(jobs.map(({ id }) => id))].slice(0, STREAMS));
    for (const [id, stream] of this.#open) if (!wanted.has(id)) stream.abort();
    for (const id of wanted) {
      const isFree = this.#open.size < STREAMS && !this.#open.has(id);
      if (isFree && (this.#rested.get(id) ?? 0) <= Date.now()) this.#begin(id);
    }
  }

  stop() {
    for (const stream of this.#open.values()) stream.abort();
  }

  async #begin(id) {
    const stream = new AbortController();
    this.#open.set(id, stream);
    try {
      const path = `jobs/${encodeURIComponent(id)}/events`;
      await follow(path, {
        signal: stream.signal,
        lastId: this.#heard.get(id),
        onEvent: (event, job) => {
          this.#heard.set(id, event);
          this.#onJob(job);
        },
      });
    } catch {
      // The polls show it if the gateway is gone.
      if (!stream.signal.aborted) this.#rested.set(id, Date.now() + REST);
    } finally {
      this.#open.delete(id);
    }
  }
}
