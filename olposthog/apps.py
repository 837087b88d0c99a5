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
        from . import checks
        from .features import configure

        django_checks.register(checks.check_settings, "olposthog")
        django_checks.register(checks.check_production, "olposthog")
        django_checks.register(checks.check_predecessor, "olposthog")
        django_checks.register(checks.check_cache_table, django_checks.Tags.database)
        configure()
