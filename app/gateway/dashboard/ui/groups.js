// Failures of one kind as one line: how many, why, what to do about all of them, and each of them behind a click.

import { get } from "./api.js";
import { el, icon, keep, setAttribute, setHidden, setProse, setText, time } from "./dom.js";
import { act, jobRow, sentence } from "./jobs.js";
import { ago, count } from "./words.js";

const SHOWN = 25;
const MOST = 1000;

/** `239 pull jobs`. */
export const groupTitle = ({ kind, count: number }) => count(number, `${kind} job`);

/** `not found` of `not_found`. */
export const causeOf = (group) => group.class.replaceAll("_", " ");

export function groupRow() {
  let latest = null;
  const title = el("span", { class: "job-title" });
  const newest = time();
  const trouble = el("p", { class: "trouble" });
  const remedy = el("p", { class: "remedy" });
  const refusal = el("p", { class: "trouble", role: "alert" });
  const press = (verb) => (event) => act(event.currentTarget, refusal, () => latest.context.actAll(verb, latest.group));
  const retry = el("button", { type: "button", text: "Try all again", on: { click: press("retry") } });
  const dismiss = el("button", { type: "button", text: "Dismiss all", on: { click: press("dismiss") } });
  dismiss.className = "quiet-button";
  const each = members();
  const node = el(
    "li",
    { class: "job group", "data-state": "failed" },
    el("div", { class: "job-mark" }, icon("failed")),
    el(
      "div",
      { class: "job-body" },
      el(
        "p",
        { class: "job-head" },
        title,
        el("span", { class: "job-state" }, el("span", { class: "quiet" }, "the newest posted ", newest.node)),
      ),
      trouble,
      remedy,
      refusal,
    ),
    el("div", { class: "job-actions" }, retry, dismiss),
    each.node,
  );
  const show = (known) => {
    latest = known;
    const { group, context } = known;
    node.id = `job-${group.newest.id}`;
    setText(title, `${groupTitle(group)} failed in the same way`);
    newest.show(new Date(group.newest_at), ago(Date.parse(group.newest_at)));
    setProse(trouble, `${causeOf(group)}: ${group.message ?? "no message"}`);
    setProse(remedy, sentence(group.remedy));
    setHidden(retry, !(context.mayChange && group.can_retry));
    setHidden(dismiss, !context.mayChange);
    setAttribute(retry, "aria-label", `Try all again: ${groupTitle(group)}`);
    setAttribute(dismiss, "aria-label", `Dismiss all: ${groupTitle(group)}`);
    each.show(group, context);
  };
  return { node, show };
}

/** The jobs of a group, asked for when somebody opens it, and again when the group has changed. */
function members() {
  let latest = null;
  let jobs = [];
  let wanted = SHOWN;
  let asked = "";
  const summary = el("summary");
  const list = el("ul", { class: "jobs members" });
  const note = el("p", { class: "quiet note" });
  const more = el("button", { type: "button", class: "quiet-button", text: "Show more of these" });
  const node = el("details", { class: "story" }, summary, list, note, more);

  const load = async () => {
    const { group } = latest;
    asked = `${group.count} ${group.newest.id} ${wanted}`;
    const query = new URLSearchParams({ dead: "true", kind: group.kind, class: group.class, limit: wanted });
    try {
      jobs = (await get(`jobs?${query}`)).jobs;
      setText(note, "");
    } catch (error) {
      setText(note, error.message);
    }
    draw();
  };
  const draw = () => {
    const { group, context } = latest;
    keep(list, jobs.map((job) => ({ job, context, isCurrent: true })), ({ job }) => job.id, () => jobRow("member"));
    const left = Math.min(group.count, MOST) - jobs.length;
    setHidden(more, jobs.length === 0 || left <= 0);
    if (group.count > MOST && jobs.length >= MOST) setText(note, `These are the newest ${jobs.length}.`);
  };
  const isOutdated = () => node.open && asked !== `${latest.group.count} ${latest.group.newest.id} ${wanted}`;

  node.addEventListener("toggle", () => {
    if (isOutdated()) load();
  });
  more.addEventListener("click", () => {
    wanted = Math.min(MOST, wanted * 4);
    load();
  });
  const show = (group, context) => {
    latest = { group, context };
    setText(summary, `Each of them: ${groupTitle(group)}`);
    if (isOutdated()) load();
    else if (node.open) draw();
  };
  return { node, show };
}
