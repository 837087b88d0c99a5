"""`POST /api/features/{key}/exposure/`: a browser says that it showed a flag."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.test import Client

from olposthog.features import clear_cache, is_enabled
from olposthog.snapshot import Runtime
from tests.posthog_faults import Refuse
from tests.posthog_server import Flag, PostHogServer, Variant
from tests.test_exposures import delivered, told

FEATURES_URL = "/api/features/"
NOT_FOUND = {"detail": "Not found."}
SESSION_ID = "0192d7a4-2222-7000-8000-000000000002"


def url(key: str) -> str:
    return f"{FEATURES_URL}{key}/exposure/"


def session_ids(posthog: PostHogServer) -> list[str | None]:
    return [event["properties"].get("$session_id") for event in delivered(posthog)]


@pytest.fixture
def user(db):
    return get_user_model().objects.create_user("ada")


@pytest.fixture
def member(client, user):
    client.force_login(user)
    return client


@pytest.fixture
def browser():
    """A browser that is held to CSRF tokens."""
    return Client(enforce_csrf_checks=True)


# What is reported


def test_a_rendered_flag_is_an_exposure(enabled, member, user):
    """The event is that of a flag read by the server, with everything that PostHog decided."""
    enabled.flags = {"checkout": Variant("test", payload={"colour": "green"}, id=11, version=4)}

    response = member.post(url("checkout"))

    (event,) = delivered(enabled)
    assert (response.status_code, response.content) == (204, b"")
    assert event["event"] == "$feature_flag_called"
    assert event["distinct_id"] == enabled.flag_calls[0]["distinct_id"] == str(user.pk)
    expected = {
        "$feature_flag": "checkout",
        "$feature_flag_response": "test",
        "$feature/checkout": "test",
        "$feature_flag_id": 11,
        "$feature_flag_version": 4,
        "$feature_flag_reason": "Condition match",
        "$feature_flag_payload": {"colour": "green"},
        "locally_evaluated": False,
    }
    assert {name: event["properties"].get(name) for name in expected} == expected
    assert not {"$process_person_profile", "$session_id"} & event["properties"].keys()


def test_a_server_and_a_browser_report_the_same_properties(enabled, member, user):
    """An experiment cannot tell who reported an exposure."""
    enabled.flags = {"web": True, "page": True}
    member.post(url("web"))
    is_enabled("page", opt_unique_id=user.pk)

    web, page = (event["properties"].keys() for event in delivered(enabled))

    assert web - {"$feature/web"} == page - {"$feature/page"}


@pytest.mark.parametrize("value", [True, False, "test"])
def test_the_value_is_reported_as_it_is(enabled, member, user, value):
    """An off is an exposure too: the control group counts."""
    enabled.flags = {"beta": value}

    member.post(url("beta"))

    assert told(enabled) == [(str(user.pk), "beta", value)]


def test_the_browsers_value_counts(enabled, member, user):
    """Reported is what `GET` gave this person: the value for browsers, from the same evaluation."""
    enabled.flags = {"beta": Flag(runtime="client", only_for={str(user.pk)})}
    shown = member.get(FEATURES_URL).json()["features"]["beta"]

    member.post(url("beta"))

    assert told(enabled) == [(str(user.pk), "beta", shown)]
    assert [call["evaluation_runtime"] for call in enabled.flag_calls] == [Runtime.CLIENT.value]


def test_an_anonymous_exposure_makes_no_profile(enabled, client):
    """A visitor's event carries the id that `GET` gave, and asks for no person profile."""
    enabled.flags = {"beta": True}
    distinct_id = client.get(FEATURES_URL).json()["distinct_id"]

    client.post(url("beta"))

    (event,) = delivered(enabled)
    assert event["distinct_id"] == distinct_id
    assert event["properties"]["$process_person_profile"] is False


def test_a_visitor_who_posts_first_is_not_remembered(enabled, client):
    """A POST without our cookie may be another site's: the person it counts gets no cookie."""
    enabled.flags = {"beta": True}

    response = client.post(url("beta"))

    assert response.status_code == 204
    assert not response.cookies
    ((who, *_),) = told(enabled)
    assert client.get(FEATURES_URL).json()["distinct_id"] != who


def test_delivering_flags_is_no_exposure(enabled, client):
    """`GET` reports nothing."""
    enabled.flags = {"beta": True}
    client.get(FEATURES_URL)
    client.get(f"{FEATURES_URL}beta/")

    assert delivered(enabled) == []


# Once


def test_an_exposure_is_reported_once(enabled, member, user):
    """However often a page is rendered, in whatever session, and however often evaluated anew."""
    enabled.flags = {"beta": True}
    for number in range(4):
        session = f"0192d7a4-2222-7000-8000-{number:012}"
        assert member.post(url("beta"), headers={"x-posthog-session-id": session}).content == b""
        clear_cache()

    assert told(enabled) == [(str(user.pk), "beta", True)]


