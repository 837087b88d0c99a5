"""The circuit breaker: each transition by example, then a fleet of processes at random."""

import json
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)

from olposthog._shared.breaker import Breaker, Permit, Record, State

NOON = 1_750_000_000.0
COOLDOWN = 60.0
TRIP = 6.0
THRESHOLD = 3
LOGGER = "olposthog._shared.breaker"


class Time:
    """The time that passes for everyone."""

    def __init__(self) -> None:
        self.now = 0.0


class MemoryLedger:
    """What the fleet's shared cache holds: a state, and which names were claimed."""

    def __init__(self) -> None:
        self.state: str | None = None
        self.claimed: set[str] = set()

    def lose_all(self) -> None:
        self.state = None
        self.claimed.clear()


@dataclass
class Line:
    """One process's connection to the ledger, which can be cut. It keeps what was announced."""

    ledger: MemoryLedger
    cut: bool = False
    mute: bool = False
    """Whether what is written vanishes, while reading goes on."""
    is_awaited: bool = False
    """Whether the first look may still succeed."""
    announced: list[str] = field(default_factory=list)

    def claim(self, name: str, lifetime_seconds: float) -> bool | None:
        if self.cut or self.mute:
            return None
        first = name not in self.ledger.claimed
        self.ledger.claimed.add(name)
        return first

    def restore(self, state: str, *, over: str | None) -> None:
        if not (self.cut or self.mute) and self.ledger.state == over:
            self.ledger.state = state

    def announce(self, state: str, name: str, news: Callable[[], None]) -> None:
        self.announced.append(state)
        if self.cut or self.mute:
            news()
            return
        self.ledger.state = state
        if self.claim(name, 3600):
            news()


class Process:
    """One process of the fleet: its breaker, its clocks, its line to the ledger."""

    def __init__(
        self,
        time: Time,
        ledger: MemoryLedger,
        *,
        skew: float = 0.0,
        cooldown: float = COOLDOWN,
        trip: float = TRIP,
    ) -> None:
        self.line = Line(ledger)
        self.skew = skew
        started = time.now
        self.breaker = Breaker(
            self.line,
            failure_threshold=THRESHOLD,
            cooldown_seconds=cooldown,
            trip_threshold_seconds=trip,
            clock=lambda: time.now - started,
            wall=lambda: NOON + time.now + skew,
        )

    @property
    def state(self) -> State:
        return self.breaker.state

    def mirror(self) -> None:
        """Look at the shared state, as before each call."""
        if not self.line.cut:
            self.breaker.mirror(self.line.ledger.state)

    def ask(self) -> Permit | None:
        """Ask for leave to call, as a flight does."""
        self.mirror()
        return self.breaker.permit()

    def permit(self) -> Permit:
        permit = self.ask()
        assert permit is not None
        return permit

    def fail(self, times: int = 1) -> None:
        for _ in range(times):
            self.breaker.failed(self.permit(), "HTTP 500")


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def ledger():
    return MemoryLedger()


@pytest.fixture
def start(time: Time, ledger: MemoryLedger):
    def start_one(**options: float) -> Process:
        return Process(time, ledger, **options)

    return start_one


@pytest.fixture
def process(start) -> Process:
    one: Process = start()
    return one


@pytest.fixture
def other(start) -> Process:
    one: Process = start()
    return one


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, LOGGER)

    def lines() -> list[tuple[str, str]]:
        return [
            (record.levelname, record.getMessage())
            for record in caplog.records
            if record.name == LOGGER
        ]

    return lines


def opened(cause: str) -> tuple[str, str]:
    consequence = "no calls for 60 s, cached and fallback values answer."
    return ("WARNING", f"PostHog's circuit is open ({cause}): {consequence}")


PROBING = ("INFO", "PostHog's circuit is half-open (the cooldown is over): one call probes it.")
CLOSED = ("WARNING", "PostHog's circuit is closed (PostHog answered the probe).")
BY_FAILURES = opened("3 failures: HTTP 500")


# A process that has just started


def test_first_look_comes_before_the_first_call(process, log):
    """Who does not know the shared state yet has no permit, while the look may still succeed."""
    process.line.is_awaited = True
    assert process.breaker.permit() is None

    process.mirror()
    assert process.breaker.permit()
    assert log() == []


def test_late_first_look_finds_the_circuit_open(process, start):
    """A process that starts while the circuit is open never calls, however late its look is."""
    process.fail(THRESHOLD)
    newcomer = start()
    newcomer.line.is_awaited = True
    assert newcomer.breaker.permit() is None

    newcomer.mirror()
    newcomer.line.is_awaited = False
    assert newcomer.breaker.permit() is None


