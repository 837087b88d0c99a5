/** The flags in the form in which posthog-js takes them: `posthog.init(token, { bootstrap })`. */

import type { Answer, FeatureValue, Source } from "../api/client";

type Json = string | number | boolean | null | Json[] | { [name: string]: Json };

/** What `{% posthog_bootstrap %}` puts into a page, and `toBootstrap` makes of an answer. */
export interface Bootstrap {
  distinctID: string;
  isIdentifiedID: boolean;
  featureFlags: Record<string, FeatureValue>;
  featureFlagPayloads: Record<string, Json>;
}

/** Make posthog-js's bootstrap of an answer. `identified` says whether the person is logged in. */
export function toBootstrap(answer: Answer, identified: boolean): Bootstrap {
  const on = Object.entries(answer.features).filter(([, value]) => value);
  const keys = new Set(on.map(([key]) => key));
  return {
    distinctID: answer.distinct_id,
    isIdentifiedID: identified,
    featureFlags: Object.fromEntries(on),
    featureFlagPayloads: Object.fromEntries(
      Object.entries(answer.payloads as Record<string, Json>).filter(([key]) => keys.has(key)),
    ),
  };
}

/** Read it backwards: the answer that a page brought along. Flags that are off are not in it. */
export function fromBootstrap(bootstrap: Bootstrap, source: Source): Answer {
  return {
    distinct_id: bootstrap.distinctID,
    source,
    features: bootstrap.featureFlags,
    payloads: bootstrap.featureFlagPayloads,
  };
}
