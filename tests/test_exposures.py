"""`$feature_flag_called`: one for each exposure, none for anything else."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import posthog
import pytest
from django.test import RequestFactory
from pytest_django import Settings

from olposthog import _posthog
from olposthog._core import engine, exposures
from olposthog._posthog import events
from olposthog.features import (
    aget_feature_flag,
    ais_enabled,
    clear_cache,
    evaluate,
    for_request,
    get_all_feature_flags,
    get_feature_flag,
    get_feature_flag_payload,
    is_enabled,
    report_exposure,
)
from olposthog.identity import Identity
from olposthog.snapshot import Runtime
from tests.posthog_faults import Hang, Refuse, Status
from tests.posthog_server import Flag, PostHogServer, Variant


def delivered(posthog: PostHogServer) -> list[dict[str, Any]]:
    """Every event that has been captured, once all are delivered."""
    _posthog.client().capture("last", distinct_id="test")
    _posthog.client().flush()
    posthog.wait_until(lambda: any(event["event"] == "last" for event in posthog.events))
    return [event for event in posthog.events if event["event"] != "last"]


def told(posthog: PostHogServer) -> list[tuple[Any, ...]]:
    """Who was exposed to what, by the events delivered."""
    return [
        (
            event["distinct_id"],
            event["properties"]["$feature_flag"],
            event["properties"]["$feature_flag_response"],
        )
        for event in delivered(posthog)
    ]


def test_reading_a_flag_is_an_exposure(enabled: PostHogServer) -> None:
    """The event names person, flag and value as PostHog decided them, and how it did."""
    enabled.flags = {
        "checkout": Variant("test", payload={"colour": "green"}, id=11, version=4),
    }

    assert get_feature_flag("checkout", opt_unique_id="u1") == "test"

    (event,) = delivered(enabled)
    snapshot = evaluate("u1")
    assert snapshot.evaluation is not None
    assert event["event"] == "$feature_flag_called"
    assert event["distinct_id"] == enabled.flag_calls[0]["distinct_id"] == "u1"
    expected = {
        "$feature_flag": "checkout",
        "$feature_flag_response": "test",
        "$feature/checkout": "test",
        "$feature_flag_id": 11,
        "$feature_flag_version": 4,
        "$feature_flag_reason": "Condition match",
        "$feature_flag_payload": {"colour": "green"},
        "$feature_flag_request_id": snapshot.evaluation.request_id,
        "$feature_flag_evaluated_at": int(snapshot.evaluation.evaluated_at * 1000),
        "locally_evaluated": False,
    }
    assert {name: event["properties"].get(name) for name in expected} == expected
    assert "$process_person_profile" not in event["properties"]


def test_event_goes_to_the_project(enabled: PostHogServer) -> None:
    """The upload carries the project's key, and the event nothing of the server's location."""
    enabled.flags = {"beta": True}
    is_enabled("beta", opt_unique_id="u1")

    (event,) = delivered(enabled)
    uploads = [request for request in enabled.requests if request.endpoint.name == "EVENTS"]
    assert {upload.body["api_key"] for upload in uploads} == {enabled.token}
    assert event["properties"]["$geoip_disable"] is True


@pytest.mark.parametrize("value", [True, False, "test"])
def test_value_is_reported_as_it_is(enabled: PostHogServer, value: bool | str) -> None:
    """An off is an exposure too: the control group counts."""
    enabled.flags = {"beta": value}

    is_enabled("beta", opt_unique_id="u1")

    assert told(enabled) == [("u1", "beta", value)]


def test_exposure_is_reported_once(enabled: PostHogServer) -> None:
    """However often and by whatever function a flag is read, and however often evaluated anew."""
    enabled.flags = {"beta": True}

    for _ in range(5):
        is_enabled("beta", opt_unique_id="u1")
        get_feature_flag("beta", opt_unique_id="u1")
        asyncio.run(ais_enabled("beta", opt_unique_id="u1"))
        asyncio.run(aget_feature_flag("beta", opt_unique_id="u1"))
        clear_cache()

    assert told(enabled) == [("u1", "beta", True)]
    assert len(enabled.flag_calls) == 5


def test_reading_in_a_coroutine_is_an_exposure(enabled: PostHogServer) -> None:
    """The functions for coroutines report what they read, each by itself."""
    enabled.flags = {"beta": True, "checkout": "test"}

    asyncio.run(ais_enabled("beta", opt_unique_id="u1"))
    asyncio.run(aget_feature_flag("checkout", opt_unique_id="u1"))

    assert told(enabled) == [("u1", "beta", True), ("u1", "checkout", "test")]


def test_each_person_flag_and_value_is_reported(enabled: PostHogServer) -> None:
    """Another person, another flag or a changed value is another exposure."""
    enabled.flags = {"beta": True, "other": "a"}
    for person in ("u1", "u2"):
        for flag in ("beta", "other"):
            is_enabled(flag, opt_unique_id=person)
    enabled.flags = {"beta": False, "other": "b"}
    clear_cache()
    is_enabled("beta", opt_unique_id="u1")
    is_enabled("other", opt_unique_id="u1")

    assert told(enabled) == [
        ("u1", "beta", True),
        ("u1", "other", "a"),
        ("u2", "beta", True),
        ("u2", "other", "a"),
        ("u1", "beta", False),
        ("u1", "other", "b"),
    ]


def test_exposure_in_another_group_is_another(enabled: PostHogServer) -> None:
    """The groups that were evaluated are the event's, and tell exposures apart."""
    enabled.flags = {"beta": True}
    for company in ("acme", "acme", 7):
        is_enabled("beta", opt_unique_id="u1", groups={"company": company})

    groups = [event["properties"].get("$groups") for event in delivered(enabled)]
    assert groups == [{"company": "acme"}, {"company": "7"}]


