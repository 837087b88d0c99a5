import { afterEach, expect, test, vi } from "vitest";
import { closePage, openPage, page } from "./api";

afterEach(closePage);

/** Report an exposure from a page with these cookies; return the headers of the request. */
async function headersOfAnExposure(cookie = ""): Promise<Headers> {
  const shop = openPage();
  page.cookie = cookie;
  const reported = shop.api.POST("/api/features/{key}/exposure/", {
    params: { path: { key: "checkout" } },
  });
  await shop.respond(null, { status: 204 });
  await reported;
  const [request] = await shop.requests();
  return request!.headers;
}

const UUID = "0193a4c1-7e0f-7000-8000-000000000000";

test("an exposure has the session id of posthog-js", async () => {
  class PostHog {
    #id = UUID;
    get_session_id() {
      return this.#id;
    }
  }
  vi.stubGlobal("posthog", new PostHog());
  expect((await headersOfAnExposure()).get("X-POSTHOG-SESSION-ID")).toBe(UUID);
});

test.each([
  ["no posthog", undefined],
  ["null", null],
  ["a loader's array", []],
  ["an object without the method", {}],
  ["a method that returns nothing", { get_session_id: () => undefined }],
  ["a method that returns a number", { get_session_id: () => 3 }],
  ["a method that returns no header value", { get_session_id: () => "a\nb" }],
  [
    "a method that throws",
    {
      get_session_id: () => {
        throw new Error("not loaded");
      },
    },
  ],
  ["a property that is no method", { get_session_id: "id" }],
])("an exposure is sent with %s", async (_, posthog) => {
  vi.stubGlobal("posthog", posthog);
  expect((await headersOfAnExposure()).has("X-POSTHOG-SESSION-ID")).toBe(false);
});

test.each([
  ["csrftoken=right", "right"],
  ["a=b; csrftoken=right; c=d", "right"],
  ["xcsrftoken=wrong; csrftoken=right", "right"],
  ["a_csrftoken=wrong", ""],
  ["", ""],
])("the CSRF token of the cookies %j is %j", async (cookie, token) => {
  expect((await headersOfAnExposure(cookie)).get("X-CSRFToken")).toBe(token);
});
