"""Definitions that exceed what the shared cache holds in one entry, or holds at all."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from django.core.cache import caches
from pytest_django import DjangoDbBlocker, Settings

from olposthog._core import engine
from olposthog._local.poller import MAX_WRITES
from olposthog._shared.large_text import PART_CHARACTERS, PackedText, part_keys, unpack
from olposthog.features import evaluate
from tests.posthog_faults import Status
from tests.posthog_server import PATIENCE, PostHogServer, Variant
from tests.site.in_process import use_store
from tests.site.memcached import MIB, Raising, Reporting, Silent, memcached
from tests.site.processes import Store
from tests.test_definitions import flag
from tests.test_polling import INTERVAL, LOGGER, PREFIX, Clock, Process, lines, shared_head

SMALL = MIB // 16
LOOKS = MAX_WRITES + 1
"""After so many looks a process has given up a text that the cache does not store."""


def noise(seed: int, length: int) -> str:
    """Return text that compresses to half its length at best."""
    return random.Random(seed).randbytes(length // 2).hex()


def define(posthog: PostHogServer, *keys: str, filler: str) -> None:
    posthog.definitions = {"flags": [flag(key, name=filler) for key in keys]}


EVERY_CLIENT = pytest.mark.parametrize("client", [Raising, Reporting, Silent])


@pytest.fixture
def client() -> type[Raising]:
    return Raising


@pytest.fixture
def use_memcached(client: type[Raising], settings: Settings) -> Iterator[Callable[[int], None]]:
    """Makes a memcached with this limit the shared cache."""
    with ExitStack() as running:

        def use(limit: int) -> None:
            durable = running.enter_context(memcached(limit, client))
            settings.CACHES = {**settings.CACHES, "durable": durable}

        yield use
        engine.reset()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def start(
    enabled: PostHogServer, settings: Settings, clock: Clock
) -> Iterator[Callable[[], Process]]:
    """Starts processes that fetch from the stand-in PostHog."""
    settings.POSTHOG_PERSONAL_API_KEY = enabled.secret
    started: list[Process] = []

    def start_one() -> Process:
        started.append(Process(clock))
        return started[-1]

    yield start_one
    for process in started:
        process.poll.close()
        process.shared.close()


def look(fleet: list[Process], clock: Clock, times: int = 1) -> None:
    """Let each process look, five seconds apart."""
    for _ in range(times):
        for one in fleet:
            one.look()
        clock.now += 5


def shared_parts() -> list[str]:
    """Return the keys of the parts that the head names."""
    head = shared_head()
    return part_keys(PREFIX, head.digest, head.parts)


# ---- what fits, packed


@EVERY_CLIENT
@pytest.mark.parametrize(
    ("filler", "parts"), [("x" * 3 * MIB, 1), (noise(1, 3 * MIB), 5)], ids=["text", "noise"]
)
def test_text_above_the_limit_is_shared(
    *,
    use_memcached: Callable[[int], None],
    start: Callable[[], Process],
    enabled: PostHogServer,
    caplog: pytest.LogCaptureFixture,
    filler: str,
    parts: int,
) -> None:
    """Definitions above memcached's limit are compressed, and split if they are still too large."""
    use_memcached(MIB)
    define(enabled, "a", filler=filler)
    first, second = start(), start()

    assert first.look() == second.look() == ["a"]

    assert len(enabled.definition_calls) == 1
    assert shared_head().parts == parts
    assert not first.shared.is_away
    assert caplog.messages == []


@pytest.mark.parametrize("store", ["redis_cache", "postgresql_cache"])
def test_large_text_on_a_server(
    *,
    request: pytest.FixtureRequest,
    settings: Settings,
    django_db_blocker: DjangoDbBlocker,
    start: Callable[[], Process],
    enabled: PostHogServer,
    store: str,
) -> None:
    """Redis and PostgreSQL hold the same parts, and share them between processes."""
    durable: Store = request.getfixturevalue(store)
    define(enabled, "a", filler=noise(1, 3 * MIB))
    with use_store(durable, settings, django_db_blocker):
        fleet = [start(), start()]
        assert [one.look() for one in fleet] == [["a"]] * 2
        assert shared_head().parts == 5
        for one in fleet:
            one.shared.close()

    assert len(enabled.definition_calls) == 1


