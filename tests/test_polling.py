"""Definitions that a fleet shares: who fetches, how often, and what outlives every failure."""

from __future__ import annotations

import base64
import json
import logging
import re
import threading
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.cache import caches
from django.core.cache.backends.locmem import LocMemCache
from pytest_django import Settings

import olposthog._local.poller
from olposthog import conf
from olposthog._core import engine
from olposthog._local import Definitions
from olposthog._local.poller import (
    CLAIM_SECONDS,
    FETCH_SECONDS,
    LOOK_SECONDS,
    DefinitionsPoller,
    Head,
)
from olposthog._posthog import PostHogApi
from olposthog._shared.evaluation_cache import control_prefix
from olposthog._shared.large_text import MAX_PARTS, part_keys, unpack
from olposthog._shared.shared_cache import REST_SECONDS, SharedCache
from olposthog.features import evaluate
from olposthog.snapshot import Runtime, Source
from tests.posthog_faults import (
    Body,
    CutShort,
    Fault,
    Hang,
    Html,
    Quota,
    Redirect,
    Refuse,
    Reset,
    Status,
    TrickleBody,
    TrickleHeaders,
)
from tests.posthog_server import PATIENCE, PostHogServer, Variant
from tests.site.processes import until
from tests.test_definitions import flag

INTERVAL = 300.0
LOGGER = "olposthog._local.poller"


class Clock:
    """Seconds that pass for the whole fleet when a test says so."""

    def __init__(self) -> None:
        self.now = 1_750_000_000.0

    def __call__(self) -> float:
        return self.now


class Moody(LocMemCache):
    """A cache that can refuse everything, or drop what is written in silence."""

    refuses = False
    drops = False
    reads: list[str] = []
    written: list[str] = []

    def get_many(self, keys: Any, version: int | None = None) -> dict[Any, Any]:
        self._touch()
        keys = list(keys)
        type(self).reads += keys
        return super().get_many(keys, version)

    def get(self, *args: Any, **options: Any) -> Any:
        self._touch()
        return super().get(*args, **options)

    def add(self, *args: Any, **options: Any) -> bool:
        self._touch()
        return super().add(*args, **options)

    def set(self, key: str, *args: Any, **options: Any) -> None:
        self._touch()
        type(self).written.append(key)
        if not self.drops:
            super().set(key, *args, **options)

    def _touch(self) -> None:
        if self.refuses:
            raise ConnectionError("the cache is gone")


@pytest.fixture
def cache(settings: Settings) -> Iterator[type[Moody]]:
    """The shared cache, whose moods are those of the class."""
    settings.CACHES = {
        **settings.CACHES,
        "durable": {"BACKEND": f"{__name__}.Moody", "LOCATION": "moody"},
    }
    Moody.refuses = Moody.drops = False
    caches["durable"].clear()
    Moody.reads, Moody.written = [], []
    yield Moody
    Moody.refuses = Moody.drops = False
    caches["durable"].clear()


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Process:
    """One process's poll, without its thread: it looks when a test says so."""

    def __init__(self, clock: Clock, skew: float = 0.0) -> None:
        self.skew = skew
        self.shared = SharedCache("durable", read_seconds=PATIENCE, clock=clock)
        self.poll: DefinitionsPoller[Definitions] = DefinitionsPoller(
            PostHogApi(conf.current(), connections=1, clock=clock),
            self.shared,
            control_prefix("project"),
            lambda definitions: definitions,
            interval_seconds=INTERVAL,
            clock=clock,
            wall=lambda: clock.now + self.skew,
        )

    def look(self) -> list[str] | None:
        """Look once, see the writes off, and return the keys of the flags."""
        self.poll.look()
        assert self.shared.settle(PATIENCE)
        return self.keys

    @property
    def keys(self) -> list[str] | None:
        definitions = self.poll._loaded
        return None if definitions is None else list(definitions.flags)

    @property
    def head(self) -> Head:
        assert self.poll.head is not None
        return self.poll.head


@pytest.fixture
def start(
    posthog: PostHogServer, settings: Settings, cache: type[Moody], clock: Clock
) -> Iterator[Callable[..., Process]]:
    """Starts processes that fetch from the stand-in PostHog."""
    settings.POSTHOG_ENABLED = True
    settings.POSTHOG_PROJECT_API_KEY = posthog.token
    settings.POSTHOG_PERSONAL_API_KEY = posthog.secret
    settings.POSTHOG_API_HOST = posthog.url
    settings.POSTHOG_FEATURE_FLAG_REQUEST_TIMEOUT_MS = 150
    define(posthog, "a")
    started: list[Process] = []

    def start_one(**options: Any) -> Process:
        started.append(Process(clock, **options))
        return started[-1]

    yield start_one
    for process in started:
        process.poll.close()
        process.shared.close()


@pytest.fixture
def process(start: Callable[..., Process]) -> Process:
    return start()


def define(posthog: PostHogServer, *keys: str) -> None:
    posthog.definitions = {"flags": [flag(key) for key in keys]}


PREFIX = f"{control_prefix('project')}definitions:"


def shared_head() -> Head:
    """Return the head in the shared cache."""
    head = Head.from_text(caches["durable"].get(f"{PREFIX}head"))
    assert head is not None
    return head


def shared_parts() -> list[str]:
    """Return the keys of the parts in the shared cache, of whichever text they are."""
    stored: dict[str, Any] = caches["durable"]._cache  # type: ignore[attr-defined]  # LocMemCache's
    keys = [key.split(":", 2)[2] for key in stored]
    return sorted(key for key in keys if re.fullmatch(PREFIX + "[0-9a-f]{64}:[0-9]+", key))


