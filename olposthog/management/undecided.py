"""How commands show the flags that local evaluation leaves undecided."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from olposthog._local import LocalEvaluator
from olposthog.undecided import Undecided

from .layout import GAP, cut, number_of_flags, table

MAX_ROWS = 20
MAX_KEY = 40
MAX_DETAIL = 200


def undecided_rows(flags: Mapping[str, Undecided]) -> Iterator[str]:
    """Yield a line for each of the first `MAX_ROWS` flags: key, reason and fix."""
    rows = [
        (cut(key, MAX_KEY), f"{cut(one.detail, MAX_DETAIL)}. {one.fix}")
        for key, one in sorted(flags.items())
    ]
    yield from (f"{GAP}{line}" for line in table(rows[:MAX_ROWS]))
    if len(rows) > MAX_ROWS:
        yield f"{GAP}and {len(rows) - MAX_ROWS} more"


def definitions_report(evaluator: LocalEvaluator, *, is_file: bool) -> Iterator[str]:
    """Yield what these definitions cannot decide, and what is malformed. Nothing if all is well."""
    definitions, flags = evaluator.definitions, evaluator.undecidable
    if flags:
        consequence = (
            "Their values are from settings.FEATURES, else the caller's default"
            if is_file
            else "They cost a request to PostHog per person"
        )
        yield (
            f"{len(flags)} of {number_of_flags(len(definitions.flags))} cannot be decided "
            f"locally. {consequence}:"
        )
        yield from undecided_rows(flags)
    if definitions.faults:
        yield f"Malformed parts of the definitions: {definitions.summary_of_faults}."
