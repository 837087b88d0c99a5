"""The option `bootstrap` of posthog-js: a browser starts with the flags of a snapshot."""

from __future__ import annotations

import json
from typing import NotRequired, TypedDict

from ._core.visibility import visible_flags
from ._evaluation.decision import JSON
from .identity import is_one_person
from .snapshot import FlagSnapshot, Runtime

UNUSABLE_KEY = "__proto__"
"""In the objects of posthog-js this key sets the prototype, and so the payloads of other flags."""


class Bootstrap(TypedDict):
    """posthog-js's option `bootstrap`."""

    distinctID: NotRequired[str]
    isIdentifiedID: NotRequired[bool]
    featureFlags: dict[str, bool | str]
    featureFlagPayloads: dict[str, JSON]


def bootstrap(snapshot: FlagSnapshot) -> Bootstrap:
    """Return posthog-js's `bootstrap`: the person, all visible flags, and payloads of those on.

    A flag that is off is False: posthog-js reports a flag that is left out as `flag_missing`. The
    ids are left out where the snapshot is not of one person: all visitors would become one in
    PostHog.
    Raise ValueError for a snapshot of the `server` runtime, whose flags are not all for browsers.
    """
    if snapshot.runtime is not Runtime.CLIENT:
        raise ValueError("posthog-js needs the flags of Runtime.CLIENT, and must see no others.")
    flags: dict[str, bool | str] = {
        key: value or False for key, value in visible_flags(snapshot).items() if key != UNUSABLE_KEY
    }
    options: Bootstrap = {
        "featureFlags": flags,
        "featureFlagPayloads": {
            key: _encode(snapshot.payloads[key])
            for key, value in flags.items()
            if value and key in snapshot.payloads
        },
    }
    if is_one_person(snapshot.distinct_id):
        options["distinctID"] = snapshot.distinct_id
        options["isIdentifiedID"] = not snapshot.anonymous
    return options


def _encode(payload: JSON) -> JSON:
    """Return the payload as posthog-js expects it: it decodes text as JSON, at the top level."""
    return json.dumps(payload) if isinstance(payload, str) else payload
