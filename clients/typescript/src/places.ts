/** How many calls wait at most, for each call that may be in flight. */
export const WAITERS_PER_PLACE = 100;

/** Bounds how many calls are in flight, and how many wait until one of these ends. */
export class Places {
  readonly #most: number;
  readonly #leastMs: number;
  /** What lets each waiting call go on, the one that came first at the beginning. */
  readonly #waiting = new Set<() => void>();
  #taken = 0;

  /** A call that waited needs a time of at least `leastMs`. */
  constructor(inFlight: number, leastMs: number) {
    this.#most = inFlight;
    this.#leastMs = leastMs;
  }

  /**
   * Takes a place, and waits for it until `end`, a time of `performance.now()`. A place that comes too late is given
   * back. Resolves with why there is none, or with nothing.
   */
  async take(end: number): Promise<string | undefined> {
    if (this.#taken < this.#most) {
      this.#taken++;
      return undefined;
    }
    if (this.#waiting.size >= WAITERS_PER_PLACE * this.#most) return "too many calls wait for others to end";
    const taken = await this.#wait(end);
    if (taken && performance.now() + this.#leastMs <= end) return undefined;
    if (taken) this.leave();
    return `${this.#most} other calls were in flight until the deadline was near`;
  }

  /** Waits for a place until `end`. Resolves with true if there is one. */
  #wait(end: number): Promise<boolean> {
    return new Promise((resolve) => {
      const goOn = () => {
        clearTimeout(timer);
        resolve(true);
      };
      const timer = setTimeout(() => {
        this.#waiting.delete(goOn);
        resolve(false);
      }, end - performance.now());
      this.#waiting.add(goOn);
    });
  }

  /** Gives a place to the call that has waited longest, or back. */
  leave(): void {
    for (const goOn of this.#waiting) {
      this.#waiting.delete(goOn);
      goOn();
      return;
    }
    this.#taken--;
  }
}