@pytest.mark.parametrize("missing", range(5))
def test_part_that_is_missing(
    use_memcached: Callable[[int], None],
    start: Callable[[], Process],
    enabled: PostHogServer,
    clock: Clock,
    missing: int,
) -> None:
    """A text of which one part was evicted is not there: a newcomer fetches it and writes it."""
    use_memcached(MIB)
    define(enabled, "a", filler=noise(1, 3 * MIB))
    start().look()
    caches["durable"].delete(shared_parts()[missing])
    clock.now += 10

    assert start().look() == ["a"]
    assert len(enabled.definition_calls) == 2
    assert start().look() == ["a"]
    assert len(enabled.definition_calls) == 2


def test_parts_of_the_version_before_are_deleted(
    use_memcached: Callable[[int], None],
    start: Callable[[], Process],
    enabled: PostHogServer,
    clock: Clock,
) -> None:
    """A new version leaves no part of the one before, however many it had."""
    use_memcached(MIB)
    define(enabled, "a", filler=noise(1, 3 * MIB))
    process = start()
    process.look()
    before = shared_parts()
    define(enabled, "a", filler=noise(2, MIB))
    clock.now += INTERVAL
    process.look()

    assert caches["durable"].get_many(before) == {}
    assert len(caches["durable"].get_many(shared_parts())) == 2


def test_evicted_part_is_written_again_with_the_next_turn(
    use_memcached: Callable[[int], None],
    start: Callable[[], Process],
    enabled: PostHogServer,
    clock: Clock,
) -> None:
    """An answer that brings nothing new writes again what the cache has evicted, without a cost."""
    use_memcached(MIB)
    define(enabled, "a", filler=noise(1, 3 * MIB))
    process = start()
    process.look()
    caches["durable"].delete(shared_parts()[3])
    clock.now += INTERVAL
    process.look()

    assert start().look() == ["a"]
    assert (enabled.definitions_sent, enabled.definitions_not_modified) == (1, 1)


# ---- what is too large


