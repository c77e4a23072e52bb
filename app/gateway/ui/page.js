// The page: signs in, looks at the ops API now and then while somebody looks at the page, and shows what it learns.

import * as api from "/ui/api.js";
import { el, icon, keep, setHidden, setIcon, setText } from "/ui/dom.js";
import { Following } from "/ui/following.js";
import { hasEnded, showJobs, titleOf } from "/ui/jobs.js";
import { showModels } from "/ui/models.js";
import { headline } from "/ui/now.js";
import { showRuns } from "/ui/runs.js";
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

const known = { board: null, tiers: null, jobs: null, total: 0, models: null, complaints: [], health: null };
let listed = LISTED;
let which = "all";
let ticking = null;

const weeks = new Weeks(at("charts"), at("weeks-note"));
const following = new Following((job) => {
  if (known.jobs === null) return;
  takeJobs(known.jobs.map((each) => (each.id === job.id && moves(job) >= moves(each) ? job : each)));
});

// A look asks one question; `take` keeps the answer. One that is missing on this gateway (404) is asked rarely.
const looks = [
  { path: () => "board", every: () => SLOW, take: (told) => takeBoard(told) },
  { path: () => "tiers", every: pace, take: (told) => (known.tiers = told.tiers) },
  { path: jobsPath, every: pace, take: (told) => ((known.total = told.total), takeJobs(told.jobs)) },
  { path: () => "models", every: () => SLOW, take: takeModels },
  { path: () => "health", every: () => CALM, take: (told) => (known.health = told) },
  { ...weeks.look, every: () => RARE },
].map((look) => ({ ...look, due: 0, busy: false, failures: 0 }));

function pace() {
  const isBusy = known.jobs?.some((job) => !hasEnded(job)) || known.tiers?.some(({ state }) => state === "waking");
  return isBusy ? BRISK : CALM;
}

function jobsPath() {
  return `jobs?limit=${listed}${which === "failed" ? "&state=failed" : ""}`;
}

// -- looking ----------------------------------------------------------------------------------------------------------

function tick() {
  ticking = null;
  if (document.hidden || at("board").hidden) return; // nobody looks, so nothing is asked
  for (const look of looks) if (!look.busy && look.due <= Date.now()) ask(look);
  show();
  ticking = setTimeout(tick, SECOND);
}

async function ask(look) {
  look.busy = true;
  const path = look.path();
  try {
    const told = await api.get(path);
    recovered();
    look.failures = 0;
    look.due = Date.now() + look.every();
    if (path === look.path()) look.take(told);
    else look.due = 0; // the reader has chosen something else meanwhile
  } catch (error) {
    failed(look, error);
  } finally {
    look.busy = false;
  }
  show();
}

function failed(look, error) {
  if (error.status === 401) return signIn(error);
  look.failures += 1;
  const patience = error.status === 404 ? RARE : Math.min(SLOW, BRISK * look.failures);
  look.due = Date.now() + Math.max(patience, error.retryAfter ?? 0);
  look.trouble = error;
}

/** One answer tells that the gateway is back: what could not be reached is asked again at once. */
function recovered() {
  for (const look of looks) if (look.failures > 0 && look.trouble.status === 0) look.due = 0;
}

function wake() {
  for (const look of looks) look.due = 0;
  if (ticking === null) tick();
}

function lookAgain(...takes) {
  for (const look of looks) if (takes.some((path) => look.path().startsWith(path))) look.due = 0;
}

// -- taking what was learnt in -----------------------------------------------------------------------------------------

function takeBoard(told) {
  known.board = told;
  weeks.setCaller(told.caller);
  const { name, scopes, keyless } = told.caller;
  setText(at("caller"), keyless ? "" : `${name} (${scopes.join(", ")})`);
  setHidden(at("caller"), keyless);
  setHidden(at("forget"), keyless);
}

function takeModels(told) {
  known.models = told.models;
  known.complaints = told.complaints;
}

function takeJobs(jobs) {
  const before = new Map((known.jobs ?? []).map((job) => [job.id, job.state]));
  known.jobs = jobs;
  for (const job of jobs) {
    const was = before.get(job.id);
    if (was && was !== job.state && hasEnded(job)) {
      announce(`${titleOf(job)}: ${job.state}`);
      lookAgain("models", "health", "tiers");
    }
  }
  following.follow(jobs.filter((job) => job.state === "running"));
  show();
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
  headline({ section: at("now"), title: at("now-title"), list: at("problems"), standing: at("standing") }, known);
  if (known.tiers) showTiers(at("tier-list"), known.tiers, known.board);
  setText(at("tiers-note"), tiersNote());
  showJobList(mayChange);
  showModelList();
  setHidden(at("pull-form"), !mayChange);
  setHidden(at("read-only"), mayChange || known.board === null);
  if (known.board && !mayChange) {
    setText(at("read-only"), `Key ${known.board.caller.name} has the scope ${known.board.caller.scopes.join(" and ")}: it may look. To pull, cancel or try again, sign in with a key of scope admin.`);
  }
  if (known.board) showRuns(at("run-list"), at("next-note"), known.board);
  setText(at("prices"), pricesNote());
}

