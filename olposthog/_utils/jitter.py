"""Random delays: processes that failed at the same moment must not retry at the same moment."""

from __future__ import annotations

import random
from collections.abc import Callable


def jittered(seconds: float, chance: Callable[[], float] = random.random) -> float:
    """Return a random duration between half of `seconds` and all of it.

    `chance` returns a number from 0 to 1.
    """
    return seconds * (1 + chance()) / 2
