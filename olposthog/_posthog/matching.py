"""Property filters, matched by the SDK where it matches them as PostHog's servers do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from posthog.feature_flags import (
    DATE_OPERATORS,
    SEMVER_OPERATORS,
    InconclusiveMatchError,
    match_property,
    parse_datetime,
)
from posthog.types import UnresolvedFlagReason

from olposthog.undecided import Undecided, UndecidedReason

from . import patterns

REGEX_OPERATORS = ("regex", "not_regex")
EXACT_OPERATORS = ("exact", "is_not")
VALUELESS_OPERATORS = ("is_set", "is_not_set")
MATCHING_ABSENT_OPERATORS = frozenset(
    {
        "is_not",
        "is_not_set",
        "not_between",
        "not_ends_with",
        "not_icontains",
        "not_icontains_multi",
        "not_regex",
        "not_starts_with",
    }
)
"""The operators by which PostHog's servers match a property that a person does not have."""
# The SDK also reads other texts, and PostHog compares what the SDK drops, such as a pre-release.
_NUMBER = r"(?:0|[1-9][0-9]{0,8})"
VERSION = re.compile(rf"v?{_NUMBER}(?:\.{_NUMBER}){{0,2}}")
VERSION_WILDCARD = re.compile(rf"v?{_NUMBER}(?:\.{_NUMBER})?\.\*")
RELATIVE_DATE = re.compile(r"-?[0-9]+[a-z]")
DATE = re.compile(
    r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?(?P<offset>Z|[+-]\d\d:\d\d)?)?",
    re.ASCII,
)
LARGEST_OFFSET = timedelta(hours=14)


def unsupported(property_filter: Mapping[str, Any], matching_version: int) -> Undecided | None:
    """Return why a property filter can match nobody's properties locally; None if it can."""
    operator, key = property_filter.get("operator") or "exact", property_filter["key"]
    value = property_filter.get("value")
    unusable = Undecided(
        UndecidedReason.UNSUPPORTED,
        f"its filter of the property {key!r} has an unknown operator or an unusable value",
    )
    if (
        # PostHog matches nobody by a filter without a value, the SDK those whose value is null.
        (value is None and operator not in VALUELESS_OPERATORS)
        or (operator in SEMVER_OPERATORS and not _is_version(value, operator))
        or (operator in DATE_OPERATORS and not _is_date(value) and not _is_relative_date(value))
    ):
        return unusable
    if operator in REGEX_OPERATORS:
        return _unsupported_pattern(value, key)
    try:
        # The SDK checks the filter itself when the property is missing.
        match_property(property_filter, {}, matching_version)
    except InconclusiveMatchError as error:
        if error.reason is UnresolvedFlagReason.MISSING_CONTEXT:
            return None
    except Exception:  # noqa: BLE001, S110  # whatever the SDK raises, it cannot use the filter
        pass
    return unusable


def matches(
    property_filter: Mapping[str, Any], properties: Mapping[str, Any], matching_version: int
) -> bool | Undecided:
    """Return whether a supported property filter matches, or why that cannot be decided."""
    key = property_filter["key"]
    if key not in properties:
        return Undecided(UndecidedReason.MISSING_PROPERTY, f"it needs the property {key!r}")
    try:
        result = _match(property_filter, properties[key], matching_version)
    except InconclusiveMatchError as error:
        if error.reason is UnresolvedFlagReason.MISSING_CONTEXT:
            return _unusable(key)
    except Exception:  # noqa: BLE001, S110  # whatever the SDK raises, it cannot decide
        pass
    else:
        return result
    return Undecided(
        UndecidedReason.UNSUPPORTED, f"its filter of the property {key!r} needs PostHog's engine"
    )


def matches_absent(property_filter: Mapping[str, Any]) -> bool:
    """Return whether a supported property filter matches a person without the property."""
    return property_filter.get("operator") in MATCHING_ABSENT_OPERATORS


