"""Requests to OFREP that get no flags, and pages of other sites, which get nothing at all."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.core.handlers.asgi import ASGIRequest
from django.core.handlers.wsgi import WSGIRequest
from django.test import Client, RequestFactory
from django.urls import include, path
from rest_framework.authentication import SessionAuthentication, TokenAuthentication
from rest_framework.permissions import IsAuthenticated
from rest_framework.throttling import BaseThrottle

from olposthog_api.ofrep.context import MAX_BODY_BYTES
from olposthog_api.ofrep.views import EvaluateFlagsView, EvaluateFlagView
from tests.api import MarkupRenderer, WhateverIsFirst
from tests.api.test_ofrep import FLAGS_URL
from tests.posthog_server import Flag

FLAG_URL = f"{FLAGS_URL}/flag"
ELSEWHERE = "https://evil.example.com"


class OwnSession(SessionAuthentication):
    """A site's own, which says in a header what is to be sent."""

    def authenticate_header(self, request):
        return "Session"


class MembersView(EvaluateFlagsView):
    """Flags for members only, who come with a token or a session."""

    authentication_classes = [TokenAuthentication, OwnSession]
    permission_classes = [IsAuthenticated]


class MemberView(EvaluateFlagView):
    """The same for one flag, without tokens."""

    authentication_classes = [SessionAuthentication]
    permission_classes = [IsAuthenticated]


class Closed(BaseThrottle):
    """A site's throttle that lets nobody through, and does not know for how long."""

    def allow_request(self, request, view):
        return False


class ClosedView(EvaluateFlagsView):
    """Flags that nobody gets."""

    throttle_classes = [Closed]


urlpatterns = [
    path("", include("olposthog_api.ofrep.urls")),
    path("closed", ClosedView.as_view()),
    path("members", MembersView.as_view()),
    path("member/<key>", MemberView.as_view()),
]
pytestmark = pytest.mark.urls(__name__)
EACH = pytest.mark.parametrize("url", [FLAGS_URL, FLAG_URL])


@pytest.fixture(autouse=True)
def _flags(enabled):
    enabled.flags = {"flag": True}


@pytest.fixture
def user(db):
    return get_user_model().objects.create_user("ada")


def post(client: Client, url: str, body: str | bytes = "{}", **headers: str) -> Any:
    # Django's client leaves the type of an empty body out, unless it is told twice.
    return client.generic("POST", url, body, headers=headers, CONTENT_TYPE="application/json")


def assert_error(response: Any, url: str, status: int, code: str) -> str:
    """It is an error in OFREP's shape; return its details."""
    assert response.status_code == status
    assert response["Content-Type"] == "application/json"
    assert {"private", "no-cache"} <= set(response["Cache-Control"].split(", "))
    error = response.json()
    assert error.pop("key", None) == (None if url == FLAGS_URL else "flag")
    details = error.pop("errorDetails")
    assert details
    assert isinstance(details, str)
    assert error == {"errorCode": code}
    return details


# Bodies


BODIES = {
    "nothing": b"",
    "cut": b'{"context": {"a": 1',
    "not UTF-8": b'{"context": {"a": "\xff"}}',
    "NaN": b'{"context": {"a": NaN}}',
    "infinite": b'{"context": {"a": 1e999}}',
    "endless integer": b'{"context": {"a": ' + b"1" * 5000 + b"}}",
    "deep": b'{"context": {"a": ' + b"[" * 30_000 + b"]" * 30_000 + b"}}",
    "deep and cut": b"[" * MAX_BODY_BYTES,
    "two": b"{}{}",
    "a form": b"context=1",
    "a list": b"[]",
    "null": b"null",
    "a string": b'"context"',
    "a number": b"1",
}
CONTEXTS: dict[str, Any] = {
    "null": None,
    "a list": [],
    "a string": "{}",
    "a number": 0,
    "false": False,
    "key is a number": {"targetingKey": 1},
    "key is null": {"targetingKey": None},
    "key is an object": {"targetingKey": {}},
}


@EACH
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_body_that_is_no_request(client, enabled, url, body):
    """Whatever is not a JSON object gets a PARSE_ERROR, and PostHog is not asked."""
    assert_error(post(client, url, body), url, 400, "PARSE_ERROR")
    assert enabled.requests == []


@EACH
@pytest.mark.parametrize("context", CONTEXTS.values(), ids=CONTEXTS)
def test_a_context_that_is_none(client, enabled, url, context):
    """A context of the wrong type gets an INVALID_CONTEXT that says what it must be."""
    response = post(client, url, json.dumps({"context": context}))

    details = assert_error(response, url, 400, "INVALID_CONTEXT")
    assert details in {"`context` must be an object.", "`targetingKey` must be a string."}
    assert enabled.requests == []


