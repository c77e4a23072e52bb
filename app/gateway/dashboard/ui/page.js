// The page: signs in, polls the ops API while somebody looks at the page, and shows what it learns.

import { SHOWN, showActs } from "./acts.js";
import * as api from "./api.js";
import { Asking } from "./asking.js";
import { isOver, showBatches, SHOWN as BATCHES } from "./batches.js";
import { el, keep, setHidden, setText } from "./dom.js";
import { keepFocus } from "./focus.js";
import { Following } from "./following.js";
import { groupTitle } from "./groups.js";
import { JobList, partsOf } from "./job_list.js";
import { hasEnded, titleOf } from "./jobs.js";
import { NewKey, showKeys, wanted } from "./keys.js";
import { Polling } from "./polling.js";
import { showModels } from "./models.js";
import { headline } from "./now.js";
import { reveal } from "./reveal.js";
import { showLastNight, showRuns } from "./runs.js";
import { showTiers } from "./tiers.js";
import { Weeks } from "./weeks.js";
import { bytes, count, short } from "./words.js";

const at = (id) => document.getElementById(id);

const SECOND = 1000;
const BRISK = 5 * SECOND; // while something is under way
const CALM = 15 * SECOND;
const SLOW = 60 * SECOND;
const RARE = 5 * 60 * SECOND;

const known = {
  board: null, night: null, keys: null, tiers: null, health: null, models: null, aliases: [], complaints: [],
  summary: null, acts: null, batches: null,
};
let afterAsking = null; // done once the list has come that somebody asked for

const asking = new Asking(at("asking"));
const weeks = new Weeks(at("charts"), at("weeks-note"));
const jobList = new JobList(partsOf(at), (after = null) => {
  afterAsking = after;
  polling.again("jobs?");
  show();
});
const following = new Following((job) => tellEnds(jobList.takeJob(job) ? [job] : []));

const newKey = new NewKey({
  section: at("new-key"), title: at("new-key-title"), words: at("new-key-words"), text: at("new-key-text"),
  lines: at("new-key-lines"), done: at("new-key-done"),
});
const HERE = new URL("..", import.meta.url).href.replace(/\/$/, ""); // where the gateway answers

const polling = new Polling(
  [
    { path: () => "board", every: () => SLOW, take: takeBoard },
    { path: () => "night", every: () => SLOW, take: (answer) => (known.night = answer) },
    { path: () => "tiers", every: pace, take: (answer) => (known.tiers = answer.tiers) },
    { path: () => "jobs/summary", every: pace, take: (answer) => (known.summary = answer) },
    { path: () => jobList.path(), every: pace, take: takeList },
    { path: () => `batches?limit=${BATCHES}`, every: batchPace, take: takeBatches },
    { path: () => "models", every: () => SLOW, take: takeModels },
    { path: () => "health", every: () => CALM, take: (answer) => (known.health = answer) },
    { path: () => "keys", every: () => SLOW, isWanted: managesKeys, take: (answer) => (known.keys = answer) },
    { ...weeks.poll, every: () => RARE },
    { path: () => `audit?limit=${SHOWN}`, every: () => SLOW, isWanted: mayChange, take: takeActs },
  ],
  { isOn: () => !at("board").hidden, after: show, refused: signIn },
);

const parts = [
  { node: at("now"), isKnown: () => ["health", "tiers", "jobs/summary"].every(hasTried) },
  { node: at("tiers"), isKnown: () => hasTried("tiers") },
  { node: at("jobs"), isKnown: () => jobList.isKnown || hasTried("jobs?") },
  { node: at("batches"), isKnown: () => hasTried("batches") },
  { node: at("models"), isKnown: () => hasTried("models") },
  { node: at("weeks"), isKnown: () => hasTried("days") },
  { node: at("next"), isKnown: () => hasTried("night") },
];

function hasTried(path) {
  return polling.hasTried(path);
}

/** Whether the key that is signed in may change keys: an administrator's of all models, where there are keys. */
function managesKeys() {
  const { keyless = true, models = [] } = known.board?.caller ?? {};
  return mayChange() && !keyless && models.length === 0;
}

function mayChange() {
  return known.board?.caller.scopes.includes("admin") ?? false;
}

