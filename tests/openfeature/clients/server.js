// OpenFeature's server SDK with the OFREP provider.
import { OpenFeature } from "@openfeature/server-sdk";
import { OFREPProvider } from "@openfeature/ofrep-provider";

const client = OpenFeature.getClient();
let context = {};

export async function start(baseUrl, context_ = {}, options = {}) {
  context = context_;
  await OpenFeature.setProviderAndWait(new OFREPProvider({ baseUrl, ...options }));
  return state();
}

export const state = () => ({ status: client.providerStatus });
export const boolean = (key, otherwise) => client.getBooleanDetails(key, otherwise, context);
export const string = (key, otherwise) => client.getStringDetails(key, otherwise, context);
export const stop = () => OpenFeature.close();
