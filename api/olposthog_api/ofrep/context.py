"""What a client says about itself: a claim, of which the site's settings name what counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.http import HttpRequest

from olposthog import conf
from olposthog_api.bodies import read_object

from .errors import InvalidContext

MAX_BODY_BYTES = 64 * 1024
MAX_TEXT_LENGTH = 400
"""How many characters a person property from a client may have."""
LARGEST_NUMBER = 2**53
"""Up to here, JavaScript tells whole numbers from one another."""


def read_claims(request: HttpRequest) -> Mapping[str, bool | int | float | str]:
    """Return the person properties that the client claims and that the site lets it claim.

    Raise `InvalidBody` or `InvalidContext` for a malformed request. `targetingKey` is none of the
    properties: the server knows who is asking.
    """
    context = _context(read_object(request, MAX_BODY_BYTES))
    names = conf.current().context_properties
    # A null is what clients send for a property that they do not know.
    return {name: _claim(name, context[name]) for name in names if context.get(name) is not None}


def _context(body: Mapping[str, Any]) -> Mapping[str, Any]:
    context = body.get("context", {})
    if not isinstance(context, dict):
        raise InvalidContext("`context` must be an object.")
    if not isinstance(context.get("targetingKey", ""), str):
        raise InvalidContext("`targetingKey` must be a string.")
    return context


def _claim(name: str, value: Any) -> bool | int | float | str:
    match value:
        case bool():
            return value
        case int() | float() if abs(value) <= LARGEST_NUMBER:
            return value
        case str() if len(value) <= MAX_TEXT_LENGTH and _is_sound(value):
            return value
    raise InvalidContext(
        f"{name!r} must be a boolean, a number of at most {LARGEST_NUMBER}, or a string of at "
        f"most {MAX_TEXT_LENGTH} characters."
    )


def _is_sound(text: str) -> bool:
    """Return whether `text` can be sent on: half of a surrogate pair cannot, nor can NUL."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)
