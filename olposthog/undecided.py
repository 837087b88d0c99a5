"""Why local evaluation cannot decide a flag, and what would change that.

An undecided flag is never off: PostHog decides it, at the cost of a request per person.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ._utils.log_lines import printable


class UndecidedReason(StrEnum):
    """The kinds of reasons."""

    MALFORMED = "malformed"
    """The definition does not have PostHog's format."""
    CONFIG_VERSION = "config_version"
    """The flag is written in a configuration format that local evaluation does not know."""
    EXPERIENCE_CONTINUITY = "experience_continuity"
    """The flag persists across log-in, for which PostHog keeps a record of its own."""
    STATIC_COHORT = "static_cohort"
    """The flag depends on a cohort that the definitions do not contain."""
    DEPENDENCY = "dependency"
    """The flag depends on another flag that cannot be decided here, or not for the same entity."""
    PATTERN = "pattern"
    """The flag has a regular expression that Python cannot match as PostHog does."""
    UNSUPPORTED = "unsupported"
    """The flag uses something else that local evaluation does not know."""
    MISSING_DEVICE_ID = "missing_device_id"
    """The flag is bucketed by device, and the person has no device id."""
    MISSING_PROPERTY = "missing_property"
    """A property that decides the flag was not passed, or has an unusable value."""


FIXES = {
    UndecidedReason.MALFORMED: "Save the flag again in PostHog, or fix the definitions file.",
    UndecidedReason.CONFIG_VERSION: "Upgrade olposthog once a version supports this format.",
    UndecidedReason.EXPERIENCE_CONTINUITY: (
        "Turn off persistence across authentication steps for this flag in PostHog, or bucket it "
        "by device."
    ),
    UndecidedReason.STATIC_COHORT: (
        "Use person properties or a cohort that is defined by them instead of a static cohort."
    ),
    UndecidedReason.DEPENDENCY: (
        "Let the flag depend only on flags of the same aggregation and runtime that can be "
        "decided locally."
    ),
    UndecidedReason.PATTERN: (
        "Install olposthog[re2], use a simpler regular expression, or use another operator."
    ),
    UndecidedReason.UNSUPPORTED: (
        "Change the condition in PostHog, or upgrade olposthog and posthog."
    ),
    UndecidedReason.MISSING_DEVICE_ID: (
        "Pass device_id=, or request= with a visitor whose browser has the anonymous cookie."
    ),
    UndecidedReason.MISSING_PROPERTY: "Pass the property in person_properties or group_properties.",
}
"""What would make local evaluation possible, by reason."""


@dataclass(frozen=True, slots=True)
class Undecided:
    """Why one flag is undecided."""

    reason: UndecidedReason
    detail: str
    """The reason in words, without a final full stop, as in `it needs the cohort 12`."""

    def __post_init__(self) -> None:
        """Escape the detail, which names properties and cohorts of the definitions."""
        object.__setattr__(self, "detail", printable(self.detail))

    @property
    def fix(self) -> str:
        """What would make local evaluation possible."""
        return FIXES[self.reason]

    def __str__(self) -> str:
        return self.detail
