"""`python -m benchmarks.memory`: measure the memory that visitors and queued events take."""

from __future__ import annotations

import gc
import json
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from django.core.cache import caches
from django.test import override_settings

from olposthog._core import engine
from olposthog.features import evaluate, get_all_feature_flags, is_enabled, report_exposure
from tests.posthog_faults import Hang
from tests.posthog_server import Flag, PostHogServer

from .project import Package, set_up

FLAGS = 5000
PAYLOAD = {"items": [{"name": f"item-{number}", "price": number} for number in range(1500)]}
"""About 50 kB of JSON text."""
PATIENCE = 10.0
WARM_UP = 3
"""How many visitors come before the measurement, so that shared parts are not counted."""


@dataclass
class Traced:
    """Bytes that Python objects took after the block, in addition to those before it."""

    bytes: int = 0


@contextmanager
def traced(posthog: PostHogServer) -> Iterator[Traced]:
    """Count the bytes that stay allocated, without the stand-in's records and the shared cache."""
    posthog.clear()
    gc.collect()
    tracemalloc.start()
    result = Traced()
    try:
        yield result
        posthog.clear()
        caches["durable"].clear()
        gc.collect()
        result.bytes = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


def remote_flags(count: int) -> dict[str, bool | str | Flag]:
    """Return flags whose values depend on nothing, a third of them with a payload."""
    return {
        f"flag-{number}": Flag(number % 2 == 0, payload={"n": number} if number % 3 == 0 else None)
        for number in range(count)
    }


def definitions(count: int) -> str:
    """Return a definitions file with flags that half of all people have."""
    return json.dumps(
        {
            "flags": [
                {
                    "key": f"flag-{number}",
                    "active": True,
                    "filters": {
                        "groups": [{"properties": [], "rollout_percentage": 50}],
                        "payloads": {"true": '{"n": 1}'},
                    },
                }
                for number in range(count)
            ]
        }
    )


def bytes_per_visitor(posthog: PostHogServer, visitors: int) -> float:
    """Return the bytes that a process keeps for each visitor whose flags it evaluates."""
    visit(WARM_UP, "warm-up")
    with traced(posthog) as taken:
        visit(visitors, "visitor")
    return taken.bytes / visitors


def visit(count: int, name: str) -> None:
    """Evaluate all flags of new visitors, and read one."""
    for number in range(count):
        evaluate(f"{name}-{number}")
        is_enabled("flag-1", opt_unique_id=f"{name}-{number}")
    engine.current().settle(PATIENCE)


def bytes_per_known_person(people: int, *, all_flags: bool) -> float:
    """Return the bytes that a process keeps for each person who read one flag, or all flags.

    It evaluates flags by definitions; no server has a part in it.
    """
    from .peers import FLAG, PLAN

    def read(person: str) -> None:
        if all_flags:
            get_all_feature_flags(person, person_properties=PLAN)
        else:
            is_enabled(FLAG, opt_unique_id=person, person_properties=PLAN)

    with override_settings(
        POSTHOG_LOCAL_CACHE_SECONDS=3600, POSTHOG_LOCAL_CACHE_MAX_ENTRIES=2 * people
    ):
        for number in range(WARM_UP):
            read(f"warm-up-{number}")
        gc.collect()
        tracemalloc.start()
        try:
            for number in range(people):
                read(f"known-{number}")
            gc.collect()
            kept = len(engine.current().memory._entries) - WARM_UP  # noqa: SLF001
            return tracemalloc.get_traced_memory()[0] / kept
        finally:
            tracemalloc.stop()


def bytes_of_queue(posthog: PostHogServer, exposures: int) -> int:
    """Return the bytes of exposures of a flag with a payload of 50 kB, while events hang."""
    posthog.flags = {"large": Flag(True, payload=PAYLOAD)}
    posthog.events_fault = Hang()
    snapshot = evaluate("first")
    report_exposure(snapshot, "large")
    with traced(posthog) as taken:
        for number in range(exposures):
            report_exposure(
                replace(
                    snapshot, distinct_id=f"person-{number}", reported=type(snapshot.reported)()
                ),
                "large",
            )
    return taken.bytes


def shown(count: float) -> str:
    """Return a number of bytes for people."""
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.0f} kB"  # noqa: PLR2004  # one million


def main() -> None:
    with PostHogServer() as posthog, tempfile.TemporaryDirectory() as folder:
        set_up(Package.OURS, posthog.url, posthog.token, Path(folder) / "database.sqlite3")
        file = Path(folder) / "flags.json"
        file.write_text(definitions(FLAGS))
        posthog.flags = remote_flags(FLAGS)
        cases: list[tuple[str, dict[str, object], Callable[[], float]]] = [
            ("a visitor, remote evaluation", {}, lambda: bytes_per_visitor(posthog, 30)),
            (
                "a visitor, local evaluation",
                {"POSTHOG_FLAG_DEFINITIONS_FILE": str(file)},
                lambda: bytes_per_visitor(posthog, 30),
            ),
            ("12,000 exposures, events hang", {}, lambda: bytes_of_queue(posthog, 12_000)),
        ]
        for name, settings, measure in cases:
            with override_settings(POSTHOG_LOCAL_CACHE_SECONDS=3600, **settings):
                print(f"| {name} | {shown(measure())} |", flush=True)


if __name__ == "__main__":
    main()
