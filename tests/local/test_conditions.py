"""Compiled conditions: property filters next to the SDK's, and how requirements combine."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from posthog.feature_flags import match_property

from olposthog._local.conditions import PropertyFilter
from olposthog._local.context import Context
from olposthog.undecided import Undecided
from tests.test_definitions import cohort, flag, where

from .documents import GROUP_TYPES, Person, outcomes

TEXTS = [
    "",
    "pro",
    "PRO",
    "Straße",
    "STRASSE",
    "ΟΔΟΣ",
    "οδος",
    "true",
    "True",
    "FALSE",
    "1",
    "null",
]
SOMEBODY = Context.of("somebody", None, {}, {}, {})


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("operator", ["exact", "is_not", None])
def test_exact_matching_is_the_sdks(operator: str | None, version: int) -> None:
    """Texts that are compared without the SDK give the same results as with it."""
    pairs = [list(one) for one in product(TEXTS, repeat=2)]
    values: list[Any] = [*TEXTS, *([one] for one in TEXTS), *pairs, [], 1, True, [1, "pro"]]
    without_sdk = 0
    for value in values:
        data = {"key": "plan", "type": "person", "value": value, "operator": operator}
        one = PropertyFilter.of(data, version)
        without_sdk += one.texts is not None
        for text in [*TEXTS, True, 1, None, ["pro"]]:
            properties = {"plan": text}
            expected = match_property(data, properties, version)
            assert one.matches(SOMEBODY, properties) is expected, (data, text)

    assert without_sdk > 100


@pytest.mark.parametrize(
    ("kind", "results", "found"),
    [
        ("AND", "", True),
        ("OR", "", True),
        ("AND", "yes yes", True),
        ("AND", "yes no", False),
        ("AND", "unknown no", False),
        ("AND", "no unknown", False),
        ("AND", "unknown yes", None),
        ("OR", "no no", False),
        ("OR", "no yes", True),
        ("OR", "unknown yes", True),
        ("OR", "yes unknown", True),
        ("OR", "unknown no", None),
    ],
)
def test_requirement_that_decides(kind: str, results: str, found: bool | None) -> None:
    """A requirement that decides a cohort outweighs those that are undecided, in any order."""
    values = [
        {"key": one, "type": "person", "operator": "exact", "value": "yes"}
        for one in results.split()
    ]
    document = {
        "flags": [flag("f", where(cohort(1)))],
        "cohorts": {"1": {"type": kind, "values": values}},
    }

    outcome = outcomes(document, Person(properties={"yes": "yes", "no": "no"}))["f"]

    assert (None if isinstance(outcome, Undecided) else outcome[0]) is found


def test_properties_that_posthog_adds() -> None:
    """Conditions may be about the distinct id, and about the key of a group."""
    by_key = {"key": "$group_key", "type": "group", "operator": "exact", "value": "acme"}
    by_id = {"key": "distinct_id", "type": "person", "operator": "exact", "value": "u1"}
    document = {
        "flags": [
            flag("group", {**where(by_key), "aggregation_group_type_index": 0}),
            flag("person", where(by_id)),
        ],
        "group_type_mapping": GROUP_TYPES,
    }

    assert outcomes(document, Person("u1", groups={"company": "acme"})) == {
        "group": (True, None),
        "person": (True, None),
    }
    assert outcomes(document, Person("u2", groups={"company": "other"})) == {
        "group": (False, None),
        "person": (False, None),
    }
