"""Who watches flags being read, as the debug toolbar's panel does. Nobody does in production."""

from __future__ import annotations

from typing import Protocol

from olposthog.snapshot import FlagSnapshot


class Watcher(Protocol):
    """Is told of each read, in the thread or task that reads. It must not raise."""

    def answered(self, caller: str, snapshot: FlagSnapshot, seconds: float) -> None:
        """Take note that `caller`, one of `olposthog.features`, waited so long for an answer."""

    def read(self, name: str, value: bool | str, snapshot: FlagSnapshot) -> None:
        """Take note that a flag of that answer was read, or a payload of it."""


watcher: Watcher | None = None
"""The one that is told. A check on the hot path costs as much as looking whether this is None."""
