"""How PostHog writes its decisions: the replies of its flags endpoint, read into ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from olposthog._evaluation.decision import Decision
from olposthog._evaluation.evaluation import Evaluation
from olposthog._utils.log_lines import get_logger
from olposthog._utils.portable_json import decoded, is_portable, is_unicode, read

from .errors import OVER_QUOTA, WRONG_ADDRESS, PostHogError

log = get_logger(__name__)


class _RecordError(Exception):
    """A record that gives no decision: it failed, or is unreadable. The text says which."""


REASON_TYPES: Mapping[str, type] = {"code": str, "condition_index": int, "description": str}
OLD_METADATA_TYPES: Mapping[str, type] = {
    "id": int,
    "version": int,
    "description": str,
    "has_experiment": bool,
}
METADATA_TYPES = {
    **OLD_METADATA_TYPES,
    "config_version": int,
    "rule_type": str,
    "rule_id": str,
    "variant_key": str,
    "forced_variant": bool,
    "experiment_id": int,
}
RECORD_TYPES: Mapping[str, type] = {"key": str, "failed": bool, "reason": dict, "metadata": dict}
OLD_RECORD_TYPES = {**RECORD_TYPES, "enabled": bool, "variant": str}
"""The fields of a record that PostHog's contract knows. A wrong type in one makes it unreadable."""


def parse(content: bytes, now: float) -> Evaluation:
    """Return the evaluation in a reply of PostHog's flags endpoint. Raise `PostHogError` if none.

    A reply without flags is an evaluation. A reply over quota, a reply of another server, and one
    in which every record failed are failures. A single record that failed, is unreadable, or has
    a null value gives no decision; `Evaluation.failed` has its key.
    """
    try:
        reply = read(content)
    except ValueError as error:
        raise PostHogError("a reply that is not JSON", hint=WRONG_ADDRESS) from error
    if not isinstance(reply, dict):
        raise PostHogError("a reply that is not flags", hint=WRONG_ADDRESS)
    limited = reply.get("quotaLimited")
    if isinstance(limited, list) and "feature_flags" in limited:
        raise PostHogError("over quota", hint=OVER_QUOTA)
    records = reply["flags"] if "flags" in reply else _records_of_legacy(reply)
    if not isinstance(records, dict) or not reply.get("requestId"):
        raise PostHogError("a reply that is not flags", hint=WRONG_ADDRESS)
    asks_minimal = reply.get("minimalFlagCalledEvents") is True
    computed: dict[str, Decision | None] = {}
    for key, record in records.items():
        if not is_unicode(key):
            continue  # nobody can ask for it
        try:
            computed[key] = _decision(record, asks_minimal)
        except _RecordError as error:
            log.debug("The record of flag %.100r gives no decision: %s.", key, error)
    if not computed and (records or reply.get("errorsWhileComputingFlags")):
        raise PostHogError("no flag could be computed")
    decisions = {key: one for key, one in computed.items() if one is not None}
    return Evaluation(
        decisions,
        evaluated_at=now,
        request_id=str(reply["requestId"]),
        failed=tuple(key for key in records if key not in decisions and is_unicode(key)),
    ).shared()


def _decision(record: Any, asks_minimal: bool) -> Decision | None:
    """Return the decision in a record, or None for a null value.

    A record with `value` is of protocol version 4, one with `enabled` and `variant` is older.
    Raise `_RecordError` if the record failed or is unreadable.
    """
    if not isinstance(record, dict):
        raise _RecordError("it is no object")
    is_typed = "value" in record
    fields = _fields(record, RECORD_TYPES if is_typed else OLD_RECORD_TYPES)
    reason = _fields(fields["reason"], REASON_TYPES)
    metadata = _fields(fields["metadata"], METADATA_TYPES if is_typed else OLD_METADATA_TYPES)
    if fields["failed"]:
        raise _RecordError("it failed")
    payload = decoded((record.get("metadata") or {}).get("payload"))
    value = record["value"] if is_typed else _old_value(fields["enabled"], fields["variant"])
    if isinstance(value, int | float | dict) and not isinstance(value, bool):
        if not is_portable(value):
            raise _RecordError("value is not portable JSON")
        value, payload = True, value  # a number or an object is on, and is its own payload
    if value is None:
        return None
    if not isinstance(value, bool | str):
        raise _RecordError("value has a wrong type")
    texts: list[Any] = [value, *reason.values(), *metadata.values()]
    if not all(is_unicode(one) for one in texts if isinstance(one, str)):
        raise _RecordError("a text is not Unicode")
    return Decision(
        value=value,
        payload=payload,
        reason=reason["code"] or "",
        description=reason["description"] or "",
        id=metadata["id"],
        version=metadata["version"],
        config_version=metadata.get("config_version") or 1,
        rule_type=metadata.get("rule_type"),
        rule_id=metadata.get("rule_id"),
        variant_key=metadata.get("variant_key"),
        has_experiment=metadata["has_experiment"],
        minimal_event=asks_minimal,
    )


def _old_value(enabled: bool | None, variant: str | None) -> bool | str | None:
    if enabled is False or variant is None:
        return enabled
    return variant


def _records_of_legacy(reply: Mapping[str, Any]) -> Any:
    """Return a legacy reply's `featureFlags` and `featureFlagPayloads` as records.

    Return None if they are no objects.
    """
    values = reply.get("featureFlags")
    payloads = reply.get("featureFlagPayloads") or {}
    if not isinstance(values, dict) or not isinstance(payloads, dict):
        return None
    return {
        key: {
            "enabled": True if isinstance(value, str) else value,
            "variant": value if isinstance(value, str) else None,
            "metadata": {"payload": payloads.get(key)},
        }
        for key, value in values.items()
    }


def _fields(source: dict[str, Any] | None, types: Mapping[str, type]) -> dict[str, Any]:
    """Return the known fields of an object by name; None for one that is missing or null.

    Raise `_RecordError` if a field has a wrong type.
    """
    fields = {}
    for name, kind in types.items():
        value = source.get(name) if source else None
        if kind is int and isinstance(value, float) and value.is_integer():
            value = int(value)  # JSON has one type of number
        if value is not None and type(value) is not kind:
            raise _RecordError(f"{name} has a wrong type")
        fields[name] = value
    return fields
