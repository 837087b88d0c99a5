"""Who flags are evaluated for locally, and what has been evaluated for them already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from olposthog.identity import cut_distinct_id
from olposthog.undecided import Undecided

Target: TypeAlias = tuple[str | int, Mapping[str, Any]]
"""What a condition is about: the id that it is bucketed by, and the properties."""


@dataclass(slots=True)
class Context:
    """One person, for one evaluation. Flags and cohorts are evaluated once for it."""

    targets: Mapping[str | None, Target]
    """The person's groups by group type, and under None the person."""
    device: Target | None
    """The person as bucketed by device; None without a device id."""
    has_all_properties: bool = False
    """Whether a person property that is not among them is absent, rather than unknown."""
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
        *,
        has_all_properties: bool = False,
    ) -> Context:
        """Return the context of a person as PostHog sees it.

        That is with the properties that PostHog adds itself, with no more of the distinct id than
        it uses, and without groups that have no key.
        """
        distinct_id = cut_distinct_id(distinct_id)
        properties = {"distinct_id": distinct_id, **properties}
        targets: dict[str | None, Target] = {
            kind: (key, {"$group_key": key, **group_properties.get(kind, {})})
            for kind, key in groups.items()
            if _is_group_key(key)
        }
        targets[None] = distinct_id, properties
        return cls(
            targets,
            device=(device_id, properties) if device_id else None,
            has_all_properties=has_all_properties,
        )


def _is_group_key(key: Any) -> bool:
    return isinstance(key, str | int | float) and not isinstance(key, bool) and key != ""
