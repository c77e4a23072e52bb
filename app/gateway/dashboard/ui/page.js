// The page: signs in, polls the ops API while somebody looks at the page, and shows what it learns.

import * as api from "/ui/api.js";
import { Asking } from "/ui/asking.js";
import { el, keep, setHidden, setText } from "/ui/dom.js";
import { Following } from "/ui/following.js";
import { hasEnded, showJobs, titleOf } from "/ui/jobs.js";
import { Polling } from "/ui/polling.js";
import { showModels } from "/ui/models.js";
import { headline } from "/ui/now.js";
import { showLastNight, showRuns } from "/ui/runs.js";
import { showTiers } from "/ui/tiers.js";
import { Weeks } from "/ui/weeks.js";
import { bytes, count, short } from "/ui/words.js";

const at = (id) => document.getElementById(id);

const SECOND = 1000;
const BRISK = 5 * SECOND; // while something is under way
const CALM = 15 * SECOND;
const SLOW = 60 * SECOND;
const RARE = 5 * 60 * SECOND;
const LISTED = 20;

const known = { board: null, night: null, tiers: null, health: null, models: null, complaints: [], jobs: null, total: 0 };
known.failed = null; // all that has failed, while somebody wants to see it
let listed = LISTED;
let which = "all";

const asking = new Asking(at("asking"));
const weeks = new Weeks(at("charts"), at("weeks-note"));
const following = new Following((job) => {
  if (known.jobs === null) return;
  takeJobs(known.jobs.map((each) => (each.id === job.id && moves(job) >= moves(each) ? job : each)));
});

const polling = new Polling(
  [
    { path: () => "board", every: () => SLOW, take: takeBoard },
    { path: () => "night", every: () => SLOW, take: (answer) => (known.night = answer) },
    { path: () => "tiers", every: pace, take: (answer) => (known.tiers = answer.tiers) },
    { path: () => `jobs?limit=${listed}`, every: pace, take: takeList },
    { path: failedPath, every: pace, take: takeFailed, isWanted: () => which === "failed" },
    { path: () => "models", every: () => SLOW, take: takeModels },
    { path: () => "health", every: () => CALM, take: (answer) => (known.health = answer) },
    { ...weeks.poll, every: () => RARE },
  ],
  { isOn: () => !at("board").hidden, after: show, refused: signIn },
);

function pace() {
  const isBusy = known.jobs?.some((job) => !hasEnded(job)) || known.tiers?.some(({ state }) => state === "waking");
  return isBusy ? BRISK : CALM;
}

function failedPath() {
  return `jobs?limit=${listed}&state=failed`;
}

// -- taking what was learnt in ----------------------------------------------------------------------------------------

function takeBoard(answer) {
  known.board = answer;
  setHidden(at("simulated"), !answer.simulated);
  weeks.setCaller(answer.caller);
  const { name, scopes, keyless } = answer.caller;
  setText(at("caller"), keyless ? "" : `${name} (${scopes.join(", ")})`);
  setHidden(at("caller"), keyless);
  setHidden(at("forget"), keyless);
}

function takeModels(answer) {
  known.models = answer.models;
  known.complaints = answer.complaints;
}

function takeList({ jobs, total }) {
  known.total = total;
  takeJobs(jobs);
}

function takeFailed({ jobs, total }) {
  known.failed = { jobs, total };
}

function takeJobs(jobs) {
  const before = new Map((known.jobs ?? []).map((job) => [job.id, job.state]));
  known.jobs = jobs;
  for (const job of jobs) {
    const was = before.get(job.id);
    if (was && was !== job.state && hasEnded(job)) {
      announce(`${titleOf(job)}: ${job.state}`);
      polling.again("models", "health", "tiers");
    }
  }
  following.follow(jobs.filter((job) => job.state === "running"));
  show();
}

/** One that was posted or changed by us: in its place, or as the newest. */
function takeJob(job) {
  const others = known.jobs ?? [];
  const isKnown = others.some(({ id }) => id === job.id);
  takeJobs(isKnown ? others.map((each) => (each.id === job.id ? job : each)) : [job, ...others]);
}

