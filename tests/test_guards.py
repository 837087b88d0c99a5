"""Guards: a view for those who have a flag, another answer for the others."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from typing import Any

import pytest
from asgiref.sync import async_to_sync, iscoroutinefunction
from django.contrib.auth import get_user_model
from django.contrib.auth.decorators import login_not_required
from django.contrib.auth.mixins import LoginRequiredMixin
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.test import AsyncClient, Client
from django.urls import NoReverseMatch, include, path, re_path, reverse, reverse_lazy
from django.utils.asyncio import async_unsafe
from django.utils.decorators import method_decorator
from django.utils.functional import lazy
from django.views import View
from django.views.decorators.cache import cache_page
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.vary import vary_on_headers
from django.views.generic import TemplateView
from rest_framework.authentication import SessionAuthentication, TokenAuthentication
from rest_framework.authtoken.models import Token
from rest_framework.decorators import (
    api_view,
    authentication_classes,
    permission_classes,
)
from rest_framework.permissions import IsAdminUser
from rest_framework.response import Response
from rest_framework.routers import SimpleRouter
from rest_framework.views import APIView
from rest_framework.viewsets import ViewSet

from olposthog.features import clear_cache, is_enabled
from olposthog.guards import FlagRequiredMixin, flag_path, flag_required
from olposthog.identity import remember_identity
from olposthog_api.permissions import FlagPermission
from tests.posthog_faults import Refuse
from tests.posthog_server import Flag
from tests.test_exposures import told

COOKIE = "olposthog_id"


@async_unsafe("views like this one use the database")
def in_a_thread() -> None:
    """Complain where it would stop an event loop."""


def new(request: HttpRequest, /, **kwargs: Any) -> HttpResponse:
    in_a_thread()
    return JsonResponse({"view": "new", **kwargs})


def old(request: HttpRequest, **kwargs: Any) -> HttpResponse:
    in_a_thread()
    return JsonResponse({"view": "old", **kwargs})


async def anew(request: HttpRequest, **kwargs: Any) -> HttpResponse:
    return JsonResponse({"view": "new", **kwargs})


async def aold(request: HttpRequest, **kwargs: Any) -> HttpResponse:
    return JsonResponse({"view": "old", **kwargs})


class New(View):
    shown = "new"

    def get(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        in_a_thread()
        return JsonResponse({"view": self.shown, **kwargs})

    post = get


class ANew(View):
    shown = "new"

    async def get(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        return JsonResponse({"view": self.shown, **kwargs})

    post = get


class Guarded(FlagRequiredMixin, New):
    flag_required = "beta"


class AGuarded(FlagRequiredMixin, ANew):
    flag_required = "beta"


class Else(Guarded):
    flag_otherwise = old


class AElse(Guarded):
    flag_otherwise = aold


class AsyncElse(AGuarded):
    flag_otherwise = old


class AsyncAElse(AGuarded):
    flag_otherwise = aold


class Methods(New):
    @method_decorator(flag_required("beta", otherwise=old))
    def get(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        return super().get(request, **kwargs)


class AMethods(ANew):
    @method_decorator(flag_required("beta", otherwise=old))
    async def get(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        return await super().get(request, **kwargs)

    async def post(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        raise NotImplementedError


@method_decorator(flag_required("beta", otherwise=aold), name="dispatch")
class Dispatch(New):
    pass


@method_decorator(flag_required("beta", otherwise=old), name="dispatch")
class ADispatch(ANew):
    pass


WITH_OLD: dict[str, Any] = {
    "function": flag_required("beta", otherwise=old)(new),
    "function, async old": flag_required("beta", otherwise=aold)(new),
    "function, old class": flag_required("beta", otherwise=New.as_view(shown="old"))(new),
    "async function": flag_required("beta", otherwise=old)(anew),
    "async function, async old": flag_required("beta", otherwise=aold)(anew),
    "async function, old async class": flag_required("beta", otherwise=ANew.as_view(shown="old"))(
        anew
    ),
    "as_view": flag_required("beta", otherwise=old)(New.as_view()),
    "async as_view": flag_required("beta", otherwise=aold)(ANew.as_view()),
    "partial": flag_required("beta", otherwise=functools.partial(old))(functools.partial(anew)),
    "mixin": Else.as_view(),
    "mixin, async old": AElse.as_view(),
    "async mixin": AsyncElse.as_view(),
    "async mixin, async old": AsyncAElse.as_view(),
    "mixin, by as_view": Guarded.as_view(flag_otherwise=old),
    "method": Methods.as_view(),
    "async method": AMethods.as_view(),
    "dispatch": Dispatch.as_view(),
    "async dispatch": ADispatch.as_view(),
}
WITH_STATUS: dict[str, Any] = {
    "function": flag_required("beta")(new),
    "async function": flag_required("beta")(anew),
    "mixin": Guarded.as_view(),
    "async mixin": AGuarded.as_view(),
}
ANSWERS: dict[str, Any] = {
    "forbidden": 403,
    "gone": HTTPStatus.GONE,
    "to-name": "home",
    "to-path": "/elsewhere/",
    "to-address": "https://example.com/",
    "to-lazy": reverse_lazy("home"),
}


class Wrong(TemplateView, FlagRequiredMixin):
    """The bases in the wrong order."""

    flag_required = "beta"
    template_name = "never.html"


class Members(LoginRequiredMixin, FlagRequiredMixin, New):
    flag_required = "beta"


class Page(FlagRequiredMixin, TemplateView):
    flag_required = "beta"
    flag_variant = "test"
    flag_otherwise = reverse_lazy("home")
    template_name = "never.html"


@api_view(["GET"])
@authentication_classes([TokenAuthentication])
@flag_required("beta")
def api_outside(request: Any) -> Response:
    return Response({"view": "new"})


@flag_required("beta")
@api_view(["GET"])
def api_inside(request: Any) -> Response:
    return Response({"view": "new"})


class APIMethod(APIView):
    authentication_classes = [TokenAuthentication]

    @method_decorator(flag_required("beta", otherwise=409))
    def get(self, request: Any) -> Response:
        return Response({"view": "new"})


class Teas(FlagRequiredMixin, ViewSet):
    flag_required = "beta"

    def list(self, request: Any) -> Response:
        return Response({"view": "new"})

    def retrieve(self, request: Any, pk: str) -> Response:
        return Response({"view": "new", "pk": pk})


class TeasElse(Teas):
    flag_otherwise = old


router = SimpleRouter()
router.register("teas", Teas, basename="tea")
router.register("teas-else", TeasElse, basename="tea-else")


@cache_page(60)
@api_view(["GET"])
@authentication_classes([TokenAuthentication])
@flag_required("beta", otherwise=old)
def cached_api(request: Any) -> Response:
    return Response({"view": "new"})


@method_decorator(cache_page(60), name="dispatch")
class Cached(FlagRequiredMixin, New):
    flag_required = "beta"
    flag_otherwise = old


@cache_page(60)
def cached_reading(request: HttpRequest) -> HttpResponse:
    shown = "new" if is_enabled("beta", request=request) else "old"
    response = JsonResponse({"view": shown})
    remember_identity(request, response)
    return response


class Beta(FlagPermission):
    flag = "beta"


class PermittedAPI(APIView):
    authentication_classes = [SessionAuthentication, TokenAuthentication]
    permission_classes = [Beta]

    def get(self, request: Any) -> Response:
        return Response({"view": "new"})


CACHED: dict[str, Any] = {
    "reading": cached_reading,
    "function": cache_page(60)(flag_required("beta", otherwise=old)(new)),
    "async function": cache_page(60)(flag_required("beta", otherwise=old)(anew)),
    "path": flag_path("", flag="beta", on=cache_page(60)(new), off=old).callback,
    "around path": cache_page(60)(flag_path("", flag="beta", on=new, off=old).callback),
    "mixin": Cached.as_view(),
    "as_view": cache_page(60)(Else.as_view()),
    "async as_view": cache_page(60)(AsyncElse.as_view()),
    "API": cached_api,
    "two caches": flag_path(
        "",
        flag="beta",
        on=cache_page(60, key_prefix="new")(new),
        off=cache_page(60, key_prefix="old")(old),
    ).callback,
}
CACHED_REFUSALS: dict[str, Any] = {
    "404": cache_page(60)(flag_required("beta")(new)),
    "403": cache_page(60)(flag_required("beta", otherwise=403)(new)),
    "410": cache_page(60)(flag_required("beta", otherwise=410)(new)),
    "302": cache_page(60)(flag_required("beta", otherwise="home")(new)),
}


@flag_required("beta", otherwise=lambda request: StreamingHttpResponse(iter(["old ", "tea"])))
def streaming(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(iter(["new ", "tea"]))


async def poured(*parts: str) -> AsyncIterator[str]:
    for part in parts:
        yield part


async def aold_streaming(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(poured("old ", "tea"))


@flag_required("beta", otherwise=aold_streaming)
async def astreaming(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(poured("new ", "tea"))


@csrf_exempt
def exempt(request: HttpRequest) -> HttpResponse:
    return HttpResponse("exempt")


@login_not_required
def public(request: HttpRequest) -> HttpResponse:
    return HttpResponse("public")


@method_decorator(csrf_exempt, name="dispatch")
@method_decorator(login_not_required, name="dispatch")
class ExemptElse(FlagRequiredMixin, New):
    flag_required = "beta"
    flag_otherwise = old


@method_decorator(csrf_exempt, name="dispatch")
class AsyncExemptElse(FlagRequiredMixin, ANew):
    flag_required = "beta"
    flag_otherwise = aold


UNSAFE_PAIRS: dict[str, Any] = {
    "function": flag_required("beta", otherwise=old)(exempt),
    "path": flag_path("", flag="beta", on=exempt, off=old).callback,
    "other way round": flag_required("beta", otherwise=exempt)(old),
    "mixin": ExemptElse.as_view(),
    "async mixin": AsyncExemptElse.as_view(),
    "API": flag_required("beta", otherwise=old)(api_view(["POST"])(new)),
}


def slug(name: str) -> str:
    return name.replace(", ", "-").replace(" ", "-")


home = path("home/", old, name="home")
to_tea = flag_required("beta", otherwise="tea-page")
to_home = flag_required("beta", otherwise="home")
urlpatterns = [
    path("old-teas/<int:pk>/", old, name="tea-page"),
    re_path(r"^old-pots/(\d+)/$", old, name="pot-page"),
    path("new-teas/<int:pk>/", to_tea(new)),
    path("anew-teas/<int:pk>/", to_tea(anew)),
    path("to-home/<int:pk>/", to_home(new)),
    re_path(r"^new-pots/(\d+)/$", flag_required("beta", otherwise="pot-page")(new), {"more": 1}),
    path("no-name/<int:pk>/", flag_required("beta", otherwise="no-such-name")(new)),
    path("router/", include(router.urls)),
    path("streaming/", streaming),
    path(
        "cached-permission/",
        cache_page(60)(vary_on_headers("Cookie", "Authorization")(PermittedAPI.as_view())),
    ),
    path("astreaming/", astreaming),
    *[path(f"cached/{slug(name)}/", view) for name, view in CACHED.items()],
    *[path(f"cached-refusals/{name}/", view) for name, view in CACHED_REFUSALS.items()],
    path("api/", include("olposthog_api.urls")),
    home,
    *[path(f"old/{slug(name)}/<int:pk>/", view) for name, view in WITH_OLD.items()],
    *[path(f"status/{slug(name)}/", view) for name, view in WITH_STATUS.items()],
    *[path(f"{name}/", flag_required("beta", otherwise=to)(new)) for name, to in ANSWERS.items()],
    *[path(f"a{name}/", flag_required("beta", otherwise=to)(anew)) for name, to in ANSWERS.items()],
    *[path(f"unsafe/{slug(name)}/", view) for name, view in UNSAFE_PAIRS.items()],
    path("safe/exempt/", flag_required("beta", otherwise=exempt)(exempt)),
    path("safe/alone/", flag_required("beta")(exempt)),
    path("public/with-old/", flag_required("beta", otherwise=old)(public)),
    path("public/both/", flag_required("beta", otherwise=public)(public)),
    path("public/alone/", flag_required("beta")(public)),
    path("variant/", flag_required("checkout", variant="test", otherwise=old)(new)),
    path("avariant/", flag_required("checkout", variant="test", otherwise=old)(anew)),
    path("mixed-variant/", Guarded.as_view(flag_required="checkout", flag_variant="test")),
    path("wrong/", Wrong.as_view()),
    path("page/", Page.as_view()),
    path("members/", Members.as_view()),
    path("api-outside/", api_outside),
    path("api-inside/", api_inside),
    path("api-method/", APIMethod.as_view()),
    flag_path("switch/<int:pk>/", flag="beta", on=new, off=old, kwargs={"more": 1}, name="switch"),
    flag_path("aswitch/<int:pk>/", flag="beta", on=anew, off=New.as_view(shown="old")),
    flag_path("vswitch/", flag="checkout", variant="test", on=new, off=old),
]
pytestmark = pytest.mark.urls(__name__)


@pytest.fixture(params=["wsgi", "asgi"])
def get(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Ask for a page as a browser does, of a site that is served by WSGI or by ASGI."""
    if request.param == "wsgi":
        return Client().get
    return async_to_sync(AsyncClient().get)


