// Keeps the focus on the page when the element that has it goes away: it moves on to what stands in its place, so that
// whoever works with the keyboard need not begin at the top again.

const successors = new WeakMap();
let last = null; // what had the focus last, unless a pointer has been used since

/** Say what stands in the place of a node that is taken away. */
export function leaveTo(node, successor) {
  successors.set(node, successor);
}

const isThere = (node) => node.isConnected && node.checkVisibility({ visibilityProperty: true });

document.addEventListener("focusin", ({ target }) => (last = target));
document.addEventListener("pointerdown", () => (last = null));

/** Move the focus on, if what had it has gone. */
export function keepFocus() {
  if (last === null || isThere(last)) return;
  const active = document.activeElement;
  if (active === null || active === document.body || active === last) focusNear(last);
}

/** Focus what is nearest to where a node is or was: its row, the row after it, else the heading of its part. */
export function focusNear(node) {
  let place = node;
  while (place !== null && !(isThere(place) && place.matches("li, tr, section, main"))) {
    place = successors.get(place) ?? place.parentElement;
  }
  const target = place?.matches("section") ? (place.querySelector("h2") ?? place) : (place ?? document.querySelector("main"));
  focus(target);
}

/** Focus something that the keyboard would not stop at by itself. */
export function focus(target) {
  if (!target.matches("a[href], button, input, summary")) target.tabIndex = -1;
  target.focus();
}
