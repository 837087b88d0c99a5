"""Processes: what it costs to start, fork, serve and end, with PostHog well and hanging."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from importlib import import_module
from importlib.abc import MetaPathFinder
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.posthog_faults import Fault, Hang, Refuse, TrickleBody, TrickleHeaders
from tests.posthog_server import PostHogServer
from tests.site.child import say
from tests.site.processes import (
    PATIENCE,
    ROOT,
    Server,
    Site,
    make_tables,
    result_of,
    result_of_ending,
    serving,
    until,
)
from tests.test_definitions import flag

FEATURES = {"new-nav": False, "only-here": True}
SOON = 6.0
"""Generous for what takes two seconds at most, and far from how long PostHog hangs."""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A site whose shared cache is in a SQLite file of its own."""
    site = Site(tmp_path_factory.mktemp("template"), cache_apart=True)
    site.run(make_tables)
    return site


@pytest.fixture
def site(template: Site, posthog: PostHogServer, tmp_path: Path) -> Site:
    """The site with nothing in its tables and a PostHog that has a flag."""
    posthog.flags = {"new-nav": True}
    site = template.copy(tmp_path / "site")
    site.use(posthog)
    site.settings["FEATURES"] = FEATURES
    return site


# What starting a process does


def modules_below(root: str) -> set[str]:
    """Return the dotted names of the modules in the package at a path in the repository."""
    package = ROOT / root
    paths = [path.relative_to(package.parent).with_suffix("") for path in package.rglob("*.py")]
    return {".".join(path.parts).removesuffix(".__init__") for path in paths}


LIBRARY = modules_below("olposthog")
API = modules_below("api/olposthog_api")
INTEGRATIONS = {name for name in LIBRARY if name.startswith("olposthog.contrib.")}


def start_watched(names: list[str]) -> dict[str, Any]:
    """Import the modules, then set up Django; tell which threads, sockets and clients there are."""
    sockets: list[str] = []

    def note(event: str, arguments: tuple[object, ...]) -> None:
        if event in {"socket.__new__", "socket.connect", "socket.getaddrinfo"}:
            sockets.append(event)

    sys.addaudithook(note)
    started = count_thread_starts()
    for name in names:
        import_module(name)
    import django

    django.setup()
    import posthog.client

    from olposthog import conf
    from olposthog._core import engine

    clients = [one for one in gc.get_objects() if issubclass(type(one), posthog.client.Client)]
    quiet = {"threads": list(started), "sockets": list(sockets), "clients": len(clients)}
    is_on = engine.current().settings.enabled and not conf.current().problems
    from olposthog.features import is_enabled

    is_enabled("new-nav")
    clients = [one for one in gc.get_objects() if issubclass(type(one), posthog.client.Client)]
    return {
        "quiet": quiet,
        "enabled": is_on,
        "noticed": [bool(started), bool(sockets), bool(clients)],
    }


def count_thread_starts() -> list[str]:
    """Return a list that will name each thread that is started from now on."""
    started: list[str] = []
    start = threading.Thread.start

    def note(thread: threading.Thread) -> None:
        started.append(thread.name)
        start(thread)

    threading.Thread.start = note  # type: ignore[assignment, method-assign]  # there is no audit event for it
    return started


def test_importing_and_setting_up_starts_nothing(site: Site, posthog: PostHogServer) -> None:
    """Until a flag is asked for there is no thread, no socket and no client of the SDK."""
    site.settings["POSTHOG_PERSONAL_API_KEY"] = posthog.secret
    names = sorted((LIBRARY | API) - INTEGRATIONS)

    result = site.run(start_watched, names, bare=True)

    assert result["quiet"] == {"threads": [], "sockets": [], "clients": 0}
    assert result["enabled"]
    assert result["noticed"] == [True, True, True]  # so a start would have been seen


class Absent(MetaPathFinder):
    """Makes packages look as if they were not installed."""

    def __init__(self, *packages: str) -> None:
        self._packages = packages

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        """Refuse the packages, leave the rest to others."""
        if name.partition(".")[0] in self._packages:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def use_without_rest(names: list[str]) -> dict[str, Any]:
    sys.meta_path.insert(0, Absent("rest_framework", "drf_spectacular"))
    import django

    django.setup()
    for name in names:
        import_module(name)
    from django.core.management import call_command

    from olposthog.features import evaluate, is_enabled

    call_command("check", fail_level="WARNING")
    return {"enabled": is_enabled("new-nav"), "source": evaluate().source}


