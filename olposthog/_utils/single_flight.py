"""Single-flight: concurrent callers with one key share one run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

from .workers import Workers

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """One flight at a time for each key: whoever asks while it is under way shares its result."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._under_way: dict[Hashable, Future[T]] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Start no more flights; those under way land."""
        self._workers.close()

    def join(self, key: Hashable, job: Callable[[], T]) -> Future[T]:
        """Return the flight for `key`, starting one that does `job` if there is none.

        Raises `Saturated` as `Workers.submit` does.
        """
        with self._lock:
            flight = self._under_way.get(key)
            if flight is not None:
                return flight
            flight = self._under_way[key] = self._workers.submit(lambda: self._fly(key, job))
            return flight

    def _fly(self, key: Hashable, job: Callable[[], T]) -> T:
        try:
            return job()
        finally:
            with self._lock:
                self._under_way.pop(key, None)
