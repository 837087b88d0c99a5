"""The Django settings of either site: equal but for the package, and for what that needs.

The process that starts a site says in its environment what differs from run to run.
"""

from __future__ import annotations

import json
import os

from benchmarks.project import Package

_run = json.loads(os.environ["OUTAGE_SITE"])
PACKAGE = Package(_run["package"])

SECRET_KEY = "benchmarks only"
DEBUG = False
USE_TZ = True
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "benchmarks.outage.urls"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        **_run["database"],
        "CONN_MAX_AGE": 60,
    }
}
CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    "durable": {
        "BACKEND": "django.core.cache.backends.db.DatabaseCache",
        "LOCATION": "durable_cache",
        "TIMEOUT": _run["cache_seconds"],
        # High, because a cache that culls would be measured instead of the packages.
        "OPTIONS": {"MAX_ENTRIES": 100_000},
    },
}
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "rest_framework",
    PACKAGE.value,
    *(["drf_spectacular", "olposthog_api"] if PACKAGE is Package.OURS else []),
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(levelname)s %(name)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
}
POSTHOG_ENABLED = True
# The predecessor has its defaults in a settings module of another library; these are they.
POSTHOG_MAX_RETRIES = 3
POSTHOG_POLL_INTERVAL = 300
HOSTNAME = "benchmarks.example.com"
ENVIRONMENT = "benchmarks"
FEATURES = {"flag-00": True, "flag-01": False}

globals().update(_run["settings"])
