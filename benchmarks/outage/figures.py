"""The arithmetic: from requests to figures by phase, and by half second for the chart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .results import Outcome, Side
from .scenario import Phase, Scenario

BIN_SECONDS = 0.5


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that `percent` of all do not exceed; nan when there are none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


@dataclass(frozen=True)
class Figures:
    """One side in one phase. Requests belong to the phase that they were due in."""

    phase: str
    side: str
    requests: int
    errors: int
    p50: float
    p99: float
    settled_p99: float
    """Of the requests after the first seconds of the phase."""
    calls: int
    log_lines: int


def by_phase(side: Side, scenario: Scenario) -> list[Figures]:
    """Return the figures of every phase."""
    return [_of_phase(phase, side, scenario.settled_seconds) for phase in scenario.phases]


def _of_phase(phase: Phase, side: Side, settled_seconds: float) -> Figures:
    outcomes = [outcome for outcome in side.outcomes if outcome.due in phase]
    settled = [outcome for outcome in outcomes if outcome.due >= phase.begins + settled_seconds]
    return Figures(
        phase=phase.name,
        side=side.name,
        requests=len(outcomes),
        errors=sum(outcome.failed for outcome in outcomes),
        p50=percentile(_seconds(outcomes), 50),
        p99=percentile(_seconds(outcomes), 99),
        settled_p99=percentile(_seconds(settled), 99),
        calls=sum(call in phase for call in side.calls),
        log_lines=side.log_lines[phase.name],
    )


def _seconds(outcomes: Sequence[Outcome]) -> list[float]:
    return [outcome.seconds for outcome in outcomes]


def times_healthy(figures: Sequence[Figures]) -> dict[str, float]:
    """Return for each later phase how its settled p99 compares to that of the first one."""
    healthy, *others = figures
    return {one.phase: one.settled_p99 / healthy.settled_p99 for one in others}


def lateness(side: Side) -> float:
    """Return how late 99 of 100 requests left, at most: much of it, and the machine was busy."""
    return percentile([outcome.late for outcome in side.outcomes], 99)


@dataclass(frozen=True)
class Bin:
    """One side for half a second."""

    middle: float
    p50: float
    p99: float
    calls_per_second: float


def by_bin(side: Side, scenario: Scenario) -> list[Bin]:
    """Return the course of the run, warm-up excluded."""
    number = math.ceil(scenario.seconds / BIN_SECONDS)
    seconds: list[list[float]] = [[] for _ in range(number)]
    calls = [0] * number
    for outcome in side.outcomes:
        if scenario.phase_at(outcome.due):
            seconds[int(outcome.due / BIN_SECONDS)].append(outcome.seconds)
    for call in side.calls:
        if scenario.phase_at(call):
            calls[int(call / BIN_SECONDS)] += 1
    return [
        Bin(
            middle=(index + 0.5) * BIN_SECONDS,
            p50=percentile(seconds[index], 50),
            p99=percentile(seconds[index], 99),
            calls_per_second=calls[index] / BIN_SECONDS,
        )
        for index in range(number)
    ]
