"""What a page of somebody else's, or a browser that guesses, can make of the answers: nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.contrib.auth import get_user_model, logout
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import include, path

from tests.api.test_exposure import url
from tests.posthog_server import Flag, Variant
from tests.test_bootstrap import bootstrapped, decoded, page
from tests.test_exposures import told

FEATURES_URL = "/api/features/"
FLAG_URL = "/api/features/flag/"
ELSEWHERE = "https://evil.example.com"
MARKUP = "<script>alert(1)</script>"


def log_out(request: HttpRequest) -> HttpResponse:
    logout(request)
    return HttpResponse()


urlpatterns = [
    path("api/", include("olposthog_api.urls")),
    path("page/", page),
    path("log-out/", log_out),
]
pytestmark = pytest.mark.urls(__name__)


@pytest.fixture
def people(db):
    users = get_user_model().objects
    return [users.create_user(name, password="demo") for name in ("ada", "eve")]


@pytest.fixture(autouse=True)
def _quick_passwords(settings):
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


# Other origins


@pytest.mark.parametrize("mode", ["cors", "no-cors"])
@pytest.mark.parametrize("address", [FEATURES_URL, FLAG_URL, f"{FEATURES_URL}?callback=steal"])
def test_another_origin_reads_nothing(enabled, client, people, address, mode):
    """Unless the site says so, no script of another origin may read an answer, as JSONP neither."""
    enabled.flags = {"flag": True}
    client.force_login(people[0])

    response = client.get(address, headers={"origin": ELSEWHERE, "sec-fetch-mode": mode})
    asked = client.options(
        address, headers={"origin": ELSEWHERE, "access-control-request-method": "GET"}
    )

    for answer in (response, asked):
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]
        assert answer["Content-Type"] == "application/json"
        assert json.loads(answer.content)


def test_another_origin_reports_nothing_for_a_user(enabled, people):
    """A form on another site, which a browser sends with the session's cookie, is refused."""
    enabled.flags = {"flag": True}
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(people[0])

    response = browser.post(url("flag"), {"variant": "forged"}, headers={"origin": ELSEWHERE})

    assert response.status_code == 403
    assert told(enabled) == []


# Nothing is taken for a page


@pytest.fixture
def every_answer(enabled, settings):
    """One answer of each status, with markup wherever a flag, a key or a client can put it."""
    settings.FEATURES = {"own": MARKUP}
    enabled.flags = {"flag": Variant(MARKUP, payload=MARKUP), MARKUP: Flag(payload={MARKUP: 1})}
    key = "%3Cscript%3Ealert(1)%3C%2Fscript%3E"

    def ask():
        client = Client()
        answers = [
            client.get(FEATURES_URL),
            client.get(FLAG_URL),
            client.get(FEATURES_URL, headers={"if-none-match": "*"}),
            client.get(f"{FEATURES_URL}?keys={key}%00"),
            client.get(f"{FEATURES_URL}{key[:20]}/"),
            client.get(FEATURES_URL, headers={"authorization": "Basic !"}),
            client.get(FEATURES_URL, headers={"accept": "text/html"}),
            client.put(f"{FLAG_URL}?x={key}"),
            client.options(FEATURES_URL),
            client.post(url("flag")),
            client.post(url("flag"), headers={"accept": "text/html"}),
            client.post(url(key[:20])),
            client.get(url("flag")),
        ]
        settings.REST_FRAMEWORK = {
            **settings.REST_FRAMEWORK,
            "DEFAULT_THROTTLE_RATES": {"features": "1/day"},
        }
        return [*answers, client.get(FEATURES_URL), client.post(url("flag"))]

    return ask


STATUSES = {200, 204, 304, 400, 403, 404, 405, 406, 429}


@pytest.mark.parametrize("site", ["bare", "guarded", "careless"])
def test_no_answer_passes_for_html(every_answer, settings, site):
    """Whatever the status, it is JSON or empty, and no browser may guess otherwise."""
    if site != "bare":
        settings.SECURE_CONTENT_TYPE_NOSNIFF = site == "guarded"
        settings.MIDDLEWARE = [
            "django.middleware.security.SecurityMiddleware",
            *settings.MIDDLEWARE,
        ]
    answers = every_answer()

    assert {response.status_code for response in answers} == STATUSES
    for response in answers:
        assert response["X-Content-Type-Options"] == "nosniff"
        if response.content:
            assert response["Content-Type"] == "application/json"
            assert json.loads(response.content)
        else:
            assert "Content-Type" not in response


def test_no_value_lands_in_an_address(every_answer):
    """No answer redirects, and no header but the ETag depends on a value."""
    for response in every_answer():
        assert not {"Location", "Link", "Refresh", "Content-Location"} & response.headers.keys()
        assert MARKUP not in str(response.headers)


# Logging in and out


def test_each_person_has_their_own_from_the_next_fetch_on(enabled, people):
    """Visitor, Ada, visitor, Eve: one browser that keeps every answer is never told a wrong one."""
    ada, eve = people
    enabled.flags = {
        "hers": Flag(only_for={str(ada.pk)}),
        "eves": Flag(only_for={str(eve.pk)}, payload="eve's"),
        "all": True,
    }
    browser = Client()
    kept: dict[str, Any] = {}

    def look():
        """Fetch, offering all ETags of before; return what the API and a page then show."""
        response = browser.get(FEATURES_URL, headers={"if-none-match": ",".join(kept)})
        if response.status_code == 200:
            kept[response["ETag"]] = response.json()
        answer, in_page = kept[response["ETag"]], bootstrapped(browser.get("/page/"))
        assert in_page["distinctID"] == answer["distinct_id"]
        payloads = {key: decoded(one) for key, one in in_page["featureFlagPayloads"].items()}
        assert payloads == answer["payloads"]
        assert in_page["featureFlags"] == answer["features"]
        on = [key for key, value in answer["features"].items() if value]
        return response.status_code, answer["distinct_id"], " ".join(on)

    _, visitor, _ = first = look()
    seen = []
    for user in (ada, eve, ada):
        assert browser.login(username=user.username, password="demo")
        seen.append(look())
        browser.post("/log-out/")
        seen.append(look())

    assert first == (200, visitor, "all")
    assert seen == [
        (200, str(ada.pk), "all hers"),
        (304, visitor, "all"),
        (200, str(eve.pk), "all eves"),
        (304, visitor, "all"),
        (304, str(ada.pk), "all hers"),
        (304, visitor, "all"),
    ]


def test_a_log_in_makes_another_exposure(enabled, people):
    """A flag that is shown before and after a log-in counts for the visitor, then for the user."""
    enabled.flags = {"flag": True}
    browser = Client()
    visitor = browser.get(FEATURES_URL).json()["distinct_id"]
    browser.post(url("flag"))
    browser.force_login(people[0])

    browser.post(url("flag"))

    assert told(enabled) == [(visitor, "flag", True), (str(people[0].pk), "flag", True)]
