"""From definitions to compiled flags, once per version of the definitions.

Whatever cannot be decided as PostHog decides it is undecidable, with the reason. The rules follow
PostHog's documented formats and the places where the SDK's local evaluation differs from PostHog.
"""

from __future__ import annotations

import graphlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import accumulate
from typing import Any

from olposthog import _posthog
from olposthog.undecided import Undecided, UndecidedReason

from .conditions import (
    CohortFilter,
    Condition,
    DependencyFilter,
    Filter,
    Flags,
    PropertyFilter,
    PropertyGroup,
)
from .definitions import Definitions, FlagDefinition, shown, unknown_format
from .flag import CompiledFlag, Constant, Holdout, Variant

MAX_DEPTH = 50
"""How many flags, cohorts or property groups may be nested in one another."""
DEPENDS_ON_ITSELF = Undecided(
    UndecidedReason.DEPENDENCY, "it depends on itself, directly or through other flags"
)
TOO_DEEP = Undecided(
    UndecidedReason.UNSUPPORTED, f"more than {MAX_DEPTH} flags or cohorts are nested in it"
)
IGNORED_BY_SDK = ("super_groups",)
"""Parts of `filters` by which PostHog decides and the SDK does not."""


class _Undecidable(Exception):
    """A flag or cohort that local evaluation cannot decide for anybody."""

    def __init__(self, reason: UndecidedReason, detail: str) -> None:
        super().__init__(detail)
        self.undecided = Undecided(reason, detail)


