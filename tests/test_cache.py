"""The process cache, and the shared cache at arm's length."""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from django.core.cache import BaseCache, caches
from django.core.cache.backends.locmem import LocMemCache
from django.core.management import call_command
from django.db import connections, transaction

from olposthog._shared.shared_cache import (
    JOB_SECONDS,
    READ_SECONDS,
    READERS,
    REST_SECONDS,
    STARTUP_SECONDS,
    SharedCache,
)
from olposthog._utils.memory_cache import MemoryCache
from tests.posthog_server import PATIENCE
from tests.site.processes import until

SOON = 0.05  # a deadline for what does not come
LOGGER = "olposthog._shared.shared_cache"


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


# The process cache


@pytest.fixture
def recent(clock: Clock):
    return MemoryCache[str](5, 3, clock)


def test_a_value_lives_for_its_seconds(recent, clock):
    """A value is found until its time is over, and from then on it is not."""
    recent.put("ada", "answer", recent.generation)

    clock.now += 4.999
    assert recent.get("ada") == "answer"
    clock.now += 0.001
    assert recent.get("ada") is None


def test_an_unknown_key_has_no_value(recent):
    """What was never put is not found."""
    assert recent.get("ada") is None


def test_reading_does_not_prolong_a_life(recent, clock):
    """A value that is read all the time expires all the same."""
    recent.put("ada", "answer", recent.generation)

    for _ in range(5):
        recent.get("ada")
        clock.now += 1

    assert recent.get("ada") is None


def test_putting_again_replaces_and_prolongs(recent, clock):
    """A newer value takes the older one's place and lives its own seconds."""
    recent.put("ada", "older", recent.generation)
    clock.now += 3
    recent.put("ada", "newer", recent.generation)
    clock.now += 3

    assert recent.get("ada") == "newer"
    assert len(recent) == 1


def test_zero_seconds_keep_nothing(clock):
    """With no time to live, nothing is found."""
    recent = MemoryCache[str](0, 3, clock)
    recent.put("ada", "answer", recent.generation)

    assert recent.get("ada") is None


def test_entries_are_bounded(recent):
    """The newest values are kept, as many as agreed."""
    for name in ["ada", "bob", "cleo", "dan", "eve"]:
        recent.put(name, name.upper(), recent.generation)

    assert len(recent) == 3
    assert [recent.get(name) for name in ["ada", "bob", "cleo", "dan", "eve"]] == [
        None,
        None,
        "CLEO",
        "DAN",
        "EVE",
    ]


def test_a_replaced_value_counts_as_new(recent):
    """The bound throws out the value that was put first, not the key that was."""
    for name in ["ada", "bob", "cleo", "ada", "dan"]:
        recent.put(name, name.upper(), recent.generation)

    assert recent.get("bob") is None
    assert recent.get("ada") == "ADA"


def test_expired_values_are_dropped(recent, clock):
    """A new value has all expired ones dropped, so that a process holds none for good."""
    recent.put("ada", "answer", recent.generation)
    clock.now += 3
    recent.put("bob", "answer", recent.generation)
    clock.now += 2
    recent.put("cleo", "answer", recent.generation)

    assert recent.get("bob") == "answer"
    assert len(recent) == 2


def test_bytes_are_bounded(clock):
    """The newest values whose estimated sizes fit are kept; a single larger one is kept alone."""
    recent = MemoryCache[str](5, 100, clock, size_of=len, max_bytes=10)

    for key, value in [("ada", "4444"), ("bob", "55555"), ("cleo", "22")]:
        recent.put(key, value, recent.generation)
    assert [recent.get(key) for key in ("ada", "bob", "cleo")] == [None, "55555", "22"]
    assert recent.bytes == 7

    recent.put("bob", "1", recent.generation)
    assert recent.bytes == 3

    recent.put("dan", "x" * 20, recent.generation)
    assert (len(recent), recent.bytes) == (1, 20)

    recent.put("eve", "1", recent.generation)
    assert (len(recent), recent.bytes) == (1, 1)
    recent.clear()
    assert recent.bytes == 0


def test_clear_forgets_everything(recent):
    """After a clearing nothing is found."""
    recent.put("ada", "answer", recent.generation)
    recent.clear()

    assert recent.get("ada") is None
    assert len(recent) == 0


def test_a_late_value_is_refused(recent):
    """What was asked for before a clearing is not kept after it."""
    asked_under = recent.generation
    recent.clear()

    recent.put("ada", "late", asked_under)
    assert recent.get("ada") is None
    recent.put("ada", "in time", recent.generation)
    assert recent.get("ada") == "in time"


# Caches that misbehave as told


