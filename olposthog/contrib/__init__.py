"""Integrations with other packages: one module each, imported by nothing else in olposthog."""
