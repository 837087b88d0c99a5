"""`python -m benchmarks.outage`: run the outage with both packages, then print the table."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from benchmarks.project import Package

from .chart import draw
from .documents import CHART, PAGE, with_figures
from .figures import by_phase
from .results import Side
from .run import measure
from .scenario import FULL, QUICK, Scenario
from .site import postgresql
from .table import comparison, punctuality, table


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.outage",
        description="Serve both packages while the stand-in PostHog goes through an outage.",
    )
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--quick", action="store_true", help="only prove in a minute that it works")
    kinds.add_argument("--write", action="store_true", help="renew the chart and table in docs/")
    parser.add_argument(
        "--posthog-ms",
        type=float,
        default=FULL.posthog_seconds * 1000,
        help="how long a healthy PostHog takes to answer (%(default)g)",
    )
    return parser


def scenario_of(options: argparse.Namespace) -> Scenario:
    scenario = QUICK if options.quick else FULL
    return replace(scenario, posthog_seconds=options.posthog_ms / 1000)


def run(scenario: Scenario) -> list[Side]:
    """Measure one side and then the other, telling on stderr what is under way."""
    start = time.monotonic()

    def tell(number: int, package: Package, phase: str) -> None:
        seconds = time.monotonic() - start
        print(f"[{number}/2] {seconds:3.0f} s, {package.value}: {phase}...", file=sys.stderr)

    with postgresql() as server:
        return [
            measure(package, scenario, server, partial(tell, number, package))
            for number, package in enumerate((Package.PREDECESSOR, Package.OURS), start=1)
        ]


def report(sides: Sequence[Side], scenario: Scenario) -> str:
    """Return all that is printed of a run."""
    figures = [by_phase(side, scenario) for side in sides]
    lines = [
        scenario.describe(),
        "",
        table(figures),
        "",
        f'"p99 later" leaves out the first {scenario.settled_seconds:g} s of each phase.',
        *map(comparison, figures),
        *map(punctuality, sides),
    ]
    return "\n".join(lines)


def main() -> None:
    options = parser().parse_args()
    # So that the servers end with this program, also when it is told to.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    scenario = scenario_of(options)
    print(scenario.describe(), file=sys.stderr)
    sides = run(scenario)
    figures = report(sides, scenario)
    print(figures)
    if options.write:
        PAGE.write_text(with_figures(PAGE.read_text(), figures))
        CHART.parent.mkdir(exist_ok=True)
        draw(sides, scenario, CHART)


if __name__ == "__main__":
    main()
