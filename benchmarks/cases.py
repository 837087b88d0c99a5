"""The cases. Each yields the rows of the table that it fills.

Times are medians of rounds; a round measures one side and then the other, in turns as to which
comes first. Counts are what the stand-in PostHog saw. Every case starts with new processes that
have empty caches, and "cold" means that; "warm" means that the answer was asked for before.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias, TypeVar

from tests.posthog_faults import Delay, Hang, Status
from tests.posthog_server import PostHogServer, Variant

from . import tasks, web
from .project import Package, set_up
from .report import Row, Unit, measured_once, of_rounds

T = TypeVar("T")

PREDECESSOR = "predecessor"
PLAIN_VIEWSET = "plain viewset"
LONGEST_TASK_SECONDS = 60.0

FEW, MANY = 20, 100
"""How many flags PostHog has."""

Case: TypeAlias = Callable[[PostHogServer, int], Iterator[Row]]


class Process:
    """A process of its own for one package."""

    def __init__(self, package: Package, posthog: PostHogServer, database: Path) -> None:
        self._pool = ProcessPoolExecutor(
            max_workers=1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=set_up,
            initargs=(package, posthog.url, posthog.token, database),
        )

    def start(self, task: Callable[[], T]) -> Future[T]:
        """Have `task` done over there."""
        return self._pool.submit(task)

    def do(self, task: Callable[[], T]) -> T:
        """Have `task` done over there, and return what it returns."""
        return self.start(task).result(LONGEST_TASK_SECONDS)

    def close(self) -> None:
        self._pool.shutdown()


@contextmanager
def processes(posthog: PostHogServer) -> Iterator[tuple[Process, Process]]:
    """New processes for the predecessor and for olposthog, ready, with nothing in their caches."""
    with TemporaryDirectory(prefix="olposthog-benchmarks-") as folder:
        pair = [
            Process(package, posthog, Path(folder, f"{package.value}.sqlite3"))
            for package in (Package.PREDECESSOR, Package.OURS)
        ]
        try:
            for ready in [process.start(tasks.get_ready) for process in pair]:
                ready.result(LONGEST_TASK_SECONDS)
            posthog.clear()
            yield pair[0], pair[1]
        finally:
            posthog.heal()
            for process in pair:
                process.close()


def in_turns(theirs: Callable[[], T], ours: Callable[[], T], rounds: int) -> Iterator[tuple[T, T]]:
    """Measure both sides once a round, the one first and then the other."""
    for number in range(rounds):
        if number % 2:
            our_result = ours()
            yield theirs(), our_result
        else:
            yield theirs(), ours()


def flags(number: int) -> dict[str, object]:
    """Declare flags: on, off, and every third a variant with a payload."""
    kinds = (True, False, Variant("test", payload={"colour": "green"}))
    return {f"flag-{index:03}": kinds[index % 3] for index in range(number)}


def warm_checks(posthog: PostHogServer, rounds: int) -> Iterator[Row]:
    """`is_enabled` of one flag for one person, over and over."""
    posthog.flags = flags(MANY)
    with processes(posthog) as (theirs, ours):
        check = tasks.check_one_person
        measured = list(in_turns(lambda: theirs.do(check), lambda: ours.do(check), rounds))
        yield of_rounds("is_enabled, warm", PREDECESSOR, measured, at_least=25)


def checks_with_open_circuit(posthog: PostHogServer, rounds: int) -> Iterator[Row]:
    """The same with the circuit open, and nothing known of anyone.

    In olposthog five failures opened it. Both packages keep it open for 60 s: a round trips the
    predecessor's anew, ours lasts for the case; no call may reach PostHog.
    """
    posthog.flags = flags(MANY)
    with processes(posthog) as (theirs, ours):
        posthog.flags_fault = Status(500)
        ours.do(partial(tasks.check_people, 5))
        posthog.heal()
        posthog.clear()
        for case, check in (
            ("is_enabled, circuit open, same person", tasks.check_one_person),
            ("is_enabled, circuit open, new person each", tasks.check_new_people),
        ):
            measured: list[tuple[float, float]] = []
            for _ in range(rounds):
                theirs.do(tasks.trip_predecessor)
                measured += in_turns(partial(theirs.do, check), partial(ours.do, check), 1)
            yield of_rounds(case, PREDECESSOR, measured)
        if posthog.flag_calls:
            raise RuntimeError("a call reached PostHog through an open circuit")


def full_sets(number: int, posthog: PostHogServer, rounds: int) -> Iterator[Row]:
    """`get_all_feature_flags` for a new person each time, so that PostHog evaluates each time.

    The predecessor writes to the shared cache before it returns, olposthog after. So there are two
    rows: what a caller waits for who finds the cache at rest, and what calls cost that follow each
    other, with all of their writes.
    """
    posthog.flags = flags(number)
    with processes(posthog) as (theirs, ours):
        task = tasks.get_all_flags
        measured = list(in_turns(partial(theirs.do, task), partial(ours.do, task), rounds))
    for index, how in enumerate(("", ", back to back")):
        yield of_rounds(
            f"get_all_feature_flags, {number} flags{how}",
            PREDECESSOR,
            [(one[index], other[index]) for one, other in measured],
            at_least=20 if number == MANY else None,
        )


def browser_reads(posthog: PostHogServer, rounds: int) -> Iterator[Row]:
    """`GET /api/features/` with 100 flags, warm, and a DRF viewset with that answer in memory.

    The viewset has the same authentication and no more than DRF asks for: it knows no identity,
    no ETag and no throttle. It has no 304 either: ours is measured against its 200.
    """
    posthog.flags = flags(MANY)
    with processes(posthog) as (_, ours):
        for visitor in web.Visitor:
            plain = partial(ours.do, partial(web.get, web.PLAIN_PATH, visitor))
            for conditional, status in ((False, 200), (True, 304)):
                task = partial(web.get, web.FEATURES_PATH, visitor, conditional=conditional)
                measured = list(in_turns(plain, partial(ours.do, task), rounds))
                case = f"GET /api/features/, {status}, {visitor.value}"
                yield of_rounds(case, PLAIN_VIEWSET, measured, at_least=1)


def crowd(posthog: PostHogServer, rounds: int) -> Iterator[Row]:
    """Fifty threads ask for one cold person at the same moment; PostHog takes 100 ms."""
    posthog.flags = flags(MANY)
    with processes(posthog) as pair:
        posthog.flags_fault = Delay(0.1)
        counts = [requests(posthog, process, partial(tasks.check_at_once, 50)) for process in pair]
    yield measured_once(
        "50 callers at once, one cold person", PREDECESSOR, Unit.REQUESTS, counts, 1
    )


def failing_posthog(posthog: PostHogServer, rounds: int) -> Iterator[Row]:
    """Twenty flags are checked for one cold person while PostHog answers 500."""
    with processes(posthog) as pair:
        posthog.flags_fault = Status(500)
        counts = [requests(posthog, process, partial(tasks.check_flags, 20)) for process in pair]
    yield measured_once("20 checks, PostHog answers 500", PREDECESSOR, Unit.REQUESTS, counts, 1)


def hanging_posthog(posthog: PostHogServer, rounds: int) -> Iterator[Row]:
    """The first check in a process waits for a PostHog that never answers; 6 s are promised.

    Both wait at the same time: waiting takes no processor.
    """
    with processes(posthog) as pair:
        posthog.flags_fault = Hang()
        waiting = [process.start(tasks.check_once) for process in pair]
        waits = [wait.result(LONGEST_TASK_SECONDS) for wait in waiting]
    yield measured_once("first check, PostHog hangs", PREDECESSOR, Unit.SECONDS, waits, 6)


def requests(posthog: PostHogServer, process: Process, task: Callable[[], object]) -> int:
    """Return how many evaluations PostHog was asked for."""
    posthog.clear()
    process.do(task)
    return len(posthog.flag_calls)


CASES: Sequence[tuple[str, Case]] = (
    ("warm checks", warm_checks),
    ("checks with the circuit open", checks_with_open_circuit),
    ("full sets of 20 flags", partial(full_sets, FEW)),
    ("full sets of 100 flags", partial(full_sets, MANY)),
    ("reads by browsers", browser_reads),
    ("a crowd", crowd),
    ("a failing PostHog", failing_posthog),
    ("a hanging PostHog", hanging_posthog),
)


def measure(rounds: int) -> Iterator[Row]:
    """Yield the rows of all cases, telling on stderr what is under way."""
    with PostHogServer() as posthog:
        for number, (name, case) in enumerate(CASES, start=1):
            print(f"[{number}/{len(CASES)}] {name}...", file=sys.stderr, flush=True)
            yield from case(posthog, rounds)
