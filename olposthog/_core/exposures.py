"""The events that PostHog's experiments count.

A flag that is read reports `$feature_flag_called`. If an experiment assigned the value, it reports
`$experiment_exposure` in addition. Both follow PostHog's contract for its SDKs.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Hashable
from typing import Any, NamedTuple

from olposthog import _posthog, conf
from olposthog._evaluation.decision import LOCAL_REASON, OVERRIDE_REASON, Decision
from olposthog._evaluation.evaluation import Evaluation
from olposthog.snapshot import FlagSnapshot

REMEMBERED = 50_000
"""How many events a process remembers in order not to report them again."""

FLAG_CALLED = "$feature_flag_called"
EXPERIMENT_EXPOSURE = "$experiment_exposure"

CONFIG_VERSION = 2
"""The version of PostHog's configuration format in which flags have rules."""
SPLIT = "experiment_split"
"""The reason code of a value that an experiment assigned."""
RULE_TYPES_BY_REASON = {
    "targeting_match": frozenset({"targeted_release", "percentage_rollout"}),
    SPLIT: frozenset({"experiment"}),
    "experiment_paused": frozenset({"experiment"}),
    "holdout": frozenset({"experiment"}),
    "rollout_miss": frozenset({"percentage_rollout", "experiment"}),
}
"""The reason codes with which an event names the rule, and the types that the rule can have."""
UUID = re.compile("-".join(f"[0-9a-fA-F]{{{digits}}}" for digits in (8, 4, 4, 4, 12)))

RULE_PROPERTIES = frozenset(
    {
        "$feature_flag_config_version",
        "$feature_flag_reason_code",
        "$feature_flag_rule_id",
        "$feature_flag_rule_type",
        "$feature_flag_variant_key",
    }
)
PINNED_PROPERTIES = RULE_PROPERTIES | {
    "$feature_flag",
    "$feature_flag_response",
    "locally_evaluated",
    "$feature_flag_reason",
    "$feature_flag_forced_variant",
    "$feature_flag_experiment_id",
    "$experiment_exposure_source",
}
"""The names that super properties cannot set on an event of config version 2."""
MINIMAL_PROPERTIES = frozenset(
    {
        # identity
        "$feature_flag",
        "$feature_flag_response",
        "$feature_flag_has_experiment",
        "$groups",
        "$process_person_profile",
        "$session_id",
        # debugging
        "$feature_flag_error",
        "$feature_flag_evaluated_at",
        "$feature_flag_id",
        "$feature_flag_reason",
        "$feature_flag_request_id",
        "$feature_flag_version",
        "locally_evaluated",
        # SDK and platform
        "$geoip_disable",
        "$is_server",
        "$lib",
        "$lib_version",
        "$os",
        "$os_distro",
        "$os_version",
        "$python_runtime",
        "$python_version",
    }
)
"""The names in a minimised `$feature_flag_called`; config version 2 adds `RULE_PROPERTIES`."""


MAX_PAYLOAD_CHARACTERS = 8 * 2**10
"""The length of a payload as JSON text above which events leave it out."""
MAX_QUEUED_PAYLOADS = 1000
"""How many queued events may hold a payload; later ones leave it out."""


class Exposures:
    """Reports each exposure once in the life of a process."""

    def __init__(self, settings: conf.Settings) -> None:
        self._wanted = settings.send_events and settings.mode is conf.Mode.REMOTE
        self._reported: dict[Hashable, None] = {}
        self._lock = threading.Lock()

    def report(self, snapshot: FlagSnapshot, key: str, session_id: str | None = None) -> None:
        """Report that the person of `snapshot` was exposed to its value of `key`.

        Report each event once, whatever the session: a session is a client's claim, and must not
        multiply events. A value that PostHog did not decide (fallback, default, disabled,
        override) is no exposure. With a definitions file nothing is reported.
        """
        snapshot.reported.setdefault(key)
        evaluation = snapshot.evaluation
        decision = evaluation.decisions.get(key) if evaluation and self._wanted else None
        if evaluation is None or decision is None or decision.reason == OVERRIDE_REASON:
            return
        rule = _Rule.of(decision)
        read = _properties_of_read(snapshot, evaluation, key, decision, session_id)
        is_captured = self._capture_once(
            FLAG_CALLED,
            snapshot,
            read | _properties_of_call(key, decision, rule),
            identity=(key, decision.value, rule),
            is_pinned=rule is not None,
            allowed=_allowed_properties(decision, rule),
        )
        if rule is not None and rule.variant_key is not None:
            is_captured &= self._capture_once(
                EXPERIMENT_EXPOSURE,
                snapshot,
                read | rule.of_exposure(),
                identity=(key, rule.rule_id, rule.variant_key),
                is_pinned=True,
            )
        if not is_captured:
            snapshot.reported.pop(key, None)

    def _capture_once(
        self,
        event: str,
        snapshot: FlagSnapshot,
        properties: dict[str, Any],
        *,
        identity: Hashable,
        is_pinned: bool,
        allowed: frozenset[str] | None = None,
    ) -> bool:
        """Capture an event unless one of the same identity was captured. Return False to retry.

        Only config version 2 has retries. With the SDK's queue full, each read would retry.
        """
        groups = dict(snapshot.groups)
        exposure = (event, snapshot.distinct_id, tuple(sorted(groups.items())), identity)
        with self._lock:
            if exposure in self._reported:
                return True
            if len(self._reported) >= REMEMBERED:
                del self._reported[next(iter(self._reported))]
            self._reported[exposure] = None
        is_captured = _posthog.capture(
            event,
            snapshot.distinct_id,
            {name: value for name, value in properties.items() if value is not None},
            groups,
            pinned=PINNED_PROPERTIES if is_pinned else frozenset(),
            allowed=allowed,
        )
        if is_captured or not is_pinned:
            return True
        with self._lock:
            self._reported.pop(exposure, None)
        return False


