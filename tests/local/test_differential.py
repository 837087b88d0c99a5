"""Our local evaluation next to the SDK's: where they agree, and every class where they do not."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain, product
from typing import Any

import pytest
from hypothesis import given
from posthog.feature_flags import DATE_OPERATORS, SEMVER_OPERATORS

from olposthog.undecided import Undecided, UndecidedReason
from tests.test_definitions import cohort, flag, where

from .documents import (
    COHORTS,
    GROUP_TYPES,
    REGEX_OPERATORS,
    SOME,
    Draw,
    Person,
    dependency,
    outcomes,
    seeds,
)
from .sdk import sdk_outcomes

Document = Mapping[str, Any]
Flag = Mapping[str, Any]

NOBODY = Person()
VERSION = re.compile(r"v?\d+(\.\d+){0,2}(\.\*)?")


# ---- what a definition consists of, as the classes below need it


def filters_of(document: Document, flag: Flag) -> Iterator[dict[str, Any]]:
    """Yield all filters of a flag, those of its cohorts included."""
    pending = [one for group in flag["filters"]["groups"] for one in group["properties"]]
    seen: set[str] = set()
    while pending:
        one = pending.pop()
        if "values" in one:
            pending += one["values"]
            continue
        yield one
        if one.get("type") == "cohort" and str(one["value"]) not in seen:
            seen.add(str(one["value"]))
            pending.append(document["cohorts"].get(str(one["value"]), {"values": []}))


def kinds_of(flag: Flag) -> set[int | None]:
    """Return the group types that a flag is about; None stands for people."""
    own = flag["filters"].get("aggregation_group_type_index")
    return {one.get("aggregation_group_type_index", own) for one in flag["filters"]["groups"]} | {
        own
    }


def all_properties(person: Person) -> Iterator[Any]:
    for properties in (person.properties, *person.group_properties.values()):
        yield from properties.values()


# ---- where we are undecided on purpose, and the SDK is not


@dataclass(frozen=True)
class Case:
    """A flag for a person, the definitions that it stands in, and what we decide of the others."""

    document: Document
    flag: Flag
    person: Person
    ours: Mapping[str, Any]

    @property
    def filters(self) -> Mapping[str, Any]:
        """The configuration of the flag."""
        filters: Mapping[str, Any] = self.flag["filters"]
        return filters

    def has_filter(self, is_odd: Callable[[dict[str, Any]], bool]) -> bool:
        """Return whether the flag or one of its cohorts has such a filter."""
        return any(map(is_odd, filters_of(self.document, self.flag)))

    def dependencies(self) -> Iterator[dict[str, Any]]:
        """Yield the flags that the flag depends on."""
        for one in filters_of(self.document, self.flag):
            if one.get("type") == "flag":
                yield from (it for it in self.document["flags"] if it["key"] == one["key"])


def possible_values(case: Case) -> set[Any]:
    """Return the values that the SDK has for a flag, whatever its unresolved conditions lead to."""
    groups = case.filters["groups"]
    choices = [
        [[one]] if _is_resolved(case, one) else [[], [{**one, "properties": []}]] for one in groups
    ]
    return {_with(case, groups=list(chain(*chosen)))[0] for chosen in product(*choices)}


def _is_resolved(case: Case, condition: Mapping[str, Any]) -> bool:
    everyone = {**condition, "rollout_percentage": None}
    return isinstance(_with(case, groups=[everyone], holdout=None), tuple)


def _with(case: Case, **filters: Any) -> Any:
    """Return the SDK's outcome with other filters, where what we decide is given."""
    flags = {one["key"]: one for one in case.document["flags"]}
    for key, outcome in case.ours.items():
        if not isinstance(outcome, Undecided):
            flags[key] = constant(key, outcome[0])
    key = case.flag["key"]
    flags[key] = {**case.flag, "filters": {**case.filters, **filters}}
    document = {**case.document, "flags": list(flags.values())}
    return sdk_outcomes(document, case.person).get(key)


