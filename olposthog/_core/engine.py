"""The process's engine: built on first use, closed and rebuilt after a fork or a change."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextvars import copy_context
from operator import attrgetter
from typing import Any, TypeVar

from django.db import close_old_connections

from olposthog import conf
from olposthog._local import DefinitionsFile, LocalEvaluator, prepare
from olposthog._local.poller import DefinitionsPoller
from olposthog._local.source import DefinitionsSource
from olposthog._posthog import PostHogApi
from olposthog._shared.breaker import Breaker
from olposthog._shared.breaker_storage import BreakerStorage
from olposthog._shared.evaluation_cache import EvaluationCache, control_prefix
from olposthog._shared.shared_cache import FIRST_READ_SECONDS, READ_SECONDS, SharedCache
from olposthog._shared.signal_dispatch import SignalDispatcher
from olposthog._utils.log_lines import get_logger
from olposthog._utils.log_throttle import LogThrottle
from olposthog._utils.memory_cache import MemoryCache
from olposthog._utils.single_flight import SingleFlight
from olposthog._utils.workers import Saturated, Workers
from olposthog.snapshot import FlagSnapshot, Runtime

from .context import EvaluationContext, Keys
from .deadline import Deadline
from .exposures import Exposures
from .remote import MAX_CALLS, Remote
from .resolver import Resolver

log = get_logger(__name__)

T = TypeVar("T")

MAX_EVALUATIONS = 16
"""Maximum concurrent evaluations that need I/O; further ones are queued."""
MAX_REFRESHES = 4
"""Maximum concurrent background refreshes."""


class Engine:
    """Owns what one process needs for flags, by one set of settings: caches, threads, state."""

    def __init__(
        self,
        settings: conf.Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self._clock = clock
        # An evaluation ends a little before its callers give up, and they before the promised time.
        margin = min(0.05, settings.trip_threshold_seconds / 10)
        self.evaluation_seconds = settings.trip_threshold_seconds - margin
        self.wait_seconds = settings.trip_threshold_seconds - margin / 2
        self.log_throttle = LogThrottle(clock)
        self.exposures = Exposures(settings)
        self.memory: MemoryCache[FlagSnapshot] = MemoryCache(
            settings.local_cache_seconds,
            settings.local_cache_max_entries,
            clock,
            size_of=attrgetter("size"),
        )
        self.shared = SharedCache(
            settings.cache_alias,
            read_seconds=min(READ_SECONDS, settings.trip_threshold_seconds / 4),
            clock=clock,
        )
        project = _digest(settings.project_api_key, settings.api_host)[:16]
        controls = control_prefix(project)
        self._signals = SignalDispatcher()
        self._storage = BreakerStorage(self.shared, controls)
        self.breaker = Breaker(
            self._storage,
            failure_threshold=settings.failure_threshold,
            cooldown_seconds=settings.cooldown_seconds,
            trip_threshold_seconds=settings.trip_threshold_seconds,
            on_change=self._signals.tell,
            clock=clock,
            wall=wall,
        )
        self._evaluations = EvaluationCache(
            self.shared,
            project,
            self._storage.state_key,
            stale_seconds=settings.stale_if_error_seconds,
            revalidate_seconds=settings.stale_while_revalidate_seconds,
            max_own_entries=settings.local_cache_max_entries,
            wall=wall,
            clock=clock,
        )
        api = PostHogApi(settings, connections=MAX_CALLS, clock=clock, wall=wall)
        self.poller: DefinitionsPoller[LocalEvaluator] | None = None
        self.definitions: DefinitionsSource[LocalEvaluator] = DefinitionsSource()
        if settings.mode is conf.Mode.FILE:
            self.definitions = DefinitionsFile(settings.definitions_file, prepare, clock)
        elif settings.mode is conf.Mode.REMOTE and settings.personal_api_key:
            self.definitions = self.poller = DefinitionsPoller(
                api,
                self.shared,
                controls,
                prepare,
                interval_seconds=settings.poll_interval_seconds,
                clock=clock,
                wall=wall,
            )
        self._remote = Remote(
            api,
            self.breaker,
            self._mirror_breaker,
            slow_seconds=self.evaluation_seconds * 0.95,  # a call ends before its evaluation
            clock=clock,
        )
        self._identifiers = Workers("olposthog-identity", size=2, backlog=100)
        self._workers = Workers("olposthog-evaluation", size=MAX_EVALUATIONS, backlog=10_000)
        self._evaluations_under_way: SingleFlight[FlagSnapshot] = SingleFlight(self._workers)
        self._refreshes: SingleFlight[None] = SingleFlight(
            Workers("olposthog-refresh", size=MAX_REFRESHES, backlog=100)
        )
        self._resolver = Resolver(
            settings,
            memory=self.memory,
            definitions=self.definitions,
            evaluations=self._evaluations,
            breaker=self.breaker,
            remote=self._remote,
            refreshes=self._refreshes,
            timeout_seconds=self.evaluation_seconds,
            log_throttle=self.log_throttle,
            clock=clock,
            wall=wall,
        )
        self.lookup = self._resolver.lookup
        self.give_up = self._resolver.give_up
        for problem in settings.problems if settings.enabled and not settings.isolated else ():
            log.error("%s %s Using settings.FEATURES until then.", problem.message, problem.hint)

    def close(self) -> None:
        """End the threads once they have nothing to do. Callers get the fallback from now on."""
        for part in (
            self.definitions,
            self._identifiers,
            self._refreshes,
            self._evaluations_under_way,
            self._remote,
            self.shared,
            self._storage,
            self._signals,
        ):
            part.close()

    def settle(self, seconds: float) -> None:
        """Wait for what other processes get from this one: definitions, entries, the breaker."""
        self.definitions.settle(seconds)
        self.shared.settle(seconds)

    def start(self, context: EvaluationContext, keys: Keys) -> Future[FlagSnapshot]:
        """Return this person's evaluation that needs I/O: a new one, or the one under way.

        Wait for it up to `wait_seconds`, then use `give_up`. It never raises. The evaluation under
        way may be for other keys: see `FlagSnapshot.suffices`.
        """
        generation = self.memory.generation
        deadline = Deadline.after(self.evaluation_seconds, self._clock)
        try:
            return self._evaluations_under_way.join(
                (context.key, generation),
                lambda: self._resolver.resolve(context, keys, deadline, generation),
            )
        except Saturated:
            done: Future[FlagSnapshot] = Future()
            done.set_result(self.give_up(context))
            return done

    def elsewhere(self, job: Callable[[], T], seconds: float) -> T | None:
        """Return what `job` returns in a thread without an event loop; None if not in time."""
        context = copy_context()

        def do() -> T:
            close_old_connections()
            try:
                return context.run(job)
            finally:
                close_old_connections()

        try:
            return self._identifiers.submit(do).result(seconds)
        except (FutureTimeoutError, Saturated):
            return None

    def clear(self, distinct_id: str | None) -> bool:
        """Forget the flags of one person, or of everyone, here and in the shared cache.

        Return whether the shared cache, if there is one, confirmed it in time.
        """
        self.memory.clear()
        is_remote = self.settings.mode is conf.Mode.REMOTE
        if not is_remote or self._evaluations.clear(distinct_id, self.wait_seconds):
            return True
        if self.log_throttle.allows("clear"):
            log.warning("The shared cache did not confirm in time that its flags are cleared.")
        return False

    def observe_breaker(self) -> bool:
        """Have `breaker` read the shared state, and write nothing; False if that is impossible."""
        found = self.shared.get_many([self._storage.state_key], FIRST_READ_SECONDS)
        if found is not None:
            self.breaker.observe(found.get(self._storage.state_key))
        return found is not None

    def _mirror_breaker(self) -> None:
        found = self.shared.get_many([self._storage.state_key], READ_SECONDS)
        if found is not None:
            self.breaker.mirror(found.get(self._storage.state_key))

    def defined_keys(self, runtime: Runtime) -> set[str]:
        """Return the keys that definitions have for a runtime, whatever decides their flags."""
        evaluator = self.definitions.current()
        return set() if evaluator is None else set(evaluator.keys[runtime])


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


_current: Engine | None = None
_current_lock = threading.Lock()


def current() -> Engine:
    """Return this process's engine, built on first use and again when a setting changes."""
    if _current is not None:
        return _current
    return _build()


def _build() -> Engine:
    global _current  # noqa: PLW0603  # one per process
    with _current_lock:
        if _current is None:
            _current = Engine(conf.current())
        return _current


def reset() -> None:
    """Close the engine. What all processes share, the next one finds again."""
    global _current  # noqa: PLW0603  # one per process
    with _current_lock:  # what another thread is building may be of settings from before
        if _current is not None:
            _current.close()
            _current = None


def _on_change(**_: Any) -> None:
    reset()


def _before_fork() -> None:
    """Wait a moment for writes to the shared cache: SQLite's locks would stay held in the child."""
    if _current is not None:
        _current.shared.settle(READ_SECONDS)


def _after_fork() -> None:
    """Start anew in a forked worker: threads and connections stay with the parent."""
    global _current, _current_lock  # noqa: PLW0603  # one per process
    _current = None
    _current_lock = threading.Lock()


conf.changed.connect(_on_change, dispatch_uid="olposthog._core.engine")
os.register_at_fork(before=_before_fork, after_in_child=_after_fork)
