"""The shared cache fails in every way that its servers know, and comes back by itself.

The servers are real. The clock of the processes is the test's: rests and cooldowns pass when it
says so.
"""

from __future__ import annotations

import logging
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from threading import Barrier
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest
import redis
from django.core.cache.backends.locmem import LocMemCache
from django.core.management import call_command
from pytest_django import DjangoDbBlocker, Settings

from olposthog import conf
from olposthog._core import engine
from olposthog._core.engine import Engine
from olposthog._shared.breaker import State
from olposthog._shared.shared_cache import JOB_SECONDS, READERS, REST_SECONDS
from olposthog.features import evaluate
from tests.posthog_faults import Status
from tests.posthog_server import PostHogServer
from tests.site.in_process import use_store
from tests.site.processes import CACHE_TABLE, DATABASE_CACHE, PATIENCE, Store, until
from tests.site.servers import KeptServer, postgresql_store, postgresql_template, redis_store
from tests.site.silent_proxy import SilentProxy

FAILED = "The shared cache 'durable' fails"
RECOVERED = "The shared cache 'durable' answers again"
REFUSES = "Shared cache 'durable' refuses writes"
ACCEPTS = "Shared cache 'durable' accepts writes again"
OPENED = "PostHog's circuit is open"
CLOSED = "PostHog's circuit is closed"
FAILURES = 3
COOLDOWN_SECONDS = 600


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


# Shared caches, and what happens to them


@dataclass(frozen=True)
class Outage:
    """A shared cache that works until the outage begins, and again once it has ended."""

    store: Store
    begin: Callable[[], object]
    end: Callable[[], object]


@pytest.fixture
def redis_to_break(kept_redis: KeptServer) -> Iterator[Store]:
    """A shared cache in a Redis that is whole again after the test."""
    with redis_store(kept_redis.url) as store:
        yield store
        kept_redis.restore()


