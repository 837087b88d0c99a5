"""Local evaluation with 100 definitions, by olposthog and by the SDKs that do the same.

Each peer has equal flags and the same people. What it parses, it parses before the measurement,
and it sends no events.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from .project import Package, set_up
from .tasks import new_person, seconds_per_call

FLAGS = 100
FLAG = "flag-003"
"""On for half of the people who have the plan."""
PLAIN_FLAG = "flag-001"
"""On for half of all people."""
PLAN = {"plan": "pro"}
HALF = 50
VARIANTS = ("control", "test")


class Peer(StrEnum):
    """What evaluates flags, by the name in the table."""

    OLPOSTHOG = "olposthog"
    POSTHOG = "PostHog SDK"
    LAUNCHDARKLY = "LaunchDarkly"
    GROWTHBOOK = "GrowthBook"

    @property
    def is_installed(self) -> bool:
        """Whether its package is installed. The group `peers` has those that `dev` does not."""
        modules = {Peer.LAUNCHDARKLY: "ldclient", Peer.GROWTHBOOK: "growthbook"}
        return find_spec(modules.get(self, "posthog")) is not None


class Evaluator(Protocol):
    """The functions of a peer that are measured."""

    def is_enabled(self, key: str, person: str) -> bool:
        """Evaluate a flag for a person with the plan."""
        ...

    def is_plain_enabled(self, key: str, person: str) -> bool:
        """Evaluate a flag for a person without properties."""
        ...

    def all_flags(self, person: str) -> Mapping[str, Any]: ...


def kinds() -> Iterator[tuple[str, bool, bool]]:
    """Yield each flag's key, whether it has a condition, and whether it has variants."""
    for number in range(FLAGS):
        yield f"flag-{number:03}", number % 3 == 0, number % 4 == 0


def definitions() -> dict[str, Any]:
    """Return the flags in PostHog's format."""
    plan = {"key": "plan", "type": "person", "value": ["pro"], "operator": "exact"}
    flags = []
    for key, has_condition, has_variants in kinds():
        condition = {"properties": [plan] if has_condition else [], "rollout_percentage": HALF}
        filters: dict[str, Any] = {"groups": [condition]}
        if has_variants:
            variants = [{"key": one, "rollout_percentage": HALF} for one in VARIANTS]
            filters["multivariate"] = {"variants": variants}
        flags.append({"id": 1, "key": key, "active": True, "version": 1, "filters": filters})
    return {"flags": flags, "group_type_mapping": {}, "cohorts": {}}


class _Olposthog:
    def __init__(self, folder: Path) -> None:
        file = folder / "definitions.json"
        file.write_text(json.dumps(definitions()))
        set_up(Package.OURS, "", "", folder / "olposthog.sqlite3", definitions_file=str(file))
        from olposthog import features

        self._features = features

    def is_enabled(self, key: str, person: str) -> bool:
        return self._features.is_enabled(key, opt_unique_id=person, person_properties=PLAN)

    def is_plain_enabled(self, key: str, person: str) -> bool:
        return self._features.is_enabled(key, opt_unique_id=person)

    def all_flags(self, person: str) -> Mapping[str, Any]:
        return self._features.get_all_feature_flags(person, person_properties=PLAN)


class _PostHog:
    def __init__(self, folder: Path) -> None:
        from posthog import Posthog

        self._client: Any = Posthog(
            "phc_benchmarks",
            secret_key="any",
            send=False,
            flag_definition_cache_provider=_Given(),
            poll_interval=3600,
        )

    def is_enabled(self, key: str, person: str) -> bool:
        value: bool = self._client.feature_enabled(
            key,
            person,
            person_properties=PLAN,
            only_evaluate_locally=True,
            send_feature_flag_events=False,
        )
        return value

    def is_plain_enabled(self, key: str, person: str) -> bool:
        value: bool = self._client.feature_enabled(
            key, person, only_evaluate_locally=True, send_feature_flag_events=False
        )
        return value

    def all_flags(self, person: str) -> Mapping[str, Any]:
        flags: dict[str, Any] = self._client.get_all_flags(
            person, person_properties=PLAN, only_evaluate_locally=True
        )
        return flags


class _Given:
    """Gives PostHog's SDK definitions, so that it fetches none."""

    def should_fetch_flag_definitions(self) -> bool:
        return False

    def get_flag_definitions(self) -> Any:
        return definitions()

    def on_flag_definitions_received(self, data: Any) -> None: ...

    def shutdown(self) -> None: ...


