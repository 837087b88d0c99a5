"""System checks: each setting that cannot be used, and each combination that will hurt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.apps import apps
from django.conf import settings as django_settings
from django.core.checks import CheckMessage, Error
from django.core.checks import Warning as CheckWarning

from . import conf
from .definitions import DefinitionsError, read
from .identity import user_ids_may_be_uuids

ERRORS = {
    "POSTHOG_ENABLED": "olposthog.E001",
    "POSTHOG_PROJECT_API_KEY": "olposthog.E002",
    "POSTHOG_PERSONAL_API_KEY": "olposthog.E003",
    "POSTHOG_API_HOST": "olposthog.E004",
    "POSTHOG_FEATURE_FLAG_REQUEST_TIMEOUT_MS": "olposthog.E005",
    "POSTHOG_MAX_RETRIES": "olposthog.E006",
    "POSTHOG_POLL_INTERVAL": "olposthog.E007",
    "POSTHOG_CIRCUIT_BREAKER_TRIP_THRESHOLD_SECONDS": "olposthog.E008",
    "POSTHOG_CIRCUIT_BREAKER_COOLDOWN_SECONDS": "olposthog.E009",
    "POSTHOG_CIRCUIT_BREAKER_FAILURE_THRESHOLD": "olposthog.E010",
    "POSTHOG_CACHE_ALIAS": "olposthog.E011",
    "POSTHOG_LOCAL_CACHE_SECONDS": "olposthog.E012",
    "POSTHOG_LOCAL_CACHE_MAX_ENTRIES": "olposthog.E013",
    "POSTHOG_FLAG_DEFINITIONS_FILE": "olposthog.E014",
    "POSTHOG_SEND_FEATURE_FLAG_EVENTS": "olposthog.E015",
    "POSTHOG_API_IDENTITY": "olposthog.E016",
    "POSTHOG_API_FLAGS": "olposthog.E017",
    "POSTHOG_API_ANONYMOUS_COOKIE": "olposthog.E018",
    "POSTHOG_API_TRUST_BROWSER_ID": "olposthog.E019",
    "HOSTNAME": "olposthog.E020",
    "ENVIRONMENT": "olposthog.E021",
    "FEATURES": "olposthog.E022",
    "POSTHOG_STALE_IF_ERROR_SECONDS": "olposthog.E023",
    "POSTHOG_STALE_WHILE_REVALIDATE_SECONDS": "olposthog.E024",
    "POSTHOG_API_CONTEXT_PROPERTIES": "olposthog.E025",
}
"""The id of the error for each setting that cannot be used."""

FORGEABLE_USER_ID = "olposthog.E100"
NO_HOSTNAME = "olposthog.W001"
NO_ENVIRONMENT = "olposthog.W002"
NO_SHARED_CACHE = "olposthog.W003"
SMALL_CACHE = "olposthog.W004"
EVERY_FLAG_VISIBLE = "olposthog.W005"
TEXT_FOR_SWITCH = "olposthog.W006"

DATABASE_CACHE = "django.core.cache.backends.db.DatabaseCache"
DATABASE_CACHE_MAX_ENTRIES = 300
"""What Django allows a `DatabaseCache` when MAX_ENTRIES is not set."""


def check_settings(**_: Any) -> list[CheckMessage]:
    """Report every setting that cannot be used. Until it is mended, FEATURES answers."""
    settings = conf.current()
    messages: list[CheckMessage] = [
        Error(problem.message, hint=problem.hint, id=ERRORS[problem.setting])
        for problem in settings.problems
    ]
    if settings.enabled and settings.offline:
        try:
            read(settings.definitions_file)
        except DefinitionsError as error:
            messages.append(
                Error(
                    f"POSTHOG_FLAG_DEFINITIONS_FILE cannot be used: {error}",
                    hint="Name a JSON file in the form of PostHog's flag definitions endpoint.",
                    id=ERRORS["POSTHOG_FLAG_DEFINITIONS_FILE"],
                )
            )
    return messages


def check_production(**_: Any) -> list[CheckMessage]:
    """Report combinations that work, but will surprise or hurt."""
    settings = conf.current()
    if not settings.enabled:
        return []
    return [*_identity(settings), *_shared_cache(settings), *_browser(settings), *_values(settings)]


def _identity(settings: conf.Settings) -> Iterator[CheckMessage]:
    if not getattr(django_settings, "HOSTNAME", None):
        yield CheckWarning(
            "HOSTNAME is not set; flags without an opt_unique_id are evaluated for the machine's "
            f"host name, {settings.hostname!r}.",
            hint="Set HOSTNAME to a name that all machines of the site share.",
            id=NO_HOSTNAME,
        )
    if not settings.environment:
        yield CheckWarning(
            "ENVIRONMENT is not set; flags cannot tell one deployment from another.",
            hint='Set ENVIRONMENT, for example to "production".',
            id=NO_ENVIRONMENT,
        )
    if settings.trust_browser_id and user_ids_may_be_uuids():
        yield Error(
            "POSTHOG_API_TRUST_BROWSER_ID is True and users' primary keys are no numbers: where "
            "they are UUIDs, a visitor could claim a user's id and get the user's flags.",
            hint="Set POSTHOG_API_TRUST_BROWSER_ID = False.",
            id=FORGEABLE_USER_ID,
        )


def _shared_cache(settings: conf.Settings) -> Iterator[CheckMessage]:
    if settings.cache_alias is None:
        yield CheckWarning(
            'CACHES has no "durable": each process has a cache and a circuit breaker of its own.',
            hint='Add a CACHES["durable"] that all processes share, such as a DatabaseCache.',
            id=NO_SHARED_CACHE,
        )
        return
    cache = django_settings.CACHES[settings.cache_alias]
    options: Any = cache.get("OPTIONS", {})
    most = options.get("MAX_ENTRIES", DATABASE_CACHE_MAX_ENTRIES)
    if cache["BACKEND"] == DATABASE_CACHE and most <= DATABASE_CACHE_MAX_ENTRIES:
        yield CheckWarning(
            f"CACHES[{settings.cache_alias!r}] is a DatabaseCache of {most} entries: with more "
            "it throws entries away, long before they expire.",
            hint='Set OPTIONS: {"MAX_ENTRIES": …} to more than the people of one TIMEOUT.',
            id=SMALL_CACHE,
        )


def _browser(settings: conf.Settings) -> Iterator[CheckMessage]:
    if (
        apps.is_installed("olposthog_api")
        and not django_settings.DEBUG
        and "*" in settings.browser_flags
    ):
        yield CheckWarning(
            "Browsers may see every flag that PostHog does not call server-only.",
            hint='Set POSTHOG_API_FLAGS to the keys or globs that browsers use, as in ["web-*"].',
            id=EVERY_FLAG_VISIBLE,
        )


def _values(settings: conf.Settings) -> Iterator[CheckMessage]:
    for key, value in settings.features.items():
        if isinstance(value, str) and value.strip().lower() in {"", "true", "false", "0", "1"}:
            yield CheckWarning(
                f"FEATURES[{key!r}] is the text {value!r}, which counts as a variant.",
                hint="Set True or False where the flag has no variants.",
                id=TEXT_FOR_SWITCH,
            )
