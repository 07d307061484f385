/** How many calls wait at most, for each call that may be in flight. */
export const WAITERS_PER_PLACE = 100;

/** Bounds how many calls are in flight, and how many wait until one of these ends. */
export class Places {
  readonly #most: number;
  /** What lets each waiting call go on, the one that came first at the beginning. */
  readonly #waiting = new Set<() => void>();
  #taken = 0;

  constructor(inFlight: number) {
    this.#most = inFlight;
  }

  /** Takes a place, and waits for it for some time. Resolves with why there is none, or with nothing. */
  async take(timeMs: number): Promise<string | undefined> {
    if (this.#taken < this.#most) {
      this.#taken++;
      return undefined;
    }
    if (this.#waiting.size >= WAITERS_PER_PLACE * this.#most) return "too many calls wait for others to end";
    return new Promise((resolve) => {
      const goOn = () => {
        clearTimeout(timer);
        resolve(undefined);
      };
      const timer = setTimeout(() => {
        this.#waiting.delete(goOn);
        resolve(`${this.#most} other calls were in flight until the deadline`);
      }, timeMs);
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
