"""Flags inside the site's database transactions: they answer, and leave no trace there.

The databases are SQLite files, the shared cache is Django's `DatabaseCache`: once in the file of
the site's data, once in a file of its own. Each test has a process of its own.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.posthog_faults import Status
from tests.posthog_server import PostHogServer
from tests.site.child import Heard
from tests.site.processes import CACHE_TABLE, Site, make_tables, until

MAY_BE_ASKED_AGAIN = ["ann"]
"""Where SQLite keeps cache and data in one file, it drops what is written to the cache while the
caller writes: the flags answer, and are asked for again once. In a file of its own it is kept."""

SETTLED = 20.0
"""Seconds that the writes in the background may take, at most, once nothing is in their way."""


@pytest.fixture(scope="module", params=["together", "apart"])
def template(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A site whose shared cache is in the database of its data, or apart from it."""
    site = Site(tmp_path_factory.mktemp("template"), cache_apart=request.param == "apart")
    site.run(make_tables)
    return site


@pytest.fixture
def site(template: Site, posthog: PostHogServer, tmp_path: Path) -> Site:
    """The site with nothing in its tables and a PostHog that has a flag."""
    posthog.flags = {"new-nav": True}
    site = template.copy(tmp_path / "site")
    site.use(posthog)
    site.settings["FEATURES"] = {"new-nav": "from FEATURES"}
    return site


def sources(*people: str) -> list[str]:
    """Evaluate flags; say where the answers come from. PostHog's answer must have its values."""
    from olposthog.features import evaluate

    found = [evaluate(person) for person in people]
    assert all(one.flags == {"new-nav": True} for one in found if one.source == "posthog")
    return [one.source.value for one in found]


def sources_in_another_process(*people: str) -> list[str]:
    """As `sources`, with nothing known but what this process has written to the shared cache."""
    from olposthog._core import engine

    wait_for_writes()
    engine.reset()
    return sources(*people)


def wait_for_writes() -> None:
    from olposthog._core import engine

    assert engine.current().shared.settle(SETTLED)


@contextmanager
def queries_of_this_thread() -> Iterator[list[str]]:
    """Collect the SQL that the calling thread's connections are asked to run."""
    from django.db import connections

    asked: list[str] = []

    def note(execute: Any, sql: str, *arguments: Any) -> Any:
        asked.append(sql)
        return execute(sql, *arguments)

    with ExitStack() as stack:
        for connection in connections.all():
            stack.enter_context(connection.execute_wrapper(note))
        yield asked


def sources_that_last(*people: str) -> list[str]:
    found = sources(*people)
    wait_for_writes()
    return found


def write_and_ask(people: list[str]) -> dict[str, Any]:
    from django.contrib.auth.models import Group
    from django.db import connection, transaction

    with Heard() as heard:
        with transaction.atomic():
            Group.objects.create(name="written")
            with queries_of_this_thread() as queries:
                inside = sources(*people)
            untouched = connection.in_atomic_block and not connection.needs_rollback
        later = sources("asked for later")
        after = sources_in_another_process(people[0], "somebody else")
    return {
        "inside": inside,
        "later": later,
        "after": after,
        "queries": queries,
        "untouched": untouched,
        "committed": Group.objects.count(),
        "heard": heard.messages,
    }


def test_write_transaction_and_flags_leave_each_other_alone(
    site: Site, posthog: PostHogServer
) -> None:
    """Amid a caller's writes flags come from PostHog, run none of its queries, and are kept."""
    result = site.run(write_and_ask, ["ann", "ben"])

    assert result == {
        "inside": ["posthog", "posthog"],
        "later": ["posthog"],
        "after": ["posthog", "posthog"],
        "queries": [],
        "untouched": True,
        "committed": 1,
        "heard": [],
    }
    asked_about = [call["distinct_id"] for call in posthog.flag_calls]
    again = [] if site.cache_apart else MAY_BE_ASKED_AGAIN
    assert [one for one in asked_about[3:] if one not in again] == ["somebody else"]
    assert asked_about[:3] == ["ann", "ben", "asked for later"]


