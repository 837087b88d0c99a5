"""Bucketing: the numbers by which PostHog divides people, the same for a person every time."""

from __future__ import annotations

from hashlib import sha1

_MAX = float(2**60 - 1)


class Bucketing:
    """The numbers from 0 to 1 that ids have under a prefix.

    Text that is not Unicode, which PostHog does not accept either, raises UnicodeEncodeError.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = sha1(prefix.encode(), usedforsecurity=False)

    def share_of(self, bucketing_id: str | int, salt: str = "") -> float:
        """Return the number that an id has."""
        digest = self._prefix.copy()
        digest.update(f"{bucketing_id}{salt}".encode())
        return (int.from_bytes(digest.digest()[:8], "big") >> 4) / _MAX


HOLDOUTS = Bucketing("holdout-")
"""All holdouts divide people alike."""