def put(key: str, value: str) -> Callable[[Any], bool]:
    """Return a job that writes, and says so."""

    def job(cache: Any) -> bool:
        cache.set(key, value)
        return True

    return job


class Unruly(LocMemCache):
    """A cache that keeps a record of what it is asked, and fails or hangs when told to."""

    calls: list[tuple[str, int]] = []
    error: Exception | None = None
    gate = threading.Event()
    arrived = threading.Semaphore(0)

    @classmethod
    def behave(cls) -> None:
        cls.calls = []
        cls.error = None
        cls.gate = threading.Event()
        cls.gate.set()
        cls.arrived = threading.Semaphore(0)

    @classmethod
    def hang(cls) -> None:
        cls.gate.clear()

    def _meet(self, name: str) -> None:
        type(self).calls.append((name, threading.get_ident()))
        self.arrived.release()
        assert self.gate.wait(PATIENCE)
        if self.error:
            raise self.error

    def get_many(self, keys: Iterable[str], version: int | None = None) -> dict[Any, Any]:
        self._meet("get_many")
        return super().get_many(keys, version)

    def add(self, key: str, value: Any, *args: Any, **options: Any) -> bool:
        self._meet("add")
        return super().add(key, value, *args, **options)

    def set(self, key: str, value: Any, *args: Any, **options: Any) -> None:
        self._meet("set")
        super().set(key, value, *args, **options)


@pytest.fixture
def unruly(settings):
    """The shared cache is one that misbehaves as told; for now it is well."""
    settings.CACHES = {
        **settings.CACHES,
        "durable": {"BACKEND": "tests.test_cache.Unruly", "LOCATION": "unruly"},
    }
    Unruly.behave()
    caches["durable"].clear()
    yield Unruly
    Unruly.behave()


class CacheRouter:
    """Leads the cache's table to a database of its own."""

    def db_for_read(self, model: type, **hints: object) -> str | None:
        return "cache" if model._meta.app_label == "django_cache" else None  # type: ignore[attr-defined]  # a model has it

    db_for_write = db_for_read

    def allow_migrate(self, db: str, app_label: str, **hints: object) -> bool | None:
        return db == "cache" if app_label == "django_cache" else None


@pytest.fixture
def cache_database(settings, tmp_path: Path, django_db_blocker) -> Iterator[None]:
    """The shared cache is a `DatabaseCache` in an SQLite file; its table is not there yet."""
    databases = connections.settings
    databases["cache"] = connections.configure_settings(
        {
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": tmp_path / "cache.sqlite3",
                "OPTIONS": {"timeout": PATIENCE},
            }
        }
    )["default"]
    settings.DATABASE_ROUTERS = ["tests.test_cache.CacheRouter"]
    settings.CACHES = {
        **settings.CACHES,
        "durable": {
            "BACKEND": "django.core.cache.backends.db.DatabaseCache",
            "LOCATION": "flags",
            "OPTIONS": {"MAX_ENTRIES": 10_000},
        },
    }
    with django_db_blocker.unblock():
        yield
        connections["cache"].close()
        del connections["cache"]
    del databases["cache"]


@pytest.fixture
def database_cache(cache_database) -> None:
    """The shared cache is a `DatabaseCache` in an SQLite file."""
    call_command("createcachetable", database="cache", verbosity=0)


@pytest.fixture(params=["locmem", "database"])
def any_cache(request) -> None:
    """The shared cache is in memory, then in a database."""
    if request.param == "database":
        request.getfixturevalue("database_cache")


@pytest.fixture
def share(clock: Clock) -> Iterator[Callable[..., SharedCache]]:
    """Makes shared caches and ends their threads when the test is over."""
    with ExitStack() as made:

        def make(alias: str | None = "durable", read_seconds: float = PATIENCE) -> SharedCache:
            shared = SharedCache(alias, read_seconds=read_seconds, clock=clock)
            made.callback(shared.close)
            made.callback(shared.settle, PATIENCE)
            made.callback(Unruly.gate.set)
            return shared

        yield make


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


CONSEQUENCE = "; this process does without it until it answers."
FAILED = ("WARNING", "The shared cache 'durable' fails (ConnectionError)" + CONSEQUENCE)
HUNG = ("WARNING", "The shared cache 'durable' fails (no answer within 0.05 s)" + CONSEQUENCE)
RECOVERED = ("WARNING", "The shared cache 'durable' answers again.")
REFUSES = (
    "WARNING",
    (
        "Shared cache 'durable' refuses writes (ValueError). It is still read. "
        "Is it full or read-only?"
    ),
)
ACCEPTS = ("WARNING", "Shared cache 'durable' accepts writes again.")


# The shared cache in health