function showConnection() {
  const broken = looks.filter(({ failures }) => failures > 0).filter(({ trouble }) => trouble.status !== 404);
  const isLost = broken.length > 0;
  at("live").dataset.state = isLost ? "lost" : known.tiers ? "live" : "starting";
  setText(at("live"), isLost ? "Not up to date" : known.tiers ? "Live" : "Connecting");
  const next = Math.max(1, Math.ceil((Math.min(...broken.map(({ due }) => due)) - Date.now()) / SECOND));
  setHidden(at("offline"), !isLost);
  if (isLost) setText(at("offline"), `${broken[0].trouble.message} This page shows what it knew; it asks again in ${next} s.`);
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
  const chosen = which === "open" ? known.jobs.filter((job) => !hasEnded(job)) : known.jobs;
  showJobs(at("job-list"), chosen, { remedies: known.board?.remedies, mayChange, act });
  const none = { all: "No job was ever posted.", open: "Nothing is under way.", failed: "No job has failed." }[which];
  setText(at("jobs-note"), chosen.length ? "" : none);
  setHidden(at("more-jobs"), which === "open" || known.total <= known.jobs.length);
}

function showModelList() {
  if (known.models === null) return;
  const declared = known.board?.models ?? {};
  const used = known.board?.last_used ?? {};
  const models = known.models.map((model) => {
    const folded = model.name.toLowerCase(); // the board knows models by their names in small letters
    return { ...model, ...declared[folded], last_used: used[folded] };
  });
  showModels(at("model-list"), models);
  setHidden(at("model-table"), models.length === 0);
  const total = known.models.reduce((sum, { size }) => sum + size, 0);
  const quota = known.board?.quota_bytes;
  const room = quota ? `${bytes(total)} of a quota of ${bytes(quota)}` : `${bytes(total)}, with no quota`;
  setText(at("models-note"), models.length ? `${count(models.length, "model")}, ${room}. Models may share parts of that.` : "No model is here yet.");
  keep(at("complaints"), known.complaints, (line) => line, () => {
    const node = el("li");
    return { node, show: (line) => setText(node, line) };
  });
}

// -- doing ------------------------------------------------------------------------------------------------------------

async function act(verb, job) {
  const { document: now } = await api.post(`jobs/${encodeURIComponent(job.id)}/${verb}`).catch(refused);
  announce(verb === "cancel" ? `${titleOf(job)} is asked to stop` : `${titleOf(job)} is tried again`);
  takeJobs(known.jobs.some(({ id }) => id === now.id) ? known.jobs.map((each) => (each.id === now.id ? now : each)) : [now, ...known.jobs]);
  lookAgain("jobs");
}

function refused(error) {
  if (error.status === 401) signIn(error);
  if (error.status === 0) wake(); // the looks will say the same, and when it is over
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
    announce(isNew ? `The pull of ${short(job.subject)} is posted; its progress is under Jobs` : `The pull of ${short(job.subject)} is under way already; you share it`);
    takeJobs([job, ...(known.jobs ?? []).filter(({ id }) => id !== job.id)]);
    lookAgain("jobs");
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
  lookAgain("jobs");
});

for (const choice of document.querySelectorAll('input[name="which"]')) {
  choice.addEventListener("change", () => {
    which = choice.value;
    listed = LISTED;
    lookAgain("jobs");
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
  at("live").dataset.state = "starting";
  setText(at("live"), "Not signed in");
  setText(at("key-trouble"), wasRefused && error ? error.message : "");
  at("key").value = "";
  at("key").focus();
}

at("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  api.key.set(at("key").value.trim());
  begin();
});

at("forget").addEventListener("click", () => {
  api.key.forget();
  location.reload(); // nothing that the key let us see stays
});

async function begin() {
  let told;
  try {
    told = await api.get("board");
  } catch (error) {
    if (error.status === 401) return signIn(error);
    setText(at("live"), "Not reached");
    at("live").dataset.state = "lost";
    announce(error.message);
    setTimeout(begin, BRISK);
    return;
  }
  const hadForm = !at("sign-in").hidden;
  setHidden(at("sign-in"), true);
  setHidden(at("board"), false);
  setHidden(at("nav"), false);
  if (hadForm) at("main").focus();
  takeBoard(told);
  wake();
}

window.addEventListener("online", () => {
  if (!at("board").hidden) wake();
});

document.addEventListener("visibilitychange", () => {
  if (document.hidden) following.stop();
  else if (!at("board").hidden) wake();
});

begin();
