// The models: their size, whether they are pinned, when they were last used, and what can be done with them.

import { el, icon, keep, plain, setAttribute, setHidden, setText, time } from "./dom.js";
import { ago, bytes, short } from "./words.js";

const VERBS = {
  rollback: {
    label: "Roll back",
    title: (name) => `Roll ${name} back?`,
    words: () =>
      "The version before the last pull comes back from the trash, and the one that is here takes its place there. " +
      "The night leaves it so until the tag moves once more.",
  },
  delete: {
    label: "Delete",
    title: (name) => `Delete ${name}?`,
    words: ({ pinned }) =>
      "It goes with all bytes that no other model needs, at once: they are not kept in the trash." +
      (pinned ? " The fleet pins it, so the next night pulls it again." : ""),
  },
};

/**
 * `models` as the API lists them, each with its `aliases`, and perhaps with `pinned`, `tier`, `last_used`; `context` has
 * `mayChange` and `ask(question)`, which does it if the answer is yes.
 */
export function showModels(body, models, context) {
  keep(body, models.map((model) => ({ ...model, context })), ({ name }) => name, row);
}

function row() {
  let latest = null;
  const buttons = Object.entries(VERBS).map(([kind, verb]) => {
    const press = () =>
      latest.context.ask({
        kind,
        model: latest.name,
        title: verb.title(short(latest.name)),
        words: verb.words(latest),
        yes: verb.label,
      });
    const button = el("button", { type: "button", class: "quiet-button", text: verb.label, on: { click: press } });
    return { button, verb, kind };
  });
  const actions = el("td", { class: "model-actions" }, el("div", {}, ...buttons.map(({ button }) => button)));
  const name = el("bdi");
  const details = el("span", { class: "quiet model-details" });
  const aliases = el("span", { class: "quiet model-details model-aliases" });
  const size = el("td", { class: "number" });
  const tier = el("td", { "data-head": "Tier" });
  const pin = el("span", { class: "pin" }, icon("pin"), " pinned");
  const free = el("span", { class: "quiet", text: "no" });
  const used = time();
  const never = el("span", { class: "quiet", text: "not recorded" });
  size.dataset.head = "Size";
  const node = el(
    "tr",
    {},
    el("th", { scope: "row" }, name, details, aliases),
    size,
    tier,
    el("td", { "data-head": "Pinned" }, pin, free),
    el("td", { "data-head": "Last used" }, used.node, never),
    actions,
  );
  const show = (model) => {
    latest = model;
    for (const { button, verb, kind } of buttons) {
      setHidden(button, !model.context.mayChange || (kind === "rollback" && !model.can_roll_back));
      setAttribute(button, "aria-label", `${verb.label}: ${plain(short(model.name))}`);
    }
    const { family, parameter_size: parameters, quantization_level: quantisation } = model.details ?? {};
    setText(name, short(model.name));
    setText(details, [family, parameters, quantisation].filter(Boolean).join(" · "));
    setText(aliases, model.aliases.length ? `also ${model.aliases.map(short).join(", ")}` : "");
    setHidden(aliases, !model.aliases.length);
    setText(size, bytes(model.size));
    setText(tier, model.tier ?? "–");
    setHidden(pin, !model.pinned);
    setHidden(free, Boolean(model.pinned));
    setHidden(used.node, !model.last_used);
    setHidden(never, Boolean(model.last_used));
    if (model.last_used) used.show(new Date(model.last_used), ago(Date.parse(model.last_used)));
  };
  return { node, show };
}
