import createClient from "openapi-fetch";
import type { paths } from "../dist/openapi-typescript/schema";
import { address, key, print } from "./reader";

const api = createClient<paths>({ baseUrl: address });
const path = { key };

const list = await api.GET("/api/features/");
const one = await api.GET("/api/features/{key}/", { params: { path } });
const exposure = await api.POST("/api/features/{key}/exposure/", { params: { path } });
const exposures = await api.POST("/api/features/exposures/", { body: { keys: [key] } });
const bulk = await api.POST("/ofrep/v1/evaluate/flags", { body: {} });
const single = await api.POST("/ofrep/v1/evaluate/flags/{key}", { params: { path }, body: {} });
const missing = await api.GET("/api/features/{key}/", { params: { path: { key: "none" } } });

const all = list.data!;
print({
  distinct_id: all.distinct_id,
  source: all.source,
  named: all.features.checkout,
  features: all.features,
  payloads: all.payloads,
  one: [one.data!.key, one.data!.enabled, one.data!.variant, one.data!.payload],
  exposure: exposure.response.status,
  exposures: exposures.response.status,
  bulk: bulk.data!.flags.map((flag) => [flag.key, flag.value, flag.reason, flag.variant]),
  single: [single.data!.key, single.data!.value, single.data!.reason, single.data!.metadata.source],
  missing: missing.error!.detail,
});
