"""What a person sees in a tab of the browser, and everything that it showed on the way."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

from playwright.sync_api import Error, Locator, Page, Request, Response, Route, expect

from tests.posthog_wire import Flag, Variant

ADA, GRACE = "1", "2"

BUTTONS = {
    "classic": "Go to the basket",
    "one-page": "Order now",
    "express": "Buy with one click",
}


@dataclass(frozen=True)
class Checkout(Variant):
    """An experiment with a payload for each variant."""

    def record(self, key: str, number: int, body: dict[str, Any]) -> dict[str, Any]:
        """Add the payload of the person's variant."""
        payload = {"button": BUTTONS[str(self.evaluate(body))]}
        return Flag.record(replace(self, payload=payload), key, number, body)


def checkout_of(body: dict[str, Any]) -> str:
    """Ada buys at once, Grace on one page, and half of the visitors do."""
    person = body["distinct_id"]
    known = {ADA: "express", GRACE: "one-page"}
    return known.get(person) or ("classic", "one-page")[zlib.crc32(person.encode()) % 2]


FLAGS: Mapping[str, object] = {
    "checkout": Checkout(checkout_of),
    "gift-wrapping": Flag(only_for=[ADA]),
    "new-navigation": True,
    "web-summer-sale": Flag(only_for=[GRACE], payload={"percent": 15}),
    "web-upgrade-offer": Flag(only_for=[GRACE]),
    "stock-forecast": Flag(runtime="server"),
}
"""What PostHog says about the shop's flags."""

SEEN = {
    ADA: {"checkout": "express", "gift-wrapping": True, "web-upgrade-offer": False},
    GRACE: {"checkout": "one-page", "gift-wrapping": False, "web-upgrade-offer": True},
}
"""What the page must show of them."""

# Runs before the page's first script, and notes every state that the document is ever in.
RECORDER = """
(() => {
  const text = (selector) => document.querySelector(selector)?.textContent ?? null;
  window.states = [];
  const note = () => {
    const state = JSON.stringify({
      name: text(".people [aria-pressed=true]")?.split(" ")[0] ?? null,
      person: text("#distinct-id"),
      checkout: document.querySelector(".teas")?.dataset.checkout ?? null,
      button: text(".buy button")?.split(":")[0] ?? null,
      gift: document.querySelector(".teas .check") !== null,
      offer: text("#offer")?.includes("plan pro") ?? false,
      tabs: document.querySelector(".tabs") !== null,
      link: (text("nav[aria-label=Shop]") ?? "").includes("Everything"),
      banner: text("#outage")?.trim() || null,
    });
    if (window.states.at(-1) !== state) window.states.push(state);
  };
  new MutationObserver(note).observe(document, {
    attributes: true, characterData: true, childList: true, subtree: true,
  });
  window.shift = 0;
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shift += entry.value;
  }).observe({ type: "layout-shift", buffered: true });
})();
"""

State = dict[str, Any]


SESSION = {"csrftoken", "sessionid"}

_sessions: dict[tuple[str, str], Any] = {}
"""Cookies of people who have logged in to a shop: hashing a password takes long."""


