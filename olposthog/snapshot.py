"""What one evaluation found: PostHog's decisions, and the answer made of them."""

from __future__ import annotations

from collections.abc import Collection, ItemsView, Iterator, Mapping, ValuesView
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from olposthog._evaluation.evaluation import REFERENCE_BYTES, Evaluation

from ._evaluation.decision import JSON, Decision
from ._utils.compact_mapping import CompactMapping
from .undecided import Undecided


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

SNAPSHOT_BYTES = 1500
"""Estimate of a snapshot's size without its flags."""


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


class _Flags(Mapping[str, bool | str]):
    """The fallback values, overlaid with the values of decisions. Read-only."""

    __slots__ = ("_decisions", "_fallback")

    def __init__(
        self, fallback: Mapping[str, bool | str], decisions: Mapping[str, Decision]
    ) -> None:
        self._fallback = fallback
        self._decisions = decisions

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a flag, or `default` for a flag without one."""
        decision = self._decisions.get(key)
        return self._fallback.get(key, default) if decision is None else decision.value

    def __getitem__(self, key: str) -> bool | str:
        decision = self._decisions.get(key)
        return self._fallback[key] if decision is None else decision.value

    def __contains__(self, key: object) -> bool:
        return key in self._fallback or key in self._decisions

    def __iter__(self) -> Iterator[str]:
        return iter({**self._fallback, **self._decisions})

    def __len__(self) -> int:
        return len({**self._fallback, **self._decisions})

    def items(self) -> ItemsView[str, bool | str]:
        """Return keys and values of all flags."""
        return self.copy().items()

    def values(self) -> ValuesView[bool | str]:
        """Return the values of all flags."""
        return self.copy().values()

    def copy(self) -> dict[str, bool | str]:
        """Return a dictionary of all flags."""
        decided = {key: one.value for key, one in self._decisions.items()}
        return {**self._fallback, **decided}

    def __repr__(self) -> str:
        return repr(self.copy())

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self._fallback), self._decisions)


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
    """The keys whose exposure is handled, by `olposthog._core.exposures`; values that were read."""

    is_final: bool = field(default=True, repr=False)
    """False if flags that the definitions leave undecided have not been asked of PostHog."""

    def suffices(self, keys: Collection[str] | None) -> bool:
        """Return whether PostHog need not be asked for the flags `keys`; None means all flags."""
        if self.is_final:
            return True
        if keys is None:
            return not self.undecided
        return not any(key in self.undecided for key in keys)

    @property
    def size(self) -> int:
        """Estimated bytes in memory, without what it shares with other snapshots."""
        if self.evaluation is None:
            return SNAPSHOT_BYTES
        decisions = self.evaluation.decisions
        # A list of what is evaluated when read would evaluate it.
        listed = len(decisions) if isinstance(decisions, CompactMapping) else 0
        return SNAPSHOT_BYTES + 2 * REFERENCE_BYTES * listed + self.evaluation.size

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
    is_final: bool = True,
) -> FlagSnapshot:
    """Overlay the fallback values with PostHog's decisions. An explicit off beats the fallback."""
    decisions = evaluation.decisions if evaluation else {}
    at = evaluation.evaluated_at if evaluation else answered_at
    return FlagSnapshot(
        distinct_id=distinct_id,
        runtime=runtime,
        source=source,
        flags=_Flags(features, decisions),
        payloads=_Payloads(decisions),
        reasons=_Reasons(decisions),
        evaluated_at=datetime.fromtimestamp(at, UTC),
        evaluation=evaluation,
        groups=groups,
        anonymous=anonymous,
        undecided=undecided,
        is_final=is_final,
    )
