"""The process's one evaluator: built on first use, anew after a fork or when a setting changes."""

from __future__ import annotations

import os
import threading
from typing import Any

from olposthog import conf
from olposthog._shared.shared_cache import READ_SECONDS

from .resolver import Resolver

_current: Resolver | None = None
_current_lock = threading.Lock()


def current() -> Resolver:
    """Return this process's evaluator, built on first use and again when a setting changes."""
    if _current is not None:
        return _current
    return _build()


def _build() -> Resolver:
    global _current  # noqa: PLW0603  # one per process
    with _current_lock:
        if _current is None:
            _current = Resolver(conf.current())
        return _current


def reset() -> None:
    """Make the process forget all it knows of flags; what the fleet shares, it finds again."""
    global _current  # noqa: PLW0603  # one per process
    with _current_lock:  # what another thread is building may be of settings from before
        if _current is not None:
            _current.close()
            _current = None


def _on_change(**_: Any) -> None:
    reset()


def _before_fork() -> None:
    """Wait a moment for writes to the shared cache: SQLite's locks would stay held in the child."""
    if _current is not None:
        _current.shared.settle(READ_SECONDS)


def _after_fork() -> None:
    """Start anew in a forked worker: threads and connections stay with the parent."""
    global _current, _current_lock  # noqa: PLW0603  # one per process
    _current = None
    _current_lock = threading.Lock()


conf.changed.connect(_on_change, dispatch_uid="olposthog._core.engine")
os.register_at_fork(before=_before_fork, after_in_child=_after_fork)
