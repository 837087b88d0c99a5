"""The REST API's contract: what is asked, what is answered, and what a browser may see."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import connections, transaction
from django.test import Client
from django.urls import include, path
from pytest_django import Settings
from rest_framework.permissions import IsAuthenticated
from rest_framework.routers import SimpleRouter

from olposthog.features import clear_cache, evaluate, is_enabled
from olposthog.snapshot import Runtime
from olposthog_api.views import FeatureViewSet
from tests.posthog_faults import Body, Fault, Html, Quota, Refuse, Reset, Status
from tests.posthog_server import Flag, PostHogServer, Variant

FEATURES_URL = "/api/features/"
NOT_FOUND = {"detail": "Not found."}


class MembersViewSet(FeatureViewSet):
    """What a site makes of ours: flags for members only."""

    permission_classes = [IsAuthenticated]


class AtomicViewSet(FeatureViewSet):
    """One whose flags are read in the middle of a transaction."""

    def initial(self, request, *args, **kwargs):
        self.in_transaction = transaction.get_connection().in_atomic_block
        super().initial(request, *args, **kwargs)

    def finalize_response(self, request, response, *args, **kwargs):
        final = super().finalize_response(request, response, *args, **kwargs)
        final["X-In-Transaction"] = str(self.in_transaction)
        return final


members = SimpleRouter()
members.register("flags", MembersViewSet, basename="flag")
atomic = SimpleRouter()
atomic.register("features", AtomicViewSet, basename="atomic")
urlpatterns = [
    path("api/", include("olposthog_api.urls")),
    path("members/", include(members.urls)),
    path("atomic/", include(atomic.urls)),
]


@dataclass(frozen=True)
class RawPayload(Flag):
    """A flag whose payload travels as this very text, JSON or not."""

    text: str = ""

    def record(self, key: str, number: int, body: dict[str, Any]) -> dict[str, Any]:
        record = super().record(key, number, body)
        record["metadata"]["payload"] = self.text
        return record


def strict_json(content: bytes) -> Any:
    """Read JSON as browsers do: NaN and Infinity are none."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(content.decode("utf-8"), parse_constant=refuse)


@pytest.fixture
def user(db):
    return get_user_model().objects.create_user("ada")


@pytest.fixture
def member(client, user):
    client.force_login(user)
    return client


# All flags


def test_the_answer_is_exactly_the_documented_json(enabled, member, user):
    """`GET /api/features/` has the person, the source, all values and the payloads, no more."""
    enabled.flags = {
        "new-nav": True,
        "checkout": Variant("test", payload={"colour": "green"}),
        "off": False,
    }

    response = member.get(FEATURES_URL)

    assert response.status_code == 200
    assert response["Content-Type"] == "application/json"
    assert response.json() == {
        "distinct_id": str(user.pk),
        "source": "posthog",
        "features": {"new-nav": True, "checkout": "test", "off": False},
        "payloads": {"checkout": {"colour": "green"}},
    }


def test_features_are_sorted_by_key(enabled, client):
    """The order of PostHog's answer does not show: features and payloads are sorted."""
    enabled.flags = {key: Flag(payload=key) for key in ("b", "c", "a", "B", "ä")}

    answer = client.get(FEATURES_URL).json()

    assert list(answer["features"]) == ["B", "a", "b", "c", "ä"]
    assert list(answer["payloads"]) == ["B", "a", "b", "c", "ä"]


def test_only_visible_flags_have_payloads(enabled, client, settings):
    """A payload is no way around `POSTHOG_API_FLAGS`."""
    settings.POSTHOG_API_FLAGS = ["shown"]
    enabled.flags = {"shown": Flag(payload=1), "hidden": Flag(payload="secret")}

    response = client.get(FEATURES_URL)

    assert response.json()["payloads"] == {"shown": 1}
    assert b"secret" not in response.content