@pytest.mark.parametrize("known", [[], ["known before"]], ids=["first use", "state is known"])
def test_circuit_that_opens_in_a_write_transaction_stays_open_for_all(
    site: Site, posthog: PostHogServer, known: list[str]
) -> None:
    """Failures amid a caller's writes open the circuit, in this process and in the others."""
    site.run(sources_that_last, *known)
    posthog.clear()
    posthog.flags_fault = Status(500, times=5)

    result = site.run(write_and_ask, [f"person-{number}" for number in range(5)])

    assert result["inside"] == ["fallback"] * 5
    assert result["later"] == ["fallback"]
    assert result["after"] == ["fallback", "fallback"]
    assert result["committed"] == 1
    assert len(posthog.flag_calls) == 5
    assert [message for message in result["heard"] if "circuit is open" in message]
    assert len(result["heard"]) == 2, result["heard"]  # no flags, and the opening


def fail_in_a_request(people: list[str], afterwards: list[str]) -> dict[str, Any]:
    from django.contrib.auth.models import Group
    from django.test import Client

    client = Client(raise_request_exception=False)
    response = client.get("/fails/", {"people": ",".join(people)})
    return {
        "status": response.status_code,
        "written": Group.objects.count(),
        "after": sources_in_another_process(*afterwards),
    }


@pytest.fixture
def atomic_site(site: Site) -> Site:
    """The site with a transaction around each request."""
    site.atomic_requests = True
    return site


def test_rolled_back_request_keeps_the_entry(atomic_site: Site, posthog: PostHogServer) -> None:
    """What PostHog said during a request that is rolled back need not be asked again."""
    result = atomic_site.run(fail_in_a_request, ["ann"], ["ann"])

    assert result == {"status": 500, "written": 0, "after": ["posthog"]}
    assert len(posthog.flag_calls) in ([1] if atomic_site.cache_apart else [1, 2])


def test_rolled_back_request_keeps_the_circuit_open(
    atomic_site: Site, posthog: PostHogServer
) -> None:
    """A circuit that opened during a request that is rolled back stays open, for all."""
    posthog.flags_fault = Status(500, times=5)
    people = [f"person-{number}" for number in range(5)]

    result = atomic_site.run(fail_in_a_request, people, ["somebody else"])

    assert result == {"status": 500, "written": 0, "after": ["fallback"]}
    assert len(posthog.flag_calls) == 5


def ask_in_a_broken_transaction() -> dict[str, Any]:
    from django.contrib.auth.models import Group
    from django.db import IntegrityError, connection, transaction

    with Heard() as heard:
        with transaction.atomic():
            Group.objects.create(name="one of a kind")
            with pytest.raises(IntegrityError):
                Group.objects.create(name="one of a kind")
            broken = connection.needs_rollback
            with queries_of_this_thread() as queries:
                inside = sources("ann")
            still_broken = connection.needs_rollback
        after = sources_in_another_process("ann")
    return {
        "broken": [broken, still_broken],
        "queries": queries,
        "sources": inside + after,
        "written": Group.objects.count(),
        "heard": heard.messages,
    }


def test_broken_transaction_answers_and_stays_broken(site: Site, posthog: PostHogServer) -> None:
    """Where an error has doomed the caller's transaction flags answer, and it is rolled back."""
    assert site.run(ask_in_a_broken_transaction) == {
        "broken": [True, True],
        "queries": [],
        "sources": ["posthog", "posthog"],
        "written": 0,
        "heard": [],
    }
    assert len(posthog.flag_calls) in ([1] if site.cache_apart else [1, 2])


def clear_amid_writes() -> dict[str, Any]:
    from django.contrib.auth.models import Group
    from django.db import transaction

    from olposthog.features import clear_cache

    sources_that_last("ann")
    with Heard() as heard, transaction.atomic():
        Group.objects.create(name="written")
        clear_cache("ann")
    return {
        "after": sources_in_another_process("ann"),
        "written": Group.objects.count(),
        "warned": any("did not confirm" in message for message in heard.messages),
    }