def constant(key: str, value: bool | str) -> dict[str, Any]:
    """Return a flag that has one value for all."""
    if not isinstance(value, str):
        return flag(key, {"groups": [{}] if value else []})
    variants = [{"key": value, "rollout_percentage": 100}]
    return flag(key, {"groups": [{"variant": value}], "multivariate": {"variants": variants}})


def has_plain_text(value: object) -> bool:
    """Return whether a property has one text in all dialects of regular expressions."""
    return value.isascii() if isinstance(value, str) else isinstance(value, bool | int)


@dataclass(frozen=True)
class Class:
    """A class of flags that only PostHog can decide, though the SDK decides them."""

    applies: Callable[[Case], bool]
    reason: UndecidedReason
    witness: dict[str, Any]
    """A document; the flag that shows the class is its last one."""
    sdk: bool | str
    """What the SDK decides for the witness."""
    person: Person = NOBODY
    is_drawn: bool = True
    """Whether random documents have it."""

    def explains(self, ours: Undecided, case: Case) -> bool:
        """Return whether a flag is undecided because it is in the class."""
        is_inherited = self.reason is UndecidedReason.DEPENDENCY
        return (is_inherited or self.reason is ours.reason) and self.applies(case)


def document(*flags: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"flags": flags, "cohorts": {}, "group_type_mapping": GROUP_TYPES, **more}


def by(operator: str, value: Any, **more: Any) -> dict[str, Any]:
    return {"key": "plan", "type": "person", "operator": operator, "value": value, **more}


def in_company(filters: dict[str, Any]) -> dict[str, Any]:
    return {**filters, "aggregation_group_type_index": 0}


PRO = Person(properties={"plan": "pro"})
EVERYONE = {"groups": [{"properties": [], "rollout_percentage": 100}]}


def is_of_another_type(case: Case) -> bool:
    own = case.filters.get("aggregation_group_type_index")
    for group in case.filters["groups"]:
        index = group.get("aggregation_group_type_index", own)
        for one in group["properties"]:
            type_ = one.get("type")
            if type_ == "group" and one.get("group_type_index", index) != index:
                return True
            if type_ not in (None, "flag", "cohort", "person" if index is None else "group"):
                return True
            if type_ == "cohort" and index is not None:
                return True
    return False


