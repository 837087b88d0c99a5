"""Random definitions documents and people, shared by the tests of local evaluation.

They are drawn from a seed, in 0.3 ms; hypothesis would take 140 ms for a document of six flags.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from hypothesis import Phase
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from posthog.feature_flags import (
    DATE_OPERATORS,
    NUMERIC_OPERATORS,
    PROPERTY_OPERATORS,
    SEMVER_OPERATORS,
)

from olposthog._local import LocalEvaluation, LocalEvaluator, parse
from olposthog.identity import Identity
from olposthog.snapshot import Runtime

seeds = st.integers(0, 2**32)
SOME = hypothesis_settings(
    max_examples=200,
    deadline=None,
    phases=[Phase.reuse, Phase.generate],  # a smaller seed makes no smaller document
)

FLAGS = tuple(f"flag-{number}" for number in range(6))
GROUP_TYPES = {"0": "company", "1": "team"}
PROPERTIES = ("plan", "age", "version", "since", "beta", "tags")
COHORTS = ("1", "2", "3")
STATIC_COHORT = "99"
REGEX_OPERATORS = ("regex", "not_regex")

TEXTS = ["", "pro", "PRO", "free", "true", "False", "null", "5", "10.5", "1e3", "Ünder_1", "p\nq"]
NUMBERS = [-2, 0, 1, 5, 12, 0.5, 1.0, 1e20]
VERSIONS = ["1", "1.2", "v1.2.3", "2.0.0", "0.0.3", 1.2, "1.2.3-beta", "1.02", "1.2.3.4"]
DATES = [
    "2024-06-01",
    "2024-06-01T10:00:00Z",
    "2024-06-01 22:30:00",
    "2031-02-28T00:00:00+02:00",
    "2024-13-01",
    "2024",
    "-7d",
]
PATTERNS = ["", "^p", "o$", "[a-z]+", r"\d", "(a|p)r?o", "(", r"(?<n>p)", "[[:a:]]", r"\w+$"]
ROLLOUTS = [None, 0, 0.5, 1, 33.3, 50, 75, 99.9, 100]
PAYLOADS = [
    *('{"a": 1}', '"text"', "5", "null", "true", "[1, 2]", "not JSON", "NaN", ""),
    *({"b": 2}, 7, None),
]


class Draw(Random):
    """Draws parts of definitions documents."""

    def is_in(self, one_of: int) -> bool:
        """Return True in one of so many cases."""
        return self.randrange(one_of) == 0

    def some(self, choices: Sequence[Any], most: int) -> list[Any]:
        """Return some of the choices, perhaps none."""
        return self.sample(choices, self.randint(0, min(most, len(choices))))

    def value(self, level: int = 0) -> Any:
        """Return a JSON value of any type."""
        kind = self.randrange(8 if level < 2 else 5)
        if kind == 5:
            return [self.value(level + 1) for _ in range(self.randint(0, 3))]
        if kind == 6:
            return {key: self.value(level + 1) for key in self.some("ab", 2)}
        if kind == 7:
            return self.choice([*VERSIONS, *DATES])
        scalars: list[list[Any]] = [TEXTS, TEXTS, NUMBERS, [True, False], [None]]
        return self.choice(scalars[kind])

    def filter_value(self, operator: str) -> Any:
        """Return a value for a property filter, most often one of the operator's own kind."""
        if self.is_in(8):
            return self.value()
        if operator in REGEX_OPERATORS:
            return self.choice(PATTERNS)
        if operator in SEMVER_OPERATORS:
            return self.choice([*VERSIONS, *(["1.*", "1.2.*", "*"] if "wild" in operator else [])])
        if operator in DATE_OPERATORS:
            return self.choice([*DATES, "-30d", "5y", "-1h", "12345d"])
        if operator in NUMERIC_OPERATORS:
            return self.choice([0, 5, 5.0, "5", "x"])
        return self.value()

    def by_property(self, *types: str | None) -> dict[str, Any]:
        """Return a filter by one property, with any operator."""
        operator = self.choice(PROPERTY_OPERATORS)
        type_ = self.choice(types)
        return {
            "key": self.choice([*PROPERTIES * 3, "distinct_id", "$group_key"]),
            "operator": operator,
            "value": self.filter_value(operator),
            **({} if type_ is None else {"type": type_}),
            **({"group_type_index": self.choice([0, 1])} if type_ == "group" else {}),
        }

    def by_cohort(self, ids: Sequence[str]) -> dict[str, Any]:
        """Return a filter by a cohort, seldom by one that the definitions lack."""
        return {
            "key": "id",
            "type": "cohort",
            "value": int(self.choice(ids) if ids and not self.is_in(12) else STATIC_COHORT),
            **self.choice([{}, {"operator": "in"}, {"operator": "not_in"}, {"operator": "exact"}]),
        }

    def property_group(self, cohorts: Sequence[str], level: int = 0) -> dict[str, Any]:
        """Return what a cohort consists of; it may refer to `cohorts`."""
        return {
            "type": self.choice(["AND", "OR"]),
            "values": [self._entry(cohorts, level) for _ in range(self.randint(0, 3))],
        }

    def _entry(self, cohorts: Sequence[str], level: int) -> dict[str, Any]:
        if level < 2 and self.is_in(4):
            return self.property_group(cohorts, level + 1)
        entry = (
            self.by_cohort(cohorts)
            if cohorts and self.is_in(4)
            else self.by_property("person", None)
        )
        return entry | self.choice([{}, {}, {"negation": False}, {"negation": True}])

    def condition(
        self, index: int | None, variants: Sequence[str], earlier: Sequence[str]
    ) -> dict[str, Any]:
        """Return a condition set of a flag that is about a group type, or about people."""
        filters = []
        for _ in range(self.choice([0, 0, 1, 1, 2])):
            if earlier and self.is_in(4):
                expected = self.choice([True, False, "a", "b", "other"])
                filters.append(dependency(self.choice(earlier), expected))
            elif index is None and self.is_in(4):
                filters.append(self.by_cohort(COHORTS))
            else:
                filters.append(self.by_property("person" if index is None else "group", None))
        return {
            "properties": filters,
            "rollout_percentage": self.choice(ROLLOUTS),
            "variant": self.choice([None, None, *variants, "none such"]),
        }

    def flag(self, key: str, earlier: Sequence[str]) -> dict[str, Any]:
        """Return a flag that may depend on the `earlier` ones."""
        index = self.choice([None, None, None, 0, 1])
        variants = self.choice([[], [], ["a"], ["a", "b"], ["a", "b", "c"]])
        groups = [self.condition(index, variants, earlier) for _ in range(self.randint(1, 3))]
        if index is None and self.is_in(15):  # mixed targeting
            condition = self.condition(0, variants, [])
            groups.append(condition | {"aggregation_group_type_index": 0})
        filters: dict[str, Any] = {
            "groups": groups,
            "aggregation_group_type_index": index,
            "early_exit": self.choice([None, False, True]),
            "multivariate": {
                "variants": [
                    {"key": one, "rollout_percentage": self.choice([0, 20, 33.3, 50, 100])}
                    for one in variants
                ]
            }
            if variants
            else None,
            "payloads": {
                one: self.choice(PAYLOADS)
                for one in self.some(["true", "false", "holdout-7", *variants], 6)
            },
        }
        if self.is_in(10):
            percentage = self.choice([0, 10, 50.5, 100, 150, None])
            filters["holdout"] = {
                "id": self.choice([7, 7, None]),
                "exclusion_percentage": percentage,
            }
        if self.is_in(15):
            filters["feature_enrollment"] = True
        if self.is_in(20):
            filters |= self.choice([{"version": 2, "rules": []}, {"default_value": False}])
        return {
            "id": self.randint(1, 9),
            "key": key,
            "active": not self.is_in(10),
            "version": 3,
            "bucketing_identifier": self.choice(
                [None, "distinct_id", "distinct_id", "distinct_id", "device_id"]
            ),
            "ensure_experience_continuity": self.is_in(30),
            "filters": filters,
        }

    def document(self) -> dict[str, Any]:
        """Return a document in which later flags and cohorts may refer to earlier ones."""
        return {
            "flags": [self.flag(key, FLAGS[:place]) for place, key in enumerate(FLAGS)],
            "cohorts": {
                id_: self.property_group(COHORTS[:place]) for place, id_ in enumerate(COHORTS)
            },
            "group_type_mapping": GROUP_TYPES,
            "property_matching_version": self.choice([1, 2]),
        }

    def properties(self) -> dict[str, Any]:
        """Return properties of all types; some are missing."""
        return {
            key: self.choice(DATES) if key == "since" else self.value()
            for key in self.some(PROPERTIES, 6)
        }

    def person(self) -> Person:
        """Return a person, with or without a device and groups."""
        enrollments = {
            f"$feature_enrollment/{key}": self.choice([True, False, "true", "false", None, 1])
            for key in self.some(FLAGS, 6)
        }
        kinds = list(GROUP_TYPES.values())
        group_keys: list[str | int] = ["acme", "x", 7, 12345]
        return Person(
            distinct_id=self.choice(["ü" * 150, "x" * 300, *map(str, range(10))])
            if self.is_in(2)
            else str(self.random()),
            device_id=self.choice([None, "", "device-1", "device-2", "device-3"]),
            properties=self.properties() | enrollments,
            groups={kind: self.choice(group_keys) for kind in self.some(kinds, 2)},
            group_properties={kind: self.properties() for kind in self.some(kinds, 2)},
        )


