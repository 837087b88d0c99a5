"""How commands lay out what they print."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from django.template.defaultfilters import pluralize

from olposthog._utils.log_lines import printable

LEAST = 10
"""So many characters of the last column are shown, however wide the others are."""
CUT = "..."
GAP = "  "


def table(rows: Sequence[Sequence[str]], width: int | None = None) -> Iterator[str]:
    """Yield a line for each row, its columns below each other; cut the last one to fit `width`."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        beginning = GAP.join([*cells, ""])
        last = row[-1]
        room = len(last) if width is None else max(LEAST, width - len(beginning))
        yield f"{beginning}{cut(last, room)}".rstrip()


def cut(text: str, length: int) -> str:
    """Return `text`, shortened to `length` characters if it is longer."""
    return text if len(text) <= length else text[: length - len(CUT)] + CUT


def number_of_flags(count: int) -> str:
    """Return so many flags in words."""
    return f"{count} flag{pluralize(count)}"


def milliseconds(seconds: float) -> str:
    """Return a duration as commands show it."""
    return f"{seconds * 1000:.0f} ms"