STRICTER = {
    "version 2 of the configuration": Class(
        lambda case: case.filters.get("version") == 2 or "default_value" in case.filters,
        UndecidedReason.CONFIG_VERSION,
        document(flag("f", {"version": 2, "rules": [], "default_value": True})),
        sdk=False,
    ),
    "a dependency on a flag about something else": Class(
        lambda case: any(kinds_of(one) != kinds_of(case.flag) for one in case.dependencies()),
        UndecidedReason.DEPENDENCY,
        document(flag("a", in_company(EVERYONE)), flag("f", where(dependency("a", expected=True)))),
        sdk=True,
    ),
    "a dependency on a flag that is not for the same runtimes": Class(
        lambda case: False,
        UndecidedReason.DEPENDENCY,
        document(
            flag("a", evaluation_runtime="server"),
            flag("f", where(dependency("a", expected=True))),
        ),
        sdk=True,
        is_drawn=False,
    ),
    "mixed targeting with a dependency": Class(
        lambda case: len(kinds_of(case.flag)) > 1 and any(True for _ in case.dependencies()),
        UndecidedReason.DEPENDENCY,
        document(
            flag("a", {"groups": [*EVERYONE["groups"], {"aggregation_group_type_index": 0}]}),
            flag(
                "f",
                {
                    "groups": [
                        *where(dependency("a", expected=True))["groups"],
                        {"aggregation_group_type_index": 0},
                    ]
                },
            ),
        ),
        sdk=True,
    ),
    "a dependency on a flag that is undecided": Class(
        lambda case: any(
            isinstance(case.ours[one["key"]], Undecided) for one in case.dependencies()
        ),
        UndecidedReason.DEPENDENCY,
        document(
            flag("a", {"version": 2}),
            flag("f", where(dependency("a", expected=False))),
        ),
        sdk=True,
    ),
    "a dependency whose expected value is no flag value": Class(
        lambda case: False,
        UndecidedReason.MALFORMED,
        document(flag("a"), flag("f", where(dependency("a", expected=1)))),
        sdk=False,
        is_drawn=False,
    ),
    "a dependency with another operator": Class(
        lambda case: False,
        UndecidedReason.MALFORMED,
        document(flag("a"), flag("f", where(dependency("a", expected=True, operator="exact")))),
        sdk=False,
        is_drawn=False,
    ),
    "a static cohort next to a filter that decides": Class(
        lambda case: case.has_filter(
            lambda one: one.get("type") == "cohort" and str(one["value"]) not in COHORTS
        ),
        UndecidedReason.STATIC_COHORT,
        document(flag("f", where(by("exact", "free"), cohort(99)))),
        sdk=False,
        person=PRO,
    ),
    "a pattern that Python cannot match as PostHog does": Class(
        lambda case: case.has_filter(lambda one: one.get("operator") in REGEX_OPERATORS),
        UndecidedReason.PATTERN,
        document(flag("f", where(by("not_regex", "(")))),
        sdk=False,
        person=PRO,
    ),
    "a pattern and a value that has no certain text, or is not ASCII": Class(
        lambda case: (
            case.has_filter(lambda one: one.get("operator") in REGEX_OPERATORS)
            and not all(map(has_plain_text, all_properties(case.person)))
        ),
        UndecidedReason.MISSING_PROPERTY,
        document(flag("f", where(by("regex", "^a")))),
        sdk=False,
        person=Person(properties={"plan": 1.5}),
    ),
    "a filter without a value": Class(
        lambda case: case.has_filter(
            lambda one: one.get("value") is None and "set" not in one["operator"]
        ),
        UndecidedReason.UNSUPPORTED,
        document(flag("f", where(by("is_not", None)))),
        sdk=True,
        person=PRO,
    ),
    "a filter that the SDK cannot use, in a condition that another filter decides": Class(
        lambda case: case.has_filter(lambda one: one.get("operator") not in ("in", "not_in")),
        UndecidedReason.UNSUPPORTED,
        document(flag("f", where(by("exact", "free"), by("gt", "x")))),
        sdk=False,
        person=PRO,
    ),
    "a version that PostHog reads differently": Class(
        lambda case: case.has_filter(
            lambda one: (
                one.get("operator") in SEMVER_OPERATORS and not VERSION.fullmatch(str(one["value"]))
            )
        ),
        UndecidedReason.UNSUPPORTED,
        document(flag("f", where(by("semver_gte", "1.2.0-beta.1")))),
        sdk=True,
        person=Person(properties={"plan": "1.2.0"}),
    ),
    "a version of a person that PostHog reads differently": Class(
        lambda case: (
            case.has_filter(lambda one: one.get("operator") in SEMVER_OPERATORS)
            and not all(VERSION.fullmatch(str(one)) for one in all_properties(case.person))
        ),
        UndecidedReason.MISSING_PROPERTY,
        document(flag("f", where(by("semver_gte", "1.2.0")))),
        sdk=True,
        person=Person(properties={"plan": "1.2.0-beta.1"}),
    ),
    "a date that PostHog reads differently": Class(
        lambda case: case.has_filter(lambda one: one.get("operator") in DATE_OPERATORS),
        UndecidedReason.UNSUPPORTED,
        document(flag("f", where(by("is_date_after", "2024")))),
        sdk=True,
        person=Person(properties={"plan": "2031-01-01"}),
    ),
    "a date of a person that PostHog reads differently": Class(
        lambda case: case.has_filter(lambda one: one.get("operator") in DATE_OPERATORS),
        UndecidedReason.MISSING_PROPERTY,
        document(flag("f", where(by("is_date_after", "2024-01-01")))),
        sdk=True,
        person=Person(properties={"plan": "20310101"}),
    ),
    "a date that the project's time zone decides": Class(
        lambda case: case.has_filter(lambda one: one.get("operator") in DATE_OPERATORS),
        UndecidedReason.UNSUPPORTED,
        document(flag("f", where(by("is_date_after", "2024-06-01")))),
        sdk=True,
        person=Person(properties={"plan": "2024-06-01T03:00:00Z"}),
    ),
    "a filter of a type that does not go with the condition": Class(
        is_of_another_type,
        UndecidedReason.UNSUPPORTED,
        document(flag("f", in_company(where(by("exact", "pro"))))),
        sdk=True,
        person=Person(groups={"company": "x"}, group_properties={"company": {"plan": "pro"}}),
    ),
    "a negated filter": Class(
        lambda case: False,
        UndecidedReason.UNSUPPORTED,
        document(flag("f", where(by("exact", "pro", negation=True)))),
        sdk=True,
        person=PRO,
        is_drawn=False,
    ),
    "a negated group in a cohort": Class(
        lambda case: False,
        UndecidedReason.UNSUPPORTED,
        document(
            flag("f", where(cohort(1))),
            cohorts={"1": {"type": "AND", "values": [{"type": "OR", "values": [], "negation": 1}]}},
        ),
        sdk=True,
        is_drawn=False,
    ),
    "a cohort by what people did": Class(
        lambda case: False,
        UndecidedReason.UNSUPPORTED,
        document(
            flag("f", where(cohort(1))),
            cohorts={"1": {"type": "OR", "values": [by("exact", "pro", type="behavioral")]}},
        ),
        sdk=True,
        person=PRO,
        is_drawn=False,
    ),
    "a flag about groups that has enrollment": Class(
        lambda case: (
            case.filters.get("feature_enrollment") is True
            and case.filters["aggregation_group_type_index"] is not None
        ),
        UndecidedReason.UNSUPPORTED,
        document(flag("f", in_company({**EVERYONE, "feature_enrollment": True}))),
        sdk=False,
    ),
    "enrollment of the older format": Class(
        lambda case: False,
        UndecidedReason.UNSUPPORTED,
        document(flag("f", {**EVERYONE, "super_groups": [where(by("exact", "pro"))["groups"][0]]})),
        sdk=True,
        is_drawn=False,
    ),
    "holdouts of the older format": Class(
        lambda case: False,
        UndecidedReason.UNSUPPORTED,
        document(flag("f", {**EVERYONE, "holdout_groups": [{"rollout_percentage": 10}]})),
        sdk=True,
        is_drawn=False,
    ),
    "a flag that is bucketed by something unknown": Class(
        lambda case: False,
        UndecidedReason.UNSUPPORTED,
        document(flag("f", bucketing_identifier="session_id")),
        sdk=True,
        is_drawn=False,
    ),
    "a condition about a group type without a name": Class(
        lambda case: False,
        UndecidedReason.UNSUPPORTED,
        document(flag("f", {"groups": [{"aggregation_group_type_index": 4}]})),
        sdk=False,
        is_drawn=False,
    ),
    "an unknown way to compare properties": Class(
        lambda case: False,
        UndecidedReason.UNSUPPORTED,
        document(flag("f", where(by("exact", "pro"))), property_matching_version=3),
        sdk=True,
        person=PRO,
        is_drawn=False,
    ),
    "a definition that is malformed": Class(
        lambda case: False,
        UndecidedReason.MALFORMED,
        document(flag("f", {**EVERYONE, "early_exit": "yes"})),
        sdk=True,
        is_drawn=False,
    ),
    "a definition without condition sets": Class(
        lambda case: False,
        UndecidedReason.MALFORMED,
        document(flag("f", {})),
        sdk=False,
        is_drawn=False,
    ),
    "an undecided condition that may give another value than the one that matches": Class(
        lambda case: len(possible_values(case)) > 1,
        UndecidedReason.MISSING_PROPERTY,
        document(
            flag(
                "f",
                {
                    "groups": [
                        {**where(by("exact", "pro"))["groups"][0], "variant": "a"},
                        {"properties": [], "variant": "b"},
                    ],
                    "multivariate": {
                        "variants": [
                            {"key": "a", "rollout_percentage": 50},
                            {"key": "b", "rollout_percentage": 50},
                        ]
                    },
                },
            )
        ),
        sdk="b",
    ),
}


