"""Every way in which PostHog writes its decisions, and every reply that holds none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from olposthog.protocol import MAX_LEVELS, PostHogError, decoded, parse
from olposthog.snapshot import Decision, Evaluation

NOW = 1_700_000_000.5
ENVELOPE = {"errorsWhileComputingFlags": False, "requestId": "r-1", "evaluatedAt": 1}


def reply(flags: object, **envelope: object) -> bytes:
    """A reply of PostHog's, with these flags."""
    return json.dumps({**ENVELOPE, "flags": flags, **envelope}).encode()


def read(record: dict[str, Any]) -> Decision:
    """The decision in a reply with this one record."""
    return parse(reply({"x": {"key": "x", **record}}), NOW).decisions["x"]


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
def test_value_that_is_no_value_is_off(value: object) -> None:
    """Null and arrays mean off, as the SDK has it."""
    assert read({"value": value}).value is False


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"enabled": True, "variant": None}, True),
        ({"enabled": True, "variant": "test"}, "test"),
        ({"enabled": False, "variant": None}, False),
        ({"enabled": False, "variant": "test"}, False),
        ({"enabled": True}, True),
        ({}, False),
    ],
)
def test_version_2_record(record: dict[str, Any], expected: object) -> None:
    """In version 2 a flag is on or off, and perhaps has a variant."""
    assert read(record).value == expected
    assert type(read(record).value) is type(expected)


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


@pytest.mark.parametrize("junk", [None, 5, "text", [], {}])
def test_malformed_details_cost_only_themselves(junk: object) -> None:
    """A flag whose reason or metadata are not as expected keeps its value."""
    assert read({"value": True, "reason": junk, "metadata": junk}) == Decision(True)


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
    assert list(parse(reply({"junk": junk, "x": {"value": True}}), NOW).decisions) == ["x"]


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
        (b'{"requestId": "r", "flags": {"x": {"value": NaN}}}', "a reply that is not JSON"),
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
    [({}, True), ({"x": {"value": None, "failed": True}}, True), ({"x": {"failed": True}}, False)],
)
def test_no_flag_at_all_could_be_computed(flags: object, errors: bool) -> None:
    """Where PostHog failed with every flag it has not said that there are none."""
    with pytest.raises(PostHogError, match="no flag could be computed"):
        parse(reply(flags, errorsWhileComputingFlags=errors), NOW)


def test_unknown_fields_are_no_obstacle() -> None:
    """What a newer PostHog adds to a reply or a record is passed over."""
    flags = {"x": {"value": True, "shade": "new", "metadata": {"more": {}}}}

    assert parse(reply(flags, news=[1]), NOW).decisions == {"x": Decision(True)}


@pytest.mark.parametrize("levels", [10, MAX_LEVELS, MAX_LEVELS + 1, 900])
def test_payload_is_never_too_deep_to_be_written(levels: int) -> None:
    """A payload nested beyond all use stays text, or is left out where it never was text."""
    text = "[" * levels + "]" * levels
    value = {"a": json.loads(text)}
    flags = {
        "text": {"value": True, "metadata": {"payload": text}},
        "typed": {"value": value},
    }

    found = parse(reply(flags), NOW).decisions

    deep = levels > MAX_LEVELS
    assert found["text"] == Decision(True, payload=text if deep else json.loads(text))
    assert found["typed"] == Decision(True, payload=value if levels < MAX_LEVELS else None)
