"""Routes: the shop, the REST API with its description, OFREP, and what operators look at."""

from django.apps import apps
from django.contrib import admin
from django.urls import include, path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView
from health_check.views import HealthCheckView  # type: ignore[import-untyped]  # it has no types

urlpatterns = [
    path("", include("storefront.urls")),
    path("api/", include("olposthog_api.urls")),
    path("", include("olposthog_api.ofrep.urls")),
    path("api/schema/", SpectacularAPIView.as_view(), name="schema"),
    path("api/docs/", SpectacularSwaggerView.as_view(url_name="schema"), name="docs"),
    path("admin/", admin.site.urls),
    path(
        "health/",
        HealthCheckView.as_view(
            checks=["health_check.Database", "olposthog.contrib.health_check.FlagsHealth"]
        ),
    ),
]

if apps.is_installed("debug_toolbar"):
    urlpatterns.append(path("__debug__/", include("debug_toolbar.urls")))
