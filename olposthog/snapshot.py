"""What one evaluation found: PostHog's decisions, and the answer made of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from enum import StrEnum
from operator import attrgetter
from types import MappingProxyType, NoneType
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar
from weakref import WeakValueDictionary

from .portable import is_portable, is_unicode
from .sharing import compact
from .undecided import Undecided

JSON: TypeAlias = "bool | int | float | str | list[Any] | dict[str, Any] | None"
"""What a payload may be."""


LOCAL_REASON = "local"
"""The reason code of what was decided by flag definitions in this process."""
OVERRIDE_REASON = "override"
"""The reason code of what a test decided."""


class Source(StrEnum):
    """Where an answer came from."""

    LOCAL = "local"
    """Flag definitions, evaluated in this process."""
    POSTHOG = "posthog"
    """PostHog itself, now or within the cache's lifetime."""
    STALE = "stale"
    """PostHog, longer ago than the cache's lifetime, because it cannot be asked now."""
    FALLBACK = "fallback"
    """`settings.FEATURES`, because nothing better could be had; what definitions decide stays."""
    DISABLED = "disabled"
    """`settings.FEATURES`, because POSTHOG_ENABLED is off."""


class Runtime(StrEnum):
    """Where flags are used. PostHog lets a flag be for one of the two, or for both."""

    SERVER = "server"
    CLIENT = "client"


V = TypeVar("V")

DECISION_BYTES = 600
"""Estimate of a decision's size with its texts, without its payload."""
SNAPSHOT_BYTES = 1500
"""Estimate of a snapshot's size without its flags."""
REFERENCE_BYTES = 8


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Decision:
    """What PostHog decided about one flag for one person."""

    value: bool | str
    """On, off, or the name of a variant."""
    payload: JSON = None
    reason: str = ""
    """PostHog's reason code, such as `condition_match`; `LOCAL_REASON` for a local evaluation."""
    description: str = ""
    """PostHog's reason in words."""
    id: int | None = None
    version: int | None = None
    config_version: int = 1
    """The version of PostHog's configuration format that the flag is written in."""
    rule_type: str | None = None
    """Config version 2: the kind of the rule that decided, such as `experiment`."""
    rule_id: str | None = None
    """Config version 2: the rule's UUID."""
    variant_key: str | None = None
    """Config version 2: the experiment arm. Several arms may have the same value."""
    has_experiment: bool | None = None
    """Whether an experiment uses the flag; None if PostHog did not tell."""
    minimal_event: bool = False
    """Whether PostHog asked for minimised `$feature_flag_called` events with this decision."""

    payload_characters: int = field(default=0, compare=False, repr=False)
    """The length of the payload as JSON text; 0 if the decision is not a shared one."""
    size: int = field(default=DECISION_BYTES, compare=False, repr=False)
    """Estimated bytes in memory."""

    def shared(self) -> Decision:
        """Return the process's one decision with these fields, which may be this one.

        So people with the same decision share its texts and payload.
        """
        payload = None if self.payload is None else json.dumps(self.payload)
        found = _shared_decisions.setdefault((*_fields_without_payload(self), payload), self)
        if found is self and payload is not None:
            object.__setattr__(self, "payload_characters", len(payload))
            object.__setattr__(self, "size", DECISION_BYTES + _payload_bytes(payload))
        return found

    def to_json(self) -> dict[str, JSON]:
        """Return the decision as plain JSON values, without those that most decisions have."""
        # Written out: `dataclasses.asdict` copies deeply, and takes 25 times as long.
        stored: dict[str, JSON] = {
            "value": self.value,
            "payload": self.payload,
            "reason": self.reason,
            "description": self.description,
            "id": self.id,
            "version": self.version,
        }
        for name, (_, usual) in RARE_FIELDS.items():
            if (value := getattr(self, name)) != usual:
                stored[name] = value
        return stored

    @classmethod
    def from_json(cls, stored: Any) -> Decision:
        """Return the decision that `to_json` wrote.

        Raise KeyError, TypeError or ValueError for anything else.
        """
        if not is_portable(stored["payload"]):
            raise ValueError("payload")
        return cls(
            value=_typed(stored["value"], bool, str),
            payload=stored["payload"],
            reason=_typed(stored["reason"], str),
            description=_typed(stored["description"], str),
            id=_typed(stored["id"], int, NoneType),
            version=_typed(stored["version"], int, NoneType),
            **{
                name: _typed(stored[name], *types)
                for name, (types, _) in RARE_FIELDS.items()
                if name in stored
            },
        )


RARE_FIELDS: Mapping[str, tuple[tuple[type, ...], JSON]] = {
    "config_version": ((int,), 1),
    "rule_type": ((str, NoneType), None),
    "rule_id": ((str, NoneType), None),
    "variant_key": ((str, NoneType), None),
    "has_experiment": ((bool, NoneType), None),
    "minimal_event": ((bool,), False),
}
"""The fields of decisions that are stored only if they differ: their types and usual values."""


def _payload_bytes(text: str) -> int:
    """Return an estimate of the bytes that a decoded payload and its JSON text take."""
    containers = text.count("{") + text.count("[")
    return 3 * len(text) + 200 * containers + 40 * text.count(",")


