"""Settings of the demo shop.

Out of the box it needs no network: flags come from `flags.json`. To use a PostHog project instead,
set POSTHOG_PROJECT_API_KEY and POSTHOG_API_HOST in the environment; nothing here has to change.
"""

import os
from pathlib import Path

from corsheaders.defaults import default_headers
from debug_toolbar.settings import PANELS_DEFAULTS
from django.core.exceptions import ImproperlyConfigured

PROJECT = Path(__file__).resolve().parent.parent


# The environment holds only text, and every text but "" is true: turn it into what is meant.


def text(name: str, default: str = "") -> str:
    return os.environ.get(name, default).strip()


def switch(name: str, *, default: bool) -> bool:
    words = {"1": True, "true": True, "on": True, "0": False, "false": False, "off": False}
    given = text(name).lower()
    if given and given not in words:
        raise ImproperlyConfigured(f"{name} is {given!r}; it must be one of: {', '.join(words)}.")
    return words.get(given, default)


def number(name: str, *, default: float) -> float:
    given = text(name)
    try:
        return float(given) if given else default
    except ValueError as error:
        raise ImproperlyConfigured(f"{name} is {given!r}; it must be a number.") from error


# Django

DEBUG = switch("SHOP_DEBUG", default=True)
SECRET_KEY = text("SHOP_SECRET_KEY", "for-the-demo-only-a-real-site-keeps-its-own-key-to-itself")
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
ROOT_URLCONF = "shop.urls"

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "corsheaders",
    "health_check",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",  # Swagger UI's files, so that no page needs the internet
    "olposthog",
    "olposthog.contrib.admin",
    "olposthog_api",
    "storefront",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "corsheaders.middleware.CorsMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "olposthog.middleware.IdentityMiddleware",  # a visitor keeps the same flags from page to page
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    }
]

AUTH_USER_MODEL = "storefront.Customer"
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = LOGOUT_REDIRECT_URL = "home"

LANGUAGE_CODE = "en"
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# `runserver` serves static files while DEBUG is on; else a web server does, from STATIC_ROOT.
VAR = Path(text("SHOP_VAR_DIR", str(PROJECT / "var")))
STATIC_URL = "static/"
STATIC_ROOT = VAR / "static"

# The frontend, as Vite built it; `make dev` has Vite serve its sources instead.
FRONTEND = PROJECT / "frontend" / "dist"
FRONTEND_DEV = switch("SHOP_FRONTEND_DEV", default=False)
STATICFILES_DIRS = [("live", FRONTEND)] if FRONTEND.is_dir() else []

# The debug toolbar, with a panel of the flags that a page reads: for a developer, on this machine.

DEBUG_TOOLBAR = DEBUG and switch("SHOP_DEBUG_TOOLBAR", default=True)
INTERNAL_IPS = ["127.0.0.1"]
DEBUG_TOOLBAR_PANELS = ["olposthog.contrib.debug_toolbar.FlagsPanel", *PANELS_DEFAULTS]
DEBUG_TOOLBAR_CONFIG = {"SHOW_COLLAPSED": True}
if DEBUG_TOOLBAR:
    INSTALLED_APPS += ["debug_toolbar"]
    MIDDLEWARE.insert(0, "debug_toolbar.middleware.DebugToolbarMiddleware")

# Databases and caches. The shared cache of flags has a database of its own, so that it waits for
# no transaction of the shop's.

SQLITE = {
    "ENGINE": "django.db.backends.sqlite3",
    "OPTIONS": {
        "transaction_mode": "IMMEDIATE",
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    },
}
DATABASES = {
    "default": {**SQLITE, "NAME": VAR / "shop.sqlite3"},
    "flags": {**SQLITE, "NAME": VAR / "flags.sqlite3"},
}
DATABASE_ROUTERS = ["shop.routers.CacheRouter"]

CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    "durable": {  # all processes share it: people's flags, and the state of the circuit breaker
        "BACKEND": "django.core.cache.backends.db.DatabaseCache",
        "LOCATION": "flags_cache",
        "TIMEOUT": number("SHOP_FLAGS_SECONDS", default=300),  # how long PostHog's answer is fresh
        "OPTIONS": {"MAX_ENTRIES": 100_000},  # more than the people who come within TIMEOUT
    },
}