@pytest.fixture(scope="module")
def template_to_break(
    kept_postgresql: KeptServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The template of `postgresql_to_break`."""
    directory = tmp_path_factory.mktemp("template")
    with postgresql_template(kept_postgresql.url, directory) as template:
        yield template


@pytest.fixture
def postgresql_to_break(kept_postgresql: KeptServer, template_to_break: str) -> Iterator[Store]:
    """A shared cache in a PostgreSQL that is whole again after the test."""
    with postgresql_store(kept_postgresql.url, template_to_break) as store:
        yield store
        kept_postgresql.restore()


def sqlite_store(file: Path, **options: Any) -> Store:
    """Return a shared cache in an SQLite file; its table is not there yet."""
    return Store(
        durable={
            "BACKEND": DATABASE_CACHE,
            "LOCATION": CACHE_TABLE,
            "OPTIONS": {"MAX_ENTRIES": 100_000},
        },
        list_keys=list,
        database={
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": str(file),
            "OPTIONS": options,
        },
    )


@pytest.fixture
def redis_stopped(kept_redis: KeptServer, redis_to_break: Store) -> Outage:
    """Connections are refused; it comes back empty."""
    return Outage(redis_to_break, kept_redis.stop, kept_redis.start)


@pytest.fixture
def redis_hanging(kept_redis: KeptServer, redis_to_break: Store) -> Outage:
    """Connections are taken, and nobody answers."""
    return Outage(redis_to_break, kept_redis.freeze, kept_redis.thaw)


@pytest.fixture
def postgresql_stopped(kept_postgresql: KeptServer, postgresql_to_break: Store) -> Outage:
    """Connections are refused."""
    return Outage(postgresql_to_break, kept_postgresql.stop, kept_postgresql.start)


@pytest.fixture
def postgresql_hanging(kept_postgresql: KeptServer, postgresql_to_break: Store) -> Outage:
    """Connections are taken, and nobody answers."""
    return Outage(postgresql_to_break, kept_postgresql.freeze, kept_postgresql.thaw)


@pytest.fixture
def postgresql_locked(kept_postgresql: KeptServer, postgresql_to_break: Store) -> Iterator[Outage]:
    """Another session holds a lock on the table, as a migration does."""
    assert postgresql_to_break.database
    name = postgresql_to_break.database["NAME"]
    with psycopg.connect(kept_postgresql.url, dbname=name) as session:

        def lock() -> None:
            session.execute(f"LOCK TABLE {CACHE_TABLE} IN ACCESS EXCLUSIVE MODE")

        yield Outage(postgresql_to_break, lock, session.rollback)


@pytest.fixture
def postgresql_proxied(
    kept_postgresql: KeptServer, postgresql_to_break: Store
) -> Iterator[tuple[Store, SilentProxy]]:
    """A shared cache in PostgreSQL, and the proxy that is in front of it."""
    port = urlsplit(kept_postgresql.url).port
    assert port
    assert postgresql_to_break.database
    with SilentProxy(port) as proxy:
        database = {**postgresql_to_break.database, "PORT": str(proxy.port)}
        yield replace(postgresql_to_break, database=database), proxy
        proxy.hang_up()


@pytest.fixture
def postgresql_cut(postgresql_proxied: tuple[Store, SilentProxy]) -> Outage:
    """Connections are made, and end in the middle of a reply."""
    store, proxy = postgresql_proxied
    return Outage(store, proxy.cut_replies, proxy.end)


@pytest.fixture
def postgresql_mute(postgresql_proxied: tuple[Store, SilentProxy]) -> Outage:
    """Connections are accepted, and not one byte comes."""
    store, proxy = postgresql_proxied

    def end() -> None:
        proxy.end()
        proxy.hang_up()

    return Outage(store, proxy.go_silent, end)


LOCK_SQLITE = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
for order in sys.stdin:
    connection.execute(order)
    print("done", flush=True)
"""


@pytest.fixture
def sqlite_locked(tmp_path: Path) -> Iterator[Outage]:
    """Another process holds a lock on the file."""
    file = tmp_path / "cache.sqlite3"
    with subprocess.Popen(
        [sys.executable, "-c", LOCK_SQLITE, str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:

        def order(sql: str) -> None:
            assert other.stdin
            assert other.stdout
            other.stdin.write(f"{sql}\n")
            other.stdin.flush()
            assert other.stdout.readline() == "done\n"

        yield Outage(
            sqlite_store(file), lambda: order("BEGIN EXCLUSIVE"), lambda: order("ROLLBACK")
        )
        other.kill()


# Processes


class Process:
    """A process that shares the cache, as far as flags go."""

    def __init__(self, clock: Clock) -> None:
        self.evaluator = Engine(conf.current(), clock=clock, wall=clock)
        self._people = count()

    def ask(self, person: str | None = None) -> str:
        """Return where the flags of a person come from, by default of somebody new."""
        engine._current = self.evaluator
        return evaluate(person or f"person {next(self._people)} of {id(self)}").source.value

    def ask_often(self, times: int) -> set[str]:
        """Return where the flags of this many new people come from."""
        return {self.ask() for _ in range(times)}

    def state(self) -> State:
        """Return the circuit's state, as this process knows it."""
        return self.evaluator.breaker.state

    def settle(self) -> None:
        """Wait for what it writes in the background, and for what it tells of that."""
        assert self.evaluator.shared.settle(PATIENCE)
        self.evaluator._storage._teller.submit(lambda: None).result(PATIENCE)


@dataclass
class Fleet:
    """Processes on one clock, with a PostHog; `caplog` has what they log."""

    posthog: PostHogServer
    clock: Clock
    caplog: pytest.LogCaptureFixture
    settings: Settings
    blocker: DjangoDbBlocker
    started: list[Process] = field(default_factory=list)

    @contextmanager
    def sharing(self, store: Store) -> Iterator[Process]:
        """Let the store be the shared cache of all; yield the first process."""
        with use_store(store, self.settings, self.blocker):
            if store.database and store.database["ENGINE"].endswith("sqlite3"):
                call_command("createcachetable", database="cache", verbosity=0)
            yield self.start()
            for process in self.started:
                process.settle()
                process.evaluator.close()
            until(lambda: not any("olposthog-cache" in one.name for one in threading.enumerate()))

    def start(self) -> Process:
        """Start a process that knows nothing but what is shared."""
        self.started.append(Process(self.clock))
        return self.started[-1]

    def log(self, *lines: str) -> list[int]:
        """Return how often each of the lines has been logged."""
        messages = self.caplog.messages
        return [sum(message.startswith(line) for message in messages) for line in lines]

    def until_shared(self, process: Process) -> None:
        """Wait, a rest at a time, until a new process finds what `process` has just been told."""
        people = count()

        def is_shared() -> bool:
            self.clock.now += REST_SECONDS + 1
            person = f"later {next(people)}"
            assert process.ask(person) == "posthog"
            until(lambda: not process.evaluator.shared._asks_again())
            process.settle()
            before = len(self.posthog.flag_calls)
            assert self.start().ask(person) == "posthog"
            return len(self.posthog.flag_calls) == before

        until(is_shared)


@pytest.fixture
def fleet(
    enabled: PostHogServer,
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
    django_db_blocker: DjangoDbBlocker,
) -> Fleet:
    """Processes that open the circuit soon, and keep it open for long."""
    enabled.flags = {"beta": True}
    settings.POSTHOG_CIRCUIT_BREAKER_FAILURE_THRESHOLD = FAILURES
    settings.POSTHOG_CIRCUIT_BREAKER_COOLDOWN_SECONDS = COOLDOWN_SECONDS
    settings.POSTHOG_CIRCUIT_BREAKER_TRIP_THRESHOLD_SECONDS = 2
    caplog.set_level(logging.INFO, "olposthog")
    return Fleet(enabled, Clock(), caplog, settings, django_db_blocker)


WAYS = [
    "redis_stopped",
    "redis_hanging",
    "postgresql_stopped",
    "postgresql_hanging",
    "postgresql_locked",
    "postgresql_cut",
    "postgresql_mute",
    "sqlite_locked",
]


@pytest.fixture(params=WAYS)
def outage(request: pytest.FixtureRequest) -> Outage:
    """One of the ways to fail."""
    outage: Outage = request.getfixturevalue(request.param)
    return outage


# Outages


def test_process_does_without_the_cache_until_it_is_back(
    outage: Outage, fleet: Fleet, enabled: PostHogServer
) -> None:
    """Flags answer, the process's own breaker guards PostHog, and sharing resumes by itself."""
    with fleet.sharing(outage.store) as process:
        assert process.ask() == "posthog"
        process.settle()

        outage.begin()
        enabled.clear()
        assert process.ask_often(5) == {"posthog"}
        assert len(enabled.flag_calls) == 5
        assert fleet.log(FAILED) == [1]

        enabled.clear()
        enabled.flags_fault = Status(500)
        assert process.ask_often(10) == {"fallback"}
        assert len(enabled.flag_calls) == FAILURES
        assert process.state() is State.OPEN
        fleet.clock.now += REST_SECONDS + 1
        assert process.ask_often(5) == {"fallback"}
        assert len(enabled.flag_calls) == FAILURES

        enabled.heal()
        fleet.clock.now += COOLDOWN_SECONDS
        assert process.ask() == "posthog"
        assert process.state() is State.CLOSED
        until(lambda: fleet.log(FAILED, RECOVERED, OPENED, CLOSED) == [1, 0, 1, 1])

        outage.end()
        fleet.until_shared(process)
        assert fleet.log(FAILED, RECOVERED, OPENED, CLOSED) == [1, 1, 1, 1]


def test_emptied_redis_is_told_that_the_circuit_is_open(
    redis_to_break: Store, kept_redis: KeptServer, fleet: Fleet, enabled: PostHogServer
) -> None:
    """Whoever knows that the circuit is open writes it again, and new processes find it so."""
    with fleet.sharing(redis_to_break) as process:
        enabled.flags_fault = Status(500, times=FAILURES)
        assert process.ask_often(FAILURES) == {"fallback"}
        process.settle()
        kept_redis.stop()
        kept_redis.start()
        enabled.clear()

        def is_told() -> bool:
            assert process.ask() == "fallback"
            process.settle()
            fleet.clock.now += REST_SECONDS + 1
            return any(key.endswith(":state") for key in redis_to_break.list_keys())

        until(is_told)
        newcomer = fleet.start()
        assert newcomer.ask() == "fallback"
        assert newcomer.state() is State.OPEN
        assert enabled.flag_calls == []
        assert fleet.log(OPENED) == [1]


def test_emptied_redis_has_no_entries(
    redis_to_break: Store, kept_redis: KeptServer, fleet: Fleet, enabled: PostHogServer
) -> None:
    """What was lost is asked for once more, and then shared as before."""
    with fleet.sharing(redis_to_break) as process:
        assert process.ask("ada") == "posthog"
        process.settle()
        assert fleet.start().ask("ada") == "posthog"
        assert len(enabled.flag_calls) == 1

        kept_redis.stop()
        kept_redis.start()
        assert fleet.start().ask("ada") == "posthog"
        assert len(enabled.flag_calls) == 2
        fleet.until_shared(process)
        assert fleet.log(OPENED) == [0]


# A network that goes silent


def test_process_recovers_from_connections_that_died_in_silence(
    postgresql_proxied: tuple[Store, SilentProxy], fleet: Fleet
) -> None:
    """Threads that wait for connections without an end are replaced, and sharing resumes."""
    store, proxy = postgresql_proxied
    with fleet.sharing(store) as process:
        assert process.ask() == "posthog"
        process.settle()

        proxy.go_silent()
        assert process.evaluator.shared.later(lambda cache: cache.set("a", 1))
        for _ in range(15):
            assert process.ask() == "posthog"
            fleet.clock.now += REST_SECONDS
        assert fleet.log(FAILED, RECOVERED) == [1, 0]

        proxy.end()
        fleet.clock.now += JOB_SECONDS
        try:
            fleet.until_shared(process)
            assert fleet.log(FAILED, RECOVERED) == [1, 1]
        finally:
            proxy.hang_up()


# A slow cache


class Slow(LocMemCache):
    """A cache that answers a read when others wait for it too, as one that is far away does."""

    meeting: Barrier | None = None

    def get_many(self, keys: Iterable[str], version: int | None = None) -> dict[Any, Any]:
        if self.meeting:
            self.meeting.wait(PATIENCE)
        return super().get_many(keys, version)


def test_people_in_a_slow_cache_cost_no_call(fleet: Fleet, enabled: PostHogServer) -> None:
    """Many people are read at once, so a slow cache is waited for and PostHog is not called."""
    people = [f"person {number}" for number in range(5 * READERS)]
    fleet.settings.POSTHOG_CIRCUIT_BREAKER_TRIP_THRESHOLD_SECONDS = 4 * PATIENCE
    store = Store({"BACKEND": f"{__name__}.Slow", "LOCATION": "slow"}, list)
    with fleet.sharing(store) as process:
        for person in people:
            assert process.ask(person) == "posthog"
        process.settle()
        enabled.clear()
        other = fleet.start()
        Slow.meeting = Barrier(READERS)
        try:
            with ThreadPoolExecutor(len(people)) as pool:
                assert set(pool.map(other.ask, people)) == {"posthog"}
        finally:
            Slow.meeting = None
        assert enabled.flag_calls == []
        assert fleet.log(FAILED) == [0]


# A cache that can be read and not written


@pytest.fixture(params=["full", "replica"])
def redis_read_only(
    request: pytest.FixtureRequest, kept_redis: KeptServer, redis_to_break: Store
) -> Iterator[Outage]:
    """A Redis at its limit of memory that evicts nothing, or one that became a replica."""
    client = redis.Redis.from_url(kept_redis.url)

    def begin() -> None:
        if request.param == "full":
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", 1)
        else:
            client.config_set("replica-serve-stale-data", "yes")
            client.replicaof("127.0.0.1", 1)

    def end() -> None:
        client.config_set("maxmemory", 0)
        client.replicaof("NO", "ONE")

    yield Outage(redis_to_break, begin, end)
    end()
    client.close()


def test_redis_that_refuses_writes_is_read(
    redis_read_only: Outage, fleet: Fleet, enabled: PostHogServer
) -> None:
    """Known people cost no call, the breaker guards PostHog, and each change is one line."""
    with fleet.sharing(redis_read_only.store) as process:
        assert process.ask("ada") == "posthog"
        process.settle()

        redis_read_only.begin()
        enabled.clear()
        for _ in range(30):
            fleet.clock.now += REST_SECONDS
            assert process.ask() == "posthog"
            process.settle()
            assert process.evaluator.shared.claim("turn", 60) is None
        assert len(enabled.flag_calls) == 30
        assert fleet.start().ask("ada") == "posthog"
        assert len(enabled.flag_calls) == 30
        assert fleet.log(FAILED, REFUSES, ACCEPTS) == [0, 1, 0]

        enabled.flags_fault = Status(500)
        assert process.ask_often(10) == {"fallback"}
        assert len(enabled.flag_calls) == 30 + FAILURES
        process.settle()

        redis_read_only.end()
        enabled.heal()
        assert process.ask() == "fallback"  # and writes again that the circuit is open
        process.settle()
        assert fleet.start().ask() == "fallback"
        assert fleet.log(FAILED, REFUSES, ACCEPTS, OPENED) == [0, 1, 1, 1]


# A disk without room


PAGES = 40


@pytest.fixture
def full_disk(tmp_path: Path) -> Outage:
    """SQLite finds no room for another page, as soon as the outage has begun."""
    file = tmp_path / "cache.sqlite3"
    limit = f"PRAGMA max_page_count = {PAGES}"

    def fill() -> None:
        refused = 0
        with closing(sqlite3.connect(file, isolation_level=None)) as connection:
            connection.execute(limit)
            connection.execute("PRAGMA synchronous = OFF")
            while refused < 200:  # a page of the index may have room when another has none
                row = (f":1:olposthog:{uuid4().hex}", "ballast", "2999-01-01")
                try:
                    connection.execute(f"INSERT INTO {CACHE_TABLE} VALUES (?, ?, ?)", row)
                except sqlite3.OperationalError:
                    refused += 1

    def make_room() -> None:
        with closing(sqlite3.connect(file, isolation_level=None)) as connection:
            connection.execute(f"DELETE FROM {CACHE_TABLE} WHERE value = 'ballast'")

    return Outage(sqlite_store(file, init_command=limit), fill, make_room)


def test_full_disk_costs_no_answer(full_disk: Outage, fleet: Fleet, enabled: PostHogServer) -> None:
    """Where nothing more can be written PostHog answers, and the breaker guards it."""
    with fleet.sharing(full_disk.store) as process:
        assert process.ask() == "posthog"
        process.settle()

        full_disk.begin()
        enabled.clear()
        assert process.ask("ada") == "posthog"
        process.settle()
        assert fleet.start().ask("ada") == "posthog"
        assert len(enabled.flag_calls) == 2  # so it was not stored

        enabled.clear()
        enabled.flags_fault = Status(500)
        assert process.ask_often(10) == {"fallback"}
        assert len(enabled.flag_calls) == FAILURES
        assert process.state() is State.OPEN
        process.settle()
        assert fleet.log(OPENED) == [1]

        full_disk.end()
        enabled.heal()
        fleet.clock.now += COOLDOWN_SECONDS
        until(lambda: process.ask() == "posthog")
        fleet.until_shared(process)
        assert fleet.log(OPENED, CLOSED) == [1, 1]


def test_full_disk_lets_a_probe_through(
    full_disk: Outage, fleet: Fleet, enabled: PostHogServer
) -> None:
    """A claim that could not be written is not one that somebody else has won."""
    with fleet.sharing(full_disk.store) as process:
        assert process.ask() == "posthog"
        process.settle()
        full_disk.begin()
        enabled.flags_fault = Status(500)
        process.ask_often(FAILURES)
        process.settle()

        enabled.heal()
        fleet.clock.now += COOLDOWN_SECONDS
        assert process.ask() == "posthog"
        until(lambda: fleet.log(OPENED, CLOSED) == [1, 1])


@pytest.mark.parametrize("way", ["redis_stopped", "redis_hanging", "sqlite_locked"])
def test_opening_is_told_though_the_cache_dies_meanwhile(
    way: str, request: pytest.FixtureRequest, fleet: Fleet, enabled: PostHogServer
) -> None:
    """The cache was well when the call began, and is gone when the opening is to be written."""
    outage: Outage = request.getfixturevalue(way)
    fleet.settings.POSTHOG_CIRCUIT_BREAKER_FAILURE_THRESHOLD = 1
    with fleet.sharing(outage.store) as process:
        assert process.ask() == "posthog"
        process.settle()
        enabled.clear()
        enabled.flags_fault = Status(500)
        with ThreadPoolExecutor(1) as pool:
            with enabled.gate():
                asked = pool.submit(process.ask)
                enabled.wait_for_flag_calls(1)
                outage.begin()
            assert asked.result() == "fallback"
        try:
            until(lambda: fleet.log(OPENED) == [1])
        finally:
            outage.end()