def test_what_was_written_is_read(any_cache, share):
    """A write is found once it is settled; what was never written is left out."""
    shared = share()

    assert shared.later(lambda cache: cache.set("ada", "answer"))
    assert shared.settle(PATIENCE)

    assert shared.get_many(["ada", "bob"], PATIENCE) == {"ada": "answer"}


def test_what_one_process_wrote_another_reads(any_cache, share):
    """Two processes see one cache."""
    writer, reader = share(), share()
    writer.later(lambda cache: cache.set("ada", "answer"))
    writer.settle(PATIENCE)

    assert reader.get_many(["ada"], PATIENCE) == {"ada": "answer"}


def test_writes_are_done_in_order(any_cache, share):
    """A later write never comes before an earlier one."""
    shared = share()
    order: list[int] = []

    def write(cache: BaseCache, number: int) -> None:
        order.append(number)
        cache.set("number", number)

    for number in range(30):
        shared.later(partial(write, number=number))
    assert shared.settle(PATIENCE)

    assert order == list(range(30))
    assert shared.get_many(["number"], PATIENCE) == {"number": 29}


def test_writes_are_not_waited_for(unruly, share):
    """A write that hangs does not hold up its caller, nor a reader."""
    shared = share()
    gate = threading.Event()

    assert shared.later(lambda cache: gate.wait(PATIENCE))
    assert shared.later(lambda cache: cache.set("ada", "answer"))

    assert not shared.settle(SOON)
    assert shared.get_many(["ada"], PATIENCE) == {}
    gate.set()
    assert shared.settle(PATIENCE)
    assert shared.get_many(["ada"], PATIENCE) == {"ada": "answer"}


def test_hanging_write_does_not_hold_up_the_later_ones(unruly, share, clock, log):
    """After its deadline a writer is replaced, and what it still had to write is not written."""
    shared = share()
    unruly.hang()

    def open_circuit(cache: Any) -> None:
        cache.get_many(["state"])
        cache.set("state", "open")

    assert shared.later(open_circuit)
    assert unruly.arrived.acquire(timeout=PATIENCE)
    hanging, unruly.gate = unruly.gate, threading.Event()
    unruly.gate.set()
    clock.now += JOB_SECONDS
    assert shared.write(put("state", "closed"), PATIENCE)

    hanging.set()
    until(lambda: not shared._writer._abandoned)
    assert shared.get_many(["state"], PATIENCE) == {"state": "closed"}
    assert not shared.is_away
    assert log() == []


def test_hanging_question_does_not_keep_the_cache_away(unruly, share, clock, log):
    """Where the question whether the cache is back hangs, another one is asked after a while."""
    shared = share()
    unruly.error = ConnectionError()
    shared.get_many(["ada"], PATIENCE)
    unruly.error = None
    unruly.hang()
    clock.now += REST_SECONDS
    assert shared.get_many(["ada"], PATIENCE) is None
    until(lambda: len(unruly.calls) == 2)
    hanging, unruly.gate = unruly.gate, threading.Event()
    unruly.gate.set()

    clock.now += JOB_SECONDS
    assert shared.get_many(["ada"], PATIENCE) is None
    until(lambda: not shared.is_away)
    unruly.error = ConnectionError()
    hanging.set()
    until(lambda: not shared._scout._abandoned)
    assert not shared.is_away
    assert log() == [FAILED, RECOVERED]


def test_too_many_writes_are_dropped(share):
    """Writes do not pile up without end behind one that hangs."""
    shared = share()
    begun, gate = threading.Event(), threading.Event()

    def hang(cache: object) -> None:
        begun.set()
        gate.wait(PATIENCE)

    shared.later(hang)
    assert begun.wait(PATIENCE)
    done = threading.Semaphore(0)

    accepted = [shared.later(lambda cache: done.release()) for _ in range(1_100)]
    gate.set()

    assert accepted == [True] * 1_000 + [False] * 100
    assert all(done.acquire(timeout=PATIENCE) for _ in range(1_000))
    assert shared.settle(PATIENCE)
    assert not done.acquire(blocking=False)


def test_no_work_is_done_in_the_callers_thread(unruly, share):
    """Every access is another thread's, and so another database connection's."""
    shared = share()

    shared.get_many(["ada"], PATIENCE)
    shared.claim("probe", 60)
    shared.write(put("token", "a"), PATIENCE)
    shared.later(lambda cache: cache.set("ada", "answer"))
    shared.settle(PATIENCE)

    assert {name for name, _ in unruly.calls} == {"get_many", "add", "set"}
    assert threading.get_ident() not in {thread for _, thread in unruly.calls}


