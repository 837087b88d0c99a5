"""System checks: each setting that cannot be used, and each combination that will hurt.

None raises, none asks PostHog or a cache, and only `check_cache_table` asks a database, when
Django is told to check one. `ids` has their ids, docs/checks.md what each means.
"""

from __future__ import annotations

from typing import Any

from django.core.checks import CheckMessage

from olposthog import conf

from . import browsers, defaults, service, shared_cache
from .predecessor import check_predecessor
from .settings import check_settings
from .shared_cache import check_cache_table

__all__ = [
    "check_cache_table",
    "check_predecessor",
    "check_production",
    "check_settings",
]


def check_production(**_: Any) -> list[CheckMessage]:
    """Report combinations that work, but will surprise or hurt; while disabled, nothing."""
    settings = conf.current()
    if not settings.enabled:
        return []
    return [
        *defaults.messages(settings),
        *service.messages(settings),
        *shared_cache.messages(settings),
        *browsers.messages(settings),
    ]
