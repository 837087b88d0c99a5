"""What this process has done about flags so far, in numbers that only grow: for metrics exporters.

    >>> counters.read()["circuit_changes"]
    {'closed': 0, 'open': 1, 'half-open': 0}

A check that the process cache answers is not counted, so that it costs nothing.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable

_tallies: list[Tally] = []


class Tally:
    """How often each outcome of one kind of event has come about in this process."""

    def __init__(self, name: str, outcomes: Iterable[str]) -> None:
        self.name = name
        self._outcomes = tuple(str(outcome) for outcome in outcomes)
        self._reset()
        _tallies.append(self)

    def count(self, outcome: str) -> None:
        """Count one more; raises KeyError for an outcome that was not named before."""
        with self._lock:
            self._counts[outcome] += 1

    def read(self) -> dict[str, int]:
        """Return the counts by outcome, zeros included."""
        with self._lock:
            return dict(self._counts)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(self._outcomes, 0)


def read() -> dict[str, dict[str, int]]:
    """Return all counts of this process since it started, by kind of event and outcome.

    `evaluations` by source; `calls` to PostHog for a person's flags; `definition_fetches`;
    `circuit_changes`, counted by the process that made the change; `shared_cache_changes`.
    """
    return {tally.name: tally.read() for tally in _tallies}


def _after_fork() -> None:
    """Count from zero in a forked worker: what its parent did is the parent's."""
    for tally in _tallies:
        tally._reset()  # noqa: SLF001  # this module's own


os.register_at_fork(after_in_child=_after_fork)
