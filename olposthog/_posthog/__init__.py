"""The one package that talks to PostHog and to its SDK."""

from .api import Fetched, PostHogApi
from .diagnostics import Way
from .events import capture, client, install_client, queued_events
from .matching import exact_texts, matches, matches_absent, unsupported
from .transport import Call

__all__ = [
    "Call",
    "Fetched",
    "PostHogApi",
    "Way",
    "capture",
    "client",
    "exact_texts",
    "install_client",
    "matches",
    "matches_absent",
    "queued_events",
    "unsupported",
]
