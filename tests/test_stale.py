"""Stale on purpose: the two windows in which an answer outlives its freshness."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.core.cache import caches
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pytest_django import Settings

from olposthog import conf
from olposthog._core import engine
from olposthog._core.context import EvaluationContext
from olposthog._core.engine import MAX_REFRESHES, Engine
from olposthog._shared.breaker import State
from olposthog.features import clear_cache, evaluate, is_enabled
from olposthog.identity import Identity
from olposthog.snapshot import FlagSnapshot, Runtime, Source
from tests.posthog_faults import Hang, Refuse, Status
from tests.posthog_server import PATIENCE, PostHogServer, Variant
from tests.site.processes import until
from tests.test_exposures import told
from tests.test_polling import Clock, Moody

FRESH = 100.0
REVALIDATE = 50.0
IF_ERROR = 1000.0
TRIP = 6.0


@pytest.fixture
def site(enabled: PostHogServer, settings: Settings) -> Iterator[PostHogServer]:
    """Answers are fresh for FRESH seconds, and a process remembers none by itself."""
    settings.CACHES = {
        **settings.CACHES,
        "durable": {
            "BACKEND": "tests.test_polling.Moody",
            "LOCATION": "moody",
            "TIMEOUT": FRESH,
        },
    }
    Moody.refuses = Moody.drops = False
    caches["durable"].clear()
    settings.POSTHOG_LOCAL_CACHE_SECONDS = 0
    settings.FEATURES = {"beta": "fallback"}
    settings.POSTHOG_MAX_RETRIES = 0
    enabled.flags = {"beta": Variant("old", payload={"version": 1})}
    yield enabled
    Moody.refuses = Moody.drops = False
    caches["durable"].clear()


@pytest.fixture
def windows(site: PostHogServer, settings: Settings) -> PostHogServer:
    """Both windows are open; the one for errors is the longer one, as the docs recommend."""
    settings.POSTHOG_STALE_WHILE_REVALIDATE_SECONDS = REVALIDATE
    settings.POSTHOG_STALE_IF_ERROR_SECONDS = IF_ERROR
    return site


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def start(clock: Clock) -> Iterator[Callable[[], Engine]]:
    """Starts processes by the test's clock; the last one is this process."""
    started: list[Engine] = []

    def start_one() -> Engine:
        started.append(Engine(conf.current(), clock=clock, wall=clock))
        engine._current = started[-1]
        return started[-1]

    yield start_one
    for one in started:
        one.close()


def query(person: str) -> EvaluationContext:
    return EvaluationContext.of(Identity(person), Runtime.SERVER)


def ask(process: Engine, person: str = "u1") -> FlagSnapshot:
    """Ask one of several processes, as `evaluate` asks the current one."""
    wanted = query(person)
    return process.lookup(wanted, None) or process.start(wanted, None).result(PATIENCE)


def settle(*processes: Engine) -> None:
    """See off the refreshes and the writes."""
    for process in processes or (engine.current(),):
        until(lambda process=process: not process._refreshes._under_way)  # type: ignore[misc]  # bound per turn
        assert process.shared.settle(PATIENCE)


def known(process: Engine, person: str = "u1") -> FlagSnapshot:
    """Have a process ask PostHog, and the fleet know the answer."""
    snapshot = ask(process, person)
    assert snapshot.source is Source.POSTHOG
    settle(process)
    return snapshot


def change(posthog: PostHogServer) -> None:
    """Have another answer in PostHog, and count from now."""
    posthog.flags = {"beta": Variant("new", payload={"version": 2})}
    posthog.clear()


# ---- the entry and its freshness


def test_fresh_answers_are_as_before(
    windows: PostHogServer, start: Callable[[], Engine], clock: Clock
) -> None:
    """While an answer is fresh, PostHog is not asked, in the background either."""
    process = start()
    first = known(process)
    change(windows)
    clock.now += FRESH - 0.1

    snapshot = ask(process)
    settle(process)

    assert (snapshot.source, snapshot.flags) == (Source.POSTHOG, {"beta": "old"})
    assert snapshot.evaluated_at == first.evaluated_at
    assert windows.flag_calls == []


