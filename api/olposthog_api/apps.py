"""The Django app `olposthog_api`: put it in INSTALLED_APPS after `olposthog`."""

from django.apps import AppConfig


class OlposthogApiConfig(AppConfig):
    """Makes the OpenAPI extensions known."""

    name = "olposthog_api"
    label = "olposthog_api"
    verbose_name = "PostHog feature flags: REST API"

    def ready(self) -> None:
        """Register how drf-spectacular describes flags."""
        from . import schema  # noqa: F401  # importing it registers the extensions
