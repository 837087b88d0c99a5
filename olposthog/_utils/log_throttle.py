"""Saying a thing seldom: a log that repeats itself hides what is new in it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable

SECONDS = 60.0
"""How long what was said need not be said again."""


class LogThrottle:
    """Tells whether it is time to say something again."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said_at: dict[Hashable, float] = {}
        self._lock = threading.Lock()

    def allows(self, what: Hashable) -> bool:
        """Return whether `what` was not said in the last minute, and take it as said."""
        with self._lock:
            now = self._clock()
            if now - self._said_at.get(what, -float("inf")) < SECONDS:
                return False
            self._said_at[what] = now
            return True