def vary(response: Any) -> set[str]:
    return {part.strip().lower() for part in response.get("Vary", "").split(",")}


# ---- who is shown what


@pytest.mark.parametrize("has_flag", [True, False], ids=["has", "lacks"])
@pytest.mark.parametrize("way", WITH_OLD)
def test_the_flag_chooses_the_view(enabled, get, way, has_flag):
    """Sync or async, function or class: who has the flag sees the new view, who lacks it the old.

    Both are called with the arguments of the URL, and none in the event loop that does not belong
    there.
    """
    enabled.flags = {"beta": has_flag}

    response = get(f"/old/{slug(way)}/7/")

    assert response.json() == {"view": "new" if has_flag else "old", "pk": 7}


@pytest.mark.parametrize("way", WITH_STATUS)
def test_without_another_view_it_is_not_found(enabled, get, way):
    """Out of the box, whoever lacks the flag gets the 404 of a page that does not exist."""
    enabled.flags = {"beta": False}

    assert get(f"/status/{slug(way)}/").status_code == 404


@pytest.mark.parametrize("way", WITH_STATUS)
def test_with_the_flag_it_is_found(enabled, get, way):
    """Whoever has the flag gets the view."""
    enabled.flags = {"beta": True}

    assert get(f"/status/{slug(way)}/").json() == {"view": "new"}


