"""The evaluation context: a person, a runtime, and what the flags may depend on."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from olposthog.identity import Identity
from olposthog.snapshot import Runtime

Key: TypeAlias = tuple[str | bool, ...]
Keys: TypeAlias = Collection[str] | None
"""The flags that a caller reads; None means all."""


def key_of_person(distinct_id: str) -> Key:
    """Return the key of the most frequent context, without making an `EvaluationContext`."""
    return ("server", distinct_id, "", False)


@dataclass(frozen=True, slots=True)
class EvaluationContext:
    """What one evaluation depends on."""

    identity: Identity
    runtime: Runtime
    properties_text: str
    """Properties and groups, as canonical text."""
    key: Key
    """What tells the context from every other one in the process."""

    @classmethod
    def of(cls, identity: Identity, runtime: Runtime) -> EvaluationContext:
        """Make the context.

        Raise TypeError or ValueError for properties that are no JSON values.
        """
        text = identity.context
        key: Key = (runtime.value, identity.distinct_id, text, identity.anonymous)
        if identity.device_id:
            key += (identity.device_id,)
        if identity.properties_complete:
            key += (True,)
        return cls(identity.fixed(text) if text else identity, runtime, text, key)

    @property
    def counterpart(self) -> EvaluationContext:
        """The same for the other runtime."""
        other = Runtime.CLIENT if self.runtime is Runtime.SERVER else Runtime.SERVER
        return replace(self, runtime=other, key=(other.value, *self.key[1:]))

    def to_text(self, environment: str) -> str:
        """Return what tells the context from every other one in the shared cache."""
        return json.dumps(
            [
                self.runtime.value,
                self.identity.distinct_id,
                self.identity.device_id,
                self.properties_text,
                environment,
            ]
        )

    def person_properties(self, environment: str) -> dict[str, Any]:
        """Return the person's properties, merged over the default ones."""
        properties: dict[str, Any] = {"user_id": self.identity.distinct_id}
        if environment:
            properties["environment"] = environment
        given = self.identity.person_properties
        return {**properties, **given} if given else properties