@pytest.mark.parametrize(
    ("if_error", "revalidate", "longer"), [(0, 0, 0), (1000, 50, 1000), (50, 1000, 1000), (7, 0, 7)]
)
def test_shared_entry_lives_for_the_longer_window(
    site: PostHogServer, settings: Settings, if_error: float, revalidate: float, longer: float
) -> None:
    """The shared cache keeps an entry for as long as anyone may want it."""
    settings.POSTHOG_STALE_IF_ERROR_SECONDS = if_error
    settings.POSTHOG_STALE_WHILE_REVALIDATE_SECONDS = revalidate
    lifetimes: list[float | None] = []
    real = Moody.set

    def note(self: Any, key: str, value: Any, timeout: float | None = None, **_: Any) -> None:
        if ":entry:" in key:
            lifetimes.append(timeout)
        real(self, key, value, timeout)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Moody, "set", note)
        evaluate("u1")
        settle()

    assert lifetimes == [FRESH + longer]


def test_entry_that_never_goes_stale_never_expires(site: PostHogServer, settings: Settings) -> None:
    """With TIMEOUT None an entry is fresh for ever, whatever the windows say."""
    alias = {**settings.CACHES["durable"], "TIMEOUT": None}
    settings.CACHES = {**settings.CACHES, "durable": alias}
    settings.POSTHOG_STALE_IF_ERROR_SECONDS = IF_ERROR
    evaluate("u1")
    settle()

    expiries: dict[str, Any] = caches["durable"]._expire_info  # type: ignore[attr-defined]  # LocMemCache's
    assert [at for key, at in expiries.items() if ":entry:" in key] == [None]


def test_without_windows_stale_means_asked_again(
    site: PostHogServer, start: Callable[[], Engine], clock: Clock
) -> None:
    """With both windows 0 the caller waits for PostHog, and an outage means FEATURES."""
    process = start()
    known(process)
    change(site)
    clock.now += FRESH

    assert ask(process).flags == {"beta": "new"}
    assert len(site.flag_calls) == 1
    settle(process)

    site.fault = Status(500)
    clock.now += FRESH
    snapshot = ask(process)
    assert (snapshot.source, snapshot.flags) == (Source.FALLBACK, {"beta": "fallback"})


def test_without_windows_what_is_fresh_is_not_called_stale(
    site: PostHogServer, start: Callable[[], Engine], clock: Clock
) -> None:
    """Who waited in vain for the shared cache gets what the process knows, fresh as it is."""
    process = start()
    known(process)
    clock.now += FRESH / 2

    assert process.give_up(query("u1")).source is Source.POSTHOG
    clock.now += FRESH / 2
    assert process.give_up(query("u1")).source is Source.FALLBACK


# ---- while revalidating


def test_known_value_at_once(
    windows: PostHogServer, start: Callable[[], Engine], clock: Clock
) -> None:
    """Inside the window callers have their answer while the refresh is still under way."""
    process = start()
    first = known(process)
    change(windows)
    clock.now += FRESH + REVALIDATE - 0.1

    with windows.gate():
        answers = [ask(process) for _ in range(10)]
        windows.wait_for_flag_calls(1)
        answers += [ask(process) for _ in range(10)]
        assert windows.in_flight == 1

    assert {answer.source for answer in answers} == {Source.POSTHOG}
    assert all(answer.flags == {"beta": "old"} for answer in answers)
    assert {answer.evaluated_at for answer in answers} == {first.evaluated_at}
    settle(process)
    assert len(windows.flag_calls) == 1


def test_refreshed_value_is_next(
    windows: PostHogServer, start: Callable[[], Engine], clock: Clock
) -> None:
    """When the refresh has landed, everyone has its answer, and it is fresh again."""
    process, other = start(), start()
    known(process)
    change(windows)
    clock.now += FRESH

    assert ask(process).flags == {"beta": "old"}
    settle(process)

    for one in (process, other):
        snapshot = ask(one)
        assert (snapshot.source, snapshot.flags) == (Source.POSTHOG, {"beta": "new"})
        assert snapshot.payloads == {"beta": {"version": 2}}
    clock.now += FRESH - 0.1
    ask(process)
    settle(process)
    assert len(windows.flag_calls) == 1
    clock.now += 0.1
    ask(other)
    settle(other)
    assert len(windows.flag_calls) == 2


