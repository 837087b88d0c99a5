"""The breaker's ledger in the shared cache: what is kept, what is news, and who was first."""

import threading
from collections.abc import Iterator

import pytest
from django.core.cache import caches
from django.core.cache.backends.locmem import LocMemCache

from olposthog._shared.breaker_storage import BreakerStorage
from olposthog._shared.shared_cache import SharedCache
from tests.posthog_server import PATIENCE


@pytest.fixture
def shared() -> Iterator[SharedCache]:
    shared = SharedCache("durable", read_seconds=PATIENCE)
    yield shared
    shared.close()


@pytest.fixture
def cache_ledger(shared) -> Iterator[BreakerStorage]:
    ledger = BreakerStorage(shared, "olposthog:zz:")
    yield ledger
    ledger.close()


def heard(ledger: BreakerStorage, shared: SharedCache, state: str, name: str) -> int:
    """Announce a state, and return how often that was news."""
    said: list[str] = []
    ledger.announce(state, name, lambda: said.append(state))
    shared.settle(PATIENCE)
    hear(ledger)
    return len(said)


def hear(ledger: BreakerStorage) -> None:
    """Wait until everything that was announced has been told."""
    ledger._teller.submit(lambda: None).result(PATIENCE)


def test_the_cache_keeps_the_state(cache_ledger, shared):
    """An announced state is read by whoever looks, and outlives any lifetime."""
    assert heard(cache_ledger, shared, "open", "news:a") == 1

    assert shared.get_many([cache_ledger.state_key], PATIENCE) == {cache_ledger.state_key: "open"}


def test_news_is_news_once(cache_ledger, shared):
    """What was announced before is written again, but is no news."""
    counts = [heard(cache_ledger, shared, "open", "news:a") for _ in range(3)]

    assert counts == [1, 0, 0]
    assert heard(cache_ledger, shared, "closed", "news:b") == 1


def test_a_state_is_restored_only_where_there_is_none(cache_ledger, shared):
    """Restoring replaces nothing."""
    cache_ledger.restore("first", over=None)
    cache_ledger.restore("second", over=None)
    shared.settle(PATIENCE)

    assert caches["durable"].get(cache_ledger.state_key) == "first"


def test_a_claim_in_the_cache_is_won_once(cache_ledger):
    """Two processes that claim the same name meet in the cache."""
    elsewhere = SharedCache("durable", read_seconds=PATIENCE)
    claims = [
        cache_ledger.claim("probe:a:1", 60),
        BreakerStorage(elsewhere, "olposthog:zz:").claim("probe:a:1", 60),
        BreakerStorage(elsewhere, "olposthog:other:zz:").claim("probe:a:1", 60),
    ]
    elsewhere.close()

    assert claims == [True, False, True]


def test_without_a_cache_everything_is_news():
    """Where nothing is shared, each process speaks for itself, and nobody can say who is first."""
    nowhere = SharedCache(None)
    ledger = BreakerStorage(nowhere, "olposthog:zz:")
    said: list[str] = []

    ledger.announce("open", "news:a", lambda: said.append("open"))
    ledger.announce("open", "news:a", lambda: said.append("open"))
    ledger.restore("open", over=None)
    hear(ledger)

    assert said == ["open", "open"]
    assert ledger.claim("probe:a:1", 60) is None


def test_a_cache_that_takes_nothing_still_makes_news(settings):
    """Where writes vanish without an error, a change of state is news all the same."""
    settings.CACHES = {
        **settings.CACHES,
        "durable": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"},
    }
    shared = SharedCache("durable", read_seconds=PATIENCE)
    ledger = BreakerStorage(shared, "olposthog:zz:")

    assert heard(ledger, shared, "open", "news:a") == 1
    shared.close()


class Deaf(LocMemCache):
    """A cache that answers reads and hangs in writes, or raises in them, or drops some."""

    gate = threading.Event()
    error: Exception | None = None
    drops = 0

    def set(self, *args, **options):
        assert self.gate.wait(PATIENCE)
        if self.error:
            raise self.error
        if self.drops:
            type(self).drops -= 1
            return
        super().set(*args, **options)


@pytest.fixture
def deaf(settings):
    """The shared cache is one that is hard of hearing; for now it hears."""
    settings.CACHES = {
        **settings.CACHES,
        "durable": {"BACKEND": "tests.test_ledger.Deaf", "LOCATION": "deaf"},
    }
    caches["durable"].clear()
    Deaf.gate.set()
    yield Deaf
    Deaf.gate.set()
    Deaf.error, Deaf.drops = None, 0


def test_news_does_not_wait_for_a_write_that_hangs(deaf, cache_ledger, shared):
    """An opening is told although the cache neither takes it nor refuses it."""
    deaf.gate.clear()
    said: list[str] = []

    cache_ledger.announce("open", "news:a", lambda: said.append("open"))
    hear(cache_ledger)

    assert said == ["open"]


def test_a_write_that_raises_is_news(deaf, cache_ledger, shared):
    """An opening is told although the cache refuses it."""
    deaf.error = ConnectionError()

    assert heard(cache_ledger, shared, "open", "news:a") == 1


def test_a_write_that_was_dropped_is_made_again(deaf, cache_ledger, shared):
    """A cache that drops a write without a word gets it again."""
    deaf.drops = 2

    assert heard(cache_ledger, shared, "open", "news:a") == 1
    assert caches["durable"].get(cache_ledger.state_key) == "open"
