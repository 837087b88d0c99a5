"""The Django app `olposthog.contrib.admin`."""

from django.apps import AppConfig


class OlposthogAdminConfig(AppConfig):
    """Brings a page into the admin, its permissions, and no table."""

    name = "olposthog.contrib.admin"
    label = "olposthog_admin"
    verbose_name = "PostHog feature flags"
    default_auto_field = "django.db.models.BigAutoField"
