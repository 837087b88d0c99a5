import * as api from "../dist/orval/client";
import { address, key, print } from "./reader";

// orval's functions have the addresses of the document, which are those of the page's own site.
const send = globalThis.fetch;
globalThis.fetch = (target, options) => send(new URL(String(target), address), options);

const list = await api.featuresList();
const one = await api.featuresRetrieve(key);
const exposure = await api.featuresExposureCreate(key);
const exposures = await api.featuresExposuresCreate({ keys: [key] });
const bulk = await api.ofrepFlags({});
const single = await api.ofrepFlag(key, {});
const missing = await api.featuresRetrieve("none");

if (list.status !== 200 || one.status !== 200) throw new Error("REST");
if (bulk.status !== 200 || single.status !== 200) throw new Error("OFREP");
if (missing.status !== 404) throw new Error("404");
const all = list.data;
print({
  distinct_id: all.distinct_id,
  source: all.source,
  named: all.features.checkout,
  features: all.features,
  payloads: all.payloads,
  one: [one.data.key, one.data.enabled, one.data.variant, one.data.payload],
  exposure: exposure.status,
  exposures: exposures.status,
  bulk: bulk.data.flags.map((flag) => [flag.key, flag.value, flag.reason, flag.variant]),
  single: [single.data.key, single.data.value, single.data.reason, single.data.metadata["source"]],
  missing: missing.data.detail,
});
