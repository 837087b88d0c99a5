"""What every test starts from: a healthy PostHog over HTTP, and a process that knows nothing."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator

import posthog as posthog_sdk
import pytest
from django.core.cache import caches
from pytest_django import Settings

from olposthog._core import engine
from olposthog._posthog import events
from tests.posthog_server import PostHogServer
from tests.site.processes import Store
from tests.site.servers import (
    KeptServer,
    postgresql_store,
    postgresql_template,
    redis_store,
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One process more than there are cores: many tests wait for processes of their own."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (cores or 1) + 1


@pytest.fixture
def posthog() -> Iterator[PostHogServer]:
    """A PostHog that answers; it is nobody's until `settings` names it, as `enabled` does."""
    with PostHogServer() as server:
        yield server
        server.heal()
        deliver_events()


def deliver_events() -> None:
    """End the SDK's client, which would go on delivering events to a server that is gone."""
    kept, events._client = events._client, None
    posthog_sdk.default_client = None
    if kept:
        kept[1].shutdown()


@pytest.fixture
def enabled(posthog: PostHogServer, settings: Settings) -> PostHogServer:
    """Flags come from the stand-in PostHog."""
    settings.POSTHOG_ENABLED = True
    settings.POSTHOG_PROJECT_API_KEY = posthog.token
    settings.POSTHOG_API_HOST = posthog.url
    return posthog


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """No test sees what another one left in a cache or in the process."""
    caches["default"].clear()
    caches["durable"].clear()
    forget_process()
    yield
    forget_process()


def forget_process() -> None:
    """Make this process a new one, as far as flags go: only the shared cache stays."""
    engine.reset()
    for thread in threading.enumerate():
        if thread.name.startswith("olposthog-cache-write"):
            thread.join(0.5)  # what it writes late would be another test's surprise


@pytest.fixture
def another_process() -> Callable[[], None]:
    """Go on as another process: nothing of this one is known, the shared cache is the same."""
    return forget_process


# Servers that the shared cache may be in: see tests/site/servers.py


@pytest.fixture(scope="session")
def kept_redis() -> Iterator[KeptServer]:
    """A Redis of the tests' own. Whoever breaks it restores it."""
    with KeptServer("redis") as server:
        yield server


@pytest.fixture(scope="session")
def kept_postgresql() -> Iterator[KeptServer]:
    """A PostgreSQL of the tests' own. Whoever breaks it restores it."""
    with KeptServer("postgresql") as server:
        yield server


@pytest.fixture(scope="session")
def redis_url(request: pytest.FixtureRequest) -> str:
    """The Redis that REDIS_URL names, or else one of the tests' own."""
    return os.environ.get("REDIS_URL") or request.getfixturevalue("kept_redis").url


@pytest.fixture(scope="session")
def postgresql_url(request: pytest.FixtureRequest) -> str:
    """The PostgreSQL that DATABASE_URL names, or else one of the tests' own."""
    return os.environ.get("DATABASE_URL") or request.getfixturevalue("kept_postgresql").url


@pytest.fixture(scope="session")
def cache_template(postgresql_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of a database with an empty table for the shared cache."""
    with postgresql_template(postgresql_url, tmp_path_factory.mktemp("postgresql")) as name:
        yield name


@pytest.fixture
def redis_cache(redis_url: str) -> Iterator[Store]:
    """A shared cache in Redis, with nothing in it."""
    with redis_store(redis_url) as store:
        yield store


@pytest.fixture
def postgresql_cache(postgresql_url: str, cache_template: str) -> Iterator[Store]:
    """A shared cache in PostgreSQL, with nothing in it."""
    with postgresql_store(postgresql_url, cache_template) as store:
        yield store
