"""OpenFeature's React SDK in Chromium."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.openfeature.conftest import PageClient, Place
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