def test_refreshed_value_replaces_what_the_process_remembers(
    windows: PostHogServer, settings: Settings, start: Callable[[], Engine], clock: Clock
) -> None:
    """A refresh is in effect at once, not when POSTHOG_LOCAL_CACHE_SECONDS are over."""
    settings.POSTHOG_LOCAL_CACHE_SECONDS = 30
    process = start()
    known(process)
    change(windows)
    clock.now += FRESH
    with windows.gate():
        assert ask(process).flags == {"beta": "old"}
        windows.wait_for_flag_calls(1)
    settle(process)

    assert ask(process).flags == {"beta": "new"}


def test_one_refresh_in_the_fleet(
    windows: PostHogServer, start: Callable[[], Engine], clock: Clock
) -> None:
    """Several processes that see the same overdue answer make one request."""
    fleet = [start() for _ in range(4)]
    known(fleet[0])
    change(windows)
    clock.now += FRESH + 1

    with windows.gate():
        for _ in range(3):
            assert {ask(one).flags["beta"] for one in fleet} == {"old"}
        windows.wait_for_flag_calls(1)
    settle(*fleet)

    assert len(windows.flag_calls) == 1
    assert {ask(one).flags["beta"] for one in fleet} == {"new"}


def test_one_refresh_per_person(
    windows: PostHogServer, start: Callable[[], Engine], clock: Clock
) -> None:
    """Each person's answer is refreshed for itself."""
    process = start()
    people = [f"u{number}" for number in range(8)]
    for person in people:
        known(process, person)
    change(windows)
    clock.now += FRESH

    for _ in range(3):
        for person in people:
            ask(process, person)
    settle(process)

    assert sorted(call["distinct_id"] for call in windows.flag_calls) == people


def test_failed_refresh_is_tried_again(
    windows: PostHogServer, settings: Settings, start: Callable[[], Engine], clock: Clock
) -> None:
    """A refresh that failed is repeated once in a trip threshold, not with each question."""
    settings.POSTHOG_CIRCUIT_BREAKER_FAILURE_THRESHOLD = 100
    process, other = start(), start()
    known(process)
    change(windows)
    windows.fault = Status(500)
    clock.now += FRESH
    for attempt in range(1, 6):
        for _ in range(5):
            assert {ask(process).flags["beta"], ask(other).flags["beta"]} == {"old"}
            settle(process, other)
        assert len(windows.flag_calls) == attempt
        clock.now += TRIP

    windows.heal()
    ask(other)
    settle(other)
    assert ask(process).flags == {"beta": "new"}


def test_refresher_that_dies_is_replaced(
    windows: PostHogServer, start: Callable[[], Engine], clock: Clock
) -> None:
    """A process that claimed the refresh and died costs one trip threshold."""
    process = start()
    snapshot = known(process)
    change(windows)
    clock.now += FRESH
    assert snapshot.evaluation is not None
    dead = start()
    assert dead._evaluations.claim_refresh(query("u1").to_text("tests"), snapshot.evaluation, 0)

    ask(process)
    settle(process)
    assert windows.flag_calls == []
    clock.now += TRIP
    ask(process)
    settle(process)
    assert len(windows.flag_calls) == 1


def test_hanging_posthog_and_many_people(
    windows: PostHogServer, settings: Settings, start: Callable[[], Engine], clock: Clock
) -> None:
    """However many answers are overdue, a hanging PostHog sees a few requests at once."""
    process = start()
    people = [f"u{number}" for number in range(40)]
    for person in people:
        known(process, person)
    change(windows)
    clock.now += FRESH

    with windows.gate():
        answers = [ask(process, person) for person in people]
        windows.wait_for_flag_calls(MAX_REFRESHES)
        answers += [ask(process, person) for person in people]
        assert len(windows.flag_calls) == windows.in_flight == MAX_REFRESHES
    settle(process)

    assert {answer.flags["beta"] for answer in answers} == {"old"}


