"""`POST /api/features/exposures/`: a browser reports that it showed several flags."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.test import Client

from olposthog.features import clear_cache, is_enabled
from tests.api.test_exposure import NOT_FOUND, SESSION_ID, session_ids, url
from tests.posthog_faults import Refuse
from tests.posthog_server import Flag, Variant
from tests.test_exposures import delivered, told

FEATURES_URL = "/api/features/"
EXPOSURES_URL = "/api/features/exposures/"


def report(client: Client, keys: Any, **headers: str) -> Any:
    return client.post(
        EXPOSURES_URL, {"keys": keys}, content_type="application/json", headers=headers
    )


@pytest.fixture
def user(db):
    return get_user_model().objects.create_user("ada")


@pytest.fixture
def member(client, user):
    client.force_login(user)
    return client


@pytest.fixture
def browser():
    """A browser that has to send CSRF tokens."""
    return Client(enforce_csrf_checks=True)


# What is reported


def test_each_key_is_an_exposure(enabled, member, user):
    """One request reports several flags, with the values that the server evaluated, on or off."""
    enabled.flags = {"checkout": Variant("test"), "nav": True, "off": False, "unseen": True}

    response = report(member, ["checkout", "nav", "off"])

    assert (response.status_code, response.content) == (204, b"")
    assert told(enabled) == [
        (str(user.pk), "checkout", "test"),
        (str(user.pk), "nav", True),
        (str(user.pk), "off", False),
    ]
    assert len(enabled.flag_calls) == 1


def test_a_batch_reports_what_single_reports_do(enabled, user):
    """An experiment cannot tell the two endpoints apart."""
    enabled.flags = {"one": Variant("test", payload={"a": 1}), "two": Variant("test", payload=2)}
    client = Client()
    client.force_login(user)
    client.post(url("one"), headers={"x-posthog-session-id": SESSION_ID})
    report(client, ["two"], **{"x-posthog-session-id": SESSION_ID})

    one, two = delivered(enabled)

    assert one["properties"].keys() - {"$feature/one"} == two["properties"].keys() - {
        "$feature/two"
    }
    assert session_ids(enabled) == [SESSION_ID, SESSION_ID]


def test_an_exposure_is_reported_once(enabled, member, user):
    """Repeated keys, repeated requests, the single endpoint and server code share one report."""
    enabled.flags = {"a": True, "b": True}

    report(member, ["a", "a", "b"])
    report(member, ["a", "b"])
    member.post(url("a"))
    is_enabled("b", opt_unique_id=user.pk)

    assert told(enabled) == [(str(user.pk), "a", True), (str(user.pk), "b", True)]


def test_an_anonymous_visitor_is_the_person_of_the_list(enabled, client):
    """The exposures are those of the visitor whom `GET` named."""
    enabled.flags = {"a": True}
    distinct_id = client.get(FEATURES_URL).json()["distinct_id"]

    report(client, ["a"])

    assert told(enabled) == [(distinct_id, "a", True)]


def test_a_visitor_who_posts_first_gets_no_cookie(enabled, client):
    """A POST without our cookie may come from another site."""
    enabled.flags = {"a": True}

    assert not report(client, ["a"]).cookies


# What is ignored


def test_unknown_and_hidden_keys_look_alike(enabled, member, user, settings):
    """Keys that a browser may not see are ignored, and the answer does not tell which they are."""
    settings.POSTHOG_API_FLAGS = ["web-*", "survey-targeting-*"]
    settings.FEATURES = {"own": True}
    enabled.flags = {
        "web-nav": True,
        "billing": True,
        "survey-targeting-1": True,
        "web-server": Flag(runtime="server"),
    }
    ignored = ["unknown", "billing", "own", "survey-targeting-1", "web-server", "\0", "k" * 500]
    member.get(FEATURES_URL)

    answers = [report(member, keys) for keys in ([one] for one in [*ignored, "web-nav"])]
    together = report(member, [*ignored, "web-nav"])

    assert {(one.status_code, one.content) for one in [*answers, together]} == {(204, b"")}
    assert len({tuple(sorted(one.headers.items())) for one in [*answers, together]}) == 1
    assert told(enabled) == [(str(user.pk), "web-nav", True)]


def test_no_keys_are_no_exposure(enabled, member):
    """An empty list is valid."""
    enabled.flags = {"a": True}

    assert report(member, []).status_code == 204
    assert delivered(enabled) == []


def test_a_fallback_value_is_no_exposure(enabled, client, settings):
    """In an outage the answer is 204, and no event is sent."""
    settings.FEATURES = {"a": True}
    enabled.flags = {"a": True}
    enabled.fault = Refuse()
    clear_cache()

    assert report(client, ["a"]).status_code == 204

    enabled.heal()
    assert delivered(enabled) == []


# What is refused


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ("", "The body must be JSON."),
        ("{", "The body must be JSON."),
        ('{"keys": [NaN]}', "The body must be JSON."),
        ("[" * 100_000, "The body must be JSON."),
        ("\x80\xff", "The body must be JSON."),
        ("keys=a", "The body must be JSON."),
        ("null", "The body must be an object."),
        ('["a"]', "The body must be an object."),
        ('"a"', "The body must be an object."),
        ("{}", "`keys` must be a list of flag keys."),
        ('{"keys": null}', "`keys` must be a list of flag keys."),
        ('{"keys": "a"}', "`keys` must be a list of flag keys."),
        ('{"keys": {"a": true}}', "`keys` must be a list of flag keys."),
        ('{"keys": ["a", 1]}', "Each item of `keys` must be a string."),
        ('{"keys": ["a", null]}', "Each item of `keys` must be a string."),
        ('{"keys": [["a"]]}', "Each item of `keys` must be a string."),
        ('{"keys": [true]}', "Each item of `keys` must be a string."),
        (
            json.dumps({"keys": ["a"] * 101}),
            "`keys` must have at most 100 items; these are 101.",
        ),
    ],
    ids=lambda text: text[:20],
)
def test_an_invalid_body_is_explained(enabled, client, body, detail):
    """The answer is 400 and says in JSON what is wrong. No flag is evaluated or reported."""
    enabled.flags = {"a": True}

    response = client.generic(
        "POST", EXPOSURES_URL, body.encode("latin-1"), CONTENT_TYPE="application/json"
    )

    assert (response.status_code, response["Content-Type"]) == (400, "application/json")
    assert response.json() == {"detail": detail}
    assert enabled.flag_calls == []


def test_the_limit_itself_is_allowed(enabled, member):
    """100 keys of the greatest length are accepted, however JSON escapes them."""
    keys = [f"{number:03}" + "\U0001f600" * 397 for number in range(100)]
    enabled.flags = {keys[-1]: True}

    assert report(member, keys).status_code == 204
    assert [flag for _, flag, _ in told(enabled)] == [keys[-1]]


def test_a_large_body_is_refused(enabled, client):
    """A body over the limit is 413, and not read to its end."""
    response = report(client, ["x" * 3_000_000])

    assert response.status_code == 413
    assert response.json() == {"detail": "The body must have at most 524288 bytes."}


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "x"])
def test_only_json_is_read(enabled, client, kind):
    """What a form of another site can send is 415."""
    response = client.generic("POST", EXPOSURES_URL, b'{"keys": ["a"]}', content_type=kind)

    assert response.status_code == 415
    assert response.json() == {"detail": "The content type must be application/json."}


# CSRF and the rate limit


def test_a_session_needs_its_token(enabled, browser, user):
    """With a session, a request without the right `X-CSRFToken` is refused."""
    enabled.flags = {"a": True}
    browser.force_login(user)
    browser.cookies["csrftoken"] = "t" * 32

    answers = [
        report(browser, ["a"]),
        report(browser, ["a"], **{"x-csrftoken": "u" * 32}),
        report(browser, ["a"], **{"x-csrftoken": "t" * 32}),
    ]

    assert [one.status_code for one in answers] == [403, 403, 204]
    assert told(enabled) == [(str(user.pk), "a", True)]


def test_a_visitor_needs_no_token(enabled, browser):
    """Without a session there is nothing that a forged request could use."""
    enabled.flags = {"a": True}

    assert report(browser, ["a"]).status_code == 204
    assert len(told(enabled)) == 1


def test_a_batch_counts_once_against_the_rate(enabled, client, settings):
    """However many keys it has, a request is one request."""
    settings.REST_FRAMEWORK = {
        **settings.REST_FRAMEWORK,
        "DEFAULT_THROTTLE_RATES": {"features": "2/day"},
    }
    enabled.flags = dict.fromkeys("abcdef", True)

    answers = [report(client, list(keys)) for keys in ("abc", "def", "a")]

    assert [one.status_code for one in answers] == [204, 204, 429]
    assert int(answers[2]["Retry-After"]) > 0


# The flag whose key is `exposures`


def test_a_flag_may_be_called_exposures(enabled, member, user):
    """The flag is read, listed and reported like any other."""
    enabled.flags = {"exposures": "test"}

    one = member.get(EXPOSURES_URL)
    unchanged = member.get(EXPOSURES_URL, headers={"if-none-match": one["ETag"]})

    assert (one.status_code, one.json()["variant"]) == (200, "test")
    assert unchanged.status_code == 304
    assert member.get(f"{FEATURES_URL}?keys=exposures").json()["features"] == {"exposures": "test"}
    assert delivered(enabled) == []
    assert member.post(url("exposures")).status_code == 204
    assert told(enabled) == [(str(user.pk), "exposures", "test")]


def test_without_that_flag_its_address_is_a_404(enabled, client):
    """`GET` does not report, and knows no such flag."""
    response = client.get(EXPOSURES_URL)

    assert (response.status_code, response.json()) == (404, NOT_FOUND)


@pytest.mark.parametrize("method", ["put", "patch", "delete"])
def test_other_methods_are_refused(enabled, client, method):
    """Only `POST` reports; `Allow` lists what the document has."""
    response = getattr(client, method)(EXPOSURES_URL)

    assert response.status_code == 405
    assert response["Allow"] == "POST, OPTIONS"