@pytest.mark.parametrize("one", STRICTER.values(), ids=STRICTER.keys())
def test_stricter_than_the_sdk(one: Class) -> None:
    """What the SDK may decide wrongly is undecided, with the reason."""
    key = one.witness["flags"][-1]["key"]

    value, _ = sdk_outcomes(one.witness, one.person)[key]
    ours = outcomes(one.witness, one.person)[key]

    assert value == one.sdk
    assert isinstance(ours, Undecided)
    assert ours.reason is one.reason


# ---- random documents


def compare(seed: int) -> Iterator[str]:
    """Compare all flags of a random document, and yield what kind of outcome each has."""
    draw = Draw(seed)
    document, person = draw.document(), draw.person()
    ours = outcomes(document, person)
    person = replace(person, distinct_id=person.distinct_id[:200])  # as PostHog does it
    theirs = sdk_outcomes(document, person)
    for one in document["flags"]:
        case = Case(document, one, person, ours)
        yield from compare_flag(case, ours[one["key"]], theirs.get(one["key"]))


def compare_flag(case: Case, ours: Any, theirs: Any) -> Iterator[str]:
    match ours, theirs:
        case Undecided(), (_, _):
            classes = [name for name, one in STRICTER.items() if one.explains(ours, case)]
            assert classes, f"the SDK decides {theirs}, we are undecided: {ours}"
            yield from classes
        case Undecided(), _:
            yield f"undecided: {ours.reason}"
        case (value, payload), (their_value, their_payload):
            assert value == their_value
            assert type(value) is type(their_value)
            if value:
                raw = payload_of(case.flag, value)
                assert payload == (their_payload if is_json(raw) else raw)
            yield f"decided: {value}"
        case (value, _), None:
            yield "the SDK raises"
        case (value, _), _:
            assert possible_values(case) == {value}
            yield "decided, and unresolved by the SDK"


