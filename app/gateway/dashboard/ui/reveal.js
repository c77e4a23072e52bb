// Shows the parts of the page from the top down, each once what it tells is known, so that nothing that somebody reads
// is pushed away by what comes in later.

import { setAttribute, setHidden } from "./dom.js";

/** `parts` in their order: `{ node, isKnown() }`. The first that is not known yet shows its heading alone. */
export function reveal(parts) {
  let isNext = true;
  for (const { node, isKnown } of parts) {
    setHidden(node, !isNext);
    if (!isNext) continue;
    isNext = isKnown();
    setAttribute(node, "aria-busy", isNext ? null : "true");
  }
  return isNext;
}
