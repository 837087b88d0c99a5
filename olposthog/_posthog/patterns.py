"""Regular expressions, matched in linear time.

PostHog's servers match them with Rust's `regex`, in linear time. Python's `re` backtracks: with a
pattern such as `^(dev|ops|devops)+$`, a text that a visitor chose can stop all threads for minutes.
RE2, from the extra `re2`, does not, and its dialect is close to Rust's. Where the two differ, a
pattern is undecided. Without RE2, only patterns that repeat nothing are matched, by the SDK.
"""

from __future__ import annotations

import re
from importlib import import_module
from importlib.util import find_spec
from typing import Any

re2: Any = import_module("re2") if find_spec("re2") else None

MAX_PATTERN_CHARACTERS = 500
MAX_TEXT_CHARACTERS = 10_000
HAS_RE2 = re2 is not None
REPEATS = re.compile(r"[*+?{|(]")
"""What a pattern needs to match a text in more than one way."""
DIFFERENT = re.compile(
    r"""
    \\ (?! [dDsSwWbBfnrtv] | x[0-9a-fA-F]{2} | [^\w\s] )  # escapes of one dialect only
    | && | -- | ~~ | \[ \^? \] | \[ [^\]]* \[             # sets within sets
    | \{ (?! \d+ (?: , \d* )? \} )                        # braces that may be literal
    | \( \? (?! : | [ims]+ [:)] )                         # groups of one dialect only
    """,
    re.VERBOSE | re.ASCII,
)
"""Parts of patterns that RE2 and Rust may read differently."""
BY_CHARACTER = re.compile(r"\\[dDsSwWbB]|\(\?[ims]*i", re.ASCII)
"""Parts that Rust matches by Unicode's tables, and RE2 by those of ASCII."""
SPACE = re.compile(r"\\[sS]")


def is_simple(pattern: str) -> bool:
    """Return whether `re` matches a pattern in linear time."""
    return len(pattern) <= MAX_PATTERN_CHARACTERS and not REPEATS.search(pattern)


def compile_pattern(pattern: str) -> Any:
    """Return a pattern compiled by RE2. Raise ValueError if it cannot match as PostHog does."""
    if len(pattern) > MAX_PATTERN_CHARACTERS or DIFFERENT.search(pattern):
        raise ValueError("the dialects of RE2 and Rust differ")
    options = re2.Options()
    options.log_errors = False
    options.never_capture = True
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        raise ValueError("RE2 cannot compile it") from error


def search(pattern: str, value: Any) -> bool | None:
    """Return whether a pattern is found in a property's value; None if that cannot be decided.

    Raise ValueError for a pattern that `compile_pattern` refuses. RE2 caches compiled patterns.
    """
    text = _text(value)
    if text is None or len(text) > MAX_TEXT_CHARACTERS:
        return None
    if not text.isascii() and BY_CHARACTER.search(pattern):
        return None
    if "\v" in text and SPACE.search(pattern):
        return None
    return compile_pattern(pattern).search(text) is not None


def _text(value: Any) -> str | None:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case str():
            return value
    return None