@EACH
@pytest.mark.parametrize(
    "body", ["{}", '{"context": {}}', '\ufeff{"context": {}}', '{"context": {"a": [{}]}, "b": 1}']
)
def test_a_body_that_is_a_request(client, url, body):
    """A context may be left out, and may hold whatever nobody reads."""
    assert post(client, url, body).status_code == 200


@EACH
def test_a_body_at_the_limit(client, url):
    """A body of the largest size is read, and one byte more is refused."""
    largest = b'{"context": {"a": "' + b"x" * (MAX_BODY_BYTES - 22) + b'"}}'
    assert len(largest) == MAX_BODY_BYTES

    assert post(client, url, largest).status_code == 200
    details = assert_error(post(client, url, largest + b" "), url, 413, "PARSE_ERROR")
    assert str(MAX_BODY_BYTES) in details


def test_a_huge_body_is_not_read(client):
    """Of a body of any size no more is read than it takes to refuse it."""
    request = RequestFactory().post(FLAGS_URL, b" " * 10_000_000, "application/json")
    assert isinstance(request, WSGIRequest)
    payload = request.META["wsgi.input"]

    response = EvaluateFlagsView.as_view()(request)

    assert response.status_code == 413
    assert len(payload.read()) >= 10_000_000 - 2 * MAX_BODY_BYTES


@EACH
@pytest.mark.parametrize(
    "content_type",
    [
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "text/plain",
        "text/plain; application/json",
        "application/jsonp",
        "",
    ],
)
@pytest.mark.parametrize("body", [b"{}", b""])
def test_only_json_is_read(client, enabled, url, content_type, body):
    """What a form of another site can send, without asking first, evaluates nothing."""
    response = client.generic("POST", url, body, content_type=content_type)

    assert_error(response, url, 415, "PARSE_ERROR")
    assert enabled.requests == []


@EACH
@pytest.mark.parametrize(
    "content_type", ["application/json", "application/json; charset=utf-8", "Application/JSON"]
)
def test_json_in_any_spelling(client, url, content_type):
    """Clients name a charset or none."""
    assert client.generic("POST", url, b"{}", content_type=content_type).status_code == 200


class Broken:
    """A connection that is gone."""

    def read(self, *_: Any) -> bytes:
        raise OSError("gone")


def test_a_connection_that_breaks():
    """A body that ends early is no server error."""
    request = RequestFactory().post(FLAGS_URL, b"{}", "application/json")
    setattr(request, "_stream", Broken())  # noqa: B010  # as WSGI servers put one there

    response = EvaluateFlagsView.as_view()(request)

    assert (response.status_code, response.data["errorCode"]) == (400, "PARSE_ERROR")


def test_under_asgi(enabled):
    """The body of an ASGI request is read like any other."""
    scope = {
        "type": "http",
        "method": "POST",
        "path": FLAGS_URL,
        "headers": [(b"content-type", b"application/json"), (b"content-length", b"2")],
    }

    response = EvaluateFlagsView.as_view()(ASGIRequest(scope, io.BytesIO(b"{}")))

    assert response.status_code == 200
    assert len(json.loads(response.content)["flags"]) == 1


# Other requests


@EACH
@pytest.mark.parametrize("method", ["get", "head", "put", "patch", "delete", "trace"])
def test_other_methods(client, url, method):
    """Flags are evaluated by POST alone."""
    response = client.generic(method.upper(), url)

    assert response.status_code == 405
    assert response["Allow"] == "POST, OPTIONS"
    if method != "head":
        assert_error(response, url, 405, "GENERAL")


@EACH
@pytest.mark.parametrize("query", ["flagConfigEtag=abc&flagConfigLastModified=1", "x=%00&key=y"])
def test_a_query_means_nothing(client, url, query):
    """What event streams add, and anything else, is ignored."""
    assert post(client, f"{url}?{query}").status_code == 200


@EACH
@pytest.mark.parametrize("accept", ["text/html", "application/xml", "nonsense", "*/*"])
def test_the_answer_is_json_whatever_is_accepted(client, url, accept):
    """The protocol has no other type, and no 406."""
    response = post(client, url, accept=accept)

    assert (response.status_code, response["Content-Type"]) == (200, "application/json")


