"""Counters: what a metrics exporter reads of a process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from pytest_django import Settings

from olposthog import counters
from olposthog.features import clear_cache, evaluate, is_enabled
from tests.posthog_faults import Hang, Status
from tests.posthog_server import PostHogServer
from tests.site.processes import ROOT, until


class Growth:
    """By how much the counters have grown since a moment."""

    def __init__(self) -> None:
        self.before = counters.read()

    def __call__(self) -> dict[str, int]:
        return {
            f"{kind}.{outcome}": count - self.before[kind][outcome]
            for kind, outcomes in counters.read().items()
            for outcome, count in outcomes.items()
            if count != self.before[kind][outcome]
        }


@pytest.fixture
def growth() -> Growth:
    return Growth()


def test_every_outcome_is_there_from_the_start(growth: Growth) -> None:
    """An exporter finds all series at once, with nothing in them."""
    assert {kind: list(outcomes) for kind, outcomes in growth.before.items()} == {
        "evaluations": ["local", "posthog", "stale", "fallback", "disabled"],
        "calls": ["succeeded", "failed", "slow"],
        "definition_fetches": ["new", "unchanged", "failed"],
        "circuit_changes": ["closed", "open", "half-open"],
        "shared_cache_changes": ["failed", "recovered"],
    }


def test_evaluations_and_calls(enabled: PostHogServer, growth: Growth) -> None:
    """An evaluation and its call are counted; what the process remembers is not."""
    for _ in range(10):
        is_enabled("beta", opt_unique_id="ann")

    assert growth() == {"evaluations.posthog": 1, "calls.succeeded": 1}


def test_an_outage_is_counted(enabled: PostHogServer, settings: Settings, growth: Growth) -> None:
    """Failures, slow calls, fallbacks and openings have a number each."""
    settings.POSTHOG_CIRCUIT_BREAKER_FAILURE_THRESHOLD = 2
    enabled.flags_fault = Status(500)
    for number in range(5):
        evaluate(f"person-{number}")
    until(lambda: "circuit_changes.open" in growth())

    assert growth() == {"evaluations.fallback": 5, "calls.failed": 2, "circuit_changes.open": 1}


def test_a_slow_call_is_counted(enabled: PostHogServer, settings: Settings, growth: Growth) -> None:
    """A call as long as the trip threshold is slow, and no failure."""
    settings.POSTHOG_CIRCUIT_BREAKER_TRIP_THRESHOLD_SECONDS = 0.5
    enabled.flags_fault = Hang()
    evaluate("ann")
    until(lambda: "circuit_changes.open" in growth())

    assert growth()["calls.slow"] == 1
    assert "calls.failed" not in growth()


def test_disabled_answers_are_counted(settings: Settings, growth: Growth) -> None:
    """Off is a source as well."""
    settings.POSTHOG_ENABLED = False
    evaluate("ann")
    clear_cache()
    evaluate("ann")

    assert growth() == {"evaluations.disabled": 2}


def test_a_forked_child_counts_from_zero() -> None:
    """What the parent did is the parent's."""
    code = """
import os
from olposthog.counters import Tally
tally = Tally("tried", ["yes"])
tally.count("yes")
if os.fork() == 0:
    os._exit(tally.read()["yes"])
print(tally.read()["yes"], os.waitstatus_to_exitcode(os.wait()[1]))
"""
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert ran.stdout.split() == ["1", "0"]
