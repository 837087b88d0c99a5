"""Compiled conditions: what decides whether a person is targeted.

A filter that cannot be decided does not end a condition: another one may exclude the person.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from olposthog import _posthog
from olposthog.undecided import Undecided

from .context import Context

Properties = Mapping[str, Any]


class Filter(Protocol):
    """One requirement of a condition or a cohort."""

    @property
    def depth(self) -> int:
        """How many flags, cohorts and property groups are nested in it."""
        ...

    def matches(self, context: Context, properties: Properties) -> bool | Undecided:
        """Return whether the requirement is met, or why that cannot be decided."""
        ...


class Flags(Protocol):
    """Whatever evaluates the flags that others depend on."""

    def value(self, key: str, context: Context) -> bool | str | Undecided:
        """Return the value of a flag, or why it is undecided."""
        ...


@dataclass(frozen=True, slots=True)
class PropertyFilter:
    """A requirement of one property."""

    filter: Mapping[str, Any]
    """In PostHog's format."""
    matching_version: int
    key: str
    texts: frozenset[str] | None
    """The texts in lower case that decide alone whether text matches, where they do."""
    is_negated: bool
    """Whether the filter matches the other texts."""
    is_about_person: bool
    """Whether it is about a person, rather than a group."""
    depth: int = 0

    @classmethod
    def of(
        cls, data: Mapping[str, Any], matching_version: int, *, is_about_person: bool = True
    ) -> PropertyFilter:
        """Return the requirement that a supported filter makes."""
        return cls(
            data,
            matching_version,
            key=data["key"],
            texts=_posthog.exact_texts(data, matching_version),
            is_negated=data.get("operator") == "is_not",
            is_about_person=is_about_person,
        )

    def matches(self, context: Context, properties: Properties) -> bool | Undecided:
        """Compare the property. Of a person whose properties are all known, it may be absent."""
        if context.has_all_properties and self.is_about_person and self.key not in properties:
            return _posthog.matches_absent(self.filter)
        if self.texts is not None:
            value = properties.get(self.key)
            if type(value) is str:
                return (value.lower() in self.texts) is not self.is_negated
        return _posthog.matches(self.filter, properties, self.matching_version)


@dataclass(frozen=True, slots=True)
class DependencyFilter:
    """A requirement of another flag's value."""

    key: str
    expected: bool | str
    flags: Flags
    depth: int

    def matches(self, context: Context, properties: Properties) -> bool | Undecided:
        """Compare the other flag's value. Any variant counts as true."""
        value = self.flags.value(self.key, context)
        if isinstance(value, Undecided):
            return Undecided(value.reason, f"it depends on {self.key!r}, which is undecided")
        if isinstance(self.expected, bool):
            return bool(value) is self.expected
        return value == self.expected


@dataclass(frozen=True, slots=True)
class PropertyGroup:
    """Requirements of which all must be met, or one."""

    needs_all: bool
    filters: tuple[tuple[Filter, bool], ...]
    """Each with whether it is negated."""
    depth: int

    def matches(self, context: Context, properties: Properties) -> bool | Undecided:
        """Combine the requirements. An empty group is met."""
        results = (
            result if isinstance(result, Undecided) else result is not is_negated
            for result, is_negated in (
                (one.matches(context, properties), is_negated) for one, is_negated in self.filters
            )
        )
        return _combine(results, needs_all=self.needs_all or not self.filters)


@dataclass(frozen=True, slots=True)
class CohortFilter:
    """A requirement to be in a cohort, or not to be."""

    id: str
    group: PropertyGroup
    is_negated: bool
    depth: int

    def matches(self, context: Context, properties: Properties) -> bool | Undecided:
        """Look the cohort up, or evaluate it."""
        result = context.cohorts.get(self.id)
        if result is None:
            result = context.cohorts[self.id] = self.group.matches(context, properties)
        return result if isinstance(result, Undecided) else result is not self.is_negated


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition set of a flag."""

    filters: tuple[Filter, ...]
    rollout: float
    """The share of those who match that the condition is for: 1 for all."""
    variant: str | None
    """The variant that the condition gives instead of the bucketed one."""
    group_type: str | None
    """The group type that the condition is about, where it differs from the flag's."""

    def matches(self, context: Context, properties: Properties) -> bool | Undecided:
        """Return whether all filters match, whatever the rollout."""
        undecided: Undecided | None = None
        for one in self.filters:
            result = one.matches(context, properties)
            if result is False:
                return False
            if result is not True:
                undecided = undecided or result
        return undecided or True


def _combine(results: Iterable[bool | Undecided], *, needs_all: bool) -> bool | Undecided:
    """Combine results. One that decides outweighs those that are undecided."""
    undecided: Undecided | None = None
    for result in results:
        if isinstance(result, Undecided):
            undecided = undecided or result
        elif result is not needs_all:
            return result
    return undecided or needs_all
