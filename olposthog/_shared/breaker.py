"""The circuit breaker that all processes share.

closed → open: one call as slow as the trip threshold, or a row of failures in one process.
open → half-open → closed or open: after the cooldown one call in the fleet probes PostHog.

The state lives in the shared cache and is mirrored in each process, so that a check costs no
cache read and a process whose cache is dead still protects itself. The class decides; reading and
writing the shared cache is the `Ledger`'s.
"""

from __future__ import annotations

import json
import math
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Protocol

from olposthog._utils.log_lines import get_logger
from olposthog.counters import Tally

from .clock_skew import CONTROL_SKEW_SECONDS

log = get_logger(__name__)


class State(StrEnum):
    """What the circuit lets through: every call, none, or a single probe."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


CHANGES = Tally("circuit_changes", State)
"""Changes that this process made and told."""


class Ledger(Protocol):
    """What the breaker needs of the shared cache. Nothing here raises."""

    @property
    def is_awaited(self) -> bool:
        """Whether the first look of a process that has just started may still succeed."""
        raise NotImplementedError

    def claim(self, name: str, lifetime_seconds: float) -> bool | None:
        """Return whether this is the fleet's first claim of `name`; None when nobody can say."""

    def restore(self, state: str, *, over: str | None) -> None:
        """Write the state, without making the caller wait, unless there is another than `over`."""

    def announce(self, state: str, name: str, news: Callable[[], None]) -> None:
        """Write the state, without making the caller wait; call `news` if first to claim `name`."""


@dataclass(frozen=True, slots=True)
class Record:
    """One shared state: when the circuit opened, or that it is closed."""

    token: str
    """Names this opening or closing, and is never used for another. The opening after a closing
    is named after it, so that processes which open the circuit at the same time agree."""
    opened_at: float | None = None
    """Seconds since the epoch, by the clock of the machine that opened it; None when closed."""
    presumed: bool = False
    """Closed as far as a process knows that has just started: no reason to close a circuit."""
    closed_at: float | None = None
    """The same, by the clock of the machine that closed it; None when open, or never opened."""

    def no_later_than(self, latest: float) -> Record:
        """Return the record with a later time replaced by `latest`, in epoch seconds."""
        return replace(
            self,
            opened_at=None if self.opened_at is None else min(self.opened_at, latest),
            closed_at=None if self.closed_at is None else min(self.closed_at, latest),
        )

    @property
    def changed_at(self) -> float | None:
        """When the circuit opened or closed, in epoch seconds; None if it never did."""
        return self.closed_at if self.opened_at is None else self.opened_at

    def to_text(self) -> str:
        """Return the record as the shared cache keeps it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: object) -> Record | None:
        """Read a record; anything else, as another version might write, is None."""
        try:
            stored = json.loads(text)  # type: ignore[arg-type]  # whatever the cache holds
            token = stored["token"]
            if not isinstance(token, str):
                return None
            return cls(
                token,
                _time(stored["opened_at"]),
                bool(stored["presumed"]),
                _time(stored.get("closed_at")),  # an earlier version wrote none
            )
        except (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError):
            return None


def _time(stored: Any) -> float | None:
    if stored is None:
        return None
    datetime.fromtimestamp(float(stored), UTC)  # refuses what is no time
    return float(stored)


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave to call PostHog once. Report the outcome to the breaker that gave it."""

    token: str
    """The record that the call was permitted under."""
    openings: int
    """How many openings the process knew of by then."""
    probe: bool = False


