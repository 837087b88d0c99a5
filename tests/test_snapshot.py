"""What one evaluation found: the overlay of two sources, kept unchanged and stored as JSON."""

from __future__ import annotations

import copy
import json
import pickle
import weakref
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from olposthog._evaluation.decision import JSON, Decision
from olposthog._evaluation.evaluation import Evaluation
from olposthog.features import evaluate
from olposthog.identity import Identity
from olposthog.snapshot import FlagSnapshot, Runtime, Source

keys = st.text(max_size=8)
values: st.SearchStrategy[bool | str] = st.booleans() | st.text(max_size=8)
payloads: st.SearchStrategy[JSON] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=6,
)
decisions = st.builds(
    Decision,
    value=values,
    payload=payloads,
    reason=st.text(max_size=8),
    description=st.text(max_size=8),
    id=st.none() | st.integers(),
    version=st.none() | st.integers(),
    config_version=st.integers(),
    rule_type=st.none() | st.text(max_size=8),
    rule_id=st.none() | st.text(max_size=8),
    variant_key=st.none() | st.text(max_size=8),
    has_experiment=st.none() | st.booleans(),
    minimal_event=st.booleans(),
)
evaluations = st.builds(
    Evaluation,
    decisions=st.dictionaries(keys, decisions, max_size=5),
    evaluated_at=st.floats(min_value=0, max_value=4e9),
    request_id=st.none() | st.text(max_size=8),
    failed=st.lists(keys, max_size=3).map(tuple),
)


def snapshot(
    evaluation: Evaluation | None = None,
    features: dict[str, bool | str] | None = None,
    **about: Any,
) -> FlagSnapshot:
    """An answer to somebody, made of these."""
    return FlagSnapshot(
        **{
            "source": Source.POSTHOG,
            "created_at": 2.0,
            "distinct_id": "u1",
            "runtime": Runtime.SERVER,
            **about,
        },
        evaluation=evaluation,
        fallback=features or {},
    )


@given(evaluations)
def test_evaluation_survives_storage(evaluation: Evaluation) -> None:
    """What the shared cache keeps as JSON text comes back as it was."""
    assert Evaluation.from_json(json.loads(json.dumps(evaluation.to_json()))) == evaluation


@pytest.mark.parametrize(
    "stored",
    [
        None,
        [],
        "text",
        {},
        {"decisions": {}, "evaluated_at": None, "request_id": None},
        {"decisions": {}, "evaluated_at": 1.0, "request_id": None, "failed": 1},
        {"decisions": [], "evaluated_at": 1.0, "request_id": None},
        {"decisions": {"x": True}, "evaluated_at": 1.0, "request_id": None},
        {"decisions": {"x": {}}, "evaluated_at": 1.0, "request_id": None},
        {
            "decisions": {"x": {"value": True, "of": "newer"}},
            "evaluated_at": 1.0,
            "request_id": None,
        },
    ],
)
def test_what_another_version_stored_is_refused(stored: object) -> None:
    """Anything else in the shared cache raises what its reader expects."""
    with pytest.raises((KeyError, TypeError, AttributeError)):
        Evaluation.from_json(stored)


def test_what_an_older_version_stored_is_read() -> None:
    """An entry without the flags that failed, as it was before, has none."""
    stored = {"decisions": {}, "evaluated_at": 1.0, "request_id": None}

    assert Evaluation.from_json(stored) == Evaluation({}, 1.0)


def test_decision_of_an_older_version_is_read() -> None:
    """A decision without rule and experiment, as it was before, is of config version 1."""
    stored = {"value": True, "payload": 1, "reason": "r", "description": "d", "id": 1, "version": 2}
    entry = {"decisions": {"x": stored}, "evaluated_at": 1.0, "request_id": None, "failed": []}

    assert Evaluation.from_json(entry) == Evaluation({"x": Decision(True, 1, "r", "d", 1, 2)}, 1.0)
    assert Decision(True).config_version == 1


@given(evaluations, st.dictionaries(keys, values, max_size=5))
def test_posthogs_values_overlay_features(
    evaluation: Evaluation, features: dict[str, bool | str]
) -> None:
    """Every flag of either source is there, and where both have one PostHog's value stands."""
    flags = snapshot(evaluation, features).flags

    assert set(flags) == set(features) | set(evaluation.decisions)
    for key, value in flags.items():
        decision = evaluation.decisions.get(key)
        assert value == (decision.value if decision else features[key])


def test_only_flags_with_a_payload_are_in_payloads() -> None:
    """A payload of nothing is left out; one that is merely empty or false is not."""
    found: dict[str, JSON] = {"none": None, "false": False, "zero": 0, "empty": {}}
    evaluation = Evaluation({key: Decision(True, payload=one) for key, one in found.items()}, 1.0)

    assert snapshot(evaluation).payloads == {"false": False, "zero": 0, "empty": {}}