class Compiler:
    """Compiles one version of the definitions."""

    def __init__(self, definitions: Definitions, flags: Flags) -> None:
        self._definitions = definitions
        self._flags = flags
        self.compiled: dict[str, CompiledFlag | Constant] = {}
        """All flags by key."""
        self.undecidable: dict[str, Undecided] = {}
        """Why some cannot be decided locally, by flag key."""
        self._nesting_faults = {DEPENDS_ON_ITSELF, TOO_DEEP}
        self._cohorts: dict[str, PropertyGroup] = {}
        self._undecidable_cohorts: dict[str, Undecided] = {}
        self._compile_cohorts()
        self._compile_flags()

    @property
    def badly_nested(self) -> dict[str, Undecided]:
        """The flags that have a cycle of flags or cohorts in them, or too many of these."""
        return {
            key: self.undecidable[key]
            for key in self._definitions.flags
            if self.undecidable.get(key) in self._nesting_faults
        }

    def _compile_cohorts(self) -> None:
        groups = self._definitions.cohorts
        references = {id_: set(_cohorts_in(group)) & groups.keys() for id_, group in groups.items()}
        order = _in_order(references)
        for id_ in groups.keys() - set(order):
            undecided = Undecided(
                UndecidedReason.UNSUPPORTED, f"the cohort {id_} depends on itself"
            )
            self._undecidable_cohorts[id_] = undecided
            self._nesting_faults.add(undecided)
        for id_ in order:
            try:
                self._cohorts[id_] = self._property_group(groups[id_])
            except Exception as error:  # noqa: BLE001  # an oddity must cost its own flags only
                self._undecidable_cohorts[id_] = _reason_of(error)

    def _compile_flags(self) -> None:
        flags = self._definitions.flags
        references = {
            key: {one for one in _dependencies_of(flag) if one in flags}
            for key, flag in flags.items()
        }
        order = _in_order(references)
        for key in flags.keys() - set(order):
            self.undecidable[key] = DEPENDS_ON_ITSELF
        for key in order:
            try:
                self.compiled[key] = self._flag(flags[key])
            except Exception as error:  # noqa: BLE001  # an oddity must cost its own flag only
                self.undecidable[key] = _reason_of(error)
        for key, undecided in self.undecidable.items():
            self.compiled[key] = Constant(undecided)

    def _flag(self, flag: FlagDefinition) -> CompiledFlag | Constant:
        if flag.data.get("active") is False:
            return Constant(outcome=False)
        if flag.fault:
            raise _Undecidable(
                UndecidedReason.MALFORMED, f"its definition is malformed: {flag.fault}"
            )
        if "active" not in flag.data:  # PostHog's servers take it for disabled, too
            return Constant(outcome=False)
        filters = flag.data["filters"]
        _refuse_unknown_formats(filters)
        if flag.data.get("ensure_experience_continuity"):
            raise _Undecidable(
                UndecidedReason.EXPERIENCE_CONTINUITY, "it persists across authentication steps"
            )
        group_type = self._group_type(filters.get("aggregation_group_type_index"))
        needs_enrollment = filters.get("feature_enrollment") is True
        if needs_enrollment and group_type is not None:
            raise _Undecidable(
                UndecidedReason.UNSUPPORTED, "it has feature enrollment and is about groups"
            )
        variants = tuple(_variants(filters))
        conditions = tuple(
            self._condition(flag, group, group_type, {one.key for one in variants})
            for group in filters["groups"]
        )
        return CompiledFlag(
            key=flag.key,
            group_type=group_type,
            is_by_device=group_type is None and _is_by_device(flag.data, filters),
            needs_enrollment=needs_enrollment,
            holdout=_holdout(filters),
            conditions=conditions,
            variants=variants,
            exits_early=bool(filters.get("early_exit")),
            depth=_depth_over(one for condition in conditions for one in condition.filters),
        )

    def _group_type(self, index: int | None) -> str | None:
        if index is None:
            return None
        name = self._definitions.group_types.get(str(index))
        if not isinstance(name, str) or not name:
            raise _Undecidable(
                UndecidedReason.UNSUPPORTED,
                f"the definitions do not name the group type {index}",
            )
        return name

    def _condition(
        self,
        flag: FlagDefinition,
        group: Mapping[str, Any],
        flags_group_type: str | None,
        variants: Collection[str],
    ) -> Condition:
        own_type = flags_group_type
        if "aggregation_group_type_index" in group:
            own_type = self._group_type(group["aggregation_group_type_index"])
        if own_type != flags_group_type and flags_group_type is not None:
            # The SDK has only the group's properties at hand here.
            raise _Undecidable(
                UndecidedReason.UNSUPPORTED, "it is about groups, and one of its conditions is not"
            )
        rollout = group.get("rollout_percentage")
        variant = group.get("variant")
        return Condition(
            filters=tuple(
                self._filter(one, flag, own_type) for one in group.get("properties") or ()
            ),
            rollout=1 if rollout is None else rollout / 100,
            variant=variant if variant in variants else None,
            group_type=own_type if own_type != flags_group_type else None,
        )

    def _filter(
        self, data: Mapping[str, Any], flag: FlagDefinition, group_type: str | None
    ) -> Filter:
        if data.get("negation"):
            raise _Undecidable(UndecidedReason.UNSUPPORTED, "one of its filters is negated")
        match data.get("type"):
            case "flag":
                return self._dependency(data, flag)
            case "cohort":
                if group_type is not None:
                    raise _Undecidable(
                        UndecidedReason.UNSUPPORTED, "a condition about groups needs a cohort"
                    )
                return self._cohort(data)
            case "group" if group_type is not None:
                index = data.get("group_type_index")
                if index is None or self._definitions.group_types.get(str(index)) == group_type:
                    return self._property(data, is_about_person=False)
            case None:
                return self._property(data, is_about_person=group_type is None)
            case "person" if group_type is None:
                return self._property(data)
        raise _Undecidable(
            UndecidedReason.UNSUPPORTED,
            f"its filter of {shown(data['key'])} has a type that does not go with the condition",
        )

    def _property(self, data: Mapping[str, Any], *, is_about_person: bool = True) -> PropertyFilter:
        version = self._definitions.matching_version
        if version is None:
            raise _Undecidable(
                UndecidedReason.UNSUPPORTED, "the definitions compare properties by unknown rules"
            )
        undecided = _posthog.unsupported(data, version)
        if undecided:
            raise _Undecidable(undecided.reason, undecided.detail)
        return PropertyFilter.of(data, version, is_about_person=is_about_person)

    def _dependency(self, data: Mapping[str, Any], flag: FlagDefinition) -> DependencyFilter:
        key, expected, chain = data["key"], data.get("value"), data.get("dependency_chain")
        if data.get("operator") != "flag_evaluates_to" or not isinstance(expected, bool | str):
            raise _Undecidable(
                UndecidedReason.MALFORMED, f"its dependency on {shown(key)} is malformed"
            )
        if not isinstance(chain, list) or key not in chain:
            raise _Undecidable(
                UndecidedReason.DEPENDENCY,
                f"PostHog gives no way to evaluate its dependency {shown(key)}",
            )
        other = self._definitions.flags.get(key)
        if other is None or not all(
            isinstance(one, str) and one in self._definitions.flags for one in chain
        ):
            raise _Undecidable(
                UndecidedReason.DEPENDENCY, f"the definitions lack a flag that {shown(key)} needs"
            )
        if key in self.undecidable:
            raise _Undecidable(
                UndecidedReason.DEPENDENCY,
                f"it depends on {shown(key)}, which cannot be decided here",
            )
        # A disabled flag is off for everybody, whatever it is about.
        if other.data.get("active"):
            if _aggregations(flag) != _aggregations(other):
                raise _Undecidable(
                    UndecidedReason.DEPENDENCY,
                    f"it depends on {shown(key)}, which is about another kind of entity",
                )
            if other.runtime not in ("all", flag.runtime):
                # To what depends on it, PostHog takes a flag of the other runtime for off.
                raise _Undecidable(
                    UndecidedReason.DEPENDENCY,
                    f"it depends on {shown(key)}, which is not for every runtime",
                )
        if len(_aggregations(flag)) > 1:
            raise _Undecidable(
                UndecidedReason.DEPENDENCY,
                f"it depends on {shown(key)} and is about several kinds of entities",
            )
        return DependencyFilter(key, expected, self._flags, self.compiled[key].depth)

    def _cohort(self, data: Mapping[str, Any]) -> CohortFilter:
        id_ = _cohort_id(data)
        operator = data.get("operator") or "exact"
        if operator not in ("exact", "in", "not_in"):
            raise _Undecidable(
                UndecidedReason.UNSUPPORTED, f"its filter of the cohort {id_} has no known operator"
            )
        if id_ in self._undecidable_cohorts:
            undecided = self._undecidable_cohorts[id_]
            raise _Undecidable(undecided.reason, undecided.detail)
        if id_ not in self._cohorts:
            raise _Undecidable(
                UndecidedReason.STATIC_COHORT,
                f"it needs the cohort {id_}, which the definitions do not contain",
            )
        group = self._cohorts[id_]
        return CohortFilter(id_, group, is_negated=operator == "not_in", depth=group.depth)

    def _property_group(self, data: Any, level: int = 1) -> PropertyGroup:
        if level > MAX_DEPTH:
            raise _too_deep()
        if data == {}:
            return PropertyGroup(needs_all=True, filters=(), depth=1)
        values = data.get("values") if isinstance(data, dict) else None
        if not isinstance(values, list) or data.get("type") not in ("AND", "OR"):
            raise _Undecidable(UndecidedReason.MALFORMED, "a cohort that it needs is malformed")
        entries = tuple(self._entry(one, level) for one in values)
        return PropertyGroup(
            needs_all=data["type"] == "AND",
            filters=entries,
            depth=_depth_over(one for one, _ in entries),
        )

    def _entry(self, data: Any, level: int) -> tuple[Filter, bool]:
        if not isinstance(data, dict):
            raise _Undecidable(UndecidedReason.MALFORMED, "a cohort that it needs is malformed")
        is_negated = data.get("negation") or False
        if _is_property_group(data):
            if is_negated:
                raise _Undecidable(
                    UndecidedReason.UNSUPPORTED, "a cohort that it needs has a negated group"
                )
            return self._property_group(data, level + 1), False
        if not isinstance(data.get("key"), str) or not isinstance(is_negated, bool):
            raise _Undecidable(UndecidedReason.MALFORMED, "a cohort that it needs is malformed")
        match data.get("type"):
            case "cohort":
                return self._cohort(data), is_negated
            case None | "person":
                return self._property(data), is_negated
        raise _Undecidable(
            UndecidedReason.UNSUPPORTED,
            f"a cohort that it needs filters by {shown(data['key'])}, no person property",
        )


