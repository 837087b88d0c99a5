"""What definitions can decide as PostHog does, and what is undecided instead, with the reason."""

from __future__ import annotations

import json
from typing import Any

import pytest

from olposthog._local import LocalEvaluation, LocalEvaluator, parse
from olposthog.identity import Identity
from olposthog.snapshot import Runtime
from olposthog.undecided import FIXES, UndecidedReason
from tests.test_definitions import EVERYONE, cohort, flag, where

PLAN = {"key": "plan", "type": "person", "value": ["pro"], "operator": "exact"}
SIZE = {"key": "size", "type": "group", "group_type_index": 0, "value": 5, "operator": "gt"}
GROUP_TYPES = {"0": "company", "1": "team"}
GROUPS = {"company": "acme", "team": "red"}
RULES = [{"rule_type": "targeted_release", "targeting": {"properties": []}, "value": True}]


def pattern(text: object) -> dict[str, Any]:
    return where({"key": "email", "type": "person", "operator": "regex", "value": text})


def about(index: int | None, **more: object) -> dict[str, Any]:
    return {**EVERYONE, "aggregation_group_type_index": index, **more}


def mixed() -> dict[str, Any]:
    condition = {"properties": [], "rollout_percentage": 100, "aggregation_group_type_index": 0}
    return {"aggregation_group_type_index": None, "groups": [condition]}


def depends_on(key: str, value: object = True, **more: object) -> dict[str, Any]:
    return where(
        {
            "key": key,
            "type": "flag",
            "operator": "flag_evaluates_to",
            "value": value,
            "dependency_chain": [key],
            **more,
        }
    )


def evaluation(
    *flags: dict[str, Any],
    distinct_id: str = "ada",
    properties: dict[str, Any] | None = None,
    groups: dict[str, str | int] | None = None,
    device_id: str | None = None,
    **more: object,
) -> LocalEvaluation:
    document = {"flags": flags, "group_type_mapping": GROUP_TYPES, **more}
    evaluator = LocalEvaluator(parse(json.dumps(document), "here"))
    identity = Identity(distinct_id, groups=groups, device_id=device_id)
    return evaluator.evaluate(identity, properties or {}, Runtime.SERVER)


def outcomes(found: LocalEvaluation) -> dict[str, Any]:
    """The value of each flag, or the reason why it has none."""
    values = {key: one.value for key, one in found.decisions.items()}
    return {**values, **{key: one.reason for key, one in found.undecided.items()}}


