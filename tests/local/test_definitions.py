"""Definitions with anything anywhere: each oddity costs its own flag, and nothing raises."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from olposthog import _posthog
from olposthog._local import DefinitionsError, LocalEvaluator, parse
from olposthog.undecided import Undecided, UndecidedReason
from tests.test_definitions import cohort, flag, where

from .documents import SOME, Draw, Person, dependency, depending_on, evaluate, outcomes, seeds

names = st.sampled_from(
    [
        *("key", "type", "values", "value", "operator", "negation", "properties", "groups"),
        *("filters", "version", "variants", "rollout_percentage", "payloads", "variant", "id"),
    ]
)
junk = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.sampled_from([0, 1, -1, 10**30, 1e308, float("inf"), float("-inf"), float("nan")]),
        st.sampled_from(["", "AND", "OR", "flag", "cohort", "person", "true", "flag-0", "\ud800"]),
        st.text(max_size=5),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)),
    max_leaves=6,
)

Path = tuple[str | int, ...]


def paths(node: Any, path: Path = ()) -> list[Path]:
    """Return the places of all nodes of a document but the outermost."""
    inner = node.items() if isinstance(node, dict) else enumerate(node)
    return [
        place
        for key, value in inner
        for place in [
            (*path, key),
            *(paths(value, (*path, key)) if isinstance(value, dict | list) else []),
        ]
    ]


def at(node: Any, path: Path) -> Any:
    for key in path:
        node = node[key]
    return node


def damaged(draw: Draw, document: dict[str, Any], oddity: Any) -> tuple[dict[str, Any], Path]:
    """Return a copy of the document with an oddity somewhere, and where."""
    odd = json.loads(json.dumps(document))
    path = draw.choice(paths(odd))
    parent = at(odd, path[:-1])
    match draw.randrange(4):
        case 0:
            del parent[path[-1]]
        case 1 if isinstance(parent, list):
            parent.insert(draw.randrange(len(parent)), draw.choice(parent))
        case _:
            parent[path[-1]] = oddity
    return odd, path


def evaluate_text(text: str, person: Person) -> dict[str, Any]:
    found = evaluate(LocalEvaluator(parse(text, "the test")), person)
    return {key: one.value for key, one in found.decisions.items()} | dict(found.undecided)


@SOME
@given(seeds, junk)
def test_oddity_costs_its_own_flag(seed: int, oddity: Any) -> None:
    """Whatever a flag holds, it raises nothing, and flags that do not depend on it stay as is."""
    draw = Draw(seed)
    document, person = draw.document(), draw.person()
    before = evaluate_text(json.dumps(document), person)
    flags, path = damaged(draw, {"flags": document["flags"]}, oddity)
    if path == ("flags",):
        return  # the list itself: see the next test

    after = evaluate_text(json.dumps({**document, **flags}), person)

    touched = {document["flags"][path[1]]["key"]}
    if isinstance(oddity, dict) and isinstance(oddity.get("key"), str):
        touched.add(oddity["key"])
    for key, outcome in before.items():
        if key not in depending_on(document, *touched, *_copied(flags)):
            assert after[key] == outcome, key


def _copied(document: dict[str, Any]) -> set[str]:
    keys = [one.get("key") for one in document["flags"] if isinstance(one, dict)]
    return {key for key in keys if isinstance(key, str) and keys.count(key) > 1}


@SOME
@given(seeds, junk, junk)
def test_oddity_anywhere_raises_nothing(seed: int, oddity: Any, another: Any) -> None:
    """A document can be used unless it is no object with a list of flags."""
    draw = Draw(seed)
    document, person = draw.document(), draw.person()
    for one in (oddity, another):
        if paths(document):
            document, _ = damaged(draw, document, one)

    if not isinstance(document.get("flags"), list):
        with pytest.raises(DefinitionsError):
            parse(json.dumps(document), "the test")
        return
    evaluate_text(json.dumps(document), person)


@SOME
@given(seeds, junk)
def test_odd_cohort_costs_its_own_flags(seed: int, oddity: Any) -> None:
    """Whatever a cohort holds, flags that need no cohort keep their values."""
    draw = Draw(seed)
    document, person = draw.document(), draw.person()
    before = evaluate_text(json.dumps(document), person)
    cohorts, _ = damaged(draw, {"cohorts": document["cohorts"]}, oddity)

    after = evaluate_text(json.dumps({**document, **cohorts}), person)

    in_cohorts = {one["key"] for one in document["flags"] if '"cohort"' in json.dumps(one)}
    for key, outcome in before.items():
        if key not in depending_on(document, *in_cohorts):
            assert after[key] == outcome, key


@SOME
@given(st.one_of(st.text(), st.binary(), junk.map(json.dumps)))
def test_any_text(text: str | bytes) -> None:
    """Text that is no document is refused with `DefinitionsError`, and with nothing else."""
    with suppress(DefinitionsError):
        parse(text, "the test")


@SOME
@given(seeds, st.dictionaries(st.sampled_from(["plan", "age", "since", "version"]), junk))
def test_odd_properties(seed: int, properties: dict[str, Any]) -> None:
    """Whatever a person's properties are, evaluation raises nothing."""
    draw = Draw(seed)
    found = outcomes(draw.document(), Person(properties=properties))

    assert all(isinstance(one, tuple | Undecided) for one in found.values())


