"""PostHog's wire formats, as a server has them: a request taken apart, a flag written down."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, replace
from email.message import Message
from enum import Enum
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

BROWSER = re.compile(
    r"(Mozilla|Chrome|Safari|Firefox|Opera)/|posthog-(js|react|android|ios|flutter)"
)
BACKEND = re.compile(r"posthog-|curl/|python-|axios/|node|okhttp/|Go-http-client/|Java/|Ruby")


class Endpoint(Enum):
    """What a path is for."""

    FLAGS = "flags_fault"
    DEFINITIONS = "definitions_fault"
    EVENTS = "events_fault"
    CONFIG = "config_fault"
    UNKNOWN = ""


ENDPOINTS = {
    "/flags": Endpoint.FLAGS,
    "/flags/definitions": Endpoint.DEFINITIONS,
    "/batch": Endpoint.EVENTS,
    "/capture": Endpoint.EVENTS,
    "/i/v0/e": Endpoint.EVENTS,
    "/e": Endpoint.EVENTS,
}
GZIP = b"\x1f\x8b"
CONFIG = re.compile(r"/array/[^/]+/config")


def unpacked(raw: bytes, headers: Message, query: Mapping[str, str]) -> bytes:
    """The bytes of a body without the compression of the SDK, or of posthog-js.

    posthog-js does not announce gzip until it has PostHog's configuration.
    """
    announced = headers.get("Content-Encoding") == "gzip" or query.get("compression") == "gzip-js"
    if announced or raw.startswith(GZIP):
        return gzip.decompress(raw)
    if query.get("compression") == "base64":
        return base64.b64decode(dict(parse_qsl(raw.decode("ascii")))["data"])
    return raw


@dataclass(frozen=True)
class Request:
    """One request as it arrived: header names in any case, a body that is no JSON as None."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Message
    raw: bytes
    body: Any

    @classmethod
    def parse(cls, method: str, target: str, headers: Message, raw: bytes) -> Request:
        """Take a request apart, undoing its compression."""
        parts = urlsplit(target)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        try:
            body = json.loads(unpacked(raw, headers, query))
        except (EOFError, KeyError, OSError, ValueError):
            body = None
        return cls(method, parts.path, query, headers, raw, body)

    @property
    def endpoint(self) -> Endpoint:
        """What the request is about."""
        if CONFIG.fullmatch(self.path):
            return Endpoint.CONFIG
        return ENDPOINTS.get(self.path.rstrip("/"), Endpoint.UNKNOWN)

    @property
    def runtime(self) -> str | None:
        """Where the flags will be used: the body says so, or the headers give it away."""
        if claimed := self.body.get("evaluation_runtime"):
            return str(claimed)
        agent = self.headers.get("User-Agent", "")
        if BROWSER.match(agent):
            return "client"
        if BACKEND.match(agent):
            return "server"
        hints = ("Origin", "Referer", "Sec-Fetch-Mode")
        return "client" if any(hint in self.headers for hint in hints) else None


@dataclass(frozen=True)
class Flag:
    """A flag as a test declares it.

    `value` is what PostHog answers, or a callable that makes it from the body of the request.
    People outside `only_for` (distinct ids, or a callable that judges the body) get False.
    """

    value: object = True
    payload: object = None
    runtime: Literal["all", "client", "server"] | None = "all"
    only_for: Container[str] | Callable[[dict[str, Any]], bool] | None = None
    active: bool = True
    failed: bool = False
    id: int | None = None
    version: int = 1
    reason: str | None = None
    description: str | None = None
    has_experiment: bool = False

    def evaluate(self, body: dict[str, Any]) -> object:
        """The value for the person in the body of a request."""
        if self.failed:
            return None
        match self.only_for:
            case None:
                chosen = True
            case judge if callable(judge):
                chosen = judge(body)
            case people:
                chosen = body["distinct_id"] in people
        if not chosen:
            return False
        return self.value(body) if callable(self.value) else self.value

    def record(self, key: str, number: int, body: dict[str, Any]) -> dict[str, Any]:
        """The flag on the wire, as `v=4` has it."""
        value = self.evaluate(body)
        matched = value is not False and not self.failed
        code = self.reason or ("condition_match" if matched else "no_condition_match")
        if self.failed:
            code = self.reason or "timeout"
        payload = None if self.payload is None or not matched else json.dumps(self.payload)
        return {
            "key": key,
            "value": value,
            **({"failed": True} if self.failed else {}),
            "reason": {
                "code": code,
                "condition_index": 0 if matched else None,
                "description": code.replace("_", " ").capitalize(),
            },
            "metadata": {
                "id": self.id or number,
                "version": self.version,
                "config_version": 1 if self.failed or isinstance(value, bool | str) else 2,
                "description": self.description,
                "payload": payload,
                "has_experiment": self.has_experiment,
                **({"variant_key": value} if isinstance(value, str) else {}),
            },
        }


