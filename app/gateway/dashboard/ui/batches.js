// The batches: how far each is, what it took beside what was told, what it waits for, and the button that ends one.

import { el, icon, keep, setAttribute, setHidden, setIcon, setProse, setText, time } from "./dom.js";
import { sentence } from "./jobs.js";
import { ago, clock, count, dollars, lasted, now, until } from "./words.js";

export const SHOWN = 10;

const MARKS = {
  validating: "running", in_progress: "running", finalizing: "running", cancelling: "running",
  completed: "succeeded", failed: "failed", expired: "failed", cancelled: "cancelled",
};
const WORDS = {
  validating: "validating, its lines are read through",
  in_progress: "in progress",
  finalizing: "finalizing, its results are put together",
  cancelling: "asked to end; its worker notices within seconds",
};
const SOON = 5000; // milliseconds after which it can be said how fast a batch is

export const isOver = ({ status }) => ["completed", "failed", "expired", "cancelled"].includes(status);

/** `batches` as the API lists them, the newest first; `ask(batch)` asks whether one is to end. */
export function showBatches(list, note, { batches, more }, ask) {
  keep(list, batches.map((batch) => ({ ...batch, ask })), ({ id }) => id, row);
  const none = "No batch was posted yet. `ollama-modal batch FILE` posts one, and so do OpenAI's and Anthropic's clients.";
  setProse(note, batches.length ? (more ? "There are older ones: `ollama-modal batches` lists them." : "") : none);
}

function row() {
  let latest = null;
  const mark = icon("queued");
  const name = el("bdi", { class: "subject" });
  const state = el("span", { class: "state-words" });
  const posted = time();
  const by = el("span");
  const bar = el("progress", { class: "bar" });
  const numbers = el("p", { class: "numbers" });
  const trouble = el("p", { class: "trouble" });
  const note = el("p", { class: "remedy" });
  const cancel = el("button", { type: "button", class: "quiet-button", text: "Cancel", on: { click: () => latest.ask(latest) } });
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
        el("span", { class: "job-title" }, name),
        el("span", { class: "job-state" }, state, el("span", { class: "quiet" }, " · posted ", posted.node, by)),
      ),
      bar,
      numbers,
      trouble,
      note,
    ),
    el("div", { class: "job-actions" }, cancel),
  );
  const show = (batch) => {
    latest = batch;
    node.id = `batch-${batch.id}`;
    const looks = isWaiting(batch) ? "waiting" : (MARKS[batch.status] ?? "queued");
    node.dataset.state = looks;
    setIcon(mark, looks);
    setText(name, batch.id);
    setText(state, stateOf(batch));
    posted.show(new Date(batch.created_at), ago(Date.parse(batch.created_at)));
    setText(by, batch.posted_by ? ` by ${batch.posted_by}` : "");
    showProgress(bar, batch);
    setText(numbers, amounts(batch).join(" · "));
    setHidden(numbers, amounts(batch).length === 0);
    showTrouble(trouble, batch);
    setHidden(note, !batch.note || isOver(batch));
    setProse(note, batch.note ? sentence(batch.note.replace(/\.$/, "")) : "");
    setHidden(cancel, isOver(batch));
    cancel.disabled = batch.status === "cancelling";
    setAttribute(cancel, "aria-label", `Cancel: ${batch.id}`);
  };
  return { node, show };
}

const ended = ({ lines }) => lines.completed + lines.failed;
const isWaiting = (batch) => !isOver(batch) && batch.starts_at !== null && batch.status !== "cancelling";

function stateOf(batch) {
  if (isOver(batch)) {
    const after = batch.ended_at ? ` after ${lasted(Date.parse(batch.ended_at) - Date.parse(batch.created_at))}` : "";
    return `${batch.status}${after}`;
  }
  if (isWaiting(batch)) return `waits; it begins ${until(Date.parse(batch.starts_at))} at the latest`;
  return WORDS[batch.status] ?? batch.status;
}

function showProgress(bar, batch) {
  const { total } = batch.lines;
  setHidden(bar, isOver(batch) || total === 0);
  if (total === 0) return;
  bar.max = total;
  bar.value = ended(batch);
  setAttribute(bar, "aria-label", `Progress of ${batch.id}`);
}

/** Lines, tokens, dollars so far beside those that were told, and the time left. */
function amounts(batch) {
  const { lines, use, estimate } = batch;
  const parts = [];
  if (lines.total > 0) parts.push(`${ended(batch).toLocaleString("en")} of ${count(lines.total, "line")}`);
  if (lines.failed > 0) parts.push(`${lines.failed.toLocaleString("en")} failed`);
  const tokens = use.prompt_tokens + use.output_tokens;
  if (tokens > 0) parts.push(count(tokens, "token"));
  parts.push(...money(use.dollars, told(estimate), isOver(batch)));
  if (!isOver(batch)) parts.push(...pace(batch));
  return parts;
}

const told = (estimate) => (estimate?.dollars == null ? null : estimate.dollars + (estimate.extra_dollars ?? 0));

function money(spent, expected, isAll) {
  const cost = `${dollars(spent ?? 0)}${isAll ? "" : " so far"}`;
  if (expected !== null) return [`${cost}, ${dollars(expected)} told`];
  return spent === null ? [] : [cost];
}

function pace(batch) {
  if (batch.in_progress_at === null) return batch.estimate ? [`told to be done by ${clock(new Date(batch.estimate.done_at))}`] : [];
  const worked = now() - Date.parse(batch.in_progress_at);
  const done = ended(batch);
  if (worked < SOON || done === 0 || done >= batch.lines.total) return [];
  return [`${lasted((worked * (batch.lines.total - done)) / done)} left`];
}

function showTrouble(trouble, batch) {
  const [first, ...others] = batch.errors;
  setHidden(trouble, !first);
  const line = first?.line ? `line ${first.line.toLocaleString("en")}: ` : "";
  const more = others.length ? ` And ${count(others.length, "other")}.` : "";
  setProse(trouble, first ? `${sentence(`${line}${first.message}`.replace(/\.$/, ""))}${more}` : "");
}
