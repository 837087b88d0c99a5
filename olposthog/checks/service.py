"""How PostHog is asked: where, how often, and how long anybody waits."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from urllib.parse import urlsplit

from django.conf import settings as django_settings
from django.core.checks import CheckMessage
from django.core.checks import Warning as CheckWarning

from olposthog import conf

from . import ids

APP_ADDRESSES = frozenset(
    {"https://us.posthog.com", "https://eu.posthog.com", "https://app.posthog.com"}
)
"""Where people use PostHog Cloud. The SDK knows which API belongs to each."""
SHORTEST_TIMEOUT_MS = 50
"""In less, hardly a request crosses a network: seconds were meant."""
LONGEST_WAIT_SECONDS = 30
"""When gunicorn kills a worker, unless told otherwise."""
LONGEST_COOLDOWN_SECONDS = 3600
SHORTEST_POLL_SECONDS = 30


def messages(settings: conf.Settings) -> Iterator[CheckMessage]:
    """Report what makes PostHog unreachable, expensive, readable on the way, or waited for."""
    if settings.definitions_file:
        yield from _file(settings)
        return
    yield from _address(settings)
    yield from _times(settings)


def _file(settings: conf.Settings) -> Iterator[CheckMessage]:
    if settings.project_api_key and settings.api_host and not django_settings.DEBUG:
        yield CheckWarning(
            "POSTHOG_FLAG_DEFINITIONS_FILE is set beside POSTHOG_PROJECT_API_KEY and "
            "POSTHOG_API_HOST: the file wins, PostHog is never asked for flags, and no exposure is "
            "reported.",
            hint="Unset POSTHOG_FLAG_DEFINITIONS_FILE where PostHog decides.",
            id=ids.FILE_BESIDE_POSTHOG,
        )


def _address(settings: conf.Settings) -> Iterator[CheckMessage]:
    parts = urlsplit(settings.api_host)
    host = parts.hostname or ""
    shown = conf.without_credentials(settings.api_host)
    if f".{host}".endswith(".posthog.com"):
        is_api = parts.scheme == "https" and host.endswith(".i.posthog.com") and not parts.path
        if not is_api and settings.api_host not in APP_ADDRESSES:
            yield CheckWarning(
                f"POSTHOG_API_HOST is {shown!r}, where PostHog Cloud answers no request for flags.",
                hint='Set "https://us.i.posthog.com" or "https://eu.i.posthog.com".',
                id=ids.NO_API_ADDRESS,
            )
    elif parts.scheme == "http" and not django_settings.DEBUG and not _is_near(host):
        yield CheckWarning(
            f"POSTHOG_API_HOST is {shown!r}: keys and people's properties cross the "
            "network unencrypted.",
            hint="Set an address that begins with https://.",
            id=ids.UNENCRYPTED,
        )


def _is_near(host: str) -> bool:
    """Return whether a host is this machine, or one in a network of the site's own."""
    try:
        return not ip_address(host).is_global
    except ValueError:
        return "." not in host or host.endswith((".localhost", ".local", ".internal", ".svc"))


def _times(settings: conf.Settings) -> Iterator[CheckMessage]:
    if settings.request_timeout_ms < SHORTEST_TIMEOUT_MS:
        yield CheckWarning(
            f"POSTHOG_FEATURE_FLAG_REQUEST_TIMEOUT_MS is {settings.request_timeout_ms:g} "
            "milliseconds: hardly any request to PostHog succeeds.",
            hint="Set milliseconds, for example 3000.",
            id=ids.SHORT_REQUEST_TIMEOUT,
        )
    if settings.trip_threshold_seconds >= LONGEST_WAIT_SECONDS:
        yield CheckWarning(
            "POSTHOG_CIRCUIT_BREAKER_TRIP_THRESHOLD_SECONDS lets a caller wait "
            f"{settings.trip_threshold_seconds:g} seconds for flags: many web servers end a "
            "request, or its worker, before that.",
            hint="Set a few seconds, for example 2.",
            id=ids.LONG_WAIT,
        )
    if settings.cooldown_seconds >= LONGEST_COOLDOWN_SECONDS:
        yield CheckWarning(
            "POSTHOG_CIRCUIT_BREAKER_COOLDOWN_SECONDS makes an outage of PostHog's, however short, "
            f"one of {settings.cooldown_seconds:g} seconds for this site.",
            hint="Set about a minute, for example 60.",
            id=ids.LONG_COOLDOWN,
        )
    if (
        settings.personal_api_key
        and settings.poll_interval_seconds < SHORTEST_POLL_SECONDS
        and not django_settings.DEBUG
    ):
        yield CheckWarning(
            f"POSTHOG_POLL_INTERVAL is {settings.poll_interval_seconds:g} seconds, and PostHog "
            "bills each fetch that brings something new as ten requests.",
            hint=f"Set {SHORTEST_POLL_SECONDS} seconds or more, for example 300.",
            id=ids.SHORT_POLL_INTERVAL,
        )