def test_hang_opens_the_circuit(
    windows: PostHogServer, settings: Settings, start: Callable[[], Engine], clock: Clock
) -> None:
    """Refreshes are calls like others: one that hangs trips the breaker, and no caller waited."""
    settings.POSTHOG_CIRCUIT_BREAKER_TRIP_THRESHOLD_SECONDS = 0.3
    process = start()
    known(process)
    change(windows)
    windows.fault = Hang()
    clock.now += FRESH

    assert ask(process).source is Source.POSTHOG
    until(lambda: windows.flag_calls)
    clock.now += 0.3  # while it hangs
    until(lambda: process.breaker.state is State.OPEN)

    snapshot = ask(process)
    settle(process)
    assert (snapshot.source, snapshot.flags) == (Source.STALE, {"beta": "old"})
    assert len(windows.flag_calls) == 1


def test_open_circuit_inside_the_window(
    windows: PostHogServer, settings: Settings, start: Callable[[], Engine], clock: Clock
) -> None:
    """With the circuit open nobody revalidates: the answer is the same, and says so."""
    settings.POSTHOG_CIRCUIT_BREAKER_FAILURE_THRESHOLD = 1
    process = start()
    known(process)
    clock.now += FRESH
    windows.fault = Status(500)
    ask(process, "unlucky")
    assert process.breaker.state is State.OPEN
    change(windows)

    snapshot = ask(process)
    settle(process)

    assert (snapshot.source, snapshot.flags) == (Source.STALE, {"beta": "old"})
    assert windows.flag_calls == []


def test_refresh_may_be_the_probe(
    windows: PostHogServer, settings: Settings, start: Callable[[], Engine], clock: Clock
) -> None:
    """After the cooldown a refresh probes, so revalidating traffic alone closes the circuit."""
    settings.POSTHOG_CIRCUIT_BREAKER_FAILURE_THRESHOLD = 1
    settings.POSTHOG_CIRCUIT_BREAKER_COOLDOWN_SECONDS = 20
    process = start()
    known(process)
    clock.now += FRESH
    windows.fault = Status(500)
    ask(process, "unlucky")
    windows.heal()
    change(windows)
    clock.now += 21

    assert ask(process).flags == {"beta": "old"}
    settle(process)

    assert process.breaker.state is State.CLOSED
    assert ask(process).flags == {"beta": "new"}
    assert len(windows.flag_calls) == 1


def test_past_the_window_callers_wait(
    windows: PostHogServer, start: Callable[[], Engine], clock: Clock
) -> None:
    """After the window PostHog answers the caller, as it always did."""
    process = start()
    known(process)
    change(windows)
    clock.now += FRESH + REVALIDATE

    with ThreadPoolExecutor(1) as pool:
        with windows.gate():
            answer = pool.submit(ask, process)
            windows.wait_for_flag_calls(1)
            assert not answer.done()
        assert answer.result(PATIENCE).flags == {"beta": "new"}


def test_revalidating_without_a_shared_cache(
    windows: PostHogServer, settings: Settings, start: Callable[[], Engine], clock: Clock
) -> None:
    """A process that cannot reach the shared cache revalidates what it knows by itself."""
    process = start()
    known(process)
    change(windows)
    Moody.refuses = True
    clock.now += FRESH

    assert ask(process).flags == {"beta": "old"}
    settle_refreshes(process)

    assert ask(process).flags == {"beta": "new"}
    assert len(windows.flag_calls) == 1


def settle_refreshes(process: Engine) -> None:
    until(lambda: not process._refreshes._under_way)


def test_refresh_that_nobody_can_claim(
    windows: PostHogServer, start: Callable[[], Engine], clock: Clock
) -> None:
    """Where the shared cache can be read and not written, each process refreshes for itself."""
    process = start()
    known(process)
    change(windows)
    clock.now += FRESH

    def refuse_claim(*_: Any, **__: Any) -> bool:
        raise PermissionError

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Moody, "add", refuse_claim)
        assert ask(process).flags == {"beta": "old"}
        settle_refreshes(process)

    assert len(windows.flag_calls) == 1
    assert ask(process).flags == {"beta": "new"}


