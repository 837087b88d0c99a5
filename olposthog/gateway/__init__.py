"""The one package that talks to PostHog and to its SDK."""

from . import sdk_log
from .connection import Way
from .events import capture, client, install_client
from .http import Fetched, Gateway
from .local import LocalEvaluation, LocalEvaluator

__all__ = [
    "Fetched",
    "Gateway",
    "LocalEvaluation",
    "LocalEvaluator",
    "Way",
    "capture",
    "client",
    "install_client",
]

sdk_log.install()
