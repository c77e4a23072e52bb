// What happens next by itself, and when.

import { el, icon, keep, setText, time } from "./dom.js";
import { clock, until } from "./words.js";

/** `board.next` is a list of `{ what, at, does }`, or null where nothing is scheduled. */
export function showRuns(list, note, { next }) {
  keep(list, next ?? [], ({ what }) => what, row);
  setText(note, next?.length ? "" : "Nothing is scheduled here: jobs run when somebody posts them.");
}

/** The last night in a line, as the API sums it up; nothing as long as none has come. */
export function showLastNight(note, { at, summary }) {
  setText(note, at === null ? "" : `The last night came ${clock(new Date(at))}: ${summary}.`);
}

function row() {
  const when = time();
  const distance = el("span", { class: "quiet" });
  const what = el("strong");
  const does = el("span", { class: "quiet" });
  const node = el(
    "li",
    {},
    el("p", { class: "run-when" }, when.node, distance),
    el("p", { class: "run-what" }, what, " ", does),
  );
  const show = (run) => {
    when.show(new Date(run.at), clock(new Date(run.at)));
    setText(distance, until(Date.parse(run.at)));
    setText(what, run.what);
    setText(does, run.does);
  };
  return { node, show };
}
