"""The two caches: one in the process, for seconds, and one that all processes share.

Shared-cache work never runs in the caller's thread: there it would take part in the caller's
database transaction. Reads have a deadline, writes are not waited for, and a cache that fails or
hangs is left alone for a while.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from django.conf import settings
from django.core.cache import caches
from django.db import close_old_connections

from .counters import Tally
from .flight import Saturated, Workers
from .jitter import jittered
from .log_lines import get_logger
from .sparing import Sparing

if TYPE_CHECKING:
    from django.core.cache.backends.base import BaseCache

log = get_logger(__name__)

T = TypeVar("T")
_Entry: TypeAlias = tuple[float, T, int]
"""When a value expires, the value, and its estimated size."""

MAX_BYTES = 32 * 2**20
"""The most that the values of one process cache take, by an estimate."""

READ_SECONDS = 1.0
"""How long a shared cache may take to answer, at most, before it counts as hanging."""
CLAIM_PAUSES_SECONDS = (0.02, 0.1, 0.2)
"""Maximum pauses after the attempts to claim that no process won."""
DEFAULT_TIMEOUT_SECONDS = 300
"""What Django uses where an alias has no TIMEOUT, or one that is not a number."""
FIRST_READ = 2
"""A process's first question, which connects and imports, may take so many times as long."""
REST_SECONDS = 1.0
"""How long a shared cache that failed or hung is left alone before it is asked again."""
CHANGES = Tally("shared_cache_changes", ("failed", "recovered"))
"""How often the shared cache went away and came back, as this process saw it."""


class ProcessCache(Generic[T]):
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
            # Entries live equally long, so the first one is the one to expire first.
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


