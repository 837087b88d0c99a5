"""How drf-spectacular describes OFREP's fields. What plain fields become would be vague."""

from __future__ import annotations

from typing import Any

from drf_spectacular.extensions import OpenApiSerializerFieldExtension
from drf_spectacular.openapi import AutoSchema

from olposthog_api.schema import enum_component

from .serializers import WordField

_PRIMITIVE = {"oneOf": [{"type": "boolean"}, {"type": "number"}, {"type": "string"}]}


class ValueFieldExtension(OpenApiSerializerFieldExtension):  # type: ignore[no-untyped-call]  # theirs
    """`value`: a boolean or text."""

    target_class = "olposthog_api.ofrep.serializers.ValueField"

    def map_serializer_field(self, auto_schema: AutoSchema, direction: Any) -> dict[str, Any]:
        """Return the schema of a value."""
        return {"oneOf": [{"type": "boolean"}, {"type": "string"}]}


class MetadataFieldExtension(OpenApiSerializerFieldExtension):  # type: ignore[no-untyped-call]  # theirs
    """`metadata`: primitives by name."""

    target_class = "olposthog_api.ofrep.serializers.MetadataField"

    def map_serializer_field(self, auto_schema: AutoSchema, direction: Any) -> dict[str, Any]:
        """Return the schema of the metadata."""
        return {"type": "object", "additionalProperties": _PRIMITIVE}


class ContextFieldExtension(OpenApiSerializerFieldExtension):  # type: ignore[no-untyped-call]  # theirs
    """`context`: a targeting key, and any JSON values."""

    target_class = "olposthog_api.ofrep.serializers.ContextField"

    def map_serializer_field(self, auto_schema: AutoSchema, direction: Any) -> dict[str, Any]:
        """Return the schema of the context."""
        return {
            "type": "object",
            "properties": {"targetingKey": {"type": "string"}},
            "additionalProperties": {},
        }


class WordFieldExtension(OpenApiSerializerFieldExtension):  # type: ignore[no-untyped-call]  # theirs
    """`reason` and `errorCode`: one of a few words."""

    target_class = "olposthog_api.ofrep.serializers.WordField"
    match_subclasses = True

    def map_serializer_field(self, auto_schema: AutoSchema, direction: Any) -> dict[str, Any]:
        """Return the schema of the words."""
        field: WordField = self.target
        words = [str(word) for word in field.words]
        return enum_component(auto_schema, field.component_name, words, str(field.meaning))
