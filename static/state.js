// The strengths that are set, and the steps that led to them. "move" tells of strengths, "step" of
// what can be undone.

const SAME_GESTURE = 700; // ms; arrow keys in a row, or both clicks of two, are one step to undo
const NONE = { name: null, at: 0 };

export class Strengths extends EventTarget {
  #now = {};
  #committed = {};
  #past = [];
  #future = [];
  #last = NONE; // the gesture that the last step was closed by

  get all() {
    return { ...this.#now };
  }

  get any() {
    return Object.keys(this.#now).length > 0;
  }

  get canUndo() {
    return this.#past.length > 0;
  }

  get canRedo() {
    return this.#future.length > 0;
  }

  of(name) {
    return this.#now[name] ?? 0;
  }

  set(name, strength) {
    const { [name]: _, ...others } = this.#now;
    this.#move(strength ? { ...others, [name]: strength } : others);
  }

  // Back to 0, as a gesture of its own.
  clear(name) {
    this.set(name, 0);
    this.commit(name);
  }

  // Closes a gesture, so that undo goes back to before it.
  commit(name = null) {
    if (same(this.#now, this.#committed)) return;
    const now = performance.now();
    const goesOn = name && name === this.#last.name && now - this.#last.at < SAME_GESTURE;
    this.#last = { name, at: now };
    if (!goesOn) this.#past.push(this.#committed);
    else if (same(this.#now, this.#past.at(-1))) {
      this.#past.pop(); // a gesture that ended where it began is no step
      this.#last = NONE;
    }
    this.#future = [];
    this.#committed = this.#now;
    this.dispatchEvent(new Event("step"));
  }

  // One step to other strengths.
  replace(strengths) {
    this.#move(strengths);
    this.commit();
  }

  undo() {
    this.commit();
    if (this.canUndo) this.#step(this.#past, this.#future);
  }

  redo() {
    if (this.canRedo) this.#step(this.#future, this.#past);
  }

  // Another face starts without a past.
  begin(strengths) {
    this.#past = [];
    this.#future = [];
    this.#last = NONE;
    this.#committed = strengths;
    this.#move(strengths);
    this.dispatchEvent(new Event("step"));
  }

  #step(from, to) {
    to.push(this.#committed);
    this.#committed = from.pop();
    this.#last = NONE;
    this.#move(this.#committed);
    this.dispatchEvent(new Event("step"));
  }

  #move(strengths) {
    this.#now = strengths;
    this.dispatchEvent(new Event("move"));
  }
}

const same = (a, b) => {
  const names = Object.keys(a);
  return names.length === Object.keys(b).length && names.every((name) => a[name] === b[name]);
};
