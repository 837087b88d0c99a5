"""The middleware: a page's visitor is the API's visitor, from the first visit."""

from __future__ import annotations

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth import get_user_model, login, logout
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.test import AsyncClient
from django.urls import include, path

from olposthog.features import aevaluate, ais_enabled, clear_cache, for_request, is_enabled
from olposthog.snapshot import Runtime
from tests.posthog_server import Flag

COOKIE = "olposthog_id"
FEATURES_URL = "/api/features/"


def page(request: HttpRequest) -> HttpResponse:
    snapshot = for_request(request)
    return JsonResponse({"distinct_id": snapshot.distinct_id, "features": dict(snapshot.flags)})


def asking_page(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"hers": is_enabled("hers", request=request)})


def plain_page(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"hers": is_enabled("hers", opt_unique_id="somebody")})


def streaming_page(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse([for_request(request).distinct_id])


def missing_page(request: HttpRequest) -> HttpResponse:
    for_request(request)
    raise Http404


def login_page(request: HttpRequest) -> HttpResponse:
    seen = [for_request(request, runtime=runtime).flags["hers"] for runtime in Runtime]
    login(request, get_user_model().objects.get(), "django.contrib.auth.backends.ModelBackend")
    seen += [for_request(request, runtime=runtime).flags["hers"] for runtime in Runtime]
    logout(request)
    seen += [for_request(request, runtime=runtime).flags["hers"] for runtime in Runtime]
    return JsonResponse({"seen": seen})


async def async_page(request: HttpRequest) -> HttpResponse:
    snapshot = await aevaluate(request=request)
    enabled = await ais_enabled("hers", request=request)
    return JsonResponse({"distinct_id": snapshot.distinct_id, "hers": enabled})


async def async_plain_page(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


urlpatterns = [
    path("api/", include("olposthog_api.urls")),
    path("page/", page),
    path("asking/", asking_page),
    path("plain/", plain_page),
    path("streaming/", streaming_page),
    path("missing/", missing_page),
    path("login/", login_page),
    path("async/", async_page),
    path("async/plain/", async_plain_page),
]
pytestmark = pytest.mark.urls(__name__)


def vary(response) -> set[str]:
    return {part.strip().lower() for part in response.get("Vary", "").split(",") if part}


@pytest.fixture
def user(db):
    return get_user_model().objects.create_user("ada")


@pytest.mark.parametrize("first", ["page", "api"])
def test_page_and_api_agree_from_the_first_visit(enabled, client, first):
    """Whichever a browser meets first, page and API evaluate for the same visitor."""
    enabled.flags = {"theirs": Flag(only_for=lambda body: body["distinct_id"] > "8")}
    urls = ["/page/", FEATURES_URL] if first == "page" else [FEATURES_URL, "/page/"]

    before, after = (client.get(url) for url in urls)

    assert list(before.cookies) == [COOKIE]
    assert not after.cookies
    assert before.json()["distinct_id"] == after.json()["distinct_id"]
    assert before.json()["features"] == after.json()["features"]


def test_a_page_sets_the_cookie_that_the_api_sets(enabled, client):
    """The page's cookie lives as long, and is as well protected, as the API's."""
    from_page = client.get("/page/").cookies[COOKIE]
    client.cookies.clear()
    from_api = client.get(FEATURES_URL).cookies[COOKIE]

    kept = ("max-age", "path", "domain", "secure", "httponly", "samesite")
    assert [from_page[name] for name in kept] == [from_api[name] for name in kept]
    assert from_page["max-age"] == 365 * 24 * 3600


@pytest.mark.parametrize("url", ["/page/", "/asking/", "/streaming/", "/missing/", "/async/"])
def test_a_page_that_asks_for_flags_varies(enabled, client, url, db):
    """A page whose flags depend on the visitor sets the cookie and names its headers in `Vary`."""
    response = client.get(url)

    assert list(response.cookies) == [COOKIE]
    assert {"cookie", "authorization"} <= vary(response)


@pytest.mark.parametrize("url", ["/plain/", "/async/plain/", "/nowhere/"])
def test_a_page_that_asks_for_no_flags_is_left_alone(enabled, client, url):
    """Without a question about its visitor a page gets neither a cookie nor a `Vary`."""
    response = client.get(url)

    assert not response.cookies
    assert "Vary" not in response


def test_a_later_visit_sets_no_cookie(enabled, client):
    """A visitor whom we know gets no new cookie, and the page still varies."""
    client.get("/page/")

    response = client.get("/page/")

    assert not response.cookies
    assert {"cookie", "authorization"} <= vary(response)


def test_the_vary_of_a_trusting_site_names_the_header(enabled, client, settings):
    """Where the browser's own id counts, pages vary on its header too."""
    settings.POSTHOG_API_TRUST_BROWSER_ID = True

    assert "x-posthog-distinct-id" in vary(client.get("/page/"))


def test_a_user_gets_no_visitors_cookie(enabled, client, user):
    """Whoever is logged in needs no anonymous id."""
    client.force_login(user)

    response = client.get("/page/")

    assert response.json()["distinct_id"] == str(user.pk)
    assert not response.cookies


def test_login_and_logout_within_a_request_switch_flags(enabled, client, user):
    """A view that logs somebody in sees their flags at once, in both runtimes."""
    enabled.flags = {"hers": Flag(only_for={str(user.pk)})}

    assert client.get("/login/").json() == {"seen": [False, False, True, True, False, False]}


def test_one_request_has_one_answer(enabled, client):
    """What `for_request` found stays with the request, whatever changes meanwhile."""
    enabled.flags = {"hers": True}
    request = client.get("/page/").wsgi_request
    enabled.flags = {"hers": False}
    clear_cache()

    assert for_request(request).flags["hers"] is True
    assert is_enabled("hers", request=request) is True
    assert len(enabled.flag_calls) == 1


# Async


def aget(client: AsyncClient, url: str):
    return async_to_sync(client.get)(url)


@pytest.mark.parametrize("url", ["/async/", "/page/", FEATURES_URL])
def test_it_works_under_asgi(enabled, url):
    """Served by ASGI, async views, sync views and the API set one cookie and agree."""
    client = AsyncClient()
    enabled.flags = {"hers": True}

    first = aget(client, url)
    second = aget(client, "/async/")

    assert list(first.cookies) == [COOKIE]
    assert not second.cookies
    assert first.json()["distinct_id"] == second.json()["distinct_id"]
    assert second.json()["hers"] is True
    assert {"cookie", "authorization"} <= vary(first)


def test_async_pages_without_flags_are_left_alone(enabled):
    """An async page that asks for no flags gets neither a cookie nor a `Vary`."""
    response = aget(AsyncClient(), "/async/plain/")

    assert not response.cookies
    assert "Vary" not in response


@pytest.mark.django_db(transaction=True)
def test_async_views_know_the_user(enabled, user):
    """Who is logged in is read without blocking the event loop, and is the user there too."""
    client = AsyncClient()
    client.force_login(user)
    enabled.flags = {"hers": Flag(only_for={str(user.pk)})}

    response = aget(client, "/async/")

    assert response.json() == {"distinct_id": str(user.pk), "hers": True}
    assert COOKIE not in response.cookies
