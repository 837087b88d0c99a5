"""A shared cache on a real server for the process that the tests run in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connections
from pytest_django import DjangoDbBlocker, Settings

from tests.site.processes import Store


@contextmanager
def use_store(store: Store, settings: Settings, blocker: DjangoDbBlocker) -> Iterator[None]:
    """Let the cache `durable` of this process be kept in a store."""
    databases: dict[str, Any] = connections.settings
    if store.database:
        configured = connections.configure_settings({"default": dict(store.database)})
        databases["cache"] = configured["default"]
        settings.DATABASE_ROUTERS = ["tests.site.router.CacheRouter"]
    settings.CACHES = {**settings.CACHES, "durable": store.durable}
    with blocker.unblock():
        yield
        if store.database:
            connections["cache"].close()
            del connections["cache"]
    databases.pop("cache", None)
