/** The flags in the form in which posthog-js takes them: `posthog.init(token, { bootstrap })`. */

import type { Answer, FeatureValue, Source } from "../api/client";

type Json = string | number | boolean | null | Json[] | { [name: string]: Json };

/** What `{% posthog_bootstrap %}` puts into a page, and `toBootstrap` makes of an answer. */
export interface Bootstrap {
  /** Both ids are absent where the answer is not of one person. */
  distinctID?: string;
  isIdentifiedID?: boolean;
  /** All flags; those that are off are false, or posthog-js would report them as missing. */
  featureFlags: Record<string, FeatureValue>;
  /** Payloads of the flags that are on. A payload that is text is JSON text here. */
  featureFlagPayloads: Record<string, Json>;
}

/** In the objects of posthog-js this key sets the prototype, and so the payloads of other flags. */
const UNUSABLE_KEY = "__proto__";

/** The distinct ids that are not of one person: of an unidentified one, and of all visitors. */
const SHARED_IDS = ["", "$anonymous"];

/**
 * Return posthog-js's bootstrap for an answer. `identified` states whether the person is logged in.
 * `posthog.updateFlags` takes its flags and payloads too. The ids are left out where the answer is
 * not of one person: all visitors would become one in PostHog.
 */
export function toBootstrap(answer: Answer, identified: boolean): Bootstrap {
  const flags = Object.entries(answer.features).filter(([key]) => key !== UNUSABLE_KEY);
  const on = new Set(flags.filter(([, value]) => value).map(([key]) => key));
  const payloads = Object.entries(answer.payloads as Record<string, Json>);
  const ids = { distinctID: answer.distinct_id, isIdentifiedID: identified };
  return {
    ...(SHARED_IDS.includes(answer.distinct_id) ? {} : ids),
    featureFlags: Object.fromEntries(flags.map(([key, value]) => [key, value || false])),
    featureFlagPayloads: Object.fromEntries(
      payloads.filter(([key]) => on.has(key)).map(([key, payload]) => [key, encode(payload)]),
    ),
  };
}

/** The inverse: return the answer that a page brought along. */
export function fromBootstrap(bootstrap: Bootstrap, source: Source): Answer {
  const payloads = Object.entries(bootstrap.featureFlagPayloads);
  return {
    distinct_id: bootstrap.distinctID ?? "",
    source,
    features: bootstrap.featureFlags as Answer["features"],
    payloads: Object.fromEntries(payloads.map(([key, payload]) => [key, decode(payload)])),
  };
}

/** posthog-js decodes a payload that is text as JSON, at the top level. */
function encode(payload: Json): Json {
  return typeof payload === "string" ? JSON.stringify(payload) : payload;
}

function decode(payload: Json): Json {
  return typeof payload === "string" ? (JSON.parse(payload) as Json) : payload;
}
