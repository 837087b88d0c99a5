"""OpenFeature's React SDK in Chromium."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.openfeature.conftest import PageClient, Place, new_address
from tests.site.processes import until


def shown(client: PageClient) -> Any:
    """What the component says."""
    return json.loads(client.page.locator("output").inner_text())


def test_a_component_shows_flags(place: Place, new_page: Callable[[], PageClient]) -> None:
    """Hooks have the values, and the defaults of what is missing or of another type."""
    client = new_page()
    client.open(place.url)

    client.page.evaluate("url => clients.react.start(url)", place.url)

    assert shown(client) == {
        "checkout": "test",
        "reason": "TARGETING_MATCH",
        "newNav": True,
        "hers": False,
        "missing": True,
        "mismatch": True,
        "status": "READY",
    }


def test_a_component_follows(place: Place, new_page: Callable[[], PageClient]) -> None:
    """A change of a flag, an outage and its end are rendered without a reload."""
    client = new_page()
    client.open(place.url)
    client.page.evaluate("url => clients.react.start(url)", place.url)
    assert shown(client)["newNav"] is True

    place.posthog.flags = {**place.posthog.flags, "new-nav": False}
    until(lambda: shown(client)["newNav"] is False)

    with place.outage():
        until(lambda: shown(client)["checkout"] == "classic")
        assert shown(client)["status"] == "READY"
    until(lambda: shown(client)["checkout"] == "test")
    assert shown(client)["status"] == "READY"


def test_a_component_follows_a_log_in(place: Place, new_page: Callable[[], PageClient]) -> None:
    """After a log-in by cookie the user's flags are rendered, without a reload."""
    client = new_page()
    client.open(place.url)
    client.page.evaluate("url => clients.react.start(url)", place.url)
    assert shown(client)["hers"] is False

    client.call("logIn", place.url, "ada")

    until(lambda: shown(client)["hers"] is True)


def test_a_component_holds_its_values_while_throttled(
    throttled: Place, new_page: Callable[[], PageClient]
) -> None:
    """After a 429 what was rendered stays, and no request is made before Retry-After."""
    client = new_page()
    client.open(throttled.url)
    statuses: list[int] = []
    client.page.on(
        "response",
        lambda answer: statuses.append(answer.status) if "/ofrep/" in answer.url else None,
    )
    headers = list(new_address().items())

    client.page.evaluate(
        "([url, headers]) => clients.react.start(url, { headers })", [throttled.url, headers]
    )
    until(lambda: shown(client) and 429 in statuses)

    assert shown(client)["newNav"] is True
    assert statuses == [200, 304, 429]
