// A chart of one stacked bar a day. Series differ by pattern as well as by colour.

import { el, svg } from "./dom.js";
import { dates, figure } from "./figure.js";
import { day } from "./words.js";

const HEIGHT = 150;
const EDGE = { top: 10, right: 4, bottom: 20, left: 44 };
const STYLES = 4;

/** A series has a `style`, the number of its colour and pattern, beside its `name` and `values`. */
export function dailyBars(title) {
  return figure(title, {
    draw: bars,
    legend: ({ series }, id) => series.map(({ name, style }) => entry(name, style, id)),
    height: () => HEIGHT,
  });
}

function entry(name, style, id) {
  const square = filled(svg("rect", { width: 12, height: 12, rx: 2 }), style, id);
  const swatch = svg("svg", { class: "swatch", viewBox: "0 0 12 12", "aria-hidden": "true" }, ...square);
  return el("li", {}, swatch, el("bdi", { text: name }));
}

/** A shape in a style: its colour, and but for the first a pattern over it. */
function filled(shape, style, id) {
  const number = style % STYLES;
  shape.classList.add(`series-${number}`);
  if (number === 0) return [shape];
  const over = shape.cloneNode();
  over.setAttribute("class", "pattern");
  over.setAttribute("fill", `url(#${id}-pattern-${number})`);
  return [shape, over];
}

function patterns(id) {
  const marks = [
    svg("path", { d: "M-1 5 5 -1M1 7 7 1", class: "pattern-line" }),
    svg("circle", { cx: 2, cy: 2, r: 1.1, class: "pattern-dot" }),
    svg("path", { d: "M0 3h6", class: "pattern-line" }),
  ];
  const size = { width: 6, height: 6, patternUnits: "userSpaceOnUse" };
  const all = marks.map((mark, index) => svg("pattern", { id: `${id}-pattern-${index + 1}`, ...size }, mark));
  return svg("defs", {}, ...all);
}

function bars({ days, series, format }, width, id) {
  const totals = days.map((_, at) => series.reduce((sum, { values }) => sum + values[at], 0));
  const top = ceiling(Math.max(...totals));
  const step = (width - EDGE.left - EDGE.right) / days.length;
  const y = (value) => EDGE.top + (HEIGHT - EDGE.top - EDGE.bottom) * (1 - value / top);
  return [
    patterns(id),
    ...lines({ top, format, y, right: width - EDGE.right }),
    ...days.map((date, at) => {
      const title = svg("title", { text: `${day(date)}: ${format(totals[at])}` });
      const box = { x: EDGE.left + at * step + step * 0.14, width: step * 0.72 };
      return svg("g", {}, title, ...stack(series, { at, box, y, id }));
    }),
    ...dates(days, { xOf: (at) => EDGE.left + (at + 0.5) * step, right: width - EDGE.right, y: HEIGHT - 5 }),
  ];
}

function lines({ top, format, y, right }) {
  const half = format(top / 2) === format(top) ? [] : [top / 2];
  return [0, ...half, top].flatMap((value) => [
    svg("line", { class: "grid", x1: EDGE.left, x2: right, y1: y(value), y2: y(value) }),
    svg("text", { class: "axis", x: EDGE.left - 6, y: y(value) + 4, "text-anchor": "end", text: format(value) }),
  ]);
}

function stack(series, { at, box, y, id }) {
  let base = 0;
  return series
    .filter(({ values }) => values[at] > 0)
    .flatMap(({ style, values }) => {
      const from = y(base);
      base += values[at];
      const height = Math.max(1, from - y(base));
      return filled(svg("rect", { ...box, y: y(base), height }), style, id);
    });
}

/** A round number that is not below the highest bar. */
function ceiling(highest) {
  if (highest <= 0) return 1;
  const size = 10 ** Math.floor(Math.log10(highest));
  return [1, 2, 4, 5, 10].map((times) => times * size).find((value) => value >= highest);
}
