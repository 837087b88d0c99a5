"""What a client says about itself: a claim, of which the site's settings name what counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.http import HttpRequest, UnreadablePostError

from olposthog import conf
from olposthog._utils.portable_json import read_strictly

from .errors import InvalidContext, NotJson, Refused, TooLarge

MAX_BODY_BYTES = 64 * 1024
MAX_TEXT_LENGTH = 400
"""How many characters a person property from a client may have."""
LARGEST_NUMBER = 2**53
"""Up to here, JavaScript tells whole numbers from one another."""


def read_claims(request: HttpRequest) -> Mapping[str, bool | int | float | str]:
    """Return the person properties that the client claims and that the site lets it claim.

    Raises `Refused` for a request that is not as OFREP has it. `targetingKey` is none of the
    properties: the server knows who is asking.
    """
    context = _context(_body(request))
    names = conf.current().context_properties
    # A null is what clients send for a property that they do not know.
    return {name: _claim(name, context[name]) for name in names if context.get(name) is not None}


def _body(request: HttpRequest) -> Any:
    # A form of another site cannot send this content type without asking the site first.
    if request.content_type != "application/json":
        raise NotJson("The content type must be application/json.")
    try:
        content = request.read(MAX_BODY_BYTES + 1)
    except UnreadablePostError as error:
        raise Refused("The body ended early.") from error
    if len(content) > MAX_BODY_BYTES:
        raise TooLarge(f"The body must have at most {MAX_BODY_BYTES} bytes.")
    try:
        return read_strictly(content)
    except ValueError as error:
        raise Refused("The body must be JSON.") from error


def _context(body: Any) -> Mapping[str, Any]:
    if not isinstance(body, dict):
        raise Refused("The body must be an object.")
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
