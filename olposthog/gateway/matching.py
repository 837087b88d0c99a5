"""Property filters, matched by the SDK as PostHog's servers match them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from posthog.feature_flags import InconclusiveMatchError, match_property
from posthog.types import UnresolvedFlagReason

from olposthog.undecided import Undecided, UndecidedReason

REGEX_OPERATORS = ("regex", "not_regex")


def unsupported(property_filter: Mapping[str, Any], matching_version: int) -> Undecided | None:
    """Return why a property filter can match nobody's properties locally; None if it can.

    The SDK checks the filter itself when the property is missing.
    """
    operator, key = property_filter.get("operator") or "exact", property_filter["key"]
    if operator in REGEX_OPERATORS and not _can_compile(property_filter.get("value")):
        # The SDK takes such a pattern for one that matches nothing.
        return Undecided(
            UndecidedReason.PATTERN,
            f"Python cannot compile the regular expression for the property {key!r}",
        )
    try:
        match_property(property_filter, {}, matching_version)
    except InconclusiveMatchError as error:
        if error.reason is UnresolvedFlagReason.MISSING_CONTEXT:
            return None
    except Exception:  # noqa: BLE001, S110  # whatever the SDK raises, it cannot use the filter
        pass
    if operator in REGEX_OPERATORS:
        detail = f"the regular expression for the property {key!r} needs PostHog's engine"
        return Undecided(UndecidedReason.PATTERN, detail)
    return Undecided(
        UndecidedReason.UNSUPPORTED,
        f"its filter of the property {key!r} has an unknown operator or an unusable value",
    )


def matches(
    property_filter: Mapping[str, Any], properties: Mapping[str, Any], matching_version: int
) -> bool | Undecided:
    """Return whether a supported property filter matches, or why that cannot be decided."""
    key = property_filter["key"]
    if key not in properties:
        return Undecided(UndecidedReason.MISSING_PROPERTY, f"it needs the property {key!r}")
    try:
        return match_property(property_filter, properties, matching_version)
    except InconclusiveMatchError as error:
        if error.reason is UnresolvedFlagReason.MISSING_CONTEXT:
            detail = f"its filter cannot use the value of the property {key!r}"
            return Undecided(UndecidedReason.MISSING_PROPERTY, detail)
    except Exception:  # noqa: BLE001, S110  # whatever the SDK raises, it cannot decide
        pass
    return Undecided(
        UndecidedReason.UNSUPPORTED, f"its filter of the property {key!r} needs PostHog's engine"
    )


def _can_compile(pattern: Any) -> bool:
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError, TypeError):
        return False
    return isinstance(pattern, str)