def shared_text() -> Any:
    """Return the definitions in the shared cache."""
    head = shared_head()
    keys = part_keys(PREFIX, head.digest, head.parts)
    assert shared_parts() == sorted(keys)  # and no others
    text = unpack([caches["durable"].get(key) for key in keys], head.digest)
    assert text is not None
    return json.loads(text)


def put_head(value: object) -> None:
    put(f"{PREFIX}head", value)


def put_parts(value: object) -> None:
    for key in shared_parts():
        put(key, value)


def put(key: str, value: object) -> None:
    if value is None:
        caches["durable"].delete(key)
    else:
        caches["durable"].set(key, value, None)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == LOGGER]


# ---- an answer of PostHog


def test_first_look_fetches(process: Process, posthog: PostHogServer) -> None:
    """Where nobody has definitions yet, the first process that looks fetches them."""
    assert process.look() == ["a"]

    (request,) = posthog.definition_calls
    assert request.headers["Authorization"] == f"Bearer {posthog.secret}"
    assert dict(request.query) == {"token": posthog.token, "send_cohorts": ""}
    assert "If-None-Match" not in request.headers


def test_answer_is_shared(process: Process, posthog: PostHogServer, clock: Clock) -> None:
    """What was fetched stands in the shared cache as it was sent, with a head that names it."""
    process.look()

    assert shared_text() == posthog.definitions
    head = shared_head()
    assert head == process.head
    assert (head.checked_at, head.fetched_at, head.failure) == (clock.now, clock.now, "")
    assert head.etag
    assert len(head.digest) == 64


def test_nothing_expires(process: Process, posthog: PostHogServer) -> None:
    """Definitions stand in the shared cache without an expiry: quiet times do not end them."""
    process.look()

    expiries: dict[str, Any] = caches["durable"]._expire_info  # type: ignore[attr-defined]  # LocMemCache's
    kept = [at for key, at in expiries.items() if PREFIX in key and ":fetch:" not in key]
    assert kept == [None, None]


def test_no_second_fetch_within_the_interval(
    process: Process, posthog: PostHogServer, clock: Clock
) -> None:
    """However often a process looks, an interval costs one fetch."""
    for _ in range(60):
        process.look()
        clock.now += 4.99

    assert len(posthog.definition_calls) == 1


def test_next_interval_asks_with_the_etag(
    process: Process, posthog: PostHogServer, clock: Clock
) -> None:
    """After the interval PostHog is asked for news only: a 304 is not billed, and keeps them."""
    process.look()
    first = process.head
    clock.now += INTERVAL

    assert process.look() == ["a"]

    assert [call.headers.get("If-None-Match") for call in posthog.definition_calls] == [
        None,
        first.etag,
    ]
    assert (posthog.definitions_sent, posthog.definitions_not_modified) == (1, 1)


def test_not_modified_begins_a_new_turn(
    process: Process, posthog: PostHogServer, clock: Clock
) -> None:
    """A 304 is an answer: the head says when, keeps digest and ETag, and the next turn counts."""
    process.look()
    first = process.head

    for number in range(1, 6):
        clock.now += INTERVAL
        process.look()
        head = shared_head()
        assert head.token != first.token
        assert head.checked_at == clock.now
        assert (head.digest, head.etag, head.fetched_at) == (
            first.digest,
            first.etag,
            first.fetched_at,
        )
        assert posthog.definitions_not_modified == number
    assert shared_text() == posthog.definitions


def test_news_replace_what_was_known(
    process: Process, posthog: PostHogServer, clock: Clock
) -> None:
    """Other definitions are used from the fetch on, and shared with a new digest and ETag."""
    process.look()
    first = process.head
    define(posthog, "a", "b")
    clock.now += INTERVAL

    assert process.look() == ["a", "b"]
    head = shared_head()
    assert head.digest != first.digest
    assert head.etag != first.etag
    assert head.fetched_at == clock.now
    assert shared_text() == posthog.definitions


def test_news_without_an_etag(process: Process, posthog: PostHogServer, clock: Clock) -> None:
    """A proxy that strips ETags costs whole answers, and no definitions."""
    posthog.definitions_fault = Body(json.dumps(posthog.definitions).encode())
    process.look()
    clock.now += INTERVAL
    process.look()

    assert process.keys == ["a"]
    assert [call.headers.get("If-None-Match") for call in posthog.definition_calls] == [None] * 2


def test_empty_project_is_an_answer(process: Process, posthog: PostHogServer, clock: Clock) -> None:
    """A project without flags has definitions: none. They are kept for the interval too."""
    posthog.definitions = {"flags": []}

    assert process.look() == []
    clock.now += FETCH_SECONDS * 3
    process.look()

    assert len(posthog.definition_calls) == 1
    clock.now += INTERVAL
    process.look()
    assert posthog.definitions_not_modified == 1


def test_head_says_how_many_flags_there_are(
    process: Process, posthog: PostHogServer, clock: Clock
) -> None:
    """The number is that of the version in use, also after a fetch that brought nothing new."""
    define(posthog, "a", "b")
    process.look()
    assert process.head.flags == 2

    clock.now += INTERVAL
    process.look()
    assert posthog.definitions_not_modified == 1
    assert shared_head().flags == 2

    define(posthog, "a")
    clock.now += INTERVAL
    process.look()
    assert shared_head().flags == 1


# ---- looking without taking part