ON = flag("base")
UNDECIDED = {
    "config version 2": (
        [
            flag(
                "x",
                {"version": 2, "return_type": "boolean", "default_value": False, "rules": RULES},
            )
        ],
        UndecidedReason.CONFIG_VERSION,
    ),
    "version 2 with the names of version 1": (
        [flag("x", {"version": 2, "groups": {"a": 1}, "payloads": [1], "rules": RULES})],
        UndecidedReason.CONFIG_VERSION,
    ),
    "fields of version 2 in version 1": (
        [flag("x", {**EVERYONE, "version": 1, "rules": RULES})],
        UndecidedReason.CONFIG_VERSION,
    ),
    "config version 3": ([flag("x", {**EVERYONE, "version": 3})], UndecidedReason.CONFIG_VERSION),
    "experience continuity": (
        [flag("x", ensure_experience_continuity=True)],
        UndecidedReason.EXPERIENCE_CONTINUITY,
    ),
    "static cohort": ([flag("x", where(cohort(99)))], UndecidedReason.STATIC_COHORT),
    "pattern that is no pattern": ([flag("x", pattern("("))], UndecidedReason.PATTERN),
    "pattern of another dialect": ([flag("x", pattern(r"\p{L}"))], UndecidedReason.PATTERN),
    "pattern that is a number": ([flag("x", pattern(5))], UndecidedReason.PATTERN),
    "unknown operator": (
        [flag("x", where({**PLAN, "operator": "of tomorrow"}))],
        UndecidedReason.UNSUPPORTED,
    ),
    "unknown filter type": (
        [flag("x", where({**PLAN, "type": "behavioral"}))],
        UndecidedReason.UNSUPPORTED,
    ),
    "negated filter": ([flag("x", where({**PLAN, "negation": True}))], UndecidedReason.UNSUPPORTED),
    "group property in a condition about people": (
        [flag("x", where(SIZE))],
        UndecidedReason.UNSUPPORTED,
    ),
    "person property in a condition about groups": (
        [flag("x", {**where(PLAN), "aggregation_group_type_index": 0})],
        UndecidedReason.UNSUPPORTED,
    ),
    "cohort in a condition about groups": (
        [flag("x", {**where(cohort(1)), "aggregation_group_type_index": 0})],
        UndecidedReason.UNSUPPORTED,
    ),
    "unknown group type": ([flag("x", about(7))], UndecidedReason.UNSUPPORTED),
    "bucketed by device, no device id": (
        [flag("x", bucketing_identifier="device_id")],
        UndecidedReason.MISSING_DEVICE_ID,
    ),
    "property that was not passed": ([flag("x", where(PLAN))], UndecidedReason.MISSING_PROPERTY),
    "person flag on a company flag": (
        [flag("base", about(0)), flag("x", depends_on("base"))],
        UndecidedReason.DEPENDENCY,
    ),
    "company flag on a person flag": (
        [ON, flag("x", {**depends_on("base"), "aggregation_group_type_index": 0})],
        UndecidedReason.DEPENDENCY,
    ),
    "team flag on a company flag": (
        [
            flag("base", about(0)),
            flag("x", {**depends_on("base"), "aggregation_group_type_index": 1}),
        ],
        UndecidedReason.DEPENDENCY,
    ),
    "person flag on a flag with mixed targeting": (
        [flag("base", mixed()), flag("x", depends_on("base"))],
        UndecidedReason.DEPENDENCY,
    ),
    "flag with mixed targeting on a person flag": (
        [ON, flag("x", {"groups": [*mixed()["groups"], *depends_on("base")["groups"]]})],
        UndecidedReason.DEPENDENCY,
    ),
    "dependency that is undecided": (
        [flag("base", where(cohort(99))), flag("x", depends_on("base"))],
        UndecidedReason.DEPENDENCY,
    ),
    "dependency of a dependency": (
        [
            flag("base", about(0)),
            flag("middle", depends_on("base")),
            flag("x", depends_on("middle", dependency_chain=["base", "middle"])),
        ],
        UndecidedReason.DEPENDENCY,
    ),
    "dependency that lacks a property": (
        [flag("base", where(PLAN)), flag("x", depends_on("base"))],
        UndecidedReason.MISSING_PROPERTY,
    ),
    "dependency on itself": ([flag("x", depends_on("x"))], UndecidedReason.DEPENDENCY),
    "dependency in a circle": (
        [flag("base", depends_on("x")), flag("x", depends_on("base"))],
        UndecidedReason.DEPENDENCY,
    ),
    "dependency without a chain": (
        [ON, flag("x", depends_on("base", dependency_chain=[]))],
        UndecidedReason.DEPENDENCY,
    ),
    "dependency that is not defined": ([flag("x", depends_on("gone"))], UndecidedReason.DEPENDENCY),
    "dependency on a number": ([ON, flag("x", depends_on("base", 5))], UndecidedReason.MALFORMED),
}
"""Flags that are on in PostHog, as far as local evaluation can tell, and must not be off here."""


@pytest.mark.parametrize(("flags", "reason"), UNDECIDED.values(), ids=UNDECIDED.keys())
def test_what_cannot_be_decided_correctly_is_undecided(
    flags: list[dict[str, Any]], reason: UndecidedReason
) -> None:
    """A flag is never off because local evaluation does not know better."""
    found = evaluation(*flags, flag("easy"), groups=dict(GROUPS))

    assert outcomes(found)["x"] is reason
    assert outcomes(found)["easy"] is True
    assert found.undecided["x"].detail
    assert found.undecided["x"].fix == FIXES[reason]


