import { renderToString } from "react-dom/server";
import { afterEach, expect, test } from "vitest";
import type { Answer } from "../src/api/client";
import { Feature, FeaturesProvider, useFeaturePayload } from "../src/features/react";
import { FeatureStore } from "../src/features/store";
import { answerOf, closePage, openPage } from "./api";

afterEach(closePage);

function Payload({ name }: { name: string }) {
  return JSON.stringify(useFeaturePayload(name) ?? null);
}

function render(store: FeatureStore, name = "checkout"): string {
  return renderToString(
    <FeaturesProvider store={store}>
      <Feature name={name} fallback="off">
        {(value) => String(value)}
      </Feature>
      /
      <Payload name={name} />
    </FeaturesProvider>,
  ).replaceAll("<!-- -->", "");
}

test("a server renders the flags of the initial answer, and sends nothing", async () => {
  const shop = openPage();
  const answer: Answer = { ...answerOf("1", { checkout: "express" }), payloads: { checkout: [1] } };
  expect(render(new FeatureStore(shop.api, answer))).toBe("express/[1]");
  expect(await shop.requests()).toHaveLength(0);
});

test("a server without an initial answer renders neither children nor fallback", () => {
  expect(render(new FeatureStore(openPage().api))).toBe("/null");
});

test("what is rendered for hydration is the initial answer, whatever has come since", async () => {
  const shop = openPage();
  const store = new FeatureStore(shop.api, answerOf("1", { checkout: "express" }));
  void store.refetch();
  await shop.respond(answerOf("1", { checkout: "classic" }));
  expect(store.value("checkout")).toBe("classic");
  expect(render(store)).toBe("express/null"); // React reads the same snapshot on both occasions
});

test.each(["constructor", "toString", "__proto__", "hasOwnProperty"])(
  "a flag named %s has its own value and payload, or none",
  (key) => {
    const { api } = openPage();
    expect(render(new FeatureStore(api, answerOf("1", {})), key)).toBe("off/null");
    const answer: Answer = {
      ...answerOf("1", JSON.parse(`{"${key}": true}`)),
      payloads: JSON.parse(`{"${key}": [1]}`),
    };
    expect(render(new FeatureStore(api, answer), key)).toBe("true/[1]");
  },
);