def test_a_callers_rollback_undoes_nothing(database_cache, share):
    """What is written while the caller is in a transaction outlives its rollback."""
    shared = share()

    with transaction.atomic(using="cache"):
        shared.later(lambda cache: cache.set("ada", "answer"))
        assert shared.settle(PATIENCE)
        transaction.set_rollback(True, using="cache")

    assert shared.get_many(["ada"], PATIENCE) == {"ada": "answer"}


def test_a_callers_broken_transaction_breaks_nothing(database_cache, share):
    """A caller whose transaction can do no more still reads."""
    shared = share()
    shared.later(lambda cache: cache.set("ada", "answer"))
    shared.settle(PATIENCE)

    with transaction.atomic(using="cache"):
        transaction.set_rollback(True, using="cache")
        assert shared.get_many(["ada"], PATIENCE) == {"ada": "answer"}


def test_a_worker_keeps_no_connection(database_cache, share):
    """After each job its thread's connection is closed, as after a request."""
    shared = share()
    opened: list[Any] = []

    def look(cache: Any) -> None:
        cache.get("ada")
        opened.append(connections["cache"])
        assert connections["cache"].connection is not None

    assert shared.later(look)
    assert shared.settle(PATIENCE)

    assert [connection.connection for connection in opened] == [None]


# Claims


@pytest.mark.parametrize("processes", [1, 5])
def test_a_claim_is_won_once(any_cache, share, processes):
    """Of twenty threads that claim a key at once, in one process or five, exactly one wins."""
    fleet = [share() for _ in range(processes)]
    start = threading.Barrier(20)

    def claim(number):
        start.wait(PATIENCE)
        return fleet[number % processes].claim("probe:a:1", 60)

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(claim, range(20)))

    assert sorted(answers, key=bool) == [False] * 19 + [True]


def test_another_key_is_another_claim(any_cache, share):
    """A claim says nothing about other keys."""
    shared = share()

    assert [shared.claim(key, 60) for key in ["a", "a", "b", "b"]] == [True, False, True, False]


# Writes that somebody waits for


def test_a_write_that_came_to_nothing_is_not_confirmed(any_cache, share):
    """What a job says of itself is the answer: a backend may drop a write in silence."""
    assert not share().write(lambda cache: False, SOON)


def test_a_write_is_confirmed(any_cache, share):
    """A write that is waited for is done when the answer says so, and others read it."""
    assert share().write(put("ada", "answer"), PATIENCE)

    assert share().get_many(["ada"], PATIENCE) == {"ada": "answer"}


def test_a_write_comes_after_those_before_it(any_cache, share):
    """Writes keep their order, whether somebody waits for them or not."""
    shared = share()

    shared.later(lambda cache: cache.set("ada", "first"))
    assert shared.write(put("ada", "second"), PATIENCE)

    assert shared.get_many(["ada"], PATIENCE) == {"ada": "second"}


def test_a_late_write_is_done_all_the_same(unruly, share, log):
    """A write that outlasts its caller's patience accuses nobody, and is done in its time."""
    shared = share(read_seconds=PATIENCE)
    unruly.hang()

    assert not shared.write(put("ada", "answer"), SOON)
    assert not shared.is_away
    assert log() == []

    unruly.gate.set()
    assert shared.settle(PATIENCE)
    assert shared.get_many(["ada"], PATIENCE) == {"ada": "answer"}


# The shared cache in trouble


def come_back(shared: SharedCache, clock: Clock) -> None:
    """Let the rest pass, and a cache that is well again be noticed."""
    clock.now += REST_SECONDS
    assert shared.get_many(["ada"], PATIENCE) is None
    until(lambda: not shared.is_away)


def test_a_hanging_cache_is_given_up(unruly, share, log):
    """A read of a cache that hangs is answered with None, while the cache still hangs."""
    shared = share(read_seconds=SOON)
    assert shared.get_many(["ada"], PATIENCE) == {}
    unruly.hang()

    assert shared.get_many(["ada"], PATIENCE) is None
    assert shared.is_away
    assert log() == [HUNG]


def test_a_failure_has_a_reason_while_it_lasts(unruly, share, clock):
    """Why the cache is left alone can be asked, until it answers again."""
    shared = share(read_seconds=SOON)
    assert shared.get_many(["ada"], PATIENCE) == {}
    assert shared.failure == ""
    unruly.hang()
    shared.get_many(["ada"], PATIENCE)
    assert shared.failure == "no answer within 0.05 s"

    unruly.gate.set()
    come_back(shared, clock)
    assert shared.failure == ""


