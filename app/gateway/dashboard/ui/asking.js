// Asks once more before something is done that takes something away. The keyboard stays inside the question until it is
// answered, Escape means no, and the focus goes back to where it was.

import { setText } from "/ui/dom.js";

export class Asking {
  #dialog;
  #parts;
  #work = async () => {};

  constructor(dialog) {
    const part = (name) => dialog.querySelector(`[data-part="${name}"]`);
    this.#dialog = dialog;
    this.#parts = { title: part("title"), words: part("words"), trouble: part("trouble"), yes: part("yes") };
    part("no").addEventListener("click", () => dialog.close());
    this.#parts.yes.addEventListener("click", () => this.#do());
  }

  /** `work()` is done when the answer is yes; what it throws is shown, and the question stays. */
  ask({ title, words, yes, work }) {
    setText(this.#parts.title, title);
    setText(this.#parts.words, words);
    setText(this.#parts.yes, yes);
    setText(this.#parts.trouble, "");
    this.#work = work;
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
