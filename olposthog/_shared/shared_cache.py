"""The two caches: one in the process, for seconds, and one that all processes share.

Shared-cache work never runs in the caller's thread: there it would take part in the caller's
database transaction. Reads have a deadline, writes are not waited for, and a cache that fails or
hangs is left alone for a while. A cache that refuses writes is still read, and writes are still
tried: it is full or read-only.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Any, TypeVar

from django.conf import settings
from django.core.cache import caches
from django.db import close_old_connections

from olposthog._utils.jitter import jittered
from olposthog._utils.log_lines import get_logger
from olposthog._utils.log_throttle import LogThrottle
from olposthog._utils.workers import Saturated, Workers
from olposthog.counters import Tally

if TYPE_CHECKING:
    from django.core.cache.backends.base import BaseCache

log = get_logger(__name__)

T = TypeVar("T")


READ_SECONDS = 1.0
"""How long a shared cache may take to answer, at most, before it counts as hanging."""
CLAIM_PAUSES_SECONDS = (0.02, 0.1, 0.2)
"""Maximum pauses after the attempts to claim that no process won."""
DEFAULT_TIMEOUT_SECONDS = 300
"""What Django uses where an alias has no TIMEOUT, or one that is not a number."""
READERS = 16
"""Maximum concurrent reads per process: with one for each concurrent evaluation, these do not wait
for each other when the cache is slow."""
FIRST_READ_SECONDS = 2.0
"""How long a command or a status waits for a read that is perhaps its process's first."""
STARTUP_SECONDS = 10.0
"""How long after its first question a process may wait for its first answer in time.

Until then it connects and imports, perhaps on a busy machine: a late answer is no failure of the
cache. An error is one at any time.
"""
CLAIM_READS = 4
"""A claim waits as long as this many reads may take, its wait for a free reader included."""
REST_SECONDS = 1.0
"""How long a shared cache that failed or hung is left alone before it is asked again."""
WRITE_KEY = "olposthog:write"
"""The key of the value that is written to find out whether the cache accepts writes."""
JOB_SECONDS = 10.0
"""How long a thread may wait for the cache before another one takes its place.

A network that drops packets without an error holds a thread until the kernel gives up.
"""
MAX_ABANDONED = 4
"""Maximum threads that still wait for the cache though another one has taken the writer's, or the
scout's, place."""
CHANGES = Tally("shared_cache_changes", ("failed", "recovered"))
"""How often the shared cache went away and came back, as this process saw it."""


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
        self._log_throttle = LogThrottle(clock)
        self._readers = self._workers("read", READERS, backlog=1000, max_abandoned=READERS)
        # Readers may all hang: whether the cache answers again is asked by another thread.
        self._scout = self._workers("scout", 1, backlog=1, max_abandoned=MAX_ABANDONED)
        # A single writer keeps writes in order: an opening must not overtake a closing.
        self._writer = self._workers("write", 1, backlog=1000, max_abandoned=MAX_ABANDONED)
        self._rests_until: float | None = None  # None while it answers
        self._asked_again_at = -math.inf  # when the scout began, if it has not ended
        self._first_asked_at = math.inf
        self._has_answered = False  # a caller in time
        self._has_raised = False
        self._answers = 0  # how often it answered: a slow cache makes progress, a hanging one none
        self._returns = 0  # how often it came back
        self.failure = ""
        """Why it is left alone, without any key or address; empty while it answers."""
        self.refusal = ""
        """Why it accepts no write although it can be read; empty as far as this process knows."""
        self._has_logged_refusal = False
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
        if self.is_away:
            return f"{self.alias!r} is away ({self.failure})"
        return f"{self.alias!r} answers{self.refusal and f', refuses writes ({self.refusal})'}"

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
        if self.alias is None or self._asks_again():
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

        return self._ask(claim, self._read_seconds * CLAIM_READS, writes=True)

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

    def _ask(
        self, question: Callable[[BaseCache], T], seconds: float, *, writes: bool = False
    ) -> T | None:
        began = threading.Event()

        def read() -> T | None:
            began.set()
            return self._guarded(question, writes=writes)

        submitted = self._clock()
        self._first_asked_at = min(self._first_asked_at, submitted)
        try:
            future = self._readers.submit(read)
        except Saturated:
            return None
        if not self._wait_for_reader(began, seconds):
            future.cancel()
            return None
        limit = min(seconds - (self._clock() - submitted), self._timeout)
        try:
            result = future.result(max(0.0, limit))
        except FutureTimeoutError:
            future.cancel()
            if limit >= self._read_seconds and not self._is_starting:
                self._leave_alone(f"no answer within {limit:.2g} s")
            return None
        self._has_answered = True
        return result

    @property
    def is_awaited(self) -> bool:
        """Whether the cache may still give this process, which has just started, an answer."""
        is_early = self._clock() < self._first_asked_at + STARTUP_SECONDS
        return self.alias is not None and not self._has_raised and is_early

    @property
    def _is_starting(self) -> bool:
        return self.is_awaited and not self._has_answered

    @property
    def _timeout(self) -> float:
        """How long one read may take, in seconds."""
        return max(self._read_seconds, STARTUP_SECONDS) if self._is_starting else self._read_seconds

    def _wait_for_reader(self, began: threading.Event, seconds: float) -> bool:
        """Return whether a reader began within `seconds`.

        All readers may be busy with a cache that is slow. It fails only if it answers none of them.
        """
        while seconds > 0:
            answers, timeout = self._answers, self._timeout
            if began.wait(min(seconds, timeout)):
                return True
            if self._answers == answers:
                if seconds >= timeout and not self._is_starting:
                    self._leave_alone(f"no answer within {timeout:.2g} s")
                return False
            seconds -= timeout
        return False

    @property
    def is_away(self) -> bool:
        """Whether flags do without the cache: it fails or hangs, or there is none."""
        return self.alias is None or self._rests_until is not None

    def _guarded(self, job: Callable[[BaseCache], T], *, writes: bool = False) -> T | None:
        returns = self._returns
        try:
            result = self._run(job)
        except Exception as error:  # a cache backend may raise anything
            log.debug("The shared cache failed.", exc_info=True)
            if any(one.is_abandoned() for one in (self._readers, self._scout, self._writer)):
                return None  # that a connection of long ago failed says nothing about the cache
            reason = type(error).__name__  # a backend's message may quote a key or an address
        else:
            if writes and self.refusal:  # a job may have had nothing to write
                self._try_write()
            return result
        if writes and self._is_readable():
            if not self.refusal and self._try_write() and self._log_throttle.allows("value"):
                log.warning(
                    "Shared cache %r refused a write (%s). It accepts others and stays in use. "
                    "Is the value too large?",
                    self.alias,
                    reason,
                )
        elif returns == self._returns:  # else it failed before it came back
            self._has_raised = True
            self._leave_alone(reason)
        return None

    def _workers(self, name: str, size: int, *, backlog: int, max_abandoned: int) -> Workers:
        return Workers(
            f"olposthog-cache-{name}",
            size,
            backlog,
            job_seconds=JOB_SECONDS,
            max_abandoned=max_abandoned,
            clock=self._clock,
        )

    def _asks_again(self) -> bool:
        """Return whether a question is under way that finds out whether the cache answers again."""
        return self._clock() - self._asked_again_at < JOB_SECONDS

    def _run(self, job: Callable[[BaseCache], T]) -> T:
        close_old_connections()
        try:
            cache: Any = _Revocable(caches[self.alias or ""], self._writer.is_abandoned)
            result = job(cache)
            self._answers += 1
            return result
        finally:
            close_old_connections()

    def _is_readable(self) -> bool:
        try:
            return self._run(_answers)
        except Exception:  # noqa: BLE001  # a cache backend may raise anything
            return False

    def _try_write(self) -> bool:
        """Return whether the cache accepts a small write; log it if that has changed."""
        refusal = "it cannot be read back"
        try:
            if self._run(_stores):
                refusal = ""
        except Exception as error:  # noqa: BLE001  # a cache backend may raise anything
            refusal = type(error).__name__
        with self._lock:
            has_changed = bool(refusal) is not bool(self.refusal)
            self.refusal = refusal
            if has_changed and refusal:
                # At the limit of its memory a cache may change its mind every second.
                self._has_logged_refusal = self._log_throttle.allows("refusal")
            is_news = has_changed and self._has_logged_refusal
        if is_news and refusal:
            log.warning(
                "Shared cache %r refuses writes (%s). It is still read. Is it full or read-only?",
                self.alias,
                refusal,
            )
        elif is_news:
            log.warning("Shared cache %r accepts writes again.", self.alias)
        return not refusal

    def _is_left_alone(self) -> bool:
        """Return whether to do without the cache.

        After each rest one question, which nobody waits for, finds out whether it answers again.
        """
        if self._rests_until is None:
            return self.alias is None
        with self._lock:
            if self._rests_until is None:
                return False
            if self._clock() < self._rests_until or self._asks_again():
                return True
            self._asked_again_at = self._clock()
        try:
            self._scout.submit(self._ask_again)
        except Saturated:
            self._asked_again_at = -math.inf
        return True

    def _ask_again(self) -> None:
        began = self._clock()
        # One that answers later than a read may take would be bypassed again at once.
        if self._guarded(_answers) and self._clock() - began < self._timeout:
            with self._lock:
                self._rests_until = None
                self._returns += 1
                self.failure = ""
            CHANGES.count("recovered")
            log.warning("The shared cache %r answers again.", self.alias)
            self._asked_again_at = -math.inf
            self._try_write()
        elif not self._scout.is_abandoned():
            self._asked_again_at = -math.inf

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


class _Abandoned(Exception):  # a state, not an error to show
    """The thread was given up while it waited for the cache."""


class _Revocable:
    """A cache that an abandoned writer cannot use any more: another one writes in its place."""

    def __init__(self, cache: BaseCache, is_abandoned: Callable[[], bool]) -> None:
        self._cache = cache
        self._is_abandoned = is_abandoned

    def __getattr__(self, name: str) -> Any:
        if self._is_abandoned():
            raise _Abandoned
        return getattr(self._cache, name)


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


def _stores(cache: BaseCache) -> bool:
    """Return whether a small value can be read after it was written.

    `DatabaseCache` drops a write in silence.
    """
    cache.set(WRITE_KEY, 1, REST_SECONDS)
    return cache.get(WRITE_KEY) is not None


def _answers(cache: BaseCache) -> bool:
    cache.get_many(["olposthog"])  # there is no such key
    return True