def test_peek_sees_what_the_fleet_has(start: Callable[..., Process], clock: Clock) -> None:
    """A process that only looks learns what another one fetched, however late that is."""
    start().look()
    clock.now += INTERVAL * 10

    assert start().poll.peek() == shared_head()


def test_peek_takes_no_part(
    process: Process, posthog: PostHogServer, cache: type[Moody], clock: Clock
) -> None:
    """Where a fetch is due it is not made, nor claimed, and no thread starts."""
    assert process.poll.peek() is None
    assert process.shared.settle(PATIENCE)

    assert posthog.requests == []
    stored: Any = caches["durable"]
    assert stored._cache == {}
    assert process.poll._thread is None
    assert process.look() == ["a"]  # the turn is still to be had


def test_peek_without_a_cache_is_what_the_process_knows(
    process: Process, cache: type[Moody]
) -> None:
    """A cache that cannot be read takes nothing away."""
    process.look()
    cache.refuses = True

    assert process.poll.peek() == process.head


# ---- a fleet


def test_second_process_reads_along(
    start: Callable[..., Process], process: Process, posthog: PostHogServer
) -> None:
    """A process that starts later takes definitions from the shared cache, and fetches none."""
    process.look()

    second = start()

    assert second.look() == ["a"]
    assert second.head == process.head
    assert len(posthog.definition_calls) == 1


def test_text_is_read_once_per_version(
    start: Callable[..., Process], process: Process, posthog: PostHogServer, clock: Clock
) -> None:
    """A look reads the small head; the definitions are read when they are others."""
    process.look()
    (part,) = shared_parts()
    second = start()
    Moody.reads = []
    for _ in range(5):
        second.look()
    assert Moody.reads.count(part) == 1

    clock.now += INTERVAL
    process.look()
    Moody.reads = []
    second.look()
    assert part not in Moody.reads


def test_one_fetch_per_interval_among_many(
    start: Callable[..., Process], posthog: PostHogServer, clock: Clock
) -> None:
    """Ten processes over ten intervals make ten fetches, and each has the newest at once."""
    fleet = [start() for _ in range(10)]
    for number in range(10):
        define(posthog, "a", f"b{number}")
        for one in fleet:
            one.look()
        assert [one.look() for one in fleet] == [["a", f"b{number}"]] * 10
        clock.now += INTERVAL

    assert len(posthog.definition_calls) == 10


def test_one_fetch_among_processes_that_start_together(
    start: Callable[..., Process], posthog: PostHogServer
) -> None:
    """Processes that find nothing at the same moment let one of them fetch."""
    fleet = [start() for _ in range(8)]
    begin = threading.Barrier(len(fleet))

    def look(one: Process) -> None:
        begin.wait(PATIENCE)
        one.look()

    threads = [threading.Thread(target=look, args=(one,)) for one in fleet]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)

    assert len(posthog.definition_calls) == 1
    assert [one.look() for one in fleet] == [["a"]] * 8
    assert len(posthog.definition_calls) == 1


def test_fetcher_that_dies_costs_one_turn(
    start: Callable[..., Process], process: Process, posthog: PostHogServer, clock: Clock
) -> None:
    """Who claimed a turn and died is replaced in the next one, by somebody else."""
    process.look()
    second, third = start(), start()
    second.look()
    third.look()
    clock.now += INTERVAL
    assert second.poll._is_our_turn()  # and is never seen again
    assert third.look() == ["a"]
    assert len(posthog.definition_calls) == 1

    clock.now += INTERVAL
    define(posthog, "b")

    assert third.look() == ["b"]
    assert len(posthog.definition_calls) == 2


def test_without_definitions_a_turn_is_as_long_as_a_fetch(
    start: Callable[..., Process], posthog: PostHogServer, clock: Clock
) -> None:
    """While nobody has any, who dies amid the first fetch is replaced after a fetch's time."""
    clock.now -= clock.now % FETCH_SECONDS
    first, second = start(), start()
    assert first.poll._is_our_turn()  # and is never seen again
    assert second.look() is None
    assert posthog.definition_calls == []

    clock.now += FETCH_SECONDS
    assert second.look() == ["a"]


def test_death_amid_the_first_fetch(
    start: Callable[..., Process], posthog: PostHogServer, clock: Clock
) -> None:
    """Who died when the fetch was under way had left a head: the rest count from there."""
    first, second, third = start(), start(), start()
    posthog.definitions_fault = Hang(times=1)
    first.poll._fail = lambda *_: None  # type: ignore[method-assign]  # it dies before it can say so
    assert first.poll._is_our_turn()
    first.poll._fetch()
    assert first.shared.settle(PATIENCE)
    assert shared_head().digest == ""

    clock.now += FETCH_SECONDS - 0.1
    assert second.look() is None
    clock.now += 0.1
    assert [second.look(), third.look()] == [["a"], ["a"]]
    assert len(posthog.definition_calls) == 2


def test_clocks_a_minute_apart(
    start: Callable[..., Process], posthog: PostHogServer, clock: Clock
) -> None:
    """Machines that disagree about the time still make one fetch an interval."""
    fleet = [start(skew=skew) for skew in (0.0, 60.0, -60.0)]
    for one in fleet:
        one.look()
    for _ in range(600):
        clock.now += 5
        for one in fleet:
            one.look()

    assert 10 <= len(posthog.definition_calls) <= 12


def test_clock_that_was_wrong_for_a_moment(
    start: Callable[..., Process], posthog: PostHogServer, clock: Clock
) -> None:
    """A fetch that was dated a day ahead does not keep the fleet from the next one."""
    start(skew=86_400).look()
    process = start()
    process.look()
    clock.now += INTERVAL

    process.look()

    assert len(posthog.definition_calls) == 2
    assert shared_head().checked_at == clock.now