def _reason_of(error: Exception) -> Undecided:
    """Return why a flag or cohort is undecided whose compilation raised `error`."""
    if isinstance(error, _Undecidable):
        return error.undecided
    return Undecided(
        UndecidedReason.MALFORMED, f"its definition cannot be read ({type(error).__name__})"
    )


def _refuse_unknown_formats(filters: Mapping[str, Any]) -> None:
    if format_ := unknown_format(filters):
        raise _Undecidable(UndecidedReason.CONFIG_VERSION, format_)
    if any(filters.get(name) for name in IGNORED_BY_SDK) or (
        filters.get("holdout_groups") and not filters.get("holdout")
    ):
        raise _Undecidable(
            UndecidedReason.UNSUPPORTED, "its configuration has condition sets of an older format"
        )


def _is_by_device(flag: Mapping[str, Any], filters: Mapping[str, Any]) -> bool:
    identifier = flag.get("bucketing_identifier") or filters.get("bucketing_identifier")
    if identifier in (None, "", "distinct_id"):
        return False
    if identifier != "device_id":
        raise _Undecidable(
            UndecidedReason.UNSUPPORTED, "it is bucketed by an identifier that is unknown here"
        )
    return True


def _variants(filters: Mapping[str, Any]) -> Iterator[Variant]:
    variants = (filters.get("multivariate") or {}).get("variants") or ()
    ends = accumulate(one["rollout_percentage"] / 100 for one in variants)
    for one, end in zip(variants, ends, strict=True):
        yield Variant(one["key"], end)