def test_properties_do_not_make_another_exposure(enabled: PostHogServer) -> None:
    """The same value under other properties is the same exposure, and properties stay here."""
    enabled.flags = {"beta": True}
    is_enabled("beta", opt_unique_id="u1", person_properties={"plan": "secretplan"})
    is_enabled("beta", opt_unique_id="u1", person_properties={"plan": "free"})

    assert len(delivered(enabled)) == 1
    assert "secretplan" not in json.dumps(enabled.events)


def test_anonymous_exposure_makes_no_profile(enabled: PostHogServer) -> None:
    """An anonymous visitor's event carries the id that was evaluated, and asks for no profile."""
    enabled.flags = {"beta": True}
    request = RequestFactory().get("/")

    is_enabled("beta", request=request)

    (event,) = delivered(enabled)
    assert event["properties"]["$process_person_profile"] is False
    assert event["distinct_id"] == for_request(request).distinct_id
    assert event["distinct_id"] == enabled.flag_calls[0]["distinct_id"]


def identified_visitor(request: Any) -> Identity:
    return Identity("who-the-site-says", groups={"company": "acme"})


def test_exposure_is_of_the_evaluated_identity(enabled: PostHogServer, settings: Settings) -> None:
    """Whom POSTHOG_API_IDENTITY names is evaluated, and is who was exposed."""
    settings.POSTHOG_API_IDENTITY = f"{__name__}.identified_visitor"
    enabled.flags = {"beta": True}

    is_enabled("beta", request=RequestFactory().get("/"))

    (event,) = delivered(enabled)
    assert event["distinct_id"] == enabled.flag_calls[0]["distinct_id"] == "who-the-site-says"
    assert event["properties"]["$groups"] == {"company": "acme"}
    assert "$process_person_profile" not in event["properties"]