class _LaunchDarkly:
    def __init__(self, folder: Path) -> None:
        from ldclient import Context, LDClient
        from ldclient.config import Config
        from ldclient.integrations import Files

        logging.getLogger("ldclient").setLevel(logging.ERROR)
        file = folder / "launchdarkly.json"
        file.write_text(
            json.dumps({"flags": {key: self._flag(key, *kind) for key, *kind in kinds()}})
        )
        source = Files.new_data_source(paths=[str(file)])
        self._client = LDClient(Config("any", update_processor_class=source, send_events=False))
        self._builder = Context.builder

    @staticmethod
    def _flag(key: str, has_condition: bool, has_variants: bool) -> dict[str, Any]:
        on = [*VARIANTS] if has_variants else [True]
        share = HALF * 1000 // len(on)
        weights = [{"variation": number, "weight": share} for number in range(len(on))]
        weights.append({"variation": len(on), "weight": 100_000 - share * len(on)})
        rollout = {"rollout": {"contextKind": "user", "variations": weights}}
        clause = {"contextKind": "user", "attribute": "plan", "op": "in", "values": ["pro"]}
        rules = [{"id": "plan", "clauses": [clause], **rollout}] if has_condition else []
        return {
            "key": key,
            "on": True,
            "version": 1,
            "salt": key,
            "variations": [*on, False],
            "offVariation": len(on),
            "rules": rules,
            "fallthrough": {"variation": len(on)} if has_condition else rollout,
        }

    def _context(self, person: str) -> Any:
        return self._builder(person).set("plan", PLAN["plan"]).build()

    def is_enabled(self, key: str, person: str) -> bool:
        return bool(self._client.variation(key, self._context(person), False))

    def is_plain_enabled(self, key: str, person: str) -> bool:
        return bool(self._client.variation(key, self._builder(person).build(), False))

    def all_flags(self, person: str) -> Mapping[str, Any]:
        flags: dict[str, Any] = self._client.all_flags_state(self._context(person)).to_values_map()
        return flags


class _GrowthBook:
    """One instance for all people, which is its fastest way: one for each parses all flags."""

    def __init__(self, folder: Path) -> None:
        from growthbook import GrowthBook

        features = {key: self._feature(*kind) for key, *kind in kinds()}
        self._client: Any = GrowthBook(features=features)

    @staticmethod
    def _feature(has_condition: bool, has_variants: bool) -> dict[str, Any]:
        rule: dict[str, Any] = {"coverage": HALF / 100, "hashAttribute": "id"}
        rule |= {"variations": [*VARIANTS]} if has_variants else {"force": True}
        if has_condition:
            rule["condition"] = PLAN
        return {"defaultValue": False, "rules": [rule]}

    def is_enabled(self, key: str, person: str) -> bool:
        self._client.set_attributes({"id": person, **PLAN})
        on: bool = self._client.is_on(key)
        return on

    def is_plain_enabled(self, key: str, person: str) -> bool:
        self._client.set_attributes({"id": person})
        on: bool = self._client.is_on(key)
        return on

    def all_flags(self, person: str) -> Mapping[str, Any]:
        self._client.set_attributes({"id": person, **PLAN})
        return {key: self._client.eval_feature(key).value for key, *_ in kinds()}


_EVALUATORS: Mapping[Peer, Callable[[Path], Evaluator]] = {
    Peer.OLPOSTHOG: _Olposthog,
    Peer.POSTHOG: _PostHog,
    Peer.LAUNCHDARKLY: _LaunchDarkly,
    Peer.GROWTHBOOK: _GrowthBook,
}
_evaluators: list[Evaluator] = []


def start(peer: Peer, folder: Path) -> None:
    """Make this process one that evaluates flags with `peer`."""
    _evaluators[:] = [_EVALUATORS[peer](folder)]


def shares() -> tuple[float, float]:
    """Return for how many of 1,000 people FLAG is on, and how many of all flags are."""
    peer, people = _evaluators[0], 1000
    on = sum(peer.is_enabled(FLAG, new_person()) for _ in range(people)) / people
    flags = [value for _ in range(HALF) for value in peer.all_flags(new_person()).values()]
    return on, sum(map(bool, flags)) / FLAGS / HALF


def check_new_people() -> float:
    """Time one flag of someone new each time."""
    peer = _evaluators[0]
    return seconds_per_call(lambda: peer.is_enabled(FLAG, new_person()))


def check_new_plain_people() -> float:
    """Time one flag of someone new each time, without properties."""
    peer = _evaluators[0]
    return seconds_per_call(lambda: peer.is_plain_enabled(PLAIN_FLAG, new_person()))


def check_one_person() -> float:
    """Time one flag of the same person, without properties."""
    peer = _evaluators[0]
    return seconds_per_call(lambda: peer.is_plain_enabled(PLAIN_FLAG, "ann"))


def list_flags() -> float:
    """Time all flags of someone new each time."""
    peer = _evaluators[0]
    return seconds_per_call(lambda: peer.all_flags(new_person()))
