"""What tests put in PostHog's place, for the whole process: `olposthog.testing` is how.

While there is any override, nothing leaves the process unless one asks for that. Of two that name
a flag, the one put on last holds; each is taken off by itself, in whatever order.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, Self

from olposthog import conf
from olposthog._evaluation.decision import JSON, OVERRIDE_REASON, Decision
from olposthog._evaluation.evaluation import Evaluation
from olposthog.snapshot import FlagSnapshot, Source


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

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # The copy of a snapshot reports to the same test which flags were read.
        return self

    def decisions(self) -> dict[str, Decision]:
        """Return what it decides, in PostHog's place."""
        return {
            key: Decision(
                value, deepcopy(self.payloads.get(key)) if value else None, OVERRIDE_REASON
            )
            for key, value in self.flags.items()
        }


_active: tuple[Override, ...] = ()
_lock = threading.Lock()


def put_on(override: Override) -> None:
    """Let it hold from now on, over those that are there."""
    global _active  # noqa: PLW0603  # they hold for the process
    with _lock:
        _active = (*_active, override)
    conf.isolate(is_on=isolated())


def take_off(override: Override) -> None:
    """Let it hold no more; the others stay as they are."""
    global _active  # noqa: PLW0603  # they hold for the process
    with _lock:
        _active = tuple(one for one in _active if one is not override)
    conf.isolate(is_on=isolated())


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


def apply(snapshot: FlagSnapshot, is_kept: Callable[[str], bool]) -> FlagSnapshot:
    """Return the answer that the overrides want in place of `snapshot`.

    They give no runtime a flag that definitions keep from it.
    """
    active = _active
    if not active:
        return snapshot
    mentioned: dict[str, Decision] = {}
    for override in active:
        if override.distinct_id in (None, snapshot.distinct_id):
            mentioned |= override.decisions()
    overridden = {key: one for key, one in mentioned.items() if is_kept(key)}
    strict = next((one for one in reversed(active) if one.strict is not None), None)
    if strict and strict.strict:
        return _with_decisions(
            replace(snapshot, fallback=_NoFallback(mentioned, strict)), overridden
        )
    if not overridden:
        return snapshot
    decided = snapshot.evaluation.decisions if snapshot.evaluation else {}
    return _with_decisions(snapshot, {**decided, **overridden})


def _with_decisions(snapshot: FlagSnapshot, decisions: Mapping[str, Decision]) -> FlagSnapshot:
    real = snapshot.evaluation or Evaluation({}, snapshot.created_at)
    return replace(snapshot, source=Source.LOCAL, evaluation=replace(real, decisions=decisions))


class _NoFallback(dict[str, bool | str]):
    """No values: to read a flag that no override mentions is an error of the test."""

    def __init__(self, mentioned: Collection[str], strict: Override) -> None:
        super().__init__()
        self._mentioned = mentioned
        self._strict = strict

    def __missing__(self, key: str) -> bool | str:
        self._require(key)
        raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        self._require(key)
        return False

    def get(self, key: str, default: Any = None) -> Any:
        """Return `default` for a flag that is mentioned and has no value for the person."""
        self._require(key)
        return default

    def _require(self, key: object) -> None:
        if key not in self._mentioned:
            self._strict.unexpected.add(str(key))
            raise UnexpectedFlag(
                f"The flag {key!r} was read, and no override mentions it for this person. "
                f"Mention it, for example by override_flags({{{key!r}: False}})."
            )
