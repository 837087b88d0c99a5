"""Where an answer comes from: the order of sources, for one process.

    process cache → local evaluation → shared cache → PostHog → stale → settings.FEATURES

The first two are at hand. The rest is a flight: it has a deadline, and all callers for one person
share it. What definitions decide takes precedence in all that follows.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextvars import copy_context
from functools import partial
from operator import attrgetter
from typing import Any, TypeVar

from django.db import close_old_connections

from . import conf, overrides
from ._local import DefinitionsFile, LocalEvaluation, LocalEvaluator
from .agreement import Agreement
from .breaker import Breaker, State
from .cache import FIRST_READ, READ_SECONDS, ProcessCache, SharedCache
from .counters import Tally
from .entries import Entries, Found, control_prefix
from .exposures import Exposures
from .flight import Flights, Saturated, Workers
from .gateway import Gateway
from .identity import Identity, plain
from .ledger import CacheLedger
from .log_lines import get_logger
from .polling import DefinitionsPoll
from .query import Query
from .receivers import Receivers
from .remote import CALLS, Remote
from .snapshot import Evaluation, FlagSnapshot, Runtime, Source, answer
from .sparing import Sparing
from .visibility import withheld

log = get_logger(__name__)

T = TypeVar("T")

FLIGHTS = 16
"""How many flights one process has in the air at most; the others wait on the ground."""
ANSWERS = Tally("evaluations", Source)
"""Answers by their source, those of the process cache not counted."""
REFRESHES = 4
"""How many overdue answers one process has replaced in the background at once."""


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
        self._ledger = CacheLedger(self.shared, controls)
        self._entries = Entries(
            self.shared,
            project,
            self._ledger.state_key,
            stale_seconds=max(
                settings.stale_if_error_seconds, settings.stale_while_revalidate_seconds
            ),
            max_own_entries=settings.local_cache_max_entries,
            wall=wall,
        )
        self._agreement = Agreement(self._is_usable, wall=wall)
        self._receivers = Receivers()
        self.breaker = Breaker(
            self._ledger,
            failure_threshold=settings.failure_threshold,
            cooldown_seconds=settings.cooldown_seconds,
            trip_threshold_seconds=settings.trip_threshold_seconds,
            on_change=self._receivers.tell,
            clock=clock,
            wall=wall,
        )
        self.exposures = Exposures(settings)
        self.sparing = Sparing(clock)
        gateway = Gateway(settings, connections=CALLS, clock=clock, wall=wall)
        self._remote = Remote(
            gateway,
            self.breaker,
            self._mirror_breaker,
            slow_seconds=self._flight_seconds * 0.95,  # a call ends a little before its flight
            clock=clock,
        )
        self._identifiers = Workers("olposthog-identity", size=2, backlog=100)
        self._workers = Workers("olposthog-flight", size=FLIGHTS, backlog=10_000)
        self._flights: Flights[FlagSnapshot] = Flights(self._workers)
        self._refreshes: Flights[None] = Flights(
            Workers("olposthog-refresh", size=REFRESHES, backlog=100)
        )
        self.file: DefinitionsFile[LocalEvaluator] | None = None
        self.poll: DefinitionsPoll[LocalEvaluator] | None = None
        if settings.offline:
            self.file = DefinitionsFile(settings.definitions_file, LocalEvaluator, clock)
        elif settings.asks_posthog and settings.personal_api_key:
            self.poll = DefinitionsPoll(
                gateway,
                self.shared,
                controls,
                LocalEvaluator,
                interval_seconds=settings.poll_interval_seconds,
                clock=clock,
                wall=wall,
            )
        for problem in settings.problems if settings.enabled and not settings.isolated else ():
            log.error("%s %s Until then fallback values answer.", problem.message, problem.hint)

    def close(self) -> None:
        """End the threads once they have nothing to do; whoever still asks gets the fallback."""
        if self.poll:
            self.poll.close()
        for part in (
            self._identifiers,
            self._refreshes,
            self._flights,
            self._remote,
            self.shared,
            self._ledger,
            self._receivers,
        ):
            part.close()

    def settle(self, seconds: float) -> None:
        """Wait for what the fleet gets from this process: definitions, answers, the circuit."""
        if self.poll:
            self.poll.settle(seconds)
        self.shared.settle(seconds)

    def at_hand(self, query: Query) -> FlagSnapshot | None:
        """Return the answer if it takes no waiting, else None: take a flight."""
        known = self.recent.get(query.key)
        if known is not None:
            return known
        if not query.identity.distinct_id:
            return self._answer_unidentified(query)
        generation = self.recent.generation
        if not self.settings.enabled:
            snapshot = self._answer(None, Source.DISABLED, query)
        elif self.settings.problems:
            snapshot = self._answer(None, Source.FALLBACK, query)
        else:
            local = self._safely(lambda: self._decide_locally(query))
            if local is not None and not (self.poll and local.undecided):
                snapshot = self._answer(local.evaluation, Source.LOCAL, query, local)
            elif not self.settings.asks_posthog:
                snapshot = self._answer(None, Source.FALLBACK, query)
            else:
                return None
        self.recent.put(query.key, snapshot, generation)
        return snapshot

    def _answer_unidentified(self, query: Query) -> FlagSnapshot:
        """Return `settings.FEATURES`, without an evaluation or a cache entry."""
        source = Source.FALLBACK if self.settings.enabled else Source.DISABLED
        return self._answer(None, source, query)

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

    def elsewhere(self, job: Callable[[], T], seconds: float) -> T | None:
        """Return what `job` returns in a thread where no event loop runs; None if not in time."""
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

    def give_up(self, query: Query) -> FlagSnapshot:
        """Return what is known without PostHog and the shared cache, and remember it.

        So thirty checks in one request wait once.
        """
        landed = self.recent.get(query.key)
        if landed is not None:  # just now
            return landed
        local = self._safely(lambda: self._decide_locally(query))
        known, other = (
            self._entries.own(self._question(one)) for one in (query, query.counterpart)
        )
        snapshot = self._do_without(query, known, other, local)
        self.recent.put(query.key, snapshot, self.recent.generation)
        return snapshot

    def clear(self, distinct_id: str | None) -> bool:
        """Forget one person's answers, or everybody's, here and in the shared cache.

        Return whether the shared cache, where there is one, confirmed it in time.
        """
        self.recent.clear()
        asks = self.settings.asks_posthog
        if not asks or self._entries.clear(distinct_id, self.wait_seconds):
            return True
        if self.sparing.may_say("not cleared"):
            log.warning("The shared cache did not confirm in time that its flags are cleared.")
        return False

    def _fly(self, query: Query, generation: object, deadline: float) -> FlagSnapshot:
        known = self.recent.get(query.key)  # landed between the caller's look and its boarding
        if known is not None:
            return known
        snapshot = self._safely(lambda: self._look_up(query, generation, deadline))
        if snapshot is None:
            snapshot = self._answer(None, Source.FALLBACK, query)
        self.recent.put(query.key, snapshot, generation)
        return snapshot

    def _safely(self, source: Callable[[], T | None]) -> T | None:
        try:
            return source()
        except Exception as error:
            if self.sparing.may_say(type(error).__name__):
                log.exception("Evaluating flags failed in an unforeseen way; FEATURES answers.")
            return None

    def _look_up(self, query: Query, generation: object, deadline: float) -> FlagSnapshot:
        now = self._clock()
        halfway = now + (deadline - now) / 2
        if self.poll:
            self.poll.after_first_look((deadline - now) / 4)
        local = self._decide_locally(query)
        if local is not None and not local.undecided:
            return self._answer(local.evaluation, Source.LOCAL, query, local)
        # A cache that hangs may have cost half of the time, and leaves the other half to PostHog.
        found = self._entries.read(
            self._question(query),
            self._question(query.counterpart),
            query.identity.distinct_id,
            halfway - self._clock(),
        )
        if found.generation is not None:
            self.breaker.mirror(found.state)
        known, other = found.known, found.counterpart
        self._agreement.observe(query.runtime, known)
        self._agreement.observe(query.counterpart.runtime, other)
        if known is not None:
            overdue = self._entries.overdue(known.evaluated_at)
            reconciled = self._agreement.reconcile(known, other)
            if overdue < 0:
                return self._answer(reconciled, Source.POSTHOG, query, local)
            if overdue < self.settings.stale_while_revalidate_seconds:
                self._refresh(query, found, known, generation)
                can_ask = self.breaker.state is State.CLOSED
                source = Source.POSTHOG if can_ask else Source.STALE
                return self._answer(reconciled, source, query, local)
        evaluation = self._ask(query, found, deadline)
        if evaluation is None:
            return self._do_without(query, known, other, local)
        return self._answer(evaluation, Source.POSTHOG, query, local)

    def _ask(self, query: Query, found: Found, deadline: float) -> Evaluation | None:
        """Return PostHog's evaluation, stored for all processes; None if it cannot be had.

        Flags that PostHog could not compute keep their last known decisions.
        """
        evaluation = self._remote.evaluate(
            query.identity, self._person_properties(query.identity), query.runtime, deadline
        )
        if evaluation is None:
            return None
        self._agreement.observe(query.runtime, evaluation)
        if found.known is not None:
            last_known = [key for key in evaluation.failed if self._may_keep(found.known, key)]
            evaluation = evaluation.with_decisions_of(found.known, last_known)
        self._entries.keep(self._question(query), evaluation, found)
        return evaluation

    def _is_current(self, evaluation: Evaluation, key: str) -> bool:
        """Return whether a decision is as new as its evaluation, or may stand in for one."""
        return not evaluation.is_earlier(key) or self._may_keep(evaluation, key)

    def _may_keep(self, evaluation: Evaluation, key: str) -> bool:
        """Return whether a decision may still stand in for one that failed."""
        overdue = self._entries.overdue(evaluation.origin(key).evaluated_at)
        return overdue < self.settings.stale_if_error_seconds

    def _refresh(self, query: Query, found: Found, known: Evaluation, generation: object) -> None:
        """Replace an overdue answer in the background, once in the fleet, and again if it fails."""
        if self.breaker.state is State.OPEN:
            return

        def refresh() -> None:
            attempt = int(
                self._entries.overdue(known.evaluated_at) // self.settings.trip_threshold_seconds
            )
            shares = found.generation is not None
            if shares and not self._entries.claim_refresh(self._question(query), known, attempt):
                return
            evaluation = self._ask(query, found, self._clock() + self._flight_seconds)
            if evaluation is not None:
                local = self._decide_locally(query)
                fresh = self._answer(evaluation, Source.POSTHOG, query, local)
                self.recent.put(query.key, fresh, generation)

        try:
            self._refreshes.join((query.key, generation), lambda: self._safely(refresh))
        except Saturated:
            log.debug("Too many refreshes wait; one is left to a later check.")

    def _do_without(
        self,
        query: Query,
        known: Evaluation | None,
        other: Evaluation | None,
        local: LocalEvaluation | None,
    ) -> FlagSnapshot:
        """Return the last known values where they may be used, while PostHog cannot be asked.

        `other` is what is known for the other runtime.
        """
        if other is not None and not self._is_usable(other.evaluated_at):
            other = None
        if known is not None and self._is_usable(known.evaluated_at):
            usable: Evaluation | None = self._agreement.reconcile(known, other)
        elif other is not None:
            evaluator = self._evaluator()
            definitions = evaluator.definitions if evaluator else None
            usable = self._agreement.borrow(other, query.runtime, definitions)
        else:
            usable = None
        if usable is None:
            return self._answer(local.evaluation if local else None, Source.FALLBACK, query, local)
        is_fresh = self._entries.overdue(usable.evaluated_at) < 0
        return self._answer(usable, Source.POSTHOG if is_fresh else Source.STALE, query, local)

    def _is_usable(self, evaluated_at: float) -> bool:
        """Return whether an evaluation may be used while PostHog cannot be asked."""
        return self._entries.overdue(evaluated_at) < self._entries.stale_seconds

    def observe_breaker(self) -> bool:
        """Have `breaker` see the fleet's state, and write nothing; False if that cannot be read."""
        found = self.shared.get_many([self._ledger.state_key], READ_SECONDS * FIRST_READ)
        if found is not None:
            self.breaker.observe(found.get(self._ledger.state_key))
        return found is not None

    def _mirror_breaker(self) -> None:
        found = self.shared.get_many([self._ledger.state_key], READ_SECONDS)
        if found is not None:
            self.breaker.mirror(found.get(self._ledger.state_key))

    def defined_keys(self, runtime: Runtime) -> set[str]:
        """Return the keys that definitions have for a runtime, whoever decides their flags."""
        evaluator = self._evaluator()
        if evaluator is None:
            return set()
        definitions = evaluator.definitions
        return {key for key in definitions.flags if definitions.suits(key, runtime)}

    def _evaluator(self) -> LocalEvaluator | None:
        source = self.file or self.poll
        return source.current() if source else None

    def _decide_locally(self, query: Query) -> LocalEvaluation | None:
        evaluator = self._evaluator()
        if evaluator is None:
            return None
        properties = self._person_properties(query.identity)
        return evaluator.evaluate(query.identity, properties, query.runtime)

    def _question(self, query: Query) -> str:
        return query.to_text(self.settings.environment)

    def _person_properties(self, identity: Identity) -> dict[str, Any]:
        properties: dict[str, Any] = {"user_id": identity.distinct_id}
        if self.settings.environment:
            properties["environment"] = self.settings.environment
        return properties | plain(identity.person_properties)

    def _answer(
        self,
        evaluation: Evaluation | None,
        source: Source,
        query: Query,
        local: LocalEvaluation | None = None,
    ) -> FlagSnapshot:
        ANSWERS.count(source)
        evaluator = self._evaluator()
        definitions = evaluator.definitions if evaluator else None

        def is_kept(key: str) -> bool:
            return not withheld(key, query.runtime, definitions)

        if evaluation and evaluation.origins:
            evaluation = evaluation.only(partial(self._is_current, evaluation))
        if evaluation and definitions:
            # What PostHog said before may be older than what they say.
            evaluation = evaluation.with_local(local.evaluation if local else None).only(is_kept)
        snapshot = answer(
            evaluation,
            {key: value for key, value in self.settings.features.items() if is_kept(key)},
            source=source,
            answered_at=self._wall(),
            distinct_id=query.identity.distinct_id,
            runtime=query.runtime,
            groups={name: str(group) for name, group in (query.identity.groups or {}).items()},
            anonymous=query.identity.anonymous,
            undecided=local.undecided if local else {},
        )
        return overrides.apply(snapshot, is_kept)


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
