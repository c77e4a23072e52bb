// What the charts have in common: a drawing that says in a sentence what it shows, a legend, and all of it as a table.

import { el, setText, svg } from "./dom.js";
import { day } from "./words.js";

const LABEL_EVERY = 7;

let figures = 0;

/** The days up to `today`, so many of them, as in `2026-09-15`. */
export function daysUntil(today, length) {
  const last = Date.parse(`${today}T00:00:00Z`);
  const back = (days) => new Date(last - days * 86400000).toISOString().slice(0, 10);
  return Array.from({ length }, (_, index) => back(length - 1 - index));
}

/**
 * A chart as `{ node, show(data) }`, where `data` has `days`, `series` (each with a `name` and a value for each day),
 * `format` for one value, and `summary`; `draw(data, width, id)` gives the parts of the drawing, `legend(data, id)` the
 * entries of the legend, `height(data)` how tall it is.
 */
export function figure(title, { draw, legend, height }) {
  figures += 1;
  const id = `chart-${figures}`;
  const drawing = svg("svg", { class: "chart", role: "img", "aria-labelledby": `${id}-title ${id}-words` });
  const words = el("p", { id: `${id}-words`, class: "chart-words" });
  const entries = el("ul", { class: "legend" });
  const name = `${title}, as a table`;
  const table = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": name });
  const node = el(
    "figure",
    { class: "card" },
    el("figcaption", {}, el("h3", { id: `${id}-title`, text: title }), words),
    drawing,
    entries,
    el("details", { class: "story" }, el("summary", { text: "As a table" }), table),
  );
  let data = null;
  let shown = "";
  const redraw = () => {
    const width = drawing.clientWidth;
    if (data && width > 0) drawing.replaceChildren(...draw(data, width, id));
  };
  new ResizeObserver(redraw).observe(drawing);
  const show = (chart) => {
    setText(words, chart.summary);
    const now = JSON.stringify([chart.days, chart.series]);
    if (now === shown) return;
    [data, shown] = [chart, now];
    drawing.setAttribute("height", height(chart));
    entries.replaceChildren(...legend(chart, id));
    table.replaceChildren(numbers(title, chart));
    redraw();
  };
  return { node, show };
}

function numbers(title, { days, series, format }) {
  const names = series.map(({ name }) => el("th", { scope: "col", class: "number", text: name }));
  const rows = days.map((date, at) => {
    const cells = series.map(({ values }) => el("td", { class: "number", text: format(values[at]) }));
    return el("tr", {}, el("th", { scope: "row", text: day(date) }), ...cells);
  });
  return el(
    "table",
    {},
    el("caption", { class: "unseen", text: title }),
    el("thead", {}, el("tr", {}, el("th", { scope: "col", text: "Day" }), ...names)),
    el("tbody", {}, ...rows.reverse()),
  );
}

/** The dates below a drawing, one for each week; `xOf(at)` is the middle of a day, `right` the drawing's end. */
export function dates(days, { xOf, right, y }) {
  const last = days.length - 1;
  return days
    .map((date, at) => ({ date, at }))
    .filter(({ at }) => (last - at) % LABEL_EVERY === 0)
    .map(({ date, at }) =>
      at === last
        ? svg("text", { class: "axis", x: right, y, "text-anchor": "end", text: "today" })
        : svg("text", { class: "axis", x: xOf(at), y, "text-anchor": "middle", text: day(date) }),
    );
}