def test_process_whose_ledger_does_not_answer_calls(process):
    """Where the first look failed, a process protects itself alone."""
    process.line.is_awaited = True
    assert process.breaker.permit() is None

    process.line.is_awaited = False
    assert process.breaker.permit()


def test_one_look_is_enough(process):
    """Who has looked once keeps to what it saw while later looks fail."""
    process.mirror()
    process.line.is_awaited = True

    assert process.breaker.permit()


# Closed


def test_a_closed_circuit_lets_every_call_through(process, log):
    """Closed is the beginning: everybody may call, and nothing is said."""
    permits = [process.ask() for _ in range(100)]

    assert all(permit and not permit.probe for permit in permits)
    assert process.state is State.CLOSED
    assert log() == []


def test_failures_below_the_threshold_do_not_open(process, log):
    """One failure fewer than the threshold changes nothing."""
    process.fail(THRESHOLD - 1)

    assert process.state is State.CLOSED
    assert process.ask()
    assert log() == []


def test_failures_in_a_row_open(process, log):
    """As many failures as the threshold open the circuit, and the log says so once."""
    process.fail(THRESHOLD)

    assert process.state is State.OPEN
    assert process.ask() is None
    assert log() == [BY_FAILURES]


def test_a_success_ends_the_row(process, log):
    """After a success, failures are counted from the beginning."""
    for _ in range(5):
        process.fail(THRESHOLD - 1)
        process.breaker.succeeded(process.permit())

    assert process.state is State.CLOSED
    assert log() == []


def test_failures_of_other_processes_are_not_added(process, other):
    """The row is one process's own."""
    process.fail(THRESHOLD - 1)
    other.fail(THRESHOLD - 1)

    assert process.state is State.CLOSED
    assert other.state is State.CLOSED


def test_one_slow_call_opens(process, log):
    """A call as slow as the trip threshold opens the circuit at once."""
    process.breaker.was_slow(process.permit(), 6.1)

    assert process.state is State.OPEN
    assert log() == [opened("slow: 6.1 s")]


# Open


def test_an_opening_holds_for_all(process, other, log):
    """Who opens the circuit opens it for every process that looks, and one of them says it."""
    process.fail(THRESHOLD)

    assert other.ask() is None
    assert other.state is State.OPEN
    assert log() == [BY_FAILURES]


def test_an_opening_holds_for_those_who_come_later(process, start, time):
    """A process that starts while the circuit is open knows it with its first look."""
    process.fail(THRESHOLD)
    time.now += COOLDOWN / 2

    assert start().ask() is None


def test_during_the_cooldown_nobody_calls(process, other, time, log):
    """Until the cooldown is over there is no permit and no probe."""
    process.fail(THRESHOLD)

    for _ in range(59):
        time.now += 1
        assert process.ask() is None
        assert other.ask() is None
    assert process.state is State.OPEN
    assert log() == [BY_FAILURES]


def test_openings_at_once_are_one(process, other, log):
    """Two processes that open the circuit at the same moment agree, and one line says it."""
    first = [process.permit() for _ in range(THRESHOLD)]
    second = [other.permit() for _ in range(THRESHOLD)]
    for one, two in zip(first, second, strict=True):
        process.breaker.failed(one, "HTTP 500")
        other.breaker.failed(two, "HTTP 500")

    assert {process.state, other.state} == {State.OPEN}
    assert process.line.announced[0] == other.line.announced[0]
    assert log() == [BY_FAILURES]


def test_late_outcomes_change_nothing(process, time, log):
    """Calls that began before an opening and end after it neither close nor prolong it."""
    late = [process.permit() for _ in range(2 * THRESHOLD)]
    slow, good = process.permit(), process.permit()
    process.fail(THRESHOLD)
    before = process.line.ledger.state

    time.now += TRIP
    process.breaker.was_slow(slow, 6.1)
    process.breaker.succeeded(good)
    for permit in late:
        process.breaker.failed(permit, "HTTP 500")

    assert process.state is State.OPEN
    assert process.line.ledger.state == before
    assert log() == [BY_FAILURES]


def test_outcomes_from_before_an_opening_do_not_count_after_a_closing(start, time, log):
    """Calls that outlast a whole outage, which short cooldowns allow, say nothing about now."""
    process: Process = start(cooldown=2.0)
    process.fail(THRESHOLD - 1)
    slow, good, *bad = [process.permit() for _ in range(2 + THRESHOLD)]
    process.fail()
    time.now += 2
    process.breaker.succeeded(process.permit())
    assert process.ask()

    time.now += 3
    for permit in bad:
        process.breaker.failed(permit, "HTTP 500")
    process.breaker.was_slow(slow, 6.1)
    assert process.ask()

    process.fail(THRESHOLD - 1)
    process.breaker.succeeded(good)
    process.fail()
    assert process.state is State.OPEN


