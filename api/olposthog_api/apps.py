"""The Django app `olposthog_api`: put it in INSTALLED_APPS after `olposthog`."""

from importlib.util import find_spec

from django.apps import AppConfig
from django.core import checks as django_checks
from django.core.exceptions import ImproperlyConfigured

if not (find_spec("rest_framework") and find_spec("drf_spectacular")):
    raise ImproperlyConfigured(
        '"olposthog_api" needs Django REST framework and drf-spectacular: '
        'pip install "olposthog[api]", or take it out of INSTALLED_APPS.'
    )


class OlposthogApiConfig(AppConfig):
    """Makes the OpenAPI extensions known, and registers the system checks."""

    name = "olposthog_api"
    label = "olposthog_api"
    verbose_name = "PostHog feature flags: REST API"

    def ready(self) -> None:
        """Register how drf-spectacular describes flags, and what checks the set-up."""
        from . import (
            checks,
            schema,  # noqa: F401  # importing it registers the extensions
        )
        from .ofrep import schema as ofrep_schema  # noqa: F401  # likewise

        django_checks.register(checks.check_api, "olposthog")
        django_checks.register(checks.check_throttle_table, django_checks.Tags.database)
