// Who did what, the last of it: for those who may change something. `ollama-modal audit` tells the rest.

import { el, keep, setText, time } from "./dom.js";
import { clock } from "./words.js";

export const SHOWN = 8;

/** `lines` as the API tells them, the newest first. */
export function showActs(list, note, lines) {
  keep(list, lines, ({ id }) => id, row);
  setText(note, lines.length ? "" : "Nobody has changed anything yet.");
}

function row() {
  const when = time();
  const who = el("strong");
  const what = el("span");
  const outcome = el("span", { class: "quiet" });
  const node = el(
    "li",
    {},
    el("p", { class: "run-when" }, when.node),
    el("p", { class: "run-what" }, who, " ", what, " ", outcome),
  );
  const show = (line) => {
    when.show(new Date(line.at), clock(new Date(line.at)));
    setText(who, line.who);
    setText(what, `${line.act} ${line.subject}`.trim());
    setText(outcome, outcomeOf(line));
  };
  return { node, show };
}

function outcomeOf({ outcome, class: why, count }) {
  return `${outcome}${why ? `: ${why}` : ""}${count > 1 ? `, ${count} times` : ""}`;
}
