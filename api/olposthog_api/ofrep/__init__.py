"""OFREP 0.3.0, for OpenFeature's clients: `path("", include("olposthog_api.ofrep.urls"))`."""
