"""The shapes of OFREP, for the OpenAPI document."""

from __future__ import annotations

from drf_spectacular.utils import extend_schema_serializer
from rest_framework import serializers

from olposthog_api.serializers import PlainSerializer

from .errors import ErrorCode
from .evaluation import Reason


class ValueField(serializers.JSONField):
    """A flag's value: on or off, or the name of a variant."""


class MetadataField(serializers.DictField):
    """Primitives by name."""


class ContextField(serializers.DictField):
    """What a client says about itself."""


class WordField(serializers.CharField):
    """One of a few words."""

    words: tuple[str, ...] = ()
    component_name: str
    meaning: str


class ReasonField(WordField):
    """Why a flag has its value."""

    words = tuple(Reason)
    component_name = "OfrepReason"
    meaning = "Why the flag has its value."


class ErrorCodeField(WordField):
    """What kind of error it is."""

    words = tuple(ErrorCode)
    component_name = "OfrepErrorCode"
    meaning = "What kind of error it is."


@extend_schema_serializer(component_name="OfrepRequest")
class RequestSerializer(PlainSerializer):
    """What a client asks."""

    context = ContextField(  # type: ignore[assignment]  # DRF's serializers have one of their own
        required=False,
        help_text=(
            "OpenFeature's evaluation context. The server knows who is asking, whatever "
            "`targetingKey` says; of the rest, what POSTHOG_API_CONTEXT_PROPERTIES names counts."
        ),
    )


@extend_schema_serializer(component_name="OfrepFlag")
class FlagSerializer(PlainSerializer):
    """One flag."""

    key = serializers.CharField()
    value = ValueField(
        required=False, help_text="Absent where the default in the client's code applies."
    )
    reason = ReasonField()
    variant = serializers.CharField(help_text="`on` or `off` for a flag without variants.")
    metadata = MetadataField(
        help_text=(
            "`source`; where PostHog decided, its `id`, `version` and `posthogReason`; and "
            "`payload` as JSON text, where there is one."
        )
    )


@extend_schema_serializer(many=False, component_name="OfrepFlags")
class FlagsSerializer(PlainSerializer):
    """All flags that a browser may see, for the person whom the server made out."""

    flags = FlagSerializer(many=True)
    metadata = MetadataField(help_text="`source`: where the values come from.")


@extend_schema_serializer(component_name="OfrepError")
class ErrorSerializer(PlainSerializer):
    """What is wrong."""

    errorCode = ErrorCodeField()  # noqa: N815  # OFREP's name
    errorDetails = serializers.CharField()  # noqa: N815  # likewise


@extend_schema_serializer(component_name="OfrepFlagError")
class FlagErrorSerializer(ErrorSerializer):
    """What is wrong with a question for one flag."""

    key = serializers.CharField()
