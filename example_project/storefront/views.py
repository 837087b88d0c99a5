"""The shop's one page, with its flags decided by the server."""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from olposthog.features import for_request, get_feature_flag, get_feature_flag_payload, is_enabled
from olposthog.snapshot import FlagSnapshot, Source
from olposthog.visibility import is_internal, is_visible

from .identity import identity


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
    percent = 0
    if is_enabled("web-summer-sale", request=request):
        sale = get_feature_flag_payload("web-summer-sale", request=request)
        percent = sale["percent"] if isinstance(sale, dict) else 10
    context = {
        "new_navigation": is_enabled("new-navigation", request=request),
        "upgrade_offer": is_enabled("web-upgrade-offer", request=request),
        "gift_wrapping": is_enabled("gift-wrapping", request=request),
        "stock_forecast": is_enabled("stock-forecast", request=request),
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