def test_outcomes_from_before_an_outage_that_was_missed_do_not_count(process, other, start, time):
    """A process that was suspended through an outage does not open the circuit after it."""
    slow, *bad = [process.permit() for _ in range(1 + THRESHOLD)]
    other.mirror()
    other.fail(THRESHOLD)
    time.now += COOLDOWN
    other.breaker.succeeded(other.permit())

    process.mirror()
    process.breaker.was_slow(slow, 3600.0)
    for permit in bad:
        process.breaker.failed(permit, "timeout")
    assert process.state is State.CLOSED
    assert other.ask()


def test_calls_under_way_at_an_opening_are_not_retried(process, other):
    """A permit from before an opening no longer allows a retry, here or elsewhere."""
    mine, others = process.permit(), other.permit()
    assert process.breaker.allows(mine)

    process.fail(THRESHOLD)

    other.mirror()
    assert not process.breaker.allows(mine)
    assert not other.breaker.allows(others)


# Half-open


def test_after_the_cooldown_one_call_probes(process, other, start, time, log):
    """When the cooldown is over exactly one call in the fleet is let through."""
    process.fail(THRESHOLD)
    time.now += COOLDOWN
    fleet = [process, other, *[start() for _ in range(10)]]

    assert process.state is State.HALF_OPEN
    permits = [one.ask() for one in fleet for _ in range(3)]

    (probe,) = [permit for permit in permits if permit]
    assert probe.probe
    assert log() == [BY_FAILURES, PROBING]


def test_a_probes_success_closes_for_all(process, other, time, log):
    """When the probe succeeds, everybody may call again."""
    process.fail(THRESHOLD)
    time.now += COOLDOWN
    probe = other.permit()
    other.breaker.succeeded(probe)

    assert other.state is State.CLOSED
    assert process.ask()
    assert process.state is State.CLOSED
    assert log() == [BY_FAILURES, PROBING, CLOSED]


def test_the_last_closing_has_one_name_for_all(process, other, start, time):
    """Each closing has a name, which all processes agree on, through the next opening too."""
    other.mirror()
    assert {process.breaker.last_closing, other.breaker.last_closing} == {""}
    names = [""]
    for _ in range(2):
        process.fail(THRESHOLD)
        assert process.breaker.last_closing == names[-1]
        time.now += COOLDOWN
        process.breaker.succeeded(process.permit())
        newcomer = start()
        for one in (other, newcomer):
            one.mirror()
        known = {one.breaker.last_closing for one in (process, other, newcomer)}
        assert len(known) == 1
        names += known

    assert len(set(names)) == 3


def test_a_probes_failure_opens_for_all(process, other, time, log):
    """When the probe fails, one failure is enough, and a new cooldown begins."""
    process.fail(THRESHOLD)
    time.now += COOLDOWN
    other.breaker.failed(other.permit(), "timeout")

    assert other.state is State.OPEN
    assert process.ask() is None
    time.now += COOLDOWN - 1
    assert process.ask() is None
    assert other.ask() is None
    assert log() == [BY_FAILURES, PROBING, opened("the probe failed: timeout")]

    time.now += 1
    assert process.permit().probe


def test_a_slow_probe_opens(process, time, log):
    """A probe as slow as the trip threshold opens the circuit again."""
    process.fail(THRESHOLD)
    time.now += COOLDOWN
    process.breaker.was_slow(process.permit(), 6.1)

    assert process.state is State.OPEN
    assert log()[-1] == opened("slow: 6.1 s")


def test_after_closing_failures_are_counted_anew(process, time):
    """What was counted before an opening does not count after the closing."""
    process.fail(THRESHOLD)
    time.now += COOLDOWN
    process.breaker.succeeded(process.permit())

    process.fail(THRESHOLD - 1)
    assert process.ask()
    process.fail()
    assert process.state is State.OPEN


LENGTHS = pytest.mark.parametrize(("cooldown", "trip"), [(60.0, 6.0), (2.0, 6.0), (6.0, 6.0)])


@LENGTHS
def test_a_probe_that_dies_costs_one_window(start, time, cooldown, trip):
    """When the probe's process dies, the next probe begins in the very next window."""
    fleet = [start(cooldown=cooldown, trip=trip) for _ in range(2)]
    fleet[0].fail(THRESHOLD)
    time.now += cooldown
    assert fleet[0].permit().probe  # and nothing is heard of it

    window = max(cooldown, trip) + trip
    time.now += window - 0.01
    assert [one.ask() for one in fleet] == [None, None]
    time.now += 0.01
    assert [one.permit().probe for one in fleet[1:]] == [True]