@pytest.mark.parametrize("kind", ["", "a"], ids=["sync", "async"])
@pytest.mark.parametrize(
    ("name", "status", "location"),
    [
        ("forbidden", 403, None),
        ("gone", 410, None),
        ("to-name", 302, "/home/"),
        ("to-path", 302, "/elsewhere/"),
        ("to-address", 302, "https://example.com/"),
        ("to-lazy", 302, "/home/"),
    ],
)
def test_the_others_get_what_the_site_says(enabled, client, kind, name, *, status, location):
    """A status, or a redirect to an address, a path, or a URL by its name, also a lazy one."""
    response = client.get(f"/{kind}{name}/")

    assert response.status_code == status
    assert response.get("Location") == location


@pytest.mark.parametrize("status", [404, 403])
def test_the_sites_own_error_pages_are_used(enabled, client, settings, status):
    """404 and 403 are Http404 and PermissionDenied, so that the site's handlers answer them."""
    settings.TEMPLATES = [
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "OPTIONS": {
                "loaders": [
                    (
                        "django.template.loaders.locmem.Loader",
                        {"404.html": "the site's 404", "403.html": "the site's 403"},
                    )
                ]
            },
        }
    ]

    response = client.get("/status/function/" if status == 404 else "/forbidden/")

    assert response.status_code == status
    assert response.content.decode() == f"the site's {status}"


