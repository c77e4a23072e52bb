// A chart with a row for each tier and a mark for each day: how well it was. Each state has a shape of its own.

import { el, svg } from "./dom.js";
import { dates, figure } from "./figure.js";
import { day } from "./words.js";

const MARK = 14;
const LINE = 30;
const LEFT = 60;
const RIGHT = 4;

export const WORDS = {
  well: "well",
  degraded: "degraded",
  lost: "a server was lost",
  silent: "nothing reported",
};

/** A series is a tier; its values are states. */
export function dailyStates(title) {
  return figure(title, {
    draw: strips,
    legend: () => Object.keys(WORDS).map(entry),
    height: ({ series }) => series.length * LINE + 24,
  });
}

function entry(state) {
  const drawn = mark(state, MARK / 2, MARK / 2, MARK);
  const frame = { class: "swatch", viewBox: `0 0 ${MARK} ${MARK}`, "aria-hidden": "true" };
  return el("li", {}, svg("svg", frame, drawn), WORDS[state]);
}

function strips({ days, series }, width) {
  const step = (width - LEFT - RIGHT) / days.length;
  const size = Math.min(MARK, step - 1.5);
  const xOf = (at) => LEFT + (at + 0.5) * step;
  const rows = series.map(({ name, values }, line) => {
    const y = 16 + line * LINE;
    const short = name.length > 8 ? `${name.slice(0, 7)}…` : name;
    const label = svg("text", { class: "axis", x: 0, y: y + 4, text: short });
    const marks = values.map((state, at) => {
      const title = svg("title", { text: `${name}, ${day(days[at])}: ${WORDS[state]}` });
      return svg("g", {}, title, mark(state, xOf(at), y, size));
    });
    return svg("g", {}, label, ...marks);
  });
  return [...rows, ...dates(days, { xOf, right: width - RIGHT, y: series.length * LINE + 18 })];
}

/** A square, a triangle, a cross, a dot. */
function mark(state, x, y, size) {
  const half = size / 2;
  const [left, top] = [x - half, y - half];
  switch (state) {
    case "well":
      return svg("rect", { class: "mark-well", x: left, y: top, width: size, height: size, rx: 2 });
    case "degraded":
      return svg("path", { class: "mark-degraded", d: `M${x} ${top}l${half} ${size}h${-size}Z` });
    case "lost":
      return svg("path", { class: "mark-lost", d: `M${left} ${top}l${size} ${size}m0 ${-size}l${-size} ${size}` });
    default:
      return svg("circle", { class: "mark-silent", cx: x, cy: y, r: Math.max(1, size / 7) });
  }
}