def test_a_payload_that_is_falsy_is_still_a_payload(enabled, client):
    """Zero, an empty text and an empty list are payloads; none at all is not."""
    enabled.flags = {
        "zero": Flag(payload=0),
        "empty": Flag(payload=""),
        "list": Flag(payload=[]),
        "false": Flag(payload=False),
        "none": True,
    }

    answer = client.get(FEATURES_URL).json()

    assert answer["payloads"] == {"zero": 0, "empty": "", "list": [], "false": False}


def test_a_typed_value_is_on_and_its_own_payload(enabled, client):
    """A flag whose value is a number or an object is on, with that value as its payload."""
    enabled.flags = {"limit": 42, "layout": {"columns": 2}}

    answer = client.get(FEATURES_URL).json()

    assert answer["features"] == {"limit": True, "layout": True}
    assert answer["payloads"] == {"limit": 42, "layout": {"columns": 2}}


def test_a_project_without_flags_answers_empty(enabled, client):
    """No flags is an answer of PostHog's, not an outage."""
    answer = client.get(FEATURES_URL).json()

    assert (answer["source"], answer["features"], answer["payloads"]) == ("posthog", {}, {})


def test_flags_of_settings_only_are_among_the_features(enabled, client, settings):
    """Keys that PostHog does not know come from `settings.FEATURES`; PostHog's off beats it."""
    settings.FEATURES = {"own": True, "known": True}
    enabled.flags = {"known": False}

    answer = client.get(FEATURES_URL).json()

    assert answer["source"] == "posthog"
    assert answer["features"] == {"known": False, "own": True}


# ?keys=


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("keys=a,b", ["a", "b"]),
        ("keys=b,a", ["a", "b"]),
        ("keys=a", ["a"]),
        ("keys=a,a,a", ["a"]),
        ("keys=a,unknown", ["a"]),
        ("keys=unknown", []),
        ("keys=", []),
        ("keys=,,", []),
        ("keys=%20a%20,%20b", ["a", "b"]),
        ("keys=a%2Cb", ["a", "b"]),
        ("keys=with.dot", ["with.dot"]),
        ("keys=%C3%A4", ["ä"]),
        ("keys=*", []),
        ("keys=A", []),
        ("other=a", ["a", "b", "c", "with.dot", "ä"]),
    ],
)
def test_keys_narrow_the_answer(enabled, client, query, expected):
    """`?keys=` gives those flags that exist, with their payloads, and nothing about the others."""
    enabled.flags = {key: Flag(payload=key) for key in ("a", "b", "c", "with.dot", "ä")}

    answer = client.get(f"{FEATURES_URL}?{query}").json()

    assert answer["features"] == dict.fromkeys(expected, True)
    assert answer["payloads"] == {key: key for key in expected}


def test_narrowing_does_not_show_hidden_flags(enabled, client, settings):
    """Naming a flag that is not for browsers is naming one that does not exist."""
    settings.POSTHOG_API_FLAGS = ["web-*"]
    enabled.flags = {"web-nav": True, "billing": Flag(payload="secret")}

    answer = client.get(f"{FEATURES_URL}?keys=web-nav,billing").json()

    assert answer["features"] == {"web-nav": True}
    assert answer["payloads"] == {}


def test_narrowing_asks_posthog_no_more(enabled, client):
    """All narrowings of one person's flags come from one evaluation."""
    enabled.flags = {"a": True, "b": True}
    client.get(FEATURES_URL)

    client.get(f"{FEATURES_URL}?keys=a")
    client.get(f"{FEATURES_URL}?keys=b")
    answer = client.get(FEATURES_URL).json()

    assert len(enabled.flag_calls) == 1
    assert answer["features"] == {"a": True, "b": True}


