import { headers } from "next/headers";
import type { Answer } from "../lib/api/client";

const TIMEOUT_MILLISECONDS = 2000;

/** Return the visitor's flags; null where Django does not answer. The browser asks again then. */
export async function getFeatures(): Promise<Answer | null> {
  const visitor = await headers();
  try {
    const response = await fetch(`${process.env.DJANGO_URL}/api/features/`, {
      cache: "no-store", // never let one person's flags be served to another
      headers: {
        cookie: visitor.get("cookie") ?? "",
        "x-forwarded-for": visitor.get("x-forwarded-for") ?? "",
      },
      signal: AbortSignal.timeout(TIMEOUT_MILLISECONDS),
    });
    return response.ok ? ((await response.json()) as Answer) : null;
  } catch {
    return null;
  }
}
