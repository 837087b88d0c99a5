import { expect, test } from "vitest";
import { fromBootstrap, toBootstrap } from "../src/features/bootstrap";
import { answerOf } from "./api";

test("the ids of one person are there", () => {
  const made = toBootstrap(answerOf("1", { checkout: true }), true);
  expect(made).toMatchObject({ distinctID: "1", isIdentifiedID: true });
});

test.each(["", "$anonymous"])("the id %j, which many share, is left out", (person) => {
  const made = toBootstrap(answerOf(person, { checkout: true }), false);
  expect(Object.keys(made)).toEqual(["featureFlags", "featureFlagPayloads"]);
  expect(fromBootstrap(made, "posthog").distinct_id).toBe("");
});