@EACH
def test_odd_defaults_of_a_site_change_nothing(client, settings, url):
    """A host's renderers, negotiation and exceptions are its own affair."""
    settings.REST_FRAMEWORK = {
        **settings.REST_FRAMEWORK,
        "DEFAULT_RENDERER_CLASSES": [f"{MarkupRenderer.__module__}.MarkupRenderer"],
        "DEFAULT_CONTENT_NEGOTIATION_CLASS": f"{WhateverIsFirst.__module__}.WhateverIsFirst",
        "EXCEPTION_HANDLER": f"{__name__}.explain_nothing",
        "DEFAULT_PARSER_CLASSES": [],
    }

    assert post(client, url).status_code == 200
    assert_error(post(client, url, "["), url, 400, "PARSE_ERROR")


def explain_nothing(error, context):
    raise AssertionError("never asked")


# Credentials


@EACH
def test_wrong_credentials_are_refused(client, url, db):
    """Credentials that are not valid get an error, and not an anonymous visitor's flags."""
    response = post(client, url, authorization="Basic !")

    assert_error(response, url, 403, "GENERAL")


@pytest.mark.django_db
def test_a_401_says_how_to_authenticate(client):
    """Where a site's authentication answers 401, so do we."""
    for headers in ({}, {"authorization": "Token wrong"}):
        response = post(client, "/members", **headers)

        assert_error(response, FLAGS_URL, 401, "GENERAL")
        assert response["WWW-Authenticate"] == "Token"


@pytest.mark.django_db
def test_a_403_for_who_may_not(client):
    """A flag for members only is refused to visitors, with its key."""
    assert_error(post(client, "/member/flag"), "flag", 403, "GENERAL")


# The throttle


@EACH
@pytest.mark.parametrize("rate", ["1/day", "1/second"])
def test_a_throttled_client_is_told_for_how_long(client, settings, url, rate):
    """429 has whole seconds in Retry-After, at least one."""
    settings.REST_FRAMEWORK = {
        **settings.REST_FRAMEWORK,
        "DEFAULT_THROTTLE_RATES": {"features": rate},
    }
    answers = [post(client, url) for _ in range(3)]
    response = next(one for one in answers if one.status_code != 200)

    assert_error(response, url, 429, "GENERAL")
    assert response["Retry-After"].isdigit()
    assert 1 <= int(response["Retry-After"]) <= 86400


def test_a_throttle_that_knows_no_time(client):
    """Clients need a number: where nobody can tell, it is a second."""
    response = post(client, "/closed")

    assert_error(response, FLAGS_URL, 429, "GENERAL")
    assert response["Retry-After"] == "1"


# Cross-site requests


@EACH
@pytest.mark.parametrize("view", ["own", "members"])
def test_a_logged_in_browser_needs_no_token(enabled, user, url, view):
    """The session is enough: no CSRF token, and no Referer, is asked for."""
    enabled.flags = {"flag": Flag(only_for={str(user.pk)})}
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(user)
    if view == "members":
        url = "/members" if url == FLAGS_URL else "/member/flag"

    response = post(browser, url)

    assert response.status_code == 200
    answer = response.json()
    assert answer.get("flags", [answer])[0]["value"] is True


def test_the_rest_api_goes_on_asking_for_one():
    """Only these two views do without a token."""
    from olposthog_api.views import FeatureViewSet

    assert type(FeatureViewSet().get_authenticators()[0]) is SessionAuthentication


@EACH
def test_another_origin_reads_nothing(user, url):
    """Unless the site says so, a script of another origin may neither send JSON nor read flags."""
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(user)

    preflight = browser.options(
        url,
        headers={
            "origin": ELSEWHERE,
            "access-control-request-method": "POST",
            "access-control-request-headers": "content-type",
        },
    )
    answer = post(browser, url, origin=ELSEWHERE)

    for response in (preflight, answer):
        assert not [one for one in response.headers if one.lower().startswith("access-control")]


@EACH
@pytest.mark.parametrize("encoding", ["text/plain", "application/x-www-form-urlencoded"])
def test_a_form_of_another_site_evaluates_nothing(enabled, user, url, encoding):
    """A form sends the session's cookie along, but no JSON: it is refused, and leaves no trace."""
    browser = Client()
    browser.force_login(user)

    response = browser.generic(
        "POST", url, b'{"context": {"=": ""}}', encoding, headers={"origin": ELSEWHERE}
    )

    assert_error(response, url, 415, "PARSE_ERROR")
    assert enabled.requests == []
    assert not response.cookies


def test_markup_in_a_key_is_no_page(client):
    """A key in an error is JSON that no browser takes for a page."""
    response = client.post(f"{FLAGS_URL}/<script>alert(1)</script>", "{}", "application/json")

    assert response.status_code == 404
    assert response["Content-Type"] == "application/json"
    assert response["X-Content-Type-Options"] == "nosniff"
    assert response.json()["key"] == "<script>alert(1)</script>"