@pytest.mark.parametrize("skew", [301, 3_600, 86_400])
def test_workers_that_live_shorter_than_the_interval_fetch(
    start: Callable[..., Process], posthog: PostHogServer, clock: Clock, skew: float
) -> None:
    """A fetch by a clock that was ahead counts as now, from the first worker on that reads it."""
    start(skew=skew).look()
    define(posthog, "b")
    for _ in range(int(INTERVAL / 30)):
        assert start().look() == ["a"]
        clock.now += 30

    assert start().look() == ["b"]
    assert len(posthog.definition_calls) == 2
    assert (shared_head().checked_at, shared_head().fetched_at) == (clock.now, clock.now)


def test_head_of_a_clock_that_is_a_little_ahead_is_not_replaced(
    start: Callable[..., Process], cache: type[Moody]
) -> None:
    """A small difference between clocks costs no write."""
    start(skew=120).look()
    cache.written.clear()

    start().look()
    assert cache.written == []


def test_clock_that_jumps(
    start: Callable[..., Process], process: Process, posthog: PostHogServer, clock: Clock
) -> None:
    """A machine whose clock is put forward knows when the turn began, and fetches no earlier."""
    fleet = [process, start()]
    for _ in range(int(INTERVAL / 5) + 2):
        for one in fleet:
            one.look()
        clock.now += 5
    for one in fleet:
        one.skew = 86_400
        one.look()

    assert len(posthog.definition_calls) == 2


def test_claims_outlive_their_turn(process: Process, posthog: PostHogServer) -> None:
    """A turn stays claimed for machines whose clocks come to it later."""
    process.look()

    process.shared.claim("now", FETCH_SECONDS + CLAIM_SECONDS)
    expiries: dict[str, Any] = caches["durable"]._expire_info  # type: ignore[attr-defined]  # LocMemCache's
    (claim,) = [expires for key, expires in expiries.items() if ":fetch:" in key]
    (now,) = [expires for key, expires in expiries.items() if key.endswith(":now")]
    assert claim == pytest.approx(now, abs=60)


# ---- failures

FAILURES = [
    (Status(401), "HTTP 401"),
    (Status(402), "HTTP 402"),
    (Quota(), "HTTP 402"),
    (Status(403), "HTTP 403"),
    (Status(429, retry_after=3600), "HTTP 429"),
    (Status(500), "HTTP 500"),
    (Status(503), "HTTP 503"),
    (Status(204, body=""), "HTTP 204"),
    (Html(), "a reply that is not flag definitions"),
    (Body(b""), "a reply that is not flag definitions"),
    (Body(b"{}"), "a reply that is not flag definitions"),
    (Body(b"[]"), "a reply that is not flag definitions"),
    (Body(b"null"), "a reply that is not flag definitions"),
    (Body(b"\xff\xfe\x00"), "a reply that is not flag definitions"),
    (Body(b"[" * 200_000), "a reply that is not flag definitions"),
    (Body(b'{"flags": {}}'), "a reply that is not flag definitions"),
    (Redirect(302), "redirect"),
    (Redirect(308), "redirect"),
    (Hang(), "timeout"),
    (TrickleHeaders(interval=30), "timeout"),
    (TrickleBody(interval=30), "timeout"),
    (Reset(), "connection failed"),
    (CutShort(), "connection failed"),
]


@pytest.mark.parametrize(("fault", "reason"), FAILURES, ids=lambda value: str(value)[:50])
def test_failure_keeps_the_last_good_ones(
    *,
    start: Callable[..., Process],
    process: Process,
    posthog: PostHogServer,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    fault: Fault,
    reason: str,
) -> None:
    """Whatever PostHog does, definitions stay, everyone learns why, and one line says so."""
    process.look()
    second = start()
    second.look()
    good = shared_head()
    define(posthog, "b")  # so that a healthy answer would have a body
    posthog.definitions_fault = fault
    for _ in range(2):
        clock.now += INTERVAL
        assert [process.look(), second.look()] == [["a"], ["a"]]

    assert len(posthog.definition_calls) == 3
    assert shared_head().failure == process.head.failure == second.head.failure == reason
    assert shared_head().digest == good.digest
    assert lines(caplog) == [
        f"Flag definitions cannot be fetched ({reason}); the last good ones stay in use."
    ]
    assert start().look() == ["a"]

    posthog.heal()
    caplog.clear()
    clock.now += INTERVAL
    assert [second.look(), process.look()] == [["b"], ["b"]]
    assert shared_head().failure == ""
    assert lines(caplog) == ["Flag definitions can be fetched again."]


def test_refused_connection_keeps_the_last_good_ones(
    process: Process, posthog: PostHogServer, clock: Clock
) -> None:
    """A PostHog that is not there keeps nobody from the definitions that are."""
    process.look()
    posthog.fault = Refuse()
    clock.now += INTERVAL

    assert process.look() == ["a"]
    assert shared_head().failure == "connection refused"


