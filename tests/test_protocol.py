"""Every way in which PostHog writes its decisions, and every reply that holds none."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from olposthog._evaluation.decision import Decision
from olposthog._evaluation.evaluation import Evaluation
from olposthog._posthog.errors import PostHogError
from olposthog._posthog.responses import parse
from olposthog._utils.portable_json import MAX_LEVELS, decoded

NOW = 1_700_000_000.5
RULE = "7f1c2d3e-0a4b-4c5d-8e6f-112233445566"
ENVELOPE = {"errorsWhileComputingFlags": False, "requestId": "r-1", "evaluatedAt": 1}


def reply(flags: object, **envelope: object) -> bytes:
    """A reply of PostHog's, with these flags."""
    return json.dumps({**ENVELOPE, "flags": flags, **envelope}).encode()


def read(record: dict[str, Any]) -> Decision:
    """The decision in a reply with this one record."""
    return parse(reply({"x": {"key": "x", **record}}), NOW).decisions["x"]


def typed_record(**changes: object) -> dict[str, Any]:
    """A record of protocol version 4 with every known field; `metadata__id=3` changes one."""
    return changed(
        {
            "key": "x",
            "value": "test",
            "failed": False,
            "reason": {"code": "experiment_split", "condition_index": 0, "description": "Split"},
            "metadata": {
                "id": 7,
                "version": 3,
                "description": "Checkout",
                "payload": None,
                "has_experiment": True,
                "config_version": 2,
                "rule_type": "experiment",
                "rule_id": RULE,
                "variant_key": "arm-b",
                "forced_variant": False,
                "experiment_id": 5,
            },
        },
        changes,
    )


def old_record(**changes: object) -> dict[str, Any]:
    """A record from before `value`, with every known field."""
    return changed(
        {
            "key": "x",
            "enabled": True,
            "variant": "test",
            "failed": False,
            "reason": {"code": "condition_match", "condition_index": 0, "description": "Set 1"},
            "metadata": {
                "id": 7,
                "version": 3,
                "description": "Checkout",
                "payload": None,
                "has_experiment": True,
            },
        },
        changes,
    )


def changed(record: dict[str, Any], changes: dict[str, object]) -> dict[str, Any]:
    for path, value in changes.items():
        *parents, name = path.split("__")
        place = record
        for parent in parents:
            place = place[parent]
        place[name] = value
    return record


def test_envelope_is_read() -> None:
    """An evaluation knows PostHog's request id and when, by our own clock, it was made."""
    evaluation = parse(reply({}), NOW)

    assert evaluation == Evaluation(decisions={}, evaluated_at=NOW, request_id="r-1")


def test_zero_flags_are_an_answer() -> None:
    """A project without flags is an answer, not a failure."""
    assert parse(reply({}), NOW).decisions == {}


@pytest.mark.parametrize(
    ("value", "expected"),
    [(True, True), (False, False), ("test", "test"), ("", "")],
)
def test_version_4_value(value: object, expected: object) -> None:
    """In version 4 a boolean is on or off and text is a variant."""
    assert read({"value": value}).value == expected
    assert type(read({"value": value}).value) is type(expected)


@pytest.mark.parametrize("value", [42, 0, 1, -1.5, {"layout": "compact"}, {}])
def test_typed_value_is_on_and_its_own_payload(value: object) -> None:
    """A number or an object means on; the typed value is the payload."""
    decision = read({"value": value, "metadata": {"payload": '"other"'}})

    assert decision.value is True
    assert decision.payload == value


@pytest.mark.parametrize("value", [None, [], ["a"]])
def test_null_and_arrays_are_no_decision(value: object) -> None:
    """A null value or an array is not off: the flag has no decision, and its key is in `failed`."""
    evaluation = parse(reply({"x": {"value": value}, "sound": {"value": False}}), NOW)

    assert list(evaluation.decisions) == ["sound"]
    assert evaluation.failed == ("x",)