@pytest.mark.parametrize(
    "ask",
    [
        lambda shared: shared.get_many(["ada"], SOON),
        lambda shared: shared.write(put("all", "a"), SOON),
    ],
    ids=["get_many", "write"],
)
def test_a_callers_own_deadline_holds(unruly, share, log, ask):
    """A caller with less time waits no longer than that, and accuses nobody."""
    shared = share(read_seconds=PATIENCE)
    unruly.hang()

    assert not ask(shared)
    assert not shared.is_away
    assert log() == []


def test_first_answer_is_waited_for_within_the_callers_time(unruly, share, log):
    """A process that has just started connects and imports: that is no failure of the cache."""
    shared = share(read_seconds=SOON)
    unruly.hang()
    assert shared.get_many(["ada"], SOON * 2) is None
    assert not shared.is_away
    assert shared.is_awaited

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(shared.get_many, ["ada"], PATIENCE)
        with pytest.raises(TimeoutError):
            reading.result(SOON * 2)
        unruly.gate.set()
        assert reading.result() == {}
    assert log() == []


def test_read_has_its_usual_time_after_the_first_answer(unruly, share, log):
    """Once a caller has had an answer in time, a late one is a failure."""
    shared = share(read_seconds=SOON)
    assert shared.get_many(["ada"], PATIENCE) == {}
    unruly.hang()

    assert shared.get_many(["ada"], PATIENCE) is None
    assert log() == [HUNG]


def test_first_answer_is_waited_for_ten_seconds_at_most(unruly, share, clock, log):
    """A cache that hangs from the start is given up once the first question is that old."""
    shared = share(read_seconds=SOON)
    clock.now += STARTUP_SECONDS  # before the first question does not count
    unruly.hang()
    assert shared.get_many(["ada"], SOON) is None
    clock.now += STARTUP_SECONDS - 1
    assert shared.get_many(["ada"], SOON) is None
    assert shared.is_awaited
    assert not shared.is_away

    clock.now += 1
    assert not shared.is_awaited
    assert shared.get_many(["ada"], PATIENCE) is None
    assert shared.is_away
    assert log() == [HUNG]


def test_cache_that_raises_is_not_awaited(unruly, share):
    """An error ends the waiting for the first answer at once."""
    shared = share()
    assert shared.is_awaited
    unruly.error = ConnectionError()

    assert shared.get_many(["ada"], PATIENCE) is None
    assert not shared.is_awaited
    assert not share(None).is_awaited


def test_waiting_for_a_reader_is_no_failure_of_the_cache(unruly, share, log):
    """A read that waits while the cache answers others is waited for within the caller's time."""
    shared = share(read_seconds=SOON)
    assert shared.get_many(["ada"], PATIENCE) == {}
    busy = threading.Event()
    for _ in range(READERS):
        shared._readers.submit(lambda: busy.wait(PATIENCE))

    def answer_others(began: threading.Event) -> None:
        while not began.wait(SOON / 10):
            shared._answers += 1

    with ThreadPoolExecutor(2) as pool:
        began = threading.Event()
        answering = pool.submit(answer_others, began)
        reading = pool.submit(shared.get_many, ["ada"], PATIENCE)
        with pytest.raises(TimeoutError):
            reading.result(SOON * 3)
        busy.set()
        assert reading.result(PATIENCE) == {}
        began.set()
        answering.result(PATIENCE)

    assert not shared.is_away
    assert log() == []


def test_cache_that_answers_no_reader_fails(unruly, share, log):
    """A read that waits for a reader while the cache answers nobody gives it up."""
    shared = share(read_seconds=SOON)
    assert shared.get_many(["ada"], PATIENCE) == {}
    unruly.hang()
    for _ in range(READERS):
        shared._readers.submit(lambda: shared._guarded(lambda cache: cache.get_many(["ada"])))

    assert shared.get_many(["ada"], PATIENCE) is None
    assert shared.is_away
    assert len(log()) == 1


def test_cache_that_answers_too_late_is_not_back(unruly, share, clock, log):
    """A cache that takes longer than a read may take is not used again, and no line says so."""
    shared = share(read_seconds=SOON)
    unruly.error = ConnectionError()
    shared.get_many(["ada"], PATIENCE)
    unruly.error = None
    unruly.hang()
    clock.now += REST_SECONDS
    assert shared.get_many(["ada"], PATIENCE) is None
    until(lambda: len(unruly.calls) == 2)

    clock.now += 2 * SOON
    unruly.gate.set()
    until(lambda: not shared._asks_again())

    assert shared.is_away
    assert log() == [FAILED]


def test_a_claim_that_nobody_holds_is_undecided(unruly, share, monkeypatch):
    """A cache that says no because it cannot write leaves each process to itself."""
    shared = share()
    monkeypatch.setattr(unruly, "add", lambda *_: False)

    assert shared.claim("probe", 60) is None


