"""Events for PostHog: the SDK's client, one for each process."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, cast

import posthog
import posthog.utils

from olposthog import conf
from olposthog._utils.log_lines import EscapeFilter, get_logger
from olposthog._utils.log_throttle import LogThrottle

log = get_logger(__name__)
_log_throttle = LogThrottle()

MAX_SDK_LOG_CHARACTERS = 500
"""The length at which a log message of the SDK is cut."""
MAX_QUEUED_EVENTS = 10_000
"""How many events wait for their upload at most; the SDK drops further ones and logs that."""
_sdk_log_filter = EscapeFilter(MAX_SDK_LOG_CHARACTERS)
"""The SDK logs bodies of PostHog's replies as they are."""

FLUSH_SECONDS = 1.0
"""The most that a child process waits at its end for the delivery of queued events."""

_flushes_at_end = False
"""Whether this process, if it is a child that ends by `os._exit`, delivers queued events then."""
_client: tuple[conf.Settings, posthog.Posthog] | None = None
_client_lock = threading.RLock()
"""Re-entrant, because building the client runs a program. With gevent that is a fork by Python."""


def client() -> posthog.Posthog:
    """Return the process's SDK client for events, built on first use.

    It evaluates no flags. Its thread starts with it. In a test that did not ask for PostHog it is
    one that does nothing.
    """
    global _client  # noqa: PLW0603  # one client per process, as the SDK wants it
    settings = conf.current()
    if settings.isolated:
        return _silent_client()
    with _client_lock:
        if _client is None or _client[0] != settings:
            sdk = posthog.Posthog(
                settings.project_api_key,
                host=settings.api_host,
                max_retries=settings.max_retries,
                feature_flags_request_timeout_seconds=settings.timeout_seconds,
                disable_geoip=True,
                enable_local_evaluation=False,
                max_queue_size=MAX_QUEUED_EVENTS,
            )
            # What the first event finds out about the machine, by running a program: find it out
            # here, where no fork comes between and leaves the SDK's locks held for ever.
            posthog.utils.system_context()
            logging.getLogger("posthog").addFilter(_sdk_log_filter)  # the same one is added once
            _client = (settings, sdk)
        if not _flushes_at_end:
            _flush_at_end()
        return _client[1]


def _flush_at_end() -> None:
    """Have queued events delivered when a child process ends by `os._exit`, without `atexit`.

    Children of multiprocessing run finalizers of their own, and no `atexit` before Python 3.13.
    Children of Celery's pool send a signal.
    """
    global _flushes_at_end  # noqa: PLW0603  # one client per process
    _flushes_at_end = True
    if "multiprocessing" in sys.modules:
        from multiprocessing import parent_process, util

        if parent_process() is not None:
            util.Finalize(None, _flush, exitpriority=0)
    if "celery" in sys.modules:
        signals = import_module("celery.signals")
        signals.worker_process_shutdown.connect(
            _flush, weak=False, dispatch_uid="olposthog._posthog.events"
        )


def _flush(**_: Any) -> None:
    if _client is not None:
        _client[1].flush(FLUSH_SECONDS)


@cache
def _silent_client() -> posthog.Posthog:
    complaints = logging.getLogger("posthog")
    disabled, complaints.disabled = complaints.disabled, True
    try:
        return posthog.Posthog("")  # without a key the SDK does nothing, and says so
    finally:
        complaints.disabled = disabled


def install_client() -> None:
    """Make `posthog.capture(…)` and its like use `client()`, without building it yet."""
    global _before_isolation  # noqa: PLW0603  # one SDK per process
    if _before_isolation:
        _before_isolation = (_Current(),)
    else:
        posthog.default_client = _Current()  # type: ignore[assignment]  # stands in for it


_before_isolation: tuple[Any] | None = None
"""Whose client the SDK's functions use when tests are over, whoever set that up."""


def queued_events() -> int:
    """Return how many events wait in this process for their upload. Build no client."""
    return 0 if _client is None else _client[1].queue.qsize()


def _isolate(**_: Any) -> None:
    global _before_isolation  # noqa: PLW0603  # one SDK per process
    if conf.is_isolated() and not _before_isolation:
        _before_isolation = (posthog.default_client,)
        posthog.default_client = _Current()  # type: ignore[assignment]  # stands in for it
    elif _before_isolation and not conf.is_isolated():
        (posthog.default_client,) = _before_isolation
        _before_isolation = None


class _Current:
    """Whichever client is the process's now, which a fork, a setting or a test may change."""

    def __getattr__(self, name: str) -> Any:
        return getattr(client(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(client(), name, value)


def capture(
    event: str,
    distinct_id: str,
    properties: dict[str, Any],
    groups: dict[str, str],
    *,
    pinned: frozenset[str] = frozenset(),
    allowed: frozenset[str] | None = None,
) -> bool:
    """Queue an event for PostHog. Return False if it cannot be queued. Never raise.

    A background thread delivers it. The first event builds the client, which takes about 50 ms.
    Super properties of the SDK cannot set `pinned` names. `allowed` is an allowlist for all
    properties of the event, including those of the SDK. An event dropped by a `before_send` hook
    counts as queued. Tags and session of the SDK's ambient context are added, as to every event;
    person and groups are the given ones.
    """
    if groups:
        properties = {"$groups": groups, **properties}
    pinned |= {"$groups"}  # a tag of that name would have another group counted
    dropped: list[str] = []
    try:
        queued = client().capture(
            event,
            distinct_id=distinct_id,
            properties=properties,
            # Private arguments, with which the SDK shapes its own flag events.
            _pinned_properties=cast("Any", _Pinned(pinned, properties)),
            _property_allowlist=allowed,
            _before_send_drops=dropped,
        )
    except Exception as error:
        if _log_throttle.allows(type(error).__name__):
            log.exception("An event could not be queued for PostHog.")
        return False
    return queued is not None or bool(dropped)


@dataclass(frozen=True, slots=True)
class _Pinned:
    """Properties that super properties cannot set, by the protocol of the SDK."""

    names: frozenset[str]
    properties: Mapping[str, Any]

    def apply(self, enriched: Mapping[str, Any]) -> dict[str, Any]:
        """Return an event's final properties."""
        kept = {name: value for name, value in enriched.items() if name not in self.names}
        own = self.properties
        return kept | {name: own[name] for name in self.names if name in own}


conf.changed.connect(_isolate, dispatch_uid="olposthog._posthog.events")
_isolate()  # a test may run since before this module was imported


def _after_fork_in_child() -> None:
    global _log_throttle, _flushes_at_end  # noqa: PLW0603  # another thread may have held its lock
    _log_throttle = LogThrottle()
    _flushes_at_end = False  # multiprocessing drops the finalizers of the parent
    _client_lock.release()


os.register_at_fork(
    before=_client_lock.acquire,
    after_in_parent=_client_lock.release,
    after_in_child=_after_fork_in_child,
)