@pytest.mark.parametrize("count", [2, 3])
def test_duplicated_flag_is_undecided(count: int) -> None:
    """A key that stands twice is undecided, and those that depend on it are too."""
    draw = Draw(1)
    document, person = draw.document(), draw.person()
    once = outcomes(document, person)

    found = outcomes(
        {**document, "flags": document["flags"] + document["flags"][:1] * count}, person
    )

    assert isinstance(found["flag-0"], Undecided)
    unaffected = once.keys() - depending_on(document, "flag-0")
    assert unaffected
    assert {key: found[key] for key in unaffected} == {key: once[key] for key in unaffected}


@pytest.mark.parametrize("groups", [5, "x", {"a": 1}, [None], [{"properties": True}], [[]]])
def test_other_version_may_reuse_names(groups: Any) -> None:
    """A flag of another configuration version is undecided, whatever its parts hold."""
    document, person = Draw(1).document(), Draw(2).person()
    before = evaluate_text(json.dumps(document), person)
    filters = {"version": 2, "groups": groups, "multivariate": [], "payloads": 1}
    odd = {"key": "odd", "active": True, "filters": filters}

    after = evaluate_text(json.dumps({**document, "flags": [odd, *document["flags"]]}), person)

    undecided = after.pop("odd")
    assert isinstance(undecided, Undecided)
    assert undecided.reason is UndecidedReason.CONFIG_VERSION
    assert after == before


def test_failing_compilation_costs_its_own_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even a filter that makes the compiler fail costs no flag but those that have it."""
    by_age, by_plan = ({"key": key, "type": "person", "value": "x"} for key in ("age", "plan"))
    document = {
        "flags": [
            flag("filter", where(by_age)),
            flag("cohort", where(cohort(1))),
            flag("depending", where(dependency("filter", expected=True))),
            flag("other", where(by_plan)),
        ],
        "cohorts": {"1": {"type": "OR", "values": [by_age]}},
    }
    unsupported = _posthog.unsupported

    def fail(data: Mapping[str, Any], version: int) -> Undecided | None:
        if data["key"] == "age":
            raise ZeroDivisionError
        return unsupported(data, version)

    monkeypatch.setattr(_posthog, "unsupported", fail)
    found = outcomes(document, Person(properties={"age": "x", "plan": "x"}))

    assert found.pop("other") == (True, None)
    assert all(isinstance(one, Undecided) for one in found.values())
    assert len(found) == 3


def test_cohort_id_of_any_type() -> None:
    """A filter whose cohort is neither a number nor text names no cohort that there is."""
    document = {
        "flags": [
            flag(f"f{place}", where({"key": "id", "type": "cohort", "value": value}))
            for place, value in enumerate([None, [1], {"a": 1}, 1.5])
        ],
        "cohorts": {"1": {"type": "OR", "values": []}},
    }

    found = outcomes(document, Person()).values()

    assert [one.reason for one in found] == [UndecidedReason.STATIC_COHORT] * 4
