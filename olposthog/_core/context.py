"""The question that an evaluation answers, and what tells it from every other one."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from olposthog.identity import Identity
from olposthog.snapshot import Runtime

Key = tuple[str | bool, ...]


def key_of_person(distinct_id: str) -> Key:
    """Return the key of the question that is asked most, without making a `Query`."""
    return ("server", distinct_id, "", False)


@dataclass(frozen=True, slots=True)
class Query:
    """The question that an evaluation answers: the flags of a person in a runtime."""

    identity: Identity
    runtime: Runtime
    context: str
    """Properties and groups, as canonical text."""
    key: Key
    """What tells the question from every other one in the process."""

    @classmethod
    def of(cls, identity: Identity, runtime: Runtime) -> Query:
        """Make the query; raises TypeError or ValueError for properties that are no JSON values."""
        context, runtime = identity.context, Runtime(runtime)
        key: Key = (runtime.value, identity.distinct_id, context, identity.anonymous)
        if identity.device_id:
            key += (identity.device_id,)
        return cls(identity.fixed(context), runtime, context, key)

    @property
    def counterpart(self) -> Query:
        """The same for the other runtime."""
        other = Runtime.CLIENT if self.runtime is Runtime.SERVER else Runtime.SERVER
        return replace(self, runtime=other, key=(other.value, *self.key[1:]))

    def to_text(self, environment: str) -> str:
        """Return what tells the question from every other one in the fleet."""
        return json.dumps(
            [
                self.runtime.value,
                self.identity.distinct_id,
                self.identity.device_id,
                self.context,
                environment,
            ]
        )