def test_server_and_browser_count_one_exposure(enabled, member, user):
    """What the server has read before, the browser renders without a second event."""
    enabled.flags = {"beta": True, "other": True}

    is_enabled("beta", opt_unique_id=user.pk)
    member.post(url("beta"))
    member.post(url("other"))
    is_enabled("other", opt_unique_id=user.pk)

    assert told(enabled) == [(str(user.pk), "beta", True), (str(user.pk), "other", True)]


def test_each_person_flag_and_value_is_reported(enabled, user):
    """Another person, another flag or a changed value is another exposure."""
    enabled.flags = {"beta": "a", "other": True}
    ada, visitor = Client(), Client()
    ada.force_login(user)
    ada.post(url("beta"))
    ada.post(url("other"))
    visitor.post(url("beta"))
    enabled.flags = {"beta": "b"}
    clear_cache()
    ada.post(url("beta"))

    reported = told(enabled)
    them = reported[2][0]
    assert them != str(user.pk)
    assert reported == [
        (str(user.pk), "beta", "a"),
        (str(user.pk), "other", True),
        (them, "beta", "a"),
        (str(user.pk), "beta", "b"),
    ]


# What a client claims


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (json.dumps({"value": "forged", "variant": "forged"}), "application/json"),
        (json.dumps({"distinct_id": "7", "$feature_flag_response": "forged"}), "application/json"),
        ("{", "application/json"),
        ("[" * 100_000, "application/json"),
        ("\x80\xff", "application/json; charset=utf-8"),
        ("variant=forged&distinct_id=7", "application/x-www-form-urlencoded"),
        ("--x\r\nnonsense", "multipart/form-data; boundary=x"),
        ("nonsense", "multipart/form-data"),
        ("<variant>forged</variant>", "application/xml"),
        ("forged", "nonsense"),
        ("forged", ""),
        ("x" * 3_000_000, "text/plain"),
        ("", "application/json"),
    ],
)
@pytest.mark.parametrize("who", ["visitor", "member"])
def test_a_body_changes_nothing(enabled, browser, user, who, *, body, content_type):
    """Forged, malformed, huge or of an unknown type: a body is not read, not for CSRF either."""
    enabled.flags = {"beta": "test"}
    token = "t" * 32
    browser.cookies["csrftoken"] = token
    if who == "member":
        browser.force_login(user)
    known = browser.get(FEATURES_URL).json()["distinct_id"]

    response = browser.generic(
        "POST",
        f"{url('beta')}?distinct_id=7&variant=forged",
        data=body.encode("latin-1"),
        content_type=content_type,
        headers={"x-csrftoken": token, "x-posthog-distinct-id": SESSION_ID},
    )

    assert (response.status_code, response.content) == (204, b"")
    assert told(enabled) == [(known, "beta", "test")]


@pytest.mark.parametrize("session_id", [SESSION_ID, SESSION_ID.upper()])
def test_the_browsers_session_is_named(enabled, client, session_id):
    """posthog-js's session id goes along, so that the exposure is part of that session."""
    enabled.flags = {"beta": True}

    client.post(url("beta"), headers={"x-posthog-session-id": session_id})

    assert session_ids(enabled) == [session_id]


@pytest.mark.parametrize(
    "claimed",
    [
        "",
        "1",
        "session",
        SESSION_ID[:-1],
        f"{SESSION_ID}0",
        f" {SESSION_ID},{SESSION_ID}",
        SESSION_ID.replace("-", ""),
        f"{{{SESSION_ID}}}",
        "x" * 5000,
        "<script>",
        f"{SESSION_ID}\n",
    ],
)
def test_a_session_that_is_no_uuid_is_ignored(enabled, client, claimed):
    """Anything but a UUID is left out, and the exposure is reported all the same."""
    enabled.flags = {"beta": True}

    response = client.post(url("beta"), headers={"x-posthog-session-id": claimed})

    assert response.status_code == 204
    assert session_ids(enabled) == [None]


# What is not reported


def test_unknown_and_hidden_keys_look_alike(enabled, client, settings):
    """Nothing in a 404 tells a flag that is hidden from one that does not exist."""
    settings.POSTHOG_API_FLAGS = ["web-*", "survey-targeting-*"]
    settings.FEATURES = {"own": True}
    enabled.flags = {
        "billing": True,
        "survey-targeting-1": True,
        "web-server": Flag(runtime="server"),
    }
    client.get(FEATURES_URL)

    keys = ("unknown", "billing", "own", "survey-targeting-1", "web-server", "%00", "k" * 500)
    answers = [client.post(url(key)) for key in keys]

    assert {response.status_code for response in answers} == {404}
    assert [response.json() for response in answers] == [NOT_FOUND] * len(keys)
    assert len({tuple(sorted(response.headers.items())) for response in answers}) == 1
    assert delivered(enabled) == []