def test_each_reason_has_a_fix() -> None:
    """An operator reads what would help, whatever the reason."""
    assert FIXES.keys() == set(UndecidedReason)


@pytest.mark.parametrize(
    ("base", "expected", "value"),
    [
        (flag("base"), True, True),
        (flag("base"), False, False),
        (flag("base", active=False), False, True),
        (flag("base", active=False), True, False),
        (flag("base", about(0), active=False), False, True),
        (flag("base", {"groups": []}), False, True),
        (
            flag(
                "base",
                {
                    **EVERYONE,
                    "multivariate": {"variants": [{"key": "b", "rollout_percentage": 100}]},
                },
            ),
            "b",
            True,
        ),
    ],
)
def test_dependency_within_an_aggregation_is_decided(
    base: dict[str, Any], expected: object, value: bool
) -> None:
    """A person flag on a person flag needs no request."""
    found = evaluation(base, flag("x", depends_on("base", expected)))

    assert outcomes(found)["x"] is value


def test_dependency_among_company_flags_is_decided() -> None:
    """A company flag on a company flag is evaluated for the company, with its properties."""
    flags = [
        flag("base", {**where(SIZE), "aggregation_group_type_index": 0}),
        flag("x", {**depends_on("base"), "aggregation_group_type_index": 0}),
    ]
    document = json.dumps({"flags": flags, "group_type_mapping": GROUP_TYPES})
    evaluator = LocalEvaluator(parse(document, "here"))

    for size, value in ((9, True), (1, False)):
        acme = Identity("ada", None, {"company": "acme"}, {"company": {"size": size}})
        assert outcomes(evaluator.evaluate(acme, {}, Runtime.SERVER))["x"] is value
    nobody = evaluator.evaluate(Identity("ada"), {}, Runtime.SERVER)
    assert outcomes(nobody) == {"base": False, "x": False}


def test_condition_that_may_lead_elsewhere_is_undecided() -> None:
    """A match counts only if the undecided conditions before it could not change the value."""
    variants = {
        "variants": [{"key": "a", "rollout_percentage": 100}, {"key": "b", "rollout_percentage": 0}]
    }
    first, second = where(PLAN)["groups"][0], EVERYONE["groups"][0]
    override = flag("x", {"groups": [{**first, "variant": "b"}, second], "multivariate": variants})
    same = flag("y", {"groups": [first, second], "multivariate": variants})
    excluded = {**first, "rollout_percentage": 0}
    early = flag("z", {"groups": [excluded, second], "early_exit": True})

    assert outcomes(evaluation(override, same, early)) == {
        "x": UndecidedReason.MISSING_PROPERTY,
        "y": "a",
        "z": UndecidedReason.MISSING_PROPERTY,
    }
    assert outcomes(evaluation(override, same, early, properties={"plan": "pro"})) == {
        "x": "b",
        "y": "a",
        "z": False,
    }


def test_device_bucketing_uses_the_device_id_that_is_passed() -> None:
    """The same device has the same value, whoever uses it."""
    half = {"groups": [{"properties": [], "rollout_percentage": 50}]}
    by_device = flag("x", half, bucketing_identifier="device_id")
    by_filters = flag("x", {**half, "bucketing_identifier": "device_id"})

    for definition in (by_device, by_filters):
        values = [
            {
                outcomes(evaluation(definition, distinct_id=who, device_id=device))["x"]
                for who in "ab"
            }
            for device in map(str, range(20))
        ]
        assert all(len(each) == 1 for each in values)
        assert len(set.union(*values)) == 2


def test_payload_text_that_is_no_json_is_that_text() -> None:
    """Local payloads are decoded as remote ones are."""
    payloads = ["{not json", "", '"text"', "[1]", "null", '{"a": 1}', "NaN"]
    flags = [
        flag(f"p{number}", {**EVERYONE, "payloads": {"true": payload}})
        for number, payload in enumerate(payloads)
    ]

    decisions = evaluation(*flags).decisions.values()

    assert [one.payload for one in decisions] == [
        "{not json",
        "",
        "text",
        [1],
        None,
        {"a": 1},
        "NaN",
    ]