def test_refresh_that_the_cache_dropped(
    windows: PostHogServer, start: Callable[[], Engine], clock: Clock
) -> None:
    """Who refreshed serves what came of it, though the shared cache still has the old answer."""
    process = start()
    known(process)
    change(windows)
    Moody.drops = True
    clock.now += FRESH
    ask(process)
    settle(process)

    assert ask(process).flags == {"beta": "new"}
    assert len(windows.flag_calls) == 1


def test_refresh_does_not_undo_a_clearing(
    windows: PostHogServer, settings: Settings, start: Callable[[], Engine], clock: Clock
) -> None:
    """What a refresh was asked for before a clearing is served to nobody after it."""
    settings.POSTHOG_LOCAL_CACHE_SECONDS = 30
    process = start()
    known(process)
    clock.now += FRESH
    windows.clear()
    with windows.gate():
        ask(process)
        windows.wait_for_flag_calls(1)
        clear_cache("u1")
    settle(process)
    change(windows)

    assert ask(process).flags == {"beta": "new"}


# ---- if there is an error


def fail(posthog: PostHogServer) -> None:
    posthog.fault = Status(500)


def refuse(posthog: PostHogServer) -> None:
    posthog.fault = Refuse()


def open_circuit(posthog: PostHogServer) -> None:
    posthog.fault = Status(500)
    for number in range(5):
        evaluate(f"unlucky-{number}")
    assert engine.current().breaker.state is State.OPEN
    posthog.heal()


@pytest.mark.parametrize("trouble", [fail, refuse, open_circuit])
@pytest.mark.parametrize("past", [REVALIDATE, IF_ERROR - 0.1])
def test_last_known_values_in_an_outage(
    windows: PostHogServer,
    start: Callable[[], Engine],
    clock: Clock,
    trouble: Callable[[PostHogServer], None],
    past: float,
) -> None:
    """Inside the window an outage serves what was known: values, payloads, reasons, time."""
    first = known(start())
    clock.now += FRESH + past
    process = start()  # another one, which has it from the shared cache
    trouble(windows)

    snapshot = ask(process)

    assert snapshot.source is Source.STALE
    assert snapshot.flags == {"beta": "old"}
    assert snapshot.payloads == {"beta": {"version": 1}}
    assert snapshot.reasons == first.reasons
    assert snapshot.evaluated_at == first.evaluated_at
    assert snapshot.evaluation == first.evaluation


def test_last_known_values_when_posthog_hangs(
    windows: PostHogServer, settings: Settings, start: Callable[[], Engine], clock: Clock
) -> None:
    """A caller who waited in vain gets the last known values, too."""
    settings.POSTHOG_CIRCUIT_BREAKER_TRIP_THRESHOLD_SECONDS = 0.3
    process = start()
    known(process)
    clock.now += FRESH + REVALIDATE
    windows.fault = Hang()

    first, second = evaluate("u1"), evaluate("u1")

    assert [first.source, second.source] == [Source.STALE] * 2
    assert first.flags == second.flags == {"beta": "old"}


def test_past_the_window_features_answer(
    windows: PostHogServer, start: Callable[[], Engine], clock: Clock
) -> None:
    """After the window what was known is too old."""
    process = start()
    known(process)
    clock.now += FRESH + IF_ERROR
    fail(windows)

    snapshot = ask(process)

    assert (snapshot.source, snapshot.flags) == (Source.FALLBACK, {"beta": "fallback"})
    assert snapshot.payloads == {}


def test_recovery_ends_staleness(
    windows: PostHogServer, start: Callable[[], Engine], clock: Clock
) -> None:
    """As soon as PostHog answers again, its answer counts."""
    process = start()
    known(process)
    clock.now += FRESH + REVALIDATE
    fail(windows)
    assert ask(process).source is Source.STALE
    windows.heal()
    change(windows)

    snapshot = ask(process)

    assert (snapshot.source, snapshot.flags) == (Source.POSTHOG, {"beta": "new"})


