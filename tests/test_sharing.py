"""Mappings that share their keys, decisions that people share, and what both cost in bytes."""

from __future__ import annotations

import copy
import gc
import json
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from django.core.cache import caches
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from benchmarks import memory
from olposthog._core import engine
from olposthog._evaluation import decision
from olposthog._evaluation.decision import Decision
from olposthog._evaluation.evaluation import REFERENCE_BYTES, Evaluation
from olposthog._posthog import events, responses
from olposthog._utils import compact_mapping
from olposthog._utils.compact_mapping import MAX_KEY_SETS, CompactMapping, compact
from olposthog.features import evaluate, is_enabled
from tests.posthog_server import Flag, PostHogServer

KB = 1000
PAYLOADS: list[Any] = [None, True, 1, 1.0, "1", "", [], {}, {"a": [1]}, {"a": [1.0]}, "x" * 9]


@given(st.dictionaries(st.text(max_size=5), st.integers(), max_size=9))
def test_compact_mapping_is_a_dictionary_that_is_not_written(entries: dict[str, int]) -> None:
    """It has the entries, order, length, equality and repr of the dictionary it is made of."""
    found: Any = compact(entries)

    assert found == entries
    assert entries == found
    assert (list(found), len(found)) == (list(entries), len(entries))
    assert list(found.items()) == list(entries.items())
    assert list(found.values()) == list(entries.values())
    assert {**found} == found.copy() == entries
    assert repr(found) == repr(entries)
    assert [found.get(key) for key in (*entries, "no such key")] == [*entries.values(), None]
    assert "no such key" not in found
    with pytest.raises(KeyError):
        found["no such key"]
    with pytest.raises(TypeError):
        found["x"] = 1


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_compact_mapping_can_be_pickled_and_copied(protocol: int) -> None:
    """A copy is equal, and shares its keys again."""
    original = compact({"a": [1], "b": [2]})

    for found in (pickle.loads(pickle.dumps(original, protocol)), copy.deepcopy(original)):
        assert found == original
        assert isinstance(found, CompactMapping)
        assert found._positions is original._positions
        assert found["a"] is not original["a"]


def test_remembered_keys_are_bounded() -> None:
    """A process remembers so many sets of keys; mappings with forgotten ones stay valid."""
    first = compact({"first": 1})

    for number in range(10 * MAX_KEY_SETS):
        compact({f"key-{number}": number})

    assert compact_mapping._positions.cache_info().currsize == MAX_KEY_SETS
    assert first == {"first": 1}


@pytest.mark.parametrize("value", [True, False, "test"])
@pytest.mark.parametrize("payload", PAYLOADS, ids=repr)
def test_equal_decisions_are_one_object(value: bool | str, payload: Any) -> None:
    """Decisions with the same fields are one object; JSON values of other types are other ones."""
    others = [
        Decision(value, one, "reason").shared() for one in PAYLOADS if repr(one) != repr(payload)
    ]

    one = Decision(value, copy.deepcopy(payload), "reason").shared()

    assert Decision(value, copy.deepcopy(payload), "reason").shared() is one
    assert (one.value, repr(one.payload)) == (value, repr(payload))
    assert not any(one is other for other in others)
    assert Decision(value, payload, "reason", id=7).shared() is not one


def test_decisions_of_nobody_are_forgotten() -> None:
    """The table of shared decisions holds only those that are in use."""
    gc.collect()
    before = len(decision._shared_decisions)
    used = [Decision("test", {"number": number}).shared() for number in range(100)]
    assert len(decision._shared_decisions) == before + 100

    del used
    gc.collect()

    assert len(decision._shared_decisions) <= before


def test_replies_and_cache_entries_share_decisions() -> None:
    """A decision that PostHog sent is the same object as the one that a cache entry holds."""
    record = {
        "key": "x",
        "enabled": True,
        "variant": "test",
        "reason": {"code": "condition_match", "description": "Matched condition set 1"},
        "metadata": {"id": 1, "version": 2, "payload": '{"a": [1, 2]}'},
    }
    reply = json.dumps({"flags": {"x": record}, "requestId": "r"}).encode()

    replies = [responses.parse(reply, 1.0) for _ in range(2)]
    stored = Evaluation.from_json(json.loads(json.dumps(replies[0].to_json())))

    assert replies[0].decisions["x"] is replies[1].decisions["x"] is stored.decisions["x"]
    assert stored == replies[0]
    assert replies[0].size > replies[1].size
    assert replies[1].size == stored.size == REFERENCE_BYTES


@pytest.mark.parametrize("is_local", [False, True], ids=["remote", "local"])
def test_visitors_share_keys_decisions_and_payloads(
    enabled: PostHogServer, settings: Settings, tmp_path: Path, is_local: bool
) -> None:
    """With 2,000 flags a visitor takes less than 100 kB; without sharing it was 850 kB."""
    settings.POSTHOG_LOCAL_CACHE_SECONDS = 3600
    settings.FEATURES = {f"fallback-{number}": False for number in range(500)}
    enabled.flags = memory.remote_flags(2000)
    if is_local:
        file = tmp_path / "flags.json"
        file.write_text(memory.definitions(2000))
        settings.POSTHOG_FLAG_DEFINITIONS_FILE = str(file)

    assert memory.bytes_per_visitor(enabled, 10) < 100 * KB


def test_estimates_are_near_what_is_measured(enabled: PostHogServer, settings: Settings) -> None:
    """The estimated size of cached snapshots with payloads of their own is right within a factor.

    A bound by an estimate of half the truth would not be one.
    """
    settings.POSTHOG_LOCAL_CACHE_SECONDS = 3600
    evaluate("first")
    evaluator = engine.current()
    before = evaluator.memory.bytes
    with memory.traced(enabled) as taken:
        for number in range(10):
            items = [{"name": f"item-{number}-{item}"} for item in range(500)]
            enabled.flags = {f"flag-{one}": Flag(True, payload=items) for one in range(5)}
            evaluate(f"visitor-{number}")
        evaluator.settle(memory.PATIENCE)
        enabled.flags = {}
    estimated = evaluator.memory.bytes - before

    assert estimated / 4 < taken.bytes < estimated * 2


def test_queued_exposures_take_bounded_memory(enabled: PostHogServer) -> None:
    """12,000 exposures of a flag with a payload of 50 kB take less than 60 MB while events hang.

    With the payload in each event they took 3.3 GB. The SDK's queue holds 10,000 events.
    """
    assert memory.bytes_of_queue(enabled, 12_000) < 60_000 * KB
    assert events.client().queue.qsize() <= events.MAX_QUEUED_EVENTS


def test_memory_is_freed_with_the_cache(enabled: PostHogServer, settings: Settings) -> None:
    """After 200 visitors a process with room for 20 holds no more than after 40."""
    settings.POSTHOG_LOCAL_CACHE_SECONDS = 3600
    settings.POSTHOG_LOCAL_CACHE_MAX_ENTRIES = 20
    tracemalloc.start()
    try:
        sizes = []
        for number in range(200):
            enabled.flags = {"own": Flag(True, payload=f"{number}" * 10_000), "beta": True}
            assert is_enabled("own", opt_unique_id=f"visitor-{number}")
            if number in (40, 199):
                engine.current().settle(memory.PATIENCE)
                events.client().flush()
                enabled.clear()
                caches["durable"].clear()
                gc.collect()
                sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()

    assert sizes[1] < sizes[0] * 1.5