def test_library_works_without_rest_framework(site: Site, posthog: PostHogServer) -> None:
    """A site without DRF can import, check and use all of the library."""
    site.settings["INSTALLED_APPS"] = [
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "olposthog",
    ]
    site.settings["ROOT_URLCONF"] = "tests.site.no_urls"
    site.settings["MIDDLEWARE"] = []

    names = [name for name in LIBRARY if name not in INTEGRATIONS]

    assert site.run(use_without_rest, names, bare=True) == {
        "enabled": True,
        "source": "posthog",
    }
    assert len(posthog.flag_calls) == 1


# How a process ends


def ask_and_end() -> str:
    """Ask for flags, give up on PostHog, and reach the end of the program."""
    from olposthog.features import evaluate

    source = evaluate("ann").source.value
    say("ending")
    return source


def abandon_and_end() -> str:
    """Give up waiting long before the library would, and reach the end of the program."""
    from olposthog.features import aevaluate

    async def impatiently() -> str:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(aevaluate("ann"), 0.3)
        return "abandoned"

    outcome = asyncio.run(impatiently())
    say("ending")
    return outcome


def report_and_end() -> bool:
    """Read a flag, which queues an event, and reach the end of the program."""
    from olposthog.features import is_enabled

    enabled = is_enabled("new-nav", opt_unique_id="ann")
    say("ending")
    return enabled


@pytest.mark.parametrize(
    "fault", [Hang(), TrickleHeaders(interval=1), TrickleBody(interval=1)], ids=repr
)
def test_process_ends_soon_after_a_call_that_hangs(
    site: Site, posthog: PostHogServer, fault: Fault
) -> None:
    """A call that was given up does not keep the process alive."""
    site.settings |= {
        "POSTHOG_CIRCUIT_BREAKER_TRIP_THRESHOLD_SECONDS": 1.5,
        "POSTHOG_FEATURE_FLAG_REQUEST_TIMEOUT_MS": 600_000,
    }
    posthog.fault = fault

    assert result_of_ending(site.start(ask_and_end), SOON) == "fallback"


def test_process_ends_soon_amid_a_call_that_hangs(site: Site, posthog: PostHogServer) -> None:
    """A call that is under way, and may take ten minutes yet, does not keep the process alive."""
    site.settings |= {
        "POSTHOG_CIRCUIT_BREAKER_TRIP_THRESHOLD_SECONDS": 600,
        "POSTHOG_FEATURE_FLAG_REQUEST_TIMEOUT_MS": 600_000,
    }
    posthog.fault = Hang()

    assert result_of_ending(site.start(abandon_and_end), SOON) == "abandoned"
    assert len(posthog.flag_calls) == 1


def test_process_ends_soon_with_events_that_cannot_be_delivered(
    site: Site, posthog: PostHogServer
) -> None:
    """An exposure that PostHog does not take does not keep the process alive."""
    posthog.events_fault = Hang()

    assert result_of_ending(site.start(report_and_end), SOON) is True


# How a process forks


