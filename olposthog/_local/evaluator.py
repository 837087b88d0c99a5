"""Evaluates one version of the definitions for a person, without any I/O."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from olposthog._evaluation.decision import LOCAL_REASON, Decision
from olposthog._utils.log_lines import get_logger
from olposthog._utils.portable_json import decoded
from olposthog.identity import Identity
from olposthog.snapshot import Runtime
from olposthog.undecided import Undecided, UndecidedReason

from .compiler import Compiler
from .context import Context
from .definitions import MAX_FAULTS_PER_LINE, MAX_SHOWN_KEY, Definitions, shown
from .evaluation import LocalEvaluation

log = get_logger(__name__)


def prepare(definitions: Definitions) -> LocalEvaluator:
    """Return the definitions, compiled. Log the flags with cycles and with too deep nesting."""
    evaluator = LocalEvaluator(definitions)
    faults = [
        f"{shown(key)}: {undecided.detail[:MAX_SHOWN_KEY]}"
        for key, undecided in evaluator.badly_nested.items()
    ]
    if faults:
        more = len(faults) - MAX_FAULTS_PER_LINE
        log.warning(
            "Flag definitions have cycles or are nested too deeply. The flags concerned are "
            "undecided: %s%s",
            "; ".join(faults[:MAX_FAULTS_PER_LINE]),
            f"; and {more} more" if more > 0 else "",
        )
    return evaluator


class LocalEvaluator:
    """One version of the definitions, compiled."""

    def __init__(self, definitions: Definitions) -> None:
        self.definitions = definitions
        compiler = Compiler(definitions, self)
        self._compiled = compiler.compiled
        self.badly_nested: Mapping[str, Undecided] = compiler.badly_nested
        """Those of `undecidable` that have cycles, or are nested too deeply."""
        self.undecidable: Mapping[str, Undecided] = compiler.undecidable
        """The flags that nobody's evaluation can decide locally, each with the reason."""
        self.keys: Mapping[Runtime, Collection[str]] = {
            runtime: {key: None for key in definitions.flags if definitions.suits(key, runtime)}
            for runtime in Runtime
        }
        """The keys of the flags of each runtime, in the order of the definitions."""
        self._decisions: dict[tuple[str, bool | str], Decision] = {}
        self._undecided: dict[Undecided, Undecided] = {}  # people share equal reasons
        self._fallbacks: dict[
            Runtime, tuple[Mapping[str, bool | str], Mapping[str, bool | str]]
        ] = {}

    def evaluate(
        self, identity: Identity, person_properties: Mapping[str, Any], runtime: Runtime
    ) -> LocalEvaluation:
        """Return what the definitions decide for a person in a runtime, evaluated as it is read.

        All properties and groups must be JSON values.
        """
        context = Context.of(
            identity.distinct_id,
            identity.device_id,
            person_properties,
            identity.groups or {},
            identity.group_properties or {},
            has_all_properties=bool(identity.properties_complete),
        )
        return LocalEvaluation(self, context, runtime)

    def fallback(
        self, features: Mapping[str, bool | str], runtime: Runtime
    ) -> Mapping[str, bool | str]:
        """Return the values of `settings.FEATURES` without flags that are for another runtime."""
        kept = self._fallbacks.get(runtime)
        if kept is None or kept[0] is not features:
            suiting = {
                key: value
                for key, value in features.items()
                if self.definitions.suits(key, runtime)
            }
            kept = self._fallbacks[runtime] = features, suiting
        return kept[1]

    def decide(self, key: str, context: Context) -> Decision | Undecided:
        """Return the decision about one flag for a person, or why it is undecided."""
        value = self.value(key, context)
        if isinstance(value, Undecided):
            return self._undecided.setdefault(value, value)
        return self._decisions.get((key, value)) or self._decision(key, value)

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

    def _decision(self, key: str, value: bool | str) -> Decision:
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
