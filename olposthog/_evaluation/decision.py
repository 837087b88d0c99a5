"""What PostHog decided about one flag for one person."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from types import NoneType
from typing import Any, TypeAlias
from weakref import WeakValueDictionary

from olposthog._utils.portable_json import is_portable, is_unicode

JSON: TypeAlias = "bool | int | float | str | list[Any] | dict[str, Any] | None"
"""What a payload may be."""


LOCAL_REASON = "local"
"""The reason code of what was decided by flag definitions in this process."""


OVERRIDE_REASON = "override"
"""The reason code of what a test decided."""


DECISION_BYTES = 600
"""Estimate of a decision's size with its texts, without its payload."""


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


def _typed(stored: Any, *types: type) -> Any:
    if type(stored) not in types:  # a bool is no int here
        raise TypeError(f"{type(stored).__name__} for {types}")
    if type(stored) is str and not is_unicode(stored):
        raise ValueError("text that is not Unicode")
    return stored
