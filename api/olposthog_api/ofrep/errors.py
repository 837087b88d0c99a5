"""What went wrong, in OFREP's words."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Any

from rest_framework.exceptions import APIException, Throttled
from rest_framework.status import (
    HTTP_400_BAD_REQUEST,
    HTTP_404_NOT_FOUND,
    HTTP_413_REQUEST_ENTITY_TOO_LARGE,
    HTTP_415_UNSUPPORTED_MEDIA_TYPE,
)


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


class Refused(APIException):
    """A request that gets no flags."""

    status_code: int = HTTP_400_BAD_REQUEST
    error_code = ErrorCode.PARSE_ERROR


class InvalidContext(Refused):
    """An evaluation context that cannot be used."""

    error_code = ErrorCode.INVALID_CONTEXT


class TooLarge(Refused):
    """A body that nobody reads to its end."""

    status_code = HTTP_413_REQUEST_ENTITY_TOO_LARGE


class NotJson(Refused):
    """A body of another content type."""

    status_code = HTTP_415_UNSUPPORTED_MEDIA_TYPE


class FlagNotFound(Refused):
    """A flag that is unknown or not for browsers, which look alike."""

    status_code = HTTP_404_NOT_FOUND
    error_code = ErrorCode.FLAG_NOT_FOUND


def error_body(error: Exception, key: str | None) -> dict[str, Any]:
    """Return what a client is told about an error; `key` is the flag that it asked for."""
    code = error.error_code if isinstance(error, Refused) else ErrorCode.GENERAL
    details = str(error.detail) if isinstance(error, APIException) else str(error)
    about = {} if key is None else {"key": key}
    return {**about, "errorCode": code.value, "errorDetails": details or "Refused."}


def retry_after(error: Throttled) -> str:
    """Return how many whole seconds a client shall wait, and one where nobody can tell."""
    wait: float | None = getattr(error, "wait", None)  # unknown to DRF's stubs
    return str(max(1, math.ceil(wait or 0)))
