"""OpenFeature's web SDK, in Node.js and in Chromium: it asks for all flags, again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Route

from tests.openfeature.conftest import Client, PageClient, Place, new_address, node_client
from tests.site.processes import until

UNCACHED = {"cacheMode": "disabled"}
CHANGED = "PROVIDER_CONFIGURATION_CHANGED"


@pytest.fixture(params=["Node.js", "Chromium"])
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    """A client, not started yet."""
    if request.param == "Node.js":
        with node_client("web") as running:
            yield running
    else:
        yield request.getfixturevalue("new_page")()


def start(client: Client, place: Place, *more: Any) -> None:
    state = client.call("start", place.url, *more)
    assert (state["status"], state["answers"]) == ("READY", [200])


def test_flags_of_all_kinds(client: Client, place: Place) -> None:
    """Switches, variants, odd keys: each has PostHog's value, variant, reason and metadata."""
    start(client, place)

    switch = client.call("boolean", "new-nav", False)
    variant = client.call("string", "checkout", "classic")

    assert (switch["value"], switch["variant"], switch["reason"]) == (True, "on", "TARGETING_MATCH")
    assert (variant["value"], variant["variant"]) == ("test", "test")
    assert variant["flagMetadata"]["payload"] == '{"colour":"green"}'
    assert client.call("string", "a/b 50% ü", "none")["value"] == "odd"


def test_what_is_not_there_has_the_default(client: Client, place: Place) -> None:
    """A missing flag, one of another type and one that failed leave it to the code's default."""
    start(client, place)

    missing = client.call("boolean", "missing", True)
    mismatch = client.call("boolean", "checkout", True)
    failed = client.call("boolean", "broken", True)

    assert (missing["value"], missing["errorCode"]) == (True, "FLAG_NOT_FOUND")
    assert (mismatch["value"], mismatch["errorCode"]) == (True, "TYPE_MISMATCH")
    assert (failed["value"], failed.get("errorCode")) == (True, None)


def test_what_is_unchanged_costs_a_304(client: Client, place: Place) -> None:
    """Polling brings 304s until a flag changes, also behind compression."""
    start(client, place)
    until(lambda: client.call("state")["answers"].count(304) >= 3)
    assert set(client.call("state")["answers"][1:]) == {304}

    place.posthog.flags = {**place.posthog.flags, "new-nav": False}

    until(lambda: client.call("boolean", "new-nav", True)["value"] is False)
    state = client.call("state")
    assert (state["answers"].count(200), state["status"]) == (2, "READY")
    assert CHANGED in state["events"]


def test_a_log_in_is_seen(client: Client, place: Place) -> None:
    """After a log-in by cookie the next poll brings the user's flags; no token is needed."""
    start(client, place)
    assert client.call("boolean", "hers", False)["value"] is False

    client.call("logIn", place.url, "ada")

    until(lambda: client.call("boolean", "hers", False)["value"] is True)
    assert client.call("state")["status"] == "READY"


def test_a_targeting_key_selects_nobody(client: Client, place: Place) -> None:
    """Another's id as targeting key, from the start or later, brings the visitor's own flags."""
    start(client, place, {"targetingKey": "1"})
    assert client.call("boolean", "hers", True)["value"] is False

    client.call("changeContext", {"targetingKey": "user-1"})

    assert client.call("boolean", "hers", True)["value"] is False


def test_an_outage_of_posthog(client: Client, place: Place) -> None:
    """While PostHog is down the site's values answer; the client is READY all along."""
    start(client, place)

    with place.outage():
        until(lambda: client.call("string", "checkout", "none")["value"] == "classic")
        assert client.call("string", "checkout", "none")["reason"] == "STATIC"
        assert client.call("state")["status"] == "READY"

    until(lambda: client.call("string", "checkout", "none")["value"] == "test")
    state = client.call("state")
    assert state["status"] == "READY"
    assert set(state["answers"]) <= {200, 304}


