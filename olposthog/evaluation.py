"""Where an answer comes from: the order of sources, for one process.

    process cache → local evaluation → shared cache → PostHog → settings.FEATURES

The first two are at hand. The rest is a flight: it has a deadline, and all callers for one person
share it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from django.core.signals import setting_changed

from . import conf
from .breaker import Breaker, CacheLedger
from .cache import READ_SECONDS, ProcessCache, SharedCache
from .definitions import DefinitionsFile
from .entries import Entries, control_prefix
from .exposures import Exposures
from .flight import Flights, Saturated, Workers
from .gateway import Gateway
from .identity import Identity, plain
from .remote import CALLS, Remote
from .snapshot import Evaluation, FlagSnapshot, Runtime, Source, answer
from .visibility import withheld

log = logging.getLogger(__name__)

FLIGHTS = 16
"""How many flights one process has in the air at most; the others wait on the ground."""


@dataclass(frozen=True, slots=True)
class Query:
    """The question that an evaluation answers: the flags of a person in a runtime."""

    identity: Identity
    runtime: Runtime
    key: tuple[str, str, str]
    """Tells the question from every other one in the process."""

    @classmethod
    def of(cls, identity: Identity, runtime: Runtime) -> Query:
        """Make the query; raises TypeError or ValueError for properties that are no JSON values."""
        return cls(identity, runtime, identity.key(runtime))


class Evaluator:
    """One process's way to flags, for one set of settings."""

    def __init__(
        self,
        settings: conf.Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self._clock = clock
        self._wall = wall
        # A flight lands a little before its callers give up, and they before the promised time.
        margin = min(0.05, settings.trip_threshold_seconds / 10)
        self._flight_seconds = settings.trip_threshold_seconds - margin
        self.wait_seconds = settings.trip_threshold_seconds - margin / 2
        self.recent: ProcessCache[FlagSnapshot] = ProcessCache(
            settings.local_cache_seconds, settings.local_cache_max_entries, clock
        )
        self.shared = SharedCache(
            settings.cache_alias,
            read_seconds=min(READ_SECONDS, settings.trip_threshold_seconds / 4),
            clock=clock,
        )
        project = _digest(settings.project_api_key, settings.api_host)[:16]
        ledger = CacheLedger(self.shared, control_prefix(project))
        self._state_key = ledger.state_key
        self._entries = Entries(self.shared, project, ledger.state_key, wall)
        self.breaker = Breaker(
            ledger,
            failure_threshold=settings.failure_threshold,
            cooldown_seconds=settings.cooldown_seconds,
            trip_threshold_seconds=settings.trip_threshold_seconds,
            clock=clock,
            wall=wall,
        )
        self.definitions = (
            DefinitionsFile(settings.definitions_file, clock) if settings.offline else None
        )
        self._asks_posthog = settings.enabled and not settings.problems and not settings.offline
        self.exposures = Exposures(settings)
        self._gateway = Gateway(settings, connections=CALLS, clock=clock, wall=wall)
        self._remote = Remote(
            self._gateway,
            self.breaker,
            self._mirror_breaker,
            slow_seconds=self._flight_seconds * 0.95,
            clock=clock,
        )
        self._flights: Flights[FlagSnapshot] = Flights(
            Workers("olposthog-flight", size=FLIGHTS, backlog=10_000)
        )
        for problem in settings.problems if settings.enabled else ():
            log.error("%s %s Until then settings.FEATURES answers.", problem.message, problem.hint)

    def close(self) -> None:
        """End the threads once they have nothing to do; whoever still asks gets the fallback."""
        for part in (self._flights, self._remote, self.shared):
            part.close()

    def at_hand(self, query: Query) -> FlagSnapshot | None:
        """Return the answer if it takes no waiting, else None: take a flight."""
        known = self.recent.get(query.key)
        if known is not None:
            return known
        generation = self.recent.generation
        if not self.settings.enabled:
            snapshot = self._answer(None, Source.DISABLED, query)
        elif self.settings.problems:
            snapshot = self._answer(None, Source.FALLBACK, query)
        elif self.definitions is not None:
            snapshot = self._safely(lambda: self._evaluate_locally(query), query)
        else:
            return None
        self.recent.put(query.key, snapshot, generation)
        return snapshot

    def flight(self, query: Query) -> Future[FlagSnapshot]:
        """Return the flight for this person: a new one, or the one under way.

        Wait for it up to `wait_seconds`, then take `give_up`'s answer. It never raises.
        """
        generation = self.recent.generation
        deadline = self._clock() + self._flight_seconds
        try:
            return self._flights.join(
                (query.key, generation), lambda: self._fly(query, generation, deadline)
            )
        except Saturated:
            landed: Future[FlagSnapshot] = Future()
            landed.set_result(self.give_up(query))
            return landed

    def give_up(self, query: Query) -> FlagSnapshot:
        """Return the fallback, and remember it: thirty checks in one request wait once."""
        snapshot = self._answer(None, Source.FALLBACK, query)
        self.recent.put(query.key, snapshot, self.recent.generation)
        return snapshot

    def clear(self, distinct_id: str | None) -> None:
        """Forget one person's answers, or everybody's, here and in the shared cache."""
        self.recent.clear()
        shares = self._asks_posthog and self.shared.alias is not None
        if shares and not self._entries.clear(distinct_id, self.wait_seconds):
            log.warning("The shared cache did not confirm in time that its flags are cleared.")

    def _fly(self, query: Query, generation: object, deadline: float) -> FlagSnapshot:
        known = self.recent.get(query.key)  # landed between the caller's look and its boarding
        if known is not None:
            return known
        snapshot = self._safely(lambda: self._look_up(query, deadline), query)
        self.recent.put(query.key, snapshot, generation)
        return snapshot

    def _safely(self, source: Callable[[], FlagSnapshot], query: Query) -> FlagSnapshot:
        try:
            return source()
        except Exception:
            log.exception("Evaluating flags failed in an unforeseen way; FEATURES answers.")
            return self._answer(None, Source.FALLBACK, query)

    def _look_up(self, query: Query, deadline: float) -> FlagSnapshot:
        question = "\n".join((*query.key, self.settings.environment))
        found = self._entries.read(question, query.identity.distinct_id, deadline - self._clock())
        if found is not None:
            self.breaker.mirror(found.state)
            if found.fresh is not None:
                return self._answer(found.fresh, Source.POSTHOG, query)
        evaluation = self._remote.evaluate(
            query.identity, self._person_properties(query.identity), query.runtime, deadline
        )
        if evaluation is None:
            return self._answer(None, Source.FALLBACK, query)
        if found is not None:
            self._entries.keep(question, evaluation, found.generation)
        return self._answer(evaluation, Source.POSTHOG, query)

    def _mirror_breaker(self) -> None:
        found = self.shared.get_many([self._state_key], READ_SECONDS)
        if found is not None:
            self.breaker.mirror(found.get(self._state_key))

    def _evaluate_locally(self, query: Query) -> FlagSnapshot:
        definitions = self.definitions.current() if self.definitions else None
        if definitions is None:
            return self._answer(None, Source.FALLBACK, query)
        evaluation = self._gateway.evaluate_locally(
            definitions, query.identity, self._person_properties(query.identity), query.runtime
        )
        return self._answer(evaluation, Source.LOCAL, query)

    def _person_properties(self, identity: Identity) -> dict[str, Any]:
        properties: dict[str, Any] = {"user_id": identity.distinct_id}
        if self.settings.environment:
            properties["environment"] = self.settings.environment
        return properties | plain(identity.person_properties)

    def _answer(self, evaluation: Evaluation | None, source: Source, query: Query) -> FlagSnapshot:
        definitions = self.definitions.current() if self.definitions else None
        return answer(
            evaluation,
            {
                key: value
                for key, value in self.settings.features.items()
                if not withheld(key, query.runtime, definitions)
            },
            source=source,
            answered_at=self._wall(),
            distinct_id=query.identity.distinct_id,
            runtime=query.runtime,
            groups={name: str(group) for name, group in (query.identity.groups or {}).items()},
            anonymous=query.identity.anonymous,
        )


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


_current: Evaluator | None = None
_current_lock = threading.Lock()


def current() -> Evaluator:
    """Return this process's evaluator, built on first use and again when a setting changes."""
    if _current is not None:
        return _current
    return _build()


def _build() -> Evaluator:
    global _current  # noqa: PLW0603  # one per process
    with _current_lock:
        if _current is None:
            _current = Evaluator(conf.current())
        return _current


def reset() -> None:
    """Make the process forget all it knows of flags; what the fleet shares, it finds again."""
    global _current  # noqa: PLW0603  # one per process
    if _current is not None:
        _current.close()
        _current = None


def _on_change(*, setting: str, **_: Any) -> None:
    if setting in conf.NAMES:
        reset()


def _after_fork() -> None:
    """Start anew in a forked worker: threads and connections stay with the parent."""
    global _current, _current_lock  # noqa: PLW0603  # one per process
    _current = None
    _current_lock = threading.Lock()


setting_changed.connect(_on_change, dispatch_uid="olposthog.evaluation")
os.register_at_fork(after_in_child=_after_fork)
