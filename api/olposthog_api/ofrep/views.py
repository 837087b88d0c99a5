"""`POST /ofrep/v1/evaluate/flags` and `POST /ofrep/v1/evaluate/flags/{key}`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, cast

from django.http import HttpResponse
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.authentication import BaseAuthentication, SessionAuthentication
from rest_framework.exceptions import Throttled
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.permissions import AllowAny
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import exception_handler

from olposthog import per_process
from olposthog.features import for_request
from olposthog.snapshot import FlagSnapshot, Runtime, Source
from olposthog_api.answers import PersonalView, Rendered, conditional, etag_of, plain
from olposthog_api.throttling import FeaturesThrottle
from olposthog_api.views import UnreadParser

from .context import read_claims
from .errors import FlagNotFound, error_body, retry_after
from .evaluation import evaluated, evaluated_flag
from .serializers import (
    ErrorSerializer,
    FlagErrorSerializer,
    FlagSerializer,
    FlagsSerializer,
    RequestSerializer,
)


class AlwaysJson(BaseContentNegotiation):
    """The protocol knows JSON only, whatever a client would like best."""

    def select_parser(self, request: Request, parsers: Iterable[BaseParser]) -> BaseParser:
        """Return the only one."""
        return next(iter(parsers))

    def select_renderer(
        self, request: Request, renderers: Iterable[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        """Return the only one."""
        renderer = next(iter(renderers))
        return renderer, renderer.media_type


class SessionWithoutToken(SessionAuthentication):
    """The session's user, without a CSRF token.

    An evaluation changes nothing, so there is nothing that a forged one could do. Other sites'
    pages cannot read the answer, and without the site's leave cannot even send JSON.
    """

    def enforce_csrf(self, request: Request) -> None:
        """Ask for no token."""


def refusals(serializer: type[ErrorSerializer]) -> dict[int, OpenApiResponse]:
    """Return the errors that an endpoint declares."""
    meanings = {
        400: "The body or its context cannot be used.",
        401: "The credentials sent are not valid.",
        403: "The credentials sent are not valid, or not enough.",
        413: "The body is too large.",
        415: "The content type is not `application/json`.",
        429: "Too many requests; `Retry-After` says for how many seconds to pause.",
    }
    return {
        status: OpenApiResponse(serializer, description=meaning)
        for status, meaning in meanings.items()
    }


class OfrepView(PersonalView):
    """The flags of whoever asks, as far as browsers may see them, for OpenFeature's clients.

    It needs no log-in. Authentication is the host project's; subclass to change that.
    """

    renderer_classes = [JSONRenderer]
    parser_classes = [UnreadParser]  # the body is read once, and not beyond its limit
    content_negotiation_class = AlwaysJson
    permission_classes = [AllowAny]
    throttle_classes = [FeaturesThrottle]
    throttle_scope = "features"
    is_read_only = True  # OFREP evaluates by POST

    def get_authenticators(self) -> list[BaseAuthentication]:
        """Return the host's; one by session asks for no CSRF token here."""
        hosts = super().get_authenticators()
        if getattr(self, "swagger_fake_view", False):
            return hosts  # the document tells of them by their names
        return [_without_token(one) for one in hosts]

    def snapshot(self, request: Request) -> FlagSnapshot:
        """Return the flags; raise `InvalidBody` or `InvalidContext`."""
        claims = read_claims(plain(request))
        return for_request(plain(request), runtime=Runtime.CLIENT, claims=claims)

    def get_exception_handler(self) -> Callable[[Exception, dict[str, Any]], Response | None]:
        """Answer errors in OFREP's shape, whatever the host's others have."""
        return self._explain

    def _explain(self, error: Exception, context: dict[str, Any]) -> Response | None:
        response = exception_handler(error, context)
        if response is not None:
            response.data = error_body(error, self.kwargs.get("key"))
            if isinstance(error, Throttled):
                response["Retry-After"] = retry_after(error)
        return response


def _without_token(authentication: BaseAuthentication) -> BaseAuthentication:
    hosts = type(authentication)
    if hosts is SessionAuthentication:
        return SessionWithoutToken()
    if isinstance(authentication, SessionAuthentication):
        name = hosts.__name__
        return cast("BaseAuthentication", type(name, (SessionWithoutToken, hosts), {})())
    return authentication


class EvaluateFlagsView(OfrepView):
    """All flags at once, as OpenFeature's clients in browsers ask."""

    @extend_schema(
        operation_id="ofrep_flags",
        tags=["ofrep"],
        summary="All flags of the person who asks, for OpenFeature",
        parameters=[
            OpenApiParameter(
                "If-None-Match",
                str,
                OpenApiParameter.HEADER,
                description="The ETag of the answer that the client has.",
            )
        ],
        request={"application/json": RequestSerializer},
        responses={
            200: OpenApiResponse(FlagsSerializer, description="The flags, also in an outage."),
            304: OpenApiResponse(description="Unchanged since the ETag in `If-None-Match`."),
            **refusals(ErrorSerializer),
        },
    )
    def post(self, request: Request) -> HttpResponse:
        """Return the flags, as OFREP's bulk evaluation.

        An outage of PostHog is no error: the site's defaults answer.
        """
        snapshot = self.snapshot(request)
        answer = {"flags": evaluated(snapshot), "metadata": {"source": snapshot.source.value}}
        body = json.dumps(answer, separators=(",", ":")).encode()
        etag = etag_of(body, snapshot.distinct_id, _recovery(snapshot))
        return conditional(request, Rendered(body, etag))


def _recovery(snapshot: FlagSnapshot) -> str:
    """Return what changes once after an outage.

    A client that met an error holds its flags for stale, until it gets an answer that is no 304.
    """
    if snapshot.source in {Source.LOCAL, Source.DISABLED}:
        return ""  # no outage of PostHog matters, and processes hear of none at different times
    return per_process.current().breaker.last_closing


class EvaluateFlagView(OfrepView):
    """One flag, as OpenFeature's clients on servers ask."""

    @extend_schema(
        operation_id="ofrep_flag",
        tags=["ofrep"],
        summary="One flag of the person who asks, for OpenFeature",
        parameters=[
            OpenApiParameter("key", str, OpenApiParameter.PATH, description="Flag key"),
        ],
        request={"application/json": RequestSerializer},
        responses={
            200: OpenApiResponse(FlagSerializer, description="The flag, also in an outage."),
            404: OpenApiResponse(FlagErrorSerializer, description="Unknown, or not for browsers."),
            **refusals(FlagErrorSerializer),
        },
    )
    def post(self, request: Request, key: str) -> Response:
        """Return one flag; 404 where it is unknown or not for browsers, which look alike."""
        flag = evaluated_flag(self.snapshot(request), key)
        if flag is None:
            raise FlagNotFound(f"There is no flag {key!r} for browsers.")
        return Response(flag)