@LENGTHS
@pytest.mark.parametrize("windows", [0, 1, 1000])
def test_probes_never_overlap(start, time, cooldown, trip, windows):
    """A probe that begins late in a window, after quiet time too, ends before the next one begins.

    The next one is as early as it may be: nothing is lost after the last possible end.
    """
    fleet = [start(cooldown=cooldown, trip=trip) for _ in range(2)]
    fleet[0].fail(THRESHOLD)
    fleet[1].mirror()
    begins_within = max(cooldown, trip)
    time.now += cooldown + windows * (begins_within + trip) + begins_within - 0.25
    assert fleet[0].permit().probe
    latest_end = time.now + trip

    while time.now < latest_end:
        assert [one.ask() for one in fleet] == [None, None]
        assert {one.state for one in fleet} == {State.HALF_OPEN}
        time.now += 0.25
    time.now += 0.25
    assert fleet[1].permit().probe


@LENGTHS
def test_no_probe_begins_that_could_outlast_its_window(start, time, cooldown, trip):
    """Who asks in the last part of a window, as long as the trip threshold, waits for the next."""
    process: Process = start(cooldown=cooldown, trip=trip)
    process.fail(THRESHOLD)
    time.now += cooldown + max(cooldown, trip)

    assert process.ask() is None
    time.now += trip - 0.25
    assert process.ask() is None
    time.now += 0.25
    assert process.permit().probe


def test_a_probe_matters_until_the_state_changes(process, other, time):
    """A probe's permit holds until somebody changes the state."""
    process.fail(THRESHOLD)
    time.now += COOLDOWN
    probe = process.permit()
    assert process.breaker.allows(probe)

    process.breaker.failed(probe, "timeout")

    assert not process.breaker.allows(probe)


def test_each_change_is_said_once(process, other, start, time, log):
    """Through two outages, each change costs one line, however many processes there are."""
    fleet = [process, other, *[start() for _ in range(10)]]
    for _ in range(2):
        process.fail(THRESHOLD)
        for one in fleet * 3:
            assert one.ask() is None
        time.now += COOLDOWN
        other.breaker.succeeded(other.permit())
        for one in fleet * 3:
            assert one.ask()

    assert log() == [BY_FAILURES, PROBING, CLOSED] * 2


# Clocks of other machines


@pytest.mark.parametrize("skew", [-120.0, -30.0, 0.0, 30.0, 120.0])
def test_skewed_clocks_do_not_shorten_the_cooldown(process, start, time, skew):
    """A process that looks every second keeps the cooldown, whatever its wall clock says."""
    skewed = start(skew=skew)
    for one in [process, skewed, process, skewed]:
        one.mirror()
    process.fail(THRESHOLD)

    for _ in range(59):
        time.now += 1
        assert skewed.ask() is None
        process.mirror()
    time.now += 2
    assert skewed.permit().probe


@pytest.mark.parametrize("skew", [-120.0, 120.0])
def test_a_skewed_opener_is_understood(process, start, time, skew):
    """An opening that is dated wrongly lasts for one cooldown all the same."""
    skewed = start(skew=skew)
    for one in [process, skewed, process, skewed]:
        one.mirror()
    skewed.fail(THRESHOLD)

    for _ in range(59):
        time.now += 1
        assert process.ask() is None
    time.now += 2
    assert process.permit().probe


@pytest.mark.parametrize("skew", [-120.0, 120.0])
def test_a_newcomers_clock_cannot_hold_the_circuit_open(process, start, time, skew):
    """A process that starts during an outage probes after one cooldown of its own at the latest."""
    process.fail(THRESHOLD)
    time.now += 1
    newcomer = start(skew=skew)
    newcomer.mirror()

    time.now += COOLDOWN
    assert newcomer.permit().probe


@pytest.mark.parametrize("skew", [302.0, 3600.0, 86_400.0])
def test_workers_that_live_shorter_than_the_cooldown_probe(start, time, ledger, skew):
    """An opening by a clock that is ahead counts as now for its first reader and all later ones."""
    start(skew=skew).fail(THRESHOLD)
    permits: dict[float, Permit | None] = {}
    for _ in range(70):
        time.now += 1
        permits[time.now] = start().ask()

    (probed_at,) = [at for at, permit in permits.items() if permit]
    assert COOLDOWN <= probed_at <= COOLDOWN + 1


def test_opening_of_a_clock_that_is_a_little_ahead_is_not_replaced(start, ledger):
    """A small difference between clocks costs no write, and makes no probe early."""
    start(skew=120.0).fail(THRESHOLD)
    state = ledger.state

    assert start().ask() is None
    assert ledger.state == state


def test_opening_that_was_replaced_meanwhile_is_not_dated(start, ledger):
    """Only the opening that was read gets another time, not a closing that came after it."""
    start(skew=3600.0).fail(THRESHOLD)
    read, reader = ledger.state, start()
    ledger.state = closing = Record("closing").to_text()

    reader.breaker.mirror(read)

    assert ledger.state == closing


