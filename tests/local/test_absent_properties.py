"""Properties that are not passed: absent if `Identity.properties_complete`, else unknown."""

from __future__ import annotations

from typing import Any

import pytest
from posthog.feature_flags import PROPERTY_OPERATORS

from olposthog import _posthog
from olposthog._local import LocalEvaluation
from olposthog.identity import Identity
from olposthog.snapshot import Runtime
from olposthog.undecided import Undecided, UndecidedReason
from tests.test_definitions import cohort, flag, where

from .documents import GROUP_TYPES, Person, dependency, evaluator_of
from .sdk import sdk_outcomes

NO_MATCH = {
    **dict.fromkeys(("exact", "icontains", "starts_with", "ends_with", "is_set"), "pro"),
    "regex": "^p",
    **dict.fromkeys(("gt", "gte", "lt", "lte"), 5),
    **dict.fromkeys(("is_date_before", "is_date_after"), "2024-06-01"),
    **dict.fromkeys(("semver_eq", "semver_neq", "semver_tilde", "semver_caret"), "1.2.3"),
    **dict.fromkeys(("semver_gt", "semver_gte", "semver_lt", "semver_lte"), "1.2.3"),
    "semver_wildcard": "1.*",
}
MATCH = {
    **dict.fromkeys(("is_not", "not_icontains", "not_starts_with", "not_ends_with"), "pro"),
    "not_regex": "^p",
    "is_not_set": "is_not_set",
}
SERVERS_ONLY = {
    "between": False,
    "icontains_multi": False,
    "is_date_exact": False,
    "not_between": True,
    "not_icontains_multi": True,
}
"""Operators that the SDK does not have, with PostHog's results."""
FILTERS = [
    pytest.param({"key": "plan", "type": "person", "operator": one, "value": value}, result, id=one)
    for table, result in ((NO_MATCH, False), (MATCH, True))
    for one, value in table.items()
]
PRO = {"key": "plan", "type": "person", "operator": "exact", "value": "pro"}
NOT_PRO = {**PRO, "operator": "is_not"}


def of_person(
    document: dict[str, Any], *, complete: bool | None = True, **more: Any
) -> LocalEvaluation:
    """Evaluate for a person without properties."""
    identity = Identity("someone", properties_complete=complete, **more)
    properties = identity.person_properties or {}
    return evaluator_of(document).evaluate(identity, properties, Runtime.SERVER)


def value_of(found: LocalEvaluation, key: str = "f") -> bool | str | UndecidedReason:
    """The value of a flag, or the reason for which it is undecided."""
    undecided = found.undecided.get(key)
    return found.decisions[key].value if undecided is None else undecided.reason


def test_each_operator_has_a_result() -> None:
    """An operator that a new release of the SDK brings must be placed in one of the tables."""
    assert {*NO_MATCH, *MATCH} == {*PROPERTY_OPERATORS}


@pytest.mark.parametrize(("one", "result"), FILTERS)
def test_absent_property_decides(one: dict[str, Any], result: bool) -> None:
    """PostHog's servers match an absent property by negated operators only."""
    assert value_of(of_person({"flags": [flag("f", where(one))]})) is result


@pytest.mark.parametrize(("operator", "result"), SERVERS_ONLY.items())
def test_operators_of_the_servers_only(operator: str, result: bool) -> None:
    """The result is known, but the SDK cannot match the property: the flag is undecided."""
    one = {"key": "plan", "type": "person", "operator": operator, "value": ["pro"]}

    assert _posthog.matches_absent(one) is result
    assert value_of(of_person({"flags": [flag("f", where(one))]})) is UndecidedReason.UNSUPPORTED


def test_filter_without_an_operator_is_exact() -> None:
    """PostHog leaves the operator out of some filters."""
    one = {"key": "plan", "type": "person", "value": "pro"}
    assert value_of(of_person({"flags": [flag("f", where(one))]})) is False


@pytest.mark.parametrize("complete", [False, None])
@pytest.mark.parametrize(("one", "result"), FILTERS)
def test_unknown_property_is_undecided(
    one: dict[str, Any], result: bool, complete: bool | None
) -> None:
    """PostHog may have the property. The SDK leaves the flag unresolved, too."""
    document = {"flags": [flag("f", where(one))]}

    found = of_person(document, complete=complete)

    assert value_of(found) is UndecidedReason.MISSING_PROPERTY
    assert sdk_outcomes(document, Person("someone")) == {"f": "missing_context"}


@pytest.mark.parametrize("plan", ["pro", "free", None])
@pytest.mark.parametrize(("one", "result"), FILTERS)
def test_passed_property_still_decides(one: dict[str, Any], result: bool, plan: str | None) -> None:
    """A property that is passed gives the same outcome whether or not it is the only one."""
    document = {"flags": [flag("f", where(one))]}
    passed = {"person_properties": {"plan": plan}}

    complete, other = (of_person(document, complete=one, **passed) for one in (True, False))

    assert value_of(complete) == value_of(other)


def test_cohorts_and_dependencies_see_what_is_absent() -> None:
    """A cohort of absent properties decides, its negation too, and so do flags that depend."""
    document = {
        "flags": [
            flag("in", where(cohort(1))),
            flag("out", where({**cohort(1), "operator": "not_in"})),
            flag("dependent", where(dependency("in", expected=False))),
        ],
        "cohorts": {"1": {"type": "AND", "values": [PRO]}},
    }

    found = of_person(document)

    assert [value_of(found, key) for key in ("in", "out", "dependent")] == [False, True, True]


@pytest.mark.parametrize("one", [PRO, NOT_PRO], ids=lambda one: one["operator"])
def test_properties_of_groups_stay_unknown(one: dict[str, Any]) -> None:
    """PostHog may have properties of a group that were not passed, whoever is in it."""
    by_group = {**where({**one, "type": "group"}), "aggregation_group_type_index": 0}
    document = {"flags": [flag("f", by_group)], "group_type_mapping": GROUP_TYPES}

    found = of_person(document, groups={"company": "acme"})

    assert value_of(found) is UndecidedReason.MISSING_PROPERTY
    assert isinstance(found.undecided["f"], Undecided)
