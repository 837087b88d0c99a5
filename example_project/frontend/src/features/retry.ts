/** Time limits of requests, and when to send one again. */

const FIRST_DELAY_SECONDS = 1;
const MAX_DELAY_SECONDS = 60;
const MAX_RETRY_AFTER_SECONDS = 24 * 60 * 60; // setTimeout fires at once beyond 24 days

/**
 * Return the result of a request, or reject after `seconds`, also where the request ignores its
 * signal: middleware that hangs never sees it.
 */
export async function withTimeLimit<T>(
  seconds: number,
  request: (signal: AbortSignal) => Promise<T>,
  controller = new AbortController(),
): Promise<T> {
  const { signal } = controller;
  const aborted = new Promise<never>((_, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason as Error), { once: true });
  });
  const timer = setTimeout(() => controller.abort(new Error("time limit")), seconds * 1000);
  try {
    return await Promise.race([request(signal), aborted]);
  } finally {
    clearTimeout(timer);
  }
}

/** Calls back after failures: with exponential back-off and jitter, and not before `Retry-After`. */
export class Retry {
  readonly #callback: () => void;
  #failures = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #notBefore = 0;

  constructor(callback: () => void) {
    this.#callback = callback;
  }

  /** Whether a call is scheduled. */
  get isScheduled(): boolean {
    return this.#timer !== undefined;
  }

  /** Whether the server has asked for a pause that is not over. */
  get isPaused(): boolean {
    return Date.now() < this.#notBefore;
  }

  /** Schedule the call after a failure; `response` is the server's, where there was one. */
  schedule(response?: Response): void {
    this.cancel();
    const pause = retryAfterSeconds(response?.headers.get("Retry-After") ?? null) * 1000;
    const backoff = Math.min(FIRST_DELAY_SECONDS * 2 ** this.#failures, MAX_DELAY_SECONDS) * 1000;
    this.#failures += 1;
    this.#notBefore = Date.now() + pause;
    const jitter = 0.5 + Math.random() / 2;
    this.#timer = setTimeout(
      () => {
        this.#timer = undefined;
        this.#callback();
      },
      pause + backoff * jitter,
    );
  }

  /** Cancel the scheduled call. */
  cancel(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  /** Start anew after a success. */
  reset(): void {
    this.cancel();
    this.#failures = 0;
    this.#notBefore = 0;
  }
}

/** Return the seconds that a `Retry-After` header asks for: a number, or the time until a date. */
export function retryAfterSeconds(header: string | null): number {
  if (header === null) return 0;
  const isNumber = /^\s*\d+\s*$/.test(header);
  const seconds = isNumber ? Number(header) : (Date.parse(header) - Date.now()) / 1000;
  return Number.isNaN(seconds) ? 0 : Math.min(Math.max(seconds, 0), MAX_RETRY_AFTER_SECONDS);
}