def test_delivering_flags_is_no_exposure(enabled: PostHogServer) -> None:
    """Evaluating, listing, keeping and reading a payload report nothing."""
    enabled.flags = {"beta": Flag(payload=1)}

    assert evaluate("u1").flags["beta"] is True
    assert for_request(RequestFactory().get("/")).flags["beta"] is True
    assert get_all_feature_flags("u1") == {"beta": True}
    assert get_feature_flag_payload("beta", "u1") == 1

    assert delivered(enabled) == []


def test_rendering_from_a_snapshot_can_be_reported(enabled: PostHogServer) -> None:
    """Whoever reads a snapshot says so; it is the exposure that reading the flag would be."""
    enabled.flags = {"beta": "test", "other": True}
    snapshot = evaluate("u1")

    report_exposure(snapshot, "beta", session_id="s1")
    report_exposure(snapshot, "beta", session_id="s2")
    report_exposure(snapshot, "unknown")
    is_enabled("beta", opt_unique_id="u1")
    is_enabled("other", opt_unique_id="u1")
    report_exposure(evaluate("u1", runtime=Runtime.CLIENT), "other")

    assert told(enabled) == [("u1", "beta", "test"), ("u1", "other", True)]
    assert [event["properties"].get("$session_id") for event in delivered(enabled)] == ["s1", None]


@pytest.mark.parametrize("fault", [Status(500), Refuse()], ids=str)
def test_fallback_is_no_exposure(enabled: PostHogServer, settings: Settings, fault: Any) -> None:
    """A value that PostHog did not decide exposes nobody, whatever answers in its place."""
    settings.FEATURES = {"beta": True}
    enabled.fault = fault

    assert is_enabled("beta", opt_unique_id="u1") is True
    assert is_enabled("unknown", True, "u1") is True

    enabled.heal()
    assert delivered(enabled) == []


def test_recovery_is_an_exposure(enabled: PostHogServer, settings: Settings) -> None:
    """A flag that was read during an outage is reported when PostHog decides it."""
    settings.FEATURES = {"beta": True}
    enabled.flags = {"beta": True}
    enabled.fault = Status(500)
    is_enabled("beta", opt_unique_id="u1")
    enabled.heal()
    clear_cache()
    is_enabled("beta", opt_unique_id="u1")

    assert told(enabled) == [("u1", "beta", True)]


def test_gaps_in_an_answer_are_no_exposure(enabled: PostHogServer, settings: Settings) -> None:
    """FEATURES' and a caller's values beside PostHog's, and failed flags, are not reported."""
    settings.FEATURES = {"mine": True, "failed": True}
    enabled.flags = {"beta": True, "failed": Flag(failed=True)}

    for name in ("mine", "failed", "unknown", "", "beta"):
        is_enabled(name, True, "u1")

    assert told(enabled) == [("u1", "beta", True)]


def test_disabled_site_reports_nothing(posthog: PostHogServer, settings: Settings) -> None:
    """With POSTHOG_ENABLED off no event is made."""
    settings.POSTHOG_ENABLED = False
    settings.POSTHOG_PROJECT_API_KEY = posthog.token
    settings.POSTHOG_API_HOST = posthog.url
    settings.FEATURES = {"beta": True}

    assert is_enabled("beta", opt_unique_id="u1") is True

    assert events._client is None
    assert posthog.requests == []


def test_events_can_be_switched_off(enabled: PostHogServer, settings: Settings) -> None:
    """With POSTHOG_SEND_FEATURE_FLAG_EVENTS off flags are read in silence."""
    settings.POSTHOG_SEND_FEATURE_FLAG_EVENTS = False
    enabled.flags = {"beta": True}

    assert is_enabled("beta", opt_unique_id="u1") is True

    assert events._client is None
    assert delivered(enabled) == []


def test_offline_file_reports_nothing(
    enabled: PostHogServer, settings: Settings, tmp_path: Path
) -> None:
    """Flags from a file are without a network: there is nobody to tell."""
    path = tmp_path / "flags.json"
    everyone = {"groups": [{"properties": [], "rollout_percentage": 100}]}
    path.write_text(json.dumps({"flags": [{"key": "beta", "active": True, "filters": everyone}]}))
    settings.POSTHOG_FLAG_DEFINITIONS_FILE = path

    assert is_enabled("beta", opt_unique_id="u1") is True

    assert events._client is None
    assert enabled.requests == []


