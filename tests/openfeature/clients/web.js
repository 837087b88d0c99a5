// OpenFeature's web SDK with the OFREP provider, for Node.js and for a page.
import { OpenFeature, ProviderEvents } from "@openfeature/web-sdk";
import { OFREPWebProvider } from "@openfeature/ofrep-web-provider";

const answers = [];
const events = [];
const client = OpenFeature.getClient();
for (const event of Object.values(ProviderEvents)) {
  client.addHandler(event, () => events.push(event));
}

let credentials; // as in the page of the docs for another origin

async function noting(request, init) {
  const response = await fetch(request, credentials ? { ...init, credentials } : init);
  answers.push(response.status);
  return response;
}

export async function start(baseUrl, context = {}, { credentials: wanted, ...options } = {}) {
  credentials = wanted;
  await OpenFeature.setContext(context);
  const provider = new OFREPWebProvider({
    baseUrl,
    pollInterval: 100,
    fetchImplementation: noting,
    ...options,
  });
  await OpenFeature.setProviderAndWait(provider).catch(() => undefined);
  return state();
}

export const changeContext = async (context) => {
  await OpenFeature.setContext(context);
  return state();
};

export const logIn = async (baseUrl, name) => {
  await fetch(`${baseUrl}/log-in/?name=${name}`, { method: "POST" });
  return null;
};

export const state = () => ({ status: client.providerStatus, answers, events });
export const boolean = (key, otherwise) => client.getBooleanDetails(key, otherwise);
export const string = (key, otherwise) => client.getStringDetails(key, otherwise);
export const stop = () => OpenFeature.close();