def test_observer_counts_a_time_ahead_as_now_and_writes_nothing(start, ledger, time):
    """Who only looks has the opening's time no later than its own."""
    start(skew=3600.0).fail(THRESHOLD)
    state, observer = ledger.state, start()

    observer.breaker.observe(state)

    assert observer.breaker.changed_at == NOON + time.now
    assert ledger.state == state


# A ledger in trouble


def test_a_lost_state_is_written_again(process, other, ledger, start):
    """A state that got lost was not closed: who knows it writes it again."""
    process.fail(THRESHOLD)
    ledger.lose_all()

    assert process.ask() is None
    assert other.ask() is None
    assert start().ask() is None


def test_a_newcomer_does_not_close_the_circuit(process, start, ledger, time):
    """When the state is lost, a process that knows nothing is no reason to close."""
    process.fail(THRESHOLD)
    ledger.lose_all()
    time.now += 1
    newcomer = start()
    newcomer.mirror()

    assert process.ask() is None
    assert newcomer.ask() is None


def test_an_opening_that_is_not_written_yet_holds(process, time):
    """A process that opened the circuit does not take the state from before for a closing."""
    process.mirror()
    process.line.mute = True
    process.fail(THRESHOLD)

    assert process.ask() is None
    time.now += COOLDOWN - 1
    assert process.ask() is None


def test_an_opening_is_written_when_that_is_possible_again(process, other):
    """An opening that could not be written is, once it can, and then holds for all."""
    process.mirror()
    process.line.mute = True
    process.fail(THRESHOLD)
    process.line.mute = False

    assert process.ask() is None
    assert other.ask() is None


def test_an_unreachable_ledger_does_not_matter_to_a_healthy_circuit(process):
    """Without a ledger a closed circuit lets calls through."""
    process.line.cut = True

    assert all(process.ask() for _ in range(10))


def test_an_unreachable_ledger_still_protects_the_process(process, other, time, log):
    """A process on its own opens, waits, probes once a window and closes, for itself alone."""
    process.line.cut = True
    process.fail(THRESHOLD)

    assert process.ask() is None
    assert other.ask()
    time.now += COOLDOWN
    probe = process.permit()
    assert probe.probe
    assert process.ask() is None
    time.now += COOLDOWN + TRIP
    assert process.permit().probe
    process.breaker.succeeded(probe)
    assert process.state is State.CLOSED
    assert process.ask()
    assert log() == [BY_FAILURES, PROBING, PROBING, CLOSED]


def test_who_is_cut_off_learns_on_returning(process, other, time):
    """What happened meanwhile holds for a process from its first look on."""
    other.mirror()
    other.line.cut = True
    process.fail(THRESHOLD)
    assert other.ask()

    other.line.cut = False
    assert other.ask() is None


# What is shared


@pytest.mark.parametrize("opened_at", [None, 0.0, NOON, 0.1])
def test_a_record_survives_its_text(opened_at):
    """A state is read as it was written."""
    record = Record("token", opened_at)

    assert Record.from_text(record.to_text()) == record


@pytest.mark.parametrize("closed_at", [None, 0.0, NOON])
def test_a_closing_keeps_its_time(closed_at):
    """When the circuit closed is part of the record; an earlier version wrote none."""
    record = Record("token", closed_at=closed_at)
    stored = json.loads(record.to_text())

    assert Record.from_text(json.dumps(stored)) == record
    del stored["closed_at"]
    assert Record.from_text(json.dumps(stored)) == Record("token")


def test_the_time_of_the_last_change_is_known(start, time):
    """Every process can say since when the circuit is what it is, unless it never changed."""
    one, other = start(), start()
    assert one.breaker.changed_at is None

    time.now += 7
    one.fail(THRESHOLD)
    other.mirror()
    assert one.breaker.changed_at == other.breaker.changed_at == NOON + 7

    time.now += COOLDOWN
    one.breaker.succeeded(one.permit())
    other.mirror()
    assert one.breaker.changed_at == other.breaker.changed_at == NOON + 7 + COOLDOWN


@pytest.mark.parametrize(
    "garbage",
    [
        None,
        "",
        "open",
        "{",
        "[]",
        "{}",
        "null",
        "42",
        '"text"',
        '{"token": "a"}',
        '{"opened_at": 1}',
        '{"token": "a", "opened_at": "noon"}',
        '{"token": "a", "opened_at": []}',
        '{"token": "a", "opened_at": {}}',
        '{"token": "a", "opened_at": NaN}',
        '{"token": "a", "opened_at": Infinity}',
        '{"token": "a", "opened_at": -Infinity}',
        f'{{"token": "a", "opened_at": {10**400}}}',
        42,
        1.5,
        True,
        b"\xff",
        [],
        {},
        ("token", None),
    ],
    ids=lambda garbage: repr(garbage)[:40],
)
def test_garbage_is_no_record(garbage):
    """Whatever else may stand where the state should is no state."""
    assert Record.from_text(garbage) is None


