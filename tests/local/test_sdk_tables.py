"""The SDK's own tables of 1,000 people each: who is in a rollout, and who gets which variant."""

from __future__ import annotations

import ast
import json
from importlib.resources import files
from typing import Any

import pytest

from olposthog._local import LocalEvaluator, parse
from olposthog.identity import Identity
from olposthog.snapshot import Runtime

PEOPLE = 1_000


def table(test: str) -> tuple[dict[str, Any], list[bool | str]]:
    """Return the flag that a test of the SDK defines, and the values that it expects.

    The person of each value has the distinct id `distinct_id_<index>`.
    """
    source = files("posthog.test").joinpath("test_feature_flags.py").read_text()
    (function,) = (
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and node.name == test
    )
    (flags,) = _assigned(function, "feature_flags")
    (results,) = _assigned(function, "results")
    return flags[0], results


def _assigned(function: ast.FunctionDef, name: str) -> list[Any]:
    """Return the literals that a function assigns to a variable or an attribute."""
    return [
        ast.literal_eval(node.value)
        for node in ast.walk(function)
        if isinstance(node, ast.Assign)
        and any(name == getattr(one, "id", getattr(one, "attr", "")) for one in node.targets)
    ]


@pytest.mark.parametrize(
    ("test", "values"),
    [
        ("test_simple_flag_consistency", {True, False}),
        (
            "test_multivariate_flag_consistency",
            {
                False,
                "first-variant",
                "second-variant",
                "third-variant",
                "fourth-variant",
                "fifth-variant",
            },
        ),
    ],
)
def test_all_people_of_the_table(test: str, values: set[bool | str]) -> None:
    """Every person of the SDK's table gets the value that the table has for them."""
    flag, expected = table(test)
    assert len(expected) == PEOPLE
    assert set(expected) == values
    evaluator = LocalEvaluator(parse(json.dumps({"flags": [flag]}), "the SDK's test"))

    found = [
        evaluator.evaluate(Identity(f"distinct_id_{index}"), {}, Runtime.SERVER)
        .decisions[flag["key"]]
        .value
        for index in range(PEOPLE)
    ]

    assert found == expected
