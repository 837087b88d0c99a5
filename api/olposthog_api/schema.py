"""How drf-spectacular describes flags. What a plain JSON field becomes would be wrong or vague."""

from __future__ import annotations

from typing import Any

from drf_spectacular.extensions import OpenApiSerializerFieldExtension
from drf_spectacular.openapi import AutoSchema

from olposthog import conf
from olposthog.visibility import is_glob, is_internal

from .serializers import SOURCES

_FLAG = {"oneOf": [{"type": "boolean"}, {"type": "string"}]}


def _named_flags() -> list[str]:
    """Return the plain keys of `POSTHOG_API_FLAGS`, which a generated client shall know."""
    return sorted(
        key for key in conf.current().browser_flags if not is_glob(key) and not is_internal(key)
    )


class FlagsFieldExtension(OpenApiSerializerFieldExtension):  # type: ignore[no-untyped-call]  # theirs
    """`features`: named properties where the site names its flags.

    There are no others where `POSTHOG_API_FLAGS` has no globs: a generated client then knows all.
    """

    target_class = "olposthog_api.serializers.FlagsField"

    def map_serializer_field(self, auto_schema: AutoSchema, direction: Any) -> dict[str, Any]:
        """Return the schema of the values by key."""
        named = {key: dict(_FLAG) for key in _named_flags()}
        is_closed = named and not any(map(is_glob, conf.current().browser_flags))
        others: Any = False if is_closed else _FLAG
        schema: dict[str, Any] = {"type": "object", "additionalProperties": others}
        return {"type": "object", "properties": named, **schema} if named else schema


class PayloadsFieldExtension(OpenApiSerializerFieldExtension):  # type: ignore[no-untyped-call]  # theirs
    """`payloads`: any JSON values by key."""

    target_class = "olposthog_api.serializers.PayloadsField"

    def map_serializer_field(self, auto_schema: AutoSchema, direction: Any) -> dict[str, Any]:
        """Return the schema of the payloads by key."""
        return {"type": "object", "additionalProperties": {}}


class PayloadFieldExtension(OpenApiSerializerFieldExtension):  # type: ignore[no-untyped-call]  # theirs
    """`payload`: any JSON value, also null."""

    target_class = "olposthog_api.serializers.PayloadField"

    def map_serializer_field(self, auto_schema: AutoSchema, direction: Any) -> dict[str, Any]:
        """Return the schema that lets everything pass."""
        return {}


class SourceFieldExtension(OpenApiSerializerFieldExtension):  # type: ignore[no-untyped-call]  # theirs
    """`source`: one of a few words, each with what it means.

    No plain `enum`: drf-spectacular would make a component of it, named after the field, and warn
    where a site has choices under the same name.
    """

    target_class = "olposthog_api.serializers.SourceField"

    def map_serializer_field(self, auto_schema: AutoSchema, direction: Any) -> dict[str, Any]:
        """Return the schema of the sources."""
        return {
            "oneOf": [
                {"type": "string", "enum": [source], "description": meaning}
                for source, meaning in SOURCES.items()
            ],
            "description": "Where the values come from.",
        }
