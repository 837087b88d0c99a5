"""A call to PostHog: only with leave, never longer than its deadline, its outcome reported."""

from __future__ import annotations

import logging
import math
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from olposthog import conf
from olposthog._core.remote import MAX_CALLS, OUTCOMES, Remote
from olposthog._evaluation.evaluation import Evaluation
from olposthog._posthog import PostHogApi, api
from olposthog._shared.breaker import Breaker, State
from olposthog.identity import Identity
from olposthog.snapshot import Runtime
from tests.gateway.asking import needs_linux
from tests.posthog_faults import (
    DropPackets,
    Exchange,
    Fault,
    Hang,
    HangUp,
    Html,
    Quota,
    Raw,
    Refuse,
    Reply,
    Reset,
    SlowContinue,
    Status,
)
from tests.posthog_faults import TrickleHeaders as Trickle
from tests.posthog_server import PATIENCE, PostHogServer


class Clock:
    """Seconds that pass when a test says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Alone:
    """The ledger of a fleet of one: no cache, so nobody can say who was first."""

    is_awaited = False

    def claim(self, name: str, lifetime_seconds: float) -> bool | None:
        return None

    def restore(self, state: str, *, over: str | None) -> None:
        """Write nothing."""

    def announce(self, state: str, name: str, news: Callable[[], None]) -> None:
        news()


class Line:
    """A way to PostHog with its breaker, whose parts a test can reach."""

    def __init__(
        self,
        posthog: PostHogServer,
        clock: Callable[[], float] = time.monotonic,
        *,
        failure_threshold: int = 1,
        slow_seconds: float = 5.0,
        **settings: Any,
    ) -> None:
        connection = {"enabled": True, "project_api_key": posthog.token, "api_host": posthog.url}
        self.clock = clock
        self.refreshed = 0
        self.breaker = Breaker(
            Alone(),
            failure_threshold=failure_threshold,
            cooldown_seconds=60,
            trip_threshold_seconds=5,
            clock=clock,
            wall=clock,
        )
        sleep = clock.sleep if isinstance(clock, Clock) else time.sleep
        self.gateway = PostHogApi(
            conf.Settings(**{**connection, "max_retries": 0, **settings}),
            connections=MAX_CALLS,
            clock=clock,
            sleep=sleep,
        )
        self.remote = Remote(
            self.gateway, self.breaker, self.refresh, slow_seconds=slow_seconds, clock=clock
        )

    def refresh(self) -> None:
        self.refreshed += 1

    def ask(self, seconds: float = 5.0, person: str = "u1") -> Evaluation | None:
        """Evaluate with so many seconds left."""
        return self.remote.evaluate(Identity(person), {}, Runtime.SERVER, self.clock() + seconds)


def test_answer_comes_back(posthog: PostHogServer) -> None:
    """What PostHog decided is returned, and the circuit stays closed."""
    posthog.flags = {"beta": True}
    line = Line(posthog)

    evaluation = line.ask()

    assert evaluation is not None
    assert evaluation.decisions["beta"].value is True
    assert line.breaker.state is State.CLOSED


def test_without_leave_no_call(posthog: PostHogServer) -> None:
    """While the circuit is open nothing leaves."""
    posthog.fault = Status(500)
    line = Line(posthog)
    assert line.ask() is None
    posthog.heal()

    assert line.ask() is None
    assert line.breaker.state is State.OPEN
    assert len(posthog.flag_calls) == 1


@pytest.mark.parametrize(
    "fault", [Status(500), Status(401), Quota(), Html(), Reset(), Refuse()], ids=str
)
def test_failure_is_reported_as_such(posthog: PostHogServer, fault: Any) -> None:
    """A failed call is no evaluation, and it counts."""
    posthog.fault = fault
    line = Line(posthog)

    assert line.ask() is None
    assert line.breaker.state is State.OPEN


def test_callers_fault_breaks_a_row_of_failures(posthog: PostHogServer) -> None:
    """A question that PostHog refused shows that PostHog is there."""
    line = Line(posthog, failure_threshold=2)
    for fault in (Status(500), Status(400), Status(500), Status(413), Status(500)):
        posthog.fault = fault
        assert line.ask() is None

    assert line.breaker.state is State.CLOSED
    assert len(posthog.flag_calls) == 5


def test_call_is_abandoned_at_its_deadline(posthog: PostHogServer) -> None:
    """A reply that trickles is left to itself; the call counts as slow, with one call enough."""
    posthog.fault = Trickle(interval=0.02)
    line = Line(posthog, failure_threshold=100, slow_seconds=0.2)

    assert line.ask(0.25) is None
    assert line.breaker.state is State.OPEN
    assert posthog.in_flight == 1


def test_short_wait_is_a_failure_and_not_slow(
    posthog: PostHogServer, caplog: pytest.LogCaptureFixture
) -> None:
    """What got less than the trip threshold, as after a slow shared cache, is one failure."""
    posthog.fault = Hang()
    line = Line(posthog, failure_threshold=2, slow_seconds=0.15)

    states = []
    for _ in range(2):
        assert line.ask(0.05) is None
        states.append(line.breaker.state)

    assert states == [State.CLOSED, State.OPEN]
    assert "2 failures" in caplog.text


def test_too_little_time_is_no_failure(posthog: PostHogServer) -> None:
    """Who has waited long for a thread of this process does not ask, and blames nobody."""
    line = Line(posthog, failure_threshold=1, slow_seconds=4)

    assert line.ask(0.99) is None
    assert posthog.flag_calls == []
    assert line.breaker.state is State.CLOSED
    assert line.ask(2.0) is not None


class Late(Status):
    """Answers with an error after a time that passes on the test's clock."""

    clock: Clock
    seconds: float

    def reply(self, exchange: Exchange) -> Reply:
        self.clock.now += self.seconds
        return super().reply(exchange)


