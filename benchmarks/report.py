"""What was measured, as rows, and the table that shows them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from math import sqrt
from statistics import median, quantiles
from typing import Any


class Unit(StrEnum):
    """What a row counts."""

    SECONDS = "seconds"
    REQUESTS = "requests"
    BYTES = "bytes"
    THREADS = "threads"


@dataclass(frozen=True)
class Row:
    """One case: what the thing measured against needs, and what olposthog needs."""

    case: str
    against: str
    unit: Unit
    theirs: float | None
    """None where there is nothing to measure against."""
    ours: float
    ratio: float | None
    """How many times less olposthog needs."""
    error: float | None = None
    """The standard error of the ratio, relative to it; None for a single measurement."""
    at_least: float | None = None
    """The target for the ratio, if there is one."""
    at_most: float | None = None
    """The target for `ours`, if there is one."""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if self.at_least is not None:
            return self.ratio is not None and self.ratio >= self.at_least
        return None if self.at_most is None else self.ours <= self.at_most

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "met": self.met}

    def cells(self) -> tuple[str, ...]:
        target = ""
        if self.at_least is not None:
            target = f">= {self.at_least:g}x"
        elif self.at_most is not None:
            target = f"<= {shown(self.at_most, self.unit)}"
        return (
            self.case,
            self.against,
            "" if self.theirs is None else shown(self.theirs, self.unit),
            shown(self.ours, self.unit),
            "" if self.ratio is None else f"{self.ratio:.3g}x",
            "" if self.error is None else f"±{self.error:.1%}",
            target,
            {None: "", True: "met", False: "missed"}[self.met],
        )


def measured_once(
    case: str, against: str, unit: Unit, both: Sequence[float], at_most: float | None = None
) -> Row:
    """Make a row of one measurement of theirs and ours."""
    theirs, ours = both
    return Row(case, against, unit, theirs, ours, theirs / ours, at_most=at_most)


def measured_alone(case: str, unit: Unit, ours: float, at_most: float | None = None) -> Row:
    """Make a row of a measurement of ours that has no counterpart."""
    return Row(case, "", unit, None, ours, None, at_most=at_most)


def of_rounds(
    case: str,
    against: str,
    rounds: Sequence[tuple[float, float]],
    at_least: float | None = None,
) -> Row:
    """Make a row of rounds, each the seconds of theirs and of ours.

    All three numbers are medians. The ratio is that of the rounds' ratios, not that of the two
    other medians: both sides of a round met the same machine.
    """
    theirs, ours = (median(column) for column in zip(*rounds, strict=True))
    low, ratio, high = quantiles([one / other for one, other in rounds], n=4)
    # The median's standard error, were the rounds normally distributed.
    error = 0.93 * (high - low) / sqrt(len(rounds)) / ratio
    return Row(case, against, Unit.SECONDS, theirs, ours, ratio, error, at_least)


def shown(value: float, unit: Unit) -> str:
    if unit is Unit.REQUESTS:
        return f"{value:.0f} req"
    if unit is not Unit.SECONDS:
        return f"{value:,.0f}"
    for scale, name in ((1, "s"), (1e3, "ms")):
        if value * scale >= 0.9995:  # noqa: PLR2004  # what three digits show as 1
            return f"{value * scale:.3g} {name}"
    return f"{value * 1e6:.3g} µs"


HEADINGS = ("case", "against", "theirs", "olposthog", "times less", "error", "target", "")
LEFT_ALIGNED = 2


def table(rows: Iterable[Row]) -> str:
    return columns([HEADINGS, *(row.cells() for row in rows)], LEFT_ALIGNED)


def columns(lines: Sequence[Sequence[str]], left_aligned: int) -> str:
    """Lay out cells in columns, the first `left_aligned` of them to the left."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < left_aligned else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
