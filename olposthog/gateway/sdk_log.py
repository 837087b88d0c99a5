"""The SDK's warnings about local evaluation: each of them once per process.

The SDK logs which flags it cannot evaluate for each client, and for each evaluation that a group
type of a flag is unknown. There is a client for each version of the definitions.
"""

from __future__ import annotations

import logging
import re

LOCAL_EVALUATION = re.compile("evaluate(d|s|ing)? .*locally|local evaluation|group type index")
"""What warnings about local evaluation contain; others are not touched."""
MAX_MESSAGES = 1000


class OncePerMessage(logging.Filter):
    """Drop a warning about local evaluation whose text was logged before."""

    def __init__(self) -> None:
        super().__init__()
        self._logged: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log `record`."""
        message = record.getMessage()
        if record.levelno != logging.WARNING or not LOCAL_EVALUATION.search(message):
            return True
        if message in self._logged:
            return False
        if len(self._logged) >= MAX_MESSAGES:
            self._logged.clear()
        self._logged.add(message)
        return True


def install() -> None:
    """Add the filter to the SDK's logger, once."""
    logger = logging.getLogger("posthog")
    if not any(isinstance(one, OncePerMessage) for one in logger.filters):
        logger.addFilter(OncePerMessage())
