"""One breaker for a fleet: real web servers and processes, with PostgreSQL and with Redis."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Barrier

import pytest
from pytest_django import DjangoDbBlocker, Settings

from olposthog._shared.shared_cache import SharedCache
from tests.posthog_faults import Hang, Status
from tests.posthog_server import PostHogServer
from tests.site.in_process import use_store
from tests.site.processes import PATIENCE, Process, Server, Site, Store, serving, until, visiting

TRIP_SECONDS = 4.0
"""A quarter of it is what the shared cache may take: generous, for a machine that is busy."""
COOLDOWN_SECONDS = 0.8
SUSPENDED_SECONDS = 3.0
"""Half of the time for which a process is suspended, and the trip threshold meanwhile."""
OPENED = "PostHog's circuit is open"
PROBED = "PostHog's circuit is half-open"
CLOSED = "PostHog's circuit is closed"


@pytest.fixture(params=["postgresql", "redis"])
def store(request: pytest.FixtureRequest) -> Store:
    """What the processes share."""
    store: Store = request.getfixturevalue(f"{request.param}_cache")
    return store


@pytest.fixture
def site(store: Store, posthog: PostHogServer, tmp_path: Path) -> Site:
    """The site whose processes share the store."""
    return make_site(tmp_path, store, posthog)


def make_site(directory: Path, store: Store, posthog: PostHogServer) -> Site:
    """Return a site in which nothing but the store remembers answers; it logs every change."""
    posthog.flags = {"new-nav": True}
    site = Site(directory, store=store)
    site.use(posthog)
    site.settings |= {
        "FEATURES": {"new-nav": False},
        "LOGGING": {
            "version": 1,
            "disable_existing_loggers": False,
            "handlers": {"stderr": {"class": "logging.StreamHandler"}},
            "loggers": {"olposthog": {"handlers": ["stderr"], "level": "INFO"}},
        },
        "MIDDLEWARE": ["tests.site.urls.name_worker"],
        "POSTHOG_API_IDENTITY": "tests.site.identity.of_worker",
        "POSTHOG_CIRCUIT_BREAKER_TRIP_THRESHOLD_SECONDS": TRIP_SECONDS,
        "POSTHOG_CIRCUIT_BREAKER_COOLDOWN_SECONDS": COOLDOWN_SECONDS,
        "POSTHOG_FEATURE_FLAG_REQUEST_TIMEOUT_MS": 60_000,
        "POSTHOG_LOCAL_CACHE_SECONDS": 0,
        "POSTHOG_MAX_RETRIES": 0,
    }
    return site


# Web servers


@dataclass(frozen=True)
class Fleet:
    """A web server with some workers."""

    server: Server
    workers: int

    def log(self, line: str) -> int:
        """Return how often one of the workers has logged a line."""
        return self.server.log().count(line)

    def sources(self) -> set[str]:
        """Return where the answers come from, once each worker has given one."""
        answers = self.server.get_until_all_answered(self.workers)
        return {one.content["source"] for one in answers}


@contextmanager
def gunicorn(site: Site) -> Iterator[Fleet]:
    """Serve the site by four workers that have threads."""
    options = ["tests.site.preloaded:wsgi", "--preload", "--worker-class=gthread", "--threads=4"]
    options += ["--workers=4", "--no-control-socket"]
    with serving(site, "gunicorn", *options, socket_option="--bind=fd://{}") as server:
        yield Fleet(server, 4)


@contextmanager
def uvicorn(site: Site) -> Iterator[Fleet]:
    """Serve the site by two workers that have an event loop each, and may be slow to start."""
    options = ["tests.site.preloaded:asgi", "--workers=2", "--timeout-worker-healthcheck=60"]
    with serving(site, "uvicorn", *options, socket_option="--fd={}") as server:
        yield Fleet(server, 2)


@contextmanager
def warm(site: Site, run: Callable[[Site], AbstractContextManager[Fleet]]) -> Iterator[Fleet]:
    """Serve the site by workers that have PostHog's answers, and know of each other."""
    with run(site) as fleet:
        for _ in range(2):
            # On a busy machine a worker falls back while it connects to the store.
            until(lambda: fleet.sources() == {"posthog"}, 4 * PATIENCE)
        yield fleet


