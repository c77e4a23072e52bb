// Builds and changes the page. Text from outside reaches it as text nodes and nothing else: there is no way here to
// write markup, and the page's policy (trusted types) would refuse one.

import { leaveTo } from "./focus.js";

const ICONS = new URL("icons.svg", import.meta.url).pathname;
const SVG = "http://www.w3.org/2000/svg";

/** Fit to be shown: characters that hide, or turn the direction of reading, appear as escapes. */
export function plain(text) {
  return String(text).replace(/[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Zl}\p{Zp}]/gu, (character) =>
    character === "\n" || character === "\t" ? " " : `\\u{${character.codePointAt(0).toString(16)}}`,
  );
}

/** An element. `attributes` may hold `text`, and `on` with listeners by event; false and null leave one out. */
export function el(tag, attributes = {}, ...children) {
  return furnish(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return furnish(document.createElementNS(SVG, tag), attributes, children);
}

function furnish(node, { text, on = {}, ...attributes }, children) {
  for (const [name, value] of Object.entries(attributes)) setAttribute(node, name, value);
  for (const [event, listener] of Object.entries(on)) node.addEventListener(event, listener);
  if (text !== undefined) node.textContent = plain(text);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export function setAttribute(node, name, value) {
  if (value === false || value === null || value === undefined) {
    if (node.hasAttribute(name)) node.removeAttribute(name);
  } else if (node.getAttribute(name) !== String(value)) {
    node.setAttribute(name, value === true ? "" : String(value));
  }
}

/** Changes a text only if it is another one, so that nobody's selection is lost. */
export function setText(node, text) {
  const shown = plain(text);
  if (node.textContent !== shown) node.textContent = shown;
}

/** The same for a sentence of ours or of the jobs', in which commands stand between backticks. */
export function setProse(node, text) {
  if (node.prose === text) return;
  node.prose = text;
  node.replaceChildren(...plain(text).split("`").map((part, index) => (index % 2 ? el("code", { text: part }) : part)));
}

export function setHidden(node, hidden) {
  if (node.hidden !== hidden) node.hidden = hidden;
}

/**
 * One child of `parent` for each item, in their order. What is there stays the same element, so that focus, open
 * stories and selections survive. `make(item)` gives `{ node, show(item) }`.
 */
export function keep(parent, items, keyOf, make) {
  const known = parent.kept ?? new Map();
  const next = new Map();
  for (const item of items) {
    const key = keyOf(item);
    const part = known.get(key) ?? make(item);
    part.show(item);
    next.set(key, part);
  }
  const before = [...known];
  before.forEach(([key, part], at) => {
    if (next.has(key)) return;
    const stays = ([other]) => next.has(other);
    const neighbour = before.slice(at).find(stays) ?? before.slice(0, at).findLast(stays);
    leaveTo(part.node, neighbour?.[1].node ?? parent);
    part.node.remove();
  });
  let sibling = parent.firstElementChild;
  for (const { node } of next.values()) {
    if (node === sibling) sibling = sibling.nextElementSibling;
    else parent.insertBefore(node, sibling);
  }
  parent.kept = next;
}

/** A drawing from icons.svg; what it means always stands beside it in words. */
export function icon(name) {
  const use = svg("use", { href: `${ICONS}#${name}` });
  return svg("svg", { class: "icon", viewBox: "0 0 16 16", "aria-hidden": "true", focusable: "false" }, use);
}

export function setIcon(node, name) {
  setAttribute(node.firstElementChild, "href", `${ICONS}#${name}`);
}

/** A moment as words, with the whole date for whoever points at it. */
export function time() {
  const node = el("time");
  return {
    node,
    show(moment, words) {
      setText(node, words);
      setAttribute(node, "datetime", moment.toISOString());
      setAttribute(node, "title", moment.toLocaleString());
    },
  };
}