def test_a_fallback_value_is_no_exposure(enabled, client, settings):
    """In an outage, and for what only FEATURES knows, the answer is 204 and nobody is told."""
    settings.FEATURES = {"beta": True, "own": "blue"}
    enabled.flags = {"beta": True}
    assert client.post(url("own")).status_code == 204
    enabled.fault = Refuse()
    clear_cache()
    assert client.post(url("beta")).status_code == 204

    enabled.heal()
    assert delivered(enabled) == []


def test_a_disabled_site_reports_nothing(posthog, client, settings):
    """With POSTHOG_ENABLED off the answer is 204 and nothing goes out."""
    settings.FEATURES = {"beta": True}

    response = client.post(url("beta"))

    assert response.status_code == 204
    assert posthog.requests == []


def test_events_can_be_switched_off(enabled, client, settings):
    """With POSTHOG_SEND_FEATURE_FLAG_EVENTS off a browser may report, and nobody is told."""
    settings.POSTHOG_SEND_FEATURE_FLAG_EVENTS = False
    enabled.flags = {"beta": True}

    assert client.post(url("beta")).status_code == 204
    assert delivered(enabled) == []


# Who may


def test_a_session_needs_its_token(enabled, browser, user):
    """A request that carries a session but no CSRF token is refused, and reports nothing."""
    enabled.flags = {"beta": True}
    browser.force_login(user)

    refused = browser.post(url("beta"))

    assert refused.status_code == 403
    assert refused.json() == {"detail": "CSRF Failed: CSRF cookie not set."}
    assert enabled.flag_calls == []
    assert delivered(enabled) == []


def test_the_token_is_a_header(enabled, browser, user):
    """With the cookie's token in `X-CSRFToken` the session's exposure counts."""
    enabled.flags = {"beta": True}
    browser.force_login(user)
    browser.cookies["csrftoken"] = "t" * 32

    wrong = browser.post(url("beta"), headers={"x-csrftoken": "u" * 32})
    right = browser.post(url("beta"), headers={"x-csrftoken": "t" * 32})

    assert (wrong.status_code, right.status_code) == (403, 204)
    assert told(enabled) == [(str(user.pk), "beta", True)]


def test_a_visitor_needs_no_token(enabled, browser):
    """Without a session there is nothing that a forged request could use."""
    enabled.flags = {"beta": True}

    assert browser.post(url("beta")).status_code == 204
    assert len(told(enabled)) == 1


def test_reports_count_against_the_rate(enabled, client, settings):
    """The throttle scope `features` limits reading and reporting together."""
    settings.REST_FRAMEWORK = {
        **settings.REST_FRAMEWORK,
        "DEFAULT_THROTTLE_RATES": {"features": "2/day"},
    }
    enabled.flags = {"beta": True, "other": True}
    client.get(FEATURES_URL)

    answers = [client.post(url(key)) for key in ("beta", "other")]

    assert [response.status_code for response in answers] == [204, 429]
    assert int(answers[1]["Retry-After"]) > 0
    assert [flag for _, flag, _ in told(enabled)] == ["beta"]


# HTTP


@pytest.mark.parametrize("method", ["get", "head", "put", "patch", "delete"])
def test_other_methods_are_refused(enabled, client, method):
    """A link or a prefetch exposes nobody: only `POST` does."""
    enabled.flags = {"beta": True}

    response = getattr(client, method)(url("beta"))

    assert response.status_code == 405
    assert response["Allow"] == "POST, OPTIONS"
    assert delivered(enabled) == []


@pytest.mark.parametrize("key", ["beta", "unknown"])
def test_the_answer_is_for_its_reader_alone(enabled, client, key):
    """204 and 404 forbid shared caches and name what the identity came from."""
    enabled.flags = {"beta": True}

    response = client.post(url(key))

    assert response["Cache-Control"] == "private, no-cache"
    assert {part.strip().lower() for part in response["Vary"].split(",")} == {
        "cookie",
        "authorization",
    }
    assert "ETag" not in response


@pytest.mark.parametrize(
    ("key", "quoted"),
    [("v1.2.checkout", "v1.2.checkout"), ("größe", "gr%C3%B6%C3%9Fe"), ("exposure", "exposure")],
)
def test_keys_of_every_kind_are_reported(enabled, client, key, quoted):
    """Dots, other alphabets and the endpoint's own name are keys."""
    enabled.flags = {key: Variant("test")}

    response = client.post(url(quoted))

    events: list[dict[str, Any]] = delivered(enabled)
    assert response.status_code == 204
    assert [event["properties"]["$feature_flag"] for event in events] == [key]