def test_pauses_between_claims_have_jitter(unruly, monkeypatch):
    """The pause after each attempt that nobody won is a random part of it."""
    drawn = iter([0.0, 0.5, 1.0])
    paused: list[float] = []
    shared = SharedCache("durable", read_seconds=PATIENCE, chance=lambda: next(drawn))
    monkeypatch.setattr(unruly, "add", lambda *_: False)
    monkeypatch.setattr("olposthog._shared.shared_cache.time.sleep", paused.append)

    assert shared.claim("probe", 60) is None
    shared.close()
    assert paused == pytest.approx([0.01, 0.075, 0.2])


def test_a_claim_on_a_hanging_cache_is_undecided(unruly, share):
    """A claim that the cache does not answer is neither won nor lost."""
    shared = share(read_seconds=SOON)
    assert shared.get_many(["ada"], PATIENCE) == {}
    unruly.hang()

    assert shared.claim("probe", 60) is None
    assert shared.is_away


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        (lambda shared: shared.get_many(["ada"], PATIENCE), None),
        (lambda shared: shared.claim("probe", 60), None),
        (lambda shared: shared.write(put("all", "a"), SOON), False),
    ],
    ids=["get_many", "claim", "write"],
)
def test_a_failing_cache_raises_nothing(unruly, share, log, ask, answer):
    """Whatever a backend raises, the question is answered, and the cache is left alone."""
    shared = share()
    unruly.error = ConnectionError("redis://:password@cache.example.com")

    assert ask(shared) is answer
    assert shared.is_away
    assert log() == [FAILED]


def test_a_failing_write_is_a_failure_of_the_cache(unruly, share, log):
    """A write that raises makes the cache rest, as a read does."""
    shared = share()
    unruly.error = ConnectionError()

    shared.later(lambda cache: cache.set("ada", "answer"))
    shared.settle(PATIENCE)

    assert shared.is_away
    assert log() == [FAILED]


def test_a_refused_write_is_no_failure_of_the_cache(unruly, share, log, clock, monkeypatch):
    """While the cache can be read, a write that raises costs that value and a line a minute."""
    shared = share()

    store = unruly.set

    def refuse(cache: Unruly, key: str, *args: Any) -> None:
        if key == "ada":
            raise ValueError("the value of olposthog:secret is too large")
        store(cache, key, *args)

    with monkeypatch.context() as patched:
        patched.setattr(unruly, "set", refuse)
        for _ in range(3):
            assert shared.later(lambda cache: cache.set("ada", "answer"))
            assert not shared.write(put("ada", "answer"), SOON)
    assert shared.write(put("bob", "answer"), PATIENCE)

    assert not shared.is_away
    assert shared.get_many(["ada", "bob"], PATIENCE) == {"bob": "answer"}
    (line,) = log()
    assert line[1].startswith("Shared cache 'durable' refused a write (ValueError).")
    assert "secret" not in line[1]


def test_cache_that_refuses_writes_is_read(unruly, share, log, clock, monkeypatch):
    """While every write is refused, claims too, reads go on, and each change is one line."""
    shared = share()
    assert shared.write(put("ada", "answer"), PATIENCE)

    def refuse(*_: object) -> None:
        raise ValueError("OOM command not allowed for olposthog:secret")

    with monkeypatch.context() as patched:
        patched.setattr(unruly, "set", refuse)
        patched.setattr(unruly, "add", refuse)
        for _ in range(30):
            assert shared.later(put("bob", "answer"))
            assert shared.claim("probe", 60) is None
            assert shared.settle(PATIENCE)
            assert shared.get_many(["ada"], PATIENCE) == {"ada": "answer"}
            clock.now += REST_SECONDS
        assert str(shared) == "'durable' answers, refuses writes (ValueError)"
    # A job that writes nothing does not end it by itself: a small write does.
    assert shared.write(lambda cache: True, PATIENCE)
    assert shared.settle(PATIENCE)

    assert not shared.is_away
    assert log() == [REFUSES, ACCEPTS]
    assert str(shared) == "'durable' answers"


def test_cache_at_its_limit_is_logged_once_a_minute(unruly, share, log, clock, monkeypatch):
    """A cache that accepts one write and refuses the next costs one pair of lines a minute."""
    shared = share()
    for _ in range(50):
        with monkeypatch.context() as patched:
            patched.setattr(unruly, "set", lambda *_: 1 / 0)
            shared.later(put("ada", "answer"))
            assert shared.settle(PATIENCE)
        shared.later(put("ada", "answer"))
        assert shared.settle(PATIENCE)
        clock.now += REST_SECONDS

    assert len(log()) == 2


