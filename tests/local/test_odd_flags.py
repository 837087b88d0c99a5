"""One odd flag never affects another: definitions are accepted flag by flag."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytest_django import Settings

from olposthog._core import engine
from olposthog.features import evaluate, is_enabled
from olposthog.snapshot import Runtime, Source
from olposthog.undecided import UndecidedReason
from tests.posthog_faults import Status
from tests.posthog_server import PostHogServer
from tests.site.processes import until
from tests.test_definitions import EVERYONE, flag, where

NOBODY: dict[str, Any] = {"groups": [{"properties": [], "rollout_percentage": 0}]}
PLAN = {"key": "plan", "type": "person", "value": ["pro"], "operator": "exact"}


def everyone(**more: object) -> dict[str, Any]:
    return {**EVERYONE, **more}


def rollout(percentage: object) -> dict[str, Any]:
    return {"groups": [{"properties": [], "rollout_percentage": percentage}]}


def variants(*each: object) -> dict[str, Any]:
    return everyone(multivariate={"variants": list(each)})


ODD = {
    "filters null": {"key": "odd", "active": True, "filters": None},
    "filters missing": {"key": "odd", "active": True},
    "filters a list": flag("odd", []),
    "rollout is text": flag("odd", rollout("50")),
    "rollout is true": flag("odd", rollout(True)),
    "rollout is a list": flag("odd", rollout([50])),
    "rollout is enormous": flag("odd", rollout(10**400)),
    "variant without a rollout": flag("odd", variants({"key": "test"})),
    "variant with a text rollout": flag(
        "odd", variants({"key": "test", "rollout_percentage": "5"})
    ),
    "variant without a key": flag("odd", variants({"rollout_percentage": 100})),
    "variant is text": flag("odd", variants("test")),
    "variants are an object": flag("odd", everyone(multivariate={"variants": {"test": 100}})),
    "multivariate is a list": flag("odd", everyone(multivariate=[1])),
    "payloads are a list": flag("odd", everyone(payloads=["{}"])),
    "groups are an object": flag("odd", {"groups": {}}),
    "groups are null": flag("odd", {"groups": None}),
    "groups are missing": flag("odd", {}),
    "group is null": flag("odd", {"groups": [None]}),
    "properties are text": flag("odd", {"groups": [{"properties": "plan"}]}),
    "property is null": flag("odd", where(None)),  # type: ignore[arg-type]  # as it may come
    "property without a key": flag("odd", where({"type": "person", "value": 1})),
    "property key is a list": flag("odd", where({**PLAN, "key": ["plan"]})),
    "property type is a list": flag("odd", where({**PLAN, "type": ["person"]})),
    "property operator is a list": flag("odd", where({**PLAN, "operator": ["exact"]})),
    "number too large": flag("odd", where({**PLAN, "value": [float("inf")]})),
    "not a number": flag("odd", where({**PLAN, "value": float("nan")})),
    "active is text": flag("odd", active="no"),
    "runtime is a number": flag("odd", evaluation_runtime=5),
    "continuity is text": flag("odd", ensure_experience_continuity="no"),
    "bucketing is a number": flag("odd", bucketing_identifier=5),
    "bucketing is unknown": flag("odd", bucketing_identifier="session_id"),
    "aggregation is text": flag("odd", everyone(aggregation_group_type_index="0")),
    "aggregation is unknown": flag("odd", everyone(aggregation_group_type_index=4)),
    "holdout is a list": flag("odd", everyone(holdout=[1])),
    "holdout share is text": flag("odd", everyone(holdout={"id": 1, "exclusion_percentage": "5"})),
    "version is text": flag("odd", everyone(version="1.0")),
    "enrollment is text": flag("odd", everyone(feature_enrollment="yes")),
    "override is a number": flag("odd", {"groups": [{"properties": [], "variant": 5}]}),
    "older condition sets": flag("odd", {**NOBODY, "super_groups": [{"properties": []}]}),
    "dependency on nothing": flag(
        "odd",
        where({"key": "gone", "type": "flag", "operator": "flag_evaluates_to", "value": True}),
    ),
}
"""Flags that PostHog would not write today. Each is active, and PostHog has it on."""
WITHOUT_KEY: list[Any] = [
    None,
    5,
    "odd",
    [],
    {},
    {"key": None},
    {"key": 5},
    {"key": ""},
    {"key": ["odd"]},
]


@pytest.fixture
def flip(enabled: PostHogServer, settings: Settings) -> Callable[..., None]:
    """Have `kill` on for everyone, then give the project the next version, with `kill` off."""
    settings.POSTHOG_PERSONAL_API_KEY = enabled.secret
    settings.POSTHOG_POLL_INTERVAL = 0.1
    settings.POSTHOG_LOCAL_CACHE_SECONDS = 0
    enabled.definitions = {"flags": [flag("kill")]}
    enabled.flags = {"kill": True, "odd": True}
    until(lambda: evaluate("u1").source is Source.LOCAL)

    def to(*odd: object, **more: object) -> None:
        enabled.definitions = {"flags": [flag("kill", NOBODY), *odd], **more}
        until(lambda: not is_enabled("kill", True, "u1"))

    return to


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.WARNING and "malformed" in record.getMessage()
    ]


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
def test_kill_switch_works_next_to_an_odd_flag(
    flip: Callable[..., None], odd: dict[str, Any]
) -> None:
    """The flags that can be read take effect, and PostHog's value of the odd flag counts."""
    flip(odd)

    snapshot = evaluate("u2")

    assert snapshot.flags == {"kill": False, "odd": True}
    assert snapshot.reasons == {"kill": "local", "odd": "condition_match"}
    assert list(snapshot.undecided) == ["odd"]


