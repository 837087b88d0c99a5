"""The two caches: one in the process, for seconds, and one that all processes share.

Shared-cache work never runs in the caller's thread: there it would take part in the caller's
database transaction. Reads have a deadline, writes are not waited for, and a cache that fails or
hangs is left alone for a while.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from django.conf import settings
from django.core.cache import caches
from django.db import close_old_connections

from .flight import Saturated, Workers

if TYPE_CHECKING:
    from django.core.cache.backends.base import BaseCache

log = logging.getLogger(__name__)

T = TypeVar("T")

READ_SECONDS = 1.0
"""How long a shared cache may take to answer, at most, before it counts as hanging."""
REST_SECONDS = 10.0
"""How long a shared cache that failed or hung is left alone."""


class ProcessCache(Generic[T]):
    """Values of the last `seconds`, the newest `max_entries` of them."""

    def __init__(
        self, seconds: float, max_entries: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds = seconds
        self._max_entries = max_entries
        self._clock = clock
        self._entries: dict[Hashable, tuple[float, T]] = {}
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
            self._entries.pop(key, None)
            if len(self._entries) >= self._max_entries:
                # Entries live equally long, so the first one is the one to expire first.
                del self._entries[next(iter(self._entries))]
            self._entries[key] = (self._clock() + self._seconds, value)

    def clear(self) -> None:
        """Forget everything, also what is being asked for now."""
        with self._lock:
            self._entries.clear()
            self.generation = object()

    def __len__(self) -> int:
        return len(self._entries)


class SharedCache:
    """One of the site's caches, at arm's length: no call raises, and none outlasts its deadline."""

    def __init__(
        self,
        alias: str | None,
        *,
        read_seconds: float = READ_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.alias = alias
        self._read_seconds = read_seconds
        self._clock = clock
        self._readers = Workers("olposthog-cache-read", size=4, backlog=1000)
        # A single writer keeps writes in order: an opening must not overtake a closing.
        self._writer = Workers("olposthog-cache-write", size=1, backlog=1000)
        self._resting_until: float | None = None
        self._lock = threading.Lock()

    def close(self) -> None:
        """End the threads once they have nothing to do."""
        self._readers.close()
        self._writer.close()

    @property
    def timeout_seconds(self) -> float | None:
        """How long an entry is fresh: the alias's TIMEOUT; None means for ever."""
        if self.alias is None:
            return 0
        timeout: Any = settings.CACHES[self.alias].get("TIMEOUT", 300)
        return None if timeout is None else float(timeout)

    def get_many(self, keys: Iterable[str], seconds: float) -> dict[str, Any] | None:
        """Return the entries found, or None when the cache could not be read in time."""
        wanted = list(keys)
        return self._ask(lambda cache: cache.get_many(wanted), seconds)

    def claim(self, key: str, lifetime_seconds: float) -> bool | None:
        """Return whether this call is the first in the fleet to claim `key`.

        None means that the cache could not say. A key must never serve two purposes: on
        `DatabaseCache`, several callers win the race for one that expired.
        """
        return self._ask(lambda cache: cache.add(key, 1, lifetime_seconds), self._read_seconds)

    def later(self, job: Callable[[BaseCache], object]) -> bool:
        """Do `job` with the cache on the writer's thread, after the writes before it.

        Return False when it is dropped: the cache rests, or too many writes wait.
        """
        if self.resting:
            return False
        try:
            self._writer.submit(lambda: self._guarded(job))
        except Saturated:
            log.debug("Too many shared-cache writes wait; one is dropped.")
            return False
        return True

    def write(self, job: Callable[[BaseCache], bool], seconds: float) -> bool:
        """Do `job` as `later` does, and wait; return whether it was done in time, as it says.

        A write that is late may still be done: it waits perhaps for the caller's own transaction.
        """
        done = threading.Event()

        def run(cache: BaseCache) -> None:
            if job(cache):
                done.set()

        return self.later(run) and done.wait(min(seconds, self._read_seconds))

    def settle(self, seconds: float) -> bool:
        """Wait for the writes before this call; return whether they were done in time."""
        try:
            self._writer.submit(lambda: None).result(seconds)
        except (Saturated, FutureTimeoutError):
            return False
        return True

    @property
    def resting(self) -> bool:
        """Whether the cache is left alone now, or there is none."""
        until = self._resting_until
        return self.alias is None or (until is not None and self._clock() < until)

    def _ask(self, question: Callable[[BaseCache], T], seconds: float) -> T | None:
        if self.resting:
            return None
        limit = min(seconds, self._read_seconds)
        try:
            future = self._readers.submit(lambda: self._guarded(question))
        except Saturated:
            return None
        try:
            return future.result(limit)
        except FutureTimeoutError:
            future.cancel()
            if limit == self._read_seconds:
                self._rest(f"no answer within {limit:g} s")
            return None

    def _guarded(self, job: Callable[[BaseCache], T]) -> T | None:
        try:
            close_old_connections()
            try:
                result = job(caches[self.alias or ""])
            finally:
                close_old_connections()
        except Exception as error:  # a cache backend may raise anything
            self._rest(type(error).__name__)
            log.debug("The shared cache failed.", exc_info=True)
            return None
        self._recover()
        return result

    def _rest(self, reason: str) -> None:
        with self._lock:
            news = self._resting_until is None
            self._resting_until = self._clock() + REST_SECONDS
        if news:
            log.warning(
                "The shared cache %r fails (%s); this process does without it and looks again "
                "every %g s.",
                self.alias,
                reason,
                REST_SECONDS,
            )

    def _recover(self) -> None:
        with self._lock:
            news = self._resting_until is not None and not self.resting
            if news:
                self._resting_until = None
        if news:
            log.info("The shared cache %r answers again.", self.alias)
