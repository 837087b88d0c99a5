"""One side of the comparison, from an empty database to what came of each request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from benchmarks.project import Package

from .client import browsers
from .people import visits
from .posthog import posthog
from .results import Outcome, Side
from .scenario import Scenario
from .schedule import at_a_steady_rate
from .site import PostgreSQL, Served, served

AHEAD_SECONDS = 0.5
"""How long before the first request all are ready for it."""


def measure(
    package: Package, scenario: Scenario, server: PostgreSQL, tell: Callable[[str], None]
) -> Side:
    """Run the scenario with one package."""
    with posthog(scenario) as stand_in, served(package, scenario, server, stand_in) as site:
        begins = time.monotonic() + AHEAD_SECONDS
        zero = begins + scenario.warm_up_seconds
        stand_in.go_through_phases(zero)
        outcomes, log_lines = asyncio.run(_load(scenario, site, begins, zero, tell))
        return Side(package, outcomes, stand_in.calls(), log_lines)


async def _load(
    scenario: Scenario, site: Served, begins: float, zero: float, tell: Callable[[str], None]
) -> tuple[list[Outcome], dict[str, int]]:
    cookies = visits(scenario, site.cookies)
    async with browsers(site.url, cookies, scenario.give_up_seconds) as send:
        watching = asyncio.ensure_future(_watch_log(scenario, site, zero, tell))
        outcomes = await at_a_steady_rate(
            send, requests=scenario.requests, rate=scenario.rate, begins=begins, zero=zero
        )
        return outcomes, await watching


async def _watch_log(
    scenario: Scenario, site: Served, zero: float, tell: Callable[[str], None]
) -> dict[str, int]:
    """Return how many lines the log grew by in each phase."""
    tell("warm-up")
    await _sleep_until(zero)
    sizes = [site.log_size()]
    for phase in scenario.phases:
        tell(phase.name)
        await _sleep_until(zero + phase.ends)
        sizes.append(site.log_size())
    names = [phase.name for phase in scenario.phases]
    return dict(zip(names, site.log_lines(sizes), strict=True))


async def _sleep_until(moment: float) -> None:
    await asyncio.sleep(moment - time.monotonic())
