"""What a read reports about experiments: records as PostHog sends them, events as they arrive."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any

import posthog as sdk
import pytest
from django.contrib.auth import get_user_model
from django.http import HttpRequest, HttpResponse
from django.template import Context, Template
from django.test import Client, RequestFactory
from posthog import client as sdk_client
from posthog.utils import system_context
from posthog.version import VERSION
from pytest_django import Settings

from olposthog import _posthog
from olposthog._core import engine, exposures
from olposthog.features import (
    aget_feature_flag,
    ais_enabled,
    clear_cache,
    evaluate,
    get_all_feature_flags,
    get_feature_flag,
    get_feature_flag_payload,
    is_enabled,
    report_exposure,
)
from olposthog.guards import flag_required
from olposthog.testing import override_flags
from tests.posthog_faults import Status
from tests.posthog_server import PATIENCE, PostHogServer, Record
from tests.test_exposures import delivered

CALLED = "$feature_flag_called"
EXPOSURE = "$experiment_exposure"
RULE = "7f1c2d3e-0a4b-4c5d-8e6f-112233445566"
OTHER_RULE = "00aa11bb-22cc-4d3d-9e4e-55ff66aa77bb"


def record(code: str | None, value: object = False, **changes: Any) -> Record:
    """A record of config version 2; keywords are metadata, but for `failed`."""
    failed = {"failed": True} if changes.pop("failed", False) else {}
    reason = {"code": code, "condition_index": 0, "description": "In words"}
    metadata = {"id": 77, "version": 3, "config_version": 2, "has_experiment": False, **changes}
    return Record({"value": value, "reason": reason, "metadata": metadata, **failed})


def split(value: object = "annual", *, code: str = "experiment_split", **changes: Any) -> Record:
    """A record of a value that an experiment assigned."""
    arm = {"rule_type": "experiment", "rule_id": RULE, "variant_key": "arm-a"}
    return record(code, value, **{"has_experiment": True, **arm, **changes})


def events(posthog: PostHogServer, name: str) -> list[dict[str, Any]]:
    """The properties of the events of a name."""
    return [event["properties"] for event in delivered(posthog) if event["event"] == name]


def names(posthog: PostHogServer) -> list[str]:
    return [event["event"] for event in delivered(posthog)]


def rule_of(properties: dict[str, Any]) -> dict[str, Any]:
    """What an event says about the rule, without the prefix of the names."""
    return {
        name.removeprefix("$feature_flag_"): properties[name]
        for name in sorted(exposures.RULE_PROPERTIES)
        if name in properties
    }


def read(flag: Record, posthog: PostHogServer, person: str = "u1") -> bool | str:
    """Evaluate anew, with this record, and read."""
    posthog.flags = {"pricing": flag}
    clear_cache()
    return get_feature_flag("pricing", opt_unique_id=person)


# ---- the rule that `$feature_flag_called` names

NAMED = [
    ("targeting_match", "targeted_release"),
    ("targeting_match", "percentage_rollout"),
    ("rollout_miss", "percentage_rollout"),
    ("rollout_miss", "experiment"),
    ("experiment_paused", "experiment"),
    ("holdout", "experiment"),
]


@pytest.mark.parametrize(("code", "kind"), NAMED)
def test_rule_is_named(enabled: PostHogServer, code: str, kind: str) -> None:
    """A match, a miss, a pause and a holdout name their rule; none of them is an exposure."""
    read(record(code, rule_type=kind, rule_id=RULE, variant_key="arm-a"), enabled)

    (event,) = delivered(enabled)
    assert rule_of(event["properties"]) == {
        "config_version": 2,
        "reason_code": code,
        "rule_id": RULE,
        "rule_type": kind,
    }


UNNAMED = {
    "nothing matched": record("no_rule_match"),
    "disabled": record("flag_disabled"),
    "stray rule": record("no_rule_match", rule_type="experiment", rule_id=RULE),
    "unknown reason": split(code="from_the_future"),
    "id without type": record("targeting_match", rule_id=RULE),
    "type without id": record("rollout_miss", rule_type="percentage_rollout"),
    "match of an experiment": split(code="targeting_match"),
    "miss of a release": record("rollout_miss", rule_type="targeted_release", rule_id=RULE),
    "pause of a rollout": split(code="experiment_paused", rule_type="percentage_rollout"),
    "holdout of a release": split(code="holdout", rule_type="targeted_release"),
    "unknown type": record("targeting_match", rule_type="future", rule_id=RULE),
    "split without type": split(rule_type=None),
    "split without id": split(rule_id=None),
    "split without arm": split(variant_key=None),
    "split of a rollout": split(rule_type="percentage_rollout"),
    "id of words": split(rule_id="rule-1"),
    "empty id": split(rule_id=""),
    "id without hyphens": split(rule_id=RULE.replace("-", "")),
    "id in braces": split(rule_id=f"{{{RULE}}}"),
    "id and a line": split(rule_id=f"{RULE}\n"),
    "release with an id of words": record(
        "targeting_match", rule_type="targeted_release", rule_id="rule-1"
    ),
}


@pytest.mark.parametrize("flag", UNNAMED.values(), ids=UNNAMED)
def test_incomplete_rule_is_not_named(enabled: PostHogServer, flag: Record) -> None:
    """Half a rule, a rule that its reason forbids, and an id that is no UUID are left out."""
    read(flag, enabled)

    (event,) = delivered(enabled)
    code = enabled.flags["pricing"].value["reason"]["code"]  # type: ignore[attr-defined]  # a Record
    assert rule_of(event["properties"]) == {"config_version": 2, "reason_code": code}


def test_missing_reason(enabled: PostHogServer) -> None:
    """Without a reason code an event of config version 2 names none, and no rule."""
    read(split(code=""), enabled)

    (event,) = delivered(enabled)
    assert rule_of(event["properties"]) == {"config_version": 2}
    assert "$feature_flag_reason" not in event["properties"]


@pytest.mark.parametrize("flag", [record("holdout"), split(), record("no_rule_match")])
def test_reason_code_replaces_the_description(enabled: PostHogServer, flag: Record) -> None:
    """An event of config version 2 has the reason's code and not its words."""
    read(flag, enabled)

    (event,) = events(enabled, CALLED)
    assert event["$feature_flag_reason_code"] == flag.value["reason"]["code"]  # type: ignore[index]  # a record
    assert "$feature_flag_reason" not in event


