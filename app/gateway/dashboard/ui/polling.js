// Asks the ops API now and then, for as long as somebody looks at the page. A poll is one question: `path()` says what
// is asked, `every()` how often, in milliseconds, `isWanted()`, where there is one, whether at all; `take(answer)` keeps
// the answer.

import * as api from "./api.js";

const SECOND = 1000;
const SOON = 5 * SECOND;
const LONGEST = 60 * SECOND;

export class Polling {
  #polls;
  #isOn;
  #after;
  #refused;
  #ticking = null;

  /** `isOn()` says whether anything is to be asked, `after()` shows, `refused(error)` hears that the key is no good. */
  constructor(polls, { isOn, after, refused }) {
    this.#polls = polls.map((poll) => ({ ...poll, due: 0, busy: false, isOutdated: false, hasTried: false, failures: 0, trouble: null }));
    this.#isOn = isOn;
    this.#after = after;
    this.#refused = refused;
  }

  /** Ask everything now, and go on asking. */
  wake() {
    for (const poll of this.#polls) poll.due = 0;
    if (this.#ticking === null) this.#tick();
  }

  /** Ask those again at once whose question begins so; what they were answered to a question before is no news. */
  again(...paths) {
    for (const poll of this.#polls) {
      if (!paths.some((path) => poll.path().startsWith(path))) continue;
      poll.due = 0;
      poll.isOutdated = poll.busy;
    }
    this.#soon();
  }

  /** Whether those whose question begins so have been answered, or could not be. */
  hasTried(path) {
    return this.#polls.filter((poll) => poll.path().startsWith(path)).every(({ hasTried }) => hasTried);
  }

  /** What is wrong, and in how many milliseconds it is tried again; null when all was answered. */
  get trouble() {
    const broken = this.#polls.filter(({ failures }) => failures > 0);
    if (broken.length === 0) return null;
    const due = Math.min(...broken.map((poll) => poll.due));
    return { message: broken[0].trouble.message, wait: Math.max(SECOND, due - Date.now()) };
  }

  #soon() {
    if (this.#ticking === null) return;
    clearTimeout(this.#ticking);
    this.#ticking = setTimeout(() => this.#tick(), 0);
  }

  #tick() {
    this.#ticking = null;
    if (document.hidden || !this.#isOn()) return; // nobody looks, so nothing is asked
    for (const poll of this.#polls) {
      if (!poll.busy && poll.due <= Date.now() && (poll.isWanted?.() ?? true)) this.#ask(poll);
    }
    this.#after();
    this.#ticking = setTimeout(() => this.#tick(), SECOND);
  }

  async #ask(poll) {
    poll.busy = true;
    poll.isOutdated = false;
    const path = poll.path();
    try {
      const answer = await api.get(path);
      this.#recovered();
      poll.failures = 0;
      if (path === poll.path() && !poll.isOutdated) {
        poll.hasTried = true;
        poll.due = Date.now() + poll.every();
        poll.take(answer);
      } else {
        poll.due = 0; // the reader has chosen or done something else meanwhile
        this.#soon();
      }
    } catch (error) {
      this.#failed(poll, error);
    } finally {
      poll.busy = false;
    }
    this.#after();
  }

  #failed(poll, error) {
    if (!this.#isOn()) return; // another poll has heard the same before
    if (error.status === 401 || error.status === 403) return this.#refused(error);
    poll.failures += 1;
    poll.hasTried = true;
    poll.trouble = error;
    poll.due = Date.now() + Math.max(Math.min(LONGEST, SOON * poll.failures), error.retryAfter ?? 0);
  }

  /** One answer tells that the gateway is back: what could not be reached is asked again at once. */
  #recovered() {
    for (const poll of this.#polls) if (poll.failures > 0 && poll.trouble.status === 0) poll.due = 0;
  }
}