def payload_of(flag: Flag, value: bool | str) -> Any:
    return flag["filters"]["payloads"].get("true" if value is True else value)


def is_json(payload: Any) -> bool:
    try:
        return not isinstance(payload, str) or json.loads(payload) == json.loads(payload)
    except ValueError:
        return False


@SOME
@given(seeds)
def test_agreement(seed: int) -> None:
    """Where both decide, we agree with the SDK; other differences are in a class of their own."""
    for _ in compare(seed):
        pass


def test_random_documents_have_every_outcome() -> None:
    """The documents that are compared lead to each kind of outcome, and often enough."""
    found = Counter(kind for seed in range(350) for kind in compare(seed))

    assert found["decided: True"] > 100
    assert found["decided: False"] > 100
    for kind in ("decided: a", "decided: b", "decided: c", "decided: holdout-7"):
        assert found[kind] > 5, kind
    assert found["decided, and unresolved by the SDK"] > 20
    for reason in set(UndecidedReason) - {UndecidedReason.MALFORMED}:
        assert found[f"undecided: {reason}"] > 5, reason
    for name, one in STRICTER.items():
        assert found[name] > 0 or not one.is_drawn, name


# ---- where we decide, and the SDK does not or differently


def test_excluded_by_every_rollout() -> None:
    """A person whom all rollouts exclude needs no property, unlike with the SDK."""
    nobody = {"groups": [{**where(by("exact", "pro"))["groups"][0], "rollout_percentage": 0}]}
    definitions = document(flag("f", nobody))

    assert outcomes(definitions, NOBODY) == {"f": (False, None)}
    assert not isinstance(sdk_outcomes(definitions, NOBODY)["f"], tuple)


