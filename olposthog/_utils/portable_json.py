"""JSON values that every reader can read: finite numbers, a bounded depth, Unicode text.

Python's own `json` accepts more, from PostHog as well as from the shared cache. What it accepts in
addition would fail later, when an answer is written for a browser.
"""

from __future__ import annotations

import json
import math
from contextlib import suppress
from typing import Any

MAX_LEVELS = 200
"""How deeply a value may be nested. Python 3.11 writes no more than about 900 levels."""


def read(text: str | bytes) -> Any:
    """Return the value of a JSON document. Raise ValueError if it is malformed.

    Numbers that Python cannot hold, and NaN, are in the result as floats: see `is_portable`.
    """
    try:
        return json.loads(text, parse_int=_int_or_infinity)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def read_strictly(text: str | bytes) -> Any:
    """Return the value of a JSON document. Raise ValueError also for NaN and infinite numbers."""
    try:
        return json.loads(text, parse_constant=_finite, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def is_portable(value: Any) -> bool:
    """Return whether a JSON value has finite numbers and at most `MAX_LEVELS` levels.

    Text in it may be half of a character, which JSON can write.
    """
    level = [value]
    for _ in range(MAX_LEVELS):
        below: list[Any] = []
        for one in level:
            match one:
                case float():
                    if not math.isfinite(one):
                        return False
                case dict():
                    below += one.values()
                case list():
                    below += one
        if not below:
            return True
        level = below
    return False


def is_unicode(text: str) -> bool:
    """Return whether text can be encoded. JSON can write half of a character, UTF-8 cannot."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def decoded(payload: Any) -> Any:
    """Return the value of a payload, which travels as JSON text. Other text is the payload itself.

    Text with a value that is not portable stays text. Any other such payload is None.
    """
    if not isinstance(payload, str):
        return payload if is_portable(payload) else None
    with suppress(ValueError):
        value = read_strictly(payload)
        if is_portable(value):
            return value
    return payload


def _finite(number: str) -> float:
    if not math.isfinite(float(number)):
        raise ValueError("a number is not finite")
    return float(number)


def _int_or_infinity(digits: str) -> int | float:
    try:
        return int(digits)
    except ValueError:  # Python limits how many digits it converts
        return math.inf
