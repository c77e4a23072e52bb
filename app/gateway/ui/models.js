// The models: their size, whether they are pinned, when they were last used.

import { el, icon, keep, setHidden, setText, time } from "/ui/dom.js";
import { ago, bytes, short } from "/ui/words.js";

/** `models` as the API lists them, each perhaps with `pinned`, `tier`, `last_used`. */
export function showModels(body, models) {
  keep(body, models, ({ name }) => name, row);
}

function row() {
  const name = el("bdi");
  const details = el("span", { class: "quiet model-details" });
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
    el("th", { scope: "row" }, name, details),
    size,
    tier,
    el("td", { "data-head": "Pinned" }, pin, free),
    el("td", { "data-head": "Last used" }, used.node, never),
  );
  const show = (model) => {
    const { family, parameter_size: parameters, quantization_level: quantisation } = model.details ?? {};
    setText(name, short(model.name));
    setText(details, [family, parameters, quantisation].filter(Boolean).join(" · "));
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