/** How many moves of its state a job has behind it. Events tell its past, too; the list may be ahead of them. */
const moves = ({ attempts }) => attempts.reduce((sum, { outcome }) => sum + (outcome === null ? 1 : 2), 0);

function announce(text) {
  setText(at("news"), text);
}

// -- showing ----------------------------------------------------------------------------------------------------------

function show() {
  const mayChange = known.board?.caller.scopes.includes("admin") ?? false;
  showConnection();
  headline({ section: at("now"), title: at("now-title"), list: at("problems"), summary: at("standing") }, known);
  if (known.tiers) showTiers(at("tier-list"), known.tiers, known.board);
  setText(at("tiers-note"), tiersNote());
  showJobList(mayChange);
  showModelList(mayChange);
  setHidden(at("pull-form"), !mayChange);
  setHidden(at("read-only"), mayChange || known.board === null);
  if (known.board && !mayChange) {
    const { name, scopes } = known.board.caller;
    const why = `Key ${name} has the scope ${scopes.join(" and ")}: it may look.`;
    setText(at("read-only"), `${why} To pull, cancel or try again, sign in with a key of scope admin.`);
  }
  if (known.board) showRuns(at("run-list"), at("next-note"), known.board);
  if (known.night) showLastNight(at("last-night"), known.night);
  setText(at("prices"), pricesNote());
}

function showConnection() {
  const trouble = polling.trouble;
  at("live").dataset.state = trouble ? "lost" : known.tiers ? "live" : "starting";
  setText(at("live"), trouble ? "Not up to date" : known.tiers ? "Live" : "Connecting");
  setHidden(at("offline"), trouble === null);
  if (trouble === null) return;
  const next = Math.ceil(trouble.wait / SECOND);
  setText(at("offline"), `${trouble.message} This page shows what it knew; it asks again in ${next} s.`);
}

function tiersNote() {
  if (known.tiers?.length === 0) return "No tier is declared.";
  return known.board && !known.board.prices ? "No prices are declared for these servers." : "";
}

function pricesNote() {
  const prices = known.board?.prices;
  return prices ? `Prices are of ${prices.as_of}, from ${prices.source}; what they add up to is an estimate.` : "";
}

function showJobList(mayChange) {
  if (known.jobs === null) return;
  const chosen = {
    all: () => known.jobs,
    open: () => known.jobs.filter((job) => !hasEnded(job)),
    failed: () => known.failed?.jobs ?? known.jobs.filter(({ state }) => state === "failed"),
  }[which]();
  const { remedies, changing } = known.board ?? {};
  showJobs(at("job-list"), chosen, { remedies, changing, mayChange, act, jobs: known.jobs });
  const none = { all: "No job was ever posted.", open: "Nothing is under way.", failed: "No job has failed." }[which];
  setText(at("jobs-note"), chosen.length ? "" : none);
  const total = { all: known.total, open: 0, failed: known.failed?.total ?? 0 }[which];
  setHidden(at("more-jobs"), total <= chosen.length);
}

function showModelList(mayChange) {
  if (known.models === null) return;
  const declared = known.board?.models ?? {};
  const used = known.board?.last_used ?? {};
  const models = known.models.map((model) => {
    const folded = model.name.toLowerCase(); // the board knows models by their names in small letters
    return { ...model, ...declared[folded], last_used: used[folded] };
  });
  showModels(at("model-list"), models, { mayChange, ask });
  setHidden(at("model-table"), models.length === 0);
  const total = known.models.reduce((sum, { size }) => sum + size, 0);
  const quota = known.board?.quota_bytes;
  const room = quota ? `${bytes(total)} of a quota of ${bytes(quota)}` : `${bytes(total)}, with no quota`;
  const sum = `${count(models.length, "model")}, ${room}. Models may share parts of that.`;
  setText(at("models-note"), models.length ? sum : "No model is here yet.");
  keep(at("complaints"), known.complaints, (line) => line, () => {
    const node = el("li");
    return { node, show: (line) => setText(node, line) };
  });
}

