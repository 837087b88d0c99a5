"""JSON values that every reader can read: Unicode text, finite numbers, a bounded depth.

Python's own `json` accepts more, from PostHog as well as from the shared cache. What it accepts in
addition would fail later, when an answer is written for a browser.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, NoReturn

MAX_LEVELS = 200
"""How deeply a value may be nested. Python 3.11 writes no more than about 900 levels."""


def read(text: str | bytes, parse_constant: Callable[[str], Any] = float) -> Any:
    """Return the value of a JSON document. Raise ValueError if it is malformed.

    Numbers that Python cannot hold are infinite in the result: see `is_portable`. `parse_constant`
    gets NaN, Infinity and -Infinity, which are no JSON.
    """
    try:
        return json.loads(text, parse_int=_int_or_infinity, parse_constant=parse_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def read_strictly(text: str | bytes) -> Any:
    """Return the value of a JSON document. Raise ValueError if it is not portable."""
    value = read(text)
    if not is_portable(value):
        raise ValueError(
            f"it has a number that is not finite, text that is not Unicode, or over {MAX_LEVELS} "
            "levels"
        )
    return value


def is_portable(value: Any) -> bool:
    """Return whether a JSON value has Unicode text, finite numbers and few enough levels."""
    level = [value]
    for _ in range(MAX_LEVELS):
        below: list[Any] = []
        for one in level:
            match one:
                case str():
                    if not is_unicode(one):
                        return False
                case float():
                    if not math.isfinite(one):
                        return False
                case dict():
                    below += one.keys()
                    below += one.values()
                case list():
                    below += one
        if not below:
            return True
        level = below
    return False


def is_unicode(text: str) -> bool:
    """Return whether text can be encoded: JSON can name halves of characters, UTF-8 cannot."""
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
    try:
        return read_strictly(payload)
    except ValueError:
        return payload if is_unicode(payload) else None


def refuse_constant(name: str) -> NoReturn:
    """Raise ValueError: see `read`."""
    raise ValueError(f"{name} is not JSON")


def _int_or_infinity(digits: str) -> int | float:
    try:
        return int(digits)
    except ValueError:  # Python limits how many digits it converts
        return math.inf
