"""The shop's pages: one with its flags decided by the server, one that asks the REST API."""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django.contrib.auth import login, logout
from django.contrib.auth.forms import AuthenticationForm
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_http_methods

from olposthog import conf
from olposthog._core.visibility import is_internal, is_visible
from olposthog.features import for_request, get_feature_flag, get_feature_flag_payload, is_enabled
from olposthog.identity import identify
from olposthog.snapshot import FlagSnapshot, Runtime, Source

from .identity import identity
from .models import Customer
from .templatetags.vite import from_source, manifest


@dataclass(frozen=True)
class Tea:
    name: str
    origin: str
    price: Decimal
    in_stock: int


TEAS = [
    Tea("First flush", "Darjeeling, India", Decimal("14.50"), 31),
    Tea("Gyokuro", "Uji, Japan", Decimal("22.00"), 6),
    Tea("Da Hong Pao", "Wuyi, China", Decimal("18.00"), 12),
]


def home(request: HttpRequest) -> HttpResponse:
    """Compute what depends on flags; what is merely shown or not is the template's matter."""
    percent = 0
    if is_enabled("web-summer-sale", request=request):
        sale = get_feature_flag_payload("web-summer-sale", request=request)
        percent = sale["percent"] if isinstance(sale, dict) else 10
    context = {
        "percent_off": percent,
        "offers": [(tea, _reduced(tea.price, percent)) for tea in TEAS],
        "checkout": get_feature_flag("checkout", "classic", request=request),
        "checkout_details": get_feature_flag_payload("checkout", request=request),
        **_explained(request),
    }
    return render(request, "storefront/home.html", context)


def _reduced(price: Decimal, percent: int) -> Decimal:
    return (price * (100 - percent) / 100).quantize(Decimal("0.01"))


def _explained(request: HttpRequest) -> dict[str, Any]:
    """Show what the flags were decided from; a real page would not."""
    snapshot = for_request(request)  # no new evaluation: the answer stays with the request
    return {
        "snapshot": snapshot,
        "rows": list(_rows(snapshot)),
        "person_properties": identity(request).person_properties,
        "posthog_is_down": snapshot.source is Source.FALLBACK,
    }


def _rows(snapshot: FlagSnapshot) -> Iterator[dict[str, Any]]:
    for key, value in sorted(snapshot.flags.items()):
        if not is_internal(key):
            yield {
                "key": key,
                "value": value if isinstance(value, str) else "on" if value else "off",
                "payload": snapshot.payloads.get(key),
                "for_browsers": is_visible(key),
            }


@never_cache
@ensure_csrf_cookie  # the browser logs in and out, and reports exposures
def live(request: HttpRequest) -> HttpResponse:
    """Serve the frontend, with what it needs for a first paint that is right."""
    if not (from_source() or manifest().exists()):
        return render(request, "storefront/unbuilt.html", status=503)
    page = {
        "api": "",
        "session": _session(request),
        "source": for_request(request, runtime=Runtime.CLIENT).source,
        "posthog": _posthog(),
    }
    return render(request, "storefront/live.html", {"page": page})


def _posthog() -> dict[str, str] | None:
    """Return what posthog-js needs, where there is a PostHog."""
    settings = conf.current()
    if not settings.enabled or settings.definitions_file:
        return None
    return {"token": settings.project_api_key, "host": settings.api_host}


@never_cache
@ensure_csrf_cookie  # also for a frontend that another server serves
@require_http_methods(["GET", "POST", "DELETE"])
def session(request: HttpRequest) -> HttpResponse:
    """Who is logged in; POST logs in, DELETE out."""
    if request.method == "POST":
        form = AuthenticationForm(request, data=request.POST)
        if not form.is_valid():
            return JsonResponse(form.errors, status=400)
        login(request, form.get_user())
    elif request.method == "DELETE":
        logout(request)
    return JsonResponse(_session(request))


def _session(request: HttpRequest) -> dict[str, str | None]:
    user, person = request.user, identify(request).distinct_id
    if not isinstance(user, Customer):
        return {"distinct_id": person, "username": None, "plan": None}
    return {"distinct_id": person, "username": user.get_username(), "plan": user.plan}
