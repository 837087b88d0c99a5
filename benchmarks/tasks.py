"""What the process of either package is asked to do: functions, called by name from outside."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from itertools import count, repeat
from threading import Barrier

from django.db import connection

from .project import Package, features

ENOUGH_SECONDS = 0.06
"""How long one measurement lasts at least: many short rounds bear other load better than few."""
PATIENCE_SECONDS = 10.0
"""How long to wait for what should come at once."""

_numbers = count()


def new_person() -> str:
    """Return an id that was never used in this process."""
    return f"person-{next(_numbers)}"


def seconds_per_call(call: Callable[[], object]) -> float:
    """Return the CPU time of one call, that of all threads of the process. GC stays on.

    It is called once to be warm, then often enough. Other processes' load takes no part of it.
    """
    call()
    calls, start = 0, time.process_time()
    while (elapsed := time.process_time() - start) < ENOUGH_SECONDS:
        batch = max(1, calls)
        for _ in repeat(None, batch):
            call()
        calls += batch
    return elapsed / calls


def get_ready() -> None:
    """Do nothing: a process is set up before its first task."""


def check_one_person() -> float:
    """Time `is_enabled` of the same flag and person."""
    is_enabled = features().is_enabled
    return seconds_per_call(lambda: is_enabled("flag-000", opt_unique_id="ann"))


def check_new_people() -> float:
    """Time `is_enabled` of the same flag, for someone new each time."""
    is_enabled = features().is_enabled
    return seconds_per_call(lambda: is_enabled("flag-000", opt_unique_id=new_person()))


def check_people(number: int) -> None:
    """Call `is_enabled` of the same flag for so many people."""
    for _ in range(number):
        features().is_enabled("flag-000", opt_unique_id=new_person())


def check_flags(number: int) -> None:
    """Call `is_enabled` of so many flags for one person."""
    for flag in range(number):
        features().is_enabled(f"flag-{flag:03}", opt_unique_id="ann")


def check_at_once(callers: int) -> None:
    """Call `is_enabled` of the same flag and person in so many threads at the same moment."""
    barrier = Barrier(callers, timeout=PATIENCE_SECONDS)

    def check(_: int) -> bool:
        barrier.wait()
        return features().is_enabled("flag-000", opt_unique_id="ann")

    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(check, range(callers)))


def threads_when_busy(callers: int) -> int:
    """Return how many threads a process has in addition to its main one and so many callers.

    Each caller asks about a new person.
    """
    most = 0
    with ThreadPoolExecutor(callers) as pool:
        checks = [
            pool.submit(features().is_enabled, "flag-000", opt_unique_id=new_person())
            for _ in range(callers)
        ]
        while not all(one.done() for one in checks):
            started = len(pool._threads)  # noqa: SLF001
            most = max(most, threading.active_count() - 1 - started)
            time.sleep(0.005)
    return most


def check_once() -> float:
    """Return the seconds that one `is_enabled` takes."""
    start = time.perf_counter()
    features().is_enabled("flag-000", opt_unique_id="ann")
    return time.perf_counter() - start


def trip_predecessor() -> None:
    """Open the predecessor's circuit for a cooldown, as a call of six seconds would."""
    import_module(f"{Package.PREDECESSOR.value}.features")._trip_circuit()  # noqa: SLF001


def get_all_flags() -> tuple[float, float]:
    """Time `get_all_feature_flags`, for someone new each time.

    Return the seconds per call when the shared cache is at rest before each, and when one follows
    the other and the writes that they leave behind count, too.
    """
    _get_flags_of_someone_new()
    apart, calls = 0.0, 0
    while apart < ENOUGH_SECONDS:
        rows, start = _cache_rows(), time.perf_counter()
        _get_flags_of_someone_new()
        apart += time.perf_counter() - start
        calls += 1
        _wait_for_cache_rows(rows + 1)

    rows, start = _cache_rows(), time.perf_counter()
    for _ in range(calls):
        _get_flags_of_someone_new()
    _wait_for_cache_rows(rows + calls)
    return apart / calls, (time.perf_counter() - start) / calls


def _get_flags_of_someone_new() -> None:
    if not features().get_all_feature_flags(new_person()):
        raise RuntimeError("PostHog gave no flags")


def _wait_for_cache_rows(rows: int) -> None:
    patience_ends = time.perf_counter() + PATIENCE_SECONDS
    while _cache_rows() < rows:
        if time.perf_counter() > patience_ends:
            raise TimeoutError("no evaluation was written to the shared cache")
        time.sleep(0.001)


def _cache_rows() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT COUNT(*) FROM durable_cache")
        rows: int = cursor.fetchone()[0]
        return rows
