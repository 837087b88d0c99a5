"""What went wrong, in OFREP's words."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Any

from rest_framework.exceptions import APIException, Throttled
from rest_framework.status import HTTP_400_BAD_REQUEST, HTTP_404_NOT_FOUND

from olposthog_api.bodies import InvalidBody


class ErrorCode(StrEnum):
    """OpenFeature's error codes, as far as a server gives them."""

    PARSE_ERROR = "PARSE_ERROR"
    """The request is not what the protocol says."""
    INVALID_CONTEXT = "INVALID_CONTEXT"
    """Its evaluation context is not."""
    FLAG_NOT_FOUND = "FLAG_NOT_FOUND"
    """The flag is unknown, or not for browsers."""
    GENERAL = "GENERAL"
    """Anything else, such as credentials that are not valid."""


class InvalidContext(APIException):
    """An evaluation context that cannot be used."""

    status_code = HTTP_400_BAD_REQUEST


class FlagNotFound(APIException):
    """A flag that is unknown or not for browsers, which look alike."""

    status_code = HTTP_404_NOT_FOUND


def error_body(error: Exception, key: str | None) -> dict[str, Any]:
    """Return what a client is told about an error; `key` is the flag that it asked for."""
    details = str(error.detail) if isinstance(error, APIException) else str(error)
    about = {} if key is None else {"key": key}
    return {**about, "errorCode": _code(error).value, "errorDetails": details or "Refused."}


def _code(error: Exception) -> ErrorCode:
    match error:
        case InvalidBody():
            return ErrorCode.PARSE_ERROR
        case InvalidContext():
            return ErrorCode.INVALID_CONTEXT
        case FlagNotFound():
            return ErrorCode.FLAG_NOT_FOUND
    return ErrorCode.GENERAL


def retry_after(error: Throttled) -> str:
    """Return how many whole seconds a client shall wait, and one where nobody can tell."""
    wait: float | None = getattr(error, "wait", None)  # unknown to DRF's stubs
    return str(max(1, math.ceil(wait or 0)))
