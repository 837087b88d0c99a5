"""A point in time until which a caller waits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Deadline:
    """A time by a monotonic clock."""

    at: float
    clock: Callable[[], float]

    @classmethod
    def after(cls, seconds: float, clock: Callable[[], float]) -> Self:
        """Return the deadline that many seconds from now."""
        return cls(clock() + seconds, clock)

    def remaining(self) -> float:
        """Return the seconds until then; 0 once it has passed."""
        return max(0.0, self.at - self.clock())

    def share(self, part: float) -> float:
        """Return a part of the seconds that remain."""
        return self.remaining() * part