def late(code: int, clock: Clock, seconds: float) -> Late:
    fault = Late(code)
    object.__setattr__(fault, "clock", clock)
    object.__setattr__(fault, "seconds", seconds)
    return fault


def test_slow_failure_is_slow(posthog: PostHogServer) -> None:
    """A call that took the trip threshold opens the circuit, however it ended."""
    clock = Clock()
    line = Line(posthog, clock, failure_threshold=100, slow_seconds=5.0)
    posthog.fault = late(504, clock, seconds=5.5)

    assert line.ask(6.0) is None
    assert line.breaker.state is State.OPEN


@pytest.mark.parametrize("code", [200, 504])
def test_pause_of_the_process_is_no_slowness(posthog: PostHogServer, code: int) -> None:
    """A call that ends long after its deadline measured a suspended process, and does not vote."""
    clock = Clock()
    line = Line(posthog, clock, failure_threshold=1, slow_seconds=5.0)
    posthog.fault = late(code, clock, seconds=3600)

    line.ask(6.0)
    assert line.breaker.state is State.CLOSED


def test_state_is_read_before_it_is_written(posthog: PostHogServer) -> None:
    """Before a failure or a probe's outcome changes the state, the shared one is read."""
    clock = Clock()
    line = Line(posthog, clock, failure_threshold=1, max_retries=0)
    posthog.fault = Status(500)
    assert line.ask() is None
    assert line.refreshed == 1
    assert line.breaker.state is State.OPEN

    posthog.heal()
    clock.now += 3600
    assert line.ask()
    assert line.refreshed == 2
    assert line.ask()
    assert line.refreshed == 2


def test_no_time_left_is_nobodys_failure(posthog: PostHogServer) -> None:
    """A call that comes after its deadline is not made, and is no vote against PostHog."""
    line = Line(posthog, Clock(), failure_threshold=1)

    assert line.ask(0.0) is None
    assert line.ask(-1.0) is None
    assert line.breaker.state is State.CLOSED
    assert posthog.flag_calls == []


def test_no_time_left_costs_no_probe(posthog: PostHogServer) -> None:
    """The one probe of a cooldown is left to a caller that has the time for it."""
    clock = Clock()
    line = Line(posthog, clock)
    posthog.fault = Status(500)
    line.ask()
    posthog.heal()
    clock.now += 61

    assert line.ask(0.0) is None
    assert line.ask() is not None
    assert line.breaker.state is State.CLOSED


