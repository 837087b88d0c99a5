"""What all answers about a person's flags have in common: whom they are for, and their ETag."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseNotModified
from django.utils.http import parse_etags
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from olposthog.identity import remember_identity

from .schema import FlagsSchema

CONTENT_CODING = re.compile(
    r"(?:[-;:]|--)(?:gzip|x-gzip|br|zstd|deflate|compress|bzip2|dcb|dcz|identity)"
)
"""What proxies append to an ETag when they compress the body: Apache `-gzip`, Jetty `--gzip`."""

NAMES_OF_ARGUMENTS = ("self", "request", "response")
"""Captured URL parts of these names are dropped: REST framework has such arguments itself."""


def etag_of(body: bytes, *also: str) -> str:
    """Return the ETag of a body, which covers all of it; and of what shall change it beside."""
    digest = hashlib.sha256(body)
    for text in also:
        digest.update(b"\0" + text.encode(errors="surrogatepass"))
    return f'"{digest.hexdigest()[:32]}"'


@dataclass(frozen=True, slots=True)
class Rendered:
    """A body as it is sent, and its ETag."""

    body: bytes
    etag: str

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Rendered:
        """Render `answer`. The ETag covers all of it: the values, the person and the source."""
        body = json.dumps(answer, separators=(",", ":")).encode()
        return cls(body, etag_of(body))


class PersonalView(APIView):
    """A view whose answers are for the person who asks, and for nobody else."""

    schema = FlagsSchema()
    operation_ids: Mapping[str, str] = {}
    """The ids in the OpenAPI document, by action or method."""
    is_read_only = False
    """Whether a POST changes nothing either, and may set a new visitor's cookie."""

    @classmethod
    def as_view(cls, *args: Any, **initkwargs: Any) -> Callable[..., Any]:  # type: ignore[override]  # a viewset's has an argument
        """Return the view. The URLs that the host includes it under may capture any names."""
        view = super().as_view(*args, **initkwargs)

        @wraps(view)
        def view_under_any_url(request: HttpRequest, /, *args: Any, **parts: Any) -> HttpResponse:
            for name in NAMES_OF_ARGUMENTS:
                parts.pop(name, None)
            return view(request, *args, **parts)

        return view_under_any_url

    def finalize_response(
        self, request: Request, response: Response, *args: Any, **kwargs: Any
    ) -> Response:
        """Add the headers that say what and for whom the answer is; remember a new visitor."""
        final = super().finalize_response(request, response, *args, **kwargs)
        final["Cache-Control"] = "private, no-cache"
        final["X-Content-Type-Options"] = "nosniff"  # flags are JSON, and must not pass for HTML
        remember_identity(plain(request), final, is_read_only=self.is_read_only)
        return final


def plain(request: Request) -> HttpRequest:
    """Return Django's request, which bears the user that DRF's authentication found."""
    request_: HttpRequest = request._request  # noqa: SLF001  # DRF documents it
    return request_


def conditional(request: Request, rendered: Rendered) -> HttpResponse:
    """Return the body, or a 304 where the client has it already."""
    headers = {"ETag": rendered.etag}
    # Not Django's `get_conditional_response`: it answers other conditions too, with an HTML 412.
    known = request.META.get("HTTP_IF_NONE_MATCH")
    if known and (known == rendered.etag or _names(known, rendered.etag)):
        return HttpResponseNotModified(headers=headers)
    return HttpResponse(rendered.body, content_type="application/json", headers=headers)


def _names(known: str, etag: str) -> bool:
    """Return whether `If-None-Match` names the ETag, as sent or as a proxy rewrote it."""
    etags = parse_etags(known)
    return "*" in etags or any(_is_variant(one.removeprefix("W/"), etag) for one in etags)


def _is_variant(one: str, etag: str) -> bool:
    opaque = etag[:-1]
    return one == etag or (
        one.startswith(opaque) and bool(CONTENT_CODING.fullmatch(one[len(opaque) : -1]))
    )
