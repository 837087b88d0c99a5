"""Which flags a browser may see: PostHog's word, then the site's."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from . import conf
from .snapshot import FlagSnapshot, Runtime

if TYPE_CHECKING:
    from .definitions import Definitions

INTERNAL_PREFIXES = ("survey-targeting-", "product-tour-targeting-")
"""Flags that PostHog makes for its own use."""


def withheld(key: str, runtime: Runtime, definitions: Definitions | None) -> bool:
    """Return whether a fallback value must not be used in `runtime`.

    The definitions, where there are any, say which runtime a flag is for, also in an outage.
    """
    return definitions is not None and not definitions.suits(key, runtime)


def is_internal(key: str) -> bool:
    """Return whether a flag is one that PostHog made for its surveys or product tours."""
    return key.startswith(INTERNAL_PREFIXES)


def is_visible(key: str) -> bool:
    """Return whether `POSTHOG_API_FLAGS` lets browsers see `key`; PostHog's own never are."""
    patterns = conf.current().browser_flags
    return not is_internal(key) and any(fnmatchcase(key, pattern) for pattern in patterns)


def visible_flags(snapshot: FlagSnapshot) -> dict[str, bool | str]:
    """Return what a browser may see of a `client` snapshot, sorted by key."""
    return {key: snapshot.flags[key] for key in sorted(snapshot.flags) if is_visible(key)}
