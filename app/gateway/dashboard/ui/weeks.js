// The last four weeks as small charts: requests, cost, health. A chart is there when its numbers are.

import { dailyBars } from "./bars.js";
import { setText } from "./dom.js";
import { daysUntil } from "./figure.js";
import { dailyStates, WORDS } from "./strips.js";
import { count, day, dollars, now } from "./words.js";

const LENGTH = 28;

const ENDINGS = [
  ["answered", (ending) => ending === "success"],
  ["caller left", (ending) => ending === "client_gone"],
  ["refused", (ending) => ending === "refused"],
  ["failed", () => true],
];

const days = () => daysUntil(new Date(now()).toISOString().slice(0, 10), LENGTH);
const sum = (rows, of) => rows.reduce((total, row) => total + of(row), 0);
const tiersOf = (rows) => [...new Set(rows.map(({ tier }) => tier))].sort();

export class Weeks {
  #container;
  #note;
  #whose = "";
  #charts = new Map();

  constructor(container, note) {
    this.#container = container;
    this.#note = note;
  }

  get poll() {
    return { path: () => `days?since=${days()[0]}`, take: (answer) => this.#show(answer) };
  }

  /** A key without the admin scope is told of its own requests only, and the page says so. */
  setCaller({ scopes }) {
    this.#whose = scopes.includes("admin") ? "" : " of this key";
  }

  #show({ requests, cost, month_dollars: month, budget_dollars: budget, health }) {
    this.#chart("Requests a day", dailyBars, requests.length > 0, () => this.#ofRequests(requests));
    this.#chart("Cost a day", dailyBars, cost !== null, () => ofCost(cost, month, budget));
    this.#chart("Health", dailyStates, health.length > 0, () => ofHealth(health));
    const missing = [
      requests.length === 0 && `No request${this.#whose} has come in these weeks.`,
      cost === null && "Nothing is rented here, so no cost is told.",
      health.length === 0 && "No tier has reported its health yet.",
    ];
    setText(this.#note, missing.filter(Boolean).join(" "));
  }

  #chart(title, make, isThere, dataOf) {
    const known = this.#charts.get(title);
    if (!isThere) {
      known?.node.remove();
      this.#charts.delete(title);
      return;
    }
    const chart = known ?? make(title);
    chart.show(dataOf());
    if (known) return;
    this.#charts.set(title, chart);
    this.#container.append(chart.node);
  }

  #ofRequests(rows) {
    const all = days();
    const series = ENDINGS.map(([name], style) => ({ name, style, values: all.map(() => 0) }));
    for (const row of rows) {
      const kind = ENDINGS.findIndex(([, fits]) => fits(row.ending));
      const at = all.indexOf(row.day);
      if (at >= 0) series[kind].values[at] += row.count;
    }
    const total = sum(rows, (row) => row.count);
    const answered = sum(rows, (row) => (row.ending === "success" ? row.count : 0));
    const tokens = count(sum(rows, (row) => row.output_tokens), "token");
    const share = Math.floor((1000 * answered) / total) / 10;
    return {
      days: all,
      series: series.filter(({ style, values }) => style === 0 || values.some((value) => value > 0)),
      format: (value) => Math.round(value).toLocaleString("en"),
      summary: `${count(total, "request")}${this.#whose}, ${share} % answered to their end, ${tokens} written.`,
    };
  }
}

function ofCost(rows, month, budget) {
  const all = days();
  const spent = (tier, date) => rows.find((row) => row.tier === tier && row.day === date)?.dollars ?? 0;
  const values = (tier) => all.map((date) => spent(tier, date));
  const series = tiersOf(rows).map((tier, style) => ({ name: tier, style, values: values(tier) }));
  const limit = budget === null ? "" : ` of a budget of ${dollars(budget)}`;
  const total = dollars(sum(rows, (row) => row.dollars));
  const summary = `${total} in four weeks; ${dollars(month)}${limit} this month. An estimate.`;
  return { days: all, series, format: dollars, summary };
}

function ofHealth(rows) {
  const all = days();
  const state = (tier, date) => rows.find((row) => row.tier === tier && row.day === date)?.state ?? "silent";
  const series = tiersOf(rows).map((tier) => ({ name: tier, values: all.map((date) => state(tier, date)) }));
  const bad = rows.filter((row) => row.state !== "well").sort((one, other) => one.day.localeCompare(other.day));
  const last = bad.at(-1);
  const summary = last
    ? `${count(bad.length, "day")} with trouble; the last on ${day(last.day)}, tier ${last.tier}: ${WORDS[last.state]}.`
    : "No trouble in these weeks.";
  return { days: all, series, format: (value) => WORDS[value], summary };
}
