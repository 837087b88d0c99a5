"""What the shared cache holds is untrusted: whatever is there, an answer is right or a miss."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.core.cache import caches
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pytest_django import Settings

from olposthog._core import engine
from olposthog._evaluation.decision import Decision
from olposthog._evaluation.evaluation import Evaluation
from olposthog.features import (
    evaluate,
    get_all_feature_flags,
    get_feature_flag,
    get_feature_flag_payload,
    is_enabled,
)
from olposthog.snapshot import Source
from tests.posthog_server import PATIENCE, Flag, PostHogServer

KNOWN = Evaluation({"beta": Decision("from the cache", [1], "condition_match")}, 1.0, "request")
"""An entry that this version writes, but for its time."""


def changed(**decision: object) -> dict[str, Any]:
    """An entry whose one decision has other fields."""
    stored: dict[str, Any] = KNOWN.to_json()
    stored["decisions"]["beta"] |= decision
    return stored


def without(name: str) -> dict[str, Any]:
    stored: dict[str, Any] = KNOWN.to_json()
    del stored["decisions"]["beta"][name]
    return stored


DEEP: Any = []
for _ in range(900):
    DEEP = [DEEP]
HALF = "\ud800"
HOSTILE: dict[str, object] = {
    "value is a list": changed(value=["a"]),
    "value is an object": changed(value={}),
    "value is null": changed(value=None),
    "value is a number": changed(value=1),
    "value is half a character": changed(value=HALF),
    "payload is not a number": changed(payload=float("nan")),
    "payload is infinite": changed(payload=[{"a": float("inf")}]),
    "payload is deep": changed(payload=DEEP),
    "reason is a list": changed(reason=["condition_match"]),
    "reason is null": changed(reason=None),
    "reason is half a character": changed(reason=HALF),
    "description is an object": changed(description={}),
    "id is text": changed(id="1"),
    "id is true": changed(id=True),
    "version is a list": changed(version=[1]),
    "config version is text": changed(config_version="2"),
    "rule is a number": changed(rule_id=5),
    "arm is an object": changed(variant_key={}),
    "experiment is text": changed(has_experiment="no"),
    "form of events is a number": changed(minimal_event=1),
    "no value": without("value"),
    "no reason": without("reason"),
    "decision is null": {**KNOWN.to_json(), "decisions": {"beta": None}},
    "decision is a list": {**KNOWN.to_json(), "decisions": {"beta": [True]}},
    "decisions are a list": {**KNOWN.to_json(), "decisions": [["beta", True]]},
    "key is half a character": {
        **KNOWN.to_json(),
        "decisions": {HALF: Decision(True).to_json()},
    },
    "request is a number": {**KNOWN.to_json(), "request_id": 5},
    "failed is text": {**KNOWN.to_json(), "failed": "beta"[:0] or 5},
    "failed has a number": {**KNOWN.to_json(), "failed": [5]},
    "origins are a list": {**KNOWN.to_json(), "origins": ["beta"]},
    "origin is text": {**KNOWN.to_json(), "origins": {"beta": "yesterday"}},
    "origin has no time": {**KNOWN.to_json(), "origins": {"beta": [None, None]}},
    "time is text": {**KNOWN.to_json(), "evaluated_at": "1.0"},
    "time is true": {**KNOWN.to_json(), "evaluated_at": True},
    "time is not a number": {**KNOWN.to_json(), "evaluated_at": float("nan")},
    "time is out of the calendar": {**KNOWN.to_json(), "evaluated_at": 1e30},
    "evaluation is a list": [],
    "evaluation is null": None,
}
"""Evaluations that this version did not write; all would be fresh."""


@pytest.fixture
def site(enabled: PostHogServer, settings: Settings) -> PostHogServer:
    settings.POSTHOG_LOCAL_CACHE_SECONDS = 0
    enabled.flags = {"beta": Flag("from posthog", payload={"a": 1})}
    return enabled


@pytest.fixture
def store(site: PostHogServer) -> Callable[[object], None]:
    """Put an evaluation in place of the one that the shared cache has of `u1`."""
    evaluate("u1")
    assert engine.current().shared.settle(PATIENCE)
    cache: Any = caches["durable"]
    (key,) = [one.split(":", 2)[2] for one in cache._cache if ":entry:" in one]
    generation = json.loads(cache.get(key))["generation"]
    now = json.loads(cache.get(key))["evaluation"]["evaluated_at"]

    def put(evaluation: object) -> None:
        if isinstance(evaluation, dict) and evaluation["evaluated_at"] is KNOWN.evaluated_at:
            evaluation = {**evaluation, "evaluated_at": now + 1}
        text = json.dumps({"generation": generation, "evaluation": evaluation})
        cache.set(key, text)
        engine.reset()

    return put


def test_entry_of_this_version_is_a_hit(
    site: PostHogServer, store: Callable[[object], None]
) -> None:
    """The entries below are misses for what is odd in them, and for nothing else."""
    store(KNOWN.to_json())

    assert evaluate("u1").flags["beta"] == "from the cache"
    assert len(site.flag_calls) == 1


@pytest.mark.parametrize("stored", HOSTILE.values(), ids=HOSTILE.keys())
def test_entry_of_wrong_types_is_a_miss(
    site: PostHogServer, store: Callable[[object], None], stored: object
) -> None:
    """PostHog is asked instead, and all ways to the flag have its value."""
    store(stored)

    snapshot = evaluate("u1")

    assert (snapshot.source, snapshot.flags["beta"]) == (Source.POSTHOG, "from posthog")
    assert len(site.flag_calls) == 2
    assert is_enabled("beta", opt_unique_id="u1") is True
    assert get_feature_flag_payload("beta", "u1") == {"a": 1}


@pytest.mark.parametrize(
    "fields",
    [{}, {"config_version": 2}, {"rule_type": "experiment", "has_experiment": False}],
)
def test_entry_without_the_newer_fields_is_a_hit(
    site: PostHogServer, store: Callable[[object], None], fields: dict[str, object]
) -> None:
    """What an earlier version wrote stays readable."""
    stored = changed(**fields)
    del stored["origins"]
    del stored["failed"]
    store(stored)

    assert evaluate("u1").flags["beta"] == "from the cache"


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.data())
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_junk_reaches_a_caller(
    site: PostHogServer, store: Callable[[object], None], data: st.DataObject
) -> None:
    """Whatever replaces a part of an entry, every call returns and every answer is JSON."""
    stored: dict[str, Any] = KNOWN.to_json()
    target: Any = data.draw(
        st.sampled_from([stored, stored["decisions"], stored["decisions"]["beta"]])
    )
    target[data.draw(st.sampled_from(sorted(target)))] = data.draw(JUNK)
    store(stored)

    assert isinstance(is_enabled("beta", opt_unique_id="u1"), bool)
    assert isinstance(get_feature_flag("beta", opt_unique_id="u1"), bool | str)
    assert all(isinstance(one, bool | str) for one in get_all_feature_flags("u1").values())
    json.dumps(get_feature_flag_payload("beta", "u1"), allow_nan=False).encode()
    "".join(map(str, evaluate("u1").reasons.values())).encode()


SURROGATES: dict[str, object] = {
    "value": Flag(HALF),
    "reason": Flag(True, reason=HALF),
    "description": Flag(True, description=HALF),
}


@pytest.mark.parametrize("odd", SURROGATES.values(), ids=SURROGATES.keys())
def test_half_a_character_from_posthog_is_no_value(site: PostHogServer, odd: object) -> None:
    """PostHog's text that cannot be written in UTF-8 costs its own flag only."""
    site.flags = {"beta": odd, "other": True}

    snapshot = evaluate("u2")

    assert snapshot.flags["other"] is True
    assert snapshot.source is Source.POSTHOG
    for text in (*map(str, snapshot.flags.values()), *snapshot.reasons.values()):
        text.encode()


def test_key_of_half_a_character_is_left_out(site: PostHogServer) -> None:
    """A key that cannot be written is no key."""
    site.flags = {HALF: True, "other": True, f"failed {HALF}": Flag(failed=True)}

    snapshot = evaluate("u2")

    assert snapshot.flags == {"other": True}
    assert snapshot.evaluation
    assert snapshot.evaluation.failed == ()
