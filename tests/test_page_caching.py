"""Page caches: nobody gets another's page, from Django's caches or from a shared one."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from asgiref.sync import async_to_sync
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.core.cache import caches
from django.core.handlers.wsgi import WSGIHandler
from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
from django.http import (
    HttpRequest,
    HttpResponse,
    StreamingHttpResponse,
)
from django.template import RequestContext, Template, engines
from django.template.response import TemplateResponse
from django.test import AsyncClient, Client
from django.urls import include, path
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.cache import cache_control, cache_page
from django.views.decorators.vary import vary_on_headers
from pytest_django import Settings
from rest_framework.authentication import BaseAuthentication
from rest_framework.decorators import api_view, authentication_classes
from rest_framework.response import Response
from rest_framework.views import APIView

from olposthog.features import ais_enabled, clear_cache, is_enabled
from olposthog.guards import FlagRequiredMixin, flag_path, flag_required
from olposthog.identity import Identity, device_id_of, identify, remember_identity
from olposthog_api.permissions import FlagPermission
from tests.posthog_server import Flag, PostHogServer
from tests.site.nginx import nginx

COOKIE = "olposthog_id"
ADA, EVE = "7", "8"
TEMPLATE = '{% load olposthog %}{% flag "beta" %}new{% elseflag %}old{% endflag %}'


# Who asks: users whom a site knows by headers of its own


def by_header(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Authenticate users by an API key, or by what a web server says of them."""

    def middleware(request: HttpRequest) -> Any:
        key = request.headers.get("X-Api-Key") or request.META.get("REMOTE_USER")
        request.user = get_user_model()(pk=int(key)) if key else AnonymousUser()
        return get_response(request)

    return middleware


class TokenInHeader(BaseAuthentication):
    """REST framework's users, by a token in a header of the site's own."""

    def authenticate(self, request: Any) -> Any:
        key = request.headers.get("X-Auth-Token")
        return (get_user_model()(pk=int(key)), None) if key else None


def of_tenant(request: HttpRequest) -> Identity:
    """An identity callable that goes by a header of its own."""
    return Identity(request.headers.get("X-Tenant", "none"), anonymous=True)


# What is cached


def shown(*, is_on: bool) -> HttpResponse:
    return HttpResponse("new" if is_on else "old")


def read_features(request: Any) -> HttpResponse:
    return shown(is_on=request.features.is_enabled("beta"))


def read_function(request: HttpRequest) -> HttpResponse:
    return shown(is_on=is_enabled("beta", request=request))


async def read_async(request: HttpRequest) -> HttpResponse:
    return shown(is_on=await ais_enabled("beta", request=request))


def read_template(request: HttpRequest) -> HttpResponse:
    return HttpResponse(Template(TEMPLATE).render(RequestContext(request)))


def read_template_late(request: HttpRequest) -> HttpResponse:
    template: Any = engines["django"].from_string(TEMPLATE)
    return TemplateResponse(request, template)


def remembering(request: HttpRequest) -> HttpResponse:
    response = shown(is_on=is_enabled("beta", request=request))
    remember_identity(request, response)
    return response


def identified(request: HttpRequest) -> HttpResponse:
    return shown(is_on=is_enabled("beta", opt_unique_id=identify(request).distinct_id))


@vary_on_headers("Accept")
@cache_control(public=True, max_age=600)
def public(request: HttpRequest) -> HttpResponse:
    return read_function(request)


@cache_control(s_maxage=600)
def for_proxies(request: HttpRequest) -> HttpResponse:
    return read_function(request)


def new(request: HttpRequest) -> HttpResponse:
    return shown(is_on=True)


async def anew(request: HttpRequest) -> HttpResponse:
    return shown(is_on=True)


def old(request: HttpRequest) -> HttpResponse:
    return shown(is_on=False)


class Guarded(FlagRequiredMixin, View):
    flag_required = "beta"
    flag_otherwise = old

    def get(self, request: HttpRequest) -> HttpResponse:
        return new(request)


class Permission(FlagPermission):
    flag = "beta"


class Permitted(APIView):
    authentication_classes = [TokenInHeader]
    permission_classes = [Permission]

    def get(self, request: Any) -> HttpResponse:
        return HttpResponse("new")


class CachedMethod(APIView):
    authentication_classes = [TokenInHeader]

    @method_decorator(cache_page(600))
    def get(self, request: Any) -> HttpResponse:
        return Response("new" if is_enabled("beta", request=request) else "old")


