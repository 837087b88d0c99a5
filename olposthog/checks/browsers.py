"""What browsers see, and as whom they are taken."""

from __future__ import annotations

import re
from collections.abc import Iterator

from django.apps import apps
from django.conf import settings as django_settings
from django.core.checks import CheckMessage, Error
from django.core.checks import Warning as CheckWarning
from django.utils.module_loading import import_string

from olposthog import conf
from olposthog._http.page_caching import PAGE_CACHES
from olposthog.identity import user_ids_may_be_uuids

from . import ids

IDENTITY_MIDDLEWARE = "olposthog.middleware.IdentityMiddleware"


def messages(settings: conf.Settings) -> Iterator[CheckMessage]:
    """Report what shows browsers too much or nothing, or takes them for somebody else."""
    yield from _flags(settings)
    if settings.trust_browser_id and user_ids_may_be_uuids():
        yield Error(
            "POSTHOG_API_TRUST_BROWSER_ID is True and users' primary keys are no numbers: where "
            "they are UUIDs, a visitor could claim a user's id and get the user's flags.",
            hint="Set POSTHOG_API_TRUST_BROWSER_ID = False.",
            id=ids.FORGEABLE_USER_ID,
        )
    yield from _cookie(settings)
    yield from _middleware()
    yield from _identity_headers(settings)


def _flags(settings: conf.Settings) -> Iterator[CheckMessage]:
    has_api = apps.is_installed("olposthog_api")
    if has_api and not django_settings.DEBUG and "*" in settings.browser_flags:
        yield CheckWarning(
            "Browsers may see every flag that PostHog does not call server-only.",
            hint='Set POSTHOG_API_FLAGS to the keys or globs that browsers use, as in ["web-*"].',
            id=ids.EVERY_FLAG_VISIBLE,
        )
    refused = {problem.setting for problem in settings.problems}
    if has_api and not settings.browser_flags and "POSTHOG_API_FLAGS" not in refused:
        yield CheckWarning(
            "POSTHOG_API_FLAGS is empty: the REST API shows no flag to anybody.",
            hint='Set the keys or globs that browsers use, as in ["web-*"], or take '
            '"olposthog_api" out of INSTALLED_APPS.',
            id=ids.NO_FLAG_VISIBLE,
        )
    for pattern in settings.browser_flags:
        if not pattern or re.search(r"[\s,]", pattern):
            yield CheckWarning(
                f"POSTHOG_API_FLAGS has {pattern!r}, and no flag has such a key.",
                hint="Name one key or glob in each item, without spaces and commas.",
                id=ids.PATTERN_OF_NO_FLAG,
            )


def _cookie(settings: conf.Settings) -> Iterator[CheckMessage]:
    """Report that browsers drop the anonymous visitor's cookie, which looks as sessions' do."""
    name = settings.anonymous_cookie
    in_use = apps.is_installed("olposthog_api") or IDENTITY_MIDDLEWARE in _middleware_in_use()
    if name is None or not in_use or django_settings.SESSION_COOKIE_SECURE:
        return
    same_site = django_settings.SESSION_COOKIE_SAMESITE
    if isinstance(same_site, str) and same_site.lower() == "none":
        reason = 'has SESSION_COOKIE_SAMESITE = "None" and no Secure'
    elif name.lower().startswith(("__secure-", "__host-")):
        reason = "has a name that asks for Secure, and lacks it"
    else:
        return
    yield CheckWarning(
        f"The cookie of POSTHOG_API_ANONYMOUS_COOKIE, {name!r}, {reason}: browsers drop it, and an "
        "anonymous visitor is somebody else with each request.",
        hint="Set SESSION_COOKIE_SECURE = True.",
        id=ids.COOKIE_DROPPED,
    )


def _middleware_in_use() -> list[str]:
    return list(django_settings.MIDDLEWARE or ())


def _middleware() -> Iterator[CheckMessage]:
    middleware = _middleware_in_use()
    if IDENTITY_MIDDLEWARE not in middleware:
        return
    for inner in middleware[middleware.index(IDENTITY_MIDDLEWARE) :]:
        if inner in PAGE_CACHES:
            yield CheckWarning(
                f"MIDDLEWARE has {inner} after {IDENTITY_MIDDLEWARE}: a page with flags "
                "reaches the cache before it names its Vary. It is not cached, and only a private "
                "attribute of Django's requests keeps it from others.",
                hint=f"Put {IDENTITY_MIDDLEWARE} after {inner}.",
                id=ids.CACHED_BEFORE_IDENTITY,
            )


def _identity_headers(settings: conf.Settings) -> Iterator[CheckMessage]:
    """Report a header that users are known by, and that answers do not name in `Vary`."""
    if not settings.identity_headers or not apps.is_installed("django.contrib.auth"):
        return
    from django.contrib.auth.middleware import RemoteUserMiddleware  # which needs its models

    named = {one.lower() for one in ("Authorization", *settings.identity_headers)}
    for path in _middleware_in_use():
        middleware = _imported(path)
        if not (isinstance(middleware, type) and issubclass(middleware, RemoteUserMiddleware)):
            continue
        variable = middleware.header
        header = variable.removeprefix("HTTP_").replace("_", "-").title()
        if not variable.startswith("HTTP_"):
            yield CheckWarning(
                f"POSTHOG_API_IDENTITY_HEADERS is set, and {path} reads users from {variable}, "
                "which is not a header: caches give one user's page to another.",
                hint="Unset POSTHOG_API_IDENTITY_HEADERS.",
                id=ids.IDENTITY_HEADER_MISSING,
            )
        elif header.lower() not in named:
            yield CheckWarning(
                f"POSTHOG_API_IDENTITY_HEADERS lacks {header}, which {path} reads users from: "
                "caches give one user's page to another.",
                hint=f'Add "{header}" to POSTHOG_API_IDENTITY_HEADERS.',
                id=ids.IDENTITY_HEADER_MISSING,
            )


def _imported(path: str) -> object:
    try:
        return import_string(path)
    except Exception:  # noqa: BLE001  # Django's own checks and its start report it
        return None
