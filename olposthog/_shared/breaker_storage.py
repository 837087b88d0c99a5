"""The circuit breaker's ledger in the shared cache: its state, and who was first to claim what."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING

from olposthog._utils.jitter import jittered
from olposthog._utils.workers import Saturated, Workers

from .shared_cache import READ_SECONDS, SharedCache

if TYPE_CHECKING:
    from django.core.cache.backends.base import BaseCache

NEWS_SECONDS = 3600.0
"""How long it is remembered that a state was announced."""
PAUSES_SECONDS = (0.05, 0.25, 1.0)
"""Maximum pauses before a state that did not arrive is written again."""


class BreakerStorage:
    """The control keys of one project."""

    def __init__(self, shared: SharedCache, prefix: str) -> None:
        self._shared = shared
        self._prefix = prefix
        self._teller = Workers("olposthog-news", size=1, backlog=100)
        self.state_key = f"{prefix}state"

    def close(self) -> None:
        """End the thread once it has nothing to tell."""
        self._teller.close()

    @property
    def is_awaited(self) -> bool:
        """Whether the shared cache may still answer the first question of this process."""
        return self._shared.is_awaited

    def claim(self, name: str, lifetime_seconds: float) -> bool | None:
        """Claim a control key."""
        return self._shared.claim(f"{self._prefix}{name}", lifetime_seconds)

    def restore(self, state: str, *, over: str | None) -> None:
        """Write in the background, after the announcements before it."""

        def write(cache: BaseCache) -> None:
            if over is None:
                cache.add(self.state_key, state, None)
            elif cache.get(self.state_key) == over:
                cache.set(self.state_key, state, None)

        self._shared.later(write)

    def announce(self, state: str, name: str, news: Callable[[], None]) -> None:
        """Write in the background; a cache that cannot be written makes it news all the same."""
        is_first: Future[bool] = Future()

        def write(cache: BaseCache) -> None:
            try:
                is_first.set_result(self._write(cache, state, f"{self._prefix}{name}"))
            except BaseException as error:
                is_first.set_exception(error)
                raise

        def tell() -> None:
            try:
                is_news = is_first.result(READ_SECONDS)
            except Exception:  # noqa: BLE001  # the cache failed, or hangs
                is_news = True
            if is_news:
                news()

        if not self._shared.later(write):
            is_first.set_result(True)
        try:
            self._teller.submit(tell)
        except Saturated:
            news()

    def _write(self, cache: BaseCache, state: str, claim: str) -> bool:
        before = cache.get(self.state_key)
        cache.set(self.state_key, state, None)
        for pause in PAUSES_SECONDS:
            # `DatabaseCache` drops a write in silence when SQLite is locked, by the caller perhaps.
            stored = cache.get(self.state_key)
            if stored == state or stored != before:
                break
            time.sleep(jittered(pause))
            cache.set(self.state_key, state, None)
        return bool(cache.add(claim, 1, NEWS_SECONDS)) or cache.get(claim) is None