def test_reasons_are_posthogs_alone() -> None:
    """A value from FEATURES has no reason."""
    evaluation = Evaluation({"x": Decision(True, reason="condition_match")}, 1.0)

    assert snapshot(evaluation, {"y": True}).reasons == {"x": "condition_match"}


def test_evaluated_at_is_when_it_was_decided() -> None:
    """PostHog's decisions carry their own time, a fallback that of the answer; both in UTC."""
    assert snapshot(Evaluation({}, 1.0)).evaluated_at == datetime.fromtimestamp(1, UTC)
    assert snapshot(None).evaluated_at == datetime.fromtimestamp(2, UTC)
    assert snapshot(None).evaluated_at.utcoffset() == UTC.utcoffset(None)


def test_snapshot_never_changes() -> None:
    """A snapshot can be kept and passed on: neither it nor its mappings can be written."""
    kept: Any = snapshot(Evaluation({"x": Decision(True, payload=1)}, 1.0))

    for mapping in (kept.flags, kept.payloads, kept.reasons):
        with pytest.raises(TypeError):
            mapping["x"] = False
    with pytest.raises(FrozenInstanceError):
        kept.source = Source.FALLBACK


COPIES = [
    *(
        pytest.param(lambda one, n=n: pickle.loads(pickle.dumps(one, n)), id=f"pickle {n}")
        for n in range(pickle.HIGHEST_PROTOCOL + 1)
    ),
    copy.deepcopy,
    copy.copy,
]
EVALUATION = Evaluation(
    {"x": Decision("test", {"deep": [1]}, "condition_match")}, 1.0, "id", ("y",)
)


@pytest.mark.parametrize("copied", COPIES)
def test_snapshot_can_be_copied(copied: Callable[[FlagSnapshot], FlagSnapshot]) -> None:
    """A snapshot that was pickled or copied is equal in every field, and as unchangeable."""
    about = {"groups": {"company": "c1"}, "anonymous": True}
    original = snapshot(EVALUATION, {"z": False}, **about)
    original.reported["x"] = "test"

    found: Any = copied(original)

    for one in fields(FlagSnapshot):
        assert getattr(found, one.name) == getattr(original, one.name), one.name
    for mapping in (found.flags, found.payloads, found.reasons):
        with pytest.raises(TypeError):
            mapping["x"] = False
    with pytest.raises(FrozenInstanceError):
        found.source = Source.FALLBACK
    assert weakref.ref(found)() is found


@pytest.mark.parametrize("copied", [COPIES[0], COPIES[-3], copy.deepcopy])
def test_deep_copy_shares_nothing(copied: Callable[[FlagSnapshot], FlagSnapshot]) -> None:
    """What a payload of a copy holds may be changed; the original stays as it is."""
    original = snapshot(EVALUATION)

    found: Any = copied(original)
    found.payloads["x"]["deep"].append(2)
    found.reported["x"] = "test"

    assert original.payloads == {"x": {"deep": [1]}}
    assert original.reported == {}


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize(
    "original",
    [
        EVALUATION,
        EVALUATION.decisions["x"],
        Identity("u1", {"plan": "pro"}, {"company": "c1"}, {"company": {"size": 3}}, True, "d1"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_parts_can_be_copied(original: object, copied: Callable[[object], object]) -> None:
    """Evaluations, decisions and identities can be pickled and copied too."""
    found: Any = copied(original)

    assert found == original
    with pytest.raises(FrozenInstanceError):
        setattr(found, fields(found)[0].name, None)


def test_snapshot_is_not_touched_by_its_sources(settings: Settings) -> None:
    """What happens to the settings' dictionary afterwards does not reach a snapshot."""
    features: dict[str, bool | str] = {"x": True}
    settings.FEATURES = features
    kept = evaluate("u1")

    features["x"] = False

    assert kept.flags == {"x": True}


def test_sources_and_runtimes_are_plain_words() -> None:
    """What logs, JSON and comparisons see of an enum is its word."""
    assert [str(source) for source in Source] == [
        "local",
        "posthog",
        "stale",
        "fallback",
        "disabled",
    ]
    assert [str(runtime) for runtime in Runtime] == ["server", "client"]
    assert json.dumps(Source.POSTHOG) == '"posthog"'


def test_repr_names_flags_and_no_machinery() -> None:
    """A snapshot in a log or a shell shows what a reader asks for."""
    shown = repr(snapshot(Evaluation({"x": Decision(True)}, 1.0, "request-id")))

    assert "'x': True" in shown
    assert "request-id" not in shown
