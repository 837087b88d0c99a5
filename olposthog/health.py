"""How flags are doing, as this process knows it: well, or falling back, and why.

Asking costs one look into the shared cache at most. It evaluates no flag and calls no PostHog, so
it can be asked every second.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from . import per_process
from .breaker import State

if TYPE_CHECKING:
    from .breaker import Breaker
    from .cache import SharedCache
    from .evaluation import Evaluator


class Status(StrEnum):
    """The verdict."""

    OK = "ok"
    DEGRADED = "degraded"
    """Every call answers, but with cached or fallback values, or without the fleet."""
    DISABLED = "disabled"
    """POSTHOG_ENABLED is off, so `settings.FEATURES` answers."""
    MISCONFIGURED = "misconfigured"
    """A setting cannot be used, so `settings.FEATURES` answers."""


@dataclass(frozen=True, slots=True)
class Health:
    """A verdict, and what it is founded on."""

    status: Status
    reasons: tuple[str, ...] = ()
    """Whole clauses without a full stop, free of keys, ids and paths; none where all is well."""

    def __str__(self) -> str:
        return ": ".join(filter(None, [self.status, "; ".join(self.reasons)]))


def judge() -> Health:
    """Return how flags are doing. Waits a second at most, for the shared cache; never raises."""
    evaluator = per_process.current()
    settings = evaluator.settings
    if not settings.enabled:
        return Health(Status.DISABLED)
    if settings.problems:
        names = dict.fromkeys(problem.setting for problem in settings.problems)
        reasons = tuple(f"{name} cannot be used, see manage.py check" for name in names)
        return Health(Status.MISCONFIGURED, reasons)
    reasons = tuple(_reasons(evaluator))
    return Health(Status.DEGRADED if reasons else Status.OK, reasons)


def _reasons(evaluator: Evaluator) -> Iterator[str]:
    if evaluator.file:
        evaluator.file.current()  # looks whether it has changed
        if evaluator.file.complaint:
            yield "POSTHOG_FLAG_DEFINITIONS_FILE cannot be used, see the log"
        return
    evaluator.mirror_breaker()
    if evaluator.breaker.state is not State.CLOSED:
        yield f"the circuit is {circuit(evaluator.breaker)}"
    if evaluator.shared.alias and evaluator.shared.is_away:
        yield f"the shared cache {evaluator.shared.alias!r} is away"
    head = evaluator.poll.head if evaluator.poll else None
    if head and head.failure:
        yield f"flag definitions cannot be fetched ({head.failure})"


def circuit(breaker: Breaker) -> str:
    """Say what the circuit is and since when, as in `open since 2026-01-31 09:00:00 UTC`."""
    state, changed_at = breaker.state, breaker.changed_at
    if changed_at is None:
        return state
    return f"{state} since {datetime.fromtimestamp(changed_at, UTC):%Y-%m-%d %H:%M:%S} UTC"


def shared_cache(shared: SharedCache) -> str:
    """Say how the shared cache is, as in `'durable' answers`."""
    if shared.alias is None:
        return "none"
    return f"{shared.alias!r} {'is away' if shared.is_away else 'answers'}"