def forked(task: Callable[[], object]) -> Any:
    """Return what `task` returns in a forked child; a child that hangs is ended."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(int(PATIENCE / 2))
        try:
            os.write(writer, json.dumps(task()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    return json.loads(told) if told else "the child told nothing"


def source_of(person: str) -> str:
    from olposthog.features import evaluate

    return evaluate(person).source.value


def read_and_deliver(person: str) -> list[Any]:
    """Read a flag, and see the event off."""
    import posthog.client

    from olposthog.features import is_enabled

    answer = [source_of(person), is_enabled("new-nav", opt_unique_id=person)]
    posthog.flush()
    return answer


def use_fork_and_use() -> dict[str, Any]:
    return {
        "before": read_and_deliver("asked before"),
        "child": forked(lambda: read_and_deliver("asked in the child")),
        "grandchild": forked(lambda: forked(lambda: read_and_deliver("asked in a grandchild"))),
        "after": read_and_deliver("asked after"),
    }


def test_forked_child_evaluates_anew(site: Site, posthog: PostHogServer) -> None:
    """After a fork the child has flags from PostHog and reports them, and so does the parent."""
    result = site.run(use_fork_and_use)

    assert result == {
        "before": ["posthog", True],
        "child": ["posthog", True],
        "grandchild": ["posthog", True],
        "after": ["posthog", True],
    }
    people = ["asked before", "asked in the child", "asked in a grandchild", "asked after"]
    assert [call["distinct_id"] for call in posthog.flag_calls] == people
    assert sorted(event["distinct_id"] for event in posthog.events) == sorted(people)


def fork_amid_a_flight() -> dict[str, Any]:
    """Fork while a thread waits for PostHog; the child asks for the same person."""
    with ThreadPoolExecutor(1) as pool:
        flight = pool.submit(source_of, "ann")
        sys.stdin.readline()  # whoever started this process knows when the call is under way
        child = forked(lambda: source_of("ann"))
        return {"child": child, "parent": flight.result()}


def test_fork_amid_a_flight(site: Site, posthog: PostHogServer) -> None:
    """A child that was forked during a call makes a call of its own, and both are answered."""
    process = site.start(fork_amid_a_flight, stdin=subprocess.PIPE)
    with posthog.gate():
        posthog.wait_for_flag_calls(1)
        assert process.stdin
        process.stdin.write("go on\n")
        process.stdin.flush()
        posthog.wait_for_flag_calls(2)

    assert result_of(process) == {"child": "posthog", "parent": "posthog"}


def fork_under_load(forks: int) -> dict[str, Any]:
    """Fork again and again while threads evaluate flags; each child must answer."""
    from olposthog.features import is_enabled

    def ask_until_known() -> bool:
        # A new process whose first read of the busy cache is late has the fallback at first.
        until(lambda: is_enabled("new-nav", opt_unique_id="child"))
        return True

    over = threading.Event()
    numbers = count()

    def ask() -> bool:
        return is_enabled("new-nav", opt_unique_id=f"person-{next(numbers)}")

    def keep_asking() -> list[bool]:
        answers = []
        while not over.is_set():
            answers.append(ask())
        return answers

    with ThreadPoolExecutor(3) as pool:
        busy = [pool.submit(keep_asking) for _ in range(3)]
        try:
            children = [forked(ask_until_known) for _ in range(forks)]
        finally:
            over.set()
    wrong = [answer for each in busy for answer in each.result() if answer is not True]
    return {"children": children, "wrong": wrong, "parent": ask()}


def test_forks_under_load_do_not_deadlock(site: Site) -> None:
    """Whatever the threads of the parent were about, a child can ask for flags."""
    result = site.run(fork_under_load, 8)

    assert result == {"children": [True] * 8, "wrong": [], "parent": True}
    with closing(sqlite3.connect(site.cache_file)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def threads_that_poll() -> dict[str, Any]:
    """Have definitions, and tell where flags then come from and which threads there are."""
    from olposthog._core import engine

    source_of("early")
    poll = engine.current().poller
    until(lambda: poll and poll.current())
    engine.current().shared.settle(PATIENCE)  # nothing is amid a write when it forks
    names = sorted(thread.name for thread in threading.enumerate())
    return {
        "source": source_of("ann"),
        "polls": names.count("olposthog-definitions"),
        "of the SDK": [name for name in names if "poll" in name.lower()],
    }


def poll_fork_and_poll() -> dict[str, Any]:
    return {
        "before": threads_that_poll(),
        "child": forked(threads_that_poll),
        "after": threads_that_poll(),
    }


def test_forked_child_polls_anew(site: Site, posthog: PostHogServer) -> None:
    """A child has one thread of its own that polls, takes what is shared, and fetches nothing."""
    site.settings["POSTHOG_PERSONAL_API_KEY"] = posthog.secret
    posthog.definitions = {"flags": [flag("new-nav")]}

    result = site.run(poll_fork_and_poll)

    each = {"source": "local", "polls": 1, "of the SDK": []}
    assert result == {"before": each, "child": each, "after": each}
    assert len(posthog.definition_calls) == 1


# Web servers

TRIP_SECONDS = 1.5
COOLDOWN_SECONDS = 2.0
IN_HEALTH = {"new-nav": True, "only-here": True}


@pytest.fixture
def web_site(site: Site) -> Site:
    """The site with short times, so that nothing but the shared cache remembers answers."""
    site.settings |= {
        "MIDDLEWARE": ["tests.site.urls.name_worker"],
        "POSTHOG_CIRCUIT_BREAKER_TRIP_THRESHOLD_SECONDS": TRIP_SECONDS,
        "POSTHOG_CIRCUIT_BREAKER_COOLDOWN_SECONDS": COOLDOWN_SECONDS,
        "POSTHOG_LOCAL_CACHE_SECONDS": 0,
    }
    return site


@pytest.fixture(params=[[], ["--preload"]], ids=["gunicorn", "gunicorn --preload"])
def gunicorn(request: pytest.FixtureRequest, web_site: Site) -> Iterator[Server]:
    """Two workers that serve the site; with --preload, forked when a flag has been asked for."""
    options = ["tests.site.wsgi", "--workers", "2", "--no-control-socket", *request.param]
    with serving(web_site, "gunicorn", *options, socket_option="--bind=fd://{}") as server:
        yield server


def test_workers_go_through_an_outage_together(gunicorn: Server, posthog: PostHogServer) -> None:
    """One worker's trip stops the calls of all; after the cooldown a single call probes."""
    well = gunicorn.get_until_all_answered(2)
    assert {(one.status, one.content["source"]) for one in well} == {(200, "posthog")}
    assert all(one.content["features"] == IN_HEALTH for one in well)
    assert len(posthog.flag_calls) >= len(well)  # each a new visitor

    posthog.clear()
    posthog.flags_fault = Hang()
    first = gunicorn.get()
    assert (first.status, first.content["source"]) == (200, "fallback")
    assert first.content["features"] == FEATURES
    # A call that a busy machine ended late says nothing about PostHog.
    until(lambda: gunicorn.get().status == 200 and "circuit is open" in gunicorn.log())
    calls = len(posthog.flag_calls)
    others = gunicorn.get_until_all_answered(2)
    assert {(one.status, one.content["source"]) for one in others} == {(200, "fallback")}
    assert len(posthog.flag_calls) == calls

    posthog.heal()
    with ThreadPoolExecutor(1) as pool:
        with posthog.gate():
            probe = pool.submit(gunicorn.get_until_source, "posthog")
            posthog.wait_for_flag_calls(calls + 1)
            meanwhile = [gunicorn.get() for _ in range(3)]
        answer = probe.result()
    assert {one.content["source"] for one in meanwhile} == {"fallback"}
    assert answer.content["features"] == IN_HEALTH
    assert answer.worker not in {one.worker for one in meanwhile}
    assert len(posthog.flag_calls) == calls + 1

    until(lambda: "PostHog's circuit is closed" in gunicorn.log())
    healed = gunicorn.get_until_all_answered(2)
    assert {one.content["source"] for one in healed} == {"posthog"}
    assert gunicorn.log().count("PostHog's circuit is open") == 1
    assert gunicorn.log().count("PostHog's circuit is closed") == 1


