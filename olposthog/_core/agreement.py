"""One page never contradicts itself: the two runtimes of a person agree on the flags they share.

PostHog is asked for each runtime by itself, so the two evaluations may be of different ages, or
one of them missing in an outage. For the flags that both runtimes have, the newer one decides. A
flag of the server never reaches a browser this way: see `Agreement.borrow`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from olposthog._evaluation.evaluation import Evaluation
from olposthog._local import Definitions
from olposthog._shared.clock_skew import ENTRY_SKEW_SECONDS
from olposthog.snapshot import Runtime


class Agreement:
    """What one process knows about the flags of each runtime."""

    def __init__(
        self, is_usable: Callable[[float], bool], *, wall: Callable[[], float] = time.time
    ) -> None:
        """Take what tells whether an evaluation made at a time (epoch) may still be used."""
        self._is_usable = is_usable
        self._wall = wall
        self._keys: dict[Runtime, tuple[float, frozenset[str]]] = {}

    def observe(self, runtime: Runtime, evaluation: Evaluation | None) -> None:
        """Remember which flags PostHog has for a runtime: it names the same ones to everybody."""
        if evaluation is None:
            return
        # A time in the future is from before this machine's clock was corrected.
        latest = self._wall() + ENTRY_SKEW_SECONDS
        newest = self._keys.get(runtime)
        if newest is None or not evaluation.evaluated_at <= newest[0] <= latest:
            keys = frozenset(
                {*evaluation.decisions, *evaluation.failed} - evaluation.origins.keys()
            )
            self._keys[runtime] = (evaluation.evaluated_at, keys)

    def reconcile(self, known: Evaluation, other: Evaluation | None) -> Evaluation:
        """Return `known` with the decisions of the other runtime where those are newer."""
        if other is None or other.evaluated_at <= known.evaluated_at:
            return known
        return known.with_decisions_of(other, known.decisions)

    def borrow(
        self, other: Evaluation, runtime: Runtime, definitions: Definitions | None
    ) -> Evaluation | None:
        """Return what the other runtime's evaluation decides for `runtime`; None if nothing.

        The flags are those that definitions have for the runtime. A flag that no definition names
        is used if PostHog named it for that runtime lately; where nothing is known about the
        runtime's flags, only the server gets it.
        """
        named_at, named = self._keys.get(runtime, (0.0, None))
        if named is not None and not self._is_usable(named_at):
            named = None

        def is_for_runtime(key: str) -> bool:
            if definitions is not None and key in definitions.flags:
                return definitions.suits(key, runtime)
            return runtime is Runtime.SERVER if named is None else key in named

        borrowed = other.only(is_for_runtime)
        return borrowed if borrowed.decisions else None
