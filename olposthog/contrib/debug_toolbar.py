"""A panel for django-debug-toolbar: the flags that a request read, and what they cost."""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any

from debug_toolbar.panels import Panel
from django.http import HttpRequest, HttpResponse

from olposthog._core import engine, hooks
from olposthog.inspection import reason_of, source_of
from olposthog.snapshot import FlagSnapshot
from olposthog.status import as_known_here

BY_DEFAULT = "default"
"""The source of a flag that neither PostHog nor `settings.FEATURES` knows: the caller's default."""


class _Record:
    """What one request asked for."""

    def __init__(self) -> None:
        self.answers: list[tuple[str, FlagSnapshot, float]] = []
        self.reads: list[tuple[str, bool | str, FlagSnapshot]] = []


_record: ContextVar[_Record | None] = ContextVar("olposthog_debug_toolbar", default=None)
# Tasks, and threads that Django starts for a request, have a copy of its context: the same record.


class _Watcher:
    """Writes what it is told into the record of the request under way, if one is recorded."""

    def answered(self, caller: str, snapshot: FlagSnapshot, seconds: float) -> None:
        record = _record.get()
        if record is not None:
            record.answers.append((caller, snapshot, seconds))

    def read(self, name: str, value: bool | str, snapshot: FlagSnapshot) -> None:
        record = _record.get()
        if record is not None:
            record.reads.append((name, value, snapshot))


_watcher = _Watcher()


class FlagsPanel(Panel):
    """The flags that the request read: value, source, cost, and how the circuit breaker is.

    What is read while a streaming response is sent comes too late for it.
    """

    is_async = True
    title = "Feature flags"  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]  # as panels do
    template = "olposthog/debug_toolbar.html"  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]  # likewise

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._seen = _Record()

    def enable_instrumentation(self) -> None:
        """Record the request that begins. From the first one on, the process has a watcher."""
        hooks.watcher = _watcher
        _record.set(self._seen)

    def disable_instrumentation(self) -> None:
        """Record no more."""
        _record.set(None)

    @property
    def nav_subtitle(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]  # its type is inferred as an empty text
        """As in `3 flags, 12.4 ms`."""
        stats = self.get_stats()
        count = len({flag["key"] for flag in stats["flags"]})
        if not stats["answers"]:
            return "none read"
        return f"{count} flag{'' if count == 1 else 's'}, {stats['milliseconds']:.1f} ms"

    def generate_stats(self, request: HttpRequest, response: HttpResponse) -> None:
        """Keep what was recorded, as JSON values."""
        circuit, shared_cache = as_known_here(engine.current())
        answers = _answers(self._seen)
        self.record_stats(
            {
                "flags": _flags(self._seen),
                "answers": answers,
                "milliseconds": sum(answer["milliseconds"] for answer in answers),
                "circuit": circuit,
                "shared_cache": shared_cache,
            }
        )

    def generate_server_timing(self, request: HttpRequest, response: HttpResponse) -> None:
        """Add what flags cost to the header `Server-Timing`."""
        self.record_server_timing("flags", "Feature flags", self.get_stats()["milliseconds"])


def _flags(record: _Record) -> list[dict[str, Any]]:
    return _counted(
        (
            {
                "key": key,
                "value": value if isinstance(value, str) else "on" if value else "off",
                "payload": key in snapshot.payloads,
                "reason": reason_of(snapshot, key),
                "undecided": str(snapshot.undecided.get(key, "")),
                "source": str(source_of(snapshot, key)) if key in snapshot.flags else BY_DEFAULT,
                "distinct_id": snapshot.distinct_id,
            },
            0.0,
        )
        for key, value, snapshot in sorted(record.reads, key=lambda read: read[0])
    )


def _answers(record: _Record) -> list[dict[str, Any]]:
    return _counted(
        (
            {
                "caller": caller,
                "distinct_id": snapshot.distinct_id,
                "runtime": str(snapshot.runtime),
                "source": str(snapshot.source),
            },
            seconds * 1000,
        )
        for caller, snapshot, seconds in record.answers
    )


def _counted(rows: Iterable[tuple[dict[str, Any], float]]) -> list[dict[str, Any]]:
    """Make one row of equal ones, with how often it was there and what they cost together."""
    counted: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row, milliseconds in rows:
        known = counted.setdefault(tuple(row.values()), {**row, "times": 0, "milliseconds": 0.0})
        known["times"] += 1
        known["milliseconds"] += milliseconds
    return list(counted.values())
