// The first line: is all well, and if not, what needs somebody.

import { el, icon, keep, setIcon, setText } from "/ui/dom.js";
import { currentOf, hasEnded, titleOf } from "/ui/jobs.js";
import { count, dollars, now } from "/ui/words.js";

const DAY = 24 * 3600 * 1000;

/** Says in one line how it stands; the lines below say what is wrong. */
export function headline({ section, title, list, summary }, known) {
  const { health, tiers, jobs } = known;
  if (health === null || tiers === null || jobs === null) return;
  const wrong = problemsOf(known);
  section.dataset.state = wrong.length ? "trouble" : "well";
  if (!title.firstElementChild) title.append(icon("succeeded"), el("span"));
  setIcon(title.firstElementChild, wrong.length ? "degraded" : "succeeded");
  const needs = `${count(wrong.length, "thing")} ${wrong.length === 1 ? "needs" : "need"} you`;
  setText(title.lastElementChild, wrong.length ? needs : "All is well");
  keep(list, wrong, ({ words }) => words, problem);
  setText(summary, factsOf(known));
}

function problem({ job }) {
  const line = job ? el("a", { href: `#job-${job.id}` }) : el("span");
  return { node: el("li", {}, line), show: ({ words }) => setText(line, words) };
}

function problemsOf({ health, tiers, jobs, board }) {
  const bad = tiers.filter(({ state }) => state === "degraded" || state === "lost");
  return [
    ...health.problems.map((line) => ({ words: `${capital(line)}.` })),
    ...bad.map(({ tier, state, why }) => ({ words: `Tier ${tier} is ${state}${why ? `: ${why}` : ""}.` })),
    ...unmended(jobs, board?.changing).map((job) => ({ job, words: `${capital(titleOf(job))} failed and was not tried again.` })),
  ];
}

/** Jobs that failed within a day, and that no later one supersedes. */
function unmended(jobs, changing) {
  const isFresh = ({ ended_at: end }) => now() - Date.parse(end) < DAY;
  return currentOf(jobs, changing).filter((job) => job.state === "failed" && !job.dismissed && isFresh(job));
}

function factsOf({ tiers, jobs, health, board }) {
  const states = new Map();
  for (const { state } of tiers) states.set(state, (states.get(state) ?? 0) + 1);
  const counts = [...states].map(([state, number]) => `${number} ${state}`).join(", ");
  const parts = [`${count(tiers.length, "tier")}${counts ? `: ${counts}` : ""}`];
  parts.push(count(health.models.count, "model"));
  const open = jobs.filter((job) => !hasEnded(job)).length;
  parts.push(open ? `${count(open, "job")} under way` : "no job under way");
  const spent = Object.values(board?.tiers ?? {}).map(({ dollars_now: now }) => now);
  if (spent.some((now) => typeof now === "number")) {
    const sum = spent.reduce((total, now) => total + (now ?? 0), 0);
    parts.push(sum > 0 ? `${dollars(sum)} an hour now` : "nothing is spent on GPUs now");
  }
  return parts.join(" · ");
}

const capital = (text) => `${text[0].toUpperCase()}${text.slice(1)}`;