def call_threads() -> set[threading.Thread]:
    """Return the worker threads of all remotes in this process."""
    return {one for one in threading.enumerate() if one.name.startswith("olposthog-call")}


def test_abandoned_calls_are_bounded(posthog: PostHogServer) -> None:
    """However many calls are given up, at most `MAX_CALLS` threads and connections are in use."""
    posthog.fault = Hang()
    line = Line(posthog, failure_threshold=10_000, slow_seconds=1)
    before = call_threads()

    with posthog.gate(), ThreadPoolExecutor(3 * MAX_CALLS) as pool:
        asked = [pool.submit(line.ask, 0.3, f"u{number}") for number in range(3 * MAX_CALLS)]
        posthog.wait_for_flag_calls(MAX_CALLS)
        in_use = posthog.connections

    assert [one.result() for one in asked] == [None] * (3 * MAX_CALLS)
    assert in_use == MAX_CALLS
    assert len(call_threads() - before) == MAX_CALLS
    assert all(thread.daemon for thread in call_threads())
    line.remote.close()


@pytest.mark.parametrize("fault", [Trickle(interval=0.01), SlowContinue()], ids=str)
def test_abandoned_calls_end(posthog: PostHogServer, fault: Fault) -> None:
    """Calls given up amid trickled headers end: all workers and connections are free again."""
    posthog.flags = {"beta": True}
    line = Line(posthog, failure_threshold=10_000, slow_seconds=1)
    before = call_threads()
    posthog.fault = fault
    with ThreadPoolExecutor(MAX_CALLS) as pool:
        list(pool.map(lambda number: line.ask(0.3, f"u{number}"), range(MAX_CALLS)))

    posthog.wait_until(lambda: not posthog.connections)
    posthog.heal()
    with ThreadPoolExecutor(MAX_CALLS) as pool, posthog.gate():
        asked = [pool.submit(line.ask, PATIENCE, f"u{number}") for number in range(MAX_CALLS)]
        posthog.wait_until(lambda: posthog.in_flight == MAX_CALLS)

    assert all(one.result() for one in asked)
    assert len(call_threads() - before) == MAX_CALLS
    line.remote.close()
    for thread in call_threads() - before:
        thread.join(PATIENCE)
    assert call_threads() <= before


