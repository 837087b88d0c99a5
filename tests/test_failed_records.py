"""A record without a value is not "off": the last known value stays, for a while."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.core.cache import caches
from pytest_django import Settings

from olposthog import conf
from olposthog._core import engine
from olposthog._core.engine import Engine
from olposthog.features import clear_cache, evaluate, get_feature_flag
from olposthog.inspection import source_of
from olposthog.snapshot import FlagSnapshot, Source
from tests.posthog_server import PATIENCE, Flag, PostHogServer
from tests.test_definitions import Clock

TIMEOUT = 100
"""How long an evaluation is fresh, in seconds."""
STALE = 1000
"""How long it may stand in for a failed one after that."""
FAILED: dict[str, object] = {
    "failed": Flag(failed=True),
    "null": Flag(value=None),
    "array": Flag(value=["a"]),
}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def site(enabled: PostHogServer, settings: Settings, clock: Clock) -> PostHogServer:
    """A process with a clock of its own, and a flag that PostHog has on for everyone."""
    settings.POSTHOG_LOCAL_CACHE_SECONDS = 0
    settings.POSTHOG_STALE_IF_ERROR_SECONDS = STALE
    settings.FEATURES = {"beta": "from features"}
    settings.CACHES = {
        **settings.CACHES,
        "durable": {**settings.CACHES["durable"], "TIMEOUT": TIMEOUT},
    }
    enabled.flags = {"beta": "known", "other": True}
    start(clock)
    return enabled


def start(clock: Clock) -> None:
    """Begin as another process, by the test's clock."""
    engine.reset()
    engine._current = Engine(conf.current(), clock=clock, wall=clock)


def ask(who: str = "u1") -> FlagSnapshot:
    snapshot = evaluate(who)
    assert engine.current().shared.settle(PATIENCE)
    return snapshot


def value(snapshot: FlagSnapshot) -> object:
    return snapshot.flags.get("beta")


@pytest.mark.parametrize("record", FAILED.values(), ids=FAILED.keys())
def test_failed_record_keeps_the_last_known_value(
    site: PostHogServer, clock: Clock, record: object
) -> None:
    """One flag that PostHog cannot compute now has its earlier value; the others are new."""
    ask()
    clock.now += TIMEOUT + 1
    site.flags = {"beta": record, "other": False}

    snapshot = ask()

    assert snapshot.source is Source.POSTHOG
    assert snapshot.flags == {"beta": "known", "other": False}
    assert source_of(snapshot, "beta") is Source.STALE
    assert source_of(snapshot, "other") is Source.POSTHOG


@pytest.mark.parametrize("record", FAILED.values(), ids=FAILED.keys())
def test_failed_record_does_not_erase_the_value_for_others(
    site: PostHogServer, clock: Clock, record: object
) -> None:
    """The known value stays in the shared cache, for every process and until PostHog is back."""
    ask()
    clock.now += TIMEOUT + 1
    site.flags = {"beta": record, "other": True}
    ask()

    start(clock)
    calls = len(site.flag_calls)
    assert value(ask()) == "known"
    assert len(site.flag_calls) == calls

    clock.now += TIMEOUT + 1
    site.flags = {"beta": "newer", "other": True}
    assert value(ask()) == "newer"


def test_last_known_value_ends_with_its_window(site: PostHogServer, clock: Clock) -> None:
    """A value does not grow younger by standing in again and again."""
    ask()
    site.flags = {"beta": Flag(failed=True), "other": True}
    seen = []
    for _ in range(2 * (TIMEOUT + STALE) // 30):
        clock.now += 30
        seen.append((clock.now - 1_000_000, value(ask())))

    assert {found for age, found in seen if age < TIMEOUT + STALE} == {"known"}
    assert {found for age, found in seen if age >= TIMEOUT + STALE} == {"from features"}


def test_without_a_window_the_fallback_is_used(
    site: PostHogServer, settings: Settings, clock: Clock
) -> None:
    """By default no value is used longer than it is fresh."""
    settings.POSTHOG_STALE_IF_ERROR_SECONDS = 0
    start(clock)
    ask()
    clock.now += TIMEOUT + 1
    site.flags = {"beta": Flag(failed=True), "other": True}

    assert value(ask()) == "from features"


@pytest.mark.parametrize("record", FAILED.values(), ids=FAILED.keys())
def test_unknown_value_of_a_failed_record_falls_back(
    site: PostHogServer, settings: Settings, record: object
) -> None:
    """With nothing known the value is from FEATURES, else the caller's default, never off."""
    site.flags = {"beta": record, "other": True}

    assert value(ask()) == "from features"
    settings.FEATURES = {}
    assert get_feature_flag("beta", "default", "u1") == "default"


def test_cleared_value_does_not_stand_in(site: PostHogServer, clock: Clock) -> None:
    """What was cleared is not known any more."""
    ask()
    clear_cache("u1")
    site.flags = {"beta": Flag(failed=True), "other": True}

    assert value(ask()) == "from features"


def test_value_of_another_person_does_not_stand_in(site: PostHogServer, clock: Clock) -> None:
    """Each person has an own last known value."""
    ask("u1")
    clock.now += TIMEOUT + 1
    site.flags = {"beta": Flag(failed=True), "other": True}

    assert value(ask("u2")) == "from features"


def test_refresh_in_the_background_keeps_it_too(
    site: PostHogServer, settings: Settings, clock: Clock
) -> None:
    """While an overdue evaluation is served, its replacement keeps what failed."""
    settings.POSTHOG_STALE_WHILE_REVALIDATE_SECONDS = 50
    start(clock)
    ask()
    clock.now += TIMEOUT + 1
    site.flags = {"beta": Flag(failed=True), "other": False}
    calls = len(site.flag_calls)

    assert ask().flags == {"beta": "known", "other": True}
    until_refreshed(site, calls)

    start(clock)
    assert ask().flags == {"beta": "known", "other": False}


def until_refreshed(site: PostHogServer, calls: int) -> None:
    from tests.site.processes import until

    until(lambda: len(site.flag_calls) == calls + 1)
    until(lambda: '"other": {"value": false' in stored())
    assert engine.current().shared.settle(PATIENCE)


def stored() -> str:
    store: Any = caches["durable"]._cache  # type: ignore[attr-defined]  # LocMemCache's
    return " ".join(str(caches["durable"].get(key.split(":", 2)[2])) for key in list(store))


def test_exposure_names_the_evaluation_it_comes_from(
    site: PostHogServer, clock: Clock, delivered: Callable[[], list[dict[str, Any]]]
) -> None:
    """A value that stands in is reported with the request and the time that decided it."""
    first = ask()
    assert first.evaluation is not None
    clock.now += TIMEOUT + 1
    site.flags = {"beta": Flag(failed=True), "other": False}

    assert get_feature_flag("beta", opt_unique_id="u1") == "known"

    (event,) = delivered()
    assert event["properties"]["$feature_flag_request_id"] == first.evaluation.request_id
    assert event["properties"]["$feature_flag_evaluated_at"] == 1_000_000_000


@pytest.fixture
def delivered(site: PostHogServer) -> Callable[[], list[dict[str, Any]]]:
    from tests.test_exposures import delivered

    return lambda: delivered(site)
