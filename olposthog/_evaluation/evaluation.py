"""All of PostHog's decisions for one person, and which evaluation each comes from."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import NoneType
from typing import Any, NamedTuple

from olposthog._utils.compact_mapping import compact

from .decision import JSON, Decision, _typed

REFERENCE_BYTES = 8


class Origin(NamedTuple):
    """The evaluation that a decision comes from."""

    evaluated_at: float
    """Seconds since the epoch, by the clock of the machine that evaluated."""
    request_id: str | None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All of PostHog's decisions for one person: what the shared cache keeps."""

    decisions: Mapping[str, Decision]
    evaluated_at: float
    """Seconds since the epoch, by the clock of the machine that evaluated."""
    request_id: str | None = None
    """PostHog's name for the request; None for a local evaluation."""
    failed: tuple[str, ...] = ()
    """The keys of flags that PostHog could not compute: no decision about them is its own."""
    origins: Mapping[str, Origin] = field(default_factory=dict)
    """For decisions that come from another evaluation: which one, by flag key."""
    size: int = field(default=0, compare=False, repr=False)
    """Estimated bytes in memory, without what it shares with earlier evaluations."""

    def shared(self) -> Evaluation:
        """Return an equal evaluation that shares keys and decisions with those of other people."""
        decisions = {key: one.shared() for key, one in self.decisions.items()}
        added = sum(one.size for key, one in decisions.items() if one is self.decisions[key])
        references = len(decisions) + len(self.failed) + len(self.origins)
        return replace(
            self,
            decisions=compact(decisions),
            failed=tuple(map(sys.intern, self.failed)),
            origins=compact(self.origins),
            size=added + REFERENCE_BYTES * references,
        )

    def origin(self, key: str) -> Origin:
        """Return which evaluation the decision about a flag comes from."""
        return self.origins.get(key) or Origin(self.evaluated_at, self.request_id)

    def is_earlier(self, key: str) -> bool:
        """Return whether the decision about a flag is from an evaluation before this one."""
        return self.origin(key).evaluated_at < self.evaluated_at

    def no_later_than(self, latest: float) -> Evaluation:
        """Return the evaluation with each later time replaced by `latest`, in epoch seconds."""
        return replace(
            self,
            evaluated_at=min(self.evaluated_at, latest),
            origins={
                key: one._replace(evaluated_at=min(one.evaluated_at, latest))
                for key, one in self.origins.items()
            },
        )

    @property
    def newest_time(self) -> float:
        """The newest time in the evaluation, in epoch seconds."""
        return max([self.evaluated_at, *(one.evaluated_at for one in self.origins.values())])

    def with_decisions_of(self, other: Evaluation, keys: Iterable[str]) -> Evaluation:
        """Return an evaluation with the other's decisions about `keys`, where it has any."""
        taken = [key for key in keys if key in other.decisions]
        if not taken:
            return self
        return replace(
            self,
            decisions=compact({**self.decisions, **{key: other.decisions[key] for key in taken}}),
            origins=compact({**self.origins, **{key: other.origin(key) for key in taken}}),
        )

    def with_local(self, decided: Mapping[str, Decision]) -> Evaluation:
        """Return an evaluation in which what was decided locally takes precedence."""
        if not decided:
            return self
        return replace(self, decisions=compact({**self.decisions, **decided}))

    def only(self, is_kept: Callable[[str], bool]) -> Evaluation:
        """Return an evaluation of the flags whose keys are kept."""
        return replace(
            self,
            decisions=compact({key: one for key, one in self.decisions.items() if is_kept(key)}),
            failed=tuple(filter(is_kept, self.failed)),
            origins=compact({key: one for key, one in self.origins.items() if is_kept(key)}),
        )

    def to_json(self) -> dict[str, JSON]:
        """Return the evaluation as plain JSON values."""
        return {
            "decisions": {key: one.to_json() for key, one in self.decisions.items()},
            "evaluated_at": self.evaluated_at,
            "request_id": self.request_id,
            "failed": list(self.failed),
            "origins": {key: list(one) for key, one in self.origins.items()},
        }

    @classmethod
    def from_json(cls, stored: Any) -> Evaluation:
        """Return the evaluation that `to_json` wrote.

        Raise a KeyError, TypeError, AttributeError, ValueError or OverflowError for anything else:
        whoever can write to the shared cache may have written it.
        """
        origins: dict[Origin, Origin] = {}  # most flags have the same one

        def origin(at: Any, request_id: Any) -> Origin:
            found = Origin(_time(at), _typed(request_id, str, NoneType))
            return origins.setdefault(found, found)

        return cls(
            decisions={
                _typed(key, str): Decision.from_json(one)
                for key, one in stored["decisions"].items()
            },
            evaluated_at=_time(stored["evaluated_at"]),
            request_id=_typed(stored["request_id"], str, NoneType),
            failed=tuple(_typed(key, str) for key in stored.get("failed", ())),
            origins={
                _typed(key, str): origin(at, request_id)
                for key, (at, request_id) in stored.get("origins", {}).items()
            },
        ).shared()


def _time(stored: Any) -> float:
    at = float(_typed(stored, float, int))
    datetime.fromtimestamp(at, UTC)  # refuses what is no time
    return at