@pytest.fixture
def uvicorn(web_site: Site) -> Iterator[Server]:
    """One process that serves the site in an event loop."""
    with serving(
        web_site, "uvicorn", "tests.site.asgi:application", socket_option="--fd={}"
    ) as one:
        yield one


def test_asgi_process_serves_both_kinds_of_view(uvicorn: Server, posthog: PostHogServer) -> None:
    """The REST API and a coroutine that asks for the same visitor agree."""
    first = uvicorn.get()
    cookies = first.cookies
    second = uvicorn.get("/async/visitor/", **cookies)

    assert first.content["source"] == "posthog"
    assert second.content == {
        "distinct_id": first.content["distinct_id"],
        "features": first.content["features"],
    }
    assert len(posthog.flag_calls) == 1


def test_many_coroutines_for_one_person_make_one_call(
    uvicorn: Server, posthog: PostHogServer
) -> None:
    """Twenty requests at once for a person nobody knows cost the process one call to PostHog."""
    with ThreadPoolExecutor(21) as pool:
        with posthog.gate():
            answers = [pool.submit(uvicorn.get, "/async/person/?person=ann") for _ in range(20)]
            until(lambda: uvicorn.get("/async/asked/").content == {"asked": 20})
            posthog.wait_for_flag_calls(1)
        contents = [answer.result().content for answer in answers]

    assert contents == [{"source": "posthog", "new-nav": True}] * 20
    assert len(posthog.flag_calls) == 1


# Definitions for a fleet

POLL_SECONDS = 0.5


def test_workers_share_one_poll(web_site: Site, posthog: PostHogServer) -> None:
    """Three workers make one fetch an interval between them, and each has what it brought."""
    web_site.settings |= {
        "POSTHOG_PERSONAL_API_KEY": posthog.secret,
        "POSTHOG_POLL_INTERVAL": POLL_SECONDS,
    }
    posthog.definitions = {"flags": [flag("new-nav")]}
    options = ["tests.site.wsgi", "--workers", "3", "--no-control-socket"]
    with serving(web_site, "gunicorn", *options, socket_option="--bind=fd://{}") as server:
        until(lambda: sources_of(server) == {"local"})

        began, before = time.monotonic(), len(posthog.definition_calls)
        posthog.wait_until(lambda: len(posthog.definition_calls) >= before + 5, PATIENCE)
        quiet = len(posthog.definition_calls) - before
        # Turns are counted from the last answer, so these are one in an interval, and one more.
        assert quiet <= (time.monotonic() - began) / POLL_SECONDS + 1
        assert posthog.definitions_sent <= 2  # the rest was not modified, and not billed

        posthog.definitions = {"flags": [flag("new-nav", {"groups": []})]}
        until(lambda: values_of(server) == {False})
        posthog.clear()
        posthog.fault = Refuse()
        answers = server.get_until_all_answered(3)

    assert {answer.content["source"] for answer in answers} == {"local"}
    assert {answer.content["features"]["new-nav"] for answer in answers} == {False}


def sources_of(server: Server) -> set[str]:
    return {answer.content["source"] for answer in server.get_until_all_answered(3)}


def values_of(server: Server) -> set[bool]:
    return {answer.content["features"]["new-nav"] for answer in server.get_until_all_answered(3)}