def test_null_values_are_no_failure() -> None:
    """PostHog computed a null value, so a reply with nothing else is an evaluation."""
    flags = {"company": {"value": None}, "bad": {"value": None, "failed": True}}

    evaluation = parse(reply(flags, errorsWhileComputingFlags=True), NOW)

    assert evaluation == Evaluation({}, NOW, "r-1", failed=("company", "bad"))


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"enabled": True, "variant": None}, True),
        ({"enabled": True, "variant": "test"}, "test"),
        ({"enabled": False, "variant": None}, False),
        ({"enabled": False, "variant": "test"}, False),
        ({"enabled": True}, True),
        ({"enabled": True, "variant": ""}, ""),
        ({"variant": "test"}, "test"),
    ],
)
def test_version_2_record(record: dict[str, Any], expected: object) -> None:
    """In version 2 a flag is on or off, and perhaps has a variant."""
    assert read(record).value == expected
    assert type(read(record).value) is type(expected)


@pytest.mark.parametrize("record", [{}, {"enabled": None}, {"enabled": None, "variant": None}])
def test_version_2_record_without_a_value_is_no_decision(record: dict[str, Any]) -> None:
    """A record that tells neither on, off nor a variant gives no decision."""
    assert parse(reply({"x": record}), NOW) == Evaluation({}, NOW, "r-1", failed=("x",))


def test_record_says_why_and_which() -> None:
    """Reason, description, id and version are read from either version's record."""
    reason = {"code": "condition_match", "condition_index": 0, "description": "Matched set 1"}
    metadata = {"id": 7, "version": 3, "payload": '{"colour": "blue"}'}
    expected: dict[str, Any] = {
        "payload": {"colour": "blue"},
        "reason": "condition_match",
        "description": "Matched set 1",
        "id": 7,
        "version": 3,
    }

    assert read({"value": "a", "reason": reason, "metadata": metadata}) == Decision("a", **expected)
    assert read(
        {"enabled": True, "variant": "a", "reason": reason, "metadata": metadata}
    ) == Decision("a", **expected)


def test_rule_and_experiment_are_read() -> None:
    """A version 4 record names the rule, the arm, and whether an experiment uses the flag."""
    assert read(typed_record()) == Decision(
        "test",
        reason="experiment_split",
        description="Split",
        id=7,
        version=3,
        config_version=2,
        rule_type="experiment",
        rule_id=RULE,
        variant_key="arm-b",
        has_experiment=True,
    )


def test_older_records_have_no_rule() -> None:
    """A record without `value` is of config version 1, whatever its metadata claim."""
    claims = typed_record()["metadata"]

    assert read(old_record(metadata=claims)) == Decision(
        "test",
        reason="condition_match",
        description="Set 1",
        id=7,
        version=3,
        has_experiment=True,
    )


def test_value_takes_precedence() -> None:
    """`enabled` and `variant` next to a `value` are ignored, whatever they are."""
    assert read(typed_record(value=False, enabled="yes", variant=3)).value is False


@pytest.mark.parametrize(
    ("config_version", "expected"), [(1, 1), (2, 2), (2.0, 2), (3, 3), (None, 1)]
)
def test_config_version(config_version: object, expected: int) -> None:
    """A whole number is an integer however it is written; without one the version is 1."""
    found = read(typed_record(metadata__config_version=config_version)).config_version

    assert (found, type(found)) == (expected, int)


@pytest.mark.parametrize("field", ["reason", "metadata"])
@pytest.mark.parametrize("absent", [None, {}])
@pytest.mark.parametrize("record", [typed_record, old_record])
def test_absent_details_are_no_obstacle(record: Any, field: str, absent: object) -> None:
    """A record without reason or metadata keeps its value."""
    assert read(record(**{field: absent})).value == "test"


@pytest.mark.parametrize("record", [typed_record, old_record])
def test_null_fields_are_absent(record: Any) -> None:
    """A known field that is null is a field that is missing; the value is still a decision."""
    sparse = record(key=None, failed=None)
    for details in (sparse["reason"], sparse["metadata"]):
        details.update(dict.fromkeys(details))

    assert read(sparse) == Decision("test")


