"""What a page tells posthog-js, so that it starts with the server's answer and asks nobody."""

from __future__ import annotations

from typing import TypedDict

from .snapshot import JSON, FlagSnapshot, Runtime
from .visibility import visible_flags


class Bootstrap(TypedDict):
    """posthog-js's option `bootstrap`."""

    distinctID: str
    isIdentifiedID: bool
    featureFlags: dict[str, bool | str]
    featureFlagPayloads: dict[str, JSON]


def bootstrap(snapshot: FlagSnapshot) -> Bootstrap:
    """Return what posthog-js takes as `bootstrap`: the person, and the flags that are on.

    Raises ValueError for a snapshot of the `server` runtime, whose flags are not all for browsers.
    """
    if snapshot.runtime is not Runtime.CLIENT:
        raise ValueError("posthog-js needs the flags of Runtime.CLIENT, and must see no others.")
    flags: dict[str, bool | str] = {key: on for key, on in visible_flags(snapshot).items() if on}
    return {
        "distinctID": snapshot.distinct_id,
        "isIdentifiedID": not snapshot.anonymous,
        "featureFlags": flags,
        "featureFlagPayloads": {
            key: snapshot.payloads[key] for key in flags if key in snapshot.payloads
        },
    }
