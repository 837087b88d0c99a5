"""PostHog feature flags for Django, evaluated on the server.

The functions are in `olposthog.features`; the browser's side is the package `olposthog_api`.
"""

__version__ = "0.1.0"