def test_recovery_finds_out_whether_writes_are_accepted(unruly, share, log, clock, monkeypatch):
    """A cache that comes back read-only is read, and one line says that it refuses writes."""
    shared = share()
    unruly.error = ConnectionError()
    shared.get_many(["ada"], PATIENCE)
    unruly.error = None

    def refuse(*_: object) -> None:
        raise ValueError

    monkeypatch.setattr(unruly, "set", refuse)
    come_back(shared, clock)
    until(lambda: len(log()) == 3)

    assert log() == [FAILED, RECOVERED, REFUSES]
    assert shared.get_many(["ada"], PATIENCE) == {}


def test_a_resting_cache_is_left_alone(unruly, share, clock):
    """For the whole rest the backend is asked nothing; then it is asked again."""
    shared = share()
    unruly.error = ConnectionError()
    shared.get_many(["ada"], PATIENCE)
    assert len(unruly.calls) == 1

    clock.now += REST_SECONDS - 0.001
    assert shared.get_many(["ada"], PATIENCE) is None
    assert not shared.write(put("all", "a"), PATIENCE)
    assert len(unruly.calls) == 1

    clock.now += 0.001
    assert shared.get_many(["ada"], PATIENCE) is None
    until(lambda: len(unruly.calls) == 2)


def test_nobody_waits_to_find_out_whether_the_cache_is_back(unruly, share, clock):
    """After the rest one question of our own asks a cache that hangs; the callers do without."""
    shared = share(read_seconds=PATIENCE)
    unruly.error = ConnectionError()
    shared.get_many(["ada"], PATIENCE)
    unruly.error = None
    unruly.hang()
    clock.now += REST_SECONDS

    for _ in range(5):
        assert shared.get_many(["ada"], PATIENCE) is None
        assert not shared.later(put("ada", "dropped"))
        clock.now += REST_SECONDS
    until(lambda: len(unruly.calls) == 2)

    unruly.gate.set()
    until(lambda: not shared.is_away)
    assert shared.get_many(["ada"], PATIENCE) == {}


def test_a_failure_from_before_the_return_does_not_count(unruly, share, clock, log):
    """What was asked before the cache came back, and fails after it, is no news."""
    shared = share(read_seconds=SOON)
    assert shared.get_many(["ada"], PATIENCE) == {}
    unruly.hang()
    shared.later(lambda cache: cache.get_many(["ada"]))
    assert shared.get_many(["ada"], PATIENCE) is None
    hanging, unruly.gate = unruly.gate, threading.Event()
    unruly.gate.set()
    come_back(shared, clock)

    unruly.error = ConnectionError()
    hanging.set()
    assert shared.settle(PATIENCE)

    assert not shared.is_away
    assert log() == [HUNG, RECOVERED]


def test_a_claim_is_made_even_in_a_rest(unruly, share, clock):
    """One late read must not make a second prober of a process: a claim asks all the same."""
    shared = share()
    unruly.error = ConnectionError()
    shared.get_many(["ada"], PATIENCE)
    unruly.error = None

    assert shared.claim("probe", 60) is True
    assert shared.claim("probe", 60) is False
    assert shared.is_away


def test_writes_to_a_resting_cache_are_dropped(unruly, share, clock):
    """While the cache rests a write is refused at once, and not done later."""
    shared = share()
    unruly.error = ConnectionError()
    shared.get_many(["ada"], PATIENCE)
    unruly.error = None

    assert not shared.later(lambda cache: cache.set("ada", "dropped"))

    come_back(shared, clock)
    shared.settle(PATIENCE)
    assert shared.get_many(["ada"], PATIENCE) == {}


def test_each_change_is_said_once(unruly, share, clock, log):
    """One warning while the cache fails, however often and in whatever way; one line after it."""
    shared = share(read_seconds=PATIENCE)
    for error in [ConnectionError(), TimeoutError(), ConnectionError()]:
        unruly.error = error
        asked = len(unruly.calls)
        assert shared.get_many(["ada"], PATIENCE) is None
        until(lambda: len(unruly.calls) > asked)  # noqa: B023  # waited for here
        clock.now += REST_SECONDS
    assert log() == [FAILED]

    unruly.error = None
    come_back(shared, clock)
    for _ in range(3):
        assert shared.get_many(["ada"], PATIENCE) == {}
    assert log() == [FAILED, RECOVERED]

    unruly.error = ConnectionError()
    shared.get_many(["ada"], PATIENCE)
    assert log() == [FAILED, RECOVERED, FAILED]


