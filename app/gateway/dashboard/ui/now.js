// The first line: is all well, and if not, what needs somebody. Of jobs it tells what the gateway says of all of them.

import { el, icon, keep, setIcon, setText } from "./dom.js";
import { causeOf, groupTitle } from "./groups.js";
import { titleOf } from "./jobs.js";
import { count, dollars } from "./words.js";

/** Says in one line how it stands; the lines below say what is wrong, and `seek(job)` brings a job into sight. */
export function headline({ section, title, list, summary }, known, seek) {
  const { health, tiers, summary: jobs } = known;
  if (health === null || tiers === null || jobs === null) return;
  const wrong = problemsOf(known);
  section.dataset.state = wrong.length ? "trouble" : "well";
  if (!title.firstElementChild) title.append(icon("succeeded"), el("span"));
  setIcon(title.firstElementChild, wrong.length ? "degraded" : "succeeded");
  const needs = `${count(wrong.length, "thing")} ${wrong.length === 1 ? "needs" : "need"} you`;
  setText(title.lastElementChild, wrong.length ? needs : "All is well");
  keep(list, wrong, ({ words }) => words, (item) => problem(item, seek));
  setText(summary, factsOf(known));
}

function problem({ job }, seek) {
  let latest = job;
  const press = (event) => {
    event.preventDefault();
    seek(latest, "failed");
  };
  const line = job ? el("a", { href: "#jobs", on: { click: press } }) : el("span");
  const show = (item) => {
    latest = item.job;
    setText(line, item.words);
  };
  return { node: el("li", {}, line), show };
}

function problemsOf({ health, tiers, summary }) {
  const bad = tiers.filter(({ state }) => state === "degraded" || state === "lost");
  return [
    ...health.problems.map((line) => ({ words: `${capital(line)}.` })),
    ...bad.map(({ tier, state, why }) => ({ words: `Tier ${tier} is ${state}${why ? `: ${why}` : ""}.` })),
    ...summary.dead.flatMap(failures),
  ];
}

/** A line for each, or one for all where they are many. */
function failures(group) {
  if (group.few.length === 0) {
    return [{ job: group.newest, words: `${groupTitle(group)} failed (${causeOf(group)}) and were not tried again.` }];
  }
  return group.few.map((job) => ({ job, words: `${capital(titleOf(job))} failed and was not tried again.` }));
}

function factsOf({ tiers, summary, health, board }) {
  const states = new Map();
  for (const { state } of tiers) states.set(state, (states.get(state) ?? 0) + 1);
  const counts = [...states].map(([state, number]) => `${number} ${state}`).join(", ");
  const parts = [`${count(tiers.length, "tier")}${counts ? `: ${counts}` : ""}`];
  parts.push(count(health.models.count, "model"));
  parts.push(summary.open ? `${count(summary.open, "job")} under way` : "no job under way");
  const spent = Object.values(board?.tiers ?? {}).map(({ dollars_now: now }) => now);
  if (spent.some((now) => typeof now === "number")) {
    const sum = spent.reduce((total, now) => total + (now ?? 0), 0);
    parts.push(sum > 0 ? `${dollars(sum)} an hour now` : "nothing is spent on GPUs now");
  }
  return parts.join(" · ");
}

const capital = (text) => `${text[0].toUpperCase()}${text.slice(1)}`;