@pytest.mark.parametrize("run", [gunicorn, uvicorn], ids=lambda run: str(run.__name__))
def test_fleet_goes_through_an_outage_as_one(
    run: Callable[[Site], AbstractContextManager[Fleet]], site: Site, posthog: PostHogServer
) -> None:
    """One trip stops every call, each cooldown ends with one probe, one success lets all go on."""
    with warm(site, run) as fleet:
        posthog.clear()
        posthog.flags_fault = Hang()
        with ThreadPoolExecutor(8) as pool:
            first = list(pool.map(lambda _: fleet.server.get(), range(8)))
        assert {(one.status, one.content["source"]) for one in first} == {(200, "fallback")}
        until(lambda: fleet.log(OPENED))
        under_way = len(posthog.flag_calls) - fleet.log(PROBED)
        assert 1 <= under_way <= 8

        with visiting(fleet.server, 2) as visitors:
            for probes in (1, 2, 3):
                posthog.wait_for_flag_calls(under_way + probes)
                meanwhile = visitors.until_all_answered(fleet.workers)
                assert {one.content["source"] for one in meanwhile} == {"fallback"}
                assert len(posthog.flag_calls) == under_way + probes
                posthog.flags_fault = Hang()  # drops the probe, and waits for the next
            posthog.heal()
            visitors.until_all_answered(fleet.workers, source="posthog")

        until(lambda: fleet.log(CLOSED))
        assert fleet.sources() == {"posthog"}
        until(lambda: fleet.log(OPENED) == fleet.log(PROBED))  # the first trip; but the last probe
        assert fleet.log(CLOSED) == 1


def test_probing_worker_that_is_killed_costs_one_window(
    site: Site, store: Store, posthog: PostHogServer
) -> None:
    """A probe that ends with its process is followed by one in the very next window.

    Until then no process calls, not even the one that takes the killed worker's place.
    """
    with warm(site, gunicorn) as fleet, visiting(fleet.server, 2) as visitors:
        posthog.flags_fault = Status(500)
        until(lambda: fleet.log(OPENED))
        with posthog.gate():
            posthog.heal()
            until(lambda: fleet.log(PROBED) and posthog.in_flight)
            calls = posthog.flag_calls
            prober = calls[-1]["person_properties"]["worker"]
            os.kill(prober, signal.SIGKILL)
            others = visitors.until_all_answered(fleet.workers)
            assert {one.content["source"] for one in others} == {"fallback"}
            assert posthog.flag_calls == calls
        answers = visitors.until_all_answered(fleet.workers, source="posthog")

        assert prober not in {one.worker for one in answers}
        until(lambda: fleet.log(CLOSED))
        assert [fleet.log(change) for change in (OPENED, PROBED, CLOSED)] == [1, 2, 1]
        attempts = [key.rpartition(":")[2] for key in store.list_keys() if ":probe:" in key]
        assert sorted(attempts) == ["1", "2"]


# Processes that are told what to do


def open_circuit(process: Process, posthog: PostHogServer) -> None:
    """Have a process meet a failing PostHog, which is well again when the circuit has opened."""
    posthog.flags_fault = Status(500)
    until(lambda: process.ask() == "fallback" and OPENED in process.log())
    posthog.heal()
    posthog.clear()


@pytest.fixture
def sensitive_site(site: Site) -> Site:
    """The site, where a single failure opens the circuit."""
    site.settings["POSTHOG_CIRCUIT_BREAKER_FAILURE_THRESHOLD"] = 1
    return site