def test_a_hundred_keys_are_enough(enabled, client):
    """A hundred keys pass; one more is refused, be it a repetition, and the answer counts them."""
    hundred = ",".join(f"key-{number}" for number in range(100))

    assert client.get(f"{FEATURES_URL}?keys={hundred}").status_code == 200
    for one_more in ["one-more", "key-1"]:
        response = client.get(f"{FEATURES_URL}?keys={hundred},{one_more}")
        assert response.status_code == 400
        assert response.json() == {"keys": ["At most 100 keys; these are 101."]}


def test_a_key_is_at_most_as_long_as_posthog_allows(enabled, client):
    """A key of 400 characters passes, one of 401 is refused."""
    assert client.get(f"{FEATURES_URL}?keys={'k' * 400}").status_code == 200
    response = client.get(f"{FEATURES_URL}?keys={'k' * 401}")

    assert response.status_code == 400
    assert response.json() == {"keys": ["A key has at most 400 characters."]}


@pytest.mark.parametrize("place", ["{}a", "a{}b", "a{}", "x,a{},y", "{}"])
@pytest.mark.parametrize("control", ["%00", "%0a", "%0d", "%09", "%1f", "%7f", "%C2%85", "%1c"])
def test_a_key_has_no_control_characters(enabled, client, control, place):
    """A control character is refused wherever it stands, at the edges of a key too."""
    response = client.get(f"{FEATURES_URL}?keys={place.format(control)}")

    assert response.status_code == 400
    assert response.json() == {"keys": ["A key has no control characters."]}


def test_refused_keys_cost_no_evaluation(enabled, client):
    """What cannot be answered does not go to PostHog, and makes nobody a visitor."""
    response = client.get(f"{FEATURES_URL}?keys={'k' * 401}")

    assert enabled.flag_calls == []
    assert not response.cookies


# One flag


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        (True, {"enabled": True, "variant": None, "payload": None}),
        (False, {"enabled": False, "variant": None, "payload": None}),
        (Variant("test"), {"enabled": True, "variant": "test", "payload": None}),
        (
            Variant("test", payload={"colour": "green"}),
            {"enabled": True, "variant": "test", "payload": {"colour": "green"}},
        ),
        (Flag(payload="text"), {"enabled": True, "variant": None, "payload": "text"}),
        (Flag(payload=0), {"enabled": True, "variant": None, "payload": 0}),
        (Flag(payload=[1, None]), {"enabled": True, "variant": None, "payload": [1, None]}),
    ],
)
def test_one_flag_is_exactly_the_documented_json(enabled, client, flag, expected):
    """`GET /api/features/{key}/` has the key, on or off, the variant, the payload, the source."""
    enabled.flags = {"flag": flag}

    response = client.get(f"{FEATURES_URL}flag/")

    assert response.status_code == 200
    assert response["Content-Type"] == "application/json"
    assert response.json() == {"key": "flag", "source": "posthog", **expected}


@pytest.mark.parametrize(("value", "variant"), [(True, None), (False, None), ("blue", "blue")])
def test_a_flag_of_settings_only_is_found(enabled, client, settings, value, variant):
    """A key that only `settings.FEATURES` has answers like any other."""
    settings.FEATURES = {"own": value}

    assert client.get(f"{FEATURES_URL}own/").json() == {
        "key": "own",
        "enabled": bool(value),
        "variant": variant,
        "payload": None,
        "source": "posthog",
    }


@pytest.mark.parametrize(
    ("key", "quoted"),
    [
        ("v1.2.checkout", "v1.2.checkout"),
        ("file.json", "file.json"),
        ("größe", "gr%C3%B6%C3%9Fe"),
        ("旗", "%E6%97%97"),
        ("with space", "with%20space"),
        ("a+b", "a+b"),
        ("50%", "50%25"),
        ("%41", "%2541"),
        ("a?b", "a%3Fb"),
        ("a#b", "a%23b"),
        ("new-nav", "%6Eew-nav"),
        ('quote"', "quote%22"),
        ("<b>", "%3Cb%3E"),
    ],
)
def test_keys_of_every_kind_are_found(enabled, client, key, quoted):
    """Dots, other alphabets and percent-encoding are part of a key."""
    enabled.flags = {key: Variant("test")}

    response = client.get(f"{FEATURES_URL}{quoted}/")

    assert response.status_code == 200
    assert (response.json()["key"], response.json()["variant"]) == (key, "test")


