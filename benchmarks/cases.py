"""The cases. Each yields the rows of the table that it fills.

Times are medians of rounds; a round measures one side and then the other, in turns as to which
comes first. They are CPU time, except where a caller waits for PostHog or for the cache. Counts
are what the stand-in PostHog saw. Every case starts with new processes that have empty caches, and
"cold" means that; "warm" means that the flag was read before.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias, TypeVar

from tests.posthog_faults import Delay, Hang, Status
from tests.posthog_server import PostHogServer, Variant

from . import memory, peers, tasks, web
from .peers import Peer
from .project import Package, set_up
from .report import Row, Unit, measured_alone, measured_once, of_rounds

T = TypeVar("T")

PREDECESSOR = "predecessor"
PLAIN_VIEWSET = "plain viewset"
LONGEST_TASK_SECONDS = 60.0

FEW, MANY = 20, 100
"""How many flags PostHog has."""
PEOPLE = 10_000

Case: TypeAlias = Callable[[PostHogServer, int], Iterator[Row]]


class Process:
    """A process of its own for one package."""

    def __init__(self, set_up: Callable[[], None]) -> None:
        self._pool = ProcessPoolExecutor(
            max_workers=1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=set_up,
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
            Process(
                partial(
                    set_up,
                    package,
                    posthog.url,
                    posthog.token,
                    Path(folder, f"{package.value}.sqlite3"),
                )
            )
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


@contextmanager
def evaluators(*kinds: Peer) -> Iterator[list[Process]]:
    """New processes that evaluate equal flags locally."""
    with TemporaryDirectory(prefix="olposthog-benchmarks-") as folder:
        started = [Process(partial(peers.start, peer, Path(folder))) for peer in kinds]
        try:
            for ready in [process.start(tasks.get_ready) for process in started]:
                ready.result(LONGEST_TASK_SECONDS)
            yield started
        finally:
            for process in started:
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
            target = 0.5 if check is tasks.check_new_people else None
            yield of_rounds(case, PREDECESSOR, measured, at_least=target)
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


def local_evaluation(peer: Peer, posthog: PostHogServer, rounds: int) -> Iterator[Row]:
    """One flag and all flags of 100 definitions, for a new person each time.

    The warm row has the SDK's price for a person it has evaluated before: it keeps nothing.
    """
    is_sdk = peer is Peer.POSTHOG
    measurements: list[tuple[str, Callable[[], float], float | None]] = [
        ("one flag by property, new person each", peers.check_new_people, 1 if is_sdk else None),
        ("one flag, new person each", peers.check_new_plain_people, 1 if is_sdk else None),
        ("all 100 flags, new person each", peers.list_flags, 1 / 0.3 if is_sdk else None),
    ]
    if is_sdk:
        measurements.append(("one flag, same person", peers.check_one_person, None))
    with evaluators(peer, Peer.OLPOSTHOG) as (theirs, ours):
        for case, task, target in measurements:
            measured = list(in_turns(partial(theirs.do, task), partial(ours.do, task), rounds))
            yield of_rounds(f"definitions, {case}", peer, measured, at_least=target)


def browser_reads(posthog: PostHogServer, rounds: int) -> Iterator[Row]:
    """`GET /api/features/` with 100 definitions, and a DRF viewset with that answer in memory.

    One worker of gunicorn serves both. The viewset has the same authentication and no more than
    DRF asks for: it knows no identity, no ETag and no throttle. It has no 304 either: ours is
    measured against its 200.
    """
    with web.browser() as browser:
        for visitor in web.Visitor:
            plain = partial(browser.seconds_per_request, web.PLAIN_PATH, visitor)
            statuses = (200,) if visitor is web.Visitor.NEW else (200, 304)
            for status in statuses:
                ours = partial(
                    browser.seconds_per_request,
                    web.FEATURES_PATH,
                    visitor,
                    conditional=status == HTTPStatus.NOT_MODIFIED,
                )
                measured = list(in_turns(plain, ours, rounds))
                target = 0.7 if visitor is web.Visitor.NEW else 1
                case = f"GET /api/features/, {status}, {visitor.value}"
                yield of_rounds(case, PLAIN_VIEWSET, measured, at_least=target)


def known_people(posthog: PostHogServer, rounds: int) -> Iterator[Row]:
    """What a process keeps of 10,000 people whose flags 100 definitions decided."""
    for what, all_flags in (("one flag", False), ("all 100 flags", True)):
        with evaluators(Peer.OLPOSTHOG) as (ours,):
            task = partial(memory.bytes_per_known_person, PEOPLE, all_flags=all_flags)
            case = f"bytes per person who read {what}, {PEOPLE:,} people"
            yield measured_alone(case, Unit.BYTES, ours.do(task))


def busy_threads(posthog: PostHogServer, rounds: int) -> Iterator[Row]:
    """How many threads a process has while 100 callers wait for PostHog, for 100 ms each."""
    posthog.flags = flags(FEW)
    with processes(posthog) as pair:
        posthog.flags_fault = Delay(0.1)
        counts = [process.do(partial(tasks.threads_when_busy, MANY)) for process in pair]
    yield measured_once(f"threads, {MANY} callers not counted", PREDECESSOR, Unit.THREADS, counts)


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
    *(
        (f"local evaluation by {peer.value}", partial(local_evaluation, peer))
        for peer in Peer
        if peer is not Peer.OLPOSTHOG and peer.is_installed
    ),
    ("reads by browsers", browser_reads),
    ("known people", known_people),
    ("threads", busy_threads),
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
