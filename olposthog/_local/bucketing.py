"""Bucketing: the numbers by which PostHog divides people, the same for a person every time."""

from __future__ import annotations

from hashlib import sha1

_LONG_SCALE = float(0xFFFFFFFFFFFFFFF)


def share_of(key: str, bucketing_id: str | int, salt: str = "") -> float:
    """Return the number from 0 to 1 that an id has for a flag.

    Raise UnicodeEncodeError for text that is not Unicode, which PostHog does not accept either.
    """
    return _hash(f"{key}.{bucketing_id}{salt}")


def holdout_share_of(bucketing_id: str | int) -> float:
    """Return the number from 0 to 1 that an id has for all holdouts."""
    return _hash(f"holdout-{bucketing_id}")


def _hash(text: str) -> float:
    digest = sha1(text.encode(), usedforsecurity=False).hexdigest()
    return int(digest[:15], 16) / _LONG_SCALE
