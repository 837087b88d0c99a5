"""Impersonation: `request.user` is another user from the middle of a request on.

django-hijack and django-loginas log the other user in, or replace `request.user` in a middleware or
view. From then on flags are the other user's alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.template import RequestContext, Template
from django.test import AsyncClient, Client
from django.urls import include, path
from django.utils.functional import SimpleLazyObject
from django.views.decorators.cache import cache_page
from pytest_django import Settings
from rest_framework.decorators import api_view
from rest_framework.response import Response

from olposthog.features import ais_enabled, for_request, is_enabled
from olposthog.guards import flag_required
from olposthog.snapshot import Runtime
from tests.posthog_server import Flag, PostHogServer

ADMIN, USER = "7", "8"
TEMPLATE = '{% load olposthog %}{% flag "beta" %}new{% elseflag %}old{% endflag %}'


def user_of(key: str | None) -> Any:
    return get_user_model()(pk=int(key)) if key else AnonymousUser()


def signed_in(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Authenticate users by a header, whose value is the user's id."""

    def middleware(request: HttpRequest) -> Any:
        request.user = user_of(request.headers.get("X-User"))
        return get_response(request)

    return middleware


def impersonating(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Read a flag of the user who signed in, then replace that user by another one."""

    def middleware(request: Any) -> Any:
        is_enabled("beta", request=request)
        for_request(request, runtime=Runtime.CLIENT)
        other = request.headers.get("X-Impersonated")
        if other is not None:
            request.user = SimpleLazyObject(lambda: user_of(other))
        return get_response(request)

    return middleware


def shown(*, is_on: bool) -> HttpResponse:
    return HttpResponse("new" if is_on else "old")


def by_features(request: Any) -> HttpResponse:
    return shown(is_on=request.features.is_enabled("beta"))


def by_function(request: HttpRequest) -> HttpResponse:
    return shown(is_on=is_enabled("beta", request=request))


async def by_coroutine(request: HttpRequest) -> HttpResponse:
    return shown(is_on=await ais_enabled("beta", request=request))


def by_template(request: HttpRequest) -> HttpResponse:
    return HttpResponse(Template(TEMPLATE).render(RequestContext(request)))


@flag_required("beta", otherwise=lambda request: shown(is_on=False))
def by_guard(request: HttpRequest) -> HttpResponse:
    return shown(is_on=True)


@api_view(["GET"])
def by_rest(request: Any) -> Response:
    return Response("new" if request.features.is_enabled("beta") else "old")


def swapping(request: Any) -> HttpResponse:
    """Read for one user, for others and for the first one again."""
    seen = []
    for key in (ADMIN, USER, None, ADMIN, USER):
        request.user = user_of(key)
        for runtime in Runtime:
            snapshot = for_request(request, runtime=runtime)
            seen.append([snapshot.distinct_id, snapshot.flags["beta"]])
        assert request.features.is_enabled("beta") is snapshot.flags["beta"]
    return JsonResponse({"seen": seen})


PAGES: dict[str, Any] = {
    "features": by_features,
    "function": by_function,
    "coroutine": by_coroutine,
    "template": by_template,
    "guard": by_guard,
    "rest": by_rest,
    "cached-features": cache_page(600)(by_features),
    "cached-guard": cache_page(600)(by_guard),
    "cached-rest": cache_page(600)(by_rest),
}
urlpatterns = [
    path("api/", include("olposthog_api.urls")),
    path("swapping/", swapping),
    *[path(f"{name}/", view) for name, view in PAGES.items()],
]
pytestmark = pytest.mark.urls(__name__)


@pytest.fixture(autouse=True)
def _site(enabled: PostHogServer, settings: Settings) -> None:
    """A site where administrators impersonate users, with a flag that one user has."""
    enabled.flags = {"beta": Flag(only_for={USER})}
    settings.MIDDLEWARE = [
        f"{__name__}.signed_in",
        "olposthog.middleware.IdentityMiddleware",
        f"{__name__}.impersonating",
    ]


@pytest.fixture(params=["wsgi", "asgi"])
def get(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Return the function that requests a page as a user, perhaps one who impersonates another."""
    ask: Any = Client().get if request.param == "wsgi" else async_to_sync(AsyncClient().get)

    def get(url: str, user: str, impersonated: str | None = None) -> Any:
        headers = {"x-user": user}
        if impersonated is not None:
            headers["x-impersonated"] = impersonated
        return ask(url, headers=headers)

    return get


@pytest.mark.parametrize("name", PAGES)
def test_flags_are_the_impersonated_users(get: Callable[..., Any], name: str) -> None:
    """However flags are read, under `cache_page` too: during and after it, each user's own."""
    asked = [(ADMIN,), (ADMIN, USER), (ADMIN,), (USER,), (USER, ADMIN), (ADMIN, USER), (USER, "")]

    answers = [get(f"/{name}/", *users) for users in asked]

    shown = [b"new" in one.content for one in answers]
    assert shown == [False, True, False, True, False, True, False]
    for one in answers:
        assert "private" in one["Cache-Control"]
        assert {"Cookie", "Authorization"} <= set(one["Vary"].split(", "))


def test_rest_api_names_the_impersonated_user(get: Callable[..., Any]) -> None:
    """The REST API gives the impersonated user's flags, whose ETag is not the administrator's."""
    admin, user = get("/api/features/", ADMIN), get("/api/features/", ADMIN, USER)

    assert [one.json()["distinct_id"] for one in (admin, user)] == [ADMIN, USER]
    assert [one.json()["features"]["beta"] for one in (admin, user)] == [False, True]
    assert admin["ETag"] != user["ETag"]


def test_users_that_alternate_are_never_mixed(get: Callable[..., Any]) -> None:
    """Whoever `request.user` is at the moment has both runtimes' flags, as often as it changes."""
    seen = get("/swapping/", ADMIN).json()["seen"]

    users = [ADMIN, USER, seen[4][0], ADMIN, USER]
    assert len(users[2]) == 36  # an anonymous visitor's
    assert seen == [[user, user == USER] for user in users for _ in Runtime]