_fields_without_payload = attrgetter(
    *("value", "reason", "description", "id", "version"), *RARE_FIELDS
)
_shared_decisions: WeakValueDictionary[tuple[Any, ...], Decision] = WeakValueDictionary()
"""The decisions in use by their fields, with the payload as JSON text."""


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

    def with_local(self, local: Evaluation | None) -> Evaluation:
        """Return an evaluation in which what was decided locally takes precedence."""
        if local is None:
            return self
        return replace(self, decisions=compact({**self.decisions, **local.decisions}))

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


class _DecisionView(Mapping[str, V], Generic[V]):
    """A read-only mapping from flag keys to one field of their decisions."""

    __slots__ = ("_decisions",)

    def __init__(self, decisions: Mapping[str, Decision]) -> None:
        self._decisions = decisions

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return repr(dict(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._decisions,)


class _Payloads(_DecisionView[JSON]):
    __slots__ = ()

    def __getitem__(self, key: str) -> JSON:
        payload = self._decisions[key].payload
        if payload is None:
            raise KeyError(key)
        return payload

    def __iter__(self) -> Iterator[str]:
        return (key for key, one in self._decisions.items() if one.payload is not None)


class _Reasons(_DecisionView[str]):
    __slots__ = ()

    def __getitem__(self, key: str) -> str:
        return self._decisions[key].reason

    def __iter__(self) -> Iterator[str]:
        return iter(self._decisions)


def _time(stored: Any) -> float:
    at = float(_typed(stored, float, int))
    datetime.fromtimestamp(at, UTC)  # refuses what is no time
    return at


def _typed(stored: Any, *types: type) -> Any:
    if type(stored) not in types:  # a bool is no int here
        raise TypeError(f"{type(stored).__name__} for {types}")
    if type(stored) is str and not is_unicode(stored):
        raise ValueError("text that is not Unicode")
    return stored


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class FlagSnapshot:
    """The flags of one person at one moment.

    Reading it costs nothing and reports no exposure; it can be kept, passed on and read from any
    thread. Its values never change; what payloads hold is everybody's, so copy it to change it.
    """

    distinct_id: str
    runtime: Runtime
    source: Source
    flags: Mapping[str, bool | str]
    """Every known flag: `settings.FEATURES`, overlaid with PostHog's values."""
    payloads: Mapping[str, JSON]
    """Payloads by flag key, decoded; only of flags that have one."""
    reasons: Mapping[str, str]
    """PostHog's reason codes by flag key; a value from `settings.FEATURES` has none."""
    evaluated_at: datetime
    """When PostHog, or the process for it, decided; for a fallback, when it was answered. UTC."""
    evaluation: Evaluation | None = field(default=None, repr=False)
    """PostHog's decisions behind it, with ids and versions; None where FEATURES answered."""
    groups: Mapping[str, str] = field(default_factory=dict, repr=False)
    anonymous: bool = False
    undecided: Mapping[str, Undecided] = field(default_factory=dict, repr=False)
    """Why the definitions cannot decide a flag for this person, by flag key.

    Empty without definitions. These flags have PostHog's value, if there is one.
    """
    reported: dict[str, bool | str | None] = field(default_factory=dict, repr=False)
    """The keys whose exposure is handled, by `olposthog.exposures`; values that were read."""

    @property
    def size(self) -> int:
        """Estimated bytes in memory, without what it shares with other snapshots."""
        references = 2 * len(self.flags) + len(self.undecided)
        added = self.evaluation.size if self.evaluation else 0
        return SNAPSHOT_BYTES + REFERENCE_BYTES * references + added

    def __reduce__(self) -> tuple[Any, ...]:
        # Python can neither pickle nor copy a `MappingProxyType`, only what is in it.
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        frozen = {
            name: value.copy()
            for name, value in values.items()
            if isinstance(value, MappingProxyType)
        }
        return _restore, ({**values, **frozen}, frozenset(frozen))


def _restore(values: dict[str, Any], frozen: frozenset[str]) -> FlagSnapshot:
    """Return the snapshot with these fields; mappings that were read-only are so again."""
    for name in frozen:
        values[name] = MappingProxyType(values[name])
    return FlagSnapshot(**values)


def answer(
    evaluation: Evaluation | None,
    features: Mapping[str, bool | str],
    *,
    source: Source,
    answered_at: float,
    distinct_id: str,
    runtime: Runtime,
    groups: Mapping[str, str],
    anonymous: bool,
    undecided: Mapping[str, Undecided],
) -> FlagSnapshot:
    """Overlay the fallback values with PostHog's decisions. An explicit off beats the fallback."""
    decisions = evaluation.decisions if evaluation else {}
    flags = {**features, **{key: decision.value for key, decision in decisions.items()}}
    at = evaluation.evaluated_at if evaluation else answered_at
    return FlagSnapshot(
        distinct_id=distinct_id,
        runtime=runtime,
        source=source,
        flags=compact(flags),
        payloads=_Payloads(decisions),
        reasons=_Reasons(decisions),
        evaluated_at=datetime.fromtimestamp(at, UTC),
        evaluation=evaluation,
        groups=groups,
        anonymous=anonymous,
        undecided=compact(undecided),
    )