@pytest.mark.parametrize("config_version", [1, 3, None])
def test_other_config_versions_name_no_rule(
    enabled: PostHogServer, config_version: int | None
) -> None:
    """Events of another config version are what they were: the description, and no rule."""
    read(split(config_version=config_version), enabled)

    (event,) = delivered(enabled)
    assert rule_of(event["properties"]) == {}
    assert event["properties"]["$feature_flag_reason"] == "In words"


# ---- both events


def test_split_reports_two_events(enabled: PostHogServer, settings: Settings) -> None:
    """An assignment is an exposure next to the call, with the properties of the contract."""
    enabled.flags = {"pricing": split()}
    groups = {"company": "acme"}

    assert get_feature_flag("pricing", opt_unique_id="u1", groups=groups) == "annual"

    evaluation = evaluate("u1", groups=groups).evaluation
    assert evaluation is not None
    platform = {
        **system_context(),
        "$lib": "posthog-python",
        "$lib_version": VERSION,
        "$is_server": True,
        "$geoip_disable": True,
        "$groups": groups,
    }
    shared = {
        "$feature_flag": "pricing",
        "$feature_flag_response": "annual",
        "$feature_flag_id": 77,
        "$feature_flag_version": 3,
        "$feature_flag_request_id": evaluation.request_id,
        "$feature_flag_evaluated_at": int(evaluation.evaluated_at * 1000),
        "$feature_flag_rule_id": RULE,
        "$feature_flag_variant_key": "arm-a",
        "locally_evaluated": False,
    }
    call = {
        "$feature/pricing": "annual",
        "$feature_flag_has_experiment": True,
        "$feature_flag_config_version": 2,
        "$feature_flag_reason_code": "experiment_split",
        "$feature_flag_rule_type": "experiment",
    }
    called, exposed = delivered(enabled)
    assert (called["event"], called["properties"]) == (CALLED, platform | shared | call)
    assert (exposed["event"], exposed["properties"]) == (EXPOSURE, platform | shared)
    assert called["distinct_id"] == exposed["distinct_id"] == "u1"
    assert called["uuid"] != exposed["uuid"]


