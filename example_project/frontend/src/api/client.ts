/** The REST API's client. `schema.d.ts` is generated from openapi.yaml: `make client`. */

import createClient from "openapi-fetch";
import type { components, paths } from "./schema";

/** The response of `GET /api/features/`. */
export type Answer = components["schemas"]["FeatureFlags"];
export type Source = Answer["source"];

/** On, off, or the name of a variant. */
export type FeatureValue = boolean | string;

type Named<T> = keyof { [Key in keyof T as string extends Key ? never : Key]: T[Key] };

/** The flags that the schema names: the plain keys of `POSTHOG_API_FLAGS`. */
export type NamedFeature = Named<Answer["features"]>;

/** The keys that compile: the named ones, and any string where `POSTHOG_API_FLAGS` has globs. */
export type FeatureKey = string extends keyof Answer["features"]
  ? NamedFeature | (string & {}) // the intersection keeps the names in an editor's completion
  : NamedFeature;

/** Return the value of a key, or undefined. Every object inherits keys such as `constructor`. */
export function own<T>(record: Record<string, T>, key: string): T | undefined {
  return Object.hasOwn(record, key) ? record[key] : undefined;
}

export type Api = ReturnType<typeof createApi>;

/** Return a client for the API at `baseUrl`; without one, at the origin of the page. */
export function createApi(baseUrl = "") {
  const api = createClient<paths>({ baseUrl, credentials: "include" });
  api.use({
    onRequest({ request }) {
      if (request.method === "GET") return;
      request.headers.set("X-CSRFToken", csrfToken());
      const session = sessionId();
      if (session) request.headers.set("X-POSTHOG-SESSION-ID", session);
    },
  });
  return api;
}

/** Return Django's CSRF token. It is read for each request: a log-in changes it. */
export function csrfToken(): string {
  return /(?:^|; )csrftoken=([^;]*)/.exec(document.cookie)?.[1] ?? "";
}

/** What is used of posthog-js, all of it optional: an ad blocker may put a stub in its place. */
interface PostHogPage {
  posthog?: { get_session_id?: () => unknown };
}

/** Return posthog-js's session id, which an exposure carries; undefined where there is none. */
function sessionId(): string | undefined {
  try {
    const id = (globalThis as PostHogPage).posthog?.get_session_id?.();
    return typeof id === "string" && /^[\w-]+$/.test(id) ? id : undefined;
  } catch {
    return undefined;
  }
}
