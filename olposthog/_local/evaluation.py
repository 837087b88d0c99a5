"""What one version of the definitions decides for a person, evaluated as it is read."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from olposthog._evaluation.decision import Decision
from olposthog._evaluation.evaluation import REFERENCE_BYTES, Evaluation
from olposthog._utils.compact_mapping import CompactMapping, compact
from olposthog.snapshot import Runtime
from olposthog.undecided import Undecided

from .context import Context

if TYPE_CHECKING:
    from .evaluator import LocalEvaluator

V = TypeVar("V")

LOCAL_EVALUATION_BYTES = 1000
"""Estimate of an evaluation's size without its flags."""


class LocalEvaluation:
    """The decisions about one person in a runtime.

    A flag is evaluated when it is read, all flags when they are listed. No flag is evaluated twice.
    """

    __slots__ = ("_all", "_context", "_runtime", "decisions", "evaluator", "undecided")

    def __init__(self, evaluator: LocalEvaluator, context: Context, runtime: Runtime) -> None:
        self.evaluator = evaluator
        self._context: Context | None = context
        self._runtime = runtime
        self._all: tuple[CompactMapping[Decision], CompactMapping[Undecided]] | None = None
        self.decisions: Mapping[str, Decision] = _Decisions(self)
        """The decisions by flag key."""
        self.undecided: Mapping[str, Undecided] = _Undecided(self)
        """The flags of the runtime that only PostHog can decide, each with the reason."""

    def outcome(self, key: str) -> Decision | Undecided | None:
        """Return the decision about a flag, or why there is none; None for an unknown flag."""
        context = self._context
        if context is None or self._all is not None:
            decisions, undecided = self.all()
            known: Decision | Undecided | None = decisions.get(key) or undecided.get(key)
            return known
        if key not in self.evaluator.keys[self._runtime]:
            return None
        return self.evaluator.decide(key, context)

    def all(self) -> tuple[CompactMapping[Decision], CompactMapping[Undecided]]:
        """Return all decisions, and all reasons of undecided flags."""
        context = self._context
        if self._all is None and context is not None:
            decisions: dict[str, Decision] = {}
            undecided: dict[str, Undecided] = {}
            decide = self.evaluator.decide
            for key in self.evaluator.keys[self._runtime]:
                outcome = decide(key, context)
                if isinstance(outcome, Undecided):
                    undecided[key] = outcome
                else:
                    decisions[key] = outcome
            self._all = compact(decisions), compact(undecided)
            self._context = None  # the person's properties are not needed any more
        return self._all or (compact({}), compact({}))

    def to_evaluation(self, evaluated_at: float) -> Evaluation:
        """Return the decisions as an evaluation, still evaluated as they are read."""
        flags = len(self.evaluator.keys[self._runtime])
        size = LOCAL_EVALUATION_BYTES + 3 * REFERENCE_BYTES * flags
        return Evaluation(self.decisions, evaluated_at, size=size)


class _View(Mapping[str, V], Generic[V]):
    """Read-only, and evaluated as it is read."""

    __slots__ = ("_local",)

    def __init__(self, local: LocalEvaluation) -> None:
        self._local = local

    def _listed(self) -> CompactMapping[V]:
        raise NotImplementedError

    def __getitem__(self, key: str) -> V:
        value: V | None = self.get(key)
        if value is None:
            raise KeyError(key)
        return value

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self.get(key) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self._listed())

    def __len__(self) -> int:
        return len(self._listed())

    def items(self) -> ItemsView[str, V]:
        """Return keys and values of all flags."""
        return self._listed().items()

    def values(self) -> ValuesView[V]:
        """Return the values of all flags."""
        return self._listed().values()

    def copy(self) -> dict[str, V]:
        """Return a dictionary of all flags."""
        return self._listed().copy()

    def __repr__(self) -> str:
        return repr(self._listed())

    def __reduce__(self) -> tuple[Any, ...]:
        return compact, (self.copy(),)


class _Decisions(_View[Decision]):
    __slots__ = ()

    def get(self, key: str, default: Any = None) -> Any:
        """Return the decision about a flag, or `default`."""
        outcome = self._local.outcome(key)
        return outcome if type(outcome) is Decision else default

    def _listed(self) -> CompactMapping[Decision]:
        return self._local.all()[0]


class _Undecided(_View[Undecided]):
    __slots__ = ()

    def get(self, key: str, default: Any = None) -> Any:
        """Return why a flag is undecided, or `default`."""
        outcome = self._local.outcome(key)
        return outcome if type(outcome) is Undecided else default

    def _listed(self) -> CompactMapping[Undecided]:
        return self._local.all()[1]
