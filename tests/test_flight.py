"""Workers and flights: bounded daemon threads, and one flight for all who ask the same."""

import gc
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from itertools import count
from typing import Any

import pytest

from olposthog._utils.single_flight import SingleFlight
from olposthog._utils.workers import Closed, Saturated, Workers, within
from tests.posthog_server import PATIENCE

NUMBERS = count(1)


class Staff:
    """Workers under a name of their own, so that their threads can be told from others."""

    def __init__(self) -> None:
        self.name = f"staff-{next(NUMBERS)}"
        self.gate = threading.Event()
        self.arrived = threading.Semaphore(0)
        self.hired: list[Workers] = []

    def hire(self, size: int = 1, backlog: int = 100, **options: Any) -> Workers:
        workers = Workers(self.name, size, backlog, **options)
        self.hired.append(workers)
        return workers

    def threads(self) -> list[threading.Thread]:
        return [one for one in threading.enumerate() if one.name.startswith(f"{self.name}-")]

    def wait_at_gate(self) -> str:
        """A job that is busy until the gate opens."""
        self.arrived.release()
        assert self.gate.wait(PATIENCE)
        return "through the gate"

    def keep_busy(self, workers: Workers) -> Future[str]:
        """Submit a job that waits at the gate, and return once a worker does it."""
        busy = workers.submit(self.wait_at_gate)
        assert self.arrived.acquire(timeout=PATIENCE)
        return busy

    def dismiss(self) -> None:
        self.gate.set()
        for workers in self.hired:
            workers.close()
        for thread in self.threads():
            thread.join(PATIENCE)


@pytest.fixture
def staff() -> Iterator[Staff]:
    staff = Staff()
    yield staff
    staff.dismiss()


def eventually(fact: Callable[[], bool]) -> bool:
    """Whether `fact` comes true before patience ends."""
    pause = threading.Event()
    last = time.monotonic() + PATIENCE
    while not fact() and time.monotonic() < last:
        pause.wait(0.001)
    return fact()


# Threads


def test_no_thread_without_work(staff):
    """Making workers starts no thread."""
    staff.hire(size=4)

    assert staff.threads() == []


def test_threads_start_on_demand(staff):
    """A thread starts for a job that finds nobody idle."""
    workers = staff.hire(size=4)

    numbers = []
    for _ in range(3):
        staff.keep_busy(workers)
        numbers.append(len(staff.threads()))

    assert numbers == [1, 2, 3]


def test_an_idle_thread_is_used_again(staff):
    """No thread is started for a job that an idle one can do."""
    workers = staff.hire(size=4)
    for _ in range(5):
        workers.submit(int).result(PATIENCE)
        assert eventually(lambda: workers._idle == 1)

    assert len(staff.threads()) == 1


def test_the_number_of_threads_is_bounded(staff):
    """However many jobs wait, no more threads than agreed do them, and all get done."""
    workers = staff.hire(size=3)

    jobs = [workers.submit(staff.wait_at_gate) for _ in range(20)]

    assert len(staff.threads()) == 3
    staff.gate.set()
    assert {job.result(PATIENCE) for job in jobs} == {"through the gate"}
    assert len(staff.threads()) == 3


def test_threads_are_named_daemons(staff):
    """The threads are daemons, named after the workers."""
    thread = staff.hire().submit(threading.current_thread).result(PATIENCE)

    assert thread.daemon
    assert thread.name == f"{staff.name}-1"


def test_a_process_ends_with_its_abandoned_work():
    """A job that never ends does not keep its process alive."""
    script = """
import threading
from olposthog._utils.workers import Workers

started = threading.Event()
workers = Workers("hanging", size=2, backlog=2)
workers.submit(lambda: (started.set(), threading.Event().wait()))
assert started.wait(10)
print("leaving")
"""
    process = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, timeout=30, check=True, text=True
    )

    assert process.stdout == "leaving\n"


def test_an_idle_thread_holds_on_to_nothing(staff):
    """What a job refers to can be freed as soon as the job is done."""

    class Job:
        def __call__(self) -> None:
            pass

    job = Job()
    freed = weakref.ref(job)
    staff.hire().submit(job).result(PATIENCE)
    del job

    assert eventually(lambda: (gc.collect(), freed())[1] is None)


# Jobs


def test_jobs_of_one_worker_are_done_in_order(staff):
    """A single worker does the jobs in the order in which they came."""
    workers = staff.hire(size=1)
    done: list[int] = []

    for number in range(50):
        last = workers.submit(lambda number=number: done.append(number))
    last.result(PATIENCE)

    assert done == list(range(50))