@pytest.mark.parametrize("odd", WITHOUT_KEY, ids=repr)
def test_flag_without_a_key_is_left_out(flip: Callable[..., None], odd: object) -> None:
    """What has no key cannot be asked for: the other flags take effect."""
    flip(odd)

    assert evaluate("u2").flags == {"kill": False}


@pytest.mark.parametrize("second", [flag("odd", NOBODY), flag("odd", active=False), flag("odd")])
def test_key_that_is_there_twice_is_undecided(
    flip: Callable[..., None], second: dict[str, Any]
) -> None:
    """Of two flags with one key nobody can tell which counts: PostHog decides."""
    flip(flag("odd", NOBODY), second)

    assert evaluate("u2").flags == {"kill": False, "odd": True}


@pytest.mark.parametrize("name", ["cohorts", "group_type_mapping"])
@pytest.mark.parametrize("odd", [None, [], 5, "text", {"1": None}, {"0": 7}], ids=repr)
def test_top_level_oddity_costs_the_flags_that_need_it(
    flip: Callable[..., None], name: str, odd: object
) -> None:
    """Without usable cohorts or group types only the flags that need them are undecided."""
    by_cohort = flag("odd", where({"key": "id", "type": "cohort", "value": 1}))
    by_group = flag("odd", everyone(aggregation_group_type_index=0))
    flip(by_cohort if name == "cohorts" else by_group, **{name: odd})

    assert evaluate("u2").flags == {"kill": False, "odd": True}


@pytest.mark.parametrize("version", [0, 3, "2", True, []], ids=repr)
def test_unknown_matching_version_costs_the_flags_with_properties(
    flip: Callable[..., None], version: object
) -> None:
    """Rules for comparing properties that are unknown here matter to nobody else."""
    flip(flag("odd", where(PLAN)), property_matching_version=version)

    assert evaluate("u2", person_properties={"plan": "free"}).flags == {"kill": False, "odd": True}


