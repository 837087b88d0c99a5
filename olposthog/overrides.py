"""What tests put in PostHog's place, for the whole process: `olposthog.testing` is how.

While there is any override, nothing leaves the process unless one asks for that. Of two that name
a flag, the one put on last holds; each is taken off by itself, in whatever order.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Generic, Self, TypeVar

from django.dispatch import Signal

from .snapshot import JSON, OVERRIDE_REASON, Decision, Evaluation, FlagSnapshot, Source

V = TypeVar("V")

changed = Signal()
"""An override was put on or taken off."""


class UnexpectedFlag(AssertionError):
    """A flag was read that no override mentions, where all must be mentioned."""

    @classmethod
    def swallowed(cls, keys: Collection[str]) -> Self:
        """Return the error for a test whose code did not mind the first one."""
        named = ", ".join(map(repr, sorted(keys)))
        return cls(f"Flags were read that no override mentions, and the code went on: {named}.")


@dataclass(frozen=True, slots=True, eq=False)
class Override:
    """What one block of a test says of flags."""

    flags: Mapping[str, bool | str] = field(default_factory=dict)
    payloads: Mapping[str, JSON] = field(default_factory=dict)
    distinct_id: str | None = None
    """Whom it is about; None means everyone."""
    strict: bool | None = None
    """Whether every flag that is read must be mentioned; None means as around it, at first not."""
    ask_posthog: bool | None = None
    """Whether PostHog decides the rest; None means as around it, at first not."""
    unexpected: set[str] = field(default_factory=set)
    """The keys that were read though nothing mentions them, while this one is strict."""

    def decisions(self) -> dict[str, Decision]:
        """Return what it decides, in PostHog's place."""
        return {
            key: Decision(value, self.payloads.get(key) if value else None, OVERRIDE_REASON)
            for key, value in self.flags.items()
        }


_active: tuple[Override, ...] = ()
_lock = threading.Lock()


def put_on(override: Override) -> None:
    """Let it hold from now on, over those that are there."""
    global _active  # noqa: PLW0603  # they hold for the process
    with _lock:
        _active = (*_active, override)
    changed.send(sender=Override)


def take_off(override: Override) -> None:
    """Let it hold no more; the others stay as they are."""
    global _active  # noqa: PLW0603  # they hold for the process
    with _lock:
        _active = tuple(one for one in _active if one is not override)
    changed.send(sender=Override)


def isolated() -> bool:
    """Return whether nothing may leave the process."""
    return bool(_active) and not next(
        (one.ask_posthog for one in reversed(_active) if one.ask_posthog is not None), False
    )


def take_unexpected() -> set[str]:
    """Return the keys of flags that were read and should not have been, and forget them."""
    keys: set[str] = set()
    for override in _active:
        keys |= override.unexpected
        override.unexpected.clear()
    return keys


def apply(snapshot: FlagSnapshot) -> FlagSnapshot:
    """Return the answer that the overrides want in place of `snapshot`."""
    active = _active
    if not active:
        return snapshot
    overridden: dict[str, Decision] = {}
    for override in active:
        if override.distinct_id in (None, snapshot.distinct_id):
            overridden |= override.decisions()
    strict = next((one for one in reversed(active) if one.strict is not None), None)
    if strict and strict.strict:
        return _strictly(snapshot, overridden, strict.unexpected)
    if not overridden:
        return snapshot
    payloads = {key: one for key, one in snapshot.payloads.items() if key not in overridden}
    return replace(
        snapshot,
        source=Source.LOCAL,
        flags={**snapshot.flags, **_values(overridden)},
        payloads={**payloads, **_payloads(overridden)},
        reasons={**snapshot.reasons, **dict.fromkeys(overridden, OVERRIDE_REASON)},
        evaluation=_evaluation(snapshot, {**_decided(snapshot), **overridden}),
    )


def _strictly(
    snapshot: FlagSnapshot, overridden: Mapping[str, Decision], unexpected: set[str]
) -> FlagSnapshot:
    """Return an answer in which there is nothing but what is mentioned."""
    return replace(
        snapshot,
        source=Source.LOCAL,
        flags=_Mentioned(_values(overridden), overridden, unexpected),
        payloads=_Mentioned(_payloads(overridden), overridden, unexpected),
        reasons=dict.fromkeys(overridden, OVERRIDE_REASON),
        evaluation=_evaluation(snapshot, overridden),
    )


def _decided(snapshot: FlagSnapshot) -> Mapping[str, Decision]:
    return snapshot.evaluation.decisions if snapshot.evaluation else {}


def _evaluation(snapshot: FlagSnapshot, decisions: Mapping[str, Decision]) -> Evaluation:
    real = snapshot.evaluation or Evaluation({}, snapshot.evaluated_at.timestamp())
    return replace(real, decisions=decisions)


class _Mentioned(Mapping[str, V], Generic[V]):
    """Values by flag key; to ask for a flag that is not mentioned is an error of the test."""

    def __init__(
        self, values: Mapping[str, V], mentioned: Collection[str], unexpected: set[str]
    ) -> None:
        self._values = values
        self._mentioned = mentioned
        self._unexpected = unexpected

    def __getitem__(self, key: str) -> V:
        if key not in self._mentioned:
            self._unexpected.add(key)
            raise UnexpectedFlag(
                f"The flag {key!r} was read, and no override mentions it for this person. "
                f"Mention it, for example by override_flags({{{key!r}: False}})."
            )
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def _values(decisions: Mapping[str, Decision]) -> dict[str, bool | str]:
    return {key: one.value for key, one in decisions.items()}


def _payloads(decisions: Mapping[str, Decision]) -> dict[str, JSON]:
    return {key: one.payload for key, one in decisions.items() if one.payload is not None}
