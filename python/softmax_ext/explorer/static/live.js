// Asks for numbers while a control moves: one request at a time, and of the states that come meanwhile only the newest.

export class Live {
  /** `address()` is read when a request starts; `show(numbers, since)` draws; `fail(message)` says what is wrong. */
  constructor(address, show, fail) {
    Object.assign(this, { address, show, fail, busy: false, wanted: null, stopped: false });
  }

  /** `since` is when the reader moved the control. */
  request(since = performance.now()) {
    this.wanted = since;
    if (!this.busy) this.run();
  }

  stop() {
    this.stopped = true;
  }

  async run() {
    this.busy = true;
    while (this.wanted !== null && !this.stopped) {
      const since = this.wanted;
      this.wanted = null;
      try {
        const numbers = await numbersAt(this.address());
        if (this.stopped) break;
        this.show(numbers, since);
        this.fail(null);
      } catch (error) {
        if (!this.stopped) this.fail(error.message);
      }
    }
    this.busy = false;
  }
}

export async function numbersAt(address) {
  let response;
  try {
    response = await fetch(address);
  } catch {
    throw new Error("The explorer's server does not answer: is it still running?");
  }
  if (response.status >= 500) throw new Error("The explorer's server failed: its terminal says why.");
  const numbers = await response.json();
  if (!response.ok) throw new Error(numbers.error);
  return numbers;
}
