"""Evaluates one version of the definitions for a person, without any I/O."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from olposthog._evaluation.decision import LOCAL_REASON, Decision
from olposthog._evaluation.evaluation import Evaluation
from olposthog._utils.compact_mapping import compact
from olposthog._utils.log_lines import get_logger
from olposthog._utils.portable_json import decoded
from olposthog.identity import Identity, plain
from olposthog.snapshot import Runtime
from olposthog.undecided import Undecided, UndecidedReason

from .compiler import Compiler
from .context import Context
from .definitions import Definitions

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class LocalEvaluation:
    """What definitions alone decide."""

    evaluation: Evaluation
    undecided: Mapping[str, Undecided]
    """The flags of the runtime that only PostHog can decide, each with the reason."""


class LocalEvaluator:
    """One version of the definitions, compiled."""

    def __init__(self, definitions: Definitions, wall: Callable[[], float] = time.time) -> None:
        self.definitions = definitions
        self._wall = wall
        compiler = Compiler(definitions, self)
        self._compiled = compiler.compiled
        self.undecidable: Mapping[str, Undecided] = compiler.undecidable
        """The flags that nobody's evaluation can decide locally, each with the reason."""
        self._keys = {
            runtime: [key for key in definitions.flags if definitions.suits(key, runtime)]
            for runtime in Runtime
        }
        self._decisions: dict[tuple[str, bool | str], Decision] = {}
        self._undecided: dict[Undecided, Undecided] = {}  # people share equal reasons

    def evaluate(
        self, identity: Identity, person_properties: Mapping[str, Any], runtime: Runtime
    ) -> LocalEvaluation:
        """Return what the definitions decide for a person in a runtime."""
        context = Context.of(
            identity.distinct_id,
            identity.device_id,
            person_properties,
            plain(identity.groups),
            plain(identity.group_properties),
        )
        decisions: dict[str, Decision] = {}
        undecided: dict[str, Undecided] = {}
        for key in self._keys[runtime]:
            value = self.value(key, context)
            if isinstance(value, Undecided):
                undecided[key] = self._undecided.setdefault(value, value)
            else:
                decisions[key] = self._decisions.get((key, value)) or self._decide(key, value)
        return LocalEvaluation(Evaluation(compact(decisions), self._wall()), compact(undecided))

    def value(self, key: str, context: Context) -> bool | str | Undecided:
        """Return the value of one flag for a person, or why it is undecided."""
        value = context.values.get(key)
        if value is None:
            try:
                value = self._compiled[key].evaluate(context)
            except Exception as error:  # whatever a person's properties hold
                log.debug("A flag could not be evaluated.", exc_info=True)
                value = Undecided(
                    UndecidedReason.UNSUPPORTED, f"evaluating it failed ({type(error).__name__})"
                )
            context.values[key] = value
        return value

    def _decide(self, key: str, value: bool | str) -> Decision:
        """Return the decision for a value. All people who have the value share it."""
        flag = self.definitions.flags[key]
        decision = self._decisions[key, value] = Decision(
            value=value,
            payload=self._payload(key, value),
            reason=LOCAL_REASON,
            description="Evaluated locally",
            id=flag.id,
            version=flag.version,
            has_experiment=flag.has_experiment,
            minimal_event=self.definitions.minimal_events,
        ).shared()
        return decision

    def _payload(self, key: str, value: bool | str) -> Any:
        if value is False:
            return None
        filters = self.definitions.flags[key].data["filters"]
        return decoded((filters.get("payloads") or {}).get("true" if value is True else value))
