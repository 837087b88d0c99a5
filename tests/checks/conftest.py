"""A site in production, with nothing to complain of."""

import pytest
from pytest_django import Settings

from tests.checks.project import ENTRIES


@pytest.fixture
def production(settings: Settings) -> Settings:
    """A configuration with nothing to complain of; each test spoils one thing."""
    settings.POSTHOG_ENABLED = True
    settings.POSTHOG_PROJECT_API_KEY = "phc_test"
    settings.POSTHOG_PERSONAL_API_KEY = "phx_test"
    settings.POSTHOG_API_HOST = "https://eu.i.posthog.com"
    settings.POSTHOG_API_FLAGS = ["new-nav", "web-*"]
    settings.HOSTNAME = "www.example.com"
    settings.ENVIRONMENT = "production"
    settings.FEATURES = {"new-nav": True, "checkout": "test", "old": False}
    settings.REST_FRAMEWORK = {
        **settings.REST_FRAMEWORK,
        "DEFAULT_THROTTLE_RATES": {"features": "60/min"},
        "NUM_PROXIES": 1,
    }
    settings.CACHES = {
        "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
        "durable": {
            "BACKEND": "django.core.cache.backends.db.DatabaseCache",
            "LOCATION": "flags",
            "OPTIONS": {"MAX_ENTRIES": ENTRIES},
        },
    }
    return settings