@pytest.mark.parametrize(
    ("value", "shown"), [("test", True), ("control", False), (True, False), (False, False)]
)
@pytest.mark.parametrize("url", ["/variant/", "/avariant/", "/mixed-variant/", "/vswitch/"])
def test_a_variant_is_for_those_who_have_that_one(enabled, client, url, value, shown):
    """With `variant` neither another variant nor a plain on will do."""
    enabled.flags = {"checkout": value}

    response = client.get(url)

    assert (response.status_code == 200 and response.json()["view"] == "new") is shown


def test_any_variant_is_on(enabled, client):
    """Without `variant`, a variant counts as on."""
    enabled.flags = {"beta": "control"}

    assert client.get("/status/function/").status_code == 200


@pytest.mark.parametrize("url", ["/switch/7/", "/aswitch/7/"])
@pytest.mark.parametrize("has_flag", [True, False])
def test_a_path_switches_views(enabled, get, url, has_flag):
    """`flag_path` shows one of two views under one address, sync and async mixed."""
    enabled.flags = {"beta": has_flag}

    answer = get(url).json()

    assert (answer["view"], answer["pk"]) == ("new" if has_flag else "old", 7)


def test_a_path_takes_what_path_takes(enabled, client):
    """The extra arguments reach the view, and the name leads to the address."""
    assert client.get(reverse("switch", args=[3])).json() == {"view": "old", "pk": 3, "more": 1}


def test_each_person_sees_their_own(enabled, client, db):
    """The flag is that of the person whom the request is from."""
    ada, eve = (get_user_model().objects.create_user(name) for name in ("ada", "eve"))
    enabled.flags = {"beta": Flag(only_for={str(ada.pk)})}

    seen = []
    for user in (ada, eve):
        client.force_login(user)
        seen.append(client.get("/old/function/1/").json()["view"])

    assert seen == ["new", "old"]


@pytest.mark.parametrize("way", ["function", "async function", "mixin", "async mixin"])
def test_being_shown_or_refused_is_an_exposure(enabled, client, way):
    """A guard reports what it read, on and off, as reading a flag in Python does."""
    enabled.flags = {"beta": False}

    client.get(f"/status/{slug(way)}/")

    (call,) = enabled.flag_calls
    assert told(enabled) == [(call["distinct_id"], "beta", False)]


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize("way", WITH_STATUS)
def test_in_an_outage_features_decides(enabled, get, settings, way, value):
    """With PostHog down a guard goes by `settings.FEATURES`, and nobody gets an error."""
    settings.FEATURES = {"beta": value}
    enabled.fault = Refuse()

    assert get(f"/status/{slug(way)}/").status_code == (200 if value else 404)


@pytest.mark.parametrize(
    "url", ["/status/function/", "/status/async-function/", "/to-path/", "/gone/", "/old/mixin/1/"]
)
def test_a_refusal_is_about_the_person(enabled, get, url):
    """Also a 404 or a redirect varies, and gives a new visitor the cookie."""
    response = get(url)

    assert list(response.cookies) == [COOKIE]
    assert {"cookie", "authorization"} <= vary(response)


