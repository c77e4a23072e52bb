// The tiers: how each stands, what it costs at this moment, what it holds. Asleep is healthy, and costs nothing.

import { el, icon, keep, setAttribute, setHidden, setIcon, setText, time } from "./dom.js";
import { bytes, count, dollars, roughly, now, short } from "./words.js";

const WORDS = {
  ready: "Ready",
  waking: "Waking up",
  asleep: "Asleep, which is healthy",
  degraded: "Degraded",
  lost: "Lost",
  unknown: "Not known",
};

/** `tiers` as the API tells them, `board` with what is declared of them (or null as long as it is not known). */
export function showTiers(list, tiers, board) {
  const known = tiers.map((tier) => ({ ...tier, more: { ...board?.tiers?.[tier.tier], rented: board?.rented } }));
  keep(list, known, (tier) => tier.tier, card);
}

function card() {
  const mark = icon("unknown");
  const name = el("h3", { class: "tier-name" });
  const gpu = el("span", { class: "quiet" });
  const state = el("span", { class: "state-words" });
  const since = time();
  const why = el("p", { class: "quiet tier-why" });
  const price = el("p", { class: "tier-price" });
  const amount = el("strong", { class: "big" });
  const rate = el("span", { class: "quiet" });
  price.append(amount, rate);
  const held = el("p", { class: "tier-held" });
  const bar = el("progress", { class: "bar" });
  const doing = el("span");
  const coming = el("div", { class: "tier-coming" }, doing, bar);
  const loaded = el("ul", { class: "loaded", "aria-label": "Loaded models" });
  const node = el(
    "li",
    { class: "card tier" },
    el("div", { class: "tier-head" }, name, gpu),
    el("p", { class: "state" }, mark, state, el("span", { class: "quiet since" }, "for ", since.node)),
    price,
    held,
    coming,
    why,
    loaded,
  );
  const show = (tier) => {
    const known = tier.state in WORDS ? tier.state : "unknown";
    node.dataset.state = known;
    setIcon(mark, known);
    setText(name, tier.tier);
    setText(gpu, hardware(tier.more));
    setText(state, WORDS[known]);
    since.show(new Date(tier.since), roughly(now() - Date.parse(tier.since)));
    setText(why, tier.why ?? "");
    setHidden(why, !tier.why || known === "asleep" || Boolean(tier.coming));
    showComing(coming, doing, bar, tier);
    showPrice(amount, rate, tier, known);
    setText(held, `${count(tier.held ?? 0, "caller")} ${tier.held === 1 ? "waits" : "wait"} for it`);
    setHidden(held, !tier.held);
    showLoaded(loaded, tier.more.containers ?? []);
  };
  return { node, show };
}

/** What is on its way there: the phase that goes on in words, and how far it has come, as far as that is known. */
function showComing(node, doing, bar, { tier, coming }) {
  setHidden(node, !coming);
  if (!coming) return;
  setText(doing, coming.words);
  const share = shareOf(coming);
  setAttribute(bar, "aria-label", `Progress of tier ${tier}`);
  if (share === null) bar.removeAttribute("value");
  else bar.value = share;
}

/** Of the time that all of it takes, where earlier starts tell, so that it goes on through all phases and never back;
 * else of the bytes, where they are counted; else null. */
function shareOf({ phase, size, read, since, seconds_left: left }) {
  if (typeof left === "number") {
    const past = Math.max(0, (now() - Date.parse(since)) / 1000);
    return past + left > 0 ? past / (past + left) : null;
  }
  return phase === "bytes" && size && typeof read === "number" ? Math.min(1, read / size) : null;
}

function hardware({ gpu, vram_gb: vram, containers = [] }) {
  const parts = [];
  if (gpu) parts.push(gpu);
  if (vram) parts.push(`${vram} GB`);
  if (containers.length > 1) parts.push(count(containers.length, "container"));
  return parts.join(" · ");
}

function showPrice(amount, rate, tier, state) {
  const { dollars_per_hour: hourly, dollars_now: current, rented } = tier.more;
  const priced = typeof hourly === "number";
  setHidden(amount.parentElement, !priced);
  if (!priced) return;
  if (!rented) {
    setText(amount, "$0");
    setText(rate, ` here · ${dollars(hourly)} an hour where it is rented`);
    return;
  }
  const up = typeof current === "number" ? current : state === "asleep" ? 0 : hourly;
  setText(amount, up > 0 ? dollars(up) : "$0");
  setText(rate, up > 0 ? " an hour now" : ` now · ${dollars(hourly)} an hour when awake`);
}

function showLoaded(list, containers) {
  const models = containers.flatMap(({ loaded = [] }) => loaded);
  keep(list, models.slice(0, 8), ({ name }) => name, () => {
    const name = el("bdi");
    const size = el("span", { class: "quiet" });
    return {
      node: el("li", {}, name, " ", size),
      show: (model) => {
        setText(name, short(model.name));
        setText(size, model.size ? bytes(model.size) : "");
      },
    };
  });
  setHidden(list, models.length === 0);
}
