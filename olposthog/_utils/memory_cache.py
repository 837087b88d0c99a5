"""A cache in this process's memory, bounded in age, entries and bytes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

T = TypeVar("T")

if TYPE_CHECKING:
    pass


_Entry: TypeAlias = tuple[float, T, int]
"""When a value expires, the value, and its estimated size."""


MAX_BYTES = 32 * 2**20
"""The most that the values of one process cache take, by an estimate."""


class MemoryCache(Generic[T]):
    """Values of the last `seconds`, the newest ones up to `max_entries` and `max_bytes`.

    `size_of` returns the estimated bytes of a value. A single value may exceed `max_bytes`.
    """

    def __init__(
        self,
        seconds: float,
        max_entries: int,
        clock: Callable[[], float] = time.monotonic,
        *,
        size_of: Callable[[T], int] = lambda value: 0,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._seconds = seconds
        self._max_entries = max_entries
        self._clock = clock
        self._size_of = size_of
        self._max_bytes = max_bytes
        self._entries: dict[Hashable, _Entry[T]] = {}
        self.bytes = 0
        """The estimated size of all values."""
        self._lock = threading.Lock()
        self.generation = object()
        """Another one after each `clear`; `put` refuses values of an older one."""

    def get(self, key: Hashable) -> T | None:
        """Return the value under `key`, or None when there is none of the last `seconds`."""
        entry = self._entries.get(key)
        if entry is None or entry[0] <= self._clock():
            return None
        return entry[1]

    def put(self, key: Hashable, value: T, generation: object) -> None:
        """Keep `value`, which was asked for under `generation`."""
        with self._lock:
            if generation is not self.generation:
                return
            self._remove(key)
            now, size = self._clock(), self._size_of(value)
            # EvaluationCache live equally long, so the first one is the one to expire first.
            while self._entries:
                first, (expires_at, _, _) = next(iter(self._entries.items()))
                has_room = (
                    len(self._entries) < self._max_entries and self.bytes + size <= self._max_bytes
                )
                if has_room and expires_at > now:
                    break
                self._remove(first)
            self._entries[key] = (now + self._seconds, value, size)
            self.bytes += size

    def _remove(self, key: Hashable) -> None:
        removed = self._entries.pop(key, None)
        if removed is not None:
            self.bytes -= removed[2]

    def clear(self) -> None:
        """Forget everything, also what is being asked for now."""
        with self._lock:
            self._entries.clear()
            self.bytes = 0
            self.generation = object()

    def __len__(self) -> int:
        return len(self._entries)
