// Keys, for administrators: what each may, and how one is made, rotated and revoked. A key that was just made is shown
// once, with lines that are ready to be used; it is kept nowhere, and is gone from the page when somebody says so.

import { el, keep, plain, setAttribute, setHidden, setText } from "./dom.js";
import { date } from "./words.js";

const VERBS = {
  rotate: {
    label: "Rotate",
    title: (name) => `Make another key for ${name}?`,
    words: "It is shown here once. The old one is good for a day more.",
  },
  revoke: {
    label: "Revoke",
    title: (name) => `Revoke the key of ${name}?`,
    words: "It is refused everywhere within 10 seconds, and what it has under way ends within 30.",
  },
};

/** What is asked for a new key, from the fields of its form; throws words for a person where one says nothing. */
export function wanted(fields) {
  const asked = { name: fields.name.value.trim(), scopes: fields.scope.value.split(" ") };
  const words = (field) => field.value.split(/[\s,]+/).filter(Boolean);
  if (fields.models.value.trim()) asked.models = words(fields.models);
  const limits = fields.limits.value.split(/\s+/).filter(Boolean).map((word) => word.split("=", 2));
  if (limits.some((parts) => parts.length !== 2 || !parts[1])) {
    throw new Error("Limits are names with values, as in rpm=60 dollars=5/month.");
  }
  if (limits.length) asked.limits = Object.fromEntries(limits);
  if (fields.expires.value) asked.expires = fields.expires.value;
  if (fields.signer.value.trim()) asked.public_key = fields.signer.value.trim();
  return asked;
}

/** Ready lines for whoever has this key, each with what it is for; without one, for who signs. */
export function readyLines(address, key) {
  if (key === null) return [{ what: "The ollama command", line: `OLLAMA_HOST=${address} OLLAMA_AUTH=1 ollama run llama3.2` }];
  const chat = `{"model": "llama3.2", "messages": [{"role": "user", "content": "hello"}]}`;
  const configs = `'{"0": {"key": "${key}"}}'`;
  return [
    { what: "curl", line: `curl -H "Authorization: Bearer ${key}" ${address}/api/chat -d '${chat}'` },
    { what: "openai, in Python", line: `client = OpenAI(base_url="${address}/v1", api_key="${key}")` },
    { what: "Open WebUI", line: `OLLAMA_BASE_URL=${address} OLLAMA_API_CONFIGS=${configs} open-webui serve` },
    {
      what: "The ollama command sends no key, but signs: make a key with its public key. Until then",
      line: `OLLAMA_MODAL_URL=${address} OLLAMA_MODAL_KEY=${key} ollama-modal run llama3.2`,
    },
  ];
}

/** Shows a key that was just made; `hide` forgets it. */
export class NewKey {
  #parts;

  constructor(parts) {
    this.#parts = parts;
    parts.done.addEventListener("click", () => this.hide());
  }

  show(name, key, address) {
    const { section, title, words, text, lines } = this.#parts;
    setText(title, key === null ? `${name} is let in` : `The key of ${name}`);
    setText(words, key === null ? "Who signs with that key needs no other." : "Give it away now: it is kept nowhere, and cannot be shown again.");
    setText(text, key ?? "");
    setHidden(text, key === null);
    keep(lines, readyLines(address, key), ({ what }) => what, () => {
      const code = el("code");
      const label = el("span", { class: "quiet" });
      return { node: el("li", {}, label, code), show: ({ what, line }) => { setText(label, what); setText(code, line); } };
    });
    setHidden(section, false);
    section.focus();
  }

  hide() {
    const { section, text, lines } = this.#parts;
    setHidden(section, true);
    setText(text, "");
    keep(lines, [], () => "", null);
  }
}

/** `keys` as the API lists them; `ask(verb, key, question)` asks, and does it if the answer is yes. */
export function showKeys(body, keys, ask) {
  keep(body, keys.map((key) => ({ ...key, ask })), ({ name, source }) => `${source} ${name}`, row);
}

function row() {
  let latest = null;
  const buttons = Object.entries(VERBS).map(([verb, { label, title, words }]) => {
    const press = () => latest.ask(verb, latest, { title: title(plain(latest.name)), words, yes: label });
    return { label, button: el("button", { type: "button", class: "quiet-button", text: label, on: { click: press } }) };
  });
  const name = el("bdi");
  const made = el("span", { class: "quiet model-details" });
  const cells = Object.fromEntries(["State", "May", "Models", "Limits", "Expires"].map((head) => [head, el("td", { "data-head": head })]));
  const actions = el("td", { class: "model-actions" }, el("div", {}, ...buttons.map(({ button }) => button)));
  const node = el("tr", {}, el("th", { scope: "row" }, name, made), ...Object.values(cells), actions);
  const show = (key) => {
    latest = key;
    setText(name, key.name);
    setText(made, key.source === "lines" ? "on a line" : `made by ${key.made_by}`);
    setText(cells.State, key.state);
    setText(cells.May, key.scopes.join(", "));
    setText(cells.Models, key.models.join(", ") || "all");
    setText(cells.Limits, Object.entries(key.limits).map(([limit, value]) => `${limit}=${value}`).join(" ") || "none");
    setText(cells.Expires, key.expires ? date(new Date(key.expires)) : "never");
    for (const { label, button } of buttons) {
      setHidden(button, key.source === "lines" || key.state === "revoked");
      setAttribute(button, "aria-label", `${label}: ${plain(key.name)}`);
    }
  };
  return { node, show };
}