// -- doing ------------------------------------------------------------------------------------------------------------

async function act(verb, job) {
  const { document: now } = await api.post(`jobs/${encodeURIComponent(job.id)}/${verb}`).catch(refused);
  announce(`${titleOf(job)} is ${{ cancel: "asked to stop", retry: "tried again", dismiss: "dismissed" }[verb]}`);
  takeJob(now);
  polling.again("jobs");
}

/** Ask whether this is to be done with a model, and post it as a job. */
function ask({ kind, model, ...question }) {
  const work = async () => {
    const { document: job } = await api.post("jobs", { kind, model }).catch(refused);
    announce(`${titleOf(job)} is posted; how it ends is under Jobs`);
    takeJob(job);
    polling.again("jobs");
  };
  asking.ask({ ...question, work });
}

function refused(error) {
  if (error.status === 401) signIn(error);
  if (error.status === 0) polling.wake(); // the polls will say the same, and when it is over
  throw error;
}

at("pull-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  const model = form.elements.model.value.trim();
  const button = form.querySelector("button");
  button.disabled = true;
  setText(at("pull-trouble"), "");
  try {
    const { isNew, document: job } = await api.post("jobs", { kind: "pull", model }).catch(refused);
    const news = isNew ? "is posted; its progress is under Jobs" : "is under way already; you share it";
    announce(`The pull of ${short(job.subject)} ${news}`);
    takeJob(job);
    polling.again("jobs");
    form.reset();
  } catch (error) {
    setText(at("pull-trouble"), error.message);
  } finally {
    button.disabled = false;
    form.elements.model.focus();
  }
});

at("more-jobs").addEventListener("click", () => {
  listed += LISTED * 2;
  polling.again("jobs");
});

for (const choice of document.querySelectorAll('input[name="which"]')) {
  choice.addEventListener("change", () => {
    which = choice.value;
    listed = LISTED;
    known.failed = null;
    polling.again("jobs");
    show();
  });
}

// -- signing in and out -----------------------------------------------------------------------------------------------

function signIn(error) {
  const wasRefused = api.key.get() !== null;
  api.key.forget();
  following.stop();
  setHidden(at("board"), true);
  setHidden(at("nav"), true);
  setHidden(at("forget"), true);
  setHidden(at("caller"), true);
  setHidden(at("sign-in"), false);
  setHidden(at("offline"), true);
  at("live").dataset.state = "starting";
  setText(at("live"), "Not signed in");
  setText(at("key-trouble"), wasRefused && error ? error.message : "");
  at("key").value = "";
  at("key").focus();
}

at("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = at("key").value.trim();
  if (!/^[\x21-\x7e]+$/.test(text)) {
    setText(at("key-trouble"), "This is no key: it has characters that no key has. Copy it again.");
    return;
  }
  api.key.set(text);
  if (known.board === null) begin();
  else location.reload(); // nothing that another key let us see stays
});

at("forget").addEventListener("click", () => {
  api.key.forget();
  location.reload(); // nothing that the key let us see stays
});

async function begin() {
  let answer;
  try {
    answer = await api.get("board");
  } catch (error) {
    if (error.status === 401 || error.status === 403) return signIn(error);
    setText(at("live"), "Not reached");
    at("live").dataset.state = "lost";
    setHidden(at("offline"), false);
    setText(at("offline"), `${error.message} This page asks again in ${BRISK / SECOND} s.`);
    setTimeout(begin, Math.max(BRISK, error.retryAfter ?? 0));
    return;
  }
  setHidden(at("offline"), true);
  const hadForm = !at("sign-in").hidden;
  setHidden(at("sign-in"), true);
  setHidden(at("board"), false);
  setHidden(at("nav"), false);
  if (hadForm) at("main").focus();
  takeBoard(answer);
  polling.wake();
}

window.addEventListener("online", () => {
  if (!at("board").hidden) polling.wake();
});

document.addEventListener("visibilitychange", () => {
  if (document.hidden) following.stop();
  else if (!at("board").hidden) polling.wake();
});

begin();