@pytest.mark.parametrize(
    ("value", "response"),
    [(False, False), (True, True), ("", ""), (12.5, True), ({"layout": "grid"}, True)],
)
def test_assignment_counts_whatever_the_value(
    enabled: PostHogServer, value: object, response: object
) -> None:
    """An arm can be off, a number or an object: the person is in it all the same."""
    read(split(value), enabled)

    assert [event["$feature_flag_response"] for event in events(enabled, EXPOSURE)] == [response]


@pytest.mark.parametrize(
    "changes", [{"variant_key": ""}, {"rule_id": RULE.upper()}, {"config_version": 2.0}]
)
def test_unusual_assignment_counts(enabled: PostHogServer, changes: dict[str, Any]) -> None:
    """An arm without a name, a UUID in capitals and a version with a fraction of zero are sound."""
    read(split(**changes), enabled)

    (event,) = events(enabled, EXPOSURE)
    expected = {"variant_key": "arm-a", "rule_id": RULE} | changes
    expected.pop("config_version", None)
    assert rule_of(event) == expected


@pytest.mark.parametrize("payload", [None, '{"price": 9}'])
def test_payload_is_the_calls_alone(enabled: PostHogServer, payload: str | None) -> None:
    """The full call has the payload, decoded; the exposure never has."""
    read(split(payload=payload), enabled)

    (called,), (exposed,) = events(enabled, CALLED), events(enabled, EXPOSURE)
    assert called.get("$feature_flag_payload") == (json.loads(payload) if payload else None)
    assert "$feature_flag_payload" not in exposed


def test_anonymous_assignment_makes_no_profile(enabled: PostHogServer) -> None:
    """Both events of an anonymous visitor ask for no person profile, and name the session."""
    enabled.flags = {"pricing": split()}
    snapshot = evaluate(request=RequestFactory().get("/"))

    report_exposure(snapshot, "pricing", session_id="s1")

    sent = [event["properties"] for event in delivered(enabled)]
    assert [event["$process_person_profile"] for event in sent] == [False, False]
    assert [event["$session_id"] for event in sent] == ["s1", "s1"]


HOSTILE = ["\x00", "a\nb", "$feature_flag", "{{ x }}", "'; --", "x" * 5_000]


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_any_text_of_posthogs_is_reported(enabled: PostHogServer, text: str) -> None:
    """Whatever text a record holds, reading returns, and the events arrive."""
    enabled.flags = {text: split(text, variant_key=text), "why": record(text, rule_type=text)}

    assert get_feature_flag(text, opt_unique_id="u1") == text
    assert get_feature_flag("why", opt_unique_id="u1") is False

    assert names(enabled) == [CALLED, EXPOSURE, CALLED]


# ---- the SDK's own events are the measure

CASES = {
    **{f"{code} {kind}": record(code, rule_type=kind, rule_id=RULE) for code, kind in NAMED},
    **UNNAMED,
    "no reason": split(code=""),
    "no metadata": Record({"value": True, "reason": {"description": "In words"}}),
    "split": split(payload='{"price": 9}'),
    "split of a number": split(12.5),
    "split of an object": split({"layout": "grid"}),
    "split of off": split(False),
    "empty arm": split(variant_key=""),
    "capitals": split(rule_id=RULE.upper()),
    "version 2.0": split(config_version=2.0),
    "version 1": split(config_version=1),
    "version 3": split(config_version=3),
    "no version": split(config_version=None),
    "no experiment": record("condition_match", "a", config_version=1, payload="1"),
    "experiment": record("condition_match", "a", config_version=1, has_experiment=True),
    "experiment unknown": record("condition_match", "a", config_version=1, has_experiment=None),
    "split without an experiment": split(has_experiment=False),
}


