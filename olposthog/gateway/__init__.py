"""The one package that talks to PostHog and to its SDK."""

from .events import capture, client, install_client
from .http import Fetched, Gateway
from .local import LocalEvaluation, LocalEvaluator

__all__ = [
    "Fetched",
    "Gateway",
    "LocalEvaluation",
    "LocalEvaluator",
    "capture",
    "client",
    "install_client",
]
