"""The settings: read once into one typed object, read anew when a test overrides them.

Each field names its Django setting, its default and the rule that judges it. A value that breaks
its rule becomes a `Problem`: system checks report it, and at run time `settings.FEATURES` answers
until it is mended, because half a configuration is no base for a decision.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum, auto
from typing import Any

from django.conf import settings as django_settings
from django.core.signals import setting_changed
from django.dispatch import Signal

from . import validators
from .validators import Refused

DEFAULT_CACHE_ALIAS = "durable"


@dataclass(frozen=True, slots=True)
class Problem:
    """One setting that cannot be used: what is wrong, and how to mend it."""

    setting: str
    message: str
    hint: str
    missing: bool = False
    """Whether it is required and not there, rather than there and not usable."""


def _setting(name: str, judge: Callable[[Any], Any], default: Any, *, secret: bool = False) -> Any:
    metadata = {"name": name, "judge": judge, "secret": secret}
    if isinstance(default, dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


class Mode(Enum):
    """Where values come from by the settings, `settings.FEATURES` apart."""

    DISABLED = auto()
    """Nowhere: POSTHOG_ENABLED is off."""
    MISCONFIGURED = auto()
    """Nowhere: a setting is invalid."""
    FILE = auto()
    """A definitions file."""
    REMOTE = auto()
    """PostHog over the network, or the definitions that it sends."""
    ISOLATED = auto()
    """Nowhere, though PostHog is configured: a test runs that did not ask for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the site configured, typed; every field may be left out of the site's settings."""

    enabled: bool = _setting("POSTHOG_ENABLED", validators.boolean, False)
    project_api_key: str = _setting(
        "POSTHOG_PROJECT_API_KEY", validators.project_key, "", secret=True
    )
    personal_api_key: str = _setting(
        "POSTHOG_PERSONAL_API_KEY", validators.any_text, "", secret=True
    )
    api_host: str = _setting("POSTHOG_API_HOST", validators.url, "")
    request_timeout_ms: float = _setting(
        "POSTHOG_FEATURE_FLAG_REQUEST_TIMEOUT_MS", validators.number(0, above=True), 3000
    )
    max_retries: int = _setting("POSTHOG_MAX_RETRIES", validators.whole_number(0), 3)
    poll_interval_seconds: float = _setting(
        "POSTHOG_POLL_INTERVAL", validators.number(0, above=True), 300
    )
    trip_threshold_seconds: float = _setting(
        "POSTHOG_CIRCUIT_BREAKER_TRIP_THRESHOLD_SECONDS", validators.number(0, above=True), 6
    )
    cooldown_seconds: float = _setting(
        "POSTHOG_CIRCUIT_BREAKER_COOLDOWN_SECONDS", validators.number(0, above=True), 60
    )
    failure_threshold: int = _setting(
        "POSTHOG_CIRCUIT_BREAKER_FAILURE_THRESHOLD", validators.whole_number(1), 5
    )
    cache_alias: str | None = _setting("POSTHOG_CACHE_ALIAS", validators.alias, None)
    local_cache_seconds: float = _setting("POSTHOG_LOCAL_CACHE_SECONDS", validators.number(0), 5)
    local_cache_max_entries: int = _setting(
        "POSTHOG_LOCAL_CACHE_MAX_ENTRIES", validators.whole_number(1), 1000
    )
    stale_if_error_seconds: float = _setting(
        "POSTHOG_STALE_IF_ERROR_SECONDS", validators.number(0), 0
    )
    stale_while_revalidate_seconds: float = _setting(
        "POSTHOG_STALE_WHILE_REVALIDATE_SECONDS", validators.number(0), 0
    )
    definitions_file: str = _setting("POSTHOG_FLAG_DEFINITIONS_FILE", validators.file_path, "")
    send_events: bool = _setting("POSTHOG_SEND_FEATURE_FLAG_EVENTS", validators.boolean, True)
    identity: Callable[..., Any] | None = _setting(  # noqa: RUF009  # makes a field
        "POSTHOG_API_IDENTITY", validators.dotted_path, None
    )
    browser_flags: tuple[str, ...] = _setting("POSTHOG_API_FLAGS", validators.patterns, ("*",))
    anonymous_cookie: str | None = _setting(
        "POSTHOG_API_ANONYMOUS_COOKIE", validators.cookie, "olposthog_id"
    )
    identity_headers: tuple[str, ...] = _setting(
        "POSTHOG_API_IDENTITY_HEADERS", validators.header_names, ()
    )
    trust_browser_id: bool = _setting("POSTHOG_API_TRUST_BROWSER_ID", validators.boolean, False)
    context_properties: tuple[str, ...] = _setting(
        "POSTHOG_API_CONTEXT_PROPERTIES", validators.property_names, ()
    )
    hostname: str = _setting("HOSTNAME", validators.any_text, "")
    environment: str = _setting("ENVIRONMENT", validators.any_text, "")
    features: Mapping[str, bool | str] = _setting("FEATURES", validators.features, {})  # a field
    problems: tuple[Problem, ...] = ()
    isolated: bool = False
    """Whether nothing may leave the process: a test runs, and did not ask for PostHog."""

    @property
    def mode(self) -> Mode:
        """Where values come from."""
        if not self.enabled:
            return Mode.DISABLED
        if self.problems:
            return Mode.MISCONFIGURED
        if self.definitions_file:
            return Mode.FILE
        return Mode.ISOLATED if self.isolated else Mode.REMOTE

    @property
    def timeout_seconds(self) -> float:
        """How long one request to PostHog may be silent."""
        return self.request_timeout_ms / 1000


