"""Which flags a browser may see: PostHog's word, then the site's."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from fnmatch import translate
from functools import cache

from olposthog import conf
from olposthog.snapshot import FlagSnapshot

INTERNAL_PREFIXES = ("survey-targeting-", "product-tour-targeting-")
"""Flags that PostHog makes for its own use."""


def is_internal(key: str) -> bool:
    """Return whether a flag is one that PostHog made for its surveys or product tours."""
    return key.startswith(INTERNAL_PREFIXES)


def is_visible(key: str) -> bool:
    """Return whether `POSTHOG_API_FLAGS` lets browsers see `key`; PostHog's own never are."""
    return not is_internal(key) and bool(_allowed(conf.current().browser_flags)(key))


def visible_flags(
    snapshot: FlagSnapshot, keys: Collection[str] | None = None
) -> dict[str, bool | str]:
    """Return what a browser may see of a `client` snapshot, or of these `keys`, sorted by key."""
    flags = snapshot.flags
    wanted = sorted(filter(is_visible, flags if keys is None else keys))
    return {key: flags[key] for key in wanted if key in flags}


@cache
def _allowed(patterns: tuple[str, ...]) -> Callable[[str], object]:
    """Return what tells whether a key is named by one of the patterns, at the cost of one look."""
    plain = {pattern for pattern in patterns if not is_glob(pattern)}
    globs = re.compile("|".join(translate(one) for one in patterns if is_glob(one)) or r"(?!)")
    return lambda key: key in plain or globs.match(key)


def is_glob(pattern: str) -> bool:
    """Return whether an item of `POSTHOG_API_FLAGS` is no plain key."""
    return not set(pattern).isdisjoint("*?[")
