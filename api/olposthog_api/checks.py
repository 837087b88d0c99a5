"""System checks of the REST API: what makes it answer with errors, or lets it be overrun."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from django.apps import apps
from django.conf import settings as django_settings
from django.core.cache import DEFAULT_CACHE_ALIAS, caches
from django.core.cache.backends.dummy import DummyCache
from django.core.checks import CheckMessage, Error
from django.core.checks import Warning as CheckWarning
from rest_framework.settings import api_settings

from olposthog import conf
from olposthog._utils.log_lines import printable
from olposthog.checks.shared_cache import how_to_make_table

NO_LIBRARY = "olposthog_api.E001"
BAD_RATE = "olposthog_api.E002"
NO_ANONYMOUS_USER = "olposthog_api.E003"
NO_RATE = "olposthog_api.W001"
RATE_OF_NOTHING = "olposthog_api.W002"
NOTHING_COUNTED = "olposthog_api.W003"
NO_CACHE_TABLE = "olposthog_api.W004"
APP_NOT_INSTALLED = "olposthog_api.W005"
NUM_PROXIES_NOT_SET = "olposthog_api.W006"


def check_api(**_: Any) -> list[CheckMessage]:
    """Report what the REST API lacks."""
    return [*_apps(), *_anonymous_user(), *_throttle()]


def _apps() -> Iterator[CheckMessage]:
    if not apps.is_installed("olposthog"):
        yield Error(
            '"olposthog_api" is in INSTALLED_APPS and "olposthog" is not: nothing checks the '
            "settings, and posthog.capture() is not configured.",
            hint='Add "olposthog" to INSTALLED_APPS, before "olposthog_api".',
            id=NO_LIBRARY,
        )
    for app, lacks in (
        ("rest_framework", "its error messages are not translated"),
        ("drf_spectacular", "there is no command `spectacular` to write the OpenAPI file"),
    ):
        if not apps.is_installed(app):
            yield CheckWarning(
                f'"olposthog_api" is in INSTALLED_APPS and "{app}" is not: {lacks}.',
                hint=f'Add "{app}" to INSTALLED_APPS.',
                id=APP_NOT_INSTALLED,
            )


def _anonymous_user() -> Iterator[CheckMessage]:
    try:
        api_settings.UNAUTHENTICATED_USER  # noqa: B018  # the look imports it
    except Exception as error:  # noqa: BLE001  # whatever importing the site's choice raises
        yield Error(
            "REST_FRAMEWORK's UNAUTHENTICATED_USER cannot be imported, so every request without a "
            f"log-in is answered with a 500: {printable(str(error))}",
            hint='Add "django.contrib.auth" and "django.contrib.contenttypes" to INSTALLED_APPS, '
            "or set REST_FRAMEWORK = {'UNAUTHENTICATED_USER': None}.",
            id=NO_ANONYMOUS_USER,
        )


def _throttle() -> Iterator[CheckMessage]:
    try:
        limit = _limit()
    except Exception:  # noqa: BLE001  # DRF raises what its parsing happens to raise
        yield Error(
            'REST_FRAMEWORK\'s DEFAULT_THROTTLE_RATES has a rate for the scope "features" that '
            "cannot be read, so every request is answered with a 500.",
            hint="Set REST_FRAMEWORK = {'DEFAULT_THROTTLE_RATES': {'features': '60/min'}}.",
            id=BAD_RATE,
        )
        return
    in_production = conf.current().enabled and not django_settings.DEBUG
    if limit is None:
        if in_production:
            yield CheckWarning(
                'REST_FRAMEWORK\'s DEFAULT_THROTTLE_RATES has no rate for the scope "features": '
                "whoever sends requests without cookies makes PostHog evaluate, and bill, each.",
                hint="Set REST_FRAMEWORK = {'DEFAULT_THROTTLE_RATES': {'features': '60/min'}}.",
                id=NO_RATE,
            )
    elif limit <= 0:
        yield CheckWarning(
            f"REST_FRAMEWORK's DEFAULT_THROTTLE_RATES allows {limit} requests for the scope "
            '"features": each is answered with a 429.',
            hint="Set a rate such as '60/min', or None for no throttle.",
            id=RATE_OF_NOTHING,
        )
    elif in_production:
        yield from _counting()


def _counting() -> Iterator[CheckMessage]:
    """Report that the rate counts nothing, or all visitors behind a proxy as one client."""
    if api_settings.NUM_PROXIES is None:
        yield CheckWarning(
            'REST_FRAMEWORK\'s NUM_PROXIES is not set. The rate for the scope "features" counts '
            "connecting addresses: behind a proxy, all anonymous visitors share one limit.",
            hint="Set NUM_PROXIES in REST_FRAMEWORK to the number of proxies in front of Django, "
            "or to 0.",
            id=NUM_PROXIES_NOT_SET,
        )
    if _counts_nothing():
        yield CheckWarning(
            f"CACHES[{DEFAULT_CACHE_ALIAS!r}], where DRF counts requests, is a DummyCache: the "
            'rate for the scope "features" holds nobody back.',
            hint=f"Give CACHES[{DEFAULT_CACHE_ALIAS!r}] a backend that keeps something, best one "
            "that all processes share.",
            id=NOTHING_COUNTED,
        )


def _limit() -> int | None:
    """Return how many requests the rate allows, or None without one; raises what DRF raises."""
    from .throttling import FeaturesThrottle  # reads DRF's settings, so not before
    from .views import FeatureViewSet

    throttle = FeaturesThrottle()
    throttle.scope = FeatureViewSet.throttle_scope
    return throttle.parse_rate(throttle.get_rate())[0]


def _counts_nothing() -> bool:
    try:
        return isinstance(caches[DEFAULT_CACHE_ALIAS], DummyCache)
    except Exception:  # noqa: BLE001  # Django's own checks raise it
        return False


def check_throttle_table(databases: Collection[str] | None = None, **_: Any) -> list[CheckMessage]:
    """Report that the table in which DRF counts requests is missing."""
    try:
        if _limit() is None:
            return []
    except Exception:  # noqa: BLE001  # `check_api` reports it
        return []
    return [
        CheckWarning(
            f"CACHES[{DEFAULT_CACHE_ALIAS!r}], where DRF counts requests, is a DatabaseCache whose "
            "table is missing: nothing is counted, and the rate holds nobody back.",
            hint=fix,
            id=NO_CACHE_TABLE,
        )
        for fix in how_to_make_table(DEFAULT_CACHE_ALIAS, databases or ())
    ]
