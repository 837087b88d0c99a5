"""The REST API: read all flags or one, report one exposure or several."""

from __future__ import annotations

import builtins
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

from olposthog.features import for_request, report_exposure
from olposthog.identity import SESSION_ID_HEADER, browser_session_id
from olposthog.snapshot import FlagSnapshot, Runtime
from olposthog.visibility import is_visible, visible_flags

from .answers import PersonalView, Rendered, conditional, plain
from .bodies import read_object
from .serializers import (
    KEY_PATTERN,
    MAX_KEY_LENGTH,
    MAX_KEYS,
    ErrorSerializer,
    ExposuresSerializer,
    FeatureSerializer,
    FeaturesSerializer,
    KeysErrorSerializer,
    parse_exposed_keys,
    parse_keys,
)
from .throttling import FeaturesThrottle

MAX_EXPOSURES_BYTES = 512 * 1024
"""Enough for `MAX_KEYS` keys of `MAX_KEY_LENGTH` characters, each as an escaped surrogate pair."""

_rendered: WeakKeyDictionary[FlagSnapshot, Rendered] = WeakKeyDictionary()
"""Rendered answers, which live as long as the snapshots they show."""

KEY = OpenApiParameter("key", str, OpenApiParameter.PATH, description="Flag key")
SESSION_ID = OpenApiParameter(
    SESSION_ID_HEADER,
    str,
    OpenApiParameter.HEADER,
    description="posthog-js's id of the session, a UUID; anything else is ignored.",
)
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
        parameters=[KEY, SESSION_ID],
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

    @extend_schema(
        operation_id="features_exposures_create",
        tags=["features"],
        summary="Report that the person who asks was shown several flags",
        parameters=[SESSION_ID],
        request={"application/json": ExposuresSerializer},
        responses={
            204: OpenApiResponse(description="Recorded where PostHog decided the value."),
            400: OpenApiResponse(ErrorSerializer, description="The body is invalid."),
            413: OpenApiResponse(ErrorSerializer, description="The body is too large."),
            415: OpenApiResponse(
                ErrorSerializer, description="The content type is not `application/json`."
            ),
            **REFUSALS,
        },
    )
    @action(detail=False, methods=["post"])
    def exposures(self, request: Request) -> Response:
        """Count the person as exposed to the values of several flags.

        Each flag is reported as by the endpoint for one exposure. Unknown keys and those of flags
        that are not for browsers are ignored. The request counts once against the rate limit.
        """
        keys = parse_exposed_keys(read_object(plain(request), MAX_EXPOSURES_BYTES))
        snapshot = _client_snapshot(request)
        session_id = browser_session_id(plain(request))
        for key in keys:
            if is_visible(key) and key in snapshot.flags:
                report_exposure(snapshot, key, session_id=session_id)
        return Response(status=HTTP_204_NO_CONTENT)

    @extend_schema(exclude=True)
    @exposures.mapping.get
    def retrieve_exposures(self, request: Request) -> HttpResponse:
        """Return the flag whose key is `exposures`: its address is the same."""
        return self.retrieve(request, key="exposures")

    @property
    def allowed_methods(self) -> builtins.list[str]:
        """Return what `Allow` lists: the methods in the OpenAPI document."""
        return [
            method
            for method in super().allowed_methods
            if self.action_map.get(method.lower()) != "retrieve_exposures"
        ]


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
