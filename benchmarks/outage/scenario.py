"""What happens when: the phases that PostHog goes through, and what both sides are set to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.posthog_faults import Delay, Fault, Hang, Status

WORKERS, THREADS = 4, 8
"""Of gunicorn: four processes of eight threads."""


@dataclass(frozen=True)
class Phase:
    """A stretch of time in which PostHog behaves in one way."""

    name: str
    begins: float
    """In seconds after the measured time began."""
    ends: float
    fault: Fault

    def __contains__(self, moment: float) -> bool:
        return self.begins <= moment < self.ends


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A run: what PostHog does, who comes, and the settings of the site."""

    phase_seconds: float = 18
    warm_up_seconds: float = 6
    """Before the first phase, with the same load; not measured."""
    rate: float = 60
    """Requests a second."""
    give_up_seconds: float = 10
    """How long a client waits for an answer."""
    posthog_seconds: float = 0.05
    """How long a healthy PostHog takes to answer."""
    people: int = 100
    """How many come again and again; half of them are logged in."""
    newcomers: float = 0.1
    """The share of requests from visitors who were never there before."""
    flags: int = 5
    trip_threshold_seconds: float = 2
    request_timeout_seconds: float = 1
    cooldown_seconds: float = 5
    cache_seconds: float = 10
    """The shared cache's TIMEOUT."""
    seed: int = 1

    @property
    def settled_seconds(self) -> float:
        """After how much of a phase its first seconds are over: a trip, and one to spread it."""
        return self.trip_threshold_seconds + 1

    @property
    def healthy(self) -> Fault:
        return Delay(self.posthog_seconds)

    @property
    def phases(self) -> list[Phase]:
        behaviours = (
            ("healthy", self.healthy),
            ("hang", Hang()),
            ("500s", Status(500)),
            ("healthy again", self.healthy),
        )
        return [
            Phase(name, number * self.phase_seconds, (number + 1) * self.phase_seconds, fault)
            for number, (name, fault) in enumerate(behaviours)
        ]

    @property
    def seconds(self) -> float:
        """How long the phases last together."""
        return self.phases[-1].ends

    @property
    def requests(self) -> int:
        """How many requests are sent, those of the warm-up included."""
        return round((self.warm_up_seconds + self.seconds) * self.rate)

    def phase_at(self, moment: float) -> Phase | None:
        """Return the phase at `moment`, None during the warm-up and after the end."""
        return next((phase for phase in self.phases if moment in phase), None)

    @property
    def settings(self) -> dict[str, Any]:
        """What Django's settings say in both sites, beside the defaults of both packages."""
        return {
            "POSTHOG_FEATURE_FLAG_REQUEST_TIMEOUT_MS": round(self.request_timeout_seconds * 1000),
            "POSTHOG_CIRCUIT_BREAKER_TRIP_THRESHOLD_SECONDS": self.trip_threshold_seconds,
            "POSTHOG_CIRCUIT_BREAKER_COOLDOWN_SECONDS": self.cooldown_seconds,
        }

    def describe(self) -> str:
        """Say in a few lines what this run is."""
        return (
            f"{self.rate:g} requests a second to {WORKERS} workers of {THREADS} threads, "
            f"phases of {self.phase_seconds:g} s after {self.warm_up_seconds:g} s of warm-up;\n"
            f"{self.people} people who come again, {self.newcomers:.0%} of the requests from new "
            f"ones; {self.flags} flags; PostHog answers in {self.posthog_seconds * 1000:g} ms;\n"
            f"trip threshold {self.trip_threshold_seconds:g} s, request timeout "
            f"{self.request_timeout_seconds:g} s, cooldown {self.cooldown_seconds:g} s, cache "
            f"TIMEOUT {self.cache_seconds:g} s; clients give up after {self.give_up_seconds:g} s."
        )


FULL = Scenario()
QUICK = Scenario(
    phase_seconds=5,
    warm_up_seconds=2,
    rate=40,
    trip_threshold_seconds=1,
    request_timeout_seconds=0.5,
    cooldown_seconds=2,
    cache_seconds=4,
)
"""Proves in under a minute that all of it works; its figures are no figures."""
