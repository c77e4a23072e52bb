// The jobs: how far each has come, what went wrong and what to do about it, and the buttons that change something.

import { el, icon, keep, setAttribute, setHidden, setIcon, setProse, setText, time } from "./dom.js";
import { ago, bytes, clock, count, lasted, now, short, until } from "./words.js";

const WORDS = {
  queued: "queued, no worker has taken it yet",
  running: "running",
  waiting: "waiting for its next try",
  succeeded: "succeeded",
  failed: "failed",
  cancelled: "cancelled",
};

export const hasEnded = ({ state }) => state === "succeeded" || state === "failed" || state === "cancelled";

/** What a job is about, in words: `pull llama3.2:latest`. */
export const titleOf = ({ kind, subject }) => `${kind} ${subject === "*" ? "all models" : short(subject)}`;

/**
 * A row of a list, to be shown `{ job, isCurrent, waitsFor, context }`. `context` has `remedies` by class of failure,
 * `mayChange`, `act(verb, job)` that cancels, retries or dismisses, and `seek(job, which)` that brings another one into sight.
 */
export function jobRow(part = "job") {
  let latest = null;
  const mark = icon("queued");
  const kind = el("span", { class: "kind" });
  const subject = el("bdi", { class: "subject" });
  const state = el("span", { class: "state-words" });
  const posted = time();
  const bar = el("progress", { class: "bar" });
  const numbers = el("p", { class: "numbers" });
  const trouble = el("p", { class: "trouble" });
  const remedy = el("p", { class: "remedy" });
  const refusal = el("p", { class: "trouble", role: "alert" });
  const press = (verb) => (event) => act(event.currentTarget, refusal, () => latest.context.act(verb, latest.job));
  const cancel = el("button", { type: "button", text: "Cancel", on: { click: press("cancel") } });
  const retry = el("button", { type: "button", text: "Try again", on: { click: press("retry") } });
  const dismiss = el("button", { type: "button", text: "Dismiss", on: { click: press("dismiss") } });
  cancel.className = "quiet-button";
  dismiss.className = "quiet-button";
  const attempts = story();
  const seek = (event) => {
    event.preventDefault();
    latest.context.seek(latest.waitsFor, "all");
  };
  const before = el("a", { href: "#jobs", on: { click: seek } });
  const waits = el("span", { class: "waits" }, ", waits for the ", before);
  const node = el(
    "li",
    { class: "job" },
    el("div", { class: "job-mark" }, mark),
    el(
      "div",
      { class: "job-body" },
      el(
        "p",
        { class: "job-head" },
        el("span", { class: "job-title" }, kind, " ", subject),
        el("span", { class: "job-state" }, state, waits, el("span", { class: "quiet" }, " · posted ", posted.node)),
      ),
      bar,
      numbers,
      trouble,
      remedy,
      refusal,
      attempts.node,
    ),
    el("div", { class: "job-actions" }, retry, dismiss, cancel),
  );
  const show = (known) => {
    latest = known;
    const { job, context, isCurrent, waitsFor } = known;
    node.dataset.state = job.state;
    node.id = `${part}-${job.id}`;
    subject.dataset.subject = job.subject;
    setIcon(mark, job.state in WORDS ? job.state : "unknown");
    setText(kind, job.kind);
    setText(subject, job.subject === "*" ? "all models" : short(job.subject));
    const isHeld = Boolean(waitsFor) && (job.state === "queued" || job.state === "waiting");
    setText(state, isHeld ? "queued" : stateOf(job));
    setHidden(waits, !isHeld);
    setText(before, isHeld ? `${waitsFor.kind} of ${short(waitsFor.subject)}` : "");
    posted.show(new Date(job.posted_at), ago(Date.parse(job.posted_at)));
    showProgress(bar, numbers, job);
    showTrouble(trouble, remedy, job, context);
    setHidden(retry, !(context.mayChange && isCurrent && (job.state === "failed" || job.state === "cancelled")));
    setHidden(dismiss, !(context.mayChange && isCurrent && job.state === "failed" && !job.dismissed));
    setHidden(cancel, !(context.mayChange && !hasEnded(job)));
    cancel.disabled = job.cancel_asked;
    retry.className = job.state === "failed" && job.attempts.at(-1)?.class !== "refused" ? "" : "quiet-button";
    setAttribute(retry, "aria-label", `Try again: ${titleOf(job)}`);
    setAttribute(cancel, "aria-label", `Cancel: ${titleOf(job)}`);
    setAttribute(dismiss, "aria-label", `Dismiss: ${titleOf(job)}`);
    attempts.show(job);
  };
  return { node, show };
}

/** Once at a time; a refusal is shown beside the button that was pressed. */
export async function act(button, refusal, work) {
  if (button.ariaBusy === "true") return;
  button.ariaBusy = "true";
  setText(refusal, "");
  try {
    await work();
  } catch (error) {
    setText(refusal, error.message);
  } finally {
    button.ariaBusy = "false";
  }
}

