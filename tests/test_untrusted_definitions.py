"""What definitions hold is untrusted: whatever is there, every call returns, in time, with JSON."""

from __future__ import annotations

import json
import logging
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.test import Client
from django.urls import include, path
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pytest_django import Settings

from olposthog._core import engine
from olposthog.features import (
    aevaluate,
    aget_all_feature_flags,
    aget_feature_flag,
    ais_enabled,
    clear_cache,
    evaluate,
    get_all_feature_flags,
    get_feature_flag,
    get_feature_flag_payload,
    is_enabled,
)

urlpatterns = [
    path("api/", include("olposthog_api.urls")),
    path("", include("olposthog_api.ofrep.urls")),
]
TRIP_SECONDS = 6.0
"""The promised bound; far from what these calls take, also on a busy machine."""
HALF = "\ud800"
HUGE = 10**400
LOGIN = {"key": "plan", "type": "person", "operator": "exact", "value": "pro"}
DEPENDENCY = {
    "key": "beta",
    "type": "flag",
    "operator": "flag_evaluates_to",
    "value": True,
    "dependency_chain": ["beta"],
}


def nested(levels: int) -> Any:
    """A list in a list, and so on."""
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


ODD = [
    None,
    True,
    0,
    -1,
    1.5,
    HUGE,
    float("nan"),
    float("inf"),
    "",
    HALF,
    "a\nb",
    "x" * 10_000,
    "(a+)+$",
    "(?P<n>a)(?P=n)",
    "[",
    "99999999999999999d",
    [],
    {},
    nested(400),
    [LOGIN] * 50,
    [DEPENDENCY],
]
JUNK = st.sampled_from(ODD) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
OPERATORS = ["exact", "is_not", "icontains", "regex", "not_regex", "gt", "is_date_after", "in"]
OPERATORS += ["semver_gt", "is_set", "between", "flag_evaluates_to", "no such"]


def document() -> dict[str, Any]:
    """Definitions that have one of each kind of thing."""
    condition = {"properties": [dict(LOGIN)], "rollout_percentage": 50, "variant": None}
    filters = {
        "groups": [condition],
        "multivariate": {"variants": [{"key": "a", "rollout_percentage": 100}]},
        "payloads": {"a": "[1]", "true": '{"b": 1}'},
        "holdout": {"id": 1, "exclusion_percentage": 1},
        "early_exit": False,
        "aggregation_group_type_index": None,
    }
    by_cohort = {"key": "id", "type": "cohort", "value": 1}
    other = {"groups": [{"properties": [DEPENDENCY, by_cohort], "rollout_percentage": 100}]}
    group = {"type": "AND", "values": [{"type": "OR", "values": [dict(LOGIN)]}]}
    return json.loads(  # type: ignore[no-any-return]  # a copy
        json.dumps(
            {
                "flags": [
                    {"id": 1, "key": "beta", "active": True, "version": 1, "filters": filters},
                    {"id": 2, "key": "other", "active": True, "version": 1, "filters": other},
                    {"id": 3, "key": "good", "active": True, "filters": {"groups": [{}]}},
                ],
                "cohorts": {"1": group},
                "group_type_mapping": {"0": "company"},
                "property_matching_version": 1,
            }
        )
    )


def places(value: Any) -> list[tuple[Any, Any]]:
    """Return every place in a document, as a container and a key or an index of it."""
    found: list[tuple[Any, Any]] = []
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        found.append((value, key))
        if isinstance(inner, dict | list):
            found += places(inner)
    return found


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """Definitions with odd things in up to three places; some of them still make sense."""
    drawn = document()
    for _ in range(draw(st.integers(1, 3))):
        container, key = draw(st.sampled_from(places(drawn)))
        if key == "operator":
            container[key] = draw(st.sampled_from(OPERATORS))
        else:
            container[key] = deepcopy(draw(JUNK))  # a later place may be inside it
    return drawn


PROPERTIES = st.dictionaries(
    st.sampled_from(["plan", "email", ""]),
    st.sampled_from(["pro", "a" * 5000 + "!", "", HALF, "2026-01-01", "1.2.3", 10**30, 1.5, [], {}])
    | st.text(max_size=5),
    max_size=2,
)


@pytest.fixture
def definitions(settings: Settings, tmp_path: Path) -> Path:
    """The file that the process's flags come from."""
    settings.POSTHOG_ENABLED = True
    settings.POSTHOG_FLAG_DEFINITIONS_FILE = str(tmp_path / "flags.json")
    settings.POSTHOG_LOCAL_CACHE_SECONDS = 0
    settings.POSTHOG_CIRCUIT_BREAKER_TRIP_THRESHOLD_SECONDS = TRIP_SECONDS
    settings.ROOT_URLCONF = __name__
    return tmp_path / "flags.json"


async def call_async_functions(about: dict[str, Any]) -> None:
    """Await the twins of the public functions."""
    assert isinstance(await ais_enabled("beta", None, "u1", **about), bool)
    assert isinstance(await aget_feature_flag("beta", None, "u1", **about), bool | str)
    assert isinstance(await aget_all_feature_flags("u1", **about), dict)
    await aevaluate("u1", **about)


CLIENT = Client(raise_request_exception=True)


def call_everything(about: dict[str, Any]) -> None:
    """Call every public function and endpoint; each answer is JSON that can be encoded."""
    assert isinstance(is_enabled("beta", None, "u1", **about), bool)
    assert isinstance(get_feature_flag("other", None, "u1", **about), bool | str)
    assert all(isinstance(one, bool | str) for one in get_all_feature_flags("u1", **about).values())
    payload = get_feature_flag_payload("beta", "u1", **about)
    json.dumps(payload, allow_nan=False).encode()
    snapshot = evaluate("u1", **about)
    "".join(map(str, [*snapshot.flags.values(), *snapshot.reasons.values()])).encode()
    async_to_sync(call_async_functions)(about)
    assert CLIENT.get("/api/features/").status_code == 200
    assert CLIENT.get("/api/features/beta/").status_code in (200, 404)
    exposure = CLIENT.post("/api/features/beta/exposure/", {}, content_type="application/json")
    assert exposure.status_code in (204, 404), exposure.content
    for url in ("/ofrep/v1/evaluate/flags", "/ofrep/v1/evaluate/flags/beta"):
        body = {"context": {"targetingKey": "u1"}}
        answer = CLIENT.post(url, json.dumps(body), content_type="application/json")
        assert answer.status_code in (200, 400, 404), answer.content
        json.loads(answer.content)
    clear_cache("u1")


@given(documents(), PROPERTIES)
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_definitions_raise_or_hang(
    definitions: Path,
    caplog: pytest.LogCaptureFixture,
    drawn: dict[str, Any],
    properties: dict[str, Any],
) -> None:
    """All calls together stay within the bound of one, none raises, and none is rescued."""
    definitions.write_text(json.dumps(drawn))
    engine.reset()

    started = time.monotonic()
    call_everything({"person_properties": properties})

    assert time.monotonic() - started < TRIP_SECONDS
    assert [one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR] == []