def test_name_lookups_that_hang_are_bounded(
    posthog: PostHogServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Callers do not wait for the resolver, at most `MAX_CALLS` threads do; a probe recovers."""
    may_answer, look_up = threading.Event(), socket.getaddrinfo

    def hang(*args: Any, **options: Any) -> Any:
        may_answer.wait(PATIENCE)
        return look_up(*args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    clock = Clock()
    line = Line(posthog, clock, slow_seconds=1)
    before = call_threads()
    with ThreadPoolExecutor(2 * MAX_CALLS) as pool:
        start = threading.Barrier(2 * MAX_CALLS)

        def ask(number: int) -> Evaluation | None:
            start.wait(PATIENCE)
            return line.ask(0.3, f"u{number}")

        assert list(pool.map(ask, range(2 * MAX_CALLS))) == [None] * (2 * MAX_CALLS)
    assert not may_answer.is_set()
    assert len(call_threads() - before) <= MAX_CALLS
    assert line.breaker.state is State.OPEN

    may_answer.set()
    clock.now += 61
    assert line.ask(PATIENCE) is not None
    assert len(posthog.flag_calls) == 1  # the abandoned calls send nothing
    line.remote.close()


def test_a_probe_is_one_request(posthog: PostHogServer) -> None:
    """What a closed circuit would try again is not tried again by a probe."""
    clock = Clock()
    line = Line(posthog, clock, max_retries=3)
    posthog.fault = Status(502)
    assert line.ask() is None
    assert line.breaker.state is State.OPEN
    calls = len(posthog.flag_calls)

    clock.now += 61
    assert line.ask() is None

    assert len(posthog.flag_calls) == calls + 1


@pytest.mark.parametrize("fault", [None, HangUp()], ids=str)
def test_a_probe_has_a_new_connection(
    posthog: PostHogServer, monkeypatch: pytest.MonkeyPatch, fault: Fault | None
) -> None:
    """A stale pooled connection neither fails the probe nor has it sent twice."""
    monkeypatch.setattr(api, "MAX_IDLE_SECONDS", math.inf)  # so that the old one could be used
    clock = Clock()
    line = Line(posthog, clock)
    posthog.fault = Status(500)
    line.ask()
    assert line.breaker.state is State.OPEN
    posthog.clear()
    posthog.fault = fault
    clock.now += 61

    evaluation = line.ask()

    assert (evaluation is None) is (fault is not None)
    assert (len(posthog.flag_calls), posthog.connections_accepted) == (1, 1)


@needs_linux
def test_connections_dropped_together_are_no_outage(posthog: PostHogServer) -> None:
    """Twelve pooled connections that a NAT dropped at once fail no call and open no circuit."""
    line = Line(posthog, request_timeout_ms=1500, failure_threshold=1)

    def ask_twelve_at_once() -> list[Evaluation | None]:
        posthog.clear()
        with ThreadPoolExecutor(12) as pool, posthog.gate():
            asked = [pool.submit(line.ask, 5.0, f"u{number}") for number in range(12)]
            posthog.wait_for_flag_calls(12)
        return [one.result() for one in asked]

    posthog.fault = DropPackets(times=12)
    assert all(ask_twelve_at_once())
    assert posthog.connections_accepted == 12
    failed = OUTCOMES.read()["failed"]

    assert all(ask_twelve_at_once())

    assert (len(posthog.flag_calls), posthog.connections_accepted) == (12, 12)
    assert line.breaker.state is State.CLOSED
    assert OUTCOMES.read()["failed"] == failed


def test_retries_ask_the_breaker(posthog: PostHogServer) -> None:
    """Before a retry the circuit is looked up; if it is open by then, there is none."""
    clock = Clock()
    line = Line(posthog, clock, max_retries=3)
    posthog.fault = Status(502)
    other = line.breaker.permit()
    assert other is not None

    def open_by_another() -> None:
        line.breaker.failed(other, "another call's")

    line.refresh = open_by_another  # type: ignore[method-assign]  # before the first retry
    line.remote._refresh = open_by_another

    assert line.ask() is None
    assert len(posthog.flag_calls) == 1


def test_retries_go_on_while_the_circuit_is_closed(posthog: PostHogServer) -> None:
    """A passing failure is no failure: the retry answers, and nothing counts."""
    line = Line(posthog, Clock(), max_retries=3)
    posthog.fault = Status(502, times=2)

    assert line.ask() is not None
    assert line.refreshed == 2
    assert line.breaker.state is State.CLOSED
    assert len(posthog.flag_calls) == 3


def test_complaints_are_rare(posthog: PostHogServer, caplog: pytest.LogCaptureFixture) -> None:
    """A process says at most once a minute that PostHog gave no flags, and why."""
    clock = Clock()
    line = Line(posthog, clock, failure_threshold=10_000)
    posthog.fault = Status(500)

    for _ in range(120):
        line.ask()
        clock.now += 1

    assert (
        caplog.text.count("PostHog gave no flags (HTTP 500); cached and fallback values answer.")
        == 2
    )


def test_debug_log_escapes_replies(
    posthog: PostHogServer, caplog: pytest.LogCaptureFixture
) -> None:
    """What PostHog sent in place of a reply is escaped and cut in the log, at DEBUG, too."""
    posthog.fault = Raw(b"\x1b[31m red\x07" * 5000)

    with caplog.at_level(logging.DEBUG, "olposthog"):
        assert Line(posthog).ask() is None

    lines = [one for one in caplog.records if one.name.startswith("olposthog")]
    assert "A call to PostHog failed (connection failed)" in caplog.text
    assert all(one.getMessage().isprintable() for one in lines)
    assert all(len(one.getMessage()) < 500 and not one.exc_info for one in lines)


def test_closed_remote_asks_nobody(posthog: PostHogServer) -> None:
    """After `close()` there are no calls, no error either, and no failure of PostHog's."""
    line = Line(posthog)
    line.remote.close()

    assert line.ask() is None
    assert posthog.flag_calls == []
    assert line.breaker.state is State.CLOSED