# Feature flags

HOSTNAME = "shop.example.com"  # whom flags are for when nobody asks: the shop itself
ENVIRONMENT = text("ENVIRONMENT", "demo")

# What holds while PostHog cannot be asked.
FEATURES = {
    "checkout": "classic",
    "new-navigation": True,
}

POSTHOG_ENABLED = switch("POSTHOG_ENABLED", default=True)
POSTHOG_PROJECT_API_KEY = text("POSTHOG_PROJECT_API_KEY")
POSTHOG_PERSONAL_API_KEY = text("POSTHOG_PERSONAL_API_KEY")
POSTHOG_API_HOST = text("POSTHOG_API_HOST")  # for example https://eu.i.posthog.com

# With either of the two there is a PostHog to ask, and `manage.py check` misses the other.
if not (POSTHOG_PROJECT_API_KEY or POSTHOG_API_HOST):
    POSTHOG_FLAG_DEFINITIONS_FILE = text(
        "POSTHOG_FLAG_DEFINITIONS_FILE", str(PROJECT / "flags.json")
    )

# The most that a page ever waits for flags, and how long a process keeps an answer: seconds.
POSTHOG_CIRCUIT_BREAKER_TRIP_THRESHOLD_SECONDS = number(
    "POSTHOG_CIRCUIT_BREAKER_TRIP_THRESHOLD_SECONDS", default=2
)
POSTHOG_LOCAL_CACHE_SECONDS = number("POSTHOG_LOCAL_CACHE_SECONDS", default=5)

# In an outage: how long last known values do, and when PostHog is tried again. Seconds.
POSTHOG_STALE_IF_ERROR_SECONDS = number("POSTHOG_STALE_IF_ERROR_SECONDS", default=0)
POSTHOG_CIRCUIT_BREAKER_COOLDOWN_SECONDS = number(
    "POSTHOG_CIRCUIT_BREAKER_COOLDOWN_SECONDS", default=60
)

POSTHOG_API_IDENTITY = "storefront.identity.identity"
POSTHOG_API_FLAGS = ["checkout", "gift-wrapping", "new-navigation", "web-*"]

# A single-page app on a host of its own, such as https://app.example.com. Unset, none may read.

SPA_ORIGINS = text("SHOP_SPA_ORIGIN").split()
CORS_URLS_REGEX = r"^/(api|ofrep)/"
CORS_ALLOWED_ORIGINS = CSRF_TRUSTED_ORIGINS = SPA_ORIGINS
CORS_ALLOW_CREDENTIALS = True  # the cookies of the session and of the anonymous visitor
CORS_ALLOW_HEADERS = [
    *default_headers,  # X-CSRFToken is one of them
    "if-none-match",
    "x-posthog-distinct-id",  # these are posthog-js's `tracing_headers`
    "x-posthog-session-id",
    "x-posthog-window-id",
]
CORS_EXPOSE_HEADERS = ["ETag", "Retry-After"]

# The REST API and its description

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["rest_framework.authentication.SessionAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "DEFAULT_THROTTLE_RATES": {"features": "300/min"},  # of one user, or one visitor's address
    "NUM_PROXIES": 0,  # in front of Django
}

SPECTACULAR_SETTINGS = {
    "TITLE": "olposthog",
    "DESCRIPTION": "The feature flags of whoever asks, evaluated by the server.",
    "VERSION": "1.0.0",
    "OAS_VERSION": "3.1.0",
    "SERVERS": [{"url": "/", "description": "The site that the page is from"}],
    "LICENSE": {"name": "BSD 3-Clause", "identifier": "BSD-3-Clause"},
    "CONTACT": {"name": "The olposthog authors"},
    "TAGS": [
        {"name": "features", "description": "Read flags, and report exposures."},
        {"name": "ofrep", "description": "The same flags for OpenFeature's clients."},
    ],
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
}