@pytest.mark.parametrize("kind", ["new", "anew"], ids=["sync", "async"])
def test_a_name_may_take_the_views_arguments(enabled, client, kind):
    """A redirect to the name of a URL hands on what the view was given."""
    assert client.get(f"/{kind}-teas/7/")["Location"] == "/old-teas/7/"


def test_positional_arguments_are_handed_on(enabled, client):
    """So it is where the groups of a pattern have no names, and the pattern gives more."""
    assert client.get("/new-pots/7/")["Location"] == "/old-pots/7/"


def test_a_name_may_take_no_arguments(enabled, client):
    """A name that takes none of the view's arguments is found without them."""
    assert client.get("/to-home/7/")["Location"] == "/home/"


def test_a_name_of_nothing_is_told(enabled, client):
    """A name that no URL has is a mistake, and told as Django tells it."""
    with pytest.raises(NoReverseMatch, match="no-such-name"):
        client.get("/no-name/7/")


@pytest.mark.parametrize("has_flag", [True, False], ids=["has", "lacks"])
@pytest.mark.parametrize("url", ["/streaming/", "/astreaming/"])
def test_streams_are_guarded(enabled, get, url, has_flag):
    """A response that comes in parts is handed on as it is, and is its visitor's."""
    enabled.flags = {"beta": has_flag}

    response = get(url)

    content = b"".join(whole(response))
    assert content == (b"new tea" if has_flag else b"old tea")
    assert list(response.cookies) == [COOKIE]


def whole(response: Any) -> list[bytes]:
    async def read() -> list[bytes]:
        return [part async for part in response]

    return async_to_sync(read)() if response.is_async else list(response)


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS"])
@pytest.mark.parametrize("way", ["mixin", "async mixin"])
def test_every_method_is_guarded(enabled, client, way, method):
    """HEAD and OPTIONS, which Django answers by itself, tell the others nothing of the view."""
    url = f"/status/{slug(way)}/"
    assert client.generic(method, url).status_code == 404

    enabled.flags = {"beta": True}
    client.cookies.clear()
    response = client.generic(method, url)
    assert response.status_code == 200
    assert ("POST" in response.get("Allow", "")) is (method == "OPTIONS")


# ---- caches


@pytest.fixture(params=["with", "without"])
def _middleware(request, settings):
    """A site with IdentityMiddleware, and one without."""
    if request.param == "without":
        settings.MIDDLEWARE = [m for m in settings.MIDDLEWARE if "olposthog" not in m]


def asked(client: Client, url: str) -> list[str]:
    return [client.get(url).json()["view"] for _ in range(3)]


@pytest.mark.usefixtures("_middleware")
@pytest.mark.parametrize("way", CACHED)
def test_a_cached_guard_keeps_visitors_apart(enabled, way):
    """Two new visitors, and two who bring the same cookie of the site: each gets their own."""
    url = f"/cached/{slug(way)}/"
    ours: list[str] = []
    for cookies in ({}, {"consent": "yes"}):
        for has_flag in (True, False):
            enabled.flags = {"beta": has_flag}
            client = Client()
            client.cookies.load(cookies)
            assert asked(client, url) == ["new" if has_flag else "old"] * 3
            ours.append(client.cookies[COOKIE].value)

    assert len(set(ours)) == 4


@pytest.mark.usefixtures("_middleware")
@pytest.mark.parametrize("way", CACHED)
def test_a_cached_guard_keeps_users_apart(enabled, db, way):
    """Of two users, by session or by token, each gets the answer for their own flags, cached."""
    ada, eve = (get_user_model().objects.create_user(name) for name in ("ada", "eve"))
    enabled.flags = {"beta": Flag(only_for={str(ada.pk)})}

    for user, view in ((ada, "new"), (eve, "old")):
        client = Client()
        if way == "API":
            client.defaults["HTTP_AUTHORIZATION"] = f"Token {Token.objects.create(user=user)}"
        else:
            client.force_login(user)
        assert asked(client, f"/cached/{slug(way)}/") == [view] * 3


def test_a_cached_permission_keeps_users_apart(enabled, db):
    """A view with a FlagPermission shows nothing to others once it says what it varies on."""
    ada, eve = (get_user_model().objects.create_user(name) for name in ("ada", "eve"))
    enabled.flags = {"beta": Flag(only_for={str(ada.pk)})}

    for user, status in ((ada, 200), (eve, 403)):
        by_session, by_token = Client(), Client()
        by_session.force_login(user)
        by_token.defaults["HTTP_AUTHORIZATION"] = f"Token {Token.objects.create(user=user)}"
        for client in (by_session, by_token):
            seen = [client.get("/cached-permission/").status_code for _ in range(2)]
            assert seen == [status] * 2