@pytest.mark.parametrize("is_minimal", [False, True], ids=["full", "minimal"])
@pytest.mark.parametrize("flag", CASES.values(), ids=CASES)
def test_events_are_those_of_the_sdk(
    enabled: PostHogServer, flag: Record, is_minimal: bool
) -> None:
    """For the same record PostHog's SDK sends the same events with the same properties."""
    enabled.minimal_flag_called_events = is_minimal
    enabled.flags = {"pricing": flag}
    theirs = sdk.Posthog(enabled.token, host=enabled.url, disable_geoip=True)
    theirs.evaluate_flags("u1", groups={"company": "acme"}).get_flag("pricing")
    theirs.shutdown()
    expected = comparable(enabled)
    enabled.clear()

    get_feature_flag("pricing", opt_unique_id="u1", groups={"company": "acme"})

    assert comparable(enabled) == expected
    assert expected


def comparable(posthog: PostHogServer) -> list[tuple[str, dict[str, Any]]]:
    """The events without what differs between two requests."""
    differ = {"$feature_flag_request_id": str, "$feature_flag_evaluated_at": int}
    return [
        (
            event["event"],
            {
                name: differ[name] if isinstance(value, differ.get(name, ())) else value
                for name, value in event["properties"].items()
            },
        )
        for event in delivered(posthog)
    ]


def test_names_are_those_of_the_sdk() -> None:
    """The SDK keeps its lists private; ours are the same."""
    assert exposures.MINIMAL_PROPERTIES == sdk_client._MINIMAL_FLAG_CALLED_EVENT_PROPERTIES
    assert (
        exposures.MINIMAL_PROPERTIES | exposures.RULE_PROPERTIES
        == sdk_client._MINIMAL_V2_FLAG_CALLED_EVENT_PROPERTIES
    )
    assert exposures.RULE_TYPES_BY_REASON == sdk_client._RULE_TYPES_BY_REASON_CODE
    pinned = sdk_client._V2_FLAG_CALLED_PINNED | sdk_client._EXPOSURE_FORBIDDEN
    assert pinned < exposures.PINNED_PROPERTIES


# ---- what is no exposure


@pytest.mark.parametrize(
    "flag",
    [
        split(None),
        split(None, failed=True),
        split("annual", failed=True),
        split([]),
        split(rule_id=3),
        split(version=True),
        record("missing_group_key", None),
    ],
    ids=["null", "failed", "failed with a value", "array", "rule id", "version", "no group"],
)
def test_record_without_a_decision_reports_nothing(
    enabled: PostHogServer, settings: Settings, flag: Record
) -> None:
    """A flag that PostHog did not decide has the site's value, and that exposes nobody."""
    settings.FEATURES = {"pricing": "site"}
    enabled.flags = {"pricing": flag, "other": True}

    assert get_feature_flag("pricing", opt_unique_id="u1") == "site"
    assert get_feature_flag("pricing", False, opt_unique_id="u2") == "site"
    assert is_enabled("other", opt_unique_id="u1") is True

    assert [event["$feature_flag"] for event in events(enabled, CALLED)] == ["other"]
    assert names(enabled) == [CALLED]


def test_delivering_an_assignment_is_no_exposure(enabled: PostHogServer) -> None:
    """Listing flags and reading a payload report neither event."""
    enabled.flags = {"pricing": split(payload="1")}

    assert evaluate("u1").flags["pricing"] == "annual"
    assert get_all_feature_flags("u1") == {"pricing": "annual"}
    assert get_feature_flag_payload("pricing", "u1") == 1

    assert delivered(enabled) == []