class CachedFeatures(CachedMethod):
    @method_decorator(cache_page(600))
    def get(self, request: Any) -> HttpResponse:
        return Response("new" if request.features.is_enabled("beta") else "old")


@api_view(["GET"])
@authentication_classes([TokenInHeader])
def in_api(request: Any) -> Response:
    return Response("new" if is_enabled("beta", request=request) else "old")


@cache_page(600)
@flag_required("beta", otherwise=old)
@cache_page(600, key_prefix="inner")
def both_orders(request: HttpRequest) -> HttpResponse:
    return read_function(request)


cached = cache_page(600)
guard = flag_required("beta", otherwise=old)
PAGES: dict[str, Any] = {
    "features": read_features,
    "function": read_function,
    "async": read_async,
    "template": read_template,
    "late template": read_template_late,
    "identify": identified,
    "public": public,
    "for proxies": for_proxies,
    "guard": guard(new),
    "async guard": guard(anew),
    "mixin": Guarded.as_view(),
    "path": flag_path("", flag="beta", on=new, off=old).callback,
    "API": in_api,
    "permission": Permitted.as_view(),
    "cached features": cached(read_features),
    "cached function": cached(read_function),
    "cached async": cached(read_async),
    "cached template": cached(read_template),
    "cached late template": cached(read_template_late),
    "cached public": cached(public),
    "cached remembering": cached(remembering),
    "cached guard": cached(guard(new)),
    "cached async guard": cached(guard(anew)),
    "cached mixin": cached(Guarded.as_view()),
    "cached API": cached(in_api),
    "cached method": CachedMethod.as_view(),
    "cached method features": CachedFeatures.as_view(),
    "guard of cached": guard(cache_page(600, key_prefix="inner")(new)),
    "guard of cached async": guard(cache_page(600, key_prefix="inner")(anew)),
    "guard of cached function": guard(cached(read_function)),
    "guard of cached features": guard(cached(read_features)),
    "path of cached": flag_path("", flag="beta", on=cached(read_features), off=old).callback,
    "path of two": flag_path(
        "",
        flag="beta",
        on=cache_page(600, key_prefix="new")(new),
        off=cache_page(600, key_prefix="old")(old),
    ).callback,
    "both orders": both_orders,
}


def device(request: HttpRequest) -> HttpResponse:
    return HttpResponse(device_id_of(request) or "none")


def static(request: HttpRequest) -> HttpResponse:
    return HttpResponse("static")


# Streams


def late_stream(request: Any) -> StreamingHttpResponse:
    return StreamingHttpResponse(str(request.features["beta"]) for _ in range(2))


