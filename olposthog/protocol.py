"""How PostHog writes its decisions: the replies of its flags endpoint, read into ours."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from .snapshot import Decision, Evaluation

WRONG_ADDRESS = "Is POSTHOG_API_HOST PostHog's address?"
OVER_QUOTA = "See PostHog's billing: the project has used up the requests that its plan allows."
MAX_LEVELS = 200
"""How deeply a payload may be nested. Python 3.11 writes no more than about 900 levels."""


class PostHogError(Exception):
    """PostHog gave no flags. The text is a reason fit for a log: no key, no person.

    `counts` is False where the request was at fault and PostHog is well; `hint` says what may
    mend it.
    """

    def __init__(
        self, reason: str, *, transient: bool = False, counts: bool = True, hint: str = ""
    ) -> None:
        super().__init__(reason)
        self.transient = transient
        self.counts = counts
        self.hint = hint


def parse(content: bytes, now: float) -> Evaluation:
    """Read a reply of PostHog's flags endpoint; raises `PostHogError` if it holds no flags.

    "No flags" is an answer. A reply over quota, one that is not PostHog's, and one in which PostHog
    failed to compute every flag are failures. Single flags that it failed to compute have no
    decision, and are named as failed.
    """
    try:
        reply = loads(content)
    except ValueError as error:
        raise PostHogError("a reply that is not JSON", hint=WRONG_ADDRESS) from error
    if not isinstance(reply, dict):
        raise PostHogError("a reply that is not flags", hint=WRONG_ADDRESS)
    limited = reply.get("quotaLimited")
    if isinstance(limited, list) and "feature_flags" in limited:
        raise PostHogError("over quota", hint=OVER_QUOTA)
    records = reply.get("flags")
    if not isinstance(records, dict) or not reply.get("requestId"):
        raise PostHogError("a reply that is not flags", hint=WRONG_ADDRESS)
    decisions = {
        key: _decision(record)
        for key, record in records.items()
        if isinstance(record, dict) and not record.get("failed")
    }
    if not decisions and (records or reply.get("errorsWhileComputingFlags")):
        raise PostHogError("no flag could be computed")
    return Evaluation(
        decisions,
        evaluated_at=now,
        request_id=str(reply["requestId"]),
        failed=tuple(key for key in records if key not in decisions),
    )


def _decision(record: Mapping[str, Any]) -> Decision:
    """Read one flag's record, of protocol version 4 (`value`) or 2 (`enabled`, `variant`)."""
    metadata = record.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    reason = record.get("reason")
    reason = reason if isinstance(reason, dict) else {}
    payload = decoded(metadata.get("payload"))
    if "value" in record:
        value = record["value"]
        if isinstance(value, int | float | dict) and not isinstance(value, bool):
            # A typed value is "on", and the value itself is the payload, as the SDK has it.
            value, payload = True, decoded(value)
    else:
        value = bool(record.get("enabled")) and (record.get("variant") or True)
    return Decision(
        value=value if isinstance(value, bool | str) else False,
        payload=payload,
        reason=str(reason.get("code") or ""),
        description=str(reason.get("description") or ""),
        id=metadata.get("id"),
        version=metadata.get("version"),
    )


def decoded(payload: Any) -> Any:
    """Decode a payload, which travels as JSON text; other text is the payload itself.

    What is nested so deeply that whoever writes it again would fail stays text, or is left out.
    """
    if payload is None:
        return None
    if not isinstance(payload, str):
        return None if _is_deep(payload) else payload
    try:
        value = loads(payload)
    except ValueError:
        return payload
    return payload if _is_deep(value) else value


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_LEVELS):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True


def loads(text: str | bytes) -> Any:
    """Read JSON as the standard has it; raises ValueError.

    NaN and Infinity, which no browser would read, are not in it.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _finite(number: str) -> float:
    if not math.isfinite(float(number)):
        raise ValueError(f"{number} is too large")
    return float(number)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