@pytest.mark.parametrize("headers", [None, ["Cookie"]], ids=["by default", "named headers"])
def test_a_cached_guard_is_cached(enabled, settings, headers):
    """Where the site names the headers, a known visitor gets the page from the cache."""
    settings.POSTHOG_API_IDENTITY_HEADERS = headers
    client = Client()
    client.get("/home/")
    enabled.flags = {"beta": True}
    asked(client, "/cached/function/")

    enabled.flags = {"beta": False}
    clear_cache()

    assert asked(client, "/cached/function/") == ["new" if headers else "old"] * 3


@pytest.mark.usefixtures("_middleware")
@pytest.mark.parametrize("status", CACHED_REFUSALS)
def test_a_refusal_is_not_cached(enabled, client, status):
    """Whoever gets the flag is let in at once: Django's cache keeps no refusal."""
    url = f"/cached-refusals/{status}/"
    client.get("/status/function/")
    enabled.flags = {"beta": False}
    assert [client.get(url).status_code for _ in range(2)] == [int(status)] * 2

    enabled.flags = {"beta": True}
    clear_cache()

    assert client.get(url).status_code == 200


# ---- sync and async


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        (flag_required("beta")(new), False),
        (flag_required("beta")(anew), True),
        (flag_required("beta", otherwise=old)(new), False),
        (flag_required("beta", otherwise=aold)(new), True),
        (flag_required("beta", otherwise=old)(anew), True),
        (flag_required("beta", otherwise=ANew.as_view())(new), True),
        (flag_required("beta", otherwise=New.as_view())(new), False),
        (Else.as_view(), False),
        (AElse.as_view(), False),
        (AsyncElse.as_view(), True),
        (AsyncExemptElse.as_view(), True),
    ],
)
def test_a_guard_is_async_if_a_view_is(view, expected):
    """A function is async if one of the two is, a class-based view if its own handlers are."""
    assert iscoroutinefunction(view) is expected


def test_a_refusal_needs_no_thread(enabled):
    """An async view's redirect is made in the loop, where no sync view can delay it."""
    made_in: list[asyncio.AbstractEventLoop] = []

    def address() -> str:
        made_in.append(asyncio.get_running_loop())  # raises in a thread of its own
        return "/elsewhere/"

    view = flag_required("beta", otherwise=lazy(address, str)())(anew)

    response = asyncio.run(view(HttpRequest()))

    assert response["Location"] == "/elsewhere/"
    assert made_in


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("way", ["async function", "async mixin"])
def test_async_guards_read_the_user_elsewhere(enabled, way):
    """Who is logged in is read from the database without touching it in the event loop."""
    user = get_user_model().objects.create_user("ada")
    enabled.flags = {"beta": Flag(only_for={str(user.pk)})}
    client = AsyncClient()
    client.force_login(user)

    assert async_to_sync(client.get)(f"/status/{slug(way)}/").status_code == 200


def test_async_guards_warn_of_nothing(enabled, caplog):
    """An async guard awaits the flag, and blocks no event loop."""
    for way in ("async function", "async mixin", "async dispatch", "async method"):
        async_to_sync(AsyncClient().get)(f"/old/{slug(way)}/1/")

    assert [line for line in caplog.messages if "event loop" in line] == []


# ---- what the view stays


def test_the_view_keeps_its_name_and_type():
    """What shows a view's name, such as a traceback or the debug toolbar, shows the view's own."""

    @flag_required("beta")
    def documented(request: HttpRequest, pk: int) -> HttpResponse:
        """Say so."""
        return HttpResponse()

    typed: Callable[[HttpRequest, int], HttpResponse] = documented
    atyped: Callable[..., Awaitable[HttpResponse]] = flag_required("beta")(anew)

    assert (typed.__name__, typed.__doc__) == ("documented", "Say so.")
    assert atyped.__name__ == "anew"


MIDDLEWARE = [  # with CSRF checks
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "olposthog.middleware.IdentityMiddleware",
]


def test_a_view_still_says_of_which_class_it_is():
    """What shows a view's class, such as Django's own errors, still finds it."""
    view: Any = Else.as_view()

    assert view.view_class is Else


@pytest.mark.parametrize("has_flag", [True, False], ids=["has", "lacks"])
@pytest.mark.parametrize("way", UNSAFE_PAIRS)
def test_one_exempt_view_does_not_exempt_the_other(enabled, settings, way, has_flag):
    """Where one view is csrf_exempt and the other is not, neither takes a POST without a token."""
    settings.MIDDLEWARE = MIDDLEWARE
    enabled.flags = {"beta": has_flag}

    response = Client(enforce_csrf_checks=True).post(f"/unsafe/{slug(way)}/")

    assert response.status_code == 403
    assert b"CSRF" in response.content