WRONG_TYPES: list[tuple[str, object]] = [
    ("key", 123),
    ("failed", "true"),
    ("failed", 0),
    ("reason", "targeting_match"),
    ("reason", ""),
    ("reason", []),
    ("reason__code", 3),
    ("reason__code", ["targeting_match"]),
    ("reason__condition_index", "0"),
    ("reason__condition_index", 0.5),
    ("reason__description", ["Matched"]),
    ("metadata", []),
    ("metadata", "text"),
    ("metadata", 5),
    ("metadata__id", "7"),
    ("metadata__id", True),
    ("metadata__id", 7.5),
    ("metadata__version", True),
    ("metadata__version", [3]),
    ("metadata__description", 1),
    ("metadata__has_experiment", "false"),
    ("metadata__has_experiment", 0),
]
WRONG_TYPES_OF_TYPED_RECORDS: list[tuple[str, object]] = [
    ("value", []),
    ("value", float("nan")),
    ("value", float("inf")),
    ("value", {"a": [float("-inf")]}),
    ("metadata__id", float("nan")),
    ("metadata__config_version", "2"),
    ("metadata__config_version", True),
    ("metadata__config_version", 2.5),
    ("metadata__rule_type", 2),
    ("metadata__rule_id", 3),
    ("metadata__rule_id", {}),
    ("metadata__variant_key", True),
    ("metadata__forced_variant", "yes"),
    ("metadata__experiment_id", "301"),
]
WRONG_TYPES_OF_OLD_RECORDS: list[tuple[str, object]] = [
    ("enabled", "true"),
    ("enabled", 1),
    ("enabled", []),
    ("variant", 3),
    ("variant", True),
    ("variant", {}),
]


@pytest.mark.parametrize(
    ("record", "field", "value"),
    [
        *((typed_record, *wrong) for wrong in WRONG_TYPES + WRONG_TYPES_OF_TYPED_RECORDS),
        *((old_record, *wrong) for wrong in WRONG_TYPES + WRONG_TYPES_OF_OLD_RECORDS),
    ],
)
def test_wrong_type_makes_one_record_unreadable(record: Any, field: str, value: object) -> None:
    """A known field of a wrong type costs the decision of that flag, and no other."""
    flags = {"x": record(**{field: value}), "sound": record(key="sound")}

    evaluation = parse(reply(flags), NOW)

    assert evaluation.decisions == {"sound": read(record())}
    assert evaluation.failed == ("x",)


