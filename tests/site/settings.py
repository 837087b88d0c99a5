"""The settings of the tests, changed by what the process that started this one says."""

from __future__ import annotations

import json
import os

from tests import settings as base

globals().update({name: value for name, value in vars(base).items() if name.isupper()})
globals().update(json.loads(os.environ["SITE_SETTINGS"]))