@pytest.mark.parametrize("ahead", [-60, 60], ids=["behind", "ahead"])
def test_clocks_a_minute_apart_agree_on_the_cooldown(
    sensitive_site: Site, posthog: PostHogServer, ahead: float
) -> None:
    """To a machine whose clock is wrong, an opening is as old as to the one that opened."""
    sensitive_site.settings |= {
        "POSTHOG_CIRCUIT_BREAKER_COOLDOWN_SECONDS": 3,
        "POSTHOG_CIRCUIT_BREAKER_TRIP_THRESHOLD_SECONDS": 3,
    }
    skewed_site = replace(
        sensitive_site, settings={**sensitive_site.settings, "CLOCK_IS_AHEAD_BY": ahead}
    )
    with sensitive_site.process() as opener, skewed_site.process() as skewed:
        for process in (opener, skewed, opener, skewed):
            process.ask_until("posthog")
        open_circuit(opener, posthog)

        assert [skewed.ask(), opener.ask()] == ["fallback", "fallback"]
        assert posthog.flag_calls == []
        until(lambda: skewed.ask() == "posthog")
        assert len(posthog.flag_calls) == 1
        until(lambda: opener.ask() == "posthog")
        until(lambda: CLOSED in opener.log() + skewed.log())
        logs = opener.log() + skewed.log()
    assert [logs.count(change) for change in (OPENED, PROBED, CLOSED)] == [1, 1, 1]


def test_probe_of_one_machine_is_the_only_one_on_a_machine_that_is_ahead(
    sensitive_site: Site, posthog: PostHogServer
) -> None:
    """A claim expires by the reader's clock, so it has to outlive what clocks differ by."""
    sensitive_site.settings["POSTHOG_CIRCUIT_BREAKER_COOLDOWN_SECONDS"] = 2
    site_ahead = replace(
        sensitive_site, settings={**sensitive_site.settings, "CLOCK_IS_AHEAD_BY": 60}
    )
    with sensitive_site.process() as prober, site_ahead.process() as ahead:
        for process in (prober, ahead, prober, ahead):
            process.ask_until("posthog")
        open_circuit(prober, posthog)
        with ThreadPoolExecutor(1) as pool:
            with posthog.gate():
                probing = pool.submit(until, lambda: prober.ask() == "posthog")
                posthog.wait_for_flag_calls(1)
                assert ahead.ask() == "fallback"
                assert len(posthog.flag_calls) == 1
            probing.result()


def test_process_that_was_suspended_does_not_open_the_circuit(
    sensitive_site: Site, posthog: PostHogServer
) -> None:
    """A gap in a process's own time says nothing about PostHog: others go on calling."""
    sensitive_site.settings |= {
        "POSTHOG_CIRCUIT_BREAKER_COOLDOWN_SECONDS": 600,
        "POSTHOG_CIRCUIT_BREAKER_TRIP_THRESHOLD_SECONDS": SUSPENDED_SECONDS,
    }
    with sensitive_site.process() as suspended, sensitive_site.process() as other:
        for process in (suspended, other):
            process.ask_until("posthog")
        posthog.clear()
        with posthog.gate():
            suspended.tell()
            posthog.wait_for_flag_calls(1)
            suspended.signal(signal.SIGSTOP)
            began = time.monotonic()
        until(lambda: other.ask() == "posthog" and time.monotonic() - began > 2 * SUSPENDED_SECONDS)
        suspended.signal(signal.SIGCONT)
        suspended.hear()

        suspended.ask_until("posthog")
        assert other.ask() == "posthog"
        assert OPENED not in suspended.log() + other.log()


# Claims


@pytest.fixture
def sharers(
    store: Store, settings: Settings, django_db_blocker: DjangoDbBlocker
) -> Iterator[list[SharedCache]]:
    """The store as five processes would see it, each with threads of its own."""
    with use_store(store, settings, django_db_blocker):
        caches = [SharedCache("durable", read_seconds=PATIENCE) for _ in range(5)]
        yield caches
        for shared in caches:
            assert shared.settle(PATIENCE)
            shared.close()


def test_fresh_key_is_claimed_once(sharers: list[SharedCache]) -> None:
    """Of twenty callers who claim a key at the same moment, exactly one is let in."""
    callers = sharers * 4
    start = Barrier(len(callers))

    def claim(shared: SharedCache, key: str) -> bool | None:
        start.wait(PATIENCE)
        return shared.claim(key, 600)

    with ThreadPoolExecutor(len(callers)) as pool:
        for number in range(10):
            keys = [f"claim-{number}"] * len(callers)
            claims = list(pool.map(claim, callers, keys))
            assert [claims.count(True), claims.count(False)] == [1, len(callers) - 1]


# Culling


MAX_ENTRIES = 60