def test_unknown_person_has_no_stale_values(
    windows: PostHogServer, start: Callable[[], Engine]
) -> None:
    """Who was never evaluated falls back, whatever is known of others."""
    process = start()
    known(process)
    fail(windows)

    assert ask(process, "u2").source is Source.FALLBACK


def test_stale_values_are_exposures(
    windows: PostHogServer, start: Callable[[], Engine], clock: Clock
) -> None:
    """A stale value is PostHog's decision, so reading it counts for experiments."""
    known(start())
    start()
    clock.now += FRESH + REVALIDATE
    windows.flags_fault = Status(500)

    assert is_enabled("beta", opt_unique_id="u1") is True
    assert evaluate("u1").source is Source.STALE

    assert told(windows) == [("u1", "beta", "old")]


def test_stale_answer_is_remembered_in_the_process_only(
    windows: PostHogServer, settings: Settings, start: Callable[[], Engine], clock: Clock
) -> None:
    """Thirty checks cost one failure; after POSTHOG_LOCAL_CACHE_SECONDS PostHog is asked again."""
    settings.POSTHOG_LOCAL_CACHE_SECONDS = 5
    process = start()
    known(process)
    store: dict[str, Any] = caches["durable"]._cache  # type: ignore[attr-defined]  # LocMemCache's
    before = {key: value for key, value in store.items() if ":entry:" in key}
    clock.now += FRESH + REVALIDATE
    change(windows)
    fail(windows)

    assert {ask(process).source for _ in range(30)} == {Source.STALE}
    assert len(windows.flag_calls) == 1
    settle(process)
    assert {key: value for key, value in store.items() if ":entry:" in key} == before

    windows.heal()
    clock.now += 4.9
    assert ask(process).source is Source.STALE
    clock.now += 0.2
    assert ask(process).flags == {"beta": "new"}


@pytest.mark.parametrize("whom", ["u1", None], ids=["the person", "everyone"])
@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "elsewhere"])
@pytest.mark.parametrize("past", [0, REVALIDATE])
def test_cleared_person_is_never_served_stale(
    *,
    windows: PostHogServer,
    start: Callable[[], Engine],
    clock: Clock,
    whom: str | None,
    elsewhere: bool,
    past: float,
) -> None:
    """What was cleared, by any process, does not come back in an outage."""
    other, process = start(), start()
    known(process)
    ask(other)
    (other if elsewhere else process).clear(whom)
    clock.now += FRESH + past
    fail(windows)

    for one in (process, other):
        assert ask(one).source is Source.FALLBACK


def test_cleared_amid_a_call(
    windows: PostHogServer, start: Callable[[], Engine], clock: Clock
) -> None:
    """What PostHog was asked for before a clearing is not served when the cache dies after it."""
    process = start()
    with ThreadPoolExecutor(1) as pool:
        with windows.gate():
            answer = pool.submit(ask, process)
            windows.wait_for_flag_calls(1)
            process.clear("u1")
        assert answer.result(PATIENCE).source is Source.POSTHOG
    Moody.refuses = True
    fail(windows)

    assert ask(process).source is Source.FALLBACK


def test_cleared_amid_a_read(
    windows: PostHogServer, start: Callable[[], Engine], clock: Clock
) -> None:
    """What was read before a clearing and looked at after it is not served when the cache dies."""
    process = start()
    known(process)
    mirror = process.breaker.mirror

    def clear_first(state: object) -> None:
        process.clear("u1")
        mirror(state)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(process.breaker, "mirror", clear_first)
        ask(process)
    Moody.refuses = True
    fail(windows)

    assert ask(process).source is Source.FALLBACK


@pytest.mark.parametrize("trouble", [fail, refuse, open_circuit])
def test_own_last_known_values_when_the_cache_is_dead_too(
    windows: PostHogServer,
    start: Callable[[], Engine],
    clock: Clock,
    trouble: Callable[[PostHogServer], None],
) -> None:
    """With PostHog and the shared cache down, a process serves what it knew itself."""
    process = start()
    first = known(process)
    clock.now += FRESH + REVALIDATE
    Moody.refuses = True
    trouble(windows)

    snapshot = ask(process)

    assert (snapshot.source, snapshot.flags) == (Source.STALE, {"beta": "old"})
    assert snapshot.evaluated_at == first.evaluated_at


