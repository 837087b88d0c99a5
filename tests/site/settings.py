"""The settings of the tests, changed by what the process that started this one says."""

from __future__ import annotations

import json
import os
import time
from datetime import timedelta

from django.utils import timezone

from tests import settings as base

globals().update({name: value for name, value in vars(base).items() if name.isupper()})
globals().update(json.loads(os.environ["SITE_SETTINGS"]))


def go_ahead(seconds: float) -> None:
    """Let this process live on a machine whose wall clock is ahead of the others'."""
    tell, now = time.time, timezone.now
    time.time = lambda: tell() + seconds
    timezone.now = lambda: now() + timedelta(seconds=seconds)


if ahead := globals().get("CLOCK_IS_AHEAD_BY"):
    go_ahead(ahead)  # before anybody imports what asks the clock