function pace() {
  const isBusy = known.summary?.open || jobList.jobs.some((job) => !hasEnded(job));
  return isBusy || known.tiers?.some(({ state, coming }) => state === "waking" || coming) ? BRISK : CALM;
}

function batchPace() {
  return known.batches?.batches.some((batch) => !isOver(batch)) ? BRISK : CALM;
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
  known.aliases = answer.aliases ?? []; // a gateway of an older version tells none
  known.complaints = answer.complaints;
}

/** What has ended since the last look is said. */
function takeBatches(answer) {
  const before = new Map(known.batches?.batches.map((batch) => [batch.id, batch]));
  for (const batch of answer.batches) {
    if (isOver(batch) && before.has(batch.id) && !isOver(before.get(batch.id))) announce(`Batch ${batch.id}: ${batch.status}`);
  }
  known.batches = answer;
}

function takeActs(answer) {
  known.acts = answer.lines;
}

function takeList(answer) {
  tellEnds(jobList.take(answer));
  afterAsking?.();
  afterAsking = null;
}

/** These jobs have moved: what has ended is said, and what may be another thing now is asked for. */
function tellEnds(moved) {
  for (const job of moved.filter(hasEnded)) announce(`${titleOf(job)}: ${job.state}`);
  if (moved.length) polling.again("models", "health", "tiers", "jobs/summary");
  const open = jobList.jobs.filter((job) => !hasEnded(job));
  following.follow([...open.filter(({ state }) => state === "running"), ...open]);
  show();
}

/** One that was posted or changed by us: in its place, or as the newest. */
function takeJob(job) {
  jobList.takeJob(job, { isNew: true });
  polling.again("jobs", "audit");
  show();
}

function announce(text) {
  setText(at("news"), text);
}

// -- showing ----------------------------------------------------------------------------------------------------------

function show() {
  showConnection();
  headline({ section: at("now"), title: at("now-title"), list: at("problems"), summary: at("standing") }, known, seek);
  if (known.tiers) showTiers(at("tier-list"), known.tiers, known.board);
  setText(at("tiers-note"), tiersNote());
  jobList.show({ remedies: known.board?.remedies, mayChange: mayChange(), act, actAll, seek }, known.summary?.counts);
  if (known.batches) showBatches(at("batch-list"), at("batches-note"), known.batches, askAboutBatch);
  showModelList(mayChange());
  showKeyList();
  setHidden(at("pull-form"), !mayChange());
  setHidden(at("read-only"), mayChange() || known.board === null);
  if (known.board && !mayChange()) {
    const { name, scopes } = known.board.caller;
    const why = `Key ${name} has the scope ${scopes.join(" and ")}: it may look.`;
    setText(at("read-only"), `${why} To pull, cancel or try again, sign in with a key of scope admin.`);
  }
  if (known.board) showRuns(at("run-list"), at("next-note"), known.board);
  if (known.night) showLastNight(at("last-night"), known.night);
  if (known.acts) showActs(at("act-list"), at("acts-note"), known.acts);
  setHidden(at("acts"), !known.acts || !mayChange());
  setText(at("prices"), pricesNote());
  if (!at("board").hidden) setHidden(at("footer"), !reveal(parts));
  keepFocus();
}

const seek = (job, which) => jobList.seek(job, which);

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
  const { prices, rented } = known.board ?? {};
  if (!prices) return "";
  const use = rented ? "what they add up to is an estimate" : "nothing is rented here, so nothing adds up";
  return `Prices are of ${prices.as_of}, from ${prices.source}; ${use}.`;
}

