// Asks the ops API now and then, for as long as somebody looks at the page. A look is one question: `path()` says what
// is asked, `every()` how often, in milliseconds, `isWanted()`, where there is one, whether at all; `take(answer)` keeps
// the answer.

import * as api from "/ui/api.js";

const SECOND = 1000;
const SOON = 5 * SECOND;
const LONGEST = 60 * SECOND;

export class Looks {
  #looks;
  #isOn;
  #after;
  #refused;
  #ticking = null;

  /** `isOn()` says whether anything is to be asked, `after()` shows, `refused(error)` hears that the key is no good. */
  constructor(looks, { isOn, after, refused }) {
    this.#looks = looks.map((look) => ({ ...look, due: 0, busy: false, failures: 0, trouble: null }));
    this.#isOn = isOn;
    this.#after = after;
    this.#refused = refused;
  }

  /** Ask everything now, and go on asking. */
  wake() {
    for (const look of this.#looks) look.due = 0;
    if (this.#ticking === null) this.#tick();
  }

  /** Ask those again soon whose question begins so. */
  again(...paths) {
    for (const look of this.#looks) if (paths.some((path) => look.path().startsWith(path))) look.due = 0;
  }

  /** What is wrong, and in how many milliseconds it is tried again; null when all was answered. */
  get trouble() {
    const broken = this.#looks.filter(({ failures }) => failures > 0);
    if (broken.length === 0) return null;
    const due = Math.min(...broken.map((look) => look.due));
    return { message: broken[0].trouble.message, wait: Math.max(SECOND, due - Date.now()) };
  }

  #tick() {
    this.#ticking = null;
    if (document.hidden || !this.#isOn()) return; // nobody looks, so nothing is asked
    for (const look of this.#looks) {
      if (!look.busy && look.due <= Date.now() && (look.isWanted?.() ?? true)) this.#ask(look);
    }
    this.#after();
    this.#ticking = setTimeout(() => this.#tick(), SECOND);
  }

  async #ask(look) {
    look.busy = true;
    const path = look.path();
    try {
      const answer = await api.get(path);
      this.#recovered();
      look.failures = 0;
      look.due = Date.now() + look.every();
      if (path === look.path()) look.take(answer);
      else look.due = 0; // the reader has chosen something else meanwhile
    } catch (error) {
      this.#failed(look, error);
    } finally {
      look.busy = false;
    }
    this.#after();
  }

  #failed(look, error) {
    if (!this.#isOn()) return; // another look has heard the same before
    if (error.status === 401 || error.status === 403) return this.#refused(error);
    look.failures += 1;
    look.trouble = error;
    look.due = Date.now() + Math.max(Math.min(LONGEST, SOON * look.failures), error.retryAfter ?? 0);
  }

  /** One answer tells that the gateway is back: what could not be reached is asked again at once. */
  #recovered() {
    for (const look of this.#looks) if (look.failures > 0 && look.trouble.status === 0) look.due = 0;
  }
}