@pytest.mark.parametrize("url", ["/safe/exempt/", "/safe/alone/"])
def test_what_is_exempt_anyway_stays_so(enabled, settings, url):
    """Two views that are csrf_exempt, or one alone, still take a POST without a token."""
    settings.MIDDLEWARE = MIDDLEWARE
    enabled.flags = {"beta": True}

    assert Client(enforce_csrf_checks=True).post(url).status_code == 200


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("/public/with-old/", 302),
        ("/unsafe/mixin/", 302),
        ("/public/both/", 200),
        ("/public/alone/", 200),
    ],
)
def test_one_public_view_does_not_open_the_other(enabled, client, settings, url, status):
    """With LoginRequiredMiddleware, an address is open only if what it shows is, either way."""
    settings.MIDDLEWARE = [*MIDDLEWARE, "django.contrib.auth.middleware.LoginRequiredMiddleware"]
    settings.LOGIN_URL = "/log-in/"
    enabled.flags = {"beta": True}

    response = client.get(url)

    assert response.status_code == status
    assert response.get("Location", "").startswith("/log-in/") is (status == 302)


def test_views_with_different_policies_are_refused():
    """`@api_view` takes policies from the function below it: a guard must not lose them."""
    admins_only = permission_classes([IsAdminUser])(lambda request: Response("new"))
    everybodys = permission_classes([])(lambda request: Response("old"))

    for on, off in ((admins_only, old), (old, admins_only), (admins_only, everybodys)):
        with pytest.raises(TypeError, match=r"permission_classes.*above flag_required"):
            flag_required("beta", otherwise=off)(on)

    kept: Any = flag_required("beta")(admins_only)
    assert kept.permission_classes == [IsAdminUser]


# ---- class-based views


def test_the_order_of_bases_does_not_matter_to_django(enabled, client):
    """A mixin that stands last still guards one of Django's views."""
    assert client.get("/wrong/").status_code == 404


def test_a_page_of_djangos_is_guarded(enabled, client):
    """A generic view with a variant, and a lazy address for the others."""
    enabled.flags = {"beta": "control"}

    assert client.get("/page/")["Location"] == "/home/"


def test_mixins_come_in_their_order(enabled, client, settings, db):
    """Where logging in comes first, nobody is asked about before, and the flag is the user's."""
    settings.LOGIN_URL = "/log-in/"
    user = get_user_model().objects.create_user("ada")
    enabled.flags = {"beta": Flag(only_for={str(user.pk)})}

    assert client.get("/members/")["Location"].startswith("/log-in/")
    assert enabled.requests == []
    client.force_login(user)
    assert client.get("/members/").json() == {"view": "new"}


def test_an_abstract_view_may_lack_the_flag(enabled, client):
    """What views share can stand in a class of its own, and is judged there."""

    class Refusing(FlagRequiredMixin):
        flag_otherwise = 403

    class Concrete(Refusing, New):
        flag_required = "beta"

    request = HttpRequest()
    request.method = "GET"
    enabled.flags = {"beta": True}
    assert Concrete.as_view()(request).status_code == 200

    with pytest.raises(ValueError, match=r"Abstract: otherwise .* not 500"):

        class Abstract(FlagRequiredMixin):
            flag_otherwise = 500


def test_a_view_without_a_flag_is_refused():
    """A guard that guards nothing is a mistake, found when the URLs are read."""

    class Forgotten(FlagRequiredMixin, New):
        pass

    with pytest.raises(ImproperlyConfigured, match=r"Forgotten.*set flag_required"):
        Forgotten.as_view()

    assert callable(Forgotten.as_view(flag_required="beta"))


@pytest.mark.parametrize(
    ("attribute", "value", "error"),
    [
        ("flag_required", b"beta", TypeError),
        ("flag_variant", True, TypeError),
        ("flag_variant", "", ValueError),
        ("flag_otherwise", New, TypeError),
        ("flag_otherwise", None, TypeError),
        ("flag_otherwise", True, TypeError),
        ("flag_otherwise", 200, ValueError),
    ],
)
def test_a_mistaken_class_is_named(attribute, value, error):
    """A wrong attribute is told when the class is made, or when `as_view()` is given it."""
    with pytest.raises(error, match="Mistaken: "):
        type("Mistaken", (FlagRequiredMixin, New), {"flag_required": "beta", attribute: value})
    with pytest.raises(error, match="Guarded: "):
        Guarded.as_view(**{attribute: value})


# ---- REST framework


@pytest.mark.parametrize(
    ("url", "refused"), [("/api-outside/", 404), ("/api-inside/", 404), ("/api-method/", 409)]
)
def test_api_views_can_be_guarded(enabled, client, url, refused):
    """Above `@api_view` and below it, and on a method, the flag decides."""
    assert client.get(url).status_code == refused

    enabled.flags = {"beta": True}
    client.cookies.clear()
    assert client.get(url).json() == {"view": "new"}