class SharedCache:
    """One of the site's caches, at arm's length: no call raises, and none outlasts its deadline."""

    def __init__(
        self,
        alias: str | None,
        *,
        read_seconds: float = READ_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.alias = alias
        self._read_seconds = read_seconds
        self._clock = clock
        self._chance = chance
        self._sparing = Sparing(clock)
        self._readers = Workers("olposthog-cache-read", size=4, backlog=1000)
        # Readers may all hang: whether the cache answers again is asked by another thread.
        self._scout = Workers("olposthog-cache-scout", size=1, backlog=1)
        # A single writer keeps writes in order: an opening must not overtake a closing.
        self._writer = Workers("olposthog-cache-write", size=1, backlog=1000)
        self._rests_until: float | None = None  # None while it answers
        self._asks_again = False
        self._has_answered = False
        self._returns = 0  # how often it came back
        self.failure = ""
        """Why it is left alone, without any key or address; empty while it answers."""
        self._lock = threading.Lock()

    def close(self) -> None:
        """End the threads once they have nothing to do."""
        self._readers.close()
        self._scout.close()
        self._writer.close()

    def __str__(self) -> str:
        """As in `'durable' answers`."""
        if self.alias is None:
            return "none"
        return f"{self.alias!r} {f'is away ({self.failure})' if self.is_away else 'answers'}"

    @property
    def timeout_seconds(self) -> int | None:
        """How long an entry is fresh: the alias's TIMEOUT, as Django reads it. None is for ever."""
        if self.alias is None:
            return 0
        try:
            return read_timeout(self.alias)
        except ValueError:
            return DEFAULT_TIMEOUT_SECONDS

    def get_many(self, keys: Iterable[str], seconds: float) -> dict[str, Any] | None:
        """Return the entries found, or None when the cache could not be read in time."""
        wanted = list(keys)
        if self._is_left_alone():
            return None
        return self._ask(lambda cache: cache.get_many(wanted), seconds)

    def claim(self, key: str, lifetime_seconds: float) -> bool | None:
        """Return whether this call is the first in the fleet to claim `key`.

        None means that the cache could not say. A key must never serve two purposes: on
        `DatabaseCache`, several callers win the race for one that expired.
        """
        # Asked also in a rest: one late read must not make a second prober of this process.
        if self.alias is None or self._asks_again:
            return None

        def claim(cache: BaseCache) -> bool | None:
            for pause in CLAIM_PAUSES_SECONDS:
                if cache.add(key, 1, lifetime_seconds):
                    return True
                if cache.get(key) is not None:
                    return False
                # `DatabaseCache` also says False when it cannot write: because SQLite is locked
                # for a moment, perhaps by who is about to win, or because the disk is full.
                time.sleep(jittered(pause, self._chance))
            return None

        return self._ask(claim, math.inf)

    def later(self, job: Callable[[BaseCache], object]) -> bool:
        """Do `job` with the cache on the writer's thread, after the writes before it.

        Return False when it is dropped: the cache is left alone, or too many writes wait. A job
        that raises while the cache can be read, as with a value that is too large, is logged.
        """
        if self._is_left_alone():
            return False
        try:
            self._writer.submit(lambda: self._guarded(job, writes=True))
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
        if not self._writer.threads:
            return True
        try:
            self._writer.submit(lambda: None).result(seconds)
        except (Saturated, FutureTimeoutError):
            return False
        return True

    def _ask(self, question: Callable[[BaseCache], T], seconds: float) -> T | None:
        patience = self._read_seconds if self._has_answered else self._read_seconds * FIRST_READ
        limit = min(seconds, patience)
        try:
            future = self._readers.submit(lambda: self._guarded(question))
        except Saturated:
            return None
        try:
            return future.result(limit)
        except FutureTimeoutError:
            future.cancel()
            if limit >= self._read_seconds:
                self._leave_alone(f"no answer within {limit:.2g} s")
            return None

    @property
    def is_away(self) -> bool:
        """Whether flags do without the cache: it fails or hangs, or there is none."""
        return self.alias is None or self._rests_until is not None

    def _guarded(self, job: Callable[[BaseCache], T], *, writes: bool = False) -> T | None:
        returns = self._returns
        try:
            return self._run(job)
        except Exception as error:  # a cache backend may raise anything
            log.debug("The shared cache failed.", exc_info=True)
            reason = type(error).__name__  # a backend's message may quote a key or an address
        if writes and self._is_readable():
            if self._sparing.may_say("refused"):
                log.warning(
                    "Shared cache %r refused a write (%s). It stays in use. Is the value too "
                    "large, or the cache full or read-only?",
                    self.alias,
                    reason,
                )
        elif returns == self._returns:  # else it failed before it came back
            self._leave_alone(reason)
        return None

    def _run(self, job: Callable[[BaseCache], T]) -> T:
        close_old_connections()
        try:
            result = job(caches[self.alias or ""])
            self._has_answered = True
            return result
        finally:
            close_old_connections()

    def _is_readable(self) -> bool:
        try:
            return self._run(_answers)
        except Exception:  # noqa: BLE001  # a cache backend may raise anything
            return False

    def _is_left_alone(self) -> bool:
        """Return whether to do without the cache.

        After each rest one question, which nobody waits for, finds out whether it answers again.
        """
        if self._rests_until is None:
            return self.alias is None
        with self._lock:
            if self._rests_until is None:
                return False
            if self._clock() < self._rests_until or self._asks_again:
                return True
            self._asks_again = True
        try:
            self._scout.submit(self._ask_again)
        except Saturated:
            self._asks_again = False
        return True

    def _ask_again(self) -> None:
        if self._guarded(_answers):
            with self._lock:
                self._rests_until = None
                self._returns += 1
                self.failure = ""
            CHANGES.count("recovered")
            log.warning("The shared cache %r answers again.", self.alias)
        self._asks_again = False

    def _leave_alone(self, reason: str) -> None:
        with self._lock:
            is_news = self._rests_until is None
            self._rests_until = self._clock() + REST_SECONDS
            self.failure = reason
        if is_news:
            CHANGES.count("failed")
            log.warning(
                "The shared cache %r fails (%s); this process does without it until it answers.",
                self.alias,
                reason,
            )


def read_timeout(alias: str) -> int | None:
    """Return the TIMEOUT of an alias in seconds, None if it is None.

    A key in lower case takes precedence, as in Django. Raise ValueError if it is not a number, for
    which Django uses `DEFAULT_TIMEOUT_SECONDS`.
    """
    params = settings.CACHES[alias]
    timeout: Any = params.get("timeout", params.get("TIMEOUT", DEFAULT_TIMEOUT_SECONDS))
    try:
        return None if timeout is None else int(timeout)
    except (OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"{timeout!r} is not a number of seconds") from error


def _answers(cache: BaseCache) -> bool:
    cache.get_many(["olposthog"])  # there is no such key
    return True
