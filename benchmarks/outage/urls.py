"""`GET /api/features/`, by whichever package the site has."""

from __future__ import annotations

from django.apps import apps
from django.urls import URLPattern, URLResolver, include, path

urlpatterns: list[URLPattern | URLResolver]

if apps.is_installed("olposthog_api"):
    urlpatterns = [path("api/", include("olposthog_api.urls"))]
else:
    from .view import FeaturesView

    urlpatterns = [path("api/features/", FeaturesView.as_view())]