def test_one_line_for_each_version_names_what_is_malformed(
    flip: Callable[..., None], enabled: PostHogServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The line names each malformed flag with its fault, and is not repeated for each person."""
    flip(ODD["filters null"], ODD["rollout is text"] | {"key": "other"}, {}, cohorts=[])
    for number in range(20):
        evaluate(f"u{number}")

    (line,) = warnings_in(caplog)
    assert "flags[1], 'odd': \"filters\" must be a JSON object" in line
    assert "flags[2], 'other': the \"rollout_percentage\" of a group is not a number" in line
    assert 'flags[3]: it has no "key"' in line
    assert '"cohorts" must be a JSON object' in line

    enabled.definitions = {"flags": [flag("kill"), ODD["filters null"]]}
    until(lambda: is_enabled("kill", False, "u1"))
    assert len(warnings_in(caplog)) == 2


def test_line_is_bounded_and_escaped(
    flip: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    """A hundred malformed flags with hostile keys make one short line."""
    key = "x\n\x1b[31mERROR forged " + "y" * 10_000
    flip(*({"key": f"{key}{number}", "active": True} for number in range(100)))

    (line,) = warnings_in(caplog)
    assert line.isprintable()
    assert len(line) < 3000
    assert line.endswith("and 90 more")


@pytest.mark.parametrize("odd", ["filters null", "filters a list", "rollout is text"])
def test_disabled_flag_is_off_whatever_else_is_odd(flip: Callable[..., None], odd: str) -> None:
    """`"active": false` decides by itself."""
    flip(ODD[odd] | {"active": False})

    assert evaluate("u2").flags == {"kill": False, "odd": False}


@pytest.mark.parametrize(
    "odd", [ODD["filters null"], flag("odd", everyone(version=2, groups={}, rules=[]))]
)
def test_deleted_flag_is_no_flag(flip: Callable[..., None], odd: dict[str, Any]) -> None:
    """What PostHog has deleted is neither off nor undecided."""
    flip(odd | {"deleted": True})

    assert evaluate("u2").flags == {"kill": False}


@pytest.mark.parametrize("runtime", ["web", 5, ["server"], {}], ids=repr)
def test_flag_of_an_unknown_runtime_stays_on_the_server(
    flip: Callable[..., None], settings: Settings, runtime: object
) -> None:
    """No browser gets a flag, from FEATURES neither, unless its runtime can be read."""
    settings.FEATURES = {"odd": True}
    flip(flag("odd", evaluation_runtime=runtime))

    assert evaluate("u2").flags == {"kill": False, "odd": True}
    assert evaluate("u2", runtime=Runtime.CLIENT).flags == {"kill": False}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
def test_file_follows_the_same_rule(
    settings: Settings, tmp_path: Path, odd: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """In a definitions file, too, an odd flag has its fallback value and the others take effect."""
    file = tmp_path / "flags.json"
    file.write_text(json.dumps({"flags": [flag("kill", NOBODY), odd]}))
    settings.POSTHOG_ENABLED = True
    settings.POSTHOG_FLAG_DEFINITIONS_FILE = file
    settings.FEATURES = {"kill": True, "odd": "fallback"}

    snapshot = evaluate("u1")

    assert snapshot.flags == {"kill": False, "odd": "fallback"}
    assert list(snapshot.undecided) == ["odd"]
    is_malformed = snapshot.undecided["odd"].reason is UndecidedReason.MALFORMED
    assert len(warnings_in(caplog)) <= is_malformed


def test_undecided_flags_cannot_be_changed(flip: Callable[..., None]) -> None:
    """A snapshot's reasons are as immutable as its values."""
    flip(ODD["filters null"])
    undecided: Any = evaluate("u2").undecided

    with pytest.raises(TypeError):
        undecided["odd"] = None


def test_flags_stay_undecided_in_an_outage(
    flip: Callable[..., None], enabled: PostHogServer, settings: Settings
) -> None:
    """Without PostHog an undecided flag has the value from FEATURES, and the reason is known."""
    settings.FEATURES = {"odd": "fallback"}
    flip(ODD["filters null"])
    engine.reset()
    enabled.flags_fault = Status(500)
    until(lambda: "kill" in evaluate("u2").flags)

    snapshot = evaluate("u2")

    assert snapshot.source is Source.FALLBACK
    assert snapshot.flags == {"kill": False, "odd": "fallback"}
    assert list(snapshot.undecided) == ["odd"]