def test_switch_is_for_both_events(enabled: PostHogServer, settings: Settings) -> None:
    """POSTHOG_SEND_FEATURE_FLAG_EVENTS off is off for exposures too."""
    settings.POSTHOG_SEND_FEATURE_FLAG_EVENTS = False

    read(split(), enabled)

    assert delivered(enabled) == []


def test_overridden_flag_reports_nothing(enabled: PostHogServer) -> None:
    """The value of a test is no assignment, whatever PostHog would assign."""
    enabled.flags = {"pricing": split()}
    with override_flags({"pricing": "annual"}, ask_posthog=True):
        assert get_feature_flag("pricing", opt_unique_id="u1") == "annual"

    assert delivered(enabled) == []


# ---- once


def test_assignment_is_reported_once(enabled: PostHogServer) -> None:
    """Another request to PostHog with the same outcome reports nothing new."""
    for _ in range(3):
        read(split(), enabled)

    assert len(enabled.flag_calls) == 3
    assert names(enabled) == [CALLED, EXPOSURE]


CHANGES = {
    "another arm of the same value": (split(variant_key="arm-b"), [CALLED, EXPOSURE]),
    "another experiment": (split(rule_id=OTHER_RULE), [CALLED, EXPOSURE]),
    "another value of the arm": (split("annual-2"), [CALLED]),
    "a holdout": (split(code="holdout"), [CALLED]),
    "another reason": (split(code="no_rule_match"), [CALLED]),
    "another description": (
        Record({**split().value, "reason": {"code": "experiment_split"}}),  # type: ignore[dict-item]  # a record
        [],
    ),
    "another version of the flag": (split(version=4), []),
    "an older config version": (split(config_version=1), [CALLED]),
}


@pytest.mark.parametrize(("second", "expected"), CHANGES.values(), ids=CHANGES)
def test_what_tells_reads_apart(
    enabled: PostHogServer, second: Record, expected: list[str]
) -> None:
    """Arms and experiments count each; an exposure does not depend on the value."""
    read(split(), enabled)
    read(second, enabled)

    assert names(enabled)[2:] == expected


def test_rules_tell_calls_apart(enabled: PostHogServer) -> None:
    """Equal values of two rules are two calls, and the same rule again is none."""
    for kind in ("targeted_release", "percentage_rollout", "targeted_release"):
        read(record("targeting_match", True, rule_type=kind, rule_id=RULE), enabled)

    kinds = [event["$feature_flag_rule_type"] for event in events(enabled, CALLED)]
    assert kinds == ["targeted_release", "percentage_rollout"]


def test_people_and_groups_tell_exposures_apart(enabled: PostHogServer) -> None:
    """Each person, and each group that a person was evaluated in, is an exposure."""
    enabled.flags = {"pricing": split()}
    for person, groups in (
        ("u1", {"company": "a", "team": "b"}),
        ("u1", {"team": "b", "company": "a"}),
        ("u1", {"company": "c"}),
        ("u2", {"company": "c"}),
    ):
        is_enabled("pricing", opt_unique_id=person, groups=groups)

    reported = [
        (event["distinct_id"], event["properties"]["$groups"])
        for event in delivered(enabled)
        if event["event"] == EXPOSURE
    ]
    assert reported == [
        ("u1", {"company": "a", "team": "b"}),
        ("u1", {"company": "c"}),
        ("u2", {"company": "c"}),
    ]


def test_new_process_reports_again(
    enabled: PostHogServer, another_process: Callable[[], None]
) -> None:
    """Through the shared cache another process has the assignment as PostHog sent it."""
    enabled.minimal_flag_called_events = True
    read(split(has_experiment=False), enabled)
    assert engine.current().shared.settle(PATIENCE)
    first = comparable(enabled)
    enabled.clear()
    another_process()

    get_feature_flag("pricing", opt_unique_id="u1")

    assert comparable(enabled) == first
    assert [name for name, _ in first] == [CALLED, EXPOSURE]
    assert enabled.flag_calls == []