def test_unreadable_record_is_logged_at_debug_level(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever looks for the reason finds the flag and the field in the log."""
    with caplog.at_level(logging.DEBUG, "olposthog._posthog.responses"):
        parse(reply({"x": typed_record(metadata__rule_id=3), "sound": {"value": True}}), NOW)

    assert caplog.messages == [
        "The record of flag 'x' gives no decision: rule_id has a wrong type."
    ]


@pytest.mark.parametrize("rule_id", ["rule-1", "", RULE.upper()])
def test_text_of_any_form_is_readable(rule_id: str) -> None:
    """Text that is no UUID has the right type; what an event makes of it is the event's rule."""
    assert read(typed_record(metadata__rule_id=rule_id)).rule_id == rule_id


@pytest.mark.parametrize("key", ["another", None])
def test_key_of_the_mapping_counts(key: str | None) -> None:
    """A record belongs to the flag that the reply files it under."""
    assert list(parse(reply({"x": typed_record(key=key)}), NOW).decisions) == ["x"]


@pytest.mark.parametrize("record", [typed_record, old_record])
def test_failed_record_gives_no_decision(record: Any) -> None:
    """A record that PostHog marked as failed has no value and no payload, whatever it carries."""
    flags = {"x": record(failed=True, metadata__payload="1"), "sound": {"value": True}}

    evaluation = parse(reply(flags, errorsWhileComputingFlags=True), NOW)

    assert (list(evaluation.decisions), evaluation.failed) == (["sound"], ("x",))


@pytest.mark.parametrize(
    ("asked", "expected"),
    [(True, True), (False, False), (None, False), ("true", False), (1, False)],
)
def test_request_for_minimal_events_is_read(asked: object, expected: bool) -> None:
    """Events are minimised where the reply has exactly `true`, and each decision remembers it."""
    flags = {"four": typed_record(), "two": old_record()}

    evaluation = parse(reply(flags, minimalFlagCalledEvents=asked), NOW)

    assert [one.minimal_event for one in evaluation.decisions.values()] == [expected] * 2


def test_failed_records_are_left_out() -> None:
    """A flag that PostHog could not compute has no decision in either version, and is named."""
    flags = {
        "four": {"key": "four", "value": None, "failed": True},
        "two": {"key": "two", "enabled": False, "variant": None, "failed": True},
        "sound": {"key": "sound", "value": True, "failed": False},
    }

    evaluation = parse(reply(flags, errorsWhileComputingFlags=True), NOW)

    assert list(evaluation.decisions) == ["sound"]
    assert evaluation.failed == ("four", "two")


@pytest.mark.parametrize("junk", [None, True, "on", 1, []])
def test_records_that_are_none_are_left_out(junk: object) -> None:
    """What stands in a record's place and is no record is no decision."""
    evaluation = parse(reply({"junk": junk, "x": {"value": True}}), NOW)

    assert (list(evaluation.decisions), evaluation.failed) == (["x"], ("junk",))


def legacy(values: object, payloads: object = None, **envelope: object) -> bytes:
    """A reply from before records."""
    mappings = {"featureFlags": values, "featureFlagPayloads": payloads}
    return json.dumps({**ENVELOPE, **mappings, **envelope}).encode()


def test_legacy_reply() -> None:
    """A reply of two mappings has values and payloads, and nothing else about a flag."""
    evaluation = parse(legacy({"on": True, "off": False, "mv": "a"}, {"mv": '{"n": 1}'}), NOW)

    assert evaluation == Evaluation(
        {"on": Decision(True), "off": Decision(False), "mv": Decision("a", payload={"n": 1})},
        NOW,
        "r-1",
    )


@pytest.mark.parametrize("value", [None, 0, 1, 1.5, [], {}, {"a": 1}])
def test_legacy_value_of_a_wrong_type_is_no_decision(value: object) -> None:
    """Legacy values are on, off or a variant; anything else costs the decision of that flag."""
    evaluation = parse(legacy({"x": value, "sound": True}), NOW)

    assert (evaluation.decisions, evaluation.failed) == ({"sound": Decision(True)}, ("x",))


def test_records_take_precedence_over_legacy_mappings() -> None:
    """A failed record stays failed where the legacy mappings next to it have a value."""
    flags = {"bad": {"value": None, "failed": True}, "x": {"value": True}}
    mirror: dict[str, Any] = {"featureFlags": {"bad": "a"}, "featureFlagPayloads": {"bad": "1"}}

    assert parse(reply(flags, **mirror), NOW).decisions == {"x": Decision(True)}


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (None, None),
        ('{"a": [1, 2.5, null, true]}', {"a": [1, 2.5, None, True]}),
        ("[]", []),
        ('"text"', "text"),
        ("42", 42),
        ("false", False),
        ("null", None),
        ("plain text", "plain text"),
        ("", ""),
        ("{broken", "{broken"),
        ("NaN", "NaN"),
        ("[Infinity]", "[Infinity]"),
        ("-Infinity", "-Infinity"),
        ({"already": "decoded"}, {"already": "decoded"}),
    ],
)
def test_payload_is_decoded(payload: object, expected: object) -> None:
    """A payload is JSON text; other text is the payload itself, also what only Python reads."""
    assert decoded(payload) == expected
    assert read({"value": True, "metadata": {"payload": payload}}).payload == expected


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "a reply that is not JSON"),
        (b"   ", "a reply that is not JSON"),
        (b"<!doctype html><p>Sign in", "a reply that is not JSON"),
        (b'{"flags": {', "a reply that is not JSON"),
        (b"\xff\xfe\x00\x01", "a reply that is not JSON"),
        (b"[" * 200_000, "a reply that is not JSON"),
        (b"[]", "a reply that is not flags"),
        (b"{}", "a reply that is not flags"),
        (b"null", "a reply that is not flags"),
        (b'"flags"', "a reply that is not flags"),
        (b"42", "a reply that is not flags"),
        (b'{"flags": {}}', "a reply that is not flags"),
        (b'{"flags": {}, "requestId": null}', "a reply that is not flags"),
        (b'{"requestId": "r"}', "a reply that is not flags"),
        (b'{"requestId": "r", "flags": []}', "a reply that is not flags"),
        (b'{"requestId": "r", "flags": null}', "a reply that is not flags"),
        (b'{"requestId": "r", "featureFlags": null}', "a reply that is not flags"),
        (b'{"requestId": "r", "featureFlags": ["a"]}', "a reply that is not flags"),
        (
            b'{"requestId": "r", "featureFlags": {"a": true}, "featureFlagPayloads": ["1"]}',
            "a reply that is not flags",
        ),
        (b'{"featureFlags": {"a": true}}', "a reply that is not flags"),
        (
            b'{"requestId": "r", "flags": null, "featureFlags": {"a": true}}',
            "a reply that is not flags",
        ),
    ],
)
def test_reply_without_flags_is_a_failure(content: bytes, reason: str) -> None:
    """Whatever is not PostHog's answer counts as a failure, and is not asked for again."""
    with pytest.raises(PostHogError) as caught:
        parse(content, NOW)

    assert str(caught.value) == reason
    assert caught.value.counts
    assert not caught.value.transient