@pytest.mark.parametrize("url", ["/api-outside/", "/api-method/"])
def test_below_api_view_a_token_counts(enabled, client, db, url):
    """Below `@api_view` the person is who REST framework authenticated."""
    user = get_user_model().objects.create_user("ada")
    token = Token.objects.create(user=user)
    enabled.flags = {"beta": Flag(only_for={str(user.pk)})}

    assert client.get(url, headers={"authorization": f"Token {token}"}).status_code == 200
    assert client.get(url).status_code in {404, 409}


@pytest.mark.parametrize("name", ["teas", "teas-else"])
def test_a_viewset_is_guarded(enabled, client, name):
    """The mixin guards every action of a viewset, also one that a router makes the URLs of."""
    refused = client.get(f"/router/{name}/"), client.get(f"/router/{name}/7/")
    assert [response.status_code for response in refused] == (
        [404, 404] if name == "teas" else [200, 200]
    )
    assert [b"new" in response.content for response in refused] == [False, False]

    enabled.flags = {"beta": True}
    client.cookies.clear()
    assert client.get(f"/router/{name}/").json() == {"view": "new"}
    assert client.get(f"/router/{name}/7/").json() == {"view": "new", "pk": "7"}


@pytest.mark.parametrize("viewset", [Teas, TeasElse])
def test_a_viewset_still_says_its_actions(viewset):
    """What reads a viewset's actions from its view, such as a schema, still finds them."""
    view: Any = viewset.as_view({"get": "list"})

    assert (view.cls, view.actions) == (viewset, {"get": "list"})


# ---- mistakes


def mistaken(otherwise: Any) -> Callable[[], object]:
    return lambda: flag_required("beta", otherwise=otherwise)


NO_FLAG: Any = [None, 1, b"beta", new]
MISTAKES: dict[str, tuple[type[Exception], str, Callable[[], Any]]] = {
    **{
        f"flag of {type(name).__name__}": (
            TypeError,
            "the flag must be a str",
            functools.partial(flag_required, name),
        )
        for name in NO_FLAG
    },
    "no flag": (ValueError, "flag is empty", lambda: flag_required("")),
    "variant": (
        TypeError,
        "variant must be a str.*True",
        lambda: flag_required("beta", variant=True),  # type: ignore[arg-type]  # on purpose
    ),
    "no variant": (ValueError, "variant is empty", lambda: flag_required("beta", variant="")),
    "200": (ValueError, "400 to 499, not 200", mistaken(200)),
    "500": (ValueError, "400 to 499, not 500", mistaken(500)),
    "bool": (TypeError, "not True", mistaken(True)),
    "None": (TypeError, "not None", mistaken(None)),
    "nowhere": (ValueError, "otherwise is empty", mistaken("")),
    "class": (TypeError, r"New\.as_view\(\)", mistaken(New)),
    "decorated class": (TypeError, "New .*FlagRequiredMixin", lambda: flag_required("beta")(New)),
    "no view": (
        TypeError,
        "must be a view",
        lambda: flag_required("beta")("new"),  # type: ignore[type-var]  # on purpose
    ),
    "path, flag": (
        TypeError,
        "flag_path.*flag must be a str",
        lambda: flag_path("", flag=None, on=new, off=old),  # type: ignore[arg-type]  # on purpose
    ),
    "path, on": (
        TypeError,
        r"on .*New\.as_view",
        lambda: flag_path("", flag="beta", on=New, off=old),
    ),
    "path, off": (
        TypeError,
        "off must be a view",
        lambda: flag_path("", flag="beta", on=new, off=404),  # type: ignore[arg-type]  # on purpose
    ),
    "path, include": (
        TypeError,
        r"off is an include\(\)",
        lambda: flag_path("", flag="beta", on=new, off=include([home])),  # type: ignore[arg-type]  # on purpose
    ),
    "path, kwargs": (
        TypeError,
        "kwargs",
        lambda: flag_path("", flag="beta", on=new, off=old, kwargs=[1]),  # type: ignore[arg-type]  # on purpose
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_at_once(mistake):
    """What cannot be meant is refused when the module is imported, with the value and the fix."""
    error, told_as, make = MISTAKES[mistake]

    with pytest.raises(error, match=told_as):
        make()


def test_a_method_needs_method_decorator(enabled):
    """On a method, where `self` stands in the request's place, the fix is named."""

    class Plain(View):
        @flag_required("beta")
        def get(self, request: HttpRequest) -> HttpResponse:
            raise NotImplementedError

    request = HttpRequest()
    request.method = "GET"
    with pytest.raises(TypeError, match=r"Plain.*method_decorator"):
        Plain.as_view()(request)


def test_a_lazy_address_is_not_looked_up_early():
    """URLs that are read later may be named: nothing is resolved before a request comes."""
    flag_required("beta", otherwise=reverse_lazy("not yet there"))(new)


def test_what_is_no_response_is_left_alone(enabled):
    """A guard hands on what its function returns, whatever that is."""
    enabled.flags = {"beta": True}

    assert flag_required("beta")(lambda request: "tea")(HttpRequest()) == "tea"