def test_a_full_backlog_saturates(staff):
    """When too many jobs wait, another is refused; the others are done."""
    workers = staff.hire(size=1, backlog=2)
    accepted = [staff.keep_busy(workers), *[workers.submit(staff.wait_at_gate) for _ in range(2)]]

    with pytest.raises(Saturated):
        workers.submit(staff.wait_at_gate)

    staff.gate.set()
    assert [job.result(PATIENCE) for job in accepted] == ["through the gate"] * 3
    assert workers.submit(lambda: "free again").result(PATIENCE) == "free again"


def test_a_cancelled_job_is_never_run(staff):
    """A job that is cancelled while it waits is passed over."""
    workers = staff.hire(size=1)
    staff.keep_busy(workers)
    run: list[str] = []
    cancelled = workers.submit(lambda: run.append("cancelled"))
    kept = workers.submit(lambda: run.append("kept"))

    assert cancelled.cancel()
    staff.gate.set()
    kept.result(PATIENCE)

    assert run == ["kept"]


def test_late_worker_is_replaced_and_order_is_kept(staff):
    """A worker whose job takes too long loses its place; the jobs that wait are done in order."""
    clock = count(0, 5)
    workers = staff.hire(job_seconds=10, max_abandoned=1, clock=lambda: next(clock))
    done: list[int] = []
    busy = staff.keep_busy(workers)  # begins at 5
    waiting = [workers.submit(partial(done.append, number)) for number in range(3)]

    for one in waiting:
        one.result(PATIENCE)
    assert done == [0, 1, 2]
    assert not busy.done()
    staff.gate.set()
    assert busy.result(PATIENCE) == "through the gate"
    assert eventually(lambda: len(staff.threads()) == 1)


def test_abandoned_workers_are_bounded(staff):
    """Jobs that never end hold one thread each, and no more than the maximum."""
    clock = count(0, 10)
    workers = staff.hire(job_seconds=10, max_abandoned=2, clock=lambda: next(clock))
    jobs = [staff.keep_busy(workers) for _ in range(3)]
    jobs += [workers.submit(staff.wait_at_gate) for _ in range(7)]

    assert sum(one.running() for one in jobs) == 3
    assert len(staff.threads()) == 3
    staff.gate.set()
    assert {one.result(PATIENCE) for one in jobs} == {"through the gate"}


def test_worker_knows_that_it_was_abandoned(staff):
    """A job can find out that another thread has taken its place."""
    clock = count(0, 10)
    workers = staff.hire(job_seconds=10, max_abandoned=1, clock=lambda: next(clock))

    def job() -> tuple[bool, bool]:
        before = workers.is_abandoned()
        staff.wait_at_gate()
        return before, workers.is_abandoned()

    late = workers.submit(job)
    assert staff.arrived.acquire(timeout=PATIENCE)
    assert workers.submit(workers.is_abandoned).result(PATIENCE) is False
    staff.gate.set()
    assert late.result(PATIENCE) == (False, True)
    assert not workers.is_abandoned()


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(1), KeyboardInterrupt()])
def test_an_exception_goes_to_whoever_waits(staff, error):
    """A job's exception reaches its future, and the thread goes on."""
    workers = staff.hire(size=1)

    def fail() -> None:
        raise error

    failed = workers.submit(fail)

    assert failed.exception(PATIENCE) is error
    assert workers.submit(lambda: "next").result(PATIENCE) == "next"
    assert len(staff.threads()) == 1


def test_no_thread_to_be_had_saturates(staff, monkeypatch):
    """Where the system gives no first thread, the job is refused and not kept for later."""
    workers = staff.hire(size=1)
    run: list[str] = []

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(Saturated):
            workers.submit(lambda: run.append("refused"))

    workers.submit(lambda: run.append("accepted")).result(PATIENCE)
    assert run == ["accepted"]


def test_no_further_thread_to_be_had_is_no_failure(staff, monkeypatch):
    """Where the system gives no second thread, the first one does the job."""
    workers = staff.hire(size=2)
    staff.keep_busy(workers)

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        waiting = workers.submit(lambda: "done")
    staff.gate.set()

    assert waiting.result(PATIENCE) == "done"
    assert len(staff.threads()) == 1


# Closing


def test_close_ends_idle_threads(staff):
    """Closed workers' threads end as soon as they have nothing to do."""
    workers = staff.hire(size=3)
    for _ in range(3):
        staff.keep_busy(workers)
    threads = staff.threads()
    staff.gate.set()

    workers.close()
    for thread in threads:
        thread.join(PATIENCE)

    assert [thread.is_alive() for thread in threads] == [False] * 3


def test_close_lets_accepted_jobs_be_done(staff):
    """Jobs that were accepted before the closing are done."""
    workers = staff.hire(size=1)
    accepted = [staff.keep_busy(workers), workers.submit(staff.wait_at_gate)]

    workers.close()
    staff.gate.set()

    assert [job.result(PATIENCE) for job in accepted] == ["through the gate"] * 2


