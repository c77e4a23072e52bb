// Asks once more before something is done that takes something away. The keyboard stays inside the question until it is
// answered, Escape means no, and the focus goes back to where it was, or to what stands there now.

import { setText } from "./dom.js";
import { focusNear } from "./focus.js";

export class Asking {
  #dialog;
  #parts;
  #work = async () => {};
  #asker = null; // what had the focus before

  constructor(dialog) {
    const part = (name) => dialog.querySelector(`[data-part="${name}"]`);
    this.#dialog = dialog;
    this.#parts = { title: part("title"), words: part("words"), trouble: part("trouble"), yes: part("yes") };
    part("no").addEventListener("click", () => dialog.close());
    this.#parts.yes.addEventListener("click", () => this.#do());
    dialog.addEventListener("close", () => {
      if (this.#asker !== null && document.activeElement !== this.#asker) focusNear(this.#asker);
    });
  }

  /** `work()` is done when the answer is yes; what it throws is shown, and the question stays. */
  ask({ title, words, yes, work }) {
    setText(this.#parts.title, title);
    setText(this.#parts.words, words);
    setText(this.#parts.yes, yes);
    setText(this.#parts.trouble, "");
    this.#work = work;
    this.#asker = document.activeElement === document.body ? null : document.activeElement;
    this.#dialog.showModal();
  }

  async #do() {
    const { yes, trouble } = this.#parts;
    yes.disabled = true;
    try {
      await this.#work();
      this.#dialog.close();
    } catch (error) {
      setText(trouble, error.message);
    } finally {
      yes.disabled = false;
    }
  }
}
