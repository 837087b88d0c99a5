"""The shapes of the REST API's answers and of its query."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from drf_spectacular.utils import extend_schema_serializer
from rest_framework import serializers

from olposthog.snapshot import Source

from .bodies import InvalidBody

MAX_KEYS = 100
MAX_KEY_LENGTH = 400
"""PostHog's own limit for the length of a flag's key."""

KEY_PATTERN = r"^[^\x00-\x1f\x7f-\x9f]*$"
"""No control characters."""


class FlagsField(serializers.DictField):
    """Values by flag key: on or off, or the name of a variant."""


class PayloadsField(serializers.DictField):
    """Payloads by flag key: any JSON value."""


class PayloadField(serializers.JSONField):
    """A flag's payload: any JSON value, null where there is none."""


SOURCES = {
    Source.LOCAL.value: "Flag definitions, evaluated by the server.",
    Source.POSTHOG.value: "PostHog, now or lately.",
    Source.STALE.value: "PostHog, longer ago, because it cannot be asked now.",
    Source.FALLBACK.value: "The site's defaults, because PostHog cannot be asked now.",
    Source.DISABLED.value: "The site's defaults, because PostHog is switched off.",
}
"""What each source means."""


class SourceField(serializers.ChoiceField):
    """Where a value comes from."""

    def __init__(self, **options: Any) -> None:
        super().__init__(choices=list(SOURCES.items()), **options)


# Component names that a site's own serializers hardly have; `many`, because drf-spectacular would
# make an array of the answer of an action called `list`.
@extend_schema_serializer(many=False, component_name="FeatureFlags")
class FeaturesSerializer(serializers.Serializer[dict[str, Any]]):
    """All flags that a browser may see, for the person whom the server made out."""

    distinct_id = serializers.CharField(
        help_text="The person's id, as PostHog knows it. The server derives it, never the browser."
    )
    source = SourceField()  # type: ignore[assignment]  # DRF's fields have a `source` of their own
    features = FlagsField(help_text="Value by flag key: on, off, or the name of a variant.")
    payloads = PayloadsField(help_text="Payload by flag key, only of flags that have one.")


@extend_schema_serializer(component_name="FeatureFlag")
class FeatureSerializer(serializers.Serializer[dict[str, Any]]):
    """One flag."""

    key = serializers.CharField()
    enabled = serializers.BooleanField(help_text="Whether the flag is on; a variant counts as on.")
    variant = serializers.CharField(
        allow_null=True, help_text="The name of the variant; null for a plain on/off flag."
    )
    payload = PayloadField(help_text="The payload; null where there is none.")
    source = SourceField()  # type: ignore[assignment]  # DRF's fields have a `source` of their own


@extend_schema_serializer(component_name="FeatureFlagError")
class ErrorSerializer(serializers.Serializer[dict[str, Any]]):
    """What is wrong, in DRF's shape."""

    detail = serializers.CharField()


@extend_schema_serializer(component_name="FeatureFlagKeysError")
class KeysErrorSerializer(serializers.Serializer[dict[str, Any]]):
    """What is wrong with `keys`, in DRF's shape."""

    keys = serializers.ListField(child=serializers.CharField())


@extend_schema_serializer(component_name="FeatureFlagExposures")
class ExposuresSerializer(serializers.Serializer[dict[str, Any]]):
    """The flags that the person was shown."""

    keys = serializers.ListField(
        child=serializers.CharField(),
        max_length=MAX_KEYS,
        help_text="Flag keys. Unknown keys, and those of flags that are not for browsers, "
        "are ignored.",
    )


def parse_keys(texts: Sequence[str]) -> frozenset[str] | None:
    """Read `?keys=a,b&keys=c`; None when absent. Raises DRF's ValidationError for bad input."""
    if not texts:
        return None
    given = [part for text in texts for part in text.split(",")]
    keys = frozenset(key for part in given if (key := part.strip(" ")))
    problem = None
    if len(given) > MAX_KEYS:
        problem = f"At most {MAX_KEYS} keys; these are {len(given)}."
    elif any(len(key) > MAX_KEY_LENGTH for key in keys):
        problem = f"A key has at most {MAX_KEY_LENGTH} characters."
    elif not all(re.fullmatch(KEY_PATTERN, key) for key in keys):
        problem = "A key has no control characters."
    if problem:
        raise serializers.ValidationError({"keys": [problem]})
    return keys


def parse_exposed_keys(body: Mapping[str, Any]) -> list[str]:
    """Return the keys in `{"keys": [...]}`, each once. Raise `InvalidBody` for another body."""
    keys = body.get("keys")
    if not isinstance(keys, list):
        raise InvalidBody("`keys` must be a list of flag keys.")
    if len(keys) > MAX_KEYS:
        raise InvalidBody(f"`keys` must have at most {MAX_KEYS} items; these are {len(keys)}.")
    if not all(isinstance(key, str) for key in keys):
        raise InvalidBody("Each item of `keys` must be a string.")
    return list(dict.fromkeys(keys))
