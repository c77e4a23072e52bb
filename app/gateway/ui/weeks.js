// The last four weeks as small charts: requests, cost, health. A chart is there when its numbers are.

import { dailyBars, dailyStates, daysUntil, STATE_WORDS } from "/ui/charts.js";
import { setText } from "/ui/dom.js";
import { count, dollars, now } from "/ui/words.js";

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
  #missing = new Map();

  constructor(place, note) {
    this.#place = place;
    this.#note = note;
  }

  get looks() {
    return [
      this.#look("requests", () => `usage?since=${firstDay()}`, (told) => this.#requests(told.usage)),
      this.#look("cost", () => `cost?since=${firstDay()}`, (told) => this.#cost(told)),
      this.#look("health", () => `health/history?since=${firstDay()}`, (told) => this.#health(told)),
    ];
  }

  setCaller(caller) {
    this.#caller = caller;
  }

  #look(name, path, take) {
    return {
      path,
      take: (told) => {
        this.#missing.delete(name);
        take(told);
        this.#say();
      },
      miss: (error) => {
        if (error.status === 404) this.#missing.set(name, `Nobody keeps a record of ${name} here.`);
        this.#say();
      },
    };
  }

  #say() {
    setText(this.#note, [...this.#missing.values()].join(" "));
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

  #requests(rows) {
    const days = daysUntil(today(), LENGTH);
    const series = ENDINGS.map(([name]) => ({ name, values: days.map(() => 0) }));
    for (const row of rows) {
      const at = days.indexOf(row.day);
      const kind = ENDINGS.findIndex(([, fits]) => fits(row.ending));
      if (at >= 0) series[kind].values[at] += row.count;
    }
    const used = series.filter(({ values }, index) => index === 0 || values.some((value) => value > 0));
    const chart = this.#chart("Requests a day", dailyBars);
    chart.show({ days, series: used, format: (value) => Math.round(value).toLocaleString("en"), summary: this.#ofRequests(rows) });
  }

  #ofRequests(rows) {
    const total = rows.reduce((sum, row) => sum + row.count, 0);
    const whose = this.#caller && !this.#caller.scopes.includes("admin") ? " of this key" : "";
    if (total === 0) return `No request${whose} in these weeks.`;
    const answered = rows.filter(({ ending }) => ending === "success").reduce((sum, row) => sum + row.count, 0);
    const tokens = rows.reduce((sum, row) => sum + row.output_tokens, 0);
    const share = Math.floor((1000 * answered) / total) / 10;
    return `${count(total, "request")}${whose}, ${share} % answered to their end, ${count(tokens, "token")} written.`;
  }

  #cost({ rows, budget_dollars: budget }) {
    const days = daysUntil(today(), LENGTH);
    const tiers = [...new Set(rows.map(({ tier }) => tier))].sort();
    const series = tiers.map((tier) => ({
      name: tier,
      values: days.map((date) => rows.filter((row) => row.tier === tier && row.day === date).reduce((sum, row) => sum + row.dollars, 0)),
    }));
    const total = rows.reduce((sum, row) => sum + row.dollars, 0);
    const limit = typeof budget === "number" ? `, of a budget of ${dollars(budget)} a month` : "";
    const summary = total > 0 ? `${dollars(total)} in four weeks${limit}; an estimate by the prices below.` : `Nothing was spent on servers in these weeks${limit}.`;
    this.#chart("Cost a day", dailyBars).show({ days, series, format: dollars, summary });
  }

  #health({ rows }) {
    if (rows.length === 0) return this.#without("Health");
    const days = daysUntil(today(), LENGTH);
    const tiers = [...new Set(rows.map(({ tier }) => tier))].sort();
    const states = tiers.map((tier) => ({
      name: tier,
      states: days.map((date) => rows.find((row) => row.tier === tier && row.day === date)?.state ?? "silent"),
    }));
    const bad = rows.filter(({ state }) => state !== "well" && state !== "silent");
    const summary = bad.length
      ? `${count(bad.length, "day")} with trouble; the last on ${bad.at(-1).day}, tier ${bad.at(-1).tier}: ${STATE_WORDS[bad.at(-1).state]}.`
      : "No trouble in these weeks.";
    this.#chart("Health", dailyStates).show({ days, rows: states, summary });
  }
}
