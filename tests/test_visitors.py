"""The anonymous visitor's cookie: who gets one, and how it outlives time and keys."""

from __future__ import annotations

import time
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.core import signing
from django.core.signing import TimestampSigner, b62_encode
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.test import Client
from django.urls import include, path
from pytest_django import Settings

from olposthog._http.visitor_cookie import (
    ANONYMOUS_COOKIE_SALT,
    ANONYMOUS_COOKIE_SECONDS,
    MAX_COOKIES,
    RENEWAL_SECONDS,
)
from olposthog.features import for_request, is_enabled
from olposthog.guards import flag_required
from tests.posthog_server import PostHogServer

COOKIE = "olposthog_id"
KNOWN = "0192d7a4-1111-4000-8000-000000000001"
FEATURES_URL = "/api/features/"
OFREP_URL = "/ofrep/v1/evaluate/flags"
EXPOSURE_URL = "/api/features/flag/exposure/"


def page(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"distinct_id": for_request(request).distinct_id})


@flag_required("flag", otherwise=410)
def guarded(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


urlpatterns = [
    path("api/", include("olposthog_api.urls")),
    path("", include("olposthog_api.ofrep.urls")),
    path("page/", page),
    path("guarded/", guarded),
]
pytestmark = pytest.mark.urls(__name__)


def directives(response: Any) -> set[str]:
    return {one.strip() for one in response.get("Cache-Control", "").split(",") if one}


# Who gets a new cookie


def sent(site: str, mode: str = "", dest: str = "", **more: str) -> dict[str, str]:
    """The headers by which a browser tells where a request comes from."""
    told = {"sec-fetch-site": site, "sec-fetch-mode": mode, "sec-fetch-dest": dest, **more}
    return {name.replace("_", "-"): value for name, value in told.items() if value}


LINK = sent("cross-site", "navigate", "document")
TRUSTED = ["https://app.example.com", "https://*.example.net"]
OWN_REQUESTS: dict[str, dict[str, str]] = {
    "no browser": {},
    "address bar": sent("none", "navigate", "document"),
    "own page": sent("same-origin", "navigate", "document"),
    "own script": sent("same-origin", "cors", "empty"),
    "own image": sent("same-origin", "no-cors", "image"),
    "app on a sub-domain": sent("same-site", "cors", "empty", origin="https://app.example.org"),
    "same host, no metadata": {"origin": "http://testserver"},
    "another port, no metadata": {"origin": "http://testserver:5173"},
    "trusted origin, no metadata": {"origin": "https://app.example.com"},
    "trusted sub-domain, no metadata": {"origin": "https://a.b.example.net"},
}
FOREIGN_REQUESTS: dict[str, dict[str, str]] = {
    "image": sent("cross-site", "no-cors", "image"),
    "script": sent("cross-site", "no-cors", "script"),
    "fetch": sent("cross-site", "cors", "empty", origin="https://evil.example"),
    "opaque fetch": sent("cross-site", "no-cors", "empty"),
    "trusted fetch": sent("cross-site", "cors", "empty", origin="https://app.example.com"),
    "frame": sent("cross-site", "navigate", "iframe"),
    "old frame": sent("cross-site", "navigate", "frame"),
    "object": sent("cross-site", "navigate", "object"),
    "embed": sent("cross-site", "navigate", "embed"),
    "navigation to nowhere": sent("cross-site", "navigate"),
    "document without navigation": sent("cross-site", "cors", "document"),
    "unknown": sent("elsewhere", "navigate", "iframe"),
    "listed twice": sent("same-origin, cross-site", "cors", "empty"),
    "fetch, no metadata": {"origin": "https://evil.example"},
    "opaque origin, no metadata": {"origin": "null"},
    "alike host, no metadata": {"origin": "http://testserver.evil.example"},
    "alike ending, no metadata": {"origin": "http://eviltestserver"},
    "alike trusted, no metadata": {"origin": "https://evilapp.example.com"},
    "parent of trusted, no metadata": {"origin": "https://example.com"},
    "malformed origin, no metadata": {"origin": "http://["},
    "empty origin, no metadata": {"origin": ""},
}


@pytest.fixture(autouse=True)
def _site(enabled: PostHogServer, settings: Settings) -> None:
    """A site with one flag, that trusts two origins for its forms."""
    settings.CSRF_TRUSTED_ORIGINS = TRUSTED
    enabled.flags = {"flag": True}


@pytest.mark.parametrize("url", [FEATURES_URL, "/page/", "/guarded/"])
@pytest.mark.parametrize("name", [*OWN_REQUESTS, "link"])
def test_a_request_of_the_sites_own_starts_a_visitor(client: Client, url: str, name: str) -> None:
    """The site's pages and scripts, links from elsewhere, and clients that are no browsers."""
    response = client.get(url, headers=OWN_REQUESTS.get(name, LINK))

    assert list(response.cookies) == [COOKIE]
    assert "private" in directives(response)


@pytest.mark.parametrize("url", [FEATURES_URL, "/page/", "/guarded/"])
@pytest.mark.parametrize("name", FOREIGN_REQUESTS)
def test_another_site_starts_no_visitor(client: Client, url: str, name: str) -> None:
    """What another site's page loads may lack the cookie that the visitor has: it sets none.

    The answer, about a person who never comes again, is in no shared cache.
    """
    response = client.get(url, headers=FOREIGN_REQUESTS[name])

    assert response.status_code == 200
    assert not response.cookies
    assert "private" in directives(response)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("url", ["/page/", "/guarded/"])
@pytest.mark.parametrize("headers", [*OWN_REQUESTS.values(), LINK, *FOREIGN_REQUESTS.values()])
def test_an_unsafe_method_starts_no_visitor(
    client: Client, url: str, method: str, headers: dict[str, str]
) -> None:
    """A form of another site, sent to a new tab, comes without the cookie and sets none."""
    response = client.generic(method, url, headers=headers)

    assert response.status_code == 200
    assert not response.cookies
    assert "private" in directives(response)


@pytest.mark.parametrize(("key", "status"), [("flag", 204), ("unknown", 404)])
@pytest.mark.parametrize("headers", [{}, LINK, FOREIGN_REQUESTS["fetch, no metadata"]])
def test_an_exposure_starts_no_visitor(
    client: Client, key: str, status: int, headers: dict[str, str]
) -> None:
    """Whoever reports an exposure has fetched flags before; a 204 or 404 sets no cookie."""
    response = client.post(f"/api/features/{key}/exposure/", headers=headers)

    assert response.status_code == status
    assert not response.cookies


def test_a_visitor_stays_who_they_are(client: Client) -> None:
    """No request that another site makes without our cookie, one after the other, changes it."""
    before = client.get(FEATURES_URL).json()["distinct_id"]
    for headers in (LINK, *FOREIGN_REQUESTS.values()):
        for method in ("GET", "HEAD", "POST"):
            if method == "GET" and headers is LINK:
                continue  # which brings the cookie
            kept = client.cookies.pop(COOKIE)
            client.generic(method, "/page/", headers=headers)
            client.post(EXPOSURE_URL, headers=headers)
            assert COOKIE not in client.cookies
            client.cookies[COOKIE] = kept.value

    assert client.get(FEATURES_URL).json()["distinct_id"] == before


def test_head_starts_a_visitor_as_get_does(client: Client) -> None:
    """HEAD is a safe method, and no browser opens a page by it."""
    assert list(client.head("/page/").cookies) == [COOKIE]
    assert not Client().head("/page/", headers=LINK).cookies


@pytest.mark.parametrize(
    ("same_site", "headers", "is_started"),
    [
        ("None", FOREIGN_REQUESTS["fetch"], True),
        ("none", FOREIGN_REQUESTS["frame"], True),
        ("None", FOREIGN_REQUESTS["fetch, no metadata"], True),
        ("Strict", LINK, False),
        ("Strict", OWN_REQUESTS["address bar"], True),
        ("Strict", OWN_REQUESTS["app on a sub-domain"], True),
        ("Strict", FOREIGN_REQUESTS["fetch"], False),
        ("Lax", LINK, True),
        (False, LINK, True),
        (False, FOREIGN_REQUESTS["fetch"], False),
        (None, FOREIGN_REQUESTS["fetch"], False),
    ],
)
def test_same_site_says_when_the_cookie_is_sent(
    client: Client, settings: Settings, same_site: Any, headers: dict[str, str], *, is_started: bool
) -> None:
    """SameSite=None is sent from anywhere, Strict not even with a link, anything else as Lax."""
    settings.SESSION_COOKIE_SAMESITE = same_site
    settings.SESSION_COOKIE_SECURE = True

    assert (COOKIE in client.get("/page/", headers=headers).cookies) is is_started
    assert not client.post("/page/", headers=headers).cookies or is_started


@pytest.mark.parametrize(
    ("headers", "is_started"),
    [
        *((headers, True) for headers in OWN_REQUESTS.values()),
        *((headers, False) for headers in FOREIGN_REQUESTS.values()),
        (LINK, False),
    ],
)
def test_ofrep_starts_a_visitor_by_post(
    client: Client, headers: dict[str, str], *, is_started: bool
) -> None:
    """OpenFeature's clients evaluate by POST, and get a cookie on the site's own pages."""
    response = client.post(OFREP_URL, {}, "application/json", headers=headers)

    assert response.status_code == 200
    assert (COOKIE in response.cookies) is is_started


def test_the_cookies_domain_is_the_sites_own(client: Client, settings: Settings) -> None:
    """Without metadata, an origin within SESSION_COOKIE_DOMAIN is of the same site."""
    headers = {"origin": "https://shop.example.org"}
    assert not client.get("/page/", headers=headers).cookies

    settings.SESSION_COOKIE_DOMAIN = "example.org"
    assert client.get("/page/", headers=headers).cookies


# Renewal

DAY = 24 * 3600


class AgedSigner(TimestampSigner):
    """Signs as it was done some time ago."""

    age = 0

    def timestamp(self) -> str:
        return b62_encode(int(time.time()) - self.age)


@pytest.fixture
def written(settings: Settings) -> Any:
    """Write cookies as the site did some time ago, with another key, or as old Djangos did."""

    def write(
        *, age: int = 0, key: str | None = None, is_legacy: bool = False, value: str = KNOWN
    ) -> str:
        now = (settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS, settings.SIGNING_BACKEND)
        AgedSigner.age = age
        settings.SIGNING_BACKEND = f"{__name__}.AgedSigner"
        settings.SECRET_KEY = key or settings.SECRET_KEY
        response = HttpResponse()
        if is_legacy:
            signer = signing.get_cookie_signer(salt=COOKIE + ANONYMOUS_COOKIE_SALT)
            response.set_cookie(COOKIE, signer.sign(value))
        else:
            response.set_signed_cookie(COOKIE, value, salt=ANONYMOUS_COOKIE_SALT)
        settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS, settings.SIGNING_BACKEND = now
        return str(response.cookies[COOKIE].value)

    return write


RENEWED: dict[str, dict[str, Any]] = {
    "a month": {"age": RENEWAL_SECONDS + DAY},
    "a year": {"age": ANONYMOUS_COOKIE_SECONDS + DAY},
    "an old key": {"key": "the key before"},
    "an old key and a month": {"key": "the key before", "age": RENEWAL_SECONDS + DAY},
    "the oldest key": {"key": "the key before that"},
}
KEPT: dict[str, dict[str, Any]] = {
    "now": {},
    "a week": {"age": 7 * DAY},
    "nearly a month": {"age": RENEWAL_SECONDS - DAY},
    "a clock that is fast": {"age": -DAY},
}


@pytest.fixture
def _rotated(settings: Settings) -> None:
    """A site that has changed its key twice."""
    settings.SECRET_KEY_FALLBACKS = ["the key before", "the key before that"]


@pytest.mark.usefixtures("_rotated")
@pytest.mark.parametrize("url", [FEATURES_URL, "/page/"])
@pytest.mark.parametrize("name", RENEWED)
def test_a_cookie_is_renewed(
    client: Client, settings: Settings, written: Any, url: str, name: str
) -> None:
    """A cookie that is a month old, or signed with an old key, is set again, with the same id."""
    client.cookies[COOKIE] = written(**RENEWED[name])

    response = client.get(url)

    assert response.json()["distinct_id"] == KNOWN
    assert response.cookies[COOKIE]["max-age"] == ANONYMOUS_COOKIE_SECONDS
    assert response.cookies[COOKIE]["httponly"] is True
    assert "private" in directives(response)
    settings.SECRET_KEY_FALLBACKS = []  # the rotation is over
    again = client.get(url)
    assert again.json()["distinct_id"] == KNOWN
    assert not again.cookies


@pytest.mark.usefixtures("_rotated")
@pytest.mark.parametrize("name", KEPT)
def test_a_younger_cookie_is_left(client: Client, written: Any, name: str) -> None:
    """A cookie of the last weeks is not set again, so that answers can be cached."""
    client.cookies[COOKIE] = written(**KEPT[name])

    response = client.get(FEATURES_URL)

    assert response.json()["distinct_id"] == KNOWN
    assert not response.cookies


def test_a_cookie_of_an_earlier_django_is_renewed(client: Client, written: Any) -> None:
    """A cookie as Django signed it before 6.1 keeps its visitor, and is set again since."""
    client.cookies[COOKIE] = written(is_legacy=True)

    response = client.get(FEATURES_URL)

    assert response.json()["distinct_id"] == KNOWN
    assert bool(response.cookies) is hasattr(signing, "_cookie_signer_salt")  # the newer way
    assert not client.get(FEATURES_URL).cookies


def test_a_key_that_is_gone_loses_its_visitors(client: Client, written: Any) -> None:
    """A cookie signed with a key that is in no setting any more is a stranger's."""
    client.cookies[COOKIE] = written(key="the key before")

    assert client.get(FEATURES_URL).json()["distinct_id"] != KNOWN


@pytest.mark.parametrize("headers", [{}, *FOREIGN_REQUESTS.values()])
def test_any_request_that_brings_the_cookie_renews_it(
    client: Client, written: Any, headers: dict[str, str]
) -> None:
    """The id stays the same, whoever caused the request and by whatever method."""
    client.cookies[COOKIE] = written(age=RENEWAL_SECONDS + DAY)

    response = client.post(EXPOSURE_URL, headers=headers)

    assert response.status_code == 204
    assert response.cookies[COOKIE].value.startswith(KNOWN)


@pytest.mark.parametrize("trusts", [False, True])
def test_a_users_device_is_renewed(
    client: Client, written: Any, settings: Settings, db: None, *, trusts: bool
) -> None:
    """The cookie's id is a user's device id, and lasts as long as it is used."""
    settings.POSTHOG_API_TRUST_BROWSER_ID = trusts
    client.cookies["ph_phc_test_posthog"] = f'{{"$device_id": "{KNOWN}"}}'
    user = get_user_model().objects.create_user("ada")
    client.force_login(user)
    client.cookies[COOKIE] = written(age=RENEWAL_SECONDS + DAY)

    response = client.get(FEATURES_URL)

    assert response.json()["distinct_id"] == str(user.pk)
    assert response.cookies[COOKIE].value.startswith(KNOWN)
    assert not client.get(FEATURES_URL).cookies


def test_a_304_renews_too(client: Client, written: Any) -> None:
    """A renewal changes neither the ETag nor the answer, and comes with a 304 as well."""
    client.cookies[COOKIE] = written()
    etag = client.get(FEATURES_URL)["ETag"]
    client.cookies[COOKIE] = written(age=RENEWAL_SECONDS + DAY)

    response = client.get(FEATURES_URL, headers={"if-none-match": etag})

    assert (response.status_code, response["ETag"]) == (304, etag)
    assert response.cookies[COOKIE].value.startswith(KNOWN)
    assert directives(response) == {"private", "no-cache"}


def test_a_page_that_asks_nothing_renews_nothing(client: Client, written: Any) -> None:
    """Only answers that depend on who asks set cookies."""
    client.cookies[COOKIE] = written(age=RENEWAL_SECONDS + DAY)

    assert not client.get("/nowhere/").cookies


def test_a_forged_cookie_is_not_renewed(client: Client, written: Any) -> None:
    """A cookie whose age or id was changed is a new visitor's, whatever its age."""
    genuine = written(age=RENEWAL_SECONDS + DAY)
    other = KNOWN.replace("1", "2")
    _, stamp, signature = genuine.split(":")
    for forged in (f"{other}:{stamp}:{signature}", f"{KNOWN}:{b62_encode(1)}:{signature}"):
        client.cookies[COOKIE] = forged
        assert client.get(FEATURES_URL).json()["distinct_id"] not in {KNOWN, other}


FORGED = [f"{KNOWN.replace('1', '2')}:1aaaaa:{'x' * 43}", KNOWN, "", '"', "\\\\", "é" * 9, ":::"]


def cookie_headers(known: str, forged: str) -> dict[str, str]:
    """Return what a web server makes of two cookies of our name, in one header or in two."""
    ours, other = f"{COOKIE}={known}", f"{COOKIE}={forged}"
    return {
        "forged first": f"{other}; {ours}",
        "forged last": f"{ours}; a=b; {other}",
        "two headers, forged first": f"{other},{ours}",
        "two headers, forged last": f"{ours},{other}; a=b",
        "after another header": f"a=b,{ours}; {other}",
        "without a space": f"{other};{ours};a=b",
    }


@pytest.mark.parametrize("age", [0, RENEWAL_SECONDS + DAY], ids=["new", "old"])
@pytest.mark.parametrize("forged", FORGED)
@pytest.mark.parametrize("way", cookie_headers("", ""))
def test_a_forged_cookie_hides_no_genuine_one(
    client: Client, written: Any, way: str, forged: str, age: int
) -> None:
    """Whoever can add cookies of our name, as a sub-domain can, makes no new visitor of a known."""
    header = cookie_headers(written(age=age), forged)[way]

    response = client.get(FEATURES_URL, headers={"cookie": header})

    assert response.json()["distinct_id"] == KNOWN
    assert bool(response.cookies) is (age > 0)


def test_of_genuine_cookies_the_one_that_django_chose_counts(client: Client, written: Any) -> None:
    """The id of the last one stays the same when that cookie gets old."""
    another = written(value=KNOWN.replace("1", "2"))
    for age in (0, RENEWAL_SECONDS + DAY):
        pair = f"{COOKIE}={another}; {COOKIE}={written(age=age)}"
        response = client.get(FEATURES_URL, headers={"cookie": pair})
        assert response.json()["distinct_id"] == KNOWN


def test_many_forged_cookies_are_not_all_verified(client: Client, written: Any) -> None:
    """A header full of cookies of our name costs no more than a few signatures."""
    forged = [f"{COOKIE}=forged"] * MAX_COOKIES
    header = "; ".join([*forged, f"{COOKIE}={written()}", *forged])

    response = client.get(FEATURES_URL, headers={"cookie": header})

    assert response.status_code == 200
    assert response.json()["distinct_id"] != KNOWN


def test_reading_twice_remembers_once(written: Any, rf: Any) -> None:
    """However often a request asks, a renewed cookie is the visitor's own."""
    request = rf.get("/")
    request.COOKIES[COOKIE] = written(age=RENEWAL_SECONDS + DAY)

    assert {for_request(request).distinct_id for _ in range(3)} == {KNOWN}
    assert is_enabled("flag", request=request) is True