@pytest.mark.parametrize("garbage", ["open", "{}", 42, b"\xff"], ids=repr)
def test_garbage_neither_opens_nor_closes(process, garbage):
    """A process that finds garbage keeps to what it knows."""
    process.breaker.mirror(garbage)
    assert process.breaker.permit()

    process.fail(THRESHOLD)
    process.breaker.mirror(garbage)
    assert process.breaker.permit() is None


def test_what_other_versions_add_is_ignored():
    """A record with more in it than this version knows is read all the same."""
    text = json.dumps({**json.loads(Record("token", NOON).to_text()), "why": "HTTP 500"})

    assert Record.from_text(text) == Record("token", NOON)


# Looking without taking part


def test_observer_sees_an_opening_and_writes_nothing(process, other, ledger):
    """Who only looks learns the fleet's state, and has nothing to add to it."""
    process.fail(THRESHOLD)
    state = ledger.state

    assert other.breaker.observe(state) is None
    assert other.state is State.OPEN
    assert other.breaker.changed_at == process.breaker.changed_at
    assert ledger.state == state


def test_observer_keeps_what_it_knows_to_itself(process, ledger):
    """Where the state got lost, who only looks says what it was, and leaves it lost."""
    process.fail(THRESHOLD)
    ledger.state = None

    known = process.breaker.observe(None)
    assert known is not None
    assert known.opened_at == process.breaker.changed_at
    assert ledger.state is None

    process.breaker.mirror(None)
    assert Record.from_text(ledger.state) == known


# A fleet at random


@dataclass
class Call:
    """A call to PostHog under way."""

    member: "Member"
    permit: Permit
    began: float
    openings: int
    """How often its process had seen the circuit open when the call began."""


@dataclass
class Probe:
    """A probe that was permitted, by its number since the end of the cooldown."""

    member: "Member"
    window: int
    alone: bool
    """Whether the process could not ask the others, or counts other windows than they do."""


@dataclass(eq=False)
class Member:
    """A process of the fleet, with what an observer knows of it."""

    process: Process
    record: Record
    found: str | None = None
    """What it found in the ledger before."""
    ended: str | None = None
    """What it put an end to itself."""
    failures: int = 0
    openings: int = 0
    looked: float = -math.inf
    """When it last found in the ledger what it knew already."""
    seen_after: float = -math.inf
    """When it had last looked before it learned what it knows now."""

    @property
    def cut(self) -> bool:
        return self.process.line.cut

    @property
    def is_open(self) -> bool:
        return self.record.opened_at is not None

    def knows_better_than(self, token: str) -> bool:
        """Whether a state in the ledger is older than what this process knows."""
        return token != self.record.token and token in (self.found, self.ended)

    def learn(self, record: Record) -> None:
        if record.token != self.record.token:
            has_missed_opening = not (self.is_open or record.presumed or record.opened_at)
            self.record = record
            self.failures = 0
            self.openings += self.is_open or has_missed_opening


