"""An hour of outage in seconds: whatever could pile up is counted at its end."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.posthog_faults import Fault, Hang, Status
from tests.posthog_server import PostHogServer
from tests.site.processes import Site, make_tables, result_of

HOUR = 3600
STEP = 12  # seconds of the outage that pass at once: longer than a process remembers an answer
COOLDOWN = 240
REGULARS = [f"regular-{number}" for number in range(10)]
STRANGERS = 5  # in each step, never to be seen again
CHECKS = 60  # of different flags, for each person in each step


class Clock:
    """Time that passes by itself, and by leaps."""

    leapt = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.leapt


class Lines(logging.Handler):
    """Counts the lines that reach an operator."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1


def endure() -> dict[str, Any]:
    """Ask for flags through an hour of the clock, and tell what has piled up."""
    from django.db import connections

    from olposthog import conf, counters
    from olposthog._core import engine
    from olposthog.features import is_enabled

    clock, lines = Clock(), Lines()
    logging.getLogger().addHandler(lines)
    evaluator = engine._current = engine.Engine(conf.current(), clock=clock, wall=clock)
    checks = 0
    people = Counter[bool]()
    piles: list[dict[str, int]] = []
    for step in range(HOUR // STEP):
        strangers = [f"stranger-{step}-{number}" for number in range(STRANGERS)]
        for person in [*REGULARS, *strangers]:
            answers = {
                is_enabled(f"flag-{number}", opt_unique_id=person) for number in range(CHECKS)
            }
            checks += CHECKS
            people[answers == {False, True}] += 1
        clock.leapt += STEP
        if step in (HOUR // STEP // 4, HOUR // STEP - 1):
            evaluator.shared.settle(30)
            gc.collect()
            piles.append(
                {
                    "threads": threading.active_count(),
                    "files": len(list(Path("/proc/self/fd").iterdir())),
                    "objects": len(gc.get_objects()),
                    "answers": len(evaluator.memory),
                    "queued": len(evaluator._workers._jobs) + len(evaluator.shared._writer._jobs),
                    "connections": sum(one.connection is not None for one in connections.all()),
                }
            )
    return {
        "checks": checks,
        "fallbacks_only": people[True] == people.total(),
        "lines": lines.count,
        "calls": sum(counters.read()["calls"].values()),
        "early": piles[0],
        "late": piles[1],
    }


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A site whose shared cache is in a SQLite file of its own."""
    site = Site(tmp_path_factory.mktemp("template"), cache_apart=True)
    site.run(make_tables)
    return site


@pytest.fixture
def site(template: Site, posthog: PostHogServer, tmp_path: Path) -> Site:
    """The site with short waits and every other flag on in FEATURES."""
    site = template.copy(tmp_path / "site")
    site.use(posthog)
    site.settings |= {
        "POSTHOG_CIRCUIT_BREAKER_TRIP_THRESHOLD_SECONDS": 0.5,
        "POSTHOG_CIRCUIT_BREAKER_COOLDOWN_SECONDS": COOLDOWN,
        "POSTHOG_LOCAL_CACHE_MAX_ENTRIES": 100,
        "FEATURES": {f"flag-{number}": bool(number % 2) for number in range(CHECKS)},
    }
    return site


@pytest.mark.parametrize("fault", [Hang(), Status(500)], ids=repr)
def test_nothing_piles_up(site: Site, posthog: PostHogServer, fault: Fault) -> None:
    """After 270,000 checks in an hour of outage there is no more of anything than at its start."""
    posthog.fault = fault

    result = result_of(site.start(endure), patience=120)

    assert result["checks"] == HOUR // STEP * (len(REGULARS) + STRANGERS) * CHECKS
    assert result["fallbacks_only"]
    # What opened the circuit, and then a probe for each cooldown.
    assert result["calls"] <= 5 + HOUR / COOLDOWN
    assert len(posthog.flag_calls) <= 4 * result["calls"]  # with the retries
    # A line for each opening, one a minute that says why, and one or two for a busy cache.
    assert result["lines"] <= 1 + HOUR / COOLDOWN + HOUR / 60 + 5
    early, late = result["early"], result["late"]
    assert late["threads"] <= 45
    assert late["queued"] == 0
    assert late["connections"] == 0
    assert late["answers"] <= 100
    assert late["files"] <= early["files"] + 5
    assert late["objects"] <= early["objects"] * 1.1
