"""What a setting may be: each rule returns the value in force, or raises `Refused`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings as django_settings
from django.utils.module_loading import import_string

from olposthog._utils.log_lines import printable

LARGEST = 10**9
"""No number of seconds or entries is larger: about 30 years."""


class Refused(ValueError):
    """A rule's verdict: what the value should have been, and the fix."""

    def __init__(self, expected: str, hint: str) -> None:
        super().__init__(expected)
        self.expected = expected
        self.hint = hint


def boolean(value: Any) -> bool:
    """Return a switch."""
    if not isinstance(value, bool):
        text = " Text from the environment is always true." if isinstance(value, str) else ""
        raise Refused("True or False", f"Set True or False.{text}")
    return value


def any_text(value: Any) -> str:
    """Return text without the white space around it."""
    if not isinstance(value, str):
        raise Refused("text", "Set a str.")
    return value.strip()


def project_key(value: Any) -> str:
    """Return a project's key, which browsers may see."""
    text = any_text(value)
    if text.startswith(("phx_", "phs_")):
        raise Refused("a project's key", "Set the one that begins with phc_; browsers may see it.")
    return text


def url(value: Any) -> str:
    """Return an http(s) address without a slash at its end, or empty text."""
    text = any_text(value).rstrip("/")
    try:
        parts = urlsplit(text)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if text and not usable:
        raise Refused("an http(s) address", 'Set for example "https://us.i.posthog.com".')
    return text


def number(minimum: float, *, above: bool = False) -> Callable[[Any], float]:
    """Judge finite numbers of at least `minimum`, or with `above` greater than it."""
    expected = f"a number {'greater than' if above else 'of at least'} {minimum:g}"

    def judge(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Refused(expected, "Set a number, not text.")
        if not minimum <= value <= LARGEST or (above and value == minimum):
            raise Refused(expected, f"Set {expected}, and of at most {LARGEST:g}.")
        return value

    return judge


def whole_number(minimum: int) -> Callable[[Any], int]:
    """Judge whole numbers of at least `minimum`."""
    expected = f"a whole number of at least {minimum}"

    def judge(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise Refused(expected, f"Set {expected}, as an int.")
        if not minimum <= value <= LARGEST:
            raise Refused(expected, f"Set {expected}, as an int.")
        return value

    return judge


def alias(value: Any) -> str:
    """Return the name of a cache."""
    if not isinstance(value, str) or value not in django_settings.CACHES:
        known = printable(", ".join(sorted(django_settings.CACHES)))
        raise Refused("an alias of CACHES", f"Add it to CACHES, or name one of: {known}.")
    return value


def file_path(value: Any) -> str:
    """Return a path as text."""
    path = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    try:
        usable = isinstance(path, str) and b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        usable = False
    if not isinstance(path, str) or not usable:
        raise Refused("a path", "Set a str or a pathlib.Path.")
    return path


def features(value: Any) -> Mapping[str, bool | str]:
    """Return fallback values by flag key."""
    if not isinstance(value, Mapping):
        raise Refused("a dict with flag keys", 'Set for example {"new-nav": True}.')
    for key in value:
        if not isinstance(key, str):
            raise Refused("a dict with flag keys", f"The key {key!r} must be text.")
    for key, fallback in value.items():
        if not isinstance(fallback, bool | int | str | None):
            raise Refused(
                "a dict of on/off values or variants",
                f"Set FEATURES[{key!r}] to True, False or the name of a variant.",
            )
    return {
        key: fallback if isinstance(fallback, str) else bool(fallback)
        for key, fallback in value.items()
        if fallback is not None
    }


def patterns(value: Any) -> tuple[str, ...]:
    """Return flag keys and globs."""
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise Refused("a list of flag keys or globs", 'Set for example ["new-nav", "web-*"].')
    return tuple(value)


_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^`|~0-9A-Za-z]*[A-Za-z][!#$%&'*+\-.^`|~0-9A-Za-z]*")
"""A header's name without underscores, which web servers drop and WSGI confuses with hyphens."""


def header_names(value: Any) -> tuple[str, ...]:
    """Return names of request headers."""
    expected = "a list of names of request headers"
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise Refused(expected, 'Set for example ["Cookie", "X-Api-Key"].')
    for name in value:
        if not _HEADER_NAME.fullmatch(name):
            raise Refused(
                expected,
                f'{name!r} is not a header as a client sends it. Set for example "X-Remote-User"; '
                "REMOTE_USER and other variables of the web server are not headers.",
            )
    return tuple(value)


SERVERS_OWN = frozenset({"user_id", "environment", "distinct_id"})
"""Person properties that only the server sets."""
RESERVED_CONTEXT = frozenset({"targetingKey", *SERVERS_OWN})
"""What of a client's context can be no person property: the client's id, and the server's word."""


def property_names(value: Any) -> tuple[str, ...]:
    """Return names of person properties that a client may say of itself."""
    expected = "a list of names of person properties"
    if not isinstance(value, list | tuple) or not all(
        isinstance(item, str) and item for item in value
    ):
        raise Refused(expected, 'Set for example ["plan", "locale"].')
    for name in value:
        if name in RESERVED_CONTEXT:
            raise Refused(expected, f"Leave out {name!r}: no client may say that of itself.")
    return tuple(value)


def dotted_path(value: Any) -> Callable[..., Any]:
    """Return the callable that the text names."""
    expected = "the dotted path of a callable (request) -> Identity"
    if not isinstance(value, str):
        raise Refused(expected, 'Name it as text, for example "shop.flags.identity".')
    try:
        found = import_string(value)
    except Exception as error:  # the module is the site's, and may raise anything
        raise Refused(expected, f"It cannot be imported: {error!r}.") from error
    if not callable(found):
        raise Refused(expected, "What it names cannot be called.")
    return found  # type: ignore[no-any-return]  # import_string is untyped


_COOKIE_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


def cookie(value: Any) -> str:
    """Return a cookie's name."""
    if not isinstance(value, str) or not _COOKIE_NAME.fullmatch(value):
        raise Refused("a cookie's name, or None", "Use letters, digits, '-' and '_' only.")
    return value