def dependency(key: str, expected: object, **more: object) -> dict[str, Any]:
    """Return a filter by the value of another flag."""
    return {
        "key": key,
        "type": "flag",
        "operator": "flag_evaluates_to",
        "value": expected,
        "dependency_chain": [key],
        **more,
    }


@dataclass(frozen=True)
class Person:
    """Someone for whom flags are evaluated."""

    distinct_id: str = "someone"
    device_id: str | None = None
    properties: Mapping[str, Any] = field(default_factory=dict)
    groups: Mapping[str, str | int] = field(default_factory=dict)
    group_properties: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def identity(self) -> Identity:
        """The person as the evaluator takes them; properties are passed on their own."""
        return Identity(
            self.distinct_id,
            groups=self.groups,
            group_properties=self.group_properties,
            device_id=self.device_id,
        )


def evaluator_of(document: Mapping[str, Any]) -> LocalEvaluator:
    """Return the evaluator of a document, as it would come from PostHog."""
    return LocalEvaluator(parse(json.dumps(document), "the test"))


def evaluate(evaluator: LocalEvaluator, person: Person) -> LocalEvaluation:
    """Evaluate all flags for a person."""
    return evaluator.evaluate(person.identity, person.properties, Runtime.SERVER)


def outcomes(document: Mapping[str, Any], person: Person) -> dict[str, Any]:
    """Return each flag's value and payload, or why it is undecided."""
    found = evaluate(evaluator_of(document), person)
    decided = {key: (one.value, one.payload) for key, one in found.decisions.items()}
    return decided | dict(found.undecided)


def depending_on(document: Mapping[str, Any], *keys: str) -> set[str]:
    """Return the keys, and those of the flags that depend on them."""
    found = set(keys)
    for flag in document["flags"]:  # which depend on earlier ones only
        filters = [one for group in flag["filters"]["groups"] for one in group["properties"]]
        if any(one.get("type") == "flag" and one["key"] in found for one in filters):
            found.add(flag["key"])
    return found