@pytest.mark.parametrize("count", [10, 2000])
def test_chain_of_flags_is_bounded(count: int) -> None:
    """A short chain is decided; one that is too deep is undecided, in a bounded time and stack."""
    chain = [flag("f0")] + [flag(f"f{n}", depends_on(f"f{n - 1}")) for n in range(1, count)]
    found = outcomes(evaluation(*chain))

    assert found["f9"] is True
    assert found[f"f{count - 1}"] in (True, UndecidedReason.DEPENDENCY)
    assert (found[f"f{count - 1}"] is True) is (count == 10)


def test_cohorts_that_name_the_next_twice_are_evaluated_once() -> None:
    """Work grows with the definitions, not with the paths through them."""
    levels = 40
    pro = {"key": "plan", "type": "person", "value": "pro", "operator": "exact"}
    cohorts = {
        str(level): {"type": "AND", "values": [cohort(level + 1), cohort(level + 1)]}
        for level in range(levels)
    } | {str(levels): {"type": "OR", "values": [pro]}}

    found = evaluation(flag("x", where(cohort(0))), cohorts=cohorts, properties={"plan": "pro"})

    assert outcomes(found)["x"] is True


@pytest.mark.parametrize(
    ("cohorts", "reason"),
    [
        ({"1": {"type": "OR", "values": [cohort(1)]}}, UndecidedReason.UNSUPPORTED),
        (
            {
                "1": {"type": "OR", "values": [cohort(2)]},
                "2": {"type": "OR", "values": [cohort(1)]},
            },
            UndecidedReason.UNSUPPORTED,
        ),
        ({"1": {"type": "OR", "values": [cohort(2)]}}, UndecidedReason.STATIC_COHORT),
        ({"1": {"type": "XOR", "values": []}}, UndecidedReason.MALFORMED),
        ({"1": {"type": "OR", "values": None}}, UndecidedReason.MALFORMED),
        ({"1": {"type": "OR", "values": [5]}}, UndecidedReason.MALFORMED),
        ({"1": None}, UndecidedReason.MALFORMED),
        ({"1": {"type": "OR", "values": [{**PLAN, "type": "event"}]}}, UndecidedReason.UNSUPPORTED),
        ({"1": {"type": "OR", "values": [{**PLAN, "key": None}]}}, UndecidedReason.MALFORMED),
    ],
)
def test_cohort_that_cannot_be_decided(cohorts: dict[str, Any], reason: UndecidedReason) -> None:
    """A cohort that is circular, static within, or malformed costs only the flags that need it."""
    found = outcomes(evaluation(flag("x", where(cohort(1))), flag("easy"), cohorts=cohorts))

    assert found == {"x": reason, "easy": True}


@pytest.mark.parametrize("levels", [30, 400])
def test_nested_property_groups_are_bounded(levels: int) -> None:
    """A cohort may be nested, up to a depth."""
    group: dict[str, Any] = {"type": "OR", "values": [PLAN]}
    for _ in range(levels):
        group = {"type": "AND", "values": [group]}

    found = evaluation(
        flag("x", where(cohort(1))), cohorts={"1": group}, properties={"plan": "pro"}
    )

    assert outcomes(found)["x"] is (True if levels == 30 else UndecidedReason.UNSUPPORTED)


def test_sdk_logs_nothing_about_definitions(caplog: pytest.LogCaptureFixture) -> None:
    """However many versions have flags that the SDK would warn of, no line is its own."""
    hard = [
        flag("sticky", ensure_experience_continuity=True),
        flag("static", where(cohort(99))),
        flag("group", about(9)),
    ]
    for version in range(5):
        found = evaluation(*hard, flag("plain", version=version), flag("company", about(0)))
        assert len(found.undecided) == 3

    assert [record for record in caplog.records if record.name.startswith("posthog")] == []
