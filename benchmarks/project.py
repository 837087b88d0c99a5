"""A Django project around one of the two packages, for the process that calls `set_up`.

Everything is Django's default but what is written here: a database and a cache in a SQLite file,
sessions and users, and PostHog. `MAX_ENTRIES` is high because a cache that culls would be measured
instead of the packages.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

import django
from django.apps import apps
from django.conf import settings
from django.core.management import call_command


class Package(Enum):
    """A package that is measured, by the name of its Django app."""

    OURS = "olposthog"
    PREDECESSOR = "mitol.olposthog"


class Features(Protocol):
    """The functions that both packages have."""

    def configure(self) -> None: ...

    def is_enabled(
        self, name: str, default: bool | None = None, opt_unique_id: str | None = None
    ) -> bool: ...

    def get_all_feature_flags(
        self, opt_unique_id: str | None = None
    ) -> Mapping[str, bool | str]: ...


def features() -> Features:
    """Return the functions of the package that this process has."""
    package = apps.get_app_config("olposthog").name
    return cast(Features, import_module(f"{package}.features"))


def set_up(
    package: Package,
    posthog_url: str,
    posthog_token: str,
    database: Path,
    definitions_file: str = "",
) -> None:
    """Make this process a Django project that uses `package`; definitions are optional."""
    rest_apps = ["rest_framework", "drf_spectacular", "olposthog_api"]
    settings.configure(
        SECRET_KEY="benchmarks only",
        DEBUG=False,
        USE_TZ=True,
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF="benchmarks.urls",
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": database}},
        CACHES={
            "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
            "durable": {
                "BACKEND": "django.core.cache.backends.db.DatabaseCache",
                "LOCATION": "durable_cache",
                "OPTIONS": {"MAX_ENTRIES": 100_000},
            },
        },
        INSTALLED_APPS=[
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.sessions",
            package.value,
            *(rest_apps if package is Package.OURS else []),
        ],
        MIDDLEWARE=[
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
        ],
        # What either package has to say about outages goes nowhere.
        LOGGING={
            "version": 1,
            "disable_existing_loggers": False,
            "handlers": {"nowhere": {"class": "logging.NullHandler"}},
            "root": {"handlers": ["nowhere"]},
        },
        POSTHOG_ENABLED=True,
        POSTHOG_PROJECT_API_KEY=posthog_token,
        POSTHOG_API_HOST=posthog_url,
        POSTHOG_FLAG_DEFINITIONS_FILE=definitions_file,
        # The predecessor has its defaults in a settings module of another library; these are they.
        POSTHOG_FEATURE_FLAG_REQUEST_TIMEOUT_MS=3000,
        POSTHOG_MAX_RETRIES=3,
        POSTHOG_POLL_INTERVAL=300,
        POSTHOG_CIRCUIT_BREAKER_TRIP_THRESHOLD_SECONDS=6,
        POSTHOG_CIRCUIT_BREAKER_COOLDOWN_SECONDS=60,
        HOSTNAME="benchmarks.example.com",
        ENVIRONMENT="benchmarks",
        FEATURES={},
    )
    django.setup()
    call_command("migrate", verbosity=0)
    call_command("createcachetable", verbosity=0)
    features().configure()
