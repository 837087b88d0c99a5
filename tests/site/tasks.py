"""A Celery application with a broker in a folder, and a task that reads a flag."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import django
from celery import Celery  # type: ignore[import-untyped]  # it brings no types

django.setup()

FOLDER = Path(os.environ["CELERY_FOLDER"])
app: Any = Celery("site", broker="filesystem://")
app.conf.broker_transport_options = {
    "data_folder_in": str(FOLDER),
    "data_folder_out": str(FOLDER),
    "control_folder": str(FOLDER),
}


@app.task  # type: ignore[untyped-decorator]  # likewise
def read_flag(person: str) -> bool:
    """Read the flag, which is an exposure."""
    from olposthog.features import is_enabled

    return is_enabled("new-nav", opt_unique_id=person)