function showModelList(isAdmin) {
  if (known.models === null) return;
  const declared = known.board?.models ?? {};
  const used = known.board?.last_used ?? {};
  const models = known.models.map((model) => {
    const folded = model.name.toLowerCase(); // the board knows models by their names in small letters
    const aliases = known.aliases.filter((each) => each.model.toLowerCase() === folded).map((each) => each.alias);
    return { ...model, ...declared[folded], last_used: used[folded], aliases };
  });
  showModels(at("model-list"), models, { mayChange: isAdmin, ask });
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

function showKeyList() {
  const isShown = managesKeys() && known.keys !== null && !at("models").hidden;
  setHidden(at("keys"), !isShown);
  setHidden(at("keys-link"), !isShown);
  if (!isShown) return;
  showKeys(at("key-list"), known.keys.keys, askAboutKey);
  keep(at("key-problems"), known.keys.problems, (line) => line, () => {
    const node = el("li");
    return { node, show: (line) => setText(node, line) };
  });
}

// -- doing ------------------------------------------------------------------------------------------------------------

async function act(verb, job) {
  const { document: now } = await api.post(`jobs/${encodeURIComponent(job.id)}/${verb}`).catch(refused);
  announce(`${titleOf(job)} is ${{ cancel: "asked to stop", retry: "tried again", dismiss: "dismissed" }[verb]}`);
  takeJob(now);
}

/** Ask whether a group of failures is to be tried again or dismissed, and do it, some at a time. */
async function actAll(verb, group) {
  const query = new URLSearchParams({ kind: group.kind, class: group.class });
  const work = async () => {
    let changed = 0;
    let answer = null;
    do {
      answer = (await api.post(`jobs/${verb}?${query}`).catch(refused)).document;
      changed += answer.changed;
    } while (answer.left > 0 && answer.changed > 0);
    polling.again("jobs");
    const { length } = answer.refused;
    announce(`${count(changed, "job")} ${verb === "retry" ? "posted again" : "dismissed"}`);
    if (length) throw new Error(`${count(changed, "job")} went well, ${length} did not: ${answer.refused[0].error}.`);
  };
  const words = {
    retry: "Each is posted exactly as it was posted before. What was fetched is kept.",
    dismiss: "They stay in the list with their stories, and need nobody any more.",
  }[verb];
  const yes = { retry: "Try all again", dismiss: "Dismiss all" }[verb];
  asking.ask({ title: `${yes}: ${groupTitle(group)}?`, words, yes, work });
}

/** Ask whether this is to be done with a model, and post it as a job. */
function ask({ kind, model, ...question }) {
  const work = async () => {
    const { document: job } = await api.post("jobs", { kind, model }).catch(refused);
    announce(`${titleOf(job)} is posted; how it ends is under Jobs`);
    takeJob(job);
  };
  asking.ask({ ...question, work });
}

/** Ask whether a batch is to end, and have it end. */
function askAboutBatch({ id }) {
  const work = async () => {
    await api.post(`batches/${encodeURIComponent(id)}/cancel`).catch(refused);
    announce(`Batch ${id} is asked to end`);
    polling.again("batches", "audit");
  };
  const words = "What is done of it stays, and can be fetched. Its other lines are not asked any more.";
  asking.ask({ title: `Cancel ${id}?`, words, yes: "Cancel it", work });
}

/** Ask whether a key is to be rotated or revoked, and do it. */
function askAboutKey(verb, { name }, question) {
  const path = `keys/${encodeURIComponent(name)}`;
  const work = async () => {
    if (verb === "revoke") await api.remove(path).catch(refused);
    else {
      const { document: made } = await api.post(`${path}/rotate`, {}).catch(refused);
      newKey.show(name, made.key, HERE);
    }
    announce(verb === "revoke" ? `The key of ${name} is revoked` : `${name} has another key`);
    polling.again("keys");
  };
  asking.ask({ ...question, work });
}

at("make-key").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  const button = form.querySelector("button");
  button.disabled = true;
  setText(at("make-key-trouble"), "");
  try {
    const body = wanted(form.elements);
    const { document: made } = await api.post("keys", body).catch(refused);
    announce(`A key for ${body.name} is made`);
    newKey.show(body.name, made.key, HERE);
    polling.again("keys");
    form.reset();
  } catch (error) {
    setText(at("make-key-trouble"), error.message);
  } finally {
    button.disabled = false;
  }
});

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
    form.reset();
  } catch (error) {
    setText(at("pull-trouble"), error.message);
  } finally {
    button.disabled = false;
    form.elements.model.focus();
  }
});

// -- signing in and out -----------------------------------------------------------------------------------------------

function signIn(error) {
  const wasRefused = api.key.get() !== null;
  api.key.forget();
  following.stop();
  newKey.hide();
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