def test_closed_workers_refuse(staff):
    """Closed workers take no more jobs, and say so by an error of its own."""
    workers = staff.hire()
    workers.close()

    with pytest.raises(Closed):
        workers.submit(int)
    assert staff.threads() == []


# SingleFlight


def test_callers_with_one_key_share_a_flight(staff):
    """Who asks while a flight is under way gets its future; the second job is not done."""
    flights: SingleFlight[str] = SingleFlight(staff.hire(size=2))

    first = flights.join("ada", staff.wait_at_gate)
    second = flights.join("ada", lambda: pytest.fail("the second job was done"))

    assert first is second
    staff.gate.set()
    assert second.result(PATIENCE) == "through the gate"


def test_another_key_flies_separately(staff):
    """A flight does not hold up those for other keys."""
    flights: SingleFlight[str] = SingleFlight(staff.hire(size=2))
    first = flights.join("ada", staff.wait_at_gate)

    assert flights.join("bob", lambda: "bob landed").result(PATIENCE) == "bob landed"
    assert not first.done()


def test_after_landing_a_new_flight_starts(staff):
    """Who asks after the landing starts a flight of their own."""
    flights: SingleFlight[int] = SingleFlight(staff.hire(size=1))
    numbers = count(1)

    results = [flights.join("ada", lambda: next(numbers)).result(PATIENCE) for _ in range(5)]

    assert results == [1, 2, 3, 4, 5]


def test_an_exception_reaches_all_who_share_the_flight(staff):
    """A flight that fails does so for all of its callers, and the next one starts afresh."""
    flights: SingleFlight[str] = SingleFlight(staff.hire(size=1))

    def crash() -> str:
        staff.wait_at_gate()
        raise ValueError("crashed")

    callers = [flights.join("ada", crash) for _ in range(3)]
    staff.gate.set()

    assert [str(caller.exception(PATIENCE)) for caller in callers] == ["crashed"] * 3
    assert flights.join("ada", lambda: "landed").result(PATIENCE) == "landed"


def test_fifty_callers_at_once_do_the_job_once(staff):
    """Fifty threads that ask at the same moment cost one job."""
    flights: SingleFlight[str] = SingleFlight(staff.hire(size=16))
    crowd = 50
    start = threading.Barrier(crowd)
    boarded = threading.Semaphore(0)
    jobs: list[str] = []
    results: list[str] = []

    def job():
        jobs.append("begun")
        return staff.wait_at_gate()

    def ask() -> None:
        start.wait(PATIENCE)
        flight = flights.join("ada", job)
        boarded.release()
        results.append(flight.result(PATIENCE))

    threads = [threading.Thread(target=ask) for _ in range(crowd)]
    for thread in threads:
        thread.start()
    for _ in range(crowd):
        assert boarded.acquire(timeout=PATIENCE)
    staff.gate.set()
    for thread in threads:
        thread.join(PATIENCE)

    assert jobs == ["begun"]
    assert results == ["through the gate"] * crowd


def test_a_saturated_flight_leaves_no_trace(staff):
    """A flight that could not start is not joined later: the next one starts anew."""
    workers = staff.hire(size=1, backlog=1)
    flights: SingleFlight[str] = SingleFlight(workers)
    staff.keep_busy(workers)
    waiting = workers.submit(staff.wait_at_gate)

    with pytest.raises(Saturated):
        flights.join("ada", lambda: "too early")
    staff.gate.set()
    waiting.result(PATIENCE)

    assert flights.join("ada", lambda: "landed").result(PATIENCE) == "landed"


def test_closed_flights_land_but_start_no_more(staff):
    """After closing, a flight under way lands, and no other one starts."""
    flights: SingleFlight[str] = SingleFlight(staff.hire(size=2))
    under_way = flights.join("ada", staff.wait_at_gate)
    assert staff.arrived.acquire(timeout=PATIENCE)

    flights.close()

    with pytest.raises(Saturated):
        flights.join("bob", lambda: "bob landed")
    staff.gate.set()
    assert under_way.result(PATIENCE) == "through the gate"


# Errands


def test_an_errand_brings_its_result():
    """What is done in time is returned, or raised."""
    assert within(PATIENCE, lambda: "done") == "done"
    with pytest.raises(ZeroDivisionError):
        within(PATIENCE, lambda: 1 // 0)


def test_a_late_errand_is_abandoned(staff):
    """Whoever waits too long goes on; the thread ends when its job does."""
    with pytest.raises(TimeoutError):
        within(0.01, staff.wait_at_gate)
    (thread,) = [one for one in threading.enumerate() if one.name == "olposthog-within-1"]
    assert thread.daemon

    staff.gate.set()
    thread.join(PATIENCE)
    assert not thread.is_alive()
