import { client } from "../dist/hey-api/client.gen";
import * as api from "../dist/hey-api/sdk.gen";
import { address, key, print } from "./reader";

client.setConfig({ baseUrl: address });
const path = { key };

const list = await api.featuresList();
const one = await api.featuresRetrieve({ path });
const exposure = await api.featuresExposureCreate({ path });
const exposures = await api.featuresExposuresCreate({ body: { keys: [key] } });
const bulk = await api.ofrepFlags({ body: {} });
const single = await api.ofrepFlag({ path, body: {} });
const missing = await api.featuresRetrieve({ path: { key: "none" } });

const all = list.data!;
print({
  distinct_id: all.distinct_id,
  source: all.source,
  named: all.features.checkout,
  features: all.features,
  payloads: all.payloads,
  one: [one.data!.key, one.data!.enabled, one.data!.variant, one.data!.payload],
  exposure: exposure.response!.status,
  exposures: exposures.response!.status,
  bulk: bulk.data!.flags.map((flag) => [flag.key, flag.value, flag.reason, flag.variant]),
  single: [single.data!.key, single.data!.value, single.data!.reason, single.data!.metadata.source],
  missing: missing.error!.detail,
});
