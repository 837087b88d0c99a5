/** Where the site is. */
export const address = process.argv[2]!;
/** The flag that is read alone: a key that a path has to encode. */
export const key = "a/b 50%";

/** Hand what a client read to the test. */
export function print(read: {
  distinct_id: string;
  source: string;
  named: boolean | string | undefined;
  features: unknown;
  payloads: unknown;
  one: unknown[];
  exposure: number;
  exposures: number;
  bulk: unknown[][];
  single: unknown[];
  missing: unknown;
}): void {
  console.log(JSON.stringify(read));
}
