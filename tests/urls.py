"""The REST API where the README puts it."""

from django.urls import include, path

urlpatterns = [path("api/", include("olposthog_api.urls"))]
