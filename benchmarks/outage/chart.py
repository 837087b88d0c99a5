"""The course of a run as a chart: the same figures give the same bytes.

It stands on a light ground of its own, so that it reads alike on a light page and on a dark one,
and its letters are outlines, so that it looks alike wherever there are other fonts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from .figures import by_bin
from .results import Side
from .scenario import Scenario

GROUND, INK, FAINT = "#fcfcfb", "#24292f", "#d0d7de"
COLOURS = {"predecessor": "#c2410c", "olposthog": "#0860ca"}
SHADES = {"hang": "#fbe3d6", "500s": "#fdf0c4"}
"""Of the phases in which PostHog is ill."""
SCALE = (0.002, 20.0)
TICKS = {0.01: "10 ms", 0.1: "100 ms", 1.0: "1 s", 10.0: "10 s"}
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "olposthog",  # names the same things alike in each run
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",  # which matplotlib brings
    "font.size": 9.0,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "xtick.color": INK,
    "ytick.color": INK,
    "path.simplify": False,
}


def draw(sides: Sequence[Side], scenario: Scenario, file: Path) -> None:
    """Write the chart; the file's ending says in which format."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 5.4), facecolor=GROUND, layout="constrained")
        latency, calls = figure.subplots(2, sharex=True, height_ratios=(2.4, 1))
        for axes in (latency, calls):
            _shade(axes, scenario)
        _name_phases(latency, scenario)
        for side in sides:
            _plot(latency, calls, side, scenario)
        _finish(latency, calls, scenario)
        figure.savefig(file, dpi=120, metadata={"Date": None} if file.suffix == ".svg" else None)


def _shade(axes: Axes, scenario: Scenario) -> None:
    axes.set_facecolor(GROUND)
    for phase in scenario.phases:
        axes.axvspan(phase.begins, phase.ends, color=SHADES.get(phase.name, GROUND), lw=0, zorder=0)
    axes.grid(axis="y", color=FAINT, lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=0)


def _name_phases(axes: Axes, scenario: Scenario) -> None:
    for phase in scenario.phases:
        axes.annotate(
            f"PostHog: {phase.name}",
            ((phase.begins + phase.ends) / 2, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, -5),
            textcoords="offset points",
            ha="center",
            va="top",
            weight="bold",
        )


def _plot(latency: Axes, calls: Axes, side: Side, scenario: Scenario) -> None:
    bins = by_bin(side, scenario)
    middles = [one.middle for one in bins]
    colour = COLOURS[side.name]
    for name, values, width, dashes in (
        ("p99", [one.p99 for one in bins], 1.4, "solid"),
        ("p50", [one.p50 for one in bins], 1.2, (0, (2, 1.2))),
    ):
        latency.plot(
            middles, values, color=colour, lw=width, ls=dashes, label=f"{side.name}, {name}"
        )
    calls.plot(middles, [one.calls_per_second for one in bins], color=colour, lw=1.4)


def _finish(latency: Axes, calls: Axes, scenario: Scenario) -> None:
    latency.set_yscale("log")
    latency.set_ylim(*SCALE)
    latency.yaxis.set_major_locator(FixedLocator(list(TICKS)))
    latency.yaxis.set_minor_locator(NullLocator())
    latency.yaxis.set_major_formatter(FuncFormatter(lambda value, _: TICKS.get(value, "")))
    latency.set_ylabel("GET /api/features/")
    latency.legend(
        loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4, frameon=False, handlelength=2.4
    )
    calls.set_ylim(bottom=0)
    calls.set_ylabel("calls to PostHog\nper second")
    calls.set_xlim(0, scenario.seconds)
    calls.xaxis.set_major_locator(FixedLocator([0, *(phase.ends for phase in scenario.phases)]))
    calls.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} s"))
