"""`$feature_flag_called`: the event by which PostHog's experiments count who saw what."""

from __future__ import annotations

import threading
from typing import Any

from . import conf, gateway
from .snapshot import LOCAL_REASON, OVERRIDE_REASON, Decision, Evaluation, FlagSnapshot

REMEMBERED = 50_000
"""How many exposures a process remembers in order not to report them again."""


class Exposures:
    """Reports each exposure once in the life of a process."""

    def __init__(self, settings: conf.Settings) -> None:
        self._wanted = settings.send_events and settings.asks_posthog
        self._reported: dict[tuple[Any, ...], None] = {}
        self._lock = threading.Lock()

    def report(self, snapshot: FlagSnapshot, key: str, session_id: str | None = None) -> None:
        """Report that the person of `snapshot` was exposed to its value of `key`.

        Once for each person, flag, value and groups, whatever the session: it is a client's claim,
        and must not multiply events. A value that PostHog did not decide (fallback, default,
        disabled, a test's) is no exposure, and without a network there is nobody to tell.
        """
        snapshot.reported.add(key)
        evaluation = snapshot.evaluation
        decision = evaluation.decisions.get(key) if evaluation and self._wanted else None
        if evaluation is None or decision is None or decision.reason == OVERRIDE_REASON:
            return
        exposure = (snapshot.distinct_id, key, decision.value, *sorted(snapshot.groups.items()))
        with self._lock:
            if exposure in self._reported:
                return
            if len(self._reported) >= REMEMBERED:
                del self._reported[next(iter(self._reported))]
            self._reported[exposure] = None
        gateway.capture(
            "$feature_flag_called",
            snapshot.distinct_id,
            _properties(snapshot, evaluation, key, decision, session_id),
            groups=dict(snapshot.groups),
        )


def _properties(
    snapshot: FlagSnapshot,
    evaluation: Evaluation,
    key: str,
    decision: Decision,
    session_id: str | None,
) -> dict[str, Any]:
    locally = decision.reason == LOCAL_REASON
    properties: dict[str, Any] = {
        "$feature_flag": key,
        "$feature_flag_response": decision.value,
        f"$feature/{key}": decision.value,
        "$feature_flag_id": decision.id,
        "$feature_flag_version": decision.version,
        "$feature_flag_reason": decision.description or decision.reason,
        "$feature_flag_payload": decision.payload,
        "$feature_flag_request_id": None if locally else evaluation.request_id,
        "$feature_flag_evaluated_at": int(evaluation.evaluated_at * 1000),
        "$session_id": session_id,
        "locally_evaluated": locally,
    }
    if snapshot.anonymous:
        properties["$process_person_profile"] = False
    return {name: value for name, value in properties.items() if value is not None}