def test_unknown_and_hidden_keys_look_alike(enabled, client, settings):
    """Nothing in a 404 tells a flag that is hidden from one that does not exist."""
    settings.POSTHOG_API_FLAGS = ["web-*"]
    settings.FEATURES = {"own": True}
    enabled.flags = {"billing": True, "survey-targeting-1": True}
    client.get(FEATURES_URL)

    keys = ("unknown", "billing", "own", "survey-targeting-1", "%00", "a%0Ab", "k" * 500)
    answers = [client.get(f"{FEATURES_URL}{key}/") for key in keys]

    assert {response.status_code for response in answers} == {404}
    assert [response.json() for response in answers] == [NOT_FOUND] * len(keys)
    assert len({tuple(sorted(response.headers.items())) for response in answers}) == 1


# Methods and media types


@pytest.mark.parametrize("url", [FEATURES_URL, f"{FEATURES_URL}flag/"])
@pytest.mark.parametrize("method", ["post", "put", "patch", "delete", "trace"])
def test_other_methods_are_refused(enabled, client, url, method):
    """A method that is not there gets 405 in DRF's shape, with those that are."""
    response = getattr(client, method)(url)

    assert response.status_code == 405
    assert response["Allow"] == "GET, HEAD, OPTIONS"
    assert response.json() == {"detail": f'Method "{method.upper()}" not allowed.'}
    assert enabled.flag_calls == []


@pytest.mark.parametrize("url", [FEATURES_URL, f"{FEATURES_URL}flag/"])
@pytest.mark.parametrize("accept", ["text/html", "application/xml", "text/plain, image/*"])
def test_anything_but_json_is_not_acceptable(enabled, client, url, accept):
    """Who accepts no JSON gets 406, as JSON in DRF's shape."""
    enabled.flags = {"flag": True}

    response = client.get(url, headers={"accept": accept})

    assert response.status_code == 406
    assert response["Content-Type"] == "application/json"
    assert response.json() == {"detail": "Could not satisfy the request Accept header."}


@pytest.mark.parametrize(
    "accept",
    [
        "application/json",
        "application/*",
        "*/*",
        "text/html,*/*;q=0.8",
        "application/json; indent=4",
    ],
)
def test_whoever_accepts_json_gets_the_same_bytes(enabled, client, accept):
    """No `Accept` changes the body, so that one ETag is right for all of them."""
    enabled.flags = {"flag": Flag(payload={"a": 1})}
    plain = client.get(FEATURES_URL)

    response = client.get(FEATURES_URL, headers={"accept": accept})

    assert response.status_code == 200
    assert response["Content-Type"] == "application/json"
    assert response.content == plain.content


@pytest.mark.parametrize("url", [FEATURES_URL, f"{FEATURES_URL}flag/"])
def test_head_is_get_without_a_body(enabled, client, url):
    """`HEAD` has the status and headers of `GET` and no body."""
    enabled.flags = {"flag": True}
    got = client.get(url)

    response = client.head(url)

    assert response.status_code == 200
    assert response.content == b""
    for header in ("ETag", "Cache-Control", "Vary", "Content-Type"):
        assert response[header] == got[header]


def test_options_describe_the_endpoint(enabled, client):
    """`OPTIONS` answers DRF's metadata in JSON, and evaluates nothing."""
    response = client.options(FEATURES_URL)

    assert response.status_code == 200
    assert response["Allow"] == "GET, HEAD, OPTIONS"
    assert response.json()["renders"] == ["application/json"]
    assert enabled.flag_calls == []
    assert not response.cookies


