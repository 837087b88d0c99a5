"""The REST API of olposthog: `path("api/", include("olposthog_api.urls"))`."""
