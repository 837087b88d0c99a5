"""The verdict on how flags are doing: ok, degraded and why, disabled or misconfigured."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.cache import caches
from pytest_django import Settings

from olposthog import conf, per_process
from olposthog.evaluation import Evaluator
from olposthog.features import evaluate
from olposthog.health import Health, Status, circuit, judge, shared_cache
from tests.posthog_faults import Refuse
from tests.posthog_faults import Status as HTTPStatus
from tests.posthog_server import PostHogServer
from tests.site.processes import until
from tests.test_polling import Clock, Moody

SINCE = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"


@pytest.fixture
def sensitive(enabled: PostHogServer, settings: Settings) -> PostHogServer:
    """One failure opens the circuit."""
    settings.POSTHOG_CIRCUIT_BREAKER_FAILURE_THRESHOLD = 1
    settings.POSTHOG_MAX_RETRIES = 0
    return enabled


@pytest.fixture
def moody(settings: Settings) -> Iterator[type[Moody]]:
    """A shared cache that can refuse everything."""
    settings.CACHES = {
        **settings.CACHES,
        "durable": {"BACKEND": "tests.test_polling.Moody", "LOCATION": "moody"},
    }
    yield Moody
    Moody.refuses = False
    caches["durable"].clear()


def open_circuit(posthog: PostHogServer) -> None:
    posthog.fault = Refuse()
    assert evaluate("u1").source == "fallback"


def test_healthy_is_ok(enabled: PostHogServer) -> None:
    """Before the first flag and after it there is nothing to say."""
    assert judge() == Health(Status.OK)
    evaluate("u1")

    assert judge() == Health(Status.OK)
    assert str(judge()) == "ok"


def test_asking_costs_posthog_nothing(enabled: PostHogServer) -> None:
    """A verdict evaluates no flag and calls no PostHog, however often it is asked for."""
    for _ in range(10):
        judge()

    assert enabled.requests == []


def test_open_circuit_is_degraded(sensitive: PostHogServer) -> None:
    """The verdict says that the circuit is open, and since when."""
    open_circuit(sensitive)

    assert re.fullmatch(rf"degraded: the circuit is open since {SINCE}", str(judge()))


def test_circuit_that_another_process_opened_counts(
    sensitive: PostHogServer, another_process: Any
) -> None:
    """A process that has evaluated nothing itself knows what the fleet shares."""
    open_circuit(sensitive)
    another_process()

    assert judge().status is Status.DEGRADED


@pytest.mark.parametrize("opened_at", ["1e300", "-1e300", "Infinity", "NaN", '"noon"'])
def test_nonsense_in_the_shared_cache_is_no_verdict(enabled: PostHogServer, opened_at: str) -> None:
    """A state that names no time, whoever wrote it, opens nothing and breaks nothing."""
    state = f'{{"token": "x", "opened_at": {opened_at}, "presumed": false}}'
    caches["durable"].set(per_process.current()._ledger.state_key, state)

    assert judge() == Health(Status.OK)


def test_half_open_is_degraded(sensitive: PostHogServer) -> None:
    """Once the cooldown is over, flags fall back until a probe has succeeded; then all is well."""
    clock = Clock()
    per_process._current = Evaluator(conf.current(), clock=clock, wall=clock)
    open_circuit(sensitive)
    clock.now += conf.current().cooldown_seconds

    assert re.fullmatch(rf"degraded: the circuit is half-open since {SINCE}", str(judge()))

    sensitive.fault = None
    evaluate("u2")
    assert judge() == Health(Status.OK)
    assert re.fullmatch(rf"closed since {SINCE}", circuit(per_process.current().breaker))


def test_shared_cache_that_fails_is_degraded(enabled: PostHogServer, moody: type[Moody]) -> None:
    """A shared cache that is away is named, also if nobody but the verdict has asked it."""
    moody.refuses = True

    assert judge() == Health(Status.DEGRADED, ("the shared cache 'durable' is away",))
    assert shared_cache(per_process.current().shared) == "'durable' is away"


def test_shared_cache_that_comes_back_is_well(enabled: PostHogServer, moody: type[Moody]) -> None:
    """Asking again finds out that the shared cache answers."""
    moody.refuses = True
    assert judge().status is Status.DEGRADED

    moody.refuses = False
    until(lambda: judge().status is Status.OK)
    assert shared_cache(per_process.current().shared) == "'durable' answers"


def test_site_without_shared_cache_is_ok(enabled: PostHogServer, settings: Settings) -> None:
    """Whoever chose to have no shared cache does not miss it."""
    settings.CACHES = {"default": settings.CACHES["default"]}

    assert judge() == Health(Status.OK)
    assert shared_cache(per_process.current().shared) == "none"


def test_definitions_that_cannot_be_fetched_are_degraded(
    enabled: PostHogServer, settings: Settings
) -> None:
    """A failing fetch is named with its reason, once this process knows of it."""
    settings.POSTHOG_PERSONAL_API_KEY = enabled.secret
    enabled.definitions_fault = HTTPStatus(500)
    evaluate("u1")

    until(lambda: judge().status is Status.DEGRADED)
    assert judge().reasons == ("flag definitions cannot be fetched (HTTP 500)",)


def test_all_reasons_are_given(
    sensitive: PostHogServer, moody: type[Moody], settings: Settings
) -> None:
    """Two things that are wrong are both told."""
    open_circuit(sensitive)
    moody.refuses = True

    assert len(judge().reasons) == 2
    assert "; the shared cache 'durable' is away" in str(judge())


def test_disabled_is_no_fault(settings: Settings) -> None:
    """POSTHOG_ENABLED = False is a choice, whatever else the settings hold."""
    settings.POSTHOG_ENABLED = False
    settings.POSTHOG_API_HOST = "nowhere"

    assert judge() == Health(Status.DISABLED)


def test_setting_that_cannot_be_used_is_named(enabled: PostHogServer, settings: Settings) -> None:
    """The setting is named, once, and its value is not: a health page may be public."""
    settings.POSTHOG_API_HOST = "ftp://secret.example.com"

    verdict = judge()

    assert verdict.status is Status.MISCONFIGURED
    assert verdict.reasons == ("POSTHOG_API_HOST cannot be used, see manage.py check",)


def test_definitions_file_is_judged(settings: Settings, tmp_path: Any) -> None:
    """A definitions file that is missing is told without its path; a good one is ok."""
    file = tmp_path / "flags.json"
    settings.POSTHOG_ENABLED = True
    settings.POSTHOG_FLAG_DEFINITIONS_FILE = str(file)

    assert judge().status is Status.DEGRADED
    assert judge().reasons == ("POSTHOG_FLAG_DEFINITIONS_FILE cannot be used, see the log",)

    file.write_text('{"flags": [], "group_type_mapping": {}, "cohorts": {}}')
    per_process.reset()
    assert judge() == Health(Status.OK)
