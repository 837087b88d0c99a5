"""Regular expressions: in linear time, as PostHog matches them, or undecided."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from posthog.feature_flags import InconclusiveMatchError, match_property

from olposthog import _posthog
from olposthog._posthog import patterns
from olposthog.undecided import Undecided, UndecidedReason

LONG = "devops" * 66 + "!"
"""A visitor's text: 397 characters."""
HOSTILE = [
    r"^(dev|ops|devops)+$",
    r"^(a+)+$",
    r"(a|a)*b",
    r"(a|aa)+$",
    r"^(\w+\s?)*$",
    r"(.*)*x",
    r"(?:(?:d|de|dev)*)*!!",
    r"^(([a-z])+.)+[A-Z]([a-z])+$",
    r"(x+x+)+y",
    r".*.*.*.*.*.*.*.*=",
    r"(dev|ops){1,100}(dev|ops){1,100}x",
]
"""Patterns by which a backtracking engine takes exponential or high polynomial time."""


def by(pattern: object, operator: str = "regex") -> dict[str, Any]:
    return {"key": "email", "type": "person", "operator": operator, "value": pattern}


def decide(pattern: object, value: object, operator: str = "regex") -> bool | Undecided:
    """Return what is decided for a person with the value, or why not."""
    property_filter = by(pattern, operator)
    return _posthog.unsupported(property_filter, 1) or _posthog.matches(
        property_filter, {"email": value}, 1
    )


@pytest.mark.parametrize("pattern", HOSTILE)
@pytest.mark.parametrize("text", [LONG, "a" * 400 + "!", "x" * 400], ids=["dev", "a", "x"])
def test_no_pattern_holds_a_thread(pattern: str, text: str) -> None:
    """Whatever the pattern and a visitor's text, matching ends: an engine that backtracks hangs."""
    for operator in ("regex", "not_regex"):
        assert isinstance(decide(pattern, text, operator), bool)


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        (r"^(dev|ops|devops)+$", "devops", True),
        (r"^(dev|ops|devops)+$", "devop", False),
        (r"@acme\.com$", "ada@acme.com", True),
        (r"@acme\.com$", "ada@acme.com\n", False),
        (r"@(acme|corp)\.com$", "ada@acme.com\n", False),
        (r"(?i)ACME", "ada@acme.com", True),
        (r"\bada\b", "ada@acme.com", True),
        (r"a{2,3}", "aa", True),
        (r"^\d+$", 42, True),
        (r"^tr.e+$", True, True),
        ("", "anything", True),
        (r"é+", "café", True),
        (r"^.{4}$", "café", True),
    ],
)
def test_pattern_is_searched_for(pattern: str, text: object, found: bool) -> None:
    """A pattern may match anywhere in the text of a value, and its negation is the opposite."""
    assert decide(pattern, text) is found
    assert decide(pattern, text, "not_regex") is not found


@pytest.mark.parametrize(
    "pattern",
    [
        "(",
        "*a",
        "[z-a]",
        "a{1,",
        "a{,3}",
        r"(a)\1+",
        r"(?=a)a+",
        r"(?<!a)b+",
        r"(?P<n>a)+",
        r"\p{L}+",
        r"\Qa+b\E",
        r"\C+",
        r"\Z+",
        r"\07+",
        "[a[b]]+",
        "[[:alpha:]]+",
        "[a&&b]+",
        "(?x)a b",
        "(?U)a+",
        "a{1001}",
        "a" * 501,
        "(a|b)" * 200,
        None,
        5,
        ["a+"],
    ],
    ids=lambda value: str(value)[:20],
)
def test_pattern_that_posthog_may_read_differently_is_undecided(pattern: object) -> None:
    """Where the dialects differ, or RE2 refuses the pattern, PostHog decides."""
    found = decide(pattern, "a")

    assert isinstance(found, Undecided)
    assert found.reason in (UndecidedReason.PATTERN, UndecidedReason.UNSUPPORTED)


@pytest.mark.parametrize(
    ("pattern", "value"),
    [
        (r"^\w+$", "café"),
        (r"^\d+$", "٣"),
        (r"(?i)k+", "\u212a"),
        (r"\s+", "a\vb"),
        ("a+", "a" * 10_001),
        ("a+", None),
        ("a+", 1.5),
        ("a+", ["a"]),
        ("a+", "\ud800"),
    ],
    ids=repr,
)
def test_value_that_posthog_may_read_differently_is_undecided(pattern: str, value: object) -> None:
    """Where Unicode's tables matter, or a value has no certain text, PostHog decides."""
    assert isinstance(decide(pattern, value), Undecided)


ATOMS = st.sampled_from(
    ["a", "b", ".", "@", r"\.", r"\d", "[ab]", "[^a]", "(a|b)", "(?:ab)", "^", "$", r"\w", "a|b"]
)
PATTERNS = st.lists(
    st.tuples(ATOMS, st.sampled_from(["", "*", "+", "?", "{2}", "{1,2}"])), max_size=5
).map(lambda parts: "".join(map("".join, parts)))


@given(PATTERNS, st.text("ab.@1 \n", max_size=6))
@settings(max_examples=400, deadline=None)
def test_decisions_agree_with_the_sdk(pattern: str, text: str) -> None:
    """Where the SDK decides a pattern, RE2 decides the same, or leaves it to PostHog."""
    found = decide(pattern, text)
    if isinstance(found, Undecided):
        return
    try:
        re.compile(pattern)
        theirs = match_property(by(pattern), {"email": text}, 1)
    except (InconclusiveMatchError, re.error):
        return
    assert found is theirs


WITHOUT_RE2 = """
import sys
sys.modules["re2"] = None
import django
django.setup()
from olposthog import _posthog
for pattern in ("^(a+)+$", "a+", "@acme\\\\.com$"):
    undecided = _posthog.unsupported({"key": "k", "operator": "regex", "value": pattern}, 1)
    print(undecided and undecided.detail)
"""


def test_without_re2_only_simple_patterns_are_decided() -> None:
    """Without the extra nothing that could backtrack is matched, and the reason names the extra."""
    found = subprocess.run(
        [sys.executable, "-c", WITHOUT_RE2], capture_output=True, text=True, check=True
    ).stdout.splitlines()

    assert [("olposthog[re2] is not installed" in line, line == "None") for line in found] == [
        (True, False),
        (True, False),
        (False, True),
    ]


def test_simple_patterns_repeat_nothing() -> None:
    """What is left to Python's engine has no way to match a text twice."""
    assert patterns.is_simple(r"^ada@acme\.com$")
    assert not any(map(patterns.is_simple, [*HOSTILE, "a" * 501]))
