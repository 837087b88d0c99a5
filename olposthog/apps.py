"""The Django app `olposthog`: put it in INSTALLED_APPS."""

from django.apps import AppConfig
from django.core import checks as django_checks


class OlposthogConfig(AppConfig):
    """Configures PostHog and registers the system checks when Django is ready."""

    name = "olposthog"
    label = "olposthog"
    verbose_name = "PostHog feature flags"

    def ready(self) -> None:
        """Configure; no client, thread or socket is made here."""
        from .checks import check_production, check_settings
        from .features import configure

        django_checks.register(check_settings, "olposthog")
        django_checks.register(check_production, "olposthog")
        configure()