class _Rule(NamedTuple):
    """The part of a config version 2 rule that events report."""

    reason_code: str
    rule_type: str | None = None
    rule_id: str | None = None
    variant_key: str | None = None
    """The variant, if an experiment assigned the value; else None."""

    @classmethod
    def of(cls, decision: Decision) -> _Rule | None:
        """Return the rule of a decision, or None if it is not of config version 2.

        Type and id are set together or not at all. An incomplete rule has its reason code only.
        """
        if decision.config_version != CONFIG_VERSION:
            return None
        reason, kind, rule_id = decision.reason, decision.rule_type, decision.rule_id
        arm = decision.variant_key if reason == SPLIT else None
        is_complete = (
            kind in RULE_TYPES_BY_REASON.get(reason, ())
            and UUID.fullmatch(rule_id or "") is not None
            and (arm is not None or reason != SPLIT)
        )
        return cls(reason, kind, rule_id, arm) if is_complete else cls(reason)

    def of_call(self) -> dict[str, Any]:
        """Return the properties of a `$feature_flag_called` that name the rule."""
        return {
            "$feature_flag_config_version": CONFIG_VERSION,
            "$feature_flag_reason_code": self.reason_code or None,
            "$feature_flag_rule_type": self.rule_type,
            **self.of_exposure(),
        }

    def of_exposure(self) -> dict[str, Any]:
        """Return the properties of an `$experiment_exposure` that name the rule."""
        return {
            "$feature_flag_rule_id": self.rule_id,
            "$feature_flag_variant_key": self.variant_key,
        }


def _properties_of_read(
    snapshot: FlagSnapshot,
    evaluation: Evaluation,
    key: str,
    decision: Decision,
    session_id: str | None,
) -> dict[str, Any]:
    """Return what both events of a read have in common."""
    is_local = decision.reason == LOCAL_REASON
    origin = evaluation.origin(key)
    return {
        "$feature_flag": key,
        "$feature_flag_response": decision.value,
        "$feature_flag_id": decision.id,
        "$feature_flag_version": decision.version,
        "$feature_flag_request_id": None if is_local else origin.request_id,
        "$feature_flag_evaluated_at": None if is_local else int(origin.evaluated_at * 1000),
        "$process_person_profile": False if snapshot.anonymous else None,
        "$session_id": session_id,
        "locally_evaluated": is_local,
    }


def _properties_of_call(key: str, decision: Decision, rule: _Rule | None) -> dict[str, Any]:
    """Return what `$feature_flag_called` has in addition."""
    reason = {"$feature_flag_reason": decision.description or decision.reason or None}
    return {
        f"$feature/{key}": decision.value,
        "$feature_flag_payload": decision.payload if _is_payload_reported(decision) else None,
        "$feature_flag_has_experiment": decision.has_experiment,
        **(reason if rule is None else rule.of_call()),
    }


def _is_payload_reported(decision: Decision) -> bool:
    """Return whether an event may hold the payload. The SDK's queue copies it for each event."""
    if decision.payload is None or decision.payload_characters > MAX_PAYLOAD_CHARACTERS:
        return False
    return _posthog.queued_events() < MAX_QUEUED_PAYLOADS


def _allowed_properties(decision: Decision, rule: _Rule | None) -> frozenset[str] | None:
    """Return the property names of a minimised event, or None for the full event."""
    if not decision.minimal_event or decision.has_experiment is not False:
        return None
    return MINIMAL_PROPERTIES if rule is None else MINIMAL_PROPERTIES | RULE_PROPERTIES
