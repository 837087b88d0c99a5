"""What is left of the predecessor, mitol-django-olposthog."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

from django.conf import settings as django_settings
from django.core.checks import CheckMessage
from django.core.checks import Warning as CheckWarning
from django.urls import get_resolver

from . import ids

PREDECESSOR = "mitol.olposthog.features"


def check_predecessor(**_: Any) -> list[CheckMessage]:
    """Report that code of the site still imports the predecessor, which goes past this library.

    It has no app any more that could be found in INSTALLED_APPS: Django allows the label
    `olposthog` once.
    """
    if getattr(django_settings, "ROOT_URLCONF", None):
        # Views are imported with the URLconf. What is wrong with that, Django's own checks say.
        with suppress(Exception):
            get_resolver().url_patterns  # noqa: B018  # the look imports it
    if PREDECESSOR not in sys.modules:
        return []
    return [
        CheckWarning(
            f"{PREDECESSOR} is imported: what it answers comes from mitol-django-olposthog, with "
            "requests, cache entries and a circuit breaker of its own.",
            hint="Import from olposthog.features, and uninstall mitol-django-olposthog, so that "
            "an import that was overlooked fails.",
            id=ids.PREDECESSOR_IMPORTED,
        )
    ]
