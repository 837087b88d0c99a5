/** What must not compile, checked by `tsc`: a line below that compiled would be the error. */

import type { Answer, FeatureKey, FeatureValue } from "../api/client";
import type { FeatureStore } from "./store";

declare const store: FeatureStore;
declare const answer: Answer;

const known: FeatureKey[] = ["checkout", "gift-wrapping", "new-navigation", "web-summer-sale"];
const value: FeatureValue | undefined = store.value("checkout");

// @ts-expect-error: no flag has this name
store.value("chekout");

// @ts-expect-error: nor is it a property of the answer
void answer.features.chekout;

// @ts-expect-error: a value may be the name of a variant, so it is no plain boolean
const on: boolean = answer.features.checkout;

// @ts-expect-error: a source is one of the words that the API knows
const source: Answer["source"] = "cache";

export { known, on, source, value };
