"""Work with a deadline, done by a bounded number of daemon threads, and shared by its callers.

The standard `ThreadPoolExecutor` joins its threads at exit, so one hanging request keeps a process
alive. These threads are daemons: abandoned work ends with the process.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class Saturated(Exception):  # a state that callers answer to, not an error to show
    """No worker is free and the backlog is full."""


class Closed(Saturated):
    """There are no workers any more."""


class Workers:
    """Up to `size` daemon threads, started as work comes, with at most `backlog` jobs waiting.

    With `job_seconds`, a thread whose job takes longer is abandoned: the next `submit` starts
    another one in its place, which does the waiting jobs in order. The abandoned thread ends with
    its job. At most `max_abandoned` threads are abandoned at a time.
    """

    def __init__(
        self,
        name: str,
        size: int,
        backlog: int,
        *,
        job_seconds: float | None = None,
        max_abandoned: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._size = size
        self._backlog = backlog
        self._job_seconds = job_seconds
        self._max_abandoned = max_abandoned
        self._clock = clock
        self._begun: dict[int, float] = {}  # by the number of the thread, when it began its job
        self._abandoned: set[int] = set()
        self._current = threading.local()
        self._jobs: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._changed = threading.Condition(threading.Lock())
        self._idle = 0
        self._threads = 0  # without the abandoned ones
        self._started = 0
        self._closed = False

    @property
    def threads(self) -> int:
        """How many threads have been started."""
        return self._started

    def is_abandoned(self) -> bool:
        """Return whether the calling thread is a worker that was abandoned."""
        return getattr(self._current, "number", None) in self._abandoned

    def close(self) -> None:
        """Take no more jobs; the threads end as soon as they have nothing to do."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Have a worker do `job`. The future holds its result; cancel it to give up the place.

        Raises `Saturated` when too many jobs wait already or no thread can be started, and `Closed`
        when that is over.
        """
        future: Future[T] = Future()
        with self._changed:
            if len(self._jobs) >= self._backlog:
                self._jobs = deque(job for job in self._jobs if not job[0].cancelled())
            if self._closed:
                raise Closed(self._name)
            if len(self._jobs) >= self._backlog:
                raise Saturated(self._name)
            self._jobs.append((future, job))
            self._abandon_late()
            if len(self._jobs) > self._idle and self._threads < self._size:
                self._start_thread()
            self._changed.notify()
        return future

    def _abandon_late(self) -> None:
        if self._job_seconds is None:
            return
        latest = self._clock() - self._job_seconds
        for number, began in list(self._begun.items()):
            if began <= latest and len(self._abandoned) < self._max_abandoned:
                del self._begun[number]
                self._abandoned.add(number)
                self._threads -= 1

    def _start_thread(self) -> None:
        number = self._started + 1
        thread = threading.Thread(
            target=self._work, args=[number], name=f"{self._name}-{number}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:  # the interpreter is going down, or the system is out of them
            if not self._threads:
                self._jobs.pop()
                raise Saturated(self._name) from error
        else:
            self._started = number
            self._threads += 1

    def _work(self, number: int) -> None:
        self._current.number = number
        while True:
            with self._changed:
                self._begun.pop(number, None)
                if number in self._abandoned:
                    self._abandoned.remove(number)
                    return
                self._idle += 1
                while not self._jobs and not self._closed:
                    self._changed.wait()
                self._idle -= 1
                if not self._jobs:
                    return
                future, job = self._jobs.popleft()
                self._begun[number] = self._clock()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(job())
            except BaseException as error:  # noqa: BLE001  # whoever waits for the future gets it
                future.set_exception(error)
            del future, job  # an idle worker holds on to nothing


def within(seconds: float, job: Callable[[], T]) -> T:
    """Return what `job` returns in a thread of its own, which is abandoned when it is late.

    Raises TimeoutError then, and otherwise what `job` raises.
    """
    workers = Workers("olposthog-within", size=1, backlog=1)
    try:
        return workers.submit(job).result(seconds)
    finally:
        workers.close()
