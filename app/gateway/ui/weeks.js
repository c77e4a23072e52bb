// The last four weeks as small charts: requests, cost, health. A chart is there when its numbers are.

import { dailyBars, dailyStates, daysUntil, STATE_WORDS } from "/ui/charts.js";
import { setText } from "/ui/dom.js";
import { count, day, dollars, now } from "/ui/words.js";

const LENGTH = 28;

const ENDINGS = [
  ["answered", (ending) => ending === "success"],
  ["caller left", (ending) => ending === "client_gone"],
  ["refused", (ending) => ending === "refused"],
  ["failed", () => true],
];

const today = () => new Date(now()).toISOString().slice(0, 10);
const firstDay = () => daysUntil(today(), LENGTH)[0];

export class Weeks {
  #place;
  #note;
  #caller = null;
  #charts = new Map();

  constructor(place, note) {
    this.#place = place;
    this.#note = note;
  }

  get look() {
    return { path: () => `days?since=${firstDay()}`, take: (told) => this.#show(told) };
  }

  setCaller(caller) {
    this.#caller = caller;
  }

  #show({ requests, cost, month_dollars: month, budget_dollars: budget, health }) {
    this.#requests(requests);
    if (cost !== null) this.#cost(cost, month, budget);
    this.#health(health);
    const missing = [
      requests.length === 0 ? this.#nothing() : "",
      cost === null ? "Nothing is priced here, so no cost is told." : "",
      health.length === 0 ? "No tier has reported its health yet." : "",
    ];
    setText(this.#note, missing.filter(Boolean).join(" "));
  }

  #chart(title, make) {
    let chart = this.#charts.get(title);
    if (!chart) {
      chart = make(title);
      this.#charts.set(title, chart);
      this.#place.append(chart.node);
    }
    return chart;
  }

  #without(title) {
    this.#charts.get(title)?.node.remove();
    this.#charts.delete(title);
  }

  #nothing() {
    return `No request${this.#whose()} has come in these weeks.`;
  }

  #whose() {
    return this.#caller?.scopes.includes("admin") ? "" : " of this key";
  }

  #requests(rows) {
    if (rows.length === 0) return this.#without("Requests a day");
    const days = daysUntil(today(), LENGTH);
    const series = ENDINGS.map(([name], look) => ({ name, look, values: days.map(() => 0) }));
    for (const row of rows) {
      const at = days.indexOf(row.day);
      const kind = ENDINGS.findIndex(([, fits]) => fits(row.ending));
      if (at >= 0) series[kind].values[at] += row.count;
    }
    const used = series.filter(({ look, values }) => look === 0 || values.some((value) => value > 0));
    const chart = this.#chart("Requests a day", dailyBars);
    chart.show({ days, series: used, format: (value) => Math.round(value).toLocaleString("en"), summary: this.#ofRequests(rows) });
  }

  #ofRequests(rows) {
    const total = rows.reduce((sum, row) => sum + row.count, 0);
    const answered = rows.filter(({ ending }) => ending === "success").reduce((sum, row) => sum + row.count, 0);
    const tokens = rows.reduce((sum, row) => sum + row.output_tokens, 0);
    const share = Math.floor((1000 * answered) / total) / 10;
    return `${count(total, "request")}${this.#whose()}, ${share} % answered to their end, ${count(tokens, "token")} written.`;
  }

  #cost(rows, month, budget) {
    const days = daysUntil(today(), LENGTH);
    const tiers = [...new Set(rows.map(({ tier }) => tier))].sort();
    const series = tiers.map((tier, look) => ({
      name: tier,
      look,
      values: days.map((date) => rows.find((row) => row.tier === tier && row.day === date)?.dollars ?? 0),
    }));
    const total = rows.reduce((sum, row) => sum + row.dollars, 0);
    const limit = budget === null ? "" : ` of a budget of ${dollars(budget)}`;
    const summary = `${dollars(total)} in four weeks; ${dollars(month)}${limit} this month. An estimate.`;
    this.#chart("Cost a day", dailyBars).show({ days, series, format: dollars, summary });
  }

  #health(rows) {
    if (rows.length === 0) return this.#without("Health");
    const days = daysUntil(today(), LENGTH);
    const tiers = [...new Set(rows.map(({ tier }) => tier))].sort();
    const states = tiers.map((tier) => ({
      name: tier,
      states: days.map((date) => rows.find((row) => row.tier === tier && row.day === date)?.state ?? "silent"),
    }));
    const bad = rows.filter(({ state }) => state !== "well").sort((one, other) => one.day.localeCompare(other.day));
    const summary = bad.length
      ? `${count(bad.length, "day")} with trouble; the last on ${day(bad.at(-1).day)}, tier ${bad.at(-1).tier}: ${STATE_WORDS[bad.at(-1).state]}.`
      : "No trouble in these weeks.";
    this.#chart("Health", dailyStates).show({ days, rows: states, summary });
  }
}
