"""A person's flags in OFREP's words."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Any

from olposthog._core.visibility import is_visible
from olposthog._evaluation.decision import LOCAL_REASON, OVERRIDE_REASON, Decision
from olposthog.snapshot import FlagSnapshot

ON, OFF = "on", "off"
"""The variants of a flag that has none."""
UNDECIDED = "undecided"
"""The variant of a flag that PostHog could not compute: the default in the client's code."""


class Reason(StrEnum):
    """OpenFeature's reasons, as far as OFREP has them."""

    STATIC = "STATIC"
    TARGETING_MATCH = "TARGETING_MATCH"
    SPLIT = "SPLIT"
    DISABLED = "DISABLED"
    UNKNOWN = "UNKNOWN"


REASONS = {
    "condition_match": Reason.TARGETING_MATCH,
    "super_condition_value": Reason.TARGETING_MATCH,
    "targeting_match": Reason.TARGETING_MATCH,
    "out_of_rollout_bound": Reason.SPLIT,
    "holdout_condition_value": Reason.SPLIT,
    "flag_disabled": Reason.DISABLED,
    "disabled": Reason.DISABLED,
    "inactive": Reason.DISABLED,
}
"""What PostHog's reason codes mean. OFREP has no word for "no condition matched"."""


def evaluated(snapshot: FlagSnapshot) -> list[dict[str, Any]]:
    """Return all flags that a browser may see, sorted by key."""
    failed = snapshot.evaluation.failed if snapshot.evaluation else ()
    keys = sorted({*snapshot.flags, *failed})
    return [_flag(snapshot, key) for key in keys if is_visible(key)]


def evaluated_flag(snapshot: FlagSnapshot, key: str) -> dict[str, Any] | None:
    """Return one flag; None where it is unknown or not for browsers."""
    failed = snapshot.evaluation.failed if snapshot.evaluation else ()
    known = is_visible(key) and (key in snapshot.flags or key in failed)
    return _flag(snapshot, key) if known else None


def _flag(snapshot: FlagSnapshot, key: str) -> dict[str, Any]:
    decision = snapshot.evaluation.decisions.get(key) if snapshot.evaluation else None
    metadata = {"source": snapshot.source.value, **_details(decision)}
    if key not in snapshot.flags:
        # No `value` means: use the default in the code. A null would be a type mismatch.
        undecided = {"reason": Reason.UNKNOWN.value, "variant": UNDECIDED}
        return {"key": key, **undecided, "metadata": metadata}
    value = snapshot.flags[key]
    return {
        "key": key,
        "value": value,
        "reason": _reason(decision).value,
        "variant": value if isinstance(value, str) else ON if value else OFF,
        "metadata": metadata,
    }


def _reason(decision: Decision | None) -> Reason:
    if decision is None or decision.reason == OVERRIDE_REASON:
        return Reason.STATIC  # of `settings.FEATURES`, or a test's
    if decision.reason == LOCAL_REASON and decision.value:
        return Reason.TARGETING_MATCH  # definitions tell why a flag is on, not why it is off
    return REASONS.get(decision.reason, Reason.UNKNOWN)


def _details(decision: Decision | None) -> dict[str, str | int]:
    """Return what PostHog says beside the value: primitives only, as OFREP has it."""
    if decision is None:
        return {}
    said = {"id": decision.id, "version": decision.version, "posthogReason": decision.reason}
    details = {
        name: value
        for name, value in said.items()
        if isinstance(value, int | str) and value != "" and not isinstance(value, bool)
    }
    if decision.payload is not None:
        details["payload"] = json.dumps(decision.payload, separators=(",", ":"))
    return details
