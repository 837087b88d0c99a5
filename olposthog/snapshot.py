"""What one evaluation found: PostHog's decisions, and the answer made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

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


@dataclass(frozen=True, slots=True)
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

    def origin(self, key: str) -> Origin:
        """Return which evaluation the decision about a flag comes from."""
        return self.origins.get(key) or Origin(self.evaluated_at, self.request_id)

    def is_earlier(self, key: str) -> bool:
        """Return whether the decision about a flag is from an evaluation before this one."""
        return self.origin(key).evaluated_at < self.evaluated_at

    def with_decisions_of(self, other: Evaluation, keys: Iterable[str]) -> Evaluation:
        """Return an evaluation with the other's decisions about `keys`, where it has any."""
        taken = [key for key in keys if key in other.decisions]
        if not taken:
            return self
        return replace(
            self,
            decisions={**self.decisions, **{key: other.decisions[key] for key in taken}},
            origins={**self.origins, **{key: other.origin(key) for key in taken}},
        )

    def with_local(self, local: Evaluation | None) -> Evaluation:
        """Return an evaluation in which what was decided locally takes precedence."""
        if local is None:
            return self
        return replace(self, decisions={**self.decisions, **local.decisions})

    def only(self, is_kept: Callable[[str], bool]) -> Evaluation:
        """Return an evaluation of the flags whose keys are kept."""
        return replace(
            self,
            decisions={key: one for key, one in self.decisions.items() if is_kept(key)},
            failed=tuple(filter(is_kept, self.failed)),
            origins={key: one for key, one in self.origins.items() if is_kept(key)},
        )

    def to_json(self) -> dict[str, JSON]:
        """Return the evaluation as plain JSON values."""
        return {
            # Written out: `dataclasses.asdict` copies deeply, and takes 25 times as long.
            "decisions": {
                key: {
                    "value": one.value,
                    "payload": one.payload,
                    "reason": one.reason,
                    "description": one.description,
                    "id": one.id,
                    "version": one.version,
                    "config_version": one.config_version,
                    "rule_type": one.rule_type,
                    "rule_id": one.rule_id,
                    "variant_key": one.variant_key,
                    "has_experiment": one.has_experiment,
                    "minimal_event": one.minimal_event,
                }
                for key, one in self.decisions.items()
            },
            "evaluated_at": self.evaluated_at,
            "request_id": self.request_id,
            "failed": list(self.failed),
            "origins": {key: list(one) for key, one in self.origins.items()},
        }

    @classmethod
    def from_json(cls, stored: Any) -> Evaluation:
        """Read what `to_json` wrote; raises what comes of reading anything else.

        That is a KeyError, TypeError, AttributeError, ValueError or OverflowError.
        """
        evaluated_at = float(stored["evaluated_at"])
        datetime.fromtimestamp(evaluated_at, UTC)  # refuses what is no time
        return cls(
            decisions={key: Decision(**one) for key, one in stored["decisions"].items()},
            evaluated_at=evaluated_at,
            request_id=stored["request_id"],
            failed=tuple(map(str, stored.get("failed", ()))),
            origins={
                key: Origin(float(at), request_id)
                for key, (at, request_id) in stored.get("origins", {}).items()
            },
        )


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
    reported: set[str] = field(default_factory=set, repr=False)
    """The keys whose exposure need not be looked at again; kept by `olposthog.exposures`."""


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
        flags=MappingProxyType(flags),
        payloads=MappingProxyType(
            {key: one.payload for key, one in decisions.items() if one.payload is not None}
        ),
        reasons=MappingProxyType({key: one.reason for key, one in decisions.items()}),
        evaluated_at=datetime.fromtimestamp(at, UTC),
        evaluation=evaluation,
        groups=groups,
        anonymous=anonymous,
        undecided=MappingProxyType(dict(undecided)),
    )