def test_quota_is_a_failure() -> None:
    """Over quota PostHog answers 200 without flags; that is not "no flags"."""
    with pytest.raises(PostHogError, match="over quota") as caught:
        parse(reply({}, quotaLimited=["feature_flags"]), NOW)

    assert caught.value.counts
    assert not caught.value.transient


@pytest.mark.parametrize("limited", [None, [], ["recordings"], "feature_flags", {}])
def test_other_quotas_do_not_matter(limited: object) -> None:
    """Only the quota of feature flags concerns feature flags."""
    assert "x" in parse(reply({"x": {"value": True}}, quotaLimited=limited), NOW).decisions


@pytest.mark.parametrize(
    ("flags", "errors"),
    [
        ({}, True),
        ({"x": {"value": None, "failed": True}}, True),
        ({"x": {"failed": True}}, False),
        ({"x": typed_record(metadata__id="7")}, False),
        ({"x": None, "y": {"value": []}}, False),
    ],
)
def test_no_flag_at_all_could_be_computed(flags: object, errors: bool) -> None:
    """Where every record failed or is unreadable, PostHog has not said that there are no flags."""
    with pytest.raises(PostHogError, match="no flag could be computed"):
        parse(reply(flags, errorsWhileComputingFlags=errors), NOW)


def test_unknown_fields_are_no_obstacle() -> None:
    """What a newer PostHog adds to a reply or a record is passed over."""
    flags = {"x": {"value": True, "shade": "new", "metadata": {"more": {}}}}

    assert parse(reply(flags, news=[1]), NOW).decisions == {"x": Decision(True)}


@pytest.mark.parametrize("levels", [10, MAX_LEVELS, MAX_LEVELS + 1, 900])
def test_payload_is_never_too_deep_to_be_written(levels: int) -> None:
    """A payload nested beyond all use stays text; a typed value like that is no decision."""
    text = "[" * levels + "]" * levels
    value = {"a": json.loads(text)}
    flags = {
        "text": {"value": True, "metadata": {"payload": text}},
        "typed": {"value": value},
    }

    found = parse(reply(flags), NOW).decisions

    deep = levels > MAX_LEVELS
    assert found["text"] == Decision(True, payload=text if deep else json.loads(text))
    typed = Decision(True, payload=value) if levels < MAX_LEVELS else None
    assert found.get("typed") == typed


@pytest.mark.parametrize("payload", [float("nan"), {"a": [float("inf")]}])
def test_payload_that_no_browser_could_read_is_left_out(payload: object) -> None:
    """A payload with a number that JSON does not have costs itself only."""
    assert read(typed_record(metadata__payload=payload)) == read(typed_record())
