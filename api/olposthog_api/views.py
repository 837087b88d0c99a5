"""`GET /api/features/`, `GET /api/features/{key}/` and `POST /api/features/{key}/exposure/`."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from django.http import HttpResponse, QueryDict
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.decorators import action
from rest_framework.exceptions import NotFound
from rest_framework.parsers import BaseParser
from rest_framework.permissions import AllowAny
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.status import HTTP_204_NO_CONTENT
from rest_framework.viewsets import ViewSet

from olposthog._core.visibility import is_visible, visible_flags
from olposthog.features import for_request, report_exposure
from olposthog.identity import SESSION_ID_HEADER, browser_session_id
from olposthog.snapshot import FlagSnapshot, Runtime

from .answers import PersonalView, Rendered, conditional, plain
from .serializers import (
    KEY_PATTERN,
    MAX_KEY_LENGTH,
    MAX_KEYS,
    ErrorSerializer,
    FeatureSerializer,
    FeaturesSerializer,
    KeysErrorSerializer,
    parse_keys,
)
from .throttling import FeaturesThrottle

_rendered: WeakKeyDictionary[FlagSnapshot, Rendered] = WeakKeyDictionary()
"""Rendered answers, which live as long as the snapshots they show."""

KEY = OpenApiParameter("key", str, OpenApiParameter.PATH, description="Flag key")
UNCHANGED = OpenApiResponse(description="Unchanged since the ETag in `If-None-Match`.")
UNKNOWN = OpenApiResponse(ErrorSerializer, description="Unknown, or not for browsers.")
REFUSALS = {
    401: OpenApiResponse(ErrorSerializer, description="The credentials sent are not valid."),
    403: OpenApiResponse(
        ErrorSerializer, description="The credentials sent are not valid, or not enough."
    ),
    406: OpenApiResponse(ErrorSerializer, description="Only JSON is to be had."),
    429: OpenApiResponse(ErrorSerializer, description="Too many requests; see `Retry-After`."),
}


class UnreadParser(BaseParser):
    """Takes any body and reads none of it.

    DRF's CSRF check would have the body parsed, and refuse the request for one that cannot be.
    """

    media_type = "*/*"

    def parse(self, *args: Any, **kwargs: Any) -> QueryDict:
        """Return what an empty form says."""
        return QueryDict()


class FeatureViewSet(PersonalView, ViewSet):
    """The flags of whoever asks, as far as browsers may see them.

    It needs no log-in. Authentication is the host project's; subclass to change that.
    """

    renderer_classes = [JSONRenderer]  # plain: a host's camel-casing one would rename flags
    parser_classes = [UnreadParser]
    permission_classes = [AllowAny]
    throttle_classes = [FeaturesThrottle]
    throttle_scope = "features"
    lookup_field = "key"
    lookup_value_regex = "[^/]+"

    @extend_schema(
        operation_id="features_list",
        tags=["features"],
        summary="All flags of the person who asks",
        parameters=[
            OpenApiParameter(
                "keys",
                {
                    "type": "array",
                    "items": {
                        "type": "string",
                        "maxLength": MAX_KEY_LENGTH,
                        "pattern": KEY_PATTERN,
                    },
                    "maxItems": MAX_KEYS,
                },
                explode=False,
                description=f"Narrow the answer to these flags, at most {MAX_KEYS} of them.",
            )
        ],
        responses={
            200: OpenApiResponse(FeaturesSerializer, description="The flags, also in an outage."),
            304: UNCHANGED,
            400: OpenApiResponse(KeysErrorSerializer, description="`keys` cannot be used."),
            **REFUSALS,
        },
    )
    def list(self, request: Request) -> HttpResponse:
        """Return the flags with their payloads and where they come from.

        An outage of PostHog is no error: the site's defaults answer, with the source `fallback`.
        """
        keys = parse_keys(request.query_params.getlist("keys"))
        return conditional(request, _features(_client_snapshot(request), keys))

    @extend_schema(
        operation_id="features_retrieve",
        tags=["features"],
        summary="One flag of the person who asks",
        parameters=[KEY],
        responses={
            200: OpenApiResponse(FeatureSerializer, description="The flag, also in an outage."),
            304: UNCHANGED,
            404: UNKNOWN,
            **REFUSALS,
        },
    )
    def retrieve(self, request: Request, key: str) -> HttpResponse:
        """Return one flag; 404 where it is unknown or not for browsers, which look alike."""
        snapshot = _snapshot_with(request, key)
        value = snapshot.flags[key]
        answer = {
            "key": key,
            "enabled": bool(value),
            "variant": value if isinstance(value, str) else None,
            "payload": snapshot.payloads.get(key),
            "source": snapshot.source,
        }
        return conditional(request, Rendered.of(answer))

    @extend_schema(
        operation_id="features_exposure_create",
        tags=["features"],
        summary="Report that the person who asks was shown a flag",
        parameters=[
            KEY,
            OpenApiParameter(
                SESSION_ID_HEADER,
                str,
                OpenApiParameter.HEADER,
                description="posthog-js's id of the session, a UUID; anything else is ignored.",
            ),
        ],
        request=None,
        responses={
            204: OpenApiResponse(description="Taken note of, where PostHog decided the value."),
            404: UNKNOWN,
            **REFUSALS,
        },
    )
    @action(detail=True, methods=["post"])
    def exposure(self, request: Request, key: str) -> Response:
        """Count the person as exposed to the flag's value, which is the server's own.

        Send it when the flag is first rendered. Experiments count those who were exposed. Each
        event is sent once per person, flag, value and experiment rule, whether the browser or
        the server reports the exposure. The body is ignored.
        """
        snapshot = _snapshot_with(request, key)
        report_exposure(snapshot, key, session_id=browser_session_id(plain(request)))
        return Response(status=HTTP_204_NO_CONTENT)


def _client_snapshot(request: Request) -> FlagSnapshot:
    return for_request(plain(request), runtime=Runtime.CLIENT)


def _snapshot_with(request: Request, key: str) -> FlagSnapshot:
    """Return the flags; 404 where `key` is unknown or not for browsers, which look alike."""
    snapshot = _client_snapshot(request)
    if not is_visible(key) or key not in snapshot.flags:
        raise NotFound
    return snapshot


def _features(snapshot: FlagSnapshot, keys: frozenset[str] | None) -> Rendered:
    if keys is None:
        rendered = _rendered.get(snapshot)
        if rendered is not None:
            return rendered
    flags = visible_flags(snapshot, keys)
    rendered = Rendered.of(
        {
            "distinct_id": snapshot.distinct_id,
            "source": snapshot.source,
            "features": flags,
            "payloads": {key: snapshot.payloads[key] for key in flags if key in snapshot.payloads},
        }
    )
    if keys is None:
        _rendered[snapshot] = rendered
    return rendered