def test_what_was_read_along_is_known_too(
    windows: PostHogServer, start: Callable[[], Engine], clock: Clock
) -> None:
    """A process knows what it found in the shared cache, and not only what it asked for itself."""
    known(start())
    process = start()
    assert ask(process).source is Source.POSTHOG
    assert len(windows.flag_calls) == 1
    clock.now += FRESH + REVALIDATE
    Moody.refuses = True
    fail(windows)

    assert ask(process).source is Source.STALE


def test_last_known_values_are_bounded(
    windows: PostHogServer, settings: Settings, start: Callable[[], Engine]
) -> None:
    """A process knows no more people than POSTHOG_LOCAL_CACHE_MAX_ENTRIES."""
    settings.POSTHOG_LOCAL_CACHE_MAX_ENTRIES = 3
    process = start()
    for number in range(6):
        ask(process, f"u{number}")

    assert len(process._evaluations._own) == 3


def test_giving_up_inside_the_window_for_revalidation(
    site: PostHogServer, settings: Settings, start: Callable[[], Engine], clock: Clock
) -> None:
    """Who waited in vain for the shared cache may have what others get at once."""
    settings.POSTHOG_STALE_WHILE_REVALIDATE_SECONDS = REVALIDATE
    process = start()
    known(process)
    clock.now += FRESH + REVALIDATE - 0.1
    assert process.give_up(query("u1")).source is Source.STALE
    clock.now += 0.1
    assert process.give_up(query("u1")).source is Source.FALLBACK


# ---- the arithmetic of the windows


def served(age: float, fresh: float, if_error: float, revalidate: float, *, well: bool) -> str:
    """What RFC 5861 says of an answer of this age: its source, and whether PostHog is asked.

    Section 3: within the window the stale response may be used while it is revalidated.
    Section 4: within the window the stale response may be used if an error is encountered.
    """
    staleness = age - fresh
    if staleness < 0:
        return "known"
    if staleness < revalidate:
        return "known, asked behind"
    if well:
        return "asked"
    return "stale, asked" if staleness < if_error else "fallback, asked"


SECONDS = st.sampled_from([0, 1, 10, 99, 100, 101, 1000]) | st.integers(0, 2000)


@hypothesis_settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(age=SECONDS, fresh=SECONDS, if_error=SECONDS, revalidate=SECONDS, well=st.booleans())
def test_windows_are_those_of_http(
    *,
    site: PostHogServer,
    settings: Settings,
    age: float,
    fresh: float,
    if_error: float,
    revalidate: float,
    well: bool,
) -> None:
    """For any windows and any age an answer is served as the RFC has it."""
    settings.POSTHOG_STALE_IF_ERROR_SECONDS = if_error
    settings.POSTHOG_STALE_WHILE_REVALIDATE_SECONDS = revalidate
    # Only the process's own answer, so that no cache has a say in what is still there.
    Moody.refuses = True
    alias = {**settings.CACHES["durable"], "TIMEOUT": fresh}
    settings.CACHES = {**settings.CACHES, "durable": alias}
    clock = Clock()
    process = Engine(conf.current(), clock=clock, wall=clock)
    site.heal()
    site.flags = {"beta": Variant("old", payload={"version": 1})}
    assert ask(process).source is Source.POSTHOG
    change(site)
    site.fault = None if well else Status(500)
    clock.now += age

    snapshot = ask(process)
    settle_refreshes(process)
    process.close()

    outcome = served(age, fresh, if_error, revalidate, well=well)
    value = {"known": "old", "asked": "new", "stale": "old", "fallback": "fallback"}
    assert snapshot.flags["beta"] == value[outcome.split(",")[0]]
    source = {"stale": Source.STALE, "fallback": Source.FALLBACK}
    assert snapshot.source is source.get(outcome.split(",")[0], Source.POSTHOG)
    assert len(site.flag_calls) == ("asked" in outcome)