# What a browser may see


def test_posthog_is_asked_for_the_browsers_flags(enabled, client):
    """The API evaluates in the `client` runtime: server-only flags never appear."""
    enabled.flags = {
        "both": Flag(runtime="all"),
        "unset": Flag(runtime=None),
        "browser": Flag(runtime="client"),
        "server": Flag(runtime="server", payload="secret"),
    }

    response = client.get(FEATURES_URL, headers={"user-agent": "python-requests/2"})

    assert [call["evaluation_runtime"] for call in enabled.flag_calls] == ["client"]
    assert response.json()["features"] == {"both": True, "browser": True, "unset": True}
    assert client.get(f"{FEATURES_URL}server/").json() == NOT_FOUND


@pytest.mark.parametrize(
    "patterns",
    [
        ["*"],
        ["survey-targeting-1", "product-tour-targeting-1", "web"],
        ["survey-targeting-*", "product-tour-targeting-*", "w*"],
    ],
)
def test_posthogs_own_flags_never_appear(enabled, client, settings, patterns):
    """Flags that PostHog makes for itself are hidden, even where the site names them."""
    settings.POSTHOG_API_FLAGS = patterns
    own = ("survey-targeting-1", "product-tour-targeting-1")
    enabled.flags = {"web": True, **{key: Flag(payload="x") for key in own}}

    answer = client.get(f"{FEATURES_URL}").json()

    assert answer["features"] == {"web": True}
    assert answer["payloads"] == {}
    assert [client.get(f"{FEATURES_URL}{key}/").json() for key in own] == [NOT_FOUND] * 2


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["*"], ["Web-a", "api", "web-a", "web-b"]),
        (["web-*"], ["web-a", "web-b"]),
        (["web-?"], ["web-a", "web-b"]),
        (["web-[ac]"], ["web-a"]),
        (["api"], ["api"]),
        (["ap"], []),
        (["web-*", "api"], ["api", "web-a", "web-b"]),
        (("web-a",), ["web-a"]),
        ([""], []),
        ([], []),
        ("*", []),
        ({"web-a": True}, []),
        ([1], []),
        (True, []),
    ],
)
def test_the_site_says_what_browsers_see(enabled, client, settings, patterns, expected):
    """`POSTHOG_API_FLAGS` lists keys and globs in their exact case; malformed, it shows none."""
    settings.POSTHOG_API_FLAGS = patterns
    every = ["web-a", "web-b", "Web-a", "api"]
    enabled.flags = dict.fromkeys(every, True)
    settings.FEATURES = dict.fromkeys(every, True)

    answer = client.get(FEATURES_URL).json()

    assert answer["features"] == dict.fromkeys(expected, True)
    found = [key for key in every if client.get(f"{FEATURES_URL}{key}/").status_code == 200]
    assert sorted(found) == expected


# Outages


@pytest.mark.parametrize(
    "fault",
    [Refuse(), Reset(), Status(500), Status(401), Status(429), Quota(), Html(), Body(b"[]")],
    ids=lambda fault: type(fault).__name__,
)
def test_an_outage_is_an_answer(enabled, client, settings, fault: Fault):
    """With PostHog down the site's own values answer with 200 and say that they are a fallback."""
    settings.POSTHOG_MAX_RETRIES = 0
    settings.FEATURES = {"own": True, "colour": "blue", "off": False}
    enabled.flags = {"own": False}
    enabled.fault = fault

    everything = client.get(FEATURES_URL)
    one = client.get(f"{FEATURES_URL}colour/")

    assert everything.status_code == 200
    answer = everything.json()
    assert answer.pop("distinct_id")
    assert answer == {
        "source": "fallback",
        "features": {"colour": "blue", "off": False, "own": True},
        "payloads": {},
    }
    assert one.json() == {
        "key": "colour",
        "enabled": True,
        "variant": "blue",
        "payload": None,
        "source": "fallback",
    }
    assert client.get(f"{FEATURES_URL}unknown/").json() == NOT_FOUND


