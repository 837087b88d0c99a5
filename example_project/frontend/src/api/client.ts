/** The REST API's client. `schema.d.ts` is generated from openapi.yaml: `make client`. */

import createClient from "openapi-fetch";
import type { components, paths } from "./schema";

/** What `GET /api/features/` answers. */
export type Answer = components["schemas"]["FeatureFlags"];
export type Source = Answer["source"];

/** On, off, or the name of a variant. */
export type FeatureValue = Answer["features"][string];

type Named<T> = keyof { [Key in keyof T as string extends Key ? never : Key]: T[Key] };

/** The flags that the server names (the plain keys of `POSTHOG_API_FLAGS`): no others compile. */
export type NamedFeature = Named<Answer["features"]>;

/** What this site asks for: those, and the ones under its glob `web-*`, which bear no names. */
export type FeatureKey = NamedFeature | `web-${string}`;

/** Return the value of a key, or undefined. Every object inherits keys such as `constructor`. */
export function own<T>(record: Record<string, T>, key: string): T | undefined {
  return Object.hasOwn(record, key) ? record[key] : undefined;
}

export type Api = ReturnType<typeof createApi>;

/** A client for the API at `baseUrl`; without one, at the origin of the page. */
export function createApi(baseUrl = "") {
  const api = createClient<paths>({ baseUrl, credentials: "include" });
  api.use({
    onRequest({ request }) {
      if (request.method === "GET") return;
      request.headers.set("X-CSRFToken", csrfToken());
      const session = window.posthog?.get_session_id(); // so that an exposure finds its session
      if (session) request.headers.set("X-POSTHOG-SESSION-ID", session);
    },
  });
  return api;
}

/** Django's CSRF token. Read anew each time: logging in changes it. */
export function csrfToken(): string {
  return /(?:^|; )csrftoken=([^;]*)/.exec(document.cookie)?.[1] ?? "";
}