def test_undecided_condition_that_changes_nothing() -> None:
    """An undecided condition does not matter if it gives the same value as the one that matches."""
    definitions = document(flag("f", {"groups": [*where(by("exact", "pro"))["groups"], {}]}))

    assert outcomes(definitions, NOBODY) == {"f": (True, None)}


def test_long_distinct_ids() -> None:
    """Distinct ids are cut to 200 characters before they are hashed or compared."""
    half = flag("half", {"groups": [{"rollout_percentage": 50}]})
    same = flag("same", where({**by("exact", "ü" * 200), "key": "distinct_id"}))
    definitions = document(half, same)

    for number in range(20):
        start = f"{number:02}".ljust(200, "ü")
        cut, long = (outcomes(definitions, Person(one)) for one in (start, start + "more"))
        assert cut == long
    assert outcomes(definitions, Person("ü" * 300))["same"] == (True, None)


@pytest.mark.parametrize("key", ["", None, False, True, [], {}])
def test_group_without_a_key(key: Any) -> None:
    """PostHog has no group for a key that is empty, or neither text nor a number."""
    definitions = document(
        flag("group", in_company(EVERYONE)),
        flag("mixed", {"groups": [{"aggregation_group_type_index": 0}]}),
    )

    found = outcomes(definitions, Person(groups={"company": key}))

    assert found == {"group": (False, None), "mixed": (False, None)}


@pytest.mark.parametrize(
    ("raw", "payload"),
    [
        ('{"a": 1}', {"a": 1}),
        ('"text"', "text"),
        ("not JSON", "not JSON"),
        ("NaN", "NaN"),
        ("", ""),
        ({"a": 1}, {"a": 1}),
        (7, 7),
        ("null", None),
        (None, None),
    ],
)
def test_payload(raw: Any, payload: Any) -> None:
    """A payload is decoded from JSON text; other text, which the SDK drops, is the payload."""
    definitions = document(flag("f", {**EVERYONE, "payloads": {"true": raw}}))

    assert outcomes(definitions, NOBODY) == {"f": (True, payload)}


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("2024-05-31T09:00:00Z", False),
        ("2024-05-31T11:00:00Z", None),
        ("2024-06-01T13:00:00Z", None),
        ("2024-06-01T15:00:00Z", True),
        ("2024-06-01T00:00:00.5", True),
        ("2024-06-01 00:00", False),
        ("2024-06-31", None),
        ("20240602", None),
        ("9999-12-31T23:00:00Z", None),
        (20240602, None),
    ],
)
def test_date_without_an_offset(value: Any, found: bool | None) -> None:
    """Such a date may be up to 14 hours earlier or later than one with an offset."""
    definitions = document(flag("f", where(by("is_date_after", "2024-06-01"))))

    outcome = outcomes(definitions, Person(properties={"plan": value}))["f"]

    assert (None if isinstance(outcome, Undecided) else outcome[0]) is found


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("1.2", True),
        ("v1.2.3", True),
        (1.2, True),
        (2, True),
        ("1.1.9", False),
        ("1.02", None),
        ("V1.2", None),
        ("1.2.3-beta", None),
        ("1.2.3.4", None),
        (" 1.2", None),
        ("1.2.", None),
        (None, None),
        (True, None),
    ],
)
def test_versions(value: Any, found: bool | None) -> None:
    """Versions are compared if they are of one to three numbers, which all read alike."""
    definitions = document(flag("f", where(by("semver_gte", "1.2.0"))))

    outcome = outcomes(definitions, Person(properties={"plan": value}))["f"]

    assert (None if isinstance(outcome, Undecided) else outcome[0]) is found
