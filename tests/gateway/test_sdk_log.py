"""The SDK's warnings about local evaluation are logged once; its other lines are not touched."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
from olposthog.definitions import parse

from olposthog.gateway import LocalEvaluator, sdk_log
from olposthog.gateway.sdk_log import MAX_MESSAGES, OncePerMessage
from olposthog.identity import Identity
from olposthog.snapshot import Runtime
from tests.test_definitions import cohort, flag, where

STICKY = flag("sticky", ensure_experience_continuity=True)
COHORT = flag("static", where(cohort(99)))
UNKNOWN_GROUP = flag("group", {"aggregation_group_type_index": 9, **where()})
sdk = logging.getLogger("posthog")


@pytest.fixture(autouse=True)
def _fresh_filter() -> Iterator[None]:
    """The process has logged nothing yet."""
    (kept,) = [one for one in sdk.filters if isinstance(one, OncePerMessage)]
    sdk.removeFilter(kept)
    sdk_log.install()
    yield
    for one in [one for one in sdk.filters if isinstance(one, OncePerMessage)]:
        sdk.removeFilter(one)
    sdk.addFilter(kept)


def load(*flags: dict[str, object], version: int = 1) -> LocalEvaluator:
    """Load one version of definitions with these flags, as each version is."""
    text = json.dumps({"flags": [flag("plain", version=version), *flags]})
    return LocalEvaluator(parse(text, "the test"))


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.name == "posthog"]


@pytest.mark.parametrize(
    ("hard", "said"), [(STICKY, "experience continuity"), (COHORT, "static cohort")], ids=str
)
def test_versions_do_not_repeat_a_warning(
    caplog: pytest.LogCaptureFixture, hard: dict[str, object], said: str
) -> None:
    """However many versions have a flag that cannot be evaluated locally, one line names it."""
    for version in range(5):
        load(hard, version=version)

    (line,) = warnings(caplog)
    assert said in line
    assert str(hard["key"]) in line


def test_evaluations_do_not_repeat_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """A group type that PostHog did not define is logged once, not with each evaluation."""
    for version in range(3):
        evaluator = load(UNKNOWN_GROUP, version=version)
        for number in range(3):
            evaluator.evaluate(Identity(f"u{number}"), {}, Runtime.SERVER)

    assert len([line for line in warnings(caplog) if "Unknown group type index 9" in line]) == 1
    assert len(warnings(caplog)) <= 2  # and that the flag cannot be evaluated locally


def test_another_flag_is_news(caplog: pytest.LogCaptureFixture) -> None:
    """A version with one more flag that cannot be evaluated locally is worth a line."""
    load(STICKY)
    load(STICKY, flag("another", ensure_experience_continuity=True))

    assert ["another" in line for line in warnings(caplog)] == [False, True]


@pytest.mark.parametrize(
    ("level", "message"),
    [
        (logging.WARNING, "[FEATURE FLAGS] Request timed out: 3 s"),
        (logging.ERROR, "[FEATURE FLAGS] Error in local evaluation"),
        (logging.WARNING, "events lane flush ran out of budget"),
    ],
)
def test_other_lines_are_not_touched(
    caplog: pytest.LogCaptureFixture, level: int, message: str
) -> None:
    """What the site's own use of the SDK logs is logged as often as it happens."""
    for _ in range(3):
        sdk.log(level, message)

    assert len(warnings(caplog)) == 3


def test_memory_is_bounded() -> None:
    """However many different lines there are, a limited number of them is remembered."""
    once = OncePerMessage()
    for number in range(3 * MAX_MESSAGES):
        text = f"local evaluation {number}"
        assert once.filter(logging.LogRecord("posthog", logging.WARNING, "", 0, text, None, None))

    assert len(once._logged) <= MAX_MESSAGES


def test_filter_is_installed_once() -> None:
    """Installing again changes nothing."""
    before = list(sdk.filters)
    sdk_log.install()

    assert sdk.filters == before
