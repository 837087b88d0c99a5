"""What holds where nothing else is said: whom flags are for, where, and which values."""

from __future__ import annotations

from collections.abc import Iterator

from django.conf import settings as django_settings
from django.core.checks import CheckMessage
from django.core.checks import Warning as CheckWarning

from olposthog import conf

from . import ids


def messages(settings: conf.Settings) -> Iterator[CheckMessage]:
    """Report what flags would be surprised by."""
    if not getattr(django_settings, "HOSTNAME", None):
        yield CheckWarning(
            "HOSTNAME is not set; flags without an opt_unique_id are evaluated for the machine's "
            f"host name, {settings.hostname!r}.",
            hint="Set HOSTNAME to a name that all machines of the site share.",
            id=ids.NO_HOSTNAME,
        )
    if not settings.environment:
        yield CheckWarning(
            "ENVIRONMENT is not set; flags cannot tell one deployment from another.",
            hint='Set ENVIRONMENT, for example to "production".',
            id=ids.NO_ENVIRONMENT,
        )
    for key, value in settings.features.items():
        if isinstance(value, str) and value.strip().lower() in {"", "true", "false", "0", "1"}:
            yield CheckWarning(
                f"FEATURES[{key!r}] is the text {value!r}, which counts as a variant.",
                hint="Set True or False where the flag has no variants.",
                id=ids.TEXT_FOR_SWITCH,
            )