_CREDENTIALS = re.compile(r"^(\s*[a-z][a-z0-9+.-]*://)?.*@", re.DOTALL | re.IGNORECASE)
"""Who logs in, and with which password, which may have any character in it."""


def without_credentials(address: str) -> str:
    """Return an address, well-formed or not, without whatever could be a name and a password."""
    return _CREDENTIALS.sub(lambda found: found[1] or "", address)


def _load() -> Settings:
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    for spec in fields(Settings):
        name = spec.metadata.get("name")
        if name is None or not hasattr(django_settings, name):
            continue
        raw = getattr(django_settings, name)
        if raw is None:
            # None means "not set", except where it is an answer of its own: no cookie.
            if spec.name == "anonymous_cookie":
                values[spec.name] = None
            continue
        try:
            values[spec.name] = spec.metadata["judge"](raw)
        except Refused as verdict:
            if spec.name == "enabled":
                values[spec.name] = True  # so that the log says what is wrong
            quoted = (
                repr(without_credentials(raw))
                if isinstance(raw, str)
                else without_credentials(repr(raw))
            )
            shown = "" if spec.metadata["secret"] else f" is {quoted}, which"
            problems.append(
                Problem(name, f"{name}{shown} is not {verdict.expected}.", verdict.hint)
            )
            if spec.name == "browser_flags":
                values[spec.name] = ()  # an unreadable allowlist allows nothing
    refused = {problem.setting for problem in problems}
    switched_on = values.get("enabled") and "POSTHOG_ENABLED" not in refused
    if switched_on and not values.get("definitions_file"):
        problems += [
            Problem(name, f"{name} is required while POSTHOG_ENABLED is True.", hint, missing=True)
            for name, given, hint in (
                (
                    "POSTHOG_PROJECT_API_KEY",
                    values.get("project_api_key"),
                    "Set the project's key (phc_...), or POSTHOG_ENABLED = False.",
                ),
                (
                    "POSTHOG_API_HOST",
                    values.get("api_host"),
                    'Set for example "https://us.i.posthog.com", or POSTHOG_ENABLED = False.',
                ),
            )
            if not given and name not in refused
        ]
    values.setdefault("hostname", "")
    values["hostname"] = values["hostname"] or socket.gethostname()
    if "cache_alias" not in values and DEFAULT_CACHE_ALIAS in django_settings.CACHES:
        values["cache_alias"] = DEFAULT_CACHE_ALIAS
    return Settings(**values, problems=tuple(problems), isolated=_is_isolated)


NAMES = frozenset(
    [spec.metadata["name"] for spec in fields(Settings) if spec.metadata] + ["CACHES"]
)
"""Every Django setting whose change makes a new `Settings`."""

changed = Signal()
"""Sent when settings or overrides changed: what was built from them is then out of date."""

_current: Settings | None = None
_changes = 0
_is_isolated = False


def current() -> Settings:
    """Return the settings in force; the same object until one of them changes."""
    global _current  # noqa: PLW0603  # the one place that holds it
    settings = _current
    if settings is None:
        changes = _changes
        settings = _load()
        if changes == _changes:  # else another thread has changed one meanwhile
            _current = settings
    return settings


def _forget() -> None:
    global _current, _changes  # noqa: PLW0603  # the one place that holds them
    _changes += 1
    _current = None


def _on_change(*, setting: str, **_: Any) -> None:
    if setting in NAMES:
        _forget()
        changed.send(sender=Settings)


def isolate(*, is_on: bool) -> None:
    """Set `Settings.isolated`, for the overrides of tests, and send `changed`."""
    global _is_isolated  # noqa: PLW0603  # the one place that holds it
    if _is_isolated is not is_on:
        _is_isolated = is_on
        _forget()
    changed.send(sender=Settings)


def is_isolated() -> bool:
    """Return whether nothing may leave the process, without reading the settings."""
    return _is_isolated


setting_changed.connect(_on_change, dispatch_uid="olposthog.conf")