class Fleet(RuleBasedStateMachine):
    """Processes that call, fail, die and lose the ledger's state, and what must hold of them.

    The rules know what an observer would: who was given a permit when, what was announced, what
    the ledger holds. As in the library, a process looks at the ledger before it asks, and no call
    lasts longer than the trip threshold.
    """

    cooldown = COOLDOWN
    trip = TRIP
    skews: tuple[float, ...] = (0.0, 0.0, 0.0)
    cuts = False

    def __init__(self) -> None:
        super().__init__()
        self.time = Time()
        self.ledger = MemoryLedger()
        self.begins_within = max(self.cooldown, self.trip)
        self.window = self.begins_within + self.trip
        self.beginnings: set[str] = set()  # the tokens of those that know nothing yet
        self.fleet = [self.start(skew) for skew in self.skews]
        self.calls: list[Call] = []
        self.opened: dict[str, list[float]] = {}  # by token, each time that somebody said so
        self.openers: dict[str, float] = {}  # by token, the skew of who dated it
        self.probes: dict[str, list[Probe]] = {}  # by token
        self.said: set[str] = set()
        self.has_lost_state = False
        self.lines: list[str] = []
        self.handler = logging.Handler(logging.WARNING)
        self.handler.emit = lambda record: self.lines.append(record.getMessage())  # type: ignore[method-assign]  # that is all it has to do
        logging.getLogger(LOGGER).addHandler(self.handler)

    def teardown(self) -> None:
        logging.getLogger(LOGGER).removeHandler(self.handler)

    def start(self, skew: float) -> Member:
        process = Process(self.time, self.ledger, skew=skew, cooldown=self.cooldown, trip=self.trip)
        first = process.breaker._record
        self.beginnings.add(first.token)
        return Member(process, first)

    def look(self, member: Member) -> None:
        """Let a process take over what the ledger holds."""
        if member.cut:
            return
        shared = Record.from_text(self.ledger.state)
        member.process.mirror()
        if shared is None:
            assert self.ledger.state == member.record.to_text()  # it was written again
            return
        newcomers = shared.opened_at is None and shared.token in self.beginnings
        if member.knows_better_than(shared.token) or (member.is_open and newcomers):
            # What the process knows is newer, and was not written or got lost.
            assert self.ledger.state == member.record.to_text()
            self.said.add(member.record.token)
            return
        if shared.token != member.record.token:
            member.seen_after = member.looked
        member.found = shared.token
        member.looked = self.time.now
        member.learn(shared)

    # What happens

    @rule(seconds=st.sampled_from([0.5, 1, 5, 6, 30, 59, 59.5, 60, 61, 120, 300]))
    def wait(self, seconds: float) -> None:
        """Time passes; calls that reach their deadline are given up on the way."""
        until = self.time.now + seconds
        while self.calls and self.calls[0].began + self.trip <= until:
            self.time.now = self.calls[0].began + self.trip
            self.finish(0, "slow")
        self.time.now = until

    @rule(number=st.integers(0, 2))
    def call(self, number: int) -> None:
        """A process asks for a permit, and uses it."""
        member = self.fleet[number]
        self.look(member)
        permit = member.process.breaker.permit()
        if not member.is_open:
            assert permit is not None
            assert not permit.probe
        elif permit is not None:
            assert permit.probe
            self.judge_probe(member)
        else:
            self.judge_refusal(member)
        if permit is not None:
            self.calls.append(Call(member, permit, self.time.now, member.openings))

    def leeway(self, member: Member) -> float:
        """How much too early a process may be: its clock is ahead, and it has not looked since."""
        token = member.record.token
        ahead = member.process.skew - self.openers[token]
        return max(0.0, min(ahead, self.opened[token][0] - member.seen_after))

    def windows(self, member: Member) -> float:
        """How many windows have passed since the cooldown's end; negative before it."""
        first = self.opened[member.record.token][0]
        return (self.time.now - first - self.cooldown) / self.window

    def judge_probe(self, member: Member) -> None:
        token = member.record.token
        passed = self.windows(member)
        assert passed + self.leeway(member) / self.window >= 0, "a probe during the cooldown"
        number = math.floor(passed)
        first, *others = self.opened[token]
        # After a loss, who saw a newcomer's state meanwhile thinks that the cooldown began then.
        is_misdated = member.seen_after > first
        if not (any(self.skews) or others or is_misdated):
            assert passed % 1 * self.window < self.begins_within, "a probe that may outlast"
        probes = self.probes.setdefault(token, [])
        if not (any(self.skews) or others or is_misdated):
            # Who can reach the ledger shares the window; who cannot has it to himself.
            rivals = [probe for probe in probes if probe.window == number]
            if member.cut:
                assert all(probe.member is not member for probe in rivals), "a second probe"
            else:
                assert all(probe.alone for probe in rivals), "a second probe in a window"
        probes.append(Probe(member, number, alone=member.cut or is_misdated))

    def judge_refusal(self, member: Member) -> None:
        """Someone has to probe: a refusal while a probe may begin means that somebody does."""
        passed = self.windows(member)
        if passed % 1 * self.window >= self.begins_within:
            return  # the last part of a window, in which none begins
        first, *others = self.opened[member.record.token]
        if any(self.skews) or others or passed < 0 or member.seen_after > first:
            return  # who saw another state meanwhile may think that the cooldown began then
        assert any(
            probe.window == math.floor(passed) for probe in self.probes.get(member.record.token, [])
        ), "nobody probes"

    @precondition(lambda self: self.calls)
    @rule(
        index=st.integers(0, 50),
        outcome=st.sampled_from(["success", "failure", "failure", "failure", "slow"]),
    )
    def finish(self, index: int, outcome: str) -> None:
        """A call ends."""
        call = self.calls.pop(index % len(self.calls))
        member, permit = call.member, call.permit
        breaker = member.process.breaker
        before, lines = len(member.process.line.announced), len(self.lines)
        shared = Record.from_text(self.ledger.state)
        if permit.probe:
            counts = member.record.token == permit.token
        else:
            counts = not member.is_open and member.openings == call.openings
        match outcome:
            case "success":
                breaker.succeeded(permit)
                changes = counts and permit.probe
                member.failures = 0 if counts else member.failures
            case "failure":
                breaker.failed(permit, "HTTP 500")
                member.failures += counts
                changes = counts and (permit.probe or member.failures >= THRESHOLD)
            case _:
                breaker.was_slow(permit, 6.1)
                changes = counts
        announced = member.process.line.announced[before:]
        assert len(announced) == changes, "an outcome that counts for nothing, or not at all"
        if changes:
            record = Record.from_text(announced[0])
            assert record is not None
            assert (record.opened_at is None) is (outcome == "success")
            self.judge_change(member, record, shared, self.lines[lines:])
        else:
            assert self.lines[lines:] == []

    def judge_change(
        self, member: Member, record: Record, shared: Record | None, lines: list[str]
    ) -> None:
        member.seen_after = self.time.now
        member.ended = member.record.token
        member.learn(record)
        if member.is_open:
            self.opened.setdefault(record.token, []).append(self.time.now)
            self.openers.setdefault(record.token, member.process.skew)
        fresh = member.cut or record.token not in self.said
        assert len(lines) == fresh, "a change that is announced twice, or never"
        if not member.cut:
            self.said.add(record.token)
            # After a loss, who was cut off writes an older state, and its change was said before.
            is_known = shared is None or shared.token == record.token or self.has_lost_state
            assert fresh or is_known, "a silent change"
        expected = State.OPEN if member.is_open else State.CLOSED
        assert member.process.state is expected
        for one in self.fleet:
            knows_more = one.knows_better_than(record.token)
            if not (one.cut or member.cut or knows_more):
                self.look(one)
                assert one.record.token == record.token
                assert (one.process.state is State.CLOSED) is (expected is State.CLOSED)

    @rule(number=st.integers(0, 2))
    def trip_over(self, number: int) -> None:
        """A process meets a slow PostHog."""
        before = len(self.calls)
        self.call(number)
        if len(self.calls) > before:
            self.finish(before, "slow")

    @rule(number=st.integers(0, 2), outcome=st.sampled_from(["success", "failure"]))
    def probe(self, number: int, outcome: str) -> None:
        """A process asks when the cooldown is just over."""
        self.wait(self.cooldown)
        before = len(self.calls)
        self.call(number)
        if len(self.calls) > before:
            self.finish(before, outcome)

    @rule(number=st.integers(0, 2))
    def look_around(self, number: int) -> None:
        """A process reads the ledger, as it does for each entry, and changes nothing."""
        self.look(self.fleet[number])

    @rule(number=st.integers(0, 2))
    def die(self, number: int) -> None:
        """A process dies with all that it does, and another one takes its place."""
        self.calls = [call for call in self.calls if call.member is not self.fleet[number]]
        self.fleet[number] = self.start(self.skews[number])

    @rule()
    def lose_state(self) -> None:
        """The ledger loses the state."""
        self.has_lost_state = True
        self.ledger.state = None

    @precondition(lambda self: self.cuts)
    @rule(number=st.integers(0, 2), cut=st.booleans())
    def cut_or_mend(self, number: int, cut: bool) -> None:
        """A process loses its line to the ledger, or gets it back."""
        self.fleet[number].process.line.cut = cut

    @invariant()
    def everybody_says_what_they_know(self) -> None:
        """A process is closed exactly when the last that it heard or did was a closing."""
        for member in self.fleet:
            assert (member.process.state is State.CLOSED) is not member.is_open


