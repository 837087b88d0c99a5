"""What is measured: the outcome of each request, and what one side's run brought."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus

from benchmarks.project import Package

NO_ANSWER = 0
"""The status of a request whose client gave up, or whose connection broke."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request."""

    due: float
    """In seconds after the measured time began; negative during the warm-up."""
    seconds: float
    """From when it was due until it was answered, or given up."""
    status: int
    late: float
    """How much later than due it was sent: the load generator's own delay."""

    @property
    def failed(self) -> bool:
        return self.status != HTTPStatus.OK


@dataclass(frozen=True)
class Side:
    """What was measured of one package."""

    package: Package
    outcomes: Sequence[Outcome]
    calls: Sequence[float]
    """When PostHog was asked for flags, in seconds after the measured time began."""
    log_lines: Mapping[str, int]
    """What the server wrote, by the name of the phase."""

    @property
    def name(self) -> str:
        return "olposthog" if self.package is Package.OURS else "predecessor"
