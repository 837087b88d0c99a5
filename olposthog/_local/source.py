"""Where definitions come from: the interface of the file and of the poller."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class DefinitionsSource(Generic[T]):
    """No definitions: PostHog evaluates each flag."""

    def current(self) -> T | None:
        """Return what was made of the newest usable version; None while there is none."""
        return None

    def wait(self, seconds: float) -> None:
        """Wait until it is known whether there are definitions, for at most `seconds`."""

    def settle(self, seconds: float) -> None:
        """Wait for work under way that other processes need, for at most `seconds`."""

    def close(self) -> None:
        """End what runs in the background."""
