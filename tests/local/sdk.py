"""The SDK's own local evaluation, which ours is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import posthog

from .documents import Person


class _Given:
    """Gives the SDK definitions that are here already, so that it fetches none."""

    document: Mapping[str, Any] = {"flags": []}

    def should_fetch_flag_definitions(self) -> bool:
        return False

    def get_flag_definitions(self) -> Any:
        return {"group_type_mapping": {}, "cohorts": {}, **self.document}

    def on_flag_definitions_received(self, data: Any) -> None:
        """Ignore them: the SDK fetches none."""

    def shutdown(self) -> None:
        """Close nothing."""


@cache
def _client() -> tuple[posthog.Posthog, _Given]:
    given = _Given()
    client = posthog.Posthog(
        "phc_tests",
        secret_key="any",
        send=False,
        enable_local_evaluation=False,
        flag_definition_cache_provider=given,
    )
    return client, given


def sdk_outcomes(document: Mapping[str, Any], person: Person) -> dict[str, Any]:
    """Return each flag's value and payload, or the SDK's reason for leaving it unresolved.

    A flag whose evaluation raises is missing.
    """
    client, given = _client()
    given.document = document
    client.load_feature_flags()
    found = client.evaluate_flags(
        person.distinct_id,
        person_properties=dict(person.properties),
        groups=dict(person.groups),
        group_properties={kind: dict(one) for kind, one in person.group_properties.items()},
        device_id=person.device_id,
        only_evaluate_locally=True,
    )
    decided = {
        key: (found.get_flag(key, send_feature_flag_events=False), found.get_flag_payload(key))
        for key in found.keys
    }
    return decided | dict(found.unresolved_flags)