def flag_tag(request: HttpRequest) -> object:
    source = "{% load olposthog %}{% flag 'pricing' %}on{% endflag %}"
    return Template(source).render(Context({"request": request}))


@flag_required("pricing")
def guarded(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


def post(request: HttpRequest) -> object:
    browser = Client()
    browser.force_login(get_user_model().objects.get(pk=str(request.user.pk)))
    return browser.post("/api/features/pricing/exposure/")


READS: dict[str, Callable[[HttpRequest], object]] = {
    "is_enabled": lambda request: is_enabled("pricing", request=request),
    "get_feature_flag": lambda request: get_feature_flag("pricing", request=request),
    "ais_enabled": lambda request: asyncio.run(
        ais_enabled("pricing", opt_unique_id=request.user.pk)
    ),
    "aget_feature_flag": lambda request: asyncio.run(
        aget_feature_flag("pricing", opt_unique_id=request.user.pk)
    ),
    "report_exposure": lambda request: report_exposure(evaluate(request=request), "pricing"),
    "template tag": flag_tag,
    "guard": guarded,
    "POST": post,
}


@pytest.mark.django_db
@pytest.mark.parametrize("first", READS)
def test_each_way_to_read_counts_once(enabled: PostHogServer, first: str) -> None:
    """Whichever way comes first reports both events, and no other way reports them again."""
    enabled.flags = {"pricing": split()}
    request = RequestFactory().get("/")
    request.user = get_user_model().objects.create_user("ada")

    READS[first](request)
    sent = comparable(enabled)
    for way in READS.values():
        way(request)

    assert comparable(enabled) == sent
    assert [name for name, _ in sent] == [CALLED, EXPOSURE]
    assert {event["distinct_id"] for event in delivered(enabled)} == {str(request.user.pk)}


# ---- events that cannot be queued


class Hook:
    """A site's `before_send`: for the first event of a name it does something else."""

    def __init__(self, name: str, instead: Callable[[dict[str, Any]], dict[str, Any] | None]):
        self.name = name
        self.instead = instead
        self.seen: list[str] = []

    def __call__(self, event: dict[str, Any]) -> dict[str, Any] | None:
        """Pass the event on, unless it is the one."""
        self.seen.append(event["event"])
        is_the_one = event["event"] == self.name and self.seen.count(self.name) == 1
        return self.instead(event) if is_the_one else event


def fail(event: dict[str, Any]) -> None:
    raise ValueError("refused")


@pytest.mark.parametrize("name", [CALLED, EXPOSURE])
def test_failed_event_is_tried_again(enabled: PostHogServer, name: str) -> None:
    """A read after one whose event could not be queued reports that event, and only that."""
    _posthog.client().before_send = Hook(name, fail)
    enabled.flags = {"pricing": split()}

    for _ in range(3):
        assert get_feature_flag("pricing", opt_unique_id="u1") == "annual"

    assert sorted(names(enabled)) == [EXPOSURE, CALLED]
    assert len(enabled.flag_calls) == 1


def test_failed_event_of_config_version_1_is_not_tried_again(enabled: PostHogServer) -> None:
    """Such an event has one try, as the SDK gives it: a full queue costs no later read anything."""
    hook = Hook(CALLED, fail)
    _posthog.client().before_send = hook

    for _ in range(2):
        read(record("condition_match", True, config_version=1), enabled)

    assert (delivered(enabled), hook.seen.count(CALLED)) == ([], 1)


@pytest.mark.parametrize("name", [CALLED, EXPOSURE])
def test_dropped_event_is_not_tried_again(enabled: PostHogServer, name: str) -> None:
    """What a site's `before_send` drops, it means to drop."""
    hook = Hook(name, lambda event: None)
    _posthog.client().before_send = hook

    for _ in range(2):
        read(split(), enabled)

    assert names(enabled) == [EXPOSURE if name == CALLED else CALLED]
    assert hook.seen.count(name) == 1


@pytest.mark.parametrize("is_captured", [True, False], ids=["captured", "failed"])
def test_concurrent_reads_report_once(enabled: PostHogServer, is_captured: bool) -> None:
    """A read during another's capture reports nothing; if that fails, a later read does."""
    capturing, may_go_on = threading.Event(), threading.Event()

    def wait(event: dict[str, Any]) -> dict[str, Any]:
        capturing.set()
        assert may_go_on.wait(PATIENCE)
        if not is_captured:
            raise ValueError("refused")
        return event

    _posthog.client().before_send = Hook(EXPOSURE, wait)
    enabled.flags = {"pricing": split()}
    first = threading.Thread(target=get_feature_flag, args=("pricing", None, "u1"))
    first.start()
    assert capturing.wait(PATIENCE)
    clear_cache()
    get_feature_flag("pricing", opt_unique_id="u1")
    may_go_on.set()
    first.join(PATIENCE)
    assert names(enabled).count(EXPOSURE) == is_captured

    clear_cache()
    get_feature_flag("pricing", opt_unique_id="u1")

    assert sorted(names(enabled)) == [EXPOSURE, CALLED]


def test_forgotten_exposure_is_independent_of_the_call(
    enabled: PostHogServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each event is remembered by itself: a call in memory does not hold an exposure back."""
    monkeypatch.setattr(exposures, "REMEMBERED", 2)
    read(split(), enabled)
    read(record("condition_match", True, config_version=1), enabled)  # forgets the call
    read(split(), enabled)  # the call again, which forgets the exposure
    read(split(), enabled)

    called = "annual", True, "annual"
    assert [event["$feature_flag_response"] for event in events(enabled, CALLED)] == [*called]
    assert len(events(enabled, EXPOSURE)) == 2


def test_exposure_survives_an_outage(enabled: PostHogServer) -> None:
    """With evaluations down a value from before the outage still counts, once."""
    enabled.flags = {"pricing": split()}
    evaluate("u1")
    enabled.flags_fault = Status(500)

    get_feature_flag("pricing", opt_unique_id="u1")
    get_feature_flag("pricing", opt_unique_id="u1")

    assert names(enabled) == [CALLED, EXPOSURE]


# ---- super properties

SUPER: dict[str, Any] = dict.fromkeys(exposures.PINNED_PROPERTIES, "super")


def test_super_properties_change_no_assignment(enabled: PostHogServer) -> None:
    """What a site adds to all events neither changes nor adds what PostHog decided."""
    read(split(), enabled)
    untouched = comparable(enabled)
    enabled.clear()
    _posthog.client().super_properties = {**SUPER, "plan": "team"}

    engine.reset()
    read(split(), enabled)

    added = [(name, properties | {"plan": "team"}) for name, properties in untouched]
    assert comparable(enabled) == added


def test_super_properties_add_no_rule(enabled: PostHogServer) -> None:
    """A call without a rule stays without one."""
    _posthog.client().super_properties = SUPER

    read(record("no_rule_match"), enabled)

    (event,) = events(enabled, CALLED)
    assert rule_of(event) == {"config_version": 2, "reason_code": "no_rule_match"}
    assert "$feature_flag_reason" not in event


def test_super_properties_apply_to_config_version_1(enabled: PostHogServer) -> None:
    """Other events take super properties as before."""
    _posthog.client().super_properties = SUPER

    read(record("condition_match", True, config_version=1), enabled)

    (event,) = events(enabled, CALLED)
    assert event.items() >= SUPER.items()


# ---- minimised events

PLATFORM = {*system_context(), "$lib", "$lib_version", "$is_server", "$geoip_disable"}
OF_EACH_CALL = {
    "$feature_flag",
    "$feature_flag_response",
    "$feature_flag_has_experiment",
    "$feature_flag_id",
    "$feature_flag_version",
    "$feature_flag_request_id",
    "$feature_flag_evaluated_at",
    "locally_evaluated",
}


@pytest.mark.parametrize(
    ("flag", "more"),
    [
        (record("condition_match", config_version=1, payload="1"), {"$feature_flag_reason"}),
        (
            record("holdout", rule_type="experiment", rule_id=RULE, payload="1"),
            exposures.RULE_PROPERTIES - {"$feature_flag_variant_key"},
        ),
        (split(has_experiment=False, payload="1"), exposures.RULE_PROPERTIES),
    ],
    ids=["config version 1", "holdout", "split"],
)
def test_minimised_call(enabled: PostHogServer, flag: Record, more: set[str]) -> None:
    """Where PostHog asks for it, a flag without an experiment reports these properties only."""
    enabled.minimal_flag_called_events = True
    _posthog.client().super_properties = {"plan": "team"}

    with sdk.new_context():
        sdk.tag("tagged", True)
        read(flag, enabled)

    (event,) = events(enabled, CALLED)
    assert set(event) == PLATFORM | OF_EACH_CALL | more
    assert event["$feature_flag_has_experiment"] is False


def test_minimised_call_keeps_identity(enabled: PostHogServer) -> None:
    """Groups, the session and the wish for no profile are kept."""
    enabled.minimal_flag_called_events = True
    enabled.flags = {"pricing": record("condition_match", config_version=1)}
    request = RequestFactory().get("/")

    report_exposure(evaluate(request=request), "pricing", session_id="s1")
    is_enabled("pricing", opt_unique_id="u1", groups={"company": "acme"})

    visitor, member = events(enabled, CALLED)
    assert (visitor["$process_person_profile"], visitor["$session_id"]) == (False, "s1")
    assert member["$groups"] == {"company": "acme"}


def test_minimised_call_of_config_version_1_has_no_rule(enabled: PostHogServer) -> None:
    """Super properties do not come in by the names that config version 2 may keep."""
    enabled.minimal_flag_called_events = True
    _posthog.client().super_properties = dict.fromkeys(exposures.RULE_PROPERTIES, "super")

    read(record("condition_match", config_version=1), enabled)

    (event,) = events(enabled, CALLED)
    assert rule_of(event) == {}


def test_exposure_is_never_minimised(enabled: PostHogServer) -> None:
    """The exposure next to a minimised call is a full event."""
    enabled.minimal_flag_called_events = True
    _posthog.client().super_properties = {"plan": "team"}

    read(split(has_experiment=False), enabled)

    (called,), (exposed,) = events(enabled, CALLED), events(enabled, EXPOSURE)
    assert "plan" not in called
    assert exposed["plan"] == "team"


@pytest.mark.parametrize(
    ("asked", "has_experiment"),
    [(False, False), (None, False), ("true", False), (1, False), (True, True), (True, None)],
)
def test_full_call(enabled: PostHogServer, asked: Any, has_experiment: bool | None) -> None:
    """Unless PostHog asks for it and has said that there is no experiment, the event is full."""
    enabled.minimal_flag_called_events = asked

    read(
        record(
            "condition_match", True, config_version=1, has_experiment=has_experiment, payload="1"
        ),
        enabled,
    )

    (event,) = events(enabled, CALLED)
    assert (event["$feature/pricing"], event["$feature_flag_payload"]) == (True, 1)
    assert event.get("$feature_flag_has_experiment", None) is has_experiment


@pytest.mark.parametrize("asked", [True, False])
def test_each_evaluation_has_its_own_form(enabled: PostHogServer, asked: bool) -> None:
    """What a later reply asks for does not change the events of an earlier evaluation."""
    enabled.flags = {"pricing": record("condition_match", config_version=1)}
    enabled.minimal_flag_called_events = asked
    earlier = evaluate("u1")
    enabled.minimal_flag_called_events = not asked
    is_enabled("pricing", opt_unique_id="u2")
    report_exposure(earlier, "pricing")

    later, first = events(enabled, CALLED)
    assert ("$feature/pricing" in first, "$feature/pricing" in later) == (not asked, asked)