def test_failure_of_the_first_fetch(
    start: Callable[..., Process],
    process: Process,
    posthog: PostHogServer,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Without definitions PostHog evaluates; the fleet tries once in a fetch's time."""
    posthog.definitions_fault = Status(503)
    fleet = [process, start(), start()]
    for _ in range(12):  # a minute
        for one in fleet:
            assert one.look() is None
        clock.now += 5

    assert len(posthog.definition_calls) == 6
    assert lines(caplog) == ["Flag definitions cannot be fetched (HTTP 503); PostHog evaluates."]
    posthog.heal()
    for one in fleet:
        one.look()
    assert [one.look() for one in fleet] == [["a"]] * 3
    assert lines(caplog)[1:] == ["Flag definitions can be fetched again."]


def test_failure_that_changes_is_no_news(
    process: Process, posthog: PostHogServer, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """An outage that shows different faces is one outage in the log; the head has the last."""
    process.look()
    for fault in (Status(500), Hang(), Html(), Status(401)):
        posthog.definitions_fault = fault
        clock.now += INTERVAL
        process.look()

    assert len(lines(caplog)) == 1
    assert shared_head().failure == "HTTP 401"


def test_not_modified_ends_an_outage(
    process: Process, posthog: PostHogServer, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """After an outage the ETag is still good: coming back costs nothing."""
    process.look()
    posthog.definitions_fault = Status(500)
    clock.now += INTERVAL
    process.look()
    posthog.heal()
    clock.now += INTERVAL
    process.look()

    assert (posthog.definitions_sent, posthog.definitions_not_modified) == (1, 1)
    assert lines(caplog)[1:] == ["Flag definitions can be fetched again."]
    assert shared_head().failure == ""


def test_late_failure_does_not_undo_a_success(
    start: Callable[..., Process], process: Process, posthog: PostHogServer, clock: Clock
) -> None:
    """A fetch that hangs while another process has the next turn spoils nothing of it."""
    process.look()
    second = start()
    second.look()
    clock.now += INTERVAL
    slow_head = second.head
    assert second.poll._is_our_turn()
    clock.now += INTERVAL
    define(posthog, "b")
    process.look()
    newer = shared_head()

    second.poll._fail(slow_head, "timeout")
    assert second.shared.settle(PATIENCE)

    assert shared_head() == newer
    assert second.look() == ["b"]


# ---- a shared cache that loses things


def test_shared_cache_restarted_empty(
    start: Callable[..., Process], process: Process, posthog: PostHogServer
) -> None:
    """What the shared cache lost, a process that has it writes again, without a fetch."""
    process.look()
    before = process.head
    caches["durable"].clear()

    process.look()

    assert shared_head() == before
    assert start().look() == ["a"]
    assert len(posthog.definition_calls) == 1


@pytest.mark.parametrize(
    "garbage",
    [
        None,
        "",
        "null",
        "[]",
        "{}",
        "7",
        b"bytes",
        42,
        "x" * 100,
        "[" * 100_000,
        '{"token": 1, "checked_at": 1}',
        '{"token": "x", "checked_at": "noon"}',
        '{"token": "x", "checked_at": NaN}',
        f'{{"token": "x", "checked_at": {10**400}}}',
        '{"token": "x", "checked_at": 1, "digest": null}',
        '{"token": "x", "checked_at": 1, "etag": 5}',
        '{"token": "x", "checked_at": 1, "unheard": "of"}',
    ],
    ids=lambda value: repr(value)[:40],
)
def test_unusable_head(
    start: Callable[..., Process],
    process: Process,
    posthog: PostHogServer,
    clock: Clock,
    garbage: object,
) -> None:
    """A head that is lost or not ours costs a newcomer one fetch, and others write it again."""
    process.look()
    clock.now += FETCH_SECONDS
    put_head(garbage)
    assert start().look() == ["a"]
    assert len(posthog.definition_calls) == 2

    put_head(garbage)
    process.look()
    assert start().look() == ["a"]
    assert len(posthog.definition_calls) == 2


@pytest.mark.parametrize(
    "garbage", [None, "", "{}", '{"flags": []}', b"bytes", 42, ["flags"]], ids=repr
)
def test_unusable_body(
    start: Callable[..., Process],
    process: Process,
    posthog: PostHogServer,
    clock: Clock,
    garbage: object,
) -> None:
    """A body that is lost or not what the head names costs the newcomers one fetch in all."""
    process.look()
    clock.now += FETCH_SECONDS
    put_parts(garbage)
    newcomers = [start() for _ in range(3)]
    for one in newcomers:
        one.look()
    for one in newcomers:
        one.look()

    assert [one.keys for one in newcomers] == [["a"]] * 3
    assert len(posthog.definition_calls) == 2
    assert shared_text() == posthog.definitions


def test_unusable_body_in_an_outage(
    start: Callable[..., Process], process: Process, posthog: PostHogServer, clock: Clock
) -> None:
    """Where a newcomer cannot fetch what the body lost, whoever has it writes it again."""
    process.look()
    clock.now += FETCH_SECONDS
    put_parts(None)
    posthog.definitions_fault = Status(500)
    newcomer = start()
    assert newcomer.look() is None

    process.look()

    assert newcomer.look() == ["a"]
    assert start().look() == ["a"]


def test_newcomers_share_an_outage_with_a_lost_body(
    start: Callable[..., Process], process: Process, posthog: PostHogServer, clock: Clock
) -> None:
    """Newcomers that find no body and cannot fetch one take turns, as if nothing were there."""
    process.look()
    put_parts(None)
    posthog.clear()
    posthog.definitions_fault = Status(500)
    newcomers = [start() for _ in range(5)]
    for _ in range(12):  # a minute
        for one in newcomers:
            one.look()
        clock.now += 5

    assert len(posthog.definition_calls) <= 7


def test_write_that_was_dropped(
    start: Callable[..., Process],
    process: Process,
    posthog: PostHogServer,
    clock: Clock,
    cache: type[Moody],
) -> None:
    """Who fetched keeps what was fetched, and writes again what the cache dropped in silence."""
    process.look()
    second = start()
    second.look()
    define(posthog, "b")
    clock.now += INTERVAL
    cache.drops = True
    process.look()
    assert [process.look(), second.look()] == [["b"], ["a"]]

    cache.drops = False

    assert process.look() == ["b"]
    assert second.look() == ["b"]
    assert len(posthog.definition_calls) == 2


def test_not_modified_that_was_dropped(
    process: Process, posthog: PostHogServer, clock: Clock, cache: type[Moody]
) -> None:
    """A 304 whose head was dropped is no reason to ask again: it is written again."""
    process.look()
    clock.now += INTERVAL
    cache.drops = True
    process.look()
    answered = process.head
    cache.drops = False

    process.look()

    assert shared_head() == answered == process.head
    assert len(posthog.definition_calls) == 2


# ---- a shared cache that cannot be read


def test_unreadable_cache_leaves_each_process_to_itself(
    start: Callable[..., Process],
    process: Process,
    posthog: PostHogServer,
    clock: Clock,
    cache: type[Moody],
) -> None:
    """While the cache refuses, each process fetches once an interval, and only for news."""
    fleet = [process, start()]
    cache.refuses = True
    for _ in range(3):
        for _ in range(20):
            assert [one.look() for one in fleet] == [["a"]] * 2
            clock.now += INTERVAL / 20

    assert len(posthog.definition_calls) == 6
    assert (posthog.definitions_sent, posthog.definitions_not_modified) == (2, 4)


def test_unreadable_cache_and_a_failing_posthog(
    process: Process, posthog: PostHogServer, clock: Clock, cache: type[Moody]
) -> None:
    """With nothing at all to go by, a process asks once in a fetch's time."""
    cache.refuses = True
    posthog.definitions_fault = Status(500)
    for _ in range(60):  # a minute
        process.look()
        clock.now += 1

    assert 6 <= len(posthog.definition_calls) <= 7


def test_cache_comes_back(
    start: Callable[..., Process],
    process: Process,
    posthog: PostHogServer,
    clock: Clock,
    cache: type[Moody],
) -> None:
    """When the cache can be read again, the fleet is one again."""
    fleet = [process, start(), start()]
    cache.refuses = True
    for one in fleet:
        one.look()
    cache.refuses = False
    clock.now += REST_SECONDS
    for one in fleet:
        one.look()  # has a thread find out whether the cache answers
        until(lambda one=one: not one.shared.is_away)  # type: ignore[misc]  # bound at once
        one.look()
    posthog.clear()
    define(posthog, "b")
    clock.now += INTERVAL

    for one in fleet:
        one.look()

    assert [one.look() for one in fleet] == [["b"]] * 3
    assert len(posthog.definition_calls) == 1


def test_ignorance_does_not_wipe_what_is_shared(
    start: Callable[..., Process],
    process: Process,
    posthog: PostHogServer,
    clock: Clock,
    cache: type[Moody],
) -> None:
    """A process that booted blind and could not fetch leaves the shared definitions alone."""
    process.look()
    good = shared_head()
    blind = start()
    cache.refuses = True
    posthog.definitions_fault = Status(500)
    assert blind.look() is None
    cache.refuses = False
    clock.now += REST_SECONDS
    blind.poll._fetch()
    assert blind.shared.settle(PATIENCE)

    assert shared_head() == good
    until(lambda: blind.look() == ["a"])


def test_body_that_cannot_be_read_is_waited_for(
    start: Callable[..., Process],
    process: Process,
    clock: Clock,
    cache: type[Moody],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A cache that fails between head and body has lost nothing: both are read at the next look."""
    process.look()
    good = shared_head()
    second = start()
    read = cache.get_many

    def fail_for_parts(self: Moody, keys: Any, version: int | None = None) -> Any:
        keys = list(keys)
        if any(key in shared_parts() for key in keys):
            raise ConnectionError
        return read(self, keys, version)

    with monkeypatch.context() as patched:
        patched.setattr(cache, "get_many", fail_for_parts)
        assert second.look() is None

    assert shared_head() == good
    clock.now += REST_SECONDS
    until(lambda: second.look() == ["a"])


def test_closed_poll_blames_nobody(
    process: Process, posthog: PostHogServer, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """A process whose settings change amid a look complains of no fetch that fails by it."""
    process.look()
    clock.now += INTERVAL
    process.poll.close()
    process.look()

    assert caplog.messages == []
    assert process.head.failure == ""


# ---- what is written


def test_text_is_not_written_again(
    process: Process, posthog: PostHogServer, clock: Clock, cache: type[Moody]
) -> None:
    """Parts that are stored are not written again, whatever becomes of the head or of PostHog."""
    process.look()
    parts = shared_parts()
    cache.written = []
    for fault in (None, Status(500), None):
        posthog.definitions_fault = fault
        put_head(None)
        process.look()
        clock.now += INTERVAL
        process.look()

    assert set(cache.written) == {f"{PREFIX}head"}
    assert shared_parts() == parts

    # Another build of zlib compresses to other bytes, which say the same.
    text = json.dumps(posthog.definitions).encode()
    other = base64.b64encode(zlib.compress(text, 1)).decode()
    assert other != caches["durable"].get(parts[0])
    put(parts[0], other)
    cache.written = []
    clock.now += INTERVAL
    process.look()

    assert cache.written == [f"{PREFIX}head"]
    assert caches["durable"].get(parts[0]) == other
    assert shared_text() == posthog.definitions


def test_only_missing_parts_are_written(
    process: Process, clock: Clock, cache: type[Moody], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the cache lost one part of several, that one is written again and no other."""
    monkeypatch.setattr("olposthog._shared.large_text.PART_CHARACTERS", 50)
    process.look()
    parts = shared_parts()
    assert len(parts) > 2
    put(parts[1], None)
    cache.written = []
    clock.now += INTERVAL
    process.look()

    assert cache.written == [parts[1], f"{PREFIX}head"]


def test_head_is_written_last(
    start: Callable[..., Process], process: Process, cache: type[Moody]
) -> None:
    """A process that dies while it writes leaves no head that names what is not there."""
    process.look()

    head, (part,) = f"{PREFIX}head", shared_parts()
    assert cache.written == [head, part, head]  # the first says that a fetch is under way


@pytest.mark.parametrize("parts", [-1, 1.5, True, None, "1", MAX_PARTS + 1], ids=repr)
def test_head_with_an_impossible_number_of_parts(
    start: Callable[..., Process], process: Process, clock: Clock, parts: object
) -> None:
    """A head that names no possible parts counts as lost."""
    process.look()
    text = json.dumps({**json.loads(shared_head().to_text()), "parts": parts})

    assert Head.from_text(text) is None


def test_head_of_an_earlier_version(
    start: Callable[..., Process], process: Process, posthog: PostHogServer, clock: Clock
) -> None:
    """Where a head names no parts, each process fetches once, and the next turn stores them."""
    process.look()
    earlier = json.loads(shared_head().to_text())
    del earlier["parts"]
    put_parts(None)
    put_head(json.dumps(earlier))

    second = start()
    assert second.look() == ["a"]
    assert second.look() == ["a"]
    assert len(posthog.definition_calls) == 2

    clock.now += INTERVAL
    second.look()
    assert shared_text() == posthog.definitions
    assert start().look() == ["a"]
    assert len(posthog.definition_calls) == 3


def test_looks_have_jitter(process: Process) -> None:
    """Between half and all of the pause passes before the next look, and each is drawn anew."""
    drawn, paused = iter([0.0, 0.5, 1.0]), []

    class Pauses(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            paused.append(timeout)
            if len(paused) == 3:
                self.set()
            return self.is_set()

    process.poll._chance = lambda: next(drawn)
    process.poll._closed = Pauses()
    process.poll._keep_looking()

    assert paused == [LOOK_SECONDS / 2, LOOK_SECONDS * 0.75, LOOK_SECONDS]


# ---- a whole process


@pytest.fixture
def polling(enabled: PostHogServer, settings: Settings) -> PostHogServer:
    """A process that polls for definitions, as production does."""
    settings.POSTHOG_PERSONAL_API_KEY = enabled.secret
    define(enabled, "a")
    return enabled


def poll() -> DefinitionsPoller[Any]:
    found = engine.current().poller
    assert found is not None
    return found


def warm_up() -> None:
    """Have definitions in this process, and in the shared cache."""
    evaluate("early")
    until(lambda: poll().current() is not None)
    poll().settle(PATIENCE)  # until the look has ended that loaded them, and has written them
    assert engine.current().shared.settle(PATIENCE)


def ours() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if "olposthog" in thread.name}


def threads() -> set[str]:
    return {thread.name for thread in ours()}


def test_definitions_evaluate(polling: PostHogServer) -> None:
    """Once definitions are there, they answer and PostHog is asked for nothing more."""
    warm_up()
    polling.clear()

    snapshot = evaluate("u1")

    assert (snapshot.source, snapshot.flags) == (Source.LOCAL, {"a": True})
    assert polling.requests == []


def test_fetch_is_never_in_a_callers_thread(
    polling: PostHogServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Definitions are fetched, parsed and built in background threads only."""
    worked: set[str] = set()
    fetch, make = PostHogApi.fetch_definitions, DefinitionsPoller._load

    def watched_fetch(self: Any, *args: Any, **options: Any) -> Any:
        worked.add(threading.current_thread().name)
        return fetch(self, *args, **options)

    def watched_load(self: Any, text: str) -> bool:
        worked.add(threading.current_thread().name)
        return make(self, text)

    monkeypatch.setattr(PostHogApi, "fetch_definitions", watched_fetch)
    monkeypatch.setattr(DefinitionsPoller, "_load", watched_load)

    warm_up()
    engine.reset()
    evaluate("u1")

    assert worked == {"olposthog-definitions", "olposthog-fetch-1"}


def test_hanging_definitions_hold_up_no_caller(polling: PostHogServer) -> None:
    """While the first fetch hangs, PostHog evaluates: nobody waits for definitions."""
    polling.definitions_fault = Hang()
    polling.flags = {"a": True}

    snapshot = evaluate("u1")

    assert (snapshot.source, snapshot.flags) == (Source.POSTHOG, {"a": True})
    polling.wait_until(lambda: polling.definition_calls)
    assert polling.in_flight == 1
    assert poll()._has_looked.is_set()  # so that nobody waits for what comes after the look


def test_boot_while_posthog_is_down(
    polling: PostHogServer, settings: Settings, another_process: Callable[[], None]
) -> None:
    """A process that starts in an outage answers from the shared definitions, from the first."""
    settings.FEATURES = {"a": False}
    warm_up()
    polling.clear()
    polling.fault = Status(500)

    for number in range(20):
        another_process()
        first = evaluate(f"u{number}")
        assert (first.source, first.flags) == (Source.LOCAL, {"a": True})

    assert polling.requests == []


def test_boot_while_posthog_refuses(
    polling: PostHogServer, another_process: Callable[[], None]
) -> None:
    """The same with nobody listening at PostHog's address."""
    warm_up()
    another_process()
    polling.fault = Refuse()

    assert evaluate("u1").source is Source.LOCAL


def test_nothing_starts_before_a_flag_is_asked_for(polling: PostHogServer) -> None:
    """Building the evaluator starts no thread and asks nobody."""
    before = threads()

    assert engine.current().poller is not None

    assert threads() == before
    assert polling.requests == []


@pytest.mark.parametrize(
    "changes",
    [
        {"POSTHOG_ENABLED": False},
        {"POSTHOG_PERSONAL_API_KEY": ""},
        {"POSTHOG_PERSONAL_API_KEY": None},
        {"POSTHOG_API_HOST": ""},
        {"POSTHOG_FLAG_DEFINITIONS_FILE": "/does/not/exist.json"},
    ],
    ids=str,
)
def test_nobody_polls_who_need_not(
    polling: PostHogServer, settings: Settings, changes: dict[str, Any]
) -> None:
    """Switched off, without a personal key, misconfigured or offline: no poll and no thread."""
    for name, value in changes.items():
        setattr(settings, name, value)

    evaluate("u1")

    assert engine.current().poller is None
    assert "olposthog-definitions" not in threads()
    assert polling.definition_calls == []


@pytest.mark.parametrize("runtime", Runtime)
def test_flag_that_moves_to_one_runtime_leaves_the_other(
    polling: PostHogServer, settings: Settings, runtime: Runtime
) -> None:
    """What PostHog said of a flag before is not shown where definitions now keep it from."""
    other = next(one for one in Runtime if one is not runtime)
    settings.POSTHOG_LOCAL_CACHE_SECONDS = 0
    polling.flags = {"moving": Variant("test", payload=1), "sticky": True}
    sticky = flag("sticky", ensure_experience_continuity=True)  # only PostHog decides it
    polling.definitions = {"flags": [flag("moving"), sticky]}
    warm_up()
    before = evaluate("u1", runtime=runtime)
    assert set(before.flags) == {"moving", "sticky"}

    polling.definitions = {"flags": [flag("moving", evaluation_runtime=other.value), sticky]}
    poll()._fetch()
    after = evaluate("u1", runtime=runtime)

    assert dict(after.flags) == {"sticky": True}
    assert "moving" not in {**after.payloads, **after.reasons}
    assert len(polling.flag_calls) == 2  # the early one, and the first of this runtime: now cached


def test_reset_leaves_no_thread(polling: PostHogServer) -> None:
    """After a reset the threads of the old evaluator end, and nothing polls any more."""
    others = ours()  # another test's, which PostHog keeps waiting
    warm_up()
    assert "olposthog-definitions" in threads()

    engine.reset()

    until(lambda: not ours() - others)


def test_one_thread_however_many_ask(polling: PostHogServer) -> None:
    """Many first callers start one background thread."""
    begin = threading.Barrier(16)

    def ask(number: int) -> None:
        begin.wait(PATIENCE)
        evaluate(f"u{number}")

    callers = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(PATIENCE)

    named = [one for one in threading.enumerate() if one.name == "olposthog-definitions"]
    assert len(named) == 1


def test_unforeseen_error_does_not_end_the_poll(
    polling: PostHogServer,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever goes wrong in one look, the next one is made, and nobody waits for the first."""
    settings.POSTHOG_POLL_INTERVAL = 0.1
    look, failed = DefinitionsPoller.look, threading.Event()

    def fail_once(self: Any) -> None:
        if not failed.is_set():
            failed.set()
            raise LookupError("unforeseen")
        look(self)

    monkeypatch.setattr(DefinitionsPoller, "look", fail_once)
    polling.flags = {"a": True}

    assert evaluate("u1").flags == {"a": True}
    until(lambda: poll().current() is not None)
    assert "failed in an unforeseen way" in caplog.text


def test_secret_is_in_no_log_and_in_no_key(
    polling: PostHogServer, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the personal key nor the project's is logged, at any level, or part of a key."""
    settings.POSTHOG_POLL_INTERVAL = 0.1
    caplog.set_level(logging.DEBUG, "olposthog")
    warm_up()
    for fault in (Status(500), Html(), Redirect(302), Status(401)):
        polling.definitions_fault = fault
        seen = len(polling.definition_calls)
        polling.wait_until(lambda seen=seen: len(polling.definition_calls) > seen)  # type: ignore[misc]  # bound per turn
    engine.reset()

    assert "cannot be fetched" in caplog.text
    store: dict[str, Any] = caches["durable"]._cache  # type: ignore[attr-defined]  # LocMemCache's
    told = caplog.text + " ".join(store) + " ".join(map(repr, store.values()))
    assert "definitions:head" in told
    for secret in (polling.secret, polling.token):
        assert secret not in told


def test_abandoned_fetches_end(
    start: Callable[..., Process],
    posthog: PostHogServer,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Fetches given up amid trickled headers end, however many: the next one is made."""
    monkeypatch.setattr(olposthog._local.poller, "FETCH_SECONDS", 0.2)
    process = start()
    posthog.definitions_fault = TrickleHeaders(interval=0.01)

    for _ in range(4):
        assert process.look() is None
        assert process.head.failure == "timeout"
        posthog.wait_until(lambda: not posthog.connections)
        clock.now += FETCH_SECONDS
    posthog.heal()

    assert process.look() == ["a"]
    assert len(posthog.definition_calls) == 5