def test_hanging_upload_delays_nobody(enabled: PostHogServer, settings: Settings) -> None:
    """Events are delivered in the background: flags are answered while an upload hangs."""
    settings.POSTHOG_MAX_RETRIES = 0
    enabled.flags = {f"flag-{number}": True for number in range(100)}
    enabled.events_fault = Hang()

    for number in range(100):
        assert is_enabled(f"flag-{number}", opt_unique_id="u1") is True

    assert enabled.events == []
    assert engine.current().breaker.state == "closed"


def test_memory_of_exposures_is_bounded(
    enabled: PostHogServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process forgets the oldest exposures first, rather than growing for ever."""
    monkeypatch.setattr(exposures, "REMEMBERED", 3)
    enabled.flags = {"beta": True}

    for person in ("u1", "u2", "u3", "u4", "u4", "u1"):
        is_enabled("beta", opt_unique_id=person)
        clear_cache()

    assert [who for who, *_ in told(enabled)] == ["u1", "u2", "u3", "u4", "u1"]
    assert len(engine.current().exposures._reported) == 3


def test_an_exposure_names_the_id_that_was_evaluated(enabled: PostHogServer) -> None:
    """A long id is reported as PostHog cuts it, once, whichever form was passed."""
    enabled.flags = {"beta": True}

    is_enabled("beta", opt_unique_id="u" * 250)
    is_enabled("beta", opt_unique_id="u" * 200)

    assert told(enabled) == [("u" * 200, "beta", True)]


def test_the_ambient_context_does_not_change_who_is_counted(enabled: PostHogServer) -> None:
    """An exposure names the person and the groups that were evaluated, not those of a context."""
    enabled.flags = {"checkout": Variant("test")}

    with posthog.new_context():
        posthog.identify_context("ambient")
        posthog.tag("$groups", {"company": "ambient"})
        posthog.tag("$feature_flag", "ambient")
        posthog.tag("$feature_flag_response", "ambient")
        posthog.tag("tier", "gold")
        is_enabled("checkout", None, "u1")
        is_enabled("checkout", None, "u1", groups={"company": "acme"})

    events = delivered(enabled)
    assert [event["distinct_id"] for event in events] == ["u1", "u1"]
    assert [event["properties"].get("$groups") for event in events] == [None, {"company": "acme"}]
    assert {event["properties"]["$feature_flag"] for event in events} == {"checkout"}
    assert {event["properties"]["$feature_flag_response"] for event in events} == {"test"}
    assert {event["properties"]["tier"] for event in events} == {"gold"}


@pytest.mark.parametrize(("characters", "is_reported"), [(8192, True), (8193, False)])
def test_large_payload_is_left_out(
    enabled: PostHogServer, characters: int, is_reported: bool
) -> None:
    """A payload of more than 8 kB as JSON is in no event; the exposure is reported all the same."""
    payload = "x" * (characters - 2)  # and two quotation marks
    enabled.flags = {"beta": Flag(True, payload=payload)}

    is_enabled("beta", opt_unique_id="u1")

    (event,) = delivered(enabled)
    assert event["properties"].get("$feature_flag_payload") == (payload if is_reported else None)


def test_payloads_are_left_out_while_events_pile_up(
    enabled: PostHogServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With too many events waiting, further ones have no payload; none is lost."""
    monkeypatch.setattr(exposures, "MAX_QUEUED_PAYLOADS", 0)
    enabled.flags = {"beta": Flag(True, payload={"a": 1})}

    is_enabled("beta", opt_unique_id="u1")

    (event,) = delivered(enabled)
    assert "$feature_flag_payload" not in event["properties"]
    assert event["properties"]["$feature_flag_response"] is True
