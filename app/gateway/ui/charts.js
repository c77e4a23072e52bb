// Small charts of the last weeks. Each says in words what it shows and has its numbers as a table; series differ by
// pattern as well as by colour.

import { el, setText, svg } from "/ui/dom.js";
import { day } from "/ui/words.js";

const HEIGHT = 150;
const EDGE = { top: 10, right: 4, bottom: 20, left: 44 };
const LABEL_EVERY = 7;

let figures = 0;

/** Every day from `since` to `today`, as in `2026-09-15`. */
export function daysUntil(today, length) {
  const last = Date.parse(`${today}T00:00:00Z`);
  return Array.from({ length }, (_, index) => new Date(last - (length - 1 - index) * 86400000).toISOString().slice(0, 10));
}

/**
 * A chart of one stacked bar a day. `show({ days, series, format, summary })` draws it; a series is
 * `{ name, look, values }`: its colour and pattern by number, and a value for each day.
 */
export function dailyBars(title) {
  figures += 1;
  const id = `chart-${figures}`;
  const drawing = svg("svg", { class: "chart", role: "img", "aria-labelledby": `${id}-title ${id}-words`, height: HEIGHT });
  const words = el("p", { id: `${id}-words`, class: "chart-words" });
  const legend = el("ul", { class: "legend" });
  const table = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${title}, as a table` });
  const node = el(
    "figure",
    { class: "card" },
    el("figcaption", {}, el("h3", { id: `${id}-title`, text: title }), words),
    drawing,
    legend,
    el("details", { class: "story" }, el("summary", { text: "As a table" }), table),
  );
  let told = null;
  let shown = "";
  const draw = () => {
    const width = drawing.clientWidth;
    if (told && width > 0) drawing.replaceChildren(...bars(told, width, id));
  };
  new ResizeObserver(draw).observe(drawing);
  const show = (chart) => {
    const now = JSON.stringify([chart.days, chart.series]);
    setText(words, chart.summary);
    if (now === shown) return;
    [told, shown] = [chart, now];
    legend.replaceChildren(...chart.series.map(({ name, look }) => legendEntry(name, look, id)));
    table.replaceChildren(numbers(title, chart));
    draw();
  };
  return { node, show };
}

function legendEntry(name, look, id) {
  const swatch = svg("svg", { class: "swatch", viewBox: "0 0 12 12", "aria-hidden": "true" });
  swatch.append(...filled(svg("rect", { width: 12, height: 12, rx: 2 }), look, id));
  return el("li", {}, swatch, el("bdi", { text: name }));
}

/** A shape in the look of a series: its colour, and from the second on a pattern over it. */
function filled(shape, look, id) {
  shape.classList.add(`series-${look % 4}`);
  if (look % 4 === 0) return [shape];
  const over = shape.cloneNode();
  over.setAttribute("class", "pattern");
  over.setAttribute("fill", `url(#${id}-pattern-${look % 4})`);
  return [shape, over];
}

function patterns(id) {
  const marks = [
    svg("path", { d: "M-1 5 5 -1M1 7 7 1", class: "pattern-line" }),
    svg("circle", { cx: 2, cy: 2, r: 1.1, class: "pattern-dot" }),
    svg("path", { d: "M0 3h6", class: "pattern-line" }),
  ];
  return svg(
    "defs",
    {},
    ...marks.map((mark, index) =>
      svg("pattern", { id: `${id}-pattern-${index + 1}`, width: 6, height: 6, patternUnits: "userSpaceOnUse" }, mark),
    ),
  );
}

function bars({ days, series, format }, width, id) {
  const totals = days.map((_, at) => series.reduce((sum, { values }) => sum + values[at], 0));
  const top = ceiling(Math.max(...totals));
  const inner = { width: width - EDGE.left - EDGE.right, height: HEIGHT - EDGE.top - EDGE.bottom };
  const step = inner.width / days.length;
  const y = (value) => EDGE.top + inner.height * (1 - value / top);
  const parts = [patterns(id)];
  for (const value of format(top / 2) === format(top) ? [0, top] : [0, top / 2, top]) {
    parts.push(
      svg("line", { class: "grid", x1: EDGE.left, x2: width - EDGE.right, y1: y(value), y2: y(value) }),
      svg("text", { class: "axis", x: EDGE.left - 6, y: y(value) + 4, "text-anchor": "end", text: format(value) }),
    );
  }
  days.forEach((date, at) => {
    let base = 0;
    const bar = svg("g", {}, svg("title", { text: `${day(date)}: ${format(totals[at])}` }));
    series.forEach(({ look, values }) => {
      if (values[at] <= 0) return;
      const rect = svg("rect", {
        x: EDGE.left + at * step + step * 0.14,
        width: step * 0.72,
        y: y(base + values[at]),
        height: Math.max(1, y(base) - y(base + values[at])),
      });
      bar.append(...filled(rect, look, id));
      base += values[at];
    });
    parts.push(bar);
    if ((days.length - 1 - at) % LABEL_EVERY === 0) {
      const x = EDGE.left + (at + 0.5) * step;
      const isLast = at === days.length - 1;
      const anchor = isLast ? "end" : "middle";
      parts.push(
        svg("text", { class: "axis", x: isLast ? width - EDGE.right : x, y: HEIGHT - 5, "text-anchor": anchor, text: isLast ? "today" : day(date) }),
      );
    }
  });
  return parts;
}

/** A round number that is not below the highest bar. */
function ceiling(highest) {
  if (highest <= 0) return 1;
  const size = 10 ** Math.floor(Math.log10(highest));
  return [1, 2, 4, 5, 10].map((times) => times * size).find((value) => value >= highest);
}

function numbers(title, { days, series, format }) {
  const head = el("tr", {}, el("th", { scope: "col", text: "Day" }), ...series.map(({ name }) => el("th", { scope: "col", class: "number", text: name })));
  const rows = days
    .map((date, at) => ({ date, at }))
    .reverse()
    .map(({ date, at }) =>
      el("tr", {}, el("th", { scope: "row", text: day(date) }), ...series.map(({ values }) => el("td", { class: "number", text: format(values[at]) }))),
    );
  return el("table", {}, el("caption", { class: "unseen", text: title }), el("thead", {}, head), el("tbody", {}, ...rows));
}

const CELL = 14;
const STATES = ["well", "degraded", "lost", "silent"];
export const STATE_WORDS = { well: "well", degraded: "degraded", lost: "a server was lost", silent: "nothing reported" };

/** A chart with a row for each tier and a mark for each day; `show({ days, rows, summary })`, a row is `{ name, states }`. */
export function dailyStates(title) {
  figures += 1;
  const id = `chart-${figures}`;
  const drawing = svg("svg", { class: "chart", role: "img", "aria-labelledby": `${id}-title ${id}-words` });
  const words = el("p", { id: `${id}-words`, class: "chart-words" });
  const legend = el("ul", { class: "legend" }, ...STATES.map((state) => {
    const swatch = svg("svg", { class: "swatch", viewBox: `0 0 ${CELL} ${CELL}`, "aria-hidden": "true" }, mark(state, CELL / 2, CELL / 2, CELL));
    return el("li", {}, swatch, STATE_WORDS[state]);
  }));
  const table = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${title}, as a table` });
  const node = el(
    "figure",
    { class: "card" },
    el("figcaption", {}, el("h3", { id: `${id}-title`, text: title }), words),
    drawing,
    legend,
    el("details", { class: "story" }, el("summary", { text: "As a table" }), table),
  );
  let told = null;
  let shown = "";
  const draw = () => {
    const width = drawing.clientWidth;
    if (told && width > 0) drawing.replaceChildren(...strips(told, width));
  };
  new ResizeObserver(draw).observe(drawing);
  const show = (chart) => {
    const now = JSON.stringify([chart.days, chart.rows]);
    setText(words, chart.summary);
    if (now === shown) return;
    [told, shown] = [chart, now];
    drawing.setAttribute("height", chart.rows.length * 30 + 24);
    const series = chart.rows.map(({ name, states }) => ({ name, values: states }));
    table.replaceChildren(numbers(title, { days: chart.days, series, format: (state) => STATE_WORDS[state] }));
    draw();
  };
  return { node, show };
}

function strips({ days, rows }, width) {
  const left = 60;
  const step = (width - left - EDGE.right) / days.length;
  const size = Math.min(CELL, step - 1.5);
  const parts = [];
  rows.forEach(({ name, states }, line) => {
    const y = 16 + line * 30;
    parts.push(svg("text", { class: "axis", x: 0, y: y + 4, text: name.length > 8 ? `${name.slice(0, 7)}…` : name }));
    states.forEach((state, at) => {
      const title = svg("title", { text: `${name}, ${day(days[at])}: ${STATE_WORDS[state]}` });
      parts.push(svg("g", {}, title, mark(state, left + (at + 0.5) * step, y, size)));
    });
  });
  days.forEach((date, at) => {
    if ((days.length - 1 - at) % LABEL_EVERY !== 0) return;
    const isLast = at === days.length - 1;
    parts.push(
      svg("text", { class: "axis", x: isLast ? width - EDGE.right : left + (at + 0.5) * step, y: rows.length * 30 + 18, "text-anchor": isLast ? "end" : "middle", text: isLast ? "today" : day(date) }),
    );
  });
  return parts;
}

/** One state as a shape: a full square, a half one, a cross, a dot. */
function mark(state, x, y, size) {
  const half = size / 2;
  if (state === "well") return svg("rect", { class: "mark-well", x: x - half, y: y - half, width: size, height: size, rx: 2 });
  if (state === "degraded") {
    return svg("path", { class: "mark-degraded", d: `M${x} ${y - half} ${x + half} ${y + half}H${x - half}Z` });
  }
  if (state === "lost") {
    return svg("path", { class: "mark-lost", d: `M${x - half} ${y - half}l${size} ${size}m0 ${-size}l${-size} ${size}` });
  }
  return svg("circle", { class: "mark-silent", cx: x, cy: y, r: Math.max(1, size / 7) });
}