def store_entries(number: int) -> None:
    """Store evaluations, as processes do which have not heard of an opening yet."""
    from olposthog._core import engine
    from olposthog._evaluation.evaluation import Evaluation
    from olposthog._shared.evaluation_cache import Found

    evaluator = engine.current()
    for index in range(number):
        found = Found(None, None, None, ("", ""), None)
        evaluator._evaluations.keep(f"question {index}", Evaluation({}, 0.0), found)
    assert evaluator.shared.settle(PATIENCE)


def write_late_keys(number: int) -> None:
    """Write to the shared cache what a site might: keys that sort after all of ours."""
    from django.core.cache import caches

    for index in range(number):
        caches["durable"].set(f"zzz-{index}", "of the site's own")


def evaluate_ada() -> str:
    """Return where the flags of a person come from, and wait until they are stored."""
    from olposthog._core import engine
    from olposthog.features import evaluate

    source = evaluate("ada").source.value
    assert engine.current().shared.settle(PATIENCE)
    return source


def cache_clear_and_lose_generations() -> None:
    """Cache a person's flags and clear them; then lose what sorts last, as culling does."""
    from django.core.cache import caches

    from olposthog._core import engine
    from olposthog._shared.evaluation_cache import GENERATION_BUCKETS
    from olposthog.features import clear_cache

    evaluate_ada()
    clear_cache()
    entries = engine.current()._evaluations
    names = ["all", *map(str, range(GENERATION_BUCKETS))]
    caches["durable"].delete_many([f"{entries._generation_prefix}{name}" for name in names])


@pytest.fixture
def small_site(postgresql_cache: Store, posthog: PostHogServer, tmp_path: Path) -> Site:
    """A site with a `DatabaseCache` that overflows soon, and a circuit that stays open."""
    site = make_site(tmp_path, postgresql_cache, posthog)
    site.cache_entries = MAX_ENTRIES
    site.settings |= {
        "POSTHOG_CIRCUIT_BREAKER_FAILURE_THRESHOLD": 1,
        "POSTHOG_CIRCUIT_BREAKER_COOLDOWN_SECONDS": 600,
    }
    return site


def has_state(store: Store) -> bool:
    """Return whether the breaker's state is in the store."""
    return any(key.endswith(":state") for key in store.list_keys())


def test_overflowing_with_entries_keeps_the_circuit_open(
    small_site: Site, postgresql_cache: Store, posthog: PostHogServer
) -> None:
    """PostgreSQL's culling throws entries away, and not what says that the circuit is open."""
    with small_site.process() as opener:
        opener.ask_until("posthog")
        open_circuit(opener, posthog)
        small_site.run(store_entries, 3 * MAX_ENTRIES)
        assert len(postgresql_cache.list_keys()) <= MAX_ENTRIES
        with small_site.process() as newcomer:
            assert newcomer.ask() == "fallback"
    assert posthog.flag_calls == []


def test_culling_does_not_undo_a_clearing(
    small_site: Site, postgresql_cache: Store, posthog: PostHogServer
) -> None:
    """Where culling threw the generations away, what was cleared before is evaluated again."""
    small_site.cache_entries = 10 * MAX_ENTRIES
    small_site.run(cache_clear_and_lose_generations)
    assert not any(":generation:" in key for key in postgresql_cache.list_keys())
    assert any(":entry:" in key for key in postgresql_cache.list_keys())

    posthog.clear()
    assert small_site.run(evaluate_ada) == "posthog"
    assert len(posthog.flag_calls) == 1


def test_lost_state_is_written_again(
    small_site: Site, postgresql_cache: Store, posthog: PostHogServer
) -> None:
    """Where culling did throw it away, a process that knows the circuit is open tells the rest."""
    with small_site.process() as opener:
        opener.ask_until("posthog")
        open_circuit(opener, posthog)
        small_site.run(write_late_keys, 3 * MAX_ENTRIES)
        assert not has_state(postgresql_cache)

        assert opener.ask() == "fallback"
        until(lambda: has_state(postgresql_cache))
        with small_site.process() as newcomer:
            assert newcomer.ask() == "fallback"
    assert posthog.flag_calls == []