class SkewedFleet(Fleet):
    """Machines whose wall clocks are two minutes off."""

    skews = (0.0, 120.0, -120.0)


class CutFleet(Fleet):
    """Processes that cannot always reach the ledger."""

    cuts = True


class HastyFleet(Fleet):
    """A cooldown that is shorter than a call may take."""

    cooldown = 2.0


RANDOM = hypothesis_settings(max_examples=150, stateful_step_count=40, deadline=None)
for fleet in (Fleet, SkewedFleet, CutFleet, HastyFleet):
    fleet.TestCase.settings = RANDOM
TestFleet = Fleet.TestCase
TestSkewedFleet = SkewedFleet.TestCase
TestCutFleet = CutFleet.TestCase


def test_process_that_opens_and_closes_while_cut_off_knows_better() -> None:
    """What was shared before both changes is older than either, and is written over."""
    fleet = CutFleet()
    fleet.call(number=0)  # which writes the state
    fleet.call(number=0)  # which finds it
    fleet.cut_or_mend(cut=True, number=0)
    fleet.trip_over(number=0)
    fleet.probe(number=0, outcome="success")
    fleet.cut_or_mend(cut=False, number=0)

    fleet.call(number=0)  # which asserts it

    fleet.teardown()


TestHastyFleet = HastyFleet.TestCase
