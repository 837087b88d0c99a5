"""What one evaluation found: PostHog's decisions, and the answer made of them."""

from __future__ import annotations

from collections.abc import Collection, ItemsView, Iterator, Mapping, ValuesView
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
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
        return key in self._decisions or key in self._fallback

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

    Reading it reports no exposure. It can be kept, passed on and read from any thread. Its values
    never change. Payloads are shared between people: copy one to change it.
    """

    distinct_id: str
    runtime: Runtime
    source: Source
    evaluation: Evaluation | None = field(repr=False)
    """PostHog's decisions, with ids and versions; None if all values are fallback values."""
    fallback: Mapping[str, bool | str] = field(repr=False)
    """The values from `settings.FEATURES` for the runtime."""
    created_at: float = field(repr=False)
    """Epoch seconds."""
    groups: Mapping[str, str] = field(default_factory=dict, repr=False)
    anonymous: bool = False
    undecided: Mapping[str, Undecided] = field(default_factory=dict, repr=False)
    """Why the definitions cannot decide a flag for this person, by flag key.

    Empty without definitions. These flags have PostHog's value, if there is one.
    """
    is_final: bool = field(default=True, repr=False)
    """False if flags that the definitions leave undecided have not been asked of PostHog."""
    reported: dict[str, bool | str | None] = field(default_factory=dict, repr=False)
    """The keys whose exposure is handled, by `olposthog._core.exposures`; values that were read."""

    @property
    def flags(self) -> Mapping[str, bool | str]:
        """Every known flag: `settings.FEATURES`, overlaid with PostHog's values.

        An explicit off of PostHog's is an off.
        """
        return _Flags(self.fallback, self._decisions)

    @property
    def payloads(self) -> Mapping[str, JSON]:
        """Payloads by flag key, decoded; only of flags that have one."""
        return _Payloads(self._decisions)

    @property
    def reasons(self) -> Mapping[str, str]:
        """PostHog's reason codes by flag key; a value from `settings.FEATURES` has none."""
        return _Reasons(self._decisions)

    @property
    def evaluated_at(self) -> datetime:
        """When PostHog, or the process for it, decided; for a fallback, when it was used. UTC."""
        at = self.created_at if self.evaluation is None else self.evaluation.evaluated_at
        return datetime.fromtimestamp(at, UTC)

    @property
    def _decisions(self) -> Mapping[str, Decision]:
        return _NO_DECISIONS if self.evaluation is None else self.evaluation.decisions

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
        decisions = self._decisions
        # A list of what is evaluated when read would evaluate it.
        listed = len(decisions) if isinstance(decisions, CompactMapping) else 0
        added = 0 if self.evaluation is None else self.evaluation.size
        return SNAPSHOT_BYTES + REFERENCE_BYTES * listed + added

    def __repr__(self) -> str:
        return (
            f"FlagSnapshot(distinct_id={self.distinct_id!r}, runtime={self.runtime!r}, "
            f"source={self.source!r}, flags={self.flags!r}, payloads={self.payloads!r}, "
            f"reasons={self.reasons!r}, evaluated_at={self.evaluated_at!r}, "
            f"anonymous={self.anonymous!r})"
        )


_NO_DECISIONS: Mapping[str, Decision] = {}
