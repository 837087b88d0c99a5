"""The order of sources: which one provides a person's flags.

    memory cache → local evaluation → shared cache → PostHog → stale entry → settings.FEATURES

The first two need no I/O. The rest runs on a worker thread with a deadline; concurrent callers for
one person share the run. What definitions decide takes precedence over every source after them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple, TypeVar

from olposthog._evaluation.evaluation import Evaluation
from olposthog._local import LocalEvaluation, LocalEvaluator
from olposthog._local.source import DefinitionsSource
from olposthog._shared.breaker import Breaker, State
from olposthog._shared.evaluation_cache import EvaluationCache, Found, Freshness
from olposthog._utils.log_lines import get_logger
from olposthog._utils.log_throttle import LogThrottle
from olposthog._utils.memory_cache import MemoryCache
from olposthog._utils.single_flight import SingleFlight
from olposthog._utils.workers import Saturated
from olposthog.conf import Mode, Settings
from olposthog.counters import Tally
from olposthog.snapshot import FlagSnapshot, Runtime, Source
from olposthog.undecided import Undecided

from . import overrides
from .agreement import Agreement
from .context import EvaluationContext, Keys
from .deadline import Deadline
from .remote import Remote

log = get_logger(__name__)

T = TypeVar("T")

EVALUATIONS = Tally("evaluations", Source)
"""Snapshots by their source. Those from the memory cache are not counted."""


class Outcome(NamedTuple):
    """What a source provides. A source that has nothing provides None instead."""

    evaluation: Evaluation | None
    source: Source


class Resolver:
    """Finds the flags of a person, for one process and one set of settings."""

    def __init__(
        self,
        settings: Settings,
        *,
        memory: MemoryCache[FlagSnapshot],
        definitions: DefinitionsSource[LocalEvaluator],
        evaluations: EvaluationCache,
        breaker: Breaker,
        remote: Remote,
        refreshes: SingleFlight[None],
        timeout_seconds: float,
        log_throttle: LogThrottle,
        clock: Callable[[], float],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._mode = settings.mode
        self._memory = memory
        self._definitions = definitions
        self._evaluations = evaluations
        self._breaker = breaker
        self._remote = remote
        self._refreshes = refreshes
        self._timeout_seconds = timeout_seconds
        self._log_throttle = log_throttle
        self._clock = clock
        self._wall = wall
        self._agreement = Agreement(self._is_usable, wall=wall)

    def lookup(self, context: EvaluationContext, keys: Keys) -> FlagSnapshot | None:
        """Return the snapshot if the flags `keys` need no I/O, else None."""
        known = self._memory.get(context.key)
        if known is not None:
            return known if known.suffices(keys) else None
        if not context.identity.distinct_id:
            return self._snapshot(context, self._fallback)
        generation = self._memory.generation
        snapshot = self.safely(lambda: self._without_io(context))
        if snapshot is None or not snapshot.suffices(keys):
            return None
        self._memory.put(context.key, snapshot, generation)
        return snapshot

    def resolve(
        self, context: EvaluationContext, keys: Keys, deadline: Deadline, generation: object
    ) -> FlagSnapshot:
        """Return the snapshot, from the first source that has one. Never raise."""
        known = self._memory.get(context.key)  # another run may have ended since the lookup
        if known is not None and known.suffices(keys):
            return known
        snapshot = self.safely(lambda: self._resolve(context, keys, deadline, generation))
        if snapshot is None:
            snapshot = self._snapshot(context, self._fallback)
        self._memory.put(context.key, snapshot, generation)
        return snapshot

    def give_up(self, context: EvaluationContext) -> FlagSnapshot:
        """Return what is known without PostHog and the shared cache.

        The memory cache stores it, so that the checks of one request wait once.
        """
        known = self._memory.get(context.key)
        if known is not None and known.is_final:
            return known
        local = self.safely(lambda: self._evaluate_locally(context))
        found = Found(
            self._evaluations.own(self._question(context)),
            self._evaluations.own(self._question(context.counterpart)),
            state=None,
            generation=None,
            epoch=None,
        )
        snapshot = self._snapshot(context, self._last_known(context, found, local), local)
        self._memory.put(context.key, snapshot, self._memory.generation)
        return snapshot

    def safely(self, source: Callable[[], T | None]) -> T | None:
        """Return what a source provides; None, with a log line, if it raises."""
        try:
            return source()
        except Exception as error:
            if self._log_throttle.allows(type(error).__name__):
                log.exception("Evaluating flags failed unexpectedly. Using settings.FEATURES.")
            return None

    # The sources, in their order

    @property
    def _fallback(self) -> Outcome:
        is_disabled = self._mode is Mode.DISABLED
        return Outcome(None, Source.DISABLED if is_disabled else Source.FALLBACK)

    def _without_io(self, context: EvaluationContext) -> FlagSnapshot | None:
        local = self._evaluate_locally(context)
        if local is not None:
            return self._local_snapshot(context, local)
        if self._mode is not Mode.REMOTE:
            return self._snapshot(context, self._fallback)
        return None

    def _resolve(
        self, context: EvaluationContext, keys: Keys, deadline: Deadline, generation: object
    ) -> FlagSnapshot:
        self._definitions.wait(deadline.share(1 / 4))
        local = self._evaluate_locally(context)
        if local is not None:
            snapshot = self._local_snapshot(context, local)
            if snapshot.suffices(keys):
                return snapshot
        # A shared cache that hangs leaves half of the time to PostHog.
        found = self._read_shared(context, deadline.share(1 / 2))
        outcome = (
            self._cached(context, found, generation)
            or self._ask(context, found, deadline)
            or self._last_known(context, found, local)
        )
        return self._snapshot(context, outcome, local)

    def _read_shared(self, context: EvaluationContext, seconds: float) -> Found:
        found = self._evaluations.read(
            self._question(context),
            self._question(context.counterpart),
            context.identity.distinct_id,
            seconds,
        )
        if found.generation is not None:
            self._breaker.mirror(found.state)
        self._agreement.observe(context.runtime, found.known)
        self._agreement.observe(context.counterpart.runtime, found.counterpart)
        return found

    def _cached(
        self, context: EvaluationContext, found: Found, generation: object
    ) -> Outcome | None:
        """Return an entry that may be used in place of PostHog. Revalidate it if that is due."""
        if found.known is None:
            return None
        source = Source.POSTHOG
        match self._evaluations.freshness(found.known.evaluated_at):
            case Freshness.FRESH:
                pass
            case Freshness.REVALIDATE:
                self._revalidate(context, found, found.known, generation)
                if self._breaker.state is not State.CLOSED:
                    source = Source.STALE
            case _:
                return None
        return Outcome(self._agreement.reconcile(found.known, found.counterpart), source)

    def _ask(self, context: EvaluationContext, found: Found, deadline: Deadline) -> Outcome | None:
        """Return PostHog's evaluation, stored for all processes; None if it cannot be had.

        Flags that PostHog could not compute keep their last known decisions.
        """
        evaluation = self._remote.evaluate(
            context.identity,
            context.person_properties(self._settings.environment),
            context.runtime,
            deadline.at,
        )
        if evaluation is None:
            return None
        self._agreement.observe(context.runtime, evaluation)
        if found.known is not None:
            last_known = [key for key in evaluation.failed if self._may_keep(found.known, key)]
            evaluation = evaluation.with_decisions_of(found.known, last_known)
        self._evaluations.keep(self._question(context), evaluation, found)
        return Outcome(evaluation, Source.POSTHOG)

    def _last_known(
        self, context: EvaluationContext, found: Found, local: LocalEvaluation | None
    ) -> Outcome:
        """Return the last known values as far as they may be used, else `settings.FEATURES`."""
        known, other = (
            one if one is not None and self._is_usable(one.evaluated_at) else None
            for one in (found.known, found.counterpart)
        )
        usable: Evaluation | None = None
        if known is not None:
            usable = self._agreement.reconcile(known, other)
        elif other is not None:
            definitions = local.evaluator.definitions if local else None
            usable = self._agreement.borrow(other, context.runtime, definitions)
        if usable is None:
            return self._fallback
        is_fresh = self._evaluations.freshness(usable.evaluated_at) is Freshness.FRESH
        return Outcome(usable, Source.POSTHOG if is_fresh else Source.STALE)

    # What they have in common

    def _revalidate(
        self, context: EvaluationContext, found: Found, known: Evaluation, generation: object
    ) -> None:
        """Replace an entry in the background, once in the fleet, and again if that fails."""
        if self._breaker.state is State.OPEN:
            return

        def refresh() -> None:
            overdue = self._evaluations.overdue(known.evaluated_at)
            attempt = int(overdue // self._settings.trip_threshold_seconds)
            is_shared = found.generation is not None
            if is_shared and not self._evaluations.claim_refresh(
                self._question(context), known, attempt
            ):
                return
            outcome = self._ask(context, found, Deadline.after(self._timeout_seconds, self._clock))
            if outcome is not None:
                fresh = self._snapshot(context, outcome, self._evaluate_locally(context))
                self._memory.put(context.key, fresh, generation)

        try:
            self._refreshes.join((context.key, generation), lambda: self.safely(refresh))
        except Saturated:
            log.debug("Too many refreshes are queued. A later read refreshes this entry.")

    def _is_usable(self, evaluated_at: float) -> bool:
        """Return whether an evaluation may be used while PostHog cannot be asked."""
        return self._evaluations.freshness(evaluated_at) is not Freshness.EXPIRED

    def _is_current(self, evaluation: Evaluation, key: str) -> bool:
        """Return whether a decision is as new as its evaluation, or may stand in for one."""
        return not evaluation.is_earlier(key) or self._may_keep(evaluation, key)

    def _may_keep(self, evaluation: Evaluation, key: str) -> bool:
        """Return whether a decision may still stand in for one that failed."""
        overdue = self._evaluations.overdue(evaluation.origin(key).evaluated_at)
        return overdue < self._settings.stale_if_error_seconds

    def _question(self, context: EvaluationContext) -> str:
        return context.to_text(self._settings.environment)

    def _evaluate_locally(self, context: EvaluationContext) -> LocalEvaluation | None:
        evaluator = self._definitions.current()
        if evaluator is None:
            return None
        properties = context.person_properties(self._settings.environment)
        return evaluator.evaluate(context.identity, properties, context.runtime)

    def _local_snapshot(self, context: EvaluationContext, local: LocalEvaluation) -> FlagSnapshot:
        outcome = Outcome(None, Source.LOCAL)
        return self._snapshot(context, outcome, local, is_final=self._mode is not Mode.REMOTE)

    def _snapshot(
        self,
        context: EvaluationContext,
        outcome: Outcome,
        local: LocalEvaluation | None = None,
        *,
        is_final: bool = True,
    ) -> FlagSnapshot:
        EVALUATIONS.count(outcome.source)
        now = self._wall()
        evaluation = outcome.evaluation
        features: Mapping[str, bool | str] = self._settings.features
        if evaluation and evaluation.origins:
            evaluation = evaluation.only(partial(self._is_current, evaluation))
        evaluator = self._definitions.current() if local is None else local.evaluator
        if evaluator is not None:
            features = evaluator.fallback(features, context.runtime)
        undecided: Mapping[str, Undecided] = {}
        if local is not None and evaluation is None:
            evaluation, undecided = local.to_evaluation(now), local.undecided
        elif evaluator is not None and evaluation is not None:
            # Cached decisions may be older than the definitions.
            decided, undecided = local.all() if local else ({}, {})
            evaluation = evaluation.with_local(decided).only(
                partial(evaluator.definitions.suits, runtime=context.runtime)
            )
        groups = context.identity.groups
        snapshot = FlagSnapshot(
            context.identity.distinct_id,
            context.runtime,
            outcome.source,
            evaluation,
            features,
            now,
            groups={name: str(group) for name, group in groups.items()} if groups else {},
            anonymous=context.identity.anonymous,
            undecided=undecided,
            is_final=is_final,
        )
        return overrides.apply(snapshot, partial(self._suits, runtime=context.runtime))

    def _suits(self, key: str, runtime: Runtime) -> bool:
        """Return whether a flag may be used in a runtime, by the definitions."""
        evaluator = self._definitions.current()
        return evaluator is None or evaluator.definitions.suits(key, runtime)
