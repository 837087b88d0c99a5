"""Who flags are evaluated for locally, and what has been evaluated for them already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from olposthog.undecided import Undecided

MAX_DISTINCT_ID_CHARACTERS = 200
"""PostHog evaluates flags by the first characters of longer distinct ids."""


@dataclass(slots=True)
class Context:
    """One person, for one evaluation. Flags and cohorts are evaluated once for it."""

    distinct_id: str
    device_id: str | None
    properties: Mapping[str, Any]
    """The person's properties, `distinct_id` included."""
    groups: Mapping[str, str | int]
    """The person's group key by group type."""
    group_properties: Mapping[str, Mapping[str, Any]]
    """Properties by group type, `$group_key` included."""
    values: dict[str, bool | str | Undecided] = field(default_factory=dict)
    """What has been evaluated, by flag key."""
    cohorts: dict[str, bool | Undecided] = field(default_factory=dict)
    """In which cohorts the person is, by cohort id, as far as evaluated."""

    @classmethod
    def of(
        cls,
        distinct_id: str,
        device_id: str | None,
        properties: Mapping[str, Any],
        groups: Mapping[str, str | int],
        group_properties: Mapping[str, Mapping[str, Any]],
    ) -> Context:
        """Return the context of a person as PostHog sees it.

        That is with the properties that PostHog adds itself, with no more of the distinct id than
        it uses, and without groups that have no key.
        """
        distinct_id = distinct_id[:MAX_DISTINCT_ID_CHARACTERS]
        groups = {kind: key for kind, key in groups.items() if _is_group_key(key)}
        return cls(
            distinct_id,
            device_id,
            {"distinct_id": distinct_id, **properties},
            groups,
            {
                kind: {"$group_key": key, **group_properties.get(kind, {})}
                for kind, key in groups.items()
            },
        )


def _is_group_key(key: Any) -> bool:
    return isinstance(key, str | int | float) and not isinstance(key, bool) and key != ""