def _holdout(filters: Mapping[str, Any]) -> Holdout | None:
    holdout = filters.get("holdout") or {}
    percentage, id_ = holdout.get("exclusion_percentage"), holdout.get("id")
    if percentage is None or id_ is None:
        return None
    return Holdout(min(max(percentage / 100, 0.0), 1.0), f"holdout-{id_}")


def _aggregations(flag: FlagDefinition) -> set[int | None]:
    """Return the group types that a flag's conditions are about; None stands for people."""
    own = flag.data["filters"].get("aggregation_group_type_index")
    conditions = flag.condition_sets
    return {own, *(one.get("aggregation_group_type_index", own) for one in conditions)}


def _dependencies_of(flag: FlagDefinition) -> Iterator[str]:
    """Yield the keys of the flags that a flag names, if its definition can be read."""
    for group in flag.condition_sets:
        for one in group.get("properties") or ():
            if one.get("type") == "flag":
                yield one["key"]


def _cohorts_in(group: Any) -> Iterator[str]:
    """Yield the ids of the cohorts that a property group names, however deeply."""
    pending = [group]
    while pending:
        one = pending.pop()
        if not isinstance(one, dict):
            continue
        if _is_property_group(one):
            values = one.get("values")
            pending.extend(values if isinstance(values, list) else ())
        elif one.get("type") == "cohort":
            yield _cohort_id(one)


def _cohort_id(data: Mapping[str, Any]) -> str:
    """Return the id that a filter names; empty if it names none."""
    id_ = data.get("value")
    return str(id_) if isinstance(id_, int | str) else ""


def _is_property_group(data: Mapping[str, Any]) -> bool:
    return not data or "values" in data or data.get("type") in ("AND", "OR")


def _in_order(references: Mapping[str, Collection[str]]) -> list[str]:
    """Return the keys so that each stands behind those it refers to.

    Keys that refer to themselves, directly or through others, are left out, and so are keys that
    refer to them.
    """
    sorter = graphlib.TopologicalSorter(references)
    with suppress(graphlib.CycleError):  # what is not in a cycle can still be sorted
        sorter.prepare()
    order: list[str] = []
    while ready := sorter.get_ready():
        order += ready
        sorter.done(*ready)
    return order


def _depth_over(filters: Iterable[Filter]) -> int:
    """Return the depth of what consists of `filters`. Raise `_Undecidable` if it is too deep."""
    depth = 1 + max((one.depth for one in filters), default=0)
    if depth > MAX_DEPTH:
        raise _too_deep()
    return depth


def _too_deep() -> _Undecidable:
    return _Undecidable(TOO_DEEP.reason, TOO_DEEP.detail)