class Tab:
    """A tab with the live page."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        self.address = address
        self.requests: list[Request] = []
        self.reports: list[Request] = []
        self.errors: list[str] = []
        page.add_init_script(RECORDER)
        page.on("request", self._note)
        page.on("requestfinished", self._note_report)
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def _note(self, request: Request) -> None:
        self.requests.append(request)

    def _note_report(self, request: Request) -> None:
        if request.url.endswith("/exposures/"):
            self.reports.append(request)

    def arrive_as(self, name: str) -> Tab:
        """Open the page as a new visitor, or as somebody who has logged in before."""
        self.bring_session_of(name)
        return self.open()

    def bring_session_of(self, name: str) -> None:
        """Be logged in. Many tests share the session: to log out, use `become` before and after."""
        if name == "Visitor":
            return
        context = self.page.context
        url = f"{self.address}/api/session/"
        if (self.address, name) not in _sessions:
            context.request.get(url)
            token = next(one for one in context.cookies() if one["name"] == "csrftoken")
            form: dict[str, str | float | bool] = {"username": name.lower(), "password": "demo"}
            context.request.post(url, form=form, headers={"X-CSRFToken": token["value"]})
            kept = [one for one in context.cookies() if one["name"] in SESSION]
            assert len(kept) == len(SESSION)
            _sessions[self.address, name] = kept
        context.add_cookies(_sessions[self.address, name])

    def open(self, path: str = "/live/") -> Tab:
        """Go there, and wait until the API has answered."""
        response = self.page.goto(self.address + path)
        assert response
        assert response.ok, response.status_text
        self.settle()
        return self

    def settle(self) -> None:
        """Wait until the page shows what the API says."""
        expect(self.page.locator("#status")).to_contain_text("0")

    def become(self, name: str) -> Tab:
        """Log in, or out, with the page's own buttons."""
        self.button(name).click()
        self.expect_name(name)
        return self

    def button(self, name: str) -> Locator:
        """The button that makes this person the one who is shopping."""
        return self.page.get_by_role("button", name=name)

    def expect_name(self, name: str) -> None:
        """Wait until the page says that this person is shopping."""
        expect(self.button(name)).to_have_attribute("aria-pressed", "true")

    def wait_for_reports(self, count: int) -> list[Request]:
        """Wait for responses to reports of this many flags since the page was opened."""
        while sum(len(reported_keys(report)) for report in self.reports) < count:
            self.page.wait_for_event("requestfinished")
        return list(self.reports)

    def come_back(self) -> None:
        """What happens when a person returns to the tab."""
        self.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")

    @contextmanager
    def asking(self) -> Iterator[list[Response]]:
        """Wait for the next answer to the page's question for flags."""
        answers: list[Response] = []
        with self.page.expect_response(is_flags) as coming:
            yield answers
        answers.append(coming.value)

    def api(self) -> Any:
        """What the API says to this browser."""
        return self.page.context.request.get(f"{self.address}/api/features/").json()

    @property
    def person(self) -> str:
        return self.page.locator("#distinct-id").inner_text()

    @property
    def flags(self) -> dict[str, str]:
        """The table of flags."""
        rows = self.page.locator("tr[data-flag]").evaluate_all(
            "rows => rows.map(row => [row.dataset.flag, row.dataset.value])"
        )
        return dict(rows)

    @property
    def states(self) -> list[State]:
        """Every state that the document has been in since it was opened, in order."""
        return [json.loads(state) for state in self.page.evaluate("window.states")]

    @property
    def state(self) -> State:
        """How the page is now."""
        return self.states[-1]

    def posts(self) -> list[str]:
        """The paths to which the page has posted."""
        return [
            request.url.removeprefix(self.address)
            for request in self.requests
            if request.method == "POST" and request.url.startswith(self.address)
        ]


class Held:
    """Questions for flags that do not get through until they are let go."""

    def __init__(self, page: Page) -> None:
        self._routes: list[Route] | None = []
        page.route(FLAGS_URL, self._hold)

    def _hold(self, route: Route) -> None:
        if self._routes is None:
            route.continue_()
        else:
            self._routes.append(route)

    def let_go(self) -> None:
        """Let those that came get through, and all that come."""
        routes, self._routes = self._routes, None
        assert routes
        for route in routes:
            with suppress(Error):  # the page may have given up on it
                route.continue_()


FLAGS_URL = "**/api/features/"


def reported_keys(report: Request) -> list[str]:
    """The flags that a report of exposures is about."""
    body = report.post_data_json
    assert body
    keys: list[str] = body["keys"]
    return keys


def is_flags(response: Response) -> bool:
    """Whether this is an answer to the page's question for flags."""
    return response.request.method == "GET" and response.url.endswith("/api/features/")