def test_a_key_known_to_posthog_only_is_unknown_in_an_outage(enabled, client):
    """What nobody can say is not invented: without a fallback value the key is not there."""
    enabled.flags = {"flag": True}
    assert client.get(f"{FEATURES_URL}flag/").status_code == 200
    clear_cache()
    enabled.fault = Refuse()

    assert client.get(f"{FEATURES_URL}flag/").status_code == 404


@pytest.mark.parametrize("missing", ["POSTHOG_API_HOST", "POSTHOG_PROJECT_API_KEY"])
def test_half_a_configuration_is_a_fallback(enabled, client, settings, missing):
    """A setting that is missing costs PostHog's flags, and no error."""
    setattr(settings, missing, "")
    settings.FEATURES = {"own": True}

    answer = client.get(FEATURES_URL).json()

    assert (answer["source"], answer["features"]) == ("fallback", {"own": True})


def test_switched_off_is_said_so(posthog: PostHogServer, client, settings: Settings):
    """With `POSTHOG_ENABLED` off the site's values answer as `disabled`, and nothing goes out."""
    settings.POSTHOG_ENABLED = False
    settings.POSTHOG_PROJECT_API_KEY = posthog.token
    settings.POSTHOG_API_HOST = posthog.url
    settings.FEATURES = {"own": "blue"}

    answer = client.get(FEATURES_URL).json()

    assert (answer["source"], answer["features"]) == ("disabled", {"own": "blue"})
    assert client.get(f"{FEATURES_URL}own/").json()["source"] == "disabled"
    assert posthog.requests == []


# One answer


@pytest.mark.parametrize("healthy", [True, False], ids=["health", "outage"])
def test_the_api_and_the_functions_agree(enabled, member, user, settings, healthy):
    """The API, `evaluate` and `is_enabled` give one person one answer, in health and in outage."""
    settings.FEATURES = {"own": True, "colour": "red", "hers": False}
    enabled.flags = {
        "colour": Variant("blue", payload=1),
        "hers": Flag(only_for={str(user.pk)}),
        "others": Flag(only_for={"somebody"}),
    }
    if not healthy:
        enabled.fault = Refuse()

    answer = member.get(FEATURES_URL).json()
    snapshot = evaluate(user.pk, runtime=Runtime.CLIENT)

    expected = (
        {"colour": "blue", "hers": True, "others": False, "own": True}
        if healthy
        else {"colour": "red", "hers": False, "own": True}
    )
    assert answer["features"] == expected == dict(snapshot.flags)
    assert answer["payloads"] == dict(snapshot.payloads)
    assert answer["source"] == snapshot.source
    assert answer["distinct_id"] == snapshot.distinct_id
    for key, value in expected.items():
        assert is_enabled(key, opt_unique_id=user.pk) is bool(value)
        assert member.get(f"{FEATURES_URL}{key}/").json()["enabled"] is bool(value)


# Bodies


@pytest.mark.parametrize(
    "payload",
    [
        "</script><script>alert(1)</script>",
        "lone \ud800 surrogate",
        {"\udc00": "\ud83d"},
        "NaN",
        float("nan"),
        [float("inf"), -float("inf")],
        10**400,
        -1,
        0.1,
        1e308,
        "line\u2028separator\u0000",
        {"": {"": []}},
        None,
    ],
    ids=repr,
)
def test_whatever_the_payload_the_answer_is_json(enabled, client, payload):
    """No payload makes an answer that a browser cannot read."""
    enabled.flags = {"flag": Flag(payload=payload)}

    everything = strict_json(client.get(FEATURES_URL).content)
    one = strict_json(client.get(f"{FEATURES_URL}flag/").content)

    as_sent = payload
    if "inf" in repr(payload) or "nan" in repr(payload):
        as_sent = json.dumps(payload)  # no JSON: it stays text
    assert everything["payloads"].get("flag") == one["payload"] == as_sent