@dataclass(frozen=True)
class Variant(Flag):
    """A flag of an experiment: its value is the key of a variant."""

    has_experiment: bool = True


@dataclass(frozen=True)
class Record(Flag):
    """A flag whose `v=4` record a test writes itself: its value is the whole record."""

    value: object = None

    def record(self, key: str, number: int, body: dict[str, Any]) -> Any:
        """The record as it is."""
        return self.value


@dataclass(frozen=True)
class Split(Variant):
    """An experiment that gives half of the ids `control` and the others `test`, by PostHog's hash.

    Without an id of the kind that `bucketing_identifier` names, it is off.
    """

    bucketing_identifier: Literal["distinct_id", "device_id"] = "distinct_id"

    def record(self, key: str, number: int, body: dict[str, Any]) -> dict[str, Any]:
        """The flag on the wire, with the variant of the id in the body."""
        hashed_id = body.get(self.bucketing_identifier)
        if hashed_id:
            decided = replace(self, value=variant_of(key, hashed_id))
        else:
            decided = replace(self, value=False, reason="out_of_rollout_bound")
        return super(Split, decided).record(key, number, body)

    def definition(self, key: str) -> dict[str, Any]:
        """The flag as the definitions have it."""
        variants = [{"key": name, "rollout_percentage": 50} for name in ("control", "test")]
        return {
            "id": 1,
            "key": key,
            "active": True,
            "version": self.version,
            "evaluation_runtime": self.runtime,
            "bucketing_identifier": self.bucketing_identifier,
            "filters": {
                "groups": [{"properties": [], "rollout_percentage": 100, "variant": None}],
                "multivariate": {"variants": variants},
            },
        }


def variant_of(key: str, hashed_id: str) -> str:
    """The variant of a `Split` for an id."""
    digest = hashlib.sha1(f"{key}.{hashed_id}variant".encode()).hexdigest()  # PostHog's
    return "control" if int(digest[:15], 16) / 0xFFFFFFFFFFFFFFF < 0.5 else "test"


def device_id_in(body: Mapping[str, Any]) -> str | None:
    """The device id of a request: its own field, else a person property."""
    properties = body.get("person_properties") or {}
    return body.get("device_id") or properties.get("$device_id")


def in_version(version: str | None, records: dict[str, dict[str, Any]]) -> dict[str, object]:
    """The records as the client's version of the protocol has them."""
    if version == "4":
        return {"flags": records}
    if version in {"2", "3"}:
        return {"flags": {key: without_typed_value(record) for key, record in records.items()}}
    sound = {key: record for key, record in records.items() if "failed" not in record}
    payloads = {key: record["metadata"]["payload"] for key, record in sound.items()}
    return {
        "featureFlags": {key: record["value"] for key, record in sound.items()},
        "featureFlagPayloads": {key: text for key, text in payloads.items() if text is not None},
    }


def without_typed_value(record: dict[str, Any]) -> dict[str, object]:
    """The record as `v=2` has it: on or off, and perhaps a variant."""
    value = record["value"]
    variant = value if isinstance(value, str) else None
    return {
        "enabled": bool(value),
        "variant": variant,
        "metadata": without(record["metadata"], "config_version", "variant_key"),
        **without(record, "value", "metadata"),
    }


def without(mapping: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in mapping.items() if name not in names}
