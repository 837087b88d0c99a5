"""What a run leaves in the documents: its figures in the measurements, and the chart."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "measurements.md"
CHART = ROOT / "docs" / "images" / "outage.svg"
BEGIN, END = "<!-- outage: begin -->", "<!-- outage: end -->"


def with_figures(page: str, figures: str) -> str:
    """Return the page with `figures` between the markers; raises ValueError without them."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"there is no {BEGIN} followed by {END}")
    return f"{before}{BEGIN}\n```\n{figures}\n```\n{END}{after}"