@pytest.mark.parametrize(
    "text",
    [
        "no JSON at all",
        "1e999",
        '{"limit": -1e999}',
        "9" * 5000,
        "[" * 400 + "]" * 400,
        "[" * 950 + "]" * 950,
        "[" * 100_000,
        "[" * 100_000 + "]" * 100_000,
        '"\\ud800"',
    ],
    ids=lambda text: text[:12],
)
def test_hostile_payload_text_costs_no_flags(enabled, client, text):
    """A payload that cannot be read, or not be written, leaves all flags as they are."""
    enabled.flags = {"flag": RawPayload(Variant("test").value, text=text), "other": True}

    response = client.get(FEATURES_URL)
    one = client.get(f"{FEATURES_URL}flag/")

    assert (response.status_code, one.status_code) == (200, 200)
    answer = strict_json(response.content)
    assert answer["features"] == {"flag": "test", "other": True}
    assert strict_json(one.content)["variant"] == "test"


# Within a site


@pytest.mark.urls(__name__)
def test_a_subclass_has_permissions_of_its_own(enabled, client, user):
    """A site's subclass refuses whom it wants to, before anything is evaluated."""
    enabled.flags = {"flag": True}

    refused = client.get("/members/flags/")
    assert (refused.status_code, enabled.flag_calls) == (403, [])
    assert not refused.cookies

    client.force_login(user)
    assert client.get("/members/flags/").json()["features"] == {"flag": True}
    assert client.get("/members/flags/flag/").json()["enabled"] is True


@pytest.mark.urls(__name__)
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("healthy", [True, False], ids=["health", "outage"])
def test_flags_are_read_inside_a_transaction(enabled, client, monkeypatch, healthy):
    """With ATOMIC_REQUESTS the API answers as ever, up and down."""
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)
    enabled.flags = {"flag": True}
    if not healthy:
        enabled.fault = Refuse()

    response = client.get("/atomic/features/")

    assert response.status_code == 200
    assert response["X-In-Transaction"] == "True"
    assert response.json()["source"] == ("posthog" if healthy else "fallback")


def test_a_site_without_anonymous_users_works(enabled, client, settings):
    """DRF's UNAUTHENTICATED_USER may be None."""
    settings.REST_FRAMEWORK = {**settings.REST_FRAMEWORK, "UNAUTHENTICATED_USER": None}
    enabled.flags = {"flag": True}

    assert client.get(FEATURES_URL).json()["features"] == {"flag": True}


def test_a_sites_exception_handler_shapes_its_errors(enabled, client, settings):
    """Errors go through the site's EXCEPTION_HANDLER, as those of its own views do."""
    settings.REST_FRAMEWORK = {
        **settings.REST_FRAMEWORK,
        "EXCEPTION_HANDLER": f"{__name__}.terse_exception_handler",
    }

    response = client.get(f"{FEATURES_URL}unknown/")

    assert (response.status_code, response.json()) == (404, {"error": "terse"})


def terse_exception_handler(error, context):
    from rest_framework.response import Response

    return Response({"error": "terse"}, status=error.status_code)


# DRF's views take their classes from the settings on import: each host is a process of its own.

HOST = """
import json, sys
import django
from django.conf import settings

host = json.load(sys.stdin)
from tests import settings as base

given = {name: getattr(base, name) for name in dir(base) if name.isupper()}
given["REST_FRAMEWORK"] = {**given["REST_FRAMEWORK"], **host["rest_framework"]}
settings.configure(**{**given, **host["settings"]})
django.setup()

from django.test import Client
from django.test.utils import setup_test_environment

setup_test_environment()
answers = []
for url, headers in host["requests"]:
    response = Client().get(url, headers=headers)
    answers.append([response.status_code, dict(response.items()), response.content.decode()])
json.dump(answers, sys.stdout)
"""