@EVERY_CLIENT
def test_text_that_is_not_stored(
    use_memcached: Callable[[int], None],
    start: Callable[[], Process],
    enabled: PostHogServer,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each process fetches it once, the fleet asks for news once an interval, and one line says so.

    The cache stays in use for everything else.
    """
    use_memcached(SMALL)
    define(enabled, "a", filler=noise(1, MIB // 2))
    fleet = [start() for _ in range(3)]
    looks = int(INTERVAL / 5)
    look(fleet, clock, looks)
    assert [one.keys for one in fleet] == [["a"]] * 3
    assert enabled.definitions_sent == 3

    look(fleet, clock, 4 * looks)

    assert enabled.definitions_sent == 3
    assert enabled.definitions_not_modified == 4
    (line,) = lines(caplog)
    assert line.startswith("Shared cache 'durable' does not store the flag definitions (")
    assert shared_head().is_unstored
    assert not any(one.shared.is_away for one in fleet)
    assert fleet[0].shared.write(lambda cache: cache.get("x") is None, PATIENCE)
    assert caplog.messages == [line]


def test_new_version_that_is_not_stored(
    use_memcached: Callable[[int], None],
    start: Callable[[], Process],
    enabled: PostHogServer,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A version that grew too large reaches every process, and nothing of the one before stays."""
    use_memcached(SMALL)
    define(enabled, "a", filler="")
    fleet = [start() for _ in range(4)]
    look(fleet, clock, 2)
    before = shared_parts()
    assert enabled.definitions_sent == 1
    for number in range(3):
        define(enabled, f"b{number}", filler=noise(number, MIB // 2))
        clock.now += INTERVAL
        look(fleet, clock, LOOKS)
        assert [one.keys for one in fleet] == [[f"b{number}"]] * 4
        assert enabled.definitions_sent == 1 + 4 * (number + 1)

    assert caches["durable"].get_many(before) == {}
    assert caches["durable"].get_many(part_keys(PREFIX, shared_head().digest, 5)) == {}
    assert len(lines(caplog)) == 1


@pytest.mark.parametrize("client", [Reporting])
def test_text_of_which_the_cache_stores_a_part(
    use_memcached: Callable[[int], None],
    start: Callable[[], Process],
    enabled: PostHogServer,
    clock: Clock,
) -> None:
    """Where the cache refuses a large part of a text, the smaller ones do not stay."""
    use_memcached(3 * MIB // 8)
    define(enabled, "a", filler=noise(1, MIB))
    process = start()
    process.look()
    keys = part_keys(PREFIX, process.head.digest, 2)
    assert list(caches["durable"].get_many(keys)) == keys[1:]

    look([process], clock, LOOKS)

    assert shared_head().is_unstored
    assert caches["durable"].get_many(keys) == {}


def test_version_that_is_stored_again(
    use_memcached: Callable[[int], None],
    start: Callable[[], Process],
    enabled: PostHogServer,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Definitions that have become smaller are shared again, and one line says so."""
    use_memcached(SMALL)
    define(enabled, "a", filler=noise(1, MIB // 2))
    fleet = [start() for _ in range(3)]
    look(fleet, clock, LOOKS)
    enabled.clear()
    define(enabled, "b", filler="")
    sent = enabled.definitions_sent
    clock.now += INTERVAL
    look(fleet, clock, 2)
    look(fleet, clock, int(2 * INTERVAL / 5))

    assert [one.keys for one in [*fleet, start()] if one.look()] == [["b"]] * 4
    assert enabled.definitions_sent == sent + 1
    assert lines(caplog)[1:] == ["Shared cache 'durable' stores flag definitions again."]


def test_failing_posthog_with_a_text_that_is_not_stored(
    use_memcached: Callable[[int], None],
    start: Callable[[], Process],
    enabled: PostHogServer,
    clock: Clock,
) -> None:
    """A process that starts in an outage tries once an interval, and the others keep theirs."""
    use_memcached(SMALL)
    define(enabled, "a", filler=noise(1, MIB // 2))
    process = start()
    look([process], clock, LOOKS)
    enabled.definitions_fault = Status(500)
    enabled.clear()
    newcomer = start()
    look([newcomer], clock, int(INTERVAL / 5))
    assert newcomer.keys is None
    assert len(enabled.definition_calls) == 1

    enabled.heal()
    look([process, newcomer], clock, 2)
    assert process.keys == newcomer.keys == ["a"]


def test_cache_that_stores_nothing(
    settings: Settings,
    start: Callable[[], Process],
    enabled: PostHogServer,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With a DummyCache each process fetches once an interval, and says so once."""
    settings.CACHES = {
        **settings.CACHES,
        "durable": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"},
    }
    define(enabled, "a", filler="")
    fleet = [start(), start()]
    look(fleet, clock, int(3 * INTERVAL / 5))

    assert (enabled.definitions_sent, enabled.definitions_not_modified) == (2, 4)
    assert len(lines(caplog)) == 2
    assert "it cannot be read back" in lines(caplog)[0]


# ---- another large value


def test_large_answer_of_one_person(
    use_memcached: Callable[[int], None],
    enabled: PostHogServer,
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
    another_process: Callable[[], None],
) -> None:
    """An evaluation that the cache refuses costs that person's entry, and nobody else's."""
    settings.POSTHOG_LOCAL_CACHE_SECONDS = 0
    use_memcached(MIB)
    enabled.flags = {"a": Variant("test", payload="x" * 2 * MIB)}
    evaluate("large")
    shared = engine.current().shared
    assert shared.settle(PATIENCE)
    assert not shared.is_away
    assert [record.getMessage().partition("(")[0] for record in caplog.records] == [
        "Shared cache 'durable' refused a write "
    ]

    enabled.flags = {"a": True}
    evaluate("small")
    another_process()
    enabled.clear()
    assert evaluate("small").flags == {"a": True}
    assert enabled.requests == []
    assert LOGGER not in {record.name for record in caplog.records}


# ---- the packed text itself


@pytest.mark.parametrize("text", ["", "x", "ä\ud800", noise(3, 3 * MIB), json.dumps({"a": "b"})])
def test_text_comes_back(text: str) -> None:
    """What is unpacked is what was packed, in parts of limited length."""
    packed = PackedText.of(text)

    assert unpack(packed.parts, packed.digest) == text
    assert all(len(part) <= PART_CHARACTERS for part in packed.parts)


def test_damaged_text_is_not_there() -> None:
    """A part that is missing, swapped, cut or of another text makes the whole text unreadable."""
    packed, other = PackedText.of(noise(1, 3 * MIB)), PackedText.of(noise(2, 3 * MIB))
    first, second, *rest = packed.parts
    for parts in (
        [],
        [first, None, *rest],
        [second, first, *rest],
        [first, second[:-1], *rest],
        [first, other.parts[1], *rest],
        [first, b"bytes", *rest],
        [first, 42, *rest],
        ["ä", second, *rest],
        list(other.parts),
    ):
        assert unpack(parts, packed.digest) is None
