"""Local evaluation: flag definitions and the SDK, without any network."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import posthog

from olposthog.definitions import Definitions
from olposthog.identity import Identity, plain
from olposthog.protocol import decoded
from olposthog.snapshot import LOCAL_REASON, Decision, Evaluation, Runtime

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LocalEvaluation:
    """What definitions alone decide."""

    evaluation: Evaluation
    undecided: frozenset[str]
    """The keys of the runtime that only PostHog can decide."""


class LocalEvaluator:
    """Evaluates one version of the definitions. Making one takes milliseconds of work."""

    def __init__(self, definitions: Definitions, wall: Callable[[], float] = time.time) -> None:
        self.definitions = definitions
        self._wall = wall
        # The key only has to look like one, and any secret makes the SDK evaluate locally.
        self._sdk = posthog.Posthog(
            "phc_local",
            secret_key="local",  # noqa: S106  # no secret
            send=False,
            enable_local_evaluation=False,
            flag_definition_cache_provider=_Given(definitions),
        )
        self._sdk.load_feature_flags()  # type: ignore[no-untyped-call]  # the SDK's

    def evaluate(
        self, identity: Identity, person_properties: Mapping[str, Any], runtime: Runtime
    ) -> LocalEvaluation:
        """Evaluate the definitions for a person.

        Flags for the other runtime, which the SDK evaluates all the same, are left out.
        """
        found = self._sdk.get_all_flags_and_payloads(
            identity.distinct_id,
            groups=plain(identity.groups),
            person_properties=plain(person_properties),
            group_properties=plain(identity.group_properties),
            only_evaluate_locally=True,
            # None would mean the device id of the SDK's ambient context, whosever that is.
            device_id=identity.device_id or "",
        )
        values: Mapping[str, Any] = found["featureFlags"] or {}
        payloads = found["featureFlagPayloads"] or {}
        decisions: dict[str, Decision] = {}
        undecided = set()
        for key, (id_, version) in self.definitions.versions.items():
            if not self.definitions.suits(key, runtime):
                continue
            if key not in values:
                undecided.add(key)
                continue
            value = values[key]
            decisions[key] = Decision(
                value=value if isinstance(value, bool | str) else True,
                payload=decoded(payloads.get(key)),
                reason=LOCAL_REASON,
                description="Evaluated locally",
                id=id_,
                version=version,
            )
        if undecided:
            log.debug("%d flags cannot be decided by their definitions alone.", len(undecided))
        return LocalEvaluation(Evaluation(decisions, self._wall()), frozenset(undecided))


class _Given:
    """Hands the SDK definitions that are already here, so that it never fetches any."""

    def __init__(self, definitions: Definitions) -> None:
        self._definitions = definitions

    def should_fetch_flag_definitions(self) -> bool:
        return False

    def get_flag_definitions(self) -> Any:
        return dict(self._definitions.data)

    def on_flag_definitions_received(self, data: Any) -> None:
        """Take nothing: the SDK never fetches."""

    def shutdown(self) -> None:
        """Close nothing."""
