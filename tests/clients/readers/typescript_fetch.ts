import { Configuration, FeaturesApi, OfrepApi, ResponseError } from "../dist/typescript-fetch";
import { address, key, print } from "./reader";

const configuration = new Configuration({ basePath: address });
const api = new FeaturesApi(configuration);
const ofrep = new OfrepApi(configuration);

const all = await api.featuresList();
const one = await api.featuresRetrieve({ key });
const exposure = await api.featuresExposureCreateRaw({ key });
const exposures = await api.featuresExposuresCreateRaw({ featureFlagExposures: { keys: [key] } });
const bulk = await ofrep.ofrepFlags({ ofrepRequest: {} });
const single = await ofrep.ofrepFlag({ key, ofrepRequest: {} });
const missing = await api.featuresRetrieve({ key: "none" }).catch((error: unknown) => {
  if (error instanceof ResponseError) return error.response.json();
  throw error;
});

// Named keys are there twice, once as names of JavaScript.
const { giftWrapping: _, ...features } = all.features;

print({
  distinct_id: all.distinctId,
  source: all.source,
  named: all.features.checkout as boolean | string | undefined,
  features,
  payloads: all.payloads,
  one: [one.key, one.enabled, one.variant, one.payload],
  exposure: exposure.raw.status,
  exposures: exposures.raw.status,
  bulk: bulk.flags.map((flag) => [flag.key, flag.value, flag.reason, flag.variant]),
  single: [single.key, single.value, single.reason, single.metadata["source"]],
  missing: missing.detail,
});
