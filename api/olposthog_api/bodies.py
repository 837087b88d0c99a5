"""Read JSON request bodies of bounded size."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, UnreadablePostError
from rest_framework.exceptions import APIException
from rest_framework.status import (
    HTTP_400_BAD_REQUEST,
    HTTP_413_REQUEST_ENTITY_TOO_LARGE,
    HTTP_415_UNSUPPORTED_MEDIA_TYPE,
)

from olposthog.portable import read_strictly


class InvalidBody(APIException):
    """A body that is not what the endpoint accepts."""

    status_code: int = HTTP_400_BAD_REQUEST


class TooLarge(InvalidBody):
    """A body larger than the limit. It is not read to its end."""

    status_code = HTTP_413_REQUEST_ENTITY_TOO_LARGE


class NotJson(InvalidBody):
    """A body of another content type."""

    status_code = HTTP_415_UNSUPPORTED_MEDIA_TYPE


def read_object(request: HttpRequest, max_bytes: int) -> dict[str, Any]:
    """Return the JSON object in the request's body. Raise `InvalidBody` for any other body.

    A form of another site cannot send `application/json` without a CORS preflight request.
    """
    if request.content_type != "application/json":
        raise NotJson("The content type must be application/json.")
    try:
        content = request.read(max_bytes + 1)
    except UnreadablePostError as error:
        raise InvalidBody("The body ended early.") from error
    if len(content) > max_bytes:
        raise TooLarge(f"The body must have at most {max_bytes} bytes.")
    try:
        body = read_strictly(content)
    except ValueError as error:
        raise InvalidBody("The body must be JSON.") from error
    if not isinstance(body, dict):
        raise InvalidBody("The body must be an object.")
    return body