def _match(
    property_filter: Mapping[str, Any], value: Any, matching_version: int
) -> bool | Undecided:
    operator, key = property_filter.get("operator"), property_filter["key"]
    if operator in SEMVER_OPERATORS and not _is_version(value):
        return _unusable(key)
    if operator in DATE_OPERATORS:
        return _matches_date(property_filter, value, matching_version)
    if operator in REGEX_OPERATORS and patterns.HAS_RE2:
        found = patterns.search(property_filter["value"], value)
        return _unusable(key) if found is None else found is (operator == "regex")
    return match_property(property_filter, {key: value}, matching_version)


def exact_texts(property_filter: Mapping[str, Any], matching_version: int) -> frozenset[str] | None:
    """Return the texts in lower case that a filter compares with text, if it does no more.

    That is where `exact` and `is_not` have texts only, and do not compare truth, as version 1 does
    for "true" and "false".
    """
    value = property_filter.get("value")
    texts: list[Any] = value if isinstance(value, list) else [value]
    if (
        (property_filter.get("operator") or "exact") not in EXACT_OPERATORS
        or not texts
        or not all(isinstance(one, str) for one in texts)
    ):
        return None
    lower = frozenset(one.lower() for one in texts)
    return None if matching_version == 1 and lower <= {"true", "false"} else lower


def _unusable(key: str) -> Undecided:
    return Undecided(
        UndecidedReason.MISSING_PROPERTY,
        f"its filter cannot use the value of the property {key!r}",
    )


def _matches_date(
    property_filter: Mapping[str, Any], value: Any, matching_version: int
) -> bool | Undecided:
    """Return whether a date matches.

    PostHog reads a date without an offset in the project's time zone, which is unknown here.
    Where one of the two dates has an offset, the result must be the same in every time zone.
    """
    key, limit = property_filter["key"], property_filter["value"]
    if not _is_date(value):
        return _unusable(key)
    try:
        date: datetime = parse_datetime(value)
    except ValueError:  # the 31st of a shorter month
        return _unusable(key)
    shift = timedelta() if _has_offset(value) is _has_offset(limit) else LARGEST_OFFSET
    earliest, latest = (
        match_property(property_filter, {key: date + by}, matching_version)
        for by in (-shift, shift)
    )
    if earliest is not latest:
        return Undecided(
            UndecidedReason.UNSUPPORTED,
            f"its filter of the property {key!r} depends on the project's time zone",
        )
    return earliest


def _is_date(value: Any) -> bool:
    return isinstance(value, str) and DATE.fullmatch(value) is not None


def _is_relative_date(value: Any) -> bool:
    return isinstance(value, str) and RELATIVE_DATE.fullmatch(value) is not None


def _has_offset(value: str) -> bool:
    date = DATE.fullmatch(value)
    return date is None or date["offset"] is not None


def _is_version(value: Any, operator: str = "semver_eq") -> bool:
    pattern = VERSION_WILDCARD if operator == "semver_wildcard" else VERSION
    return isinstance(value, str | int | float) and pattern.fullmatch(str(value)) is not None


def _unsupported_pattern(pattern: Any, key: str) -> Undecided | None:
    """Return why a regular expression cannot be matched as PostHog does."""
    reason = "it is no text"
    if isinstance(pattern, str) and patterns.HAS_RE2:
        try:
            patterns.compile_pattern(pattern)
        except ValueError as error:
            reason = str(error)
        else:
            return None
    elif isinstance(pattern, str):
        if patterns.is_simple(pattern) and _is_understood(pattern):
            return None
        reason = "olposthog[re2] is not installed"
    return Undecided(
        UndecidedReason.PATTERN,
        f"the regular expression for the property {key!r} needs PostHog's engine: {reason}",
    )


def _is_understood(pattern: str) -> bool:
    """Return whether the SDK can match a regular expression as PostHog does.

    It takes one that Python cannot compile for one that matches nothing, negated or not.
    """
    try:
        return any(
            match_property({"key": "text", "operator": operator, "value": pattern}, {"text": ""})
            for operator in REGEX_OPERATORS
        )
    except Exception:  # noqa: BLE001  # whatever the SDK raises, it cannot use the pattern
        return False