def test_many_who_meet_the_failure_say_it_once(unruly, share, log):
    """Callers that are waiting when the cache fails cost one warning between them."""
    shared = share()
    unruly.hang()
    unruly.error = ConnectionError()

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(shared.get_many, ["ada"], PATIENCE) for _ in range(4)]
        for _ in asked:
            assert unruly.arrived.acquire(timeout=PATIENCE)
        unruly.gate.set()

    assert [one.result() for one in asked] == [None] * 4
    assert log() == [FAILED]


def test_a_late_answer_does_not_end_the_rest(unruly, share, log):
    """A cache that answers after it was given up is left alone for the whole rest."""
    shared = share(read_seconds=SOON)
    assert shared.get_many(["ada"], PATIENCE) == {}
    unruly.hang()
    shared.later(lambda cache: cache.get_many(["ada"]))
    assert shared.get_many(["ada"], PATIENCE) is None

    unruly.gate.set()
    assert shared.settle(PATIENCE)

    assert shared.is_away
    assert log() == [HUNG]


def test_an_answer_after_the_rest_ends_it(unruly, share, clock, log):
    """Once the rest is over and the cache answers, it is used as before."""
    shared = share()
    unruly.error = ConnectionError()
    shared.get_many(["ada"], PATIENCE)
    unruly.error = None
    come_back(shared, clock)

    assert shared.claim("probe", 60) is True
    assert log() == [FAILED, RECOVERED]


def test_the_logs_do_not_quote_the_backend(unruly, share, caplog):
    """What a backend's error says, such as an address with a password, is at level DEBUG only."""
    caplog.set_level(logging.DEBUG, LOGGER)
    shared = share()
    unruly.error = ConnectionError("redis://:password@cache.example.com")

    shared.get_many(["ada"], PATIENCE)

    loud = [record for record in caplog.records if record.levelno > logging.DEBUG]
    assert len(loud) == 1
    assert loud[0].exc_info is None
    assert "password" not in loud[0].getMessage()


def test_a_missing_table_is_a_failure(cache_database, share, log):
    """A `DatabaseCache` without its table is one that fails."""
    shared = share()

    assert shared.get_many(["ada"], PATIENCE) is None
    assert [level for level, _ in log()] == ["WARNING"]
    assert "OperationalError" in log()[0][1]


def test_an_alias_that_cannot_be_built_is_a_failure(settings, share, log):
    """A backend that cannot be imported is a failure like any other."""
    settings.CACHES = {**settings.CACHES, "durable": {"BACKEND": "nowhere.Cache"}}
    shared = share()

    assert shared.get_many(["ada"], PATIENCE) is None
    assert [level for level, _ in log()] == ["WARNING"]


# No shared cache, and its settings


def test_without_an_alias_nothing_is_asked(share):
    """No alias is a cache that always rests: no answer, no thread, no time to live."""
    before = threading.active_count()
    shared = share(None)

    assert shared.is_away
    assert shared.get_many(["ada"], PATIENCE) is None
    assert shared.claim("probe", 60) is None
    assert shared.write(lambda cache: pytest.fail("written nowhere"), PATIENCE) is False
    assert shared.later(lambda cache: pytest.fail("written nowhere")) is False
    assert shared.timeout_seconds == 0
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("alias", "seconds"),
    [
        ({}, 300),
        ({"TIMEOUT": 60}, 60),
        ({"TIMEOUT": 0}, 0),
        ({"TIMEOUT": None}, None),
        ({"timeout": 60}, 60),
        ({"timeout": 60, "TIMEOUT": 10}, 60),
        ({"timeout": None, "TIMEOUT": 10}, None),
        ({"TIMEOUT": "60"}, 60),
        ({"TIMEOUT": 60.9}, 60),
        ({"TIMEOUT": "soon"}, 300),
        ({"TIMEOUT": []}, 300),
        ({"timeout": "soon", "TIMEOUT": 10}, 300),
    ],
    ids=repr,
)
def test_the_alias_says_how_long_an_entry_is_fresh(settings, share, alias, seconds):
    """It is the alias's timeout as Django reads it: lower case first, and else its default."""
    settings.CACHES = {**settings.CACHES, "durable": {**settings.CACHES["durable"], **alias}}

    assert share().timeout_seconds == seconds == caches["durable"].default_timeout


def test_a_closed_cache_answers_at_once(share):
    """A cache whose threads have ended still raises nothing."""
    shared = share()
    shared.close()

    assert shared.get_many(["ada"], PATIENCE) is None
    assert shared.later(lambda cache: cache.set("ada", "answer")) is False


def test_a_read_may_take_a_second():
    """The limits that the rest of the library counts on."""
    assert (READ_SECONDS, REST_SECONDS) == (1, 1)
