// The list of jobs: which of them the reader has asked for, page by page, and how they are shown.

import { keep, setAttribute, setHidden, setText } from "./dom.js";
import { focus } from "./focus.js";
import { groupRow } from "./groups.js";
import { jobRow } from "./jobs.js";

const LISTED = 15;
const TYPING = 250; // milliseconds without a key, after which the gateway is asked
const STATES = { all: [], open: ["queued", "running", "waiting"], failed: ["failed"] };
const NONE = { all: "No job was ever posted.", open: "Nothing is under way.", failed: "No job has failed." };

/** How many moves of its state a job has behind it. Events tell its past, too; the list may be ahead of them. */
const moves = ({ attempts }) => attempts.reduce((sum, { outcome }) => sum + (outcome === null ? 1 : 2), 0);

export class JobList {
  #parts;
  #onAsk;
  #which = "all";
  #text = "";
  #cursor = null;
  #newer = []; // the cursors of the pages before this one
  #answer = null;
  #sought = null; // the id of a job that somebody wants to see
  #typing = null;

  /** `parts` are the elements of the list; `onAsk()` is called when another question is to be asked. */
  constructor(parts, onAsk) {
    this.#parts = parts;
    this.#onAsk = onAsk;
    for (const choice of parts.choices) choice.addEventListener("change", () => this.#choose(choice.value));
    parts.find.addEventListener("input", () => {
      clearTimeout(this.#typing);
      this.#typing = setTimeout(() => this.#search(parts.find.value.trim()), TYPING);
    });
    parts.newer.addEventListener("click", () => this.#turn(parts.newer, this.#newer.pop() ?? null));
    parts.older.addEventListener("click", () => {
      if (this.#answer?.next) this.#newer.push(this.#cursor);
      this.#turn(parts.older, this.#answer?.next);
    });
  }

  get isKnown() {
    return this.#answer !== null;
  }

  get jobs() {
    return this.#answer?.jobs ?? [];
  }

  path() {
    const query = new URLSearchParams({ limit: LISTED });
    if (this.#which !== "all") query.set("state", this.#which);
    if (this.#text) query.set("q", this.#text);
    else query.set("folded", "true"); // who searches wants to see each
    if (this.#cursor) query.set("cursor", this.#cursor);
    return `jobs?${query}`;
  }

  /** Take an answer in; the jobs whose state has changed with it. */
  take(answer) {
    const known = new Map(this.jobs.map((job) => [job.id, job]));
    const later = (job) => (known.has(job.id) && moves(known.get(job.id)) > moves(job) ? known.get(job.id) : job);
    this.#answer = { ...answer, jobs: answer.jobs.map(later) };
    if (!answer.jobs.length && answer.next) this.#lookFurther(answer.next);
    return this.jobs.filter((job) => known.has(job.id) && known.get(job.id).state !== job.state);
  }

  /** A page of a search has no job when it has looked at some thousand others: the next one goes on there. */
  #lookFurther(cursor) {
    this.#cursor = cursor;
    queueMicrotask(() => this.#onAsk());
  }

  /** Take one job in that was posted or changed by us, or told by a stream; whether its state has changed with it. */
  takeJob(job, { isNew = false } = {}) {
    const old = this.jobs.find(({ id }) => id === job.id);
    if (this.#answer === null || (old && moves(job) < moves(old))) return false;
    if (old) {
      this.#answer.jobs = this.jobs.map((each) => (each.id === job.id ? job : each));
    } else if (isNew && this.#which !== "failed" && !this.#text && !this.#cursor) {
      const superseded = ({ kind, subject, id }) => kind === job.kind && subject === job.subject && id !== job.id;
      const stale = new Set(this.jobs.filter(superseded).map(({ id }) => id));
      this.#answer.jobs = [job, ...this.jobs];
      this.#answer.current = [job.id, ...this.#answer.current.filter((id) => !stale.has(id))];
    }
    return Boolean(old && old.state !== job.state);
  }

  /** Bring a job before the reader, `{ id, cursor }`, among the jobs of a `which`. */
  seek({ id, cursor }, which) {
    this.#sought = id;
    if (this.#focusSought()) return;
    for (const choice of this.#parts.choices) choice.checked = choice.value === which;
    this.#which = which;
    this.#parts.find.value = this.#text = "";
    this.#newer = [];
    this.#cursor = cursor;
    this.#onAsk();
  }

  /** `context` is what the rows need; `counts` how many jobs there are by state, once that is known. */
  show(context, counts) {
    const { list, note, choices, pager } = this.#parts;
    for (const choice of choices) {
      const number = choice.nextElementSibling.querySelector(".count");
      const states = STATES[choice.value].length ? STATES[choice.value] : Object.keys(counts ?? {});
      setText(number, counts ? states.reduce((sum, state) => sum + counts[state], 0).toLocaleString("en") : "");
    }
    if (this.#answer === null) return;
    const { jobs, next, current, waits_for: waits, groups } = this.#answer;
    const entries = jobs.map((job) => ({
      job,
      group: groups[job.id] ?? null,
      waitsFor: waits[job.id] ?? null,
      isCurrent: current.includes(job.id),
      context,
    }));
    const keyOf = ({ job, group }) => (group ? `${group.kind}/${group.class}` : job.id);
    keep(list, entries, keyOf, ({ group }) => (group ? groupRow() : jobRow()));
    setText(note, jobs.length ? "" : next ? "Looking further back…" : this.#text ? "No job fits." : NONE[this.#which]);
    setHidden(pager, !next && !this.#cursor);
    this.#showPager();
    if (this.#sought && this.#focusSought()) this.#sought = null;
  }

  #showPager() {
    const { newer, older, place } = this.#parts;
    const isSought = this.#cursor !== null && !this.#newer.length; // nobody has turned pages to come here
    setText(place, isSought ? "Further back" : `Page ${this.#newer.length + 1}`);
    setAttribute(newer, "aria-disabled", this.#cursor === null ? "true" : null);
    setAttribute(older, "aria-disabled", this.#answer.next === null ? "true" : null);
  }

  #choose(which) {
    this.#which = which;
    this.#begin();
  }

  #search(text) {
    if (text === this.#text) return;
    this.#text = text;
    this.#begin();
  }

  /** From the newest on. */
  #begin() {
    this.#cursor = null;
    this.#newer = [];
    this.#sought = null;
    this.#onAsk();
  }

  #turn(button, cursor) {
    if (button.ariaDisabled === "true") return;
    this.#cursor = cursor;
    this.#onAsk(() => this.#parts.title.scrollIntoView({ block: "nearest" }));
  }

  #focusSought() {
    const row = document.getElementById(`job-${this.#sought}`);
    if (row === null || !row.checkVisibility()) return false;
    focus(row);
    return true;
  }
}

/** The parts of the pager and of the filter that have no meaning without this list. */
export const partsOf = (at) => ({
  list: at("job-list"),
  note: at("jobs-note"),
  title: at("jobs-title"),
  find: at("find"),
  pager: at("pager"),
  newer: at("newer"),
  older: at("older"),
  place: at("page-place"),
  choices: [...document.querySelectorAll('input[name="which"]')],
});