def test_an_outage_that_a_gateway_shows(client: Client, place: Place) -> None:
    """A client that met 503s is STALE, keeps its values, and is told once when the outage is over.

    Nothing has changed by then: it is the name of the circuit's closing that saves it from a 304,
    of which it would tell nobody. Setting the context then makes it READY, as the docs say.
    """
    start(client, place, {}, UNCACHED)

    with place.shut():
        until(lambda: client.call("state")["status"] == "STALE")
        assert client.call("string", "checkout", "none")["value"] == "test"
        with place.outage():
            assert CHANGED not in client.call("state")["events"]

    until(lambda: CHANGED in client.call("state")["events"])
    assert client.call("changeContext", {})["status"] == "READY"
    seen = len(client.call("state")["answers"])
    until(lambda: len(client.call("state")["answers"]) >= seen + 3)
    state = client.call("state")
    assert (state["answers"].count(200), state["events"].count(CHANGED)) == (2, 1)
    assert set(state["answers"][seen:]) == {304}


def test_a_throttled_client_pauses(client: Client, throttled: Place) -> None:
    """After a 429 the last values hold, and no request is made before Retry-After."""
    headers = list(new_address().items())
    start(client, throttled, {}, {"headers": headers})

    until(lambda: 429 in client.call("state")["answers"])

    assert client.call("boolean", "new-nav", False)["value"] is True
    assert client.call("state")["answers"] == [200, 304, 429]


# Pages of another origin


def test_an_app_on_another_origin(
    place: Place, throttled: Place, new_page: Callable[[], PageClient]
) -> None:
    """With the CORS headers of the docs, an app elsewhere has its user's flags, and 304s."""
    app = new_page()
    app.open(place.url)
    app.call("logIn", place.url, "ada")
    app.open(throttled.url)

    state = app.call("start", place.url, {}, {"credentials": "include", **UNCACHED})

    assert (state["status"], state["answers"]) == ("READY", [200])
    assert app.call("boolean", "hers", False)["value"] is True
    until(lambda: app.call("state")["answers"].count(304) >= 2)


def test_a_page_of_another_site(
    place: Place, throttled: Place, new_page: Callable[[], PageClient]
) -> None:
    """Without CORS headers a page elsewhere reads nothing, and no flag is even evaluated."""
    page = new_page()
    page.open(place.url)
    evaluated = len(place.posthog.flag_calls)

    state = page.call("start", throttled.url, {}, {"credentials": "include", "pollInterval": 0})

    assert (state["status"], state["answers"]) == ("ERROR", [])
    assert len(place.posthog.flag_calls) == evaluated


# Users who share a computer


def leave(client: PageClient) -> PageClient:
    """Close the page; return one in the same browser."""
    page = client.page.context.new_page()
    client.page.close()
    return PageClient(page)


@pytest.mark.parametrize(
    ("context", "options"),
    [
        (lambda name: {"targetingKey": f"opaque-{name}"}, {}),
        (lambda name: {}, UNCACHED),
    ],
    ids=["a targeting key each", "no cache"],
)
def test_users_of_one_computer(
    place: Place,
    new_page: Callable[[], PageClient],
    context: Callable[[str], dict[str, str]],
    options: dict[str, str],
) -> None:
    """Neither a first nor a later look shows the next user what the one before saw."""
    first = new_page()
    first.open(place.url)
    first.call("logIn", place.url, "ada")
    first.call("start", place.url, context("ada"), options)
    assert first.call("boolean", "hers", False)["value"] is True

    second = leave(first)
    second.open(place.url)
    second.call("logIn", place.url, "grace")
    state = second.call("start", place.url, context("grace"), options)

    assert state["answers"] == [200]
    assert second.call("boolean", "hers", True)["value"] is False


def test_without_either_they_see_one_anothers(
    place: Place, new_page: Callable[[], PageClient]
) -> None:
    """The client's default cache knows no cookies: what the docs recommend is needed."""
    first = new_page()
    first.open(place.url)
    first.call("logIn", place.url, "ada")
    first.call("start", place.url)

    second = leave(first)
    second.open(place.url)
    second.call("logIn", place.url, "grace")
    held: list[Route] = []
    # The refresh, which would correct it, is held back.
    second.page.route("**/ofrep/**", lambda route: held.append(route))  # noqa: PLW0108  # it marks its handler, and a method takes no mark
    second.call("start", place.url, {}, {"pollInterval": 0})

    assert second.call("boolean", "hers", False)["value"] is True