function stateOf(job) {
  const last = job.attempts.at(-1);
  if (hasEnded(job)) {
    const after = lasted(Date.parse(job.ended_at) - Date.parse(job.posted_at));
    return `${job.state} after ${after}${job.dismissed ? ", and dismissed" : ""}`;
  }
  if (job.cancel_asked) return "asked to stop; its worker notices within seconds";
  if (job.state === "running" && last) return `running for ${lasted(now() - Date.parse(last.started_at))}`;
  if (job.state === "waiting" && last?.not_before) return `the next try is ${until(Date.parse(last.not_before))}`;
  return WORDS[job.state] ?? job.state;
}

function showProgress(bar, numbers, job) {
  const { completed, total, bytes_per_second: rate, status } = job.progress;
  const goesOn = !hasEnded(job);
  setHidden(bar, !(goesOn && total > 0));
  setHidden(numbers, !goesOn || (!total && !status));
  if (!goesOn) return;
  if (total > 0) {
    bar.max = total;
    bar.value = Math.min(completed, total);
    setAttribute(bar, "aria-label", `Progress of ${titleOf(job)}`);
    setText(bar, percent(completed, total));
  }
  setText(numbers, amounts(job.progress).join(" · "));
}

const percent = (completed, total) => `${Math.min(100, Math.floor((100 * completed) / total))} %`;

function amounts({ completed, total, bytes_per_second: rate, status }) {
  const parts = [];
  if (total > 0) parts.push(percent(completed, total), `${bytes(completed)} of ${bytes(total)}`);
  if (total > 0 && rate > 0 && completed < total) {
    parts.push(`${bytes(rate)}/s`, `${lasted((1000 * (total - completed)) / rate)} left`);
  }
  if (status) parts.push(status);
  return parts;
}

function showTrouble(trouble, remedy, job, { remedies }) {
  const last = job.attempts.at(-1);
  const isBad = last && last.message && (job.state === "failed" || job.state === "waiting");
  setHidden(trouble, !isBad);
  setProse(trouble, isBad ? why(last) : "");
  const advice = job.state === "failed" && last ? [last.hint, remedyOf(job, remedies, last.class ?? "bug")] : [];
  const known = advice.filter(Boolean).map(sentence);
  setHidden(remedy, known.length === 0);
  setProse(remedy, known.join(" "));
}

export const sentence = (text) => `${text[0].toUpperCase()}${text.slice(1)}.`;

/** `not found: registry.ollama.ai has no such model`. */
const why = ({ class: kind, message }) => (kind ? `${kind.replaceAll("_", " ")}: ${message}` : message);

function remedyOf(job, remedies, cause) {
  const template = remedies?.[`${job.kind}/${cause}`] ?? remedies?.[cause];
  return template?.replaceAll("{id}", () => job.id).replaceAll("{subject}", () => job.subject);
}

function story() {
  const summary = el("summary");
  const list = el("ol", { class: "attempts" });
  const facts = el("dl", { class: "facts" });
  const node = el("details", { class: "story" }, summary, list, facts);
  const show = (job) => {
    const tries = `: ${count(job.attempts.length, "attempt")} of ${job.attempts_allowed}`;
    setText(summary, `Story${job.attempts.length ? tries : ""}`);
    keep(list, job.attempts, ({ n }) => n, attempt);
    keep(facts, factsOf(job), ([name]) => name, fact);
  };
  return { node, show };
}

function attempt() {
  const head = el("p", { class: "attempt-head" });
  const reason = el("p", { class: "attempt-why" });
  const hint = el("p", { class: "quiet" });
  const node = el("li", {}, head, reason, hint);
  const show = (record) => {
    const end = record.ended_at ? Date.parse(record.ended_at) : now();
    const took = lasted(end - Date.parse(record.started_at));
    const outcome = record.outcome === "retry" ? "failed, to be tried again" : (record.outcome ?? "goes on");
    setText(head, `${clock(new Date(record.started_at))}, ${outcome} after ${took}, on ${record.worker}`);
    setProse(reason, record.message ? why(record) : "");
    setHidden(reason, !record.message);
    setProse(hint, record.hint ? `Hint: ${record.hint}` : "");
    setHidden(hint, !record.hint);
  };
  return { node, show };
}

function fact() {
  const name = el("dt");
  const value = el("dd");
  const node = el("div", {}, name, value);
  const show = ([key, text]) => {
    setText(name, key);
    setText(value, text);
  };
  return { node, show };
}

function factsOf(job) {
  const asked = Object.entries(job.request ?? {}).filter(([, value]) => value !== null && value !== undefined);
  return [
    ["job", job.id],
    ["posted by", job.posted_by || "somebody"],
    ...asked.map(([key, value]) => [`asked ${key.replaceAll("_", " ")}`, String(value)]),
    ...Object.entries(job.result ?? {}).map(([key, value]) => [key.replaceAll("_", " "), shown(key, value)]),
  ];
}

function shown(key, value) {
  if (typeof value === "number" && /size|bytes/.test(key)) return bytes(value);
  return typeof value === "object" && value !== null ? JSON.stringify(value) : String(value);
}
