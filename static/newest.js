// One errand at a time, and only the newest waits: what a slider passed on its way is not worth a
// request once the hand is elsewhere.

export class Newest {
  #waiting = null;
  #running = null;
  #onError;

  constructor(onError) {
    this.#onError = onError;
  }

  // `work` takes an AbortSignal. Work that `yields` is cut short by whatever is asked after it.
  ask(work, { yields = false } = {}) {
    this.#waiting = { work, yields };
    if (this.#running?.yields) this.#running.abort.abort();
    if (!this.#running) void this.#run();
  }

  get waits() {
    return this.#waiting !== null;
  }

  drop() {
    this.#waiting = null;
    this.#running?.abort.abort();
  }

  async #run() {
    while (this.#waiting) {
      const { work, yields } = this.#waiting;
      this.#waiting = null;
      const abort = new AbortController();
      this.#running = { yields, abort };
      try {
        await work(abort.signal);
      } catch (error) {
        if (!abort.signal.aborted) this.#onError(error);
      }
      this.#running = null;
    }
  }
}