def ask_host(
    posthog: PostHogServer, rest_framework: dict[str, Any], *requests: tuple[str, dict[str, str]]
) -> list[Any]:
    """Let a project with these REST_FRAMEWORK settings answer the requests."""
    host = {
        "rest_framework": rest_framework,
        "settings": {
            "POSTHOG_ENABLED": True,
            "POSTHOG_PROJECT_API_KEY": posthog.token,
            "POSTHOG_API_HOST": posthog.url,
        },
        "requests": requests,
    }
    run = subprocess.run(
        [sys.executable, "-c", HOST],
        input=json.dumps(host),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "rest_framework",
    [
        {"DEFAULT_RENDERER_CLASSES": ["tests.api.ShoutingRenderer"]},
        {
            "DEFAULT_RENDERER_CLASSES": ["tests.api.MarkupRenderer"],
            "DEFAULT_CONTENT_NEGOTIATION_CLASS": "tests.api.WhateverIsFirst",
        },
        {
            "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
            "DEFAULT_AUTHENTICATION_CLASSES": ["rest_framework.authentication.TokenAuthentication"],
            "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.MultiPartParser"],
        },
        {
            "DEFAULT_PAGINATION_CLASS": "rest_framework.pagination.LimitOffsetPagination",
            "PAGE_SIZE": 1,
            "STRICT_JSON": False,
            "COMPACT_JSON": False,
            "UNICODE_JSON": False,
        },
        {
            "DEFAULT_VERSIONING_CLASS": "rest_framework.versioning.AcceptHeaderVersioning",
            "DEFAULT_VERSION": "1",
        },
        {
            "DEFAULT_VERSIONING_CLASS": "rest_framework.versioning.NamespaceVersioning",
            "ALLOWED_VERSIONS": ["v1"],
            "DEFAULT_VERSION": "v1",
        },
        {
            "DEFAULT_THROTTLE_CLASSES": ["rest_framework.throttling.AnonRateThrottle"],
            "DEFAULT_THROTTLE_RATES": {"anon": "1/day"},
        },
    ],
    ids=lambda options: next(iter(options)).removeprefix("DEFAULT_").lower(),
)
def test_a_sites_defaults_leave_the_answer_as_it_is(enabled, rest_framework):
    """Renderers, permissions, pages, versions and throttles of the site do not touch our JSON."""
    enabled.flags = {"new_nav": True, "snake_case": Variant("test", payload={"snake_key": 1})}
    versioned = {"accept": "application/json; version=1"}

    (status, headers, body), one, missing, again = ask_host(
        enabled,
        rest_framework,
        (FEATURES_URL, {}),
        (f"{FEATURES_URL}snake_case/", versioned),
        (f"{FEATURES_URL}unknown/", {}),
        (FEATURES_URL, versioned),
    )

    assert (status, headers["Content-Type"]) == (200, "application/json")
    answer = json.loads(body)
    assert answer.pop("distinct_id")
    assert answer == {
        "source": "posthog",
        "features": {"new_nav": True, "snake_case": "test"},
        "payloads": {"snake_case": {"snake_key": 1}},
    }
    assert (one[0], json.loads(one[2])) == (
        200,
        {
            "key": "snake_case",
            "enabled": True,
            "variant": "test",
            "payload": {"snake_key": 1},
            "source": "posthog",
        },
    )
    assert (missing[0], json.loads(missing[2])) == (404, NOT_FOUND)
    assert again[0] == 200


def test_a_session_of_another_machine_is_no_error(enabled, db):
    """A session cookie that nobody knows is an anonymous visitor."""
    client = Client()
    client.cookies["sessionid"] = "x" * 32
    enabled.flags = {"flag": True}

    assert client.get(FEATURES_URL).json()["features"] == {"flag": True}