def late_function_stream(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(str(is_enabled("beta", request=request)) for _ in range(2))


async def late_async_stream(request: HttpRequest) -> StreamingHttpResponse:
    async def parts() -> AsyncIterator[str]:
        yield str(await ais_enabled("beta", request=request))

    return StreamingHttpResponse(parts())


def early_stream(request: Any) -> StreamingHttpResponse:
    snapshot = request.features.snapshot
    return StreamingHttpResponse(
        str(request.features["beta"] is snapshot.flags["beta"]) for _ in range(2)
    )


def plain_stream(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(iter(["a", "b"]))


def slug(name: str) -> str:
    return name.replace(" ", "-")


urlpatterns = [
    path("api/", include("olposthog_api.urls")),
    *[path(f"{slug(name)}/", view) for name, view in PAGES.items()],
    path("device/", cached(device)),
    path("plain/", static),
    path("late-stream/", late_stream),
    path("late-function-stream/", late_function_stream),
    path("late-async-stream/", late_async_stream),
    path("early-stream/", early_stream),
    path("plain-stream/", plain_stream),
]
pytestmark = pytest.mark.urls(__name__)

OURS = "olposthog.middleware.IdentityMiddleware"
UPDATE = "django.middleware.cache.UpdateCacheMiddleware"
FETCH = "django.middleware.cache.FetchFromCacheMiddleware"
SITES = {
    "bare": [f"{__name__}.by_header", OURS],
    "cached": [UPDATE, f"{__name__}.by_header", OURS, FETCH],
    "cached inside": [f"{__name__}.by_header", OURS, UPDATE, FETCH],
    "cached at once": ["django.middleware.cache.CacheMiddleware", f"{__name__}.by_header", OURS],
}


@pytest.fixture(autouse=True)
def _flags(enabled: PostHogServer) -> None:
    """A flag that Ada has, and nobody else."""
    enabled.flags = {"beta": Flag(only_for={ADA})}


@pytest.fixture
def site(settings: Settings) -> Callable[[str], None]:
    """Set the middleware of one of the sites."""

    def set_up(name: str) -> None:
        settings.MIDDLEWARE = SITES[name]

    return set_up


def seen(client: Client, name: str, headers: dict[str, str], **environ: Any) -> str:
    response = client.get(f"/{slug(name)}/", headers=headers, **environ)
    return "new" if b"new" in response.content else "old"


CREDENTIALS = {
    "API key": lambda user: {"headers": {"x-api-key": user, "x-auth-token": user}},
    "web server": lambda user: {"headers": {"x-auth-token": user}, "REMOTE_USER": user},
}


@pytest.mark.parametrize("site_name", SITES)
@pytest.mark.parametrize("credentials", CREDENTIALS)
@pytest.mark.parametrize("name", PAGES)
def test_no_page_is_given_to_another(
    site: Callable[[str], None], site_name: str, credentials: str, name: str
) -> None:
    """However users are known, wherever a cache is: each gets their own page, strangers too."""
    site(site_name)
    cookies = {COOKIE: "", "consent": "yes"}
    told = []
    for user in (ADA, EVE, ADA, "", EVE, ADA):
        client = Client()
        client.cookies.load(cookies)
        told.append(seen(client, name, **CREDENTIALS[credentials](user)))

    assert told == ["new", "old", "new", "old", "old", "new"]


@pytest.mark.parametrize("site_name", SITES)
@pytest.mark.parametrize("name", PAGES)
def test_no_page_of_another_identity_is_given(
    settings: Settings, site: Callable[[str], None], site_name: str, name: str
) -> None:
    """The same holds for an identity callable that goes by a header of its own."""
    site(site_name)
    settings.POSTHOG_API_IDENTITY = f"{__name__}.of_tenant"

    told = [seen(Client(), name, {"x-tenant": tenant}) for tenant in (ADA, EVE, ADA, "x")]

    assert told == ["new", "old", "new", "old"]


CACHED_WITH_HEADERS = {
    "cached": [name for name in PAGES if name != "permission"],
    "bare": [
        "cached remembering",
        "cached guard",
        "cached async guard",
        "cached mixin",
        "both orders",
    ],
}


@pytest.mark.parametrize(
    ("site_name", "name"),
    [(site_name, name) for site_name, names in CACHED_WITH_HEADERS.items() for name in names],
)
def test_named_headers_let_pages_be_cached(
    enabled: PostHogServer,
    settings: Settings,
    site: Callable[[str], None],
    site_name: str,
    name: str,
) -> None:
    """With POSTHOG_API_IDENTITY_HEADERS a page is cached for each user, and for nobody else."""
    settings.POSTHOG_API_IDENTITY_HEADERS = ["X-Api-Key", "X-Auth-Token"]
    site(site_name)
    for user, page in ((ADA, "new"), (EVE, "old")):
        assert seen(Client(), name, {"x-api-key": user, "x-auth-token": user}) == page

    enabled.flags = {"beta": Flag(only_for={EVE})}
    clear_cache()

    for user, page in ((ADA, "new"), (EVE, "old")):
        assert seen(Client(), name, {"x-api-key": user, "x-auth-token": user}) == page


@pytest.mark.parametrize("site_name", SITES)
@pytest.mark.parametrize("name", PAGES)
def test_named_headers_keep_people_apart(
    settings: Settings, site: Callable[[str], None], site_name: str, name: str
) -> None:
    """With POSTHOG_API_IDENTITY_HEADERS too, each user and each visitor has their own page."""
    settings.POSTHOG_API_IDENTITY_HEADERS = ["x-api-key", "X-Auth-Token"]
    site(site_name)

    told = [
        seen(Client(), name, {"x-api-key": user, "x-auth-token": user})
        for user in (ADA, EVE, ADA, "", "", EVE)
    ]

    assert told == ["new", "old", "new", "old", "old", "old"]


@pytest.mark.parametrize("named", [None, ["X-Api-Key"]], ids=["by default", "named headers"])
def test_new_visitors_are_told_apart(
    enabled: PostHogServer, settings: Settings, site: Callable[[str], None], named: Any
) -> None:
    """Of visitors without a cookie, one by a frame of another site, none gets another's page."""
    settings.POSTHOG_API_IDENTITY_HEADERS = named
    site("cached")
    frame = {"sec-fetch-site": "cross-site", "sec-fetch-dest": "iframe"}
    for is_on in (True, False, True):
        enabled.flags = {"beta": is_on}
        for headers in (frame, {}):
            response = Client().get("/features/", headers=headers)
            assert response.content == (b"new" if is_on else b"old")
            assert response["Cache-Control"] == "private"


@pytest.mark.parametrize("site_name", SITES)
def test_a_page_that_shows_a_device_is_private(
    site: Callable[[str], None], client: Client, site_name: str
) -> None:
    """`device_id_of` depends on the cookie, and so does a page that shows it."""
    site(site_name)
    client.get("/api/features/")

    assert len(client.get("/device/").content) == 36
    assert Client().get("/device/").content == b"none"


def test_a_page_without_flags_is_cached(site: Callable[[str], None], client: Client) -> None:
    """A page that does not depend on who asks is left to the site's caches."""
    site("cached")

    assert "private" not in client.get("/plain/").get("Cache-Control", "")
    shared: Any = caches["default"]
    assert any("cache_page" in key for key in shared._cache)


@pytest.mark.parametrize("named", [None, ["X-Api-Key"]], ids=["by default", "named headers"])
def test_every_header_is_named(settings: Settings, client: Client, named: Any) -> None:
    """`Vary` names the cookie, Authorization and what the site names, each once."""
    settings.POSTHOG_API_IDENTITY_HEADERS = [*(named or ()), "cookie"] if named else None

    for url in ("/features/", "/api/features/"):
        vary = [one.strip().lower() for one in client.get(url)["Vary"].split(",")]
        assert sorted(vary) == sorted({"cookie", "authorization", *map(str.lower, named or ())})


def test_two_caches_under_one_key_are_refused() -> None:
    """Two views that `cache_page` would store under one key are a mistake, told at once."""
    for on, off in ((cached(new), cached(old)), (cached(anew), vary_on_headers("A")(cached(old)))):
        with pytest.raises(TypeError, match="key_prefix"):
            flag_path("", flag="beta", on=on, off=off)
        with pytest.raises(TypeError, match="key_prefix"):
            flag_required("beta", otherwise=off)(on)


class CachedNew(View):
    @method_decorator(cached)
    def get(self, request: HttpRequest) -> HttpResponse:
        return new(request)


@method_decorator([vary_on_headers("A"), cached], name="dispatch")
class CachedOld(View):
    def get(self, request: HttpRequest) -> HttpResponse:
        return old(request)


class CachedInherited(CachedOld):
    def dispatch(self, *args: Any, **kwargs: Any) -> Any:
        return super().dispatch(*args, **kwargs)


@pytest.mark.parametrize("off", [cached(old), CachedOld.as_view(), CachedInherited.as_view()])
def test_caches_on_methods_under_one_key_are_refused(off: Any) -> None:
    """The same holds for what `method_decorator` puts on a class, or on one of its bases."""
    with pytest.raises(TypeError, match="key_prefix"):
        flag_path("", flag="beta", on=CachedNew.as_view(), off=off)

    class CachedBelow(FlagRequiredMixin, CachedNew):
        flag_required = "beta"
        flag_otherwise = off

    with pytest.raises(TypeError, match="key_prefix"):
        CachedBelow.as_view()


def test_a_cache_above_the_mixin_shares_no_key() -> None:
    """A cache around the mixin's `dispatch` sees who asks, whatever the other view caches."""

    @method_decorator(cached, name="dispatch")
    class CachedAbove(FlagRequiredMixin, View):
        flag_required = "beta"
        flag_otherwise = CachedOld.as_view()

        def get(self, request: HttpRequest) -> HttpResponse:
            return new(request)

    CachedAbove.as_view()


@pytest.mark.parametrize("otherwise", [404, old, cached(old)])
@pytest.mark.parametrize("site_name", ["cached", "cached at once"])
def test_a_cache_below_a_guard_has_a_key_of_its_own(
    settings: Settings, site: Callable[[str], None], site_name: str, otherwise: Any
) -> None:
    """A site-wide cache would give everybody what `cache_page` stores below a guard."""
    site(site_name)
    with pytest.raises(TypeError, match="key_prefix"):
        flag_required("beta", otherwise=otherwise)(cache_page(60)(new))

    settings.CACHE_MIDDLEWARE_KEY_PREFIX = "site"
    flag_required("beta", otherwise=404)(cache_page(60)(new))


# Streams


@pytest.mark.parametrize("url", ["/late-stream/", "/late-function-stream/", "/late-async-stream/"])
@pytest.mark.parametrize("is_known", [True, False], ids=["known", "new"])
def test_a_stream_that_asks_too_late_is_refused(
    enabled: PostHogServer, client: Client, url: str, *, is_known: bool
) -> None:
    """Once headers are sent, a stream can neither remember its visitor nor warn a cache."""
    if is_known:
        client.get("/features/")
    enabled.clear()
    response = client.get(url)

    with pytest.raises(RuntimeError, match=r"before streaming begins"):
        whole(response)
    assert enabled.flag_calls == []


@pytest.mark.parametrize("kind", ["wsgi", "asgi"])
def test_a_stream_may_ask_in_time(enabled: PostHogServer, kind: str) -> None:
    """A view that reads flags before it streams is its visitor's page, as any other is."""
    response = (
        Client().get("/early-stream/")
        if kind == "wsgi"
        else async_to_sync(AsyncClient().get)("/early-stream/")
    )

    assert whole(response) == [b"True"] * 2
    assert list(response.cookies) == [COOKIE]
    assert response["Cache-Control"] == "private"
    assert "Cookie" in response["Vary"]


def test_a_plain_stream_is_left_alone(client: Client) -> None:
    """A stream without flags gets neither a cookie nor a `Vary`."""
    response = client.get("/plain-stream/")

    assert whole(response) == [b"a", b"b"]
    assert not response.cookies
    assert not response.has_header("Vary")
    assert not response.has_header("Cache-Control")


def whole(response: Any) -> list[bytes]:
    async def read() -> list[bytes]:
        return [part async for part in response]

    return async_to_sync(read)() if response.is_async else list(response)


# A shared cache


@contextmanager
def served() -> Iterator[str]:
    """Yield the address of a server of the site, as its settings are now."""
    server = ThreadedWSGIServer(("127.0.0.1", 0), WSGIRequestHandler)
    server.set_app(WSGIHandler())
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def proxied(
    site: Callable[[str], None], tmp_path: Path
) -> Iterator[Callable[..., requests.Response]]:
    """Ask the site through an nginx that caches every page it may."""
    site("bare")
    with served() as url, nginx(url, tmp_path) as address:

        def get(page: str, **headers: str) -> requests.Response:
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            return requests.get(f"{address}/{slug(page)}/", headers=sent, timeout=30)

        yield get


@pytest.mark.parametrize(
    "name", ["features", "function", "template", "public", "for proxies", "guard", "mixin", "API"]
)
def test_nginx_keeps_no_page_with_flags(
    proxied: Callable[..., requests.Response], name: str
) -> None:
    """By default a shared cache stores nothing that depends on who asks, not even marked public."""
    for user, page in ((ADA, "new"), (EVE, "old"), (ADA, "new"), ("", "old"), (EVE, "old")):
        response = proxied(name, x_api_key=user, x_auth_token=user, cookie="consent=yes")

        assert page in response.text
        assert response.headers["X-Cache-Status"] == "MISS"


def test_nginx_keeps_a_page_without_flags(proxied: Callable[..., requests.Response]) -> None:
    """The cache is one that works: what does not depend on who asks is stored."""
    told = [proxied("plain").headers["X-Cache-Status"] for _ in range(2)]

    assert told == ["MISS", "HIT"]


def test_nginx_keeps_pages_by_named_headers(
    proxied: Callable[..., requests.Response], settings: Settings
) -> None:
    """With POSTHOG_API_IDENTITY_HEADERS a shared cache has a page for each user."""
    settings.POSTHOG_API_IDENTITY_HEADERS = ["X-Api-Key"]
    told = [
        (response.text, response.headers["X-Cache-Status"])
        for user in (ADA, EVE, ADA, EVE, "", "")
        for response in [proxied("guard", x_api_key=user)]
    ]

    assert told == [
        ("new", "MISS"),
        ("old", "MISS"),
        ("new", "HIT"),
        ("old", "HIT"),
        ("old", "MISS"),
        ("old", "MISS"),
    ]


def test_nginx_keeps_no_answer_of_the_api(
    proxied: Callable[..., requests.Response], settings: Settings
) -> None:
    """The REST API's answers are for their reader alone, whatever the site names."""
    settings.POSTHOG_API_IDENTITY_HEADERS = ["X-Api-Key"]
    visitor = proxied("api/features").cookies[COOKIE]

    for _ in range(2):
        response = proxied("api/features", cookie=f"{COOKIE}={visitor}")
        assert response.headers["Cache-Control"] == "private, no-cache"
        assert response.headers["X-Cache-Status"] == "MISS"
