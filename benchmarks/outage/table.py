"""The figures as a table."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.report import Unit, columns, shown

from .figures import Figures, lateness, times_healthy
from .results import Side

HEADINGS = (
    "PostHog",
    "side",
    "requests",
    "errors",
    "p50",
    "p99",
    "p99 later",
    "calls",
    "log lines",
)
LEFT_ALIGNED = 2
TOO_LATE_SECONDS = 0.05
"""A generator this late had no processor to speak of, and neither had the server."""


def table(sides: Sequence[Sequence[Figures]]) -> str:
    """Show the sides' figures, phase by phase."""
    return columns(
        [HEADINGS, *(_cells(one) for phase in zip(*sides, strict=True) for one in phase)],
        LEFT_ALIGNED,
    )


def _cells(one: Figures) -> tuple[str, ...]:
    return (
        one.phase,
        one.side,
        str(one.requests),
        str(one.errors),
        shown(one.p50, Unit.SECONDS),
        shown(one.p99, Unit.SECONDS),
        shown(one.settled_p99, Unit.SECONDS),
        str(one.calls),
        str(one.log_lines),
    )


def comparison(figures: Sequence[Figures]) -> str:
    """Say how one side's later phases compare to its healthy one."""
    ratios = ", ".join(f"{phase} {ratio:.2g}x" for phase, ratio in times_healthy(figures).items())
    return f"p99 later, against {figures[0].phase}, {figures[0].side}: {ratios}"


def punctuality(side: Side) -> str:
    """Say whether the machine had time for the run, by how late requests left."""
    late = lateness(side)
    verdict = ": the machine was too busy, measure again" if late > TOO_LATE_SECONDS else ""
    return f"sent late by, p99, {side.name}: {shown(late, Unit.SECONDS)}{verdict}"