class Breaker:
    """One process's view of the circuit, and its votes."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        failure_threshold: int,
        cooldown_seconds: float,
        trip_threshold_seconds: float,
        on_change: Callable[[State, str], None] = lambda state, reason: None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._on_change = on_change
        self._failure_threshold = failure_threshold
        self._cooldown = cooldown_seconds
        # A probe may begin in the first part of a window, and has ended by the end of the window:
        # it takes as long as the trip threshold at most. At least half of each window can be used.
        self._probe_begins_within = max(cooldown_seconds, trip_threshold_seconds)
        self._window_seconds = self._probe_begins_within + trip_threshold_seconds
        # Claims outlive what machines' clocks differ by: one that is ahead must not claim again.
        self._claim_seconds = max(self._window_seconds * 10, 3600.0)
        self._clock = clock
        self._wall = wall
        self._lock = threading.Lock()
        self._record = Record(_new_token(), presumed=True)
        self._found = ""  # the token of the shared record when it was last this process's own
        # The records that this process has replaced since, first and last, by token.
        self._replaced: frozenset[str] = frozenset()
        self._failures = 0
        self._openings = 0
        self._confirmed_at: float | None = None  # when the record was last seen to be in force
        self._opened_between = (-math.inf, math.inf)
        self._last_attempt = 0
        self._has_looked = False
        # Names the last closing of the circuit that was heard of, in all processes alike.
        self.last_closing = ""

    @property
    def state(self) -> State:
        """The state as this process knows it."""
        with self._lock:
            if self._record.opened_at is None:
                return State.CLOSED
            return State.OPEN if self._after_cooldown() < 0 else State.HALF_OPEN

    @property
    def changed_at(self) -> float | None:
        """When the circuit opened or closed last, in seconds since the epoch; None if never."""
        with self._lock:
            return self._record.changed_at

    def mirror(self, text: object) -> None:
        """Take over the shared state as just read; None when it was missing there.

        A state that is missing, or that this process replaced, is no news but a write that was
        lost or has not arrived: the process writes what it knows again. A time in the future is
        replaced by now: its cooldown would not end for processes that live shorter.
        """
        lost = self.observe(text)
        shared = Record.from_text(text)
        if lost is None and shared is not None:
            dated = self._dated(shared)
            lost = None if dated is shared else dated
        if lost is not None:
            over = None if shared is None else str(text)
            self._ledger.restore(lost.to_text(), over=over)

    def observe(self, text: object) -> Record | None:
        """Take over the shared state as just read, and write nothing.

        Return what this process knows in its place, or None where the two are the same.
        """
        shared = Record.from_text(text)
        with self._lock:
            self._has_looked = True
            known, now = self._record, self._clock()
            if shared is not None and self._is_news(shared):
                since = -math.inf if self._confirmed_at is None else self._confirmed_at
                self._adopt(self._dated(shared), since, now)
                known = shared
            if shared is not None and shared.token == known.token:
                self._confirmed_at, self._found = now, shared.token
                return None
        return known

    def _dated(self, shared: Record) -> Record:
        """Return a record whose time in the future is now; the same one if it is not."""
        now = self._wall()
        if shared.changed_at is None or shared.changed_at <= now + CONTROL_SKEW_SECONDS:
            return shared
        return shared.no_later_than(now)

    def _is_news(self, shared: Record) -> bool:
        is_open = self._record.opened_at is not None
        return shared.token not in {self._record.token, *self._replaced} and not (
            shared.presumed and is_open
        )

    def permit(self) -> Permit | None:
        """Return leave to call PostHog, or None: fall back now.

        A process that has just started has none until it has seen the shared state, or found that
        the shared cache does not answer. After the cooldown, this asks the ledger whether the call
        is the fleet's one probe.
        """
        with self._lock:
            if not self._has_looked and self._ledger.is_awaited:
                return None
            if self._record.opened_at is None:
                return Permit(self._record.token, self._openings)
            attempt = self._attempt()
            if attempt <= self._last_attempt:
                return None
            self._last_attempt = attempt
            permit = Permit(self._record.token, self._openings, probe=True)
        if self._ledger.claim(f"probe:{permit.token}:{attempt}", self._claim_seconds) is False:
            return None
        self._tell(State.HALF_OPEN, "the cooldown is over")
        return permit

    def allows(self, permit: Permit) -> bool:
        """Return whether the outcome of the call still matters; ask before a retry."""
        if permit.probe:
            return self._record.token == permit.token
        return self._record.opened_at is None and self._openings == permit.openings

    def succeeded(self, permit: Permit) -> None:
        """Count a call that brought flags in time; a probe's success closes the circuit."""
        with self._lock:
            if not self.allows(permit):
                return
            self._failures = 0
            if not permit.probe:
                return
            closed = self._replace(Record(_new_token(), closed_at=self._wall()))
        self._announce(closed, State.CLOSED, "PostHog answered the probe")

    def failed(self, permit: Permit, reason: str) -> None:
        """Count a failure; enough of them in a row, or a probe's, open the circuit."""
        with self._lock:
            if not self.allows(permit):
                return
            self._failures += 1
            failures = self._failures
        if permit.probe:
            self._open(permit, f"the probe failed: {reason}")
        elif failures >= self._failure_threshold:
            self._open(permit, f"{failures} failures: {reason}")

    def was_slow(self, permit: Permit, seconds: float) -> None:
        """Open the circuit for a call that took as long as the trip threshold."""
        self._open(permit, f"slow: {seconds:.1f} s")

    def _open(self, permit: Permit, reason: str) -> None:
        with self._lock:
            if not self.allows(permit):
                return  # somebody was faster
            token = _new_token() if permit.probe else f"{self._record.token}-open"
            opened = self._replace(Record(token, self._wall()))
        self._announce(opened, State.OPEN, reason)

    def _announce(self, record: Record, state: State, reason: str) -> None:
        self._ledger.announce(
            record.to_text(), f"news:{record.token}", lambda: self._tell(state, reason)
        )

    def _tell(self, state: State, reason: str) -> None:
        match state:
            case State.OPEN:
                log.warning(
                    "PostHog's circuit is open (%s): no calls for %g s, "
                    "cached and fallback values answer.",
                    reason,
                    self._cooldown,
                )
            case State.HALF_OPEN:
                log.info("PostHog's circuit is half-open (%s): one call probes it.", reason)
            case State.CLOSED:
                log.warning("PostHog's circuit is closed (%s).", reason)
        CHANGES.count(state)
        self._on_change(state, reason)

    def _replace(self, record: Record) -> Record:
        replaced = self._record.token
        self._adopt(record, self._clock(), self._clock())
        self._replaced = frozenset({self._found, replaced})
        return record

    def _adopt(self, record: Record, not_before: float, not_after: float) -> None:
        is_closing = record.opened_at is None and not record.presumed
        # A closing that does not follow an opening follows one that this process has missed.
        has_missed_opening = is_closing and self._record.opened_at is None
        self._record = record
        self._replaced = frozenset()
        self._openings += record.opened_at is not None or has_missed_opening
        if is_closing:
            self.last_closing = record.token
        self._opened_between = (not_before, not_after)
        self._failures = 0
        self._last_attempt = 0

    def _open_for(self, opened_at: float) -> float:
        """How long the circuit has been open: the wall clock, held within what this process saw.

        Clocks of machines differ by more than a cooldown. But the circuit opened after this
        process last saw another state, and before it saw this one.
        """
        now = self._clock()
        earliest, latest = self._opened_between
        return min(max(self._wall() - opened_at, now - latest), now - earliest)

    def _after_cooldown(self) -> float:
        """How long ago the cooldown of an open circuit ended, in seconds; negative during it."""
        return self._open_for(self._record.opened_at or 0.0) - self._cooldown

    def _attempt(self) -> int:
        """Return which probe of an open circuit may begin now, from 1; 0 if none may.

        Each has a window of its own, so a probe whose process dies costs one window, and probes
        never overlap.
        """
        number, elapsed = divmod(self._after_cooldown(), self._window_seconds)
        return 1 + int(number) if number >= 0 and elapsed < self._probe_begins_within else 0


def _new_token() -> str:
    return secrets.token_hex(8)
