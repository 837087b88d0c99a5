"""`$feature_flag_called`, as the page causes it."""

from __future__ import annotations

from playwright.sync_api import Request

from tests.browser.tab import Tab, reported_keys
from tests.browser.test_page import NO_POLLING
from tests.posthog_faults import Refuse
from tests.posthog_server import PostHogServer

RENDERED = {"checkout", "gift-wrapping", "new-navigation", "web-summer-sale", "web-upgrade-offer"}


def exposures(posthog: PostHogServer, person: str) -> dict[str, object]:
    """What PostHog was told of a person, once for each flag."""
    called = [
        event["properties"]
        for event in posthog.events
        if event["event"] == "$feature_flag_called" and event["distinct_id"] == person
    ]
    told = {event["$feature_flag"]: event["$feature_flag_response"] for event in called}
    assert len(told) == len(called), called
    return told


def wait_for_exposures(posthog: PostHogServer, person: str, count: int) -> dict[str, object]:
    posthog.wait_until(lambda: len(exposures(posthog, person)) >= count)
    return exposures(posthog, person)


def test_each_flag_is_reported_once(tab: Tab, posthog: PostHogServer):
    """One event for each flag that was rendered, with the server's value, however often we look.

    A flag that was only fetched is none of them, though the table shows it.
    """
    posthog.flags = {**posthog.flags, "web-animations": True}
    tab.open()
    tab.wait_for_reports(len(RENDERED))

    for _ in range(3):
        with tab.asking():
            tab.come_back()
    told = wait_for_exposures(posthog, tab.person, len(RENDERED))

    assert "web-animations" in tab.flags
    assert told == {key: tab.api()["features"][key] for key in RENDERED}
    assert tab.posts() == ["/api/features/exposures/"]


def test_csrf_token_goes_along(tab: Tab):
    """A report of somebody who is logged in bears Django's new token: it is taken."""
    tab.open()
    before = len(tab.wait_for_reports(len(RENDERED)))

    reports = tab.become("Ada").wait_for_reports(2 * len(RENDERED))[before:]

    cookies = {one["name"]: one["value"] for one in tab.page.context.cookies()}
    for report in reports:
        assert report.headers["x-csrftoken"] == cookies["csrftoken"]
        assert status_of(report) == 204


def test_no_value_is_in_an_address(tab: Tab):
    """Flags' values and payloads are in no URL that the browser asks for."""
    tab.open().become("Grace").wait_for_reports(2 * len(RENDERED))

    for request in tab.requests:
        assert "one-page" not in request.url
        assert "Order" not in request.url


def test_report_that_failed_is_sent_again(tab: Tab, posthog: PostHogServer):
    """What the server did not take is reported again, without anything new on the page."""
    tab.page.add_init_script(NO_POLLING)
    refused = "**/exposures/"
    tab.page.route(refused, lambda route: route.fulfill(status=503))
    tab.open().wait_for_reports(len(RENDERED))
    tab.page.unroute(refused)

    tab.wait_for_reports(2 * len(RENDERED))

    told = wait_for_exposures(posthog, tab.person, len(RENDERED))
    assert set(told) == RENDERED
    taken = [report for report in tab.reports if status_of(report) == 204]
    assert sorted(key for report in taken for key in reported_keys(report)) == sorted(RENDERED)


def test_report_is_sent_when_the_page_is_left(tab: Tab, posthog: PostHogServer):
    """A person who leaves while reports fail is counted all the same."""
    refused = "**/exposures/"
    headers = {"Retry-After": "3600"}
    tab.page.route(refused, lambda route: route.fulfill(status=429, headers=headers))
    tab.open().wait_for_reports(len(RENDERED))
    person = tab.person
    tab.page.unroute(refused)
    assert exposures(posthog, person) == {}

    tab.page.goto("about:blank")

    assert set(wait_for_exposures(posthog, person, len(RENDERED))) == RENDERED


def status_of(report: Request) -> int:
    answer = report.response()
    assert answer
    return answer.status


def test_defaults_are_not_reported(tab: Tab, posthog: PostHogServer):
    """In an outage nobody decided what is shown: there is nothing to report."""
    posthog.fault = Refuse()

    tab.open()

    assert tab.page.locator("#source").inner_text() == "fallback"
    assert tab.posts() == []