def test_clearing_in_a_write_transaction_clears_or_says_so(
    site: Site, posthog: PostHogServer
) -> None:
    """Amid a caller's writes `clear_cache` makes flags be asked for anew, or the log says no."""
    result = site.run(clear_amid_writes)

    assert (result["after"], result["written"]) == (["posthog"], 1)
    cleared = len(posthog.flag_calls) == 2
    assert cleared or result["warned"]


def ask_and_count_connections() -> dict[str, int]:
    from django.db.backends.signals import connection_created

    made: list[Any] = []

    def note(connection: Any, **_: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            made.append(connection)

    connection_created.connect(note)
    sources("ann", "ben")
    sources_in_another_process("ann", "cleo")
    wait_for_writes()
    still_open = [connection for connection in made if connection.connection is not None]
    return {"made": len(made), "open": len(still_open)}


def test_worker_threads_close_their_connections(site: Site) -> None:
    """With CONN_MAX_AGE 0, as Django has it, no thread of ours holds a connection after use."""
    result = site.run(ask_and_count_connections)

    assert result["made"] > 0
    assert result["open"] == 0


def ask_under_a_lock(database: str) -> dict[str, Any]:
    with Heard() as heard, closing(sqlite3.connect(database, isolation_level=None)) as lock:
        until(lambda: sources("early") == ["posthog"])  # a cache that never answered is awaited
        wait_for_writes()
        lock.execute("BEGIN EXCLUSIVE")
        found = sources("ann", "ben", "cleo")
        lock.execute("ROLLBACK")
    return {"sources": found, "heard": heard.messages}


def test_locked_database_costs_a_warning(site: Site, posthog: PostHogServer) -> None:
    """While another connection locks the cache's file, PostHog answers within the bound."""
    result = site.run(ask_under_a_lock, str(site.cache_file))

    assert result["sources"] == ["posthog"] * 3
    assert len(posthog.flag_calls) == 4
    assert len(result["heard"]) == 1, result["heard"]
    assert "'durable' fails (no answer within 1 s)" in result["heard"][0]


def ask_many(number: int) -> dict[str, Any]:
    with Heard() as heard:
        found = sources(*(f"person-{index}" for index in range(number)))
        wait_for_writes()
    return {"sources": found, "heard": heard.messages}


def test_missing_table_costs_a_warning(site: Site, posthog: PostHogServer) -> None:
    """Where nobody ran createcachetable, PostHog answers, and the log says so once."""
    with closing(sqlite3.connect(site.cache_file)) as database:
        database.execute(f"DROP TABLE {CACHE_TABLE}")

    result = site.run(ask_many, 3)

    assert result["sources"] == ["posthog"] * 3
    assert len(posthog.flag_calls) == 3
    assert len(result["heard"]) == 1, result["heard"]
    assert "'durable' fails (OperationalError)" in result["heard"][0]


CONTROL = ":zz:"
"""What the keys of tokens and of the breaker's state have in common."""


@pytest.mark.parametrize(("entries", "people"), [(100, 200), (300, 400)])
def test_culling_spares_the_control_records(
    site: Site, posthog: PostHogServer, entries: int, people: int
) -> None:
    """A `DatabaseCache` that overflows throws people's entries away, and no token or state."""
    site.cache_entries = entries
    with closing(sqlite3.connect(site.cache_file)) as database:
        database.executescript(
            f"""
            CREATE TABLE culled (cache_key TEXT);
            CREATE TRIGGER note_culled AFTER DELETE ON {CACHE_TABLE}
            BEGIN INSERT INTO culled VALUES (old.cache_key); END;
            """
        )

    result = site.run(ask_many, people)

    assert result == {"sources": ["posthog"] * people, "heard": []}
    with closing(sqlite3.connect(site.cache_file)) as database:
        culled = [key for (key,) in database.execute("SELECT cache_key FROM culled")]
    assert any(CONTROL not in key for key in culled), "nothing was culled"
    assert [key for key in culled if CONTROL in key] == []
    assert any(key.endswith("zz:state") for key in site.cache_keys())
