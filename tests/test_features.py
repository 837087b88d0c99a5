"""The functions that a site calls: values, ids, runtimes, requests and coroutines."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import threading
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, tzinfo
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest
from django.test import RequestFactory, override_settings
from django.utils import timezone
from django.utils.asyncio import async_unsafe
from django.utils.functional import SimpleLazyObject
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pytest_django import Settings

from olposthog._core import engine
from olposthog._core.context import key_of_person
from olposthog.features import (
    aevaluate,
    aget_all_feature_flags,
    aget_feature_flag,
    ais_enabled,
    clear_cache,
    configure,
    default_unique_id,
    evaluate,
    for_request,
    get_all_feature_flags,
    get_feature_flag,
    get_feature_flag_payload,
    is_enabled,
)
from olposthog.identity import Identity
from olposthog.snapshot import FlagSnapshot, Runtime, Source
from olposthog.testing import override_flags
from tests.posthog_faults import Hang, Status
from tests.posthog_server import Flag, PostHogServer, Split, Variant
from tests.posthog_wire import variant_of

NOTHING = object()
VALUES = (NOTHING, True, False, "test")
DEFAULTS = (None, True, False, "given")

# ---- the value of a flag


@pytest.fixture(scope="module")
def every_combination() -> dict[str, tuple[Any, Any]]:
    """A flag for each pair of PostHog's value and FEATURES' value."""
    pairs = itertools.product(VALUES, VALUES)
    return {f"flag-{number}": pair for number, pair in enumerate(pairs)}


@pytest.mark.parametrize("outage", [False, True], ids=["health", "outage"])
def test_value_precedence(
    enabled: PostHogServer,
    settings: Settings,
    every_combination: dict[str, tuple[Any, Any]],
    outage: bool,
) -> None:
    """PostHog's value, else FEATURES', else the default, else off; whatever function asks."""
    settings.POSTHOG_SEND_FEATURE_FLAG_EVENTS = False
    flags = every_combination
    enabled.flags = {key: pair[0] for key, pair in flags.items() if pair[0] is not NOTHING}
    settings.FEATURES = {key: pair[1] for key, pair in flags.items() if pair[1] is not NOTHING}
    enabled.fault = Status(500) if outage else None

    @given(st.sampled_from([*flags, "unknown", ""]), st.sampled_from(DEFAULTS), st.booleans())
    @hypothesis_settings(max_examples=300, deadline=None)
    def rule(key: str, default: Any, cold: bool) -> None:
        if cold and not outage:
            clear_cache()
        posthogs, features = flags.get(key, (NOTHING, NOTHING))
        known = [value for value in (posthogs, features) if value is not NOTHING]
        known = known[1:] if outage and posthogs is not NOTHING else known
        expected = known[0] if known else default or False

        assert get_feature_flag(key, default, "u1") == expected
        assert type(get_feature_flag(key, default, "u1")) is type(expected)
        assert is_enabled(key, default, "u1") is bool(expected)
        everything = get_all_feature_flags("u1")
        assert everything == evaluate("u1").flags
        assert (key in everything) is bool(known)
        if known:
            assert everything[key] == expected

    rule()


def test_explicit_off_beats_features_and_default(
    enabled: PostHogServer, settings: Settings
) -> None:
    """PostHog's off is an answer: neither FEATURES nor a default turns it on."""
    enabled.flags = {"beta": False}
    settings.FEATURES = {"beta": True}

    assert is_enabled("beta", True) is False
    assert get_feature_flag("beta", "fallback") is False
    assert get_all_feature_flags() == {"beta": False}


def test_variant_counts_as_on(enabled: PostHogServer) -> None:
    """A flag with a variant is on, as a real bool, and its variant can be had."""
    enabled.flags = {"checkout": Variant("control")}

    assert is_enabled("checkout") is True
    assert get_feature_flag("checkout") == "control"
    assert get_all_feature_flags() == {"checkout": "control"}


def test_payload_is_decoded(enabled: PostHogServer, settings: Settings) -> None:
    """A payload is what was put in, None for a flag that has none, is off, or is unknown."""
    settings.FEATURES = {"fallback": True}
    enabled.flags = {
        "checkout": Variant("test", payload={"colour": "green", "sizes": [1, 2.5, None]}),
        "number": Flag(42),
        "plain": True,
        "off": Flag(False, payload="unseen"),
    }

    assert get_feature_flag_payload("checkout") == {"colour": "green", "sizes": [1, 2.5, None]}
    assert get_feature_flag_payload("number") == 42
    assert [get_feature_flag_payload(name) for name in ("plain", "off", "fallback", "?")] == [
        None
    ] * 4


def test_payload_is_the_callers_own(enabled: PostHogServer) -> None:
    """Whoever changes a payload changes it for nobody else."""
    enabled.flags = {"checkout": Variant("test", payload={"colours": ["green"]})}

    payload: Any = get_feature_flag_payload("checkout", "u1")
    payload["colours"].append("red")

    assert get_feature_flag_payload("checkout", "u1") == {"colours": ["green"]}
    assert evaluate("u1").payloads["checkout"] == {"colours": ["green"]}


def test_all_flags_can_be_changed_by_their_caller(enabled: PostHogServer) -> None:
    """`get_all_feature_flags` hands out a dictionary of one's own."""
    enabled.flags = {"beta": True}

    get_all_feature_flags()["beta"] = False

    assert get_all_feature_flags() == {"beta": True}
    json.dumps(get_all_feature_flags())


@pytest.mark.parametrize("name", ["unknown", "", "with space", "ünïcödé", "a.b", "x" * 1000])
def test_unknown_name_is_the_default(enabled: PostHogServer, name: str) -> None:
    """A flag that nobody knows has its default, and is off without one."""
    assert is_enabled(name) is False
    assert is_enabled(name, True) is True
    assert get_feature_flag(name) is False
    assert get_feature_flag(name, "given") == "given"
    assert get_feature_flag_payload(name) is None


@pytest.mark.parametrize("name", [None, 1, True, b"beta", ["beta"], {}])
@pytest.mark.parametrize("outage", [False, True], ids=["health", "outage"])
def test_name_must_be_text(enabled: PostHogServer, name: Any, outage: bool) -> None:
    """A name that is no string is the caller's mistake, in health and in an outage."""
    enabled.fault = Status(500) if outage else None

    for function in (is_enabled, get_feature_flag, get_feature_flag_payload):
        with pytest.raises(TypeError, match="name of a flag must be a str"):
            function(name)
    with pytest.raises(TypeError, match="name of a flag must be a str"):
        asyncio.run(ais_enabled(name))


# ---- who is asked about


def test_int_is_its_text(enabled: PostHogServer) -> None:
    """An int and its text are the same person, to PostHog and to the caches."""
    assert evaluate(42).distinct_id == "42"
    assert evaluate("42") is evaluate(42)
    assert [call["distinct_id"] for call in enabled.flag_calls] == ["42"]


def test_uuid_is_its_text(enabled: PostHogServer) -> None:
    """A UUID is the person of its text."""
    unique_id = UUID("0192d1de-7c1c-7aa0-a8cb-a8c9d33eb2d5")

    assert evaluate(unique_id).distinct_id == str(unique_id)


@pytest.mark.parametrize("nobody", [None, ""])
def test_nobody_is_the_server(enabled: PostHogServer, nobody: str | None) -> None:
    """Without an id, the server itself is asked about."""
    assert evaluate(nobody).distinct_id == default_unique_id() == "tests.example.com"
    assert [call["distinct_id"] for call in enabled.flag_calls] == ["tests.example.com"]


def test_zero_is_an_id(enabled: PostHogServer) -> None:
    """The user with the primary key 0 is not nobody."""
    assert evaluate(0).distinct_id == "0"


LONG_IDS = [
    "u" * 250,
    "ü" * 250,
    "\N{HOT BEVERAGE}" * 250,
    "\N{LEAF FLUTTERING IN WIND}" * 250,
    10**250,
]


@pytest.mark.parametrize("unique_id", LONG_IDS, ids=["ascii", "latin", "bmp", "astral", "int"])
def test_a_long_id_is_cut_as_posthog_cuts_it(
    enabled: PostHogServer, unique_id: str | int, another_process: Callable[[], None]
) -> None:
    """PostHog keeps 200 code points of an id: whole or cut, it is one person with one entry."""
    cut = str(unique_id)[:200]
    enabled.flags = {"theirs": Flag(only_for={cut})}

    for _ in range(2):
        snapshot = evaluate(unique_id)
        assert evaluate(cut) is evaluate(unique_id) is snapshot
        assert asyncio.run(aevaluate(unique_id)) is snapshot
        assert is_enabled("theirs", opt_unique_id=unique_id) is True
        assert snapshot.distinct_id == cut == Identity(str(unique_id)).distinct_id
        another_process()

    (call,) = enabled.flag_calls
    assert call["distinct_id"] == call["person_properties"]["user_id"] == cut


def test_an_id_of_200_characters_is_kept(enabled: PostHogServer) -> None:
    """Only what is beyond 200 code points is cut."""
    assert evaluate("u" * 200).distinct_id == evaluate("u" * 201).distinct_id == "u" * 200
    assert evaluate("u" * 199).distinct_id == "u" * 199
    assert len(enabled.flag_calls) == 2


def long_identity(request: HttpRequest) -> Identity:
    return Identity("u" * 250)


def test_a_long_id_of_a_request_is_cut(enabled: PostHogServer, settings: Settings) -> None:
    """The id that POSTHOG_API_IDENTITY returns is cut as well: the same person, the same entry."""
    settings.POSTHOG_API_IDENTITY = f"{__name__}.long_identity"

    assert evaluate(request=user_request()) is evaluate("u" * 250)
    assert len(enabled.flag_calls) == 1


def test_a_long_host_name_is_cut(enabled: PostHogServer, settings: Settings) -> None:
    """The server's own id is no exception."""
    settings.HOSTNAME = "h" * 250

    assert evaluate().distinct_id == "h" * 200


def test_local_evaluation_hashes_the_cut_id(settings: Settings, tmp_path: Path) -> None:
    """A long id gets the variant that PostHog's servers give it, which is that of its beginning."""
    file = tmp_path / "flags.json"
    file.write_text(json.dumps({"flags": [Split().definition("checkout")]}))
    settings.POSTHOG_ENABLED, settings.POSTHOG_FLAG_DEFINITIONS_FILE = True, str(file)
    ids = [f"{number}-{'u' * 250}" for number in range(16)]
    cut = [variant_of("checkout", unique_id[:200]) for unique_id in ids]
    assert cut != [variant_of("checkout", unique_id) for unique_id in ids]

    assert [get_feature_flag("checkout", None, unique_id) for unique_id in ids] == cut


def test_clearing_a_long_id_clears_its_entry(enabled: PostHogServer) -> None:
    """`clear_cache` takes the id in either form."""
    for clearing in ("u" * 250, "u" * 200):
        evaluate("u" * 250)
        calls = len(enabled.flag_calls)
        clear_cache(clearing)
        evaluate("u" * 250)
        assert len(enabled.flag_calls) == calls + 1


def test_an_override_for_a_long_id_holds(enabled: PostHogServer) -> None:
    """`override_flags(for_id=…)` takes the id in either form."""
    for for_id in ("u" * 250, "u" * 200):
        with override_flags({"new-nav": True}, for_id=for_id):
            assert is_enabled("new-nav", opt_unique_id="u" * 250) is True
            assert is_enabled("new-nav", opt_unique_id="u" * 199) is False


@pytest.mark.parametrize("unique_id", [True, False, object(), 1.5, b"u1", ["u1"], AnonymousUser()])
def test_other_ids_are_refused(enabled: PostHogServer, unique_id: Any) -> None:
    """An id of another type is the caller's mistake, and the message names the argument."""
    calls: list[Callable[[], object]] = [
        lambda: is_enabled("beta", opt_unique_id=unique_id),
        lambda: get_feature_flag("beta", opt_unique_id=unique_id),
        lambda: get_feature_flag_payload("beta", unique_id),
        lambda: get_all_feature_flags(unique_id),
        lambda: evaluate(unique_id),
        lambda: clear_cache(unique_id),
        lambda: asyncio.run(aevaluate(unique_id)),
    ]
    for call in calls:
        with pytest.raises(TypeError, match="opt_unique_id must be"):
            call()
    assert enabled.requests == []


def test_default_properties_are_sent(enabled: PostHogServer, settings: Settings) -> None:
    """PostHog learns the environment and the id; what the caller passes is merged over them."""
    evaluate("u1")
    evaluate("u1", person_properties={"plan": "pro", "environment": "mine"})
    settings.ENVIRONMENT = ""
    evaluate("u1")

    assert [call["person_properties"] for call in enabled.flag_calls] == [
        {"environment": "tests", "user_id": "u1"},
        {"environment": "mine", "user_id": "u1", "plan": "pro"},
        {"user_id": "u1"},
    ]


def test_properties_decide(enabled: PostHogServer) -> None:
    """Answers for other properties of the same person are not mixed up."""
    enabled.flags = {"beta": Flag(only_for=lambda body: body["person_properties"].get("plan"))}

    assert is_enabled("beta", opt_unique_id="u1") is False
    assert is_enabled("beta", opt_unique_id="u1", person_properties={"plan": "pro"}) is True
    assert is_enabled("beta", opt_unique_id="u1", person_properties={}) is False
    assert len(enabled.flag_calls) == 2


def test_order_of_properties_does_not_matter(enabled: PostHogServer) -> None:
    """The same properties in another order are the same question."""
    evaluate("u1", person_properties={"a": 1, "b": 2}, groups={"x": "1", "y": "2"})
    evaluate("u1", person_properties={"b": 2, "a": 1}, groups={"y": "2", "x": "1"})

    assert len(enabled.flag_calls) == 1


def test_dates_and_uuids_are_properties(enabled: PostHogServer) -> None:
    """A date, a decimal or a UUID among the properties reaches PostHog as text."""
    joined = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    unique = UUID(int=7)

    assert evaluate(
        "u1", person_properties={"joined": joined, "of": unique, "at": Decimal("1.5")}
    ).source is (Source.POSTHOG)
    sent = enabled.flag_calls[0]["person_properties"]
    assert sent["joined"] == "2026-01-02T03:04:05Z"
    assert (sent["of"], sent["at"]) == (str(unique), "1.5")


@pytest.mark.parametrize("use_tz", [True, False])
def test_naive_datetimes_are_in_the_current_time_zone(
    enabled: PostHogServer, settings: Settings, use_tz: bool
) -> None:
    """A datetime without a time zone is in TIME_ZONE, or in the zone that the request activated."""
    settings.TIME_ZONE, settings.USE_TZ = "Asia/Tokyo", use_tz
    naive = datetime(2026, 7, 2, 3, 4, 5)  # noqa: DTZ001  # naive on purpose
    properties: dict[str, Any] = {
        "at": naive,
        "nested": {"all": [naive, naive.replace(tzinfo=UTC)]},
        "on": naive.date(),
        "daily": naive.time(),
        "text": "2026-07-02T03:04:05",
    }

    evaluate("u1", person_properties=properties)
    evaluate(
        "u1", groups={"company": "acme"}, group_properties={"company": {"since": [{"at": naive}]}}
    )
    with timezone.override("America/New_York"):
        evaluate("u1", person_properties={"at": naive})

    local, by_group, activated = enabled.flag_calls
    assert {name: local["person_properties"][name] for name in properties} == {
        "at": "2026-07-02T03:04:05+09:00",
        "nested": {"all": ["2026-07-02T03:04:05+09:00", "2026-07-02T03:04:05Z"]},
        "on": "2026-07-02",
        "daily": "03:04:05",
        "text": "2026-07-02T03:04:05",
    }
    assert by_group["group_properties"]["company"]["since"] == [{"at": "2026-07-02T03:04:05+09:00"}]
    assert activated["person_properties"]["at"] == "2026-07-02T03:04:05-04:00"


@pytest.mark.parametrize("tzinfo", [None, UTC])
def test_datetimes_are_sent_in_milliseconds(
    enabled: PostHogServer, settings: Settings, tzinfo: tzinfo | None
) -> None:
    """Microseconds are cut to milliseconds, with or without a time zone."""
    settings.TIME_ZONE = "UTC"
    at = datetime(2026, 1, 2, 3, 4, 5, 678_999, tzinfo)

    evaluate("u1", person_properties={"at": at})

    assert enabled.flag_calls[0]["person_properties"]["at"] == "2026-01-02T03:04:05.678Z"


@pytest.mark.parametrize("at", [datetime.min, datetime.max])  # noqa: DTZ901  # naive on purpose
@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/New_York"])
def test_datetimes_at_the_end_of_time_are_sent(
    enabled: PostHogServer, settings: Settings, at: datetime, zone: str
) -> None:
    """A naive datetime that no other time zone can express is no error."""
    settings.TIME_ZONE = zone

    evaluate("u1", person_properties={"at": at})

    assert enabled.flag_calls[0]["person_properties"]["at"].startswith(at.isoformat()[:19])


@pytest.mark.parametrize(("zone", "is_on"), [("Asia/Tokyo", True), ("America/New_York", False)])
@pytest.mark.parametrize("groups", [False, True], ids=["person", "group"])
def test_local_evaluation_compares_instants(
    settings: Settings, tmp_path: Path, zone: str, is_on: bool, groups: bool
) -> None:
    """`is_date_before` judges a naive datetime by its instant in the current time zone."""
    before = {
        "key": "at",
        "type": "group" if groups else "person",
        "operator": "is_date_before",
        "value": "2026-07-02T12:00:00Z",
    }
    if groups:
        before["group_type_index"] = 0  # type: ignore[assignment]  # a number among texts
    filters = {
        "aggregation_group_type_index": 0 if groups else None,
        "groups": [{"properties": [before], "rollout_percentage": 100}],
    }
    file = tmp_path / "flags.json"
    file.write_text(
        json.dumps(
            {
                "flags": [{"key": "early", "active": True, "filters": filters}],
                "group_type_mapping": {"0": "company"},
            }
        )
    )
    settings.POSTHOG_ENABLED, settings.POSTHOG_FLAG_DEFINITIONS_FILE = True, str(file)
    settings.TIME_ZONE = zone
    noon = {"at": datetime(2026, 7, 2, 12, 0)}  # noqa: DTZ001  # naive on purpose

    if groups:
        found = evaluate("u1", groups={"company": "acme"}, group_properties={"company": noon})
    else:
        found = evaluate("u1", person_properties=noon)

    assert (found.source, found.flags) == (Source.LOCAL, {"early": is_on})


@pytest.mark.parametrize(
    ("argument", "junk"),
    [
        ("person_properties", {"x": object()}),
        ("person_properties", {"x": float("nan")}),
        ("person_properties", {"x": float("inf")}),
        ("person_properties", {"x": {1, 2}}),
        ("person_properties", ["x"]),
        ("groups", {"company": object()}),
        ("groups", "acme"),
        ("group_properties", {"company": {"x": object()}}),
        ("group_properties", 7),
    ],
)
def test_properties_must_be_json(enabled: PostHogServer, argument: str, junk: Any) -> None:
    """What is no JSON is the caller's mistake, and the message names the argument."""
    about: Any = {argument: junk}
    for call in (
        lambda: is_enabled("beta", opt_unique_id="u1", **about),
        lambda: evaluate("u1", **about),
        lambda: asyncio.run(aevaluate("u1", **about)),
    ):
        with pytest.raises((TypeError, ValueError), match=f"^{argument} must "):
            call()
    assert enabled.requests == []


def test_properties_are_those_of_the_moment_of_asking(enabled: PostHogServer) -> None:
    """What a caller does to its dict while PostHog is asked changes nothing."""
    enabled.flags = {"pro": Flag(lambda body: body["person_properties"]["plan"] == "pro")}
    properties = {"plan": "pro"}

    async def ask_and_change() -> FlagSnapshot:
        asked = asyncio.create_task(aevaluate("u1", person_properties=properties))
        await asyncio.sleep(0)
        properties["plan"] = "free"
        return await asked

    assert asyncio.run(ask_and_change()).flags == {"pro": True}
    assert enabled.flag_calls[0]["person_properties"]["plan"] == "pro"


def test_properties_nested_without_end_are_refused(enabled: PostHogServer) -> None:
    """A property that no JSON writer can write is the caller's mistake, and named."""
    nested: Any = []
    for _ in range(100_000):
        nested = [nested]

    with pytest.raises(ValueError, match="person_properties"):
        evaluate("u1", person_properties={"nested": nested})


def test_runtime_may_be_its_name(enabled: PostHogServer) -> None:
    """`runtime="client"` is as good as the enum's member."""
    enabled.flags = {"here": Flag(True, runtime="client"), "there": Flag(True, runtime="server")}

    assert evaluate("u1", runtime="client").flags == {"here": True}  # type: ignore[arg-type]  # text


def test_group_without_a_dict_of_properties_is_refused(enabled: PostHogServer) -> None:
    """A mistake one level down is told to the caller too; it does not become an outage."""
    about: Any = {"groups": {"company": "acme"}, "group_properties": {"company": 5}}

    with pytest.raises(TypeError, match=r"^group_properties must "):
        evaluate("u1", **about)


# ---- runtimes


def test_server_runtime_is_the_default(enabled: PostHogServer) -> None:
    """Server code gets the flags for servers, and browsers' when it asks for them."""
    enabled.flags = {
        "both": True,
        "server-only": Flag(runtime="server"),
        "client-only": Flag(runtime="client"),
    }

    assert evaluate("u1").flags == {"both": True, "server-only": True}
    assert evaluate("u1", runtime=Runtime.CLIENT).flags == {"both": True, "client-only": True}
    assert evaluate("u1").runtime is Runtime.SERVER
    assert len(enabled.flag_calls) == 2


# ---- switched off


def test_disabled_asks_nobody(posthog: PostHogServer, settings: Settings) -> None:
    """With POSTHOG_ENABLED off FEATURES answers: no request, no thread, no client."""
    settings.POSTHOG_ENABLED = False
    settings.POSTHOG_PROJECT_API_KEY = posthog.token
    settings.POSTHOG_API_HOST = posthog.url
    settings.FEATURES = {"beta": True, "checkout": "control"}
    before = set(threading.enumerate())

    configure()
    snapshot = evaluate("u1")
    assert (snapshot.source, snapshot.flags) == (Source.DISABLED, settings.FEATURES)
    assert is_enabled("beta", opt_unique_id="u1") is True
    assert get_feature_flag("checkout", opt_unique_id="u1") == "control"
    assert get_feature_flag_payload("checkout", "u1") is None
    assert get_all_feature_flags("u1") == settings.FEATURES
    assert asyncio.run(aevaluate("u2")).source is Source.DISABLED

    assert set(threading.enumerate()) <= before
    assert posthog.requests == []


def test_override_settings_takes_effect_at_once(enabled: PostHogServer) -> None:
    """A setting overridden in a test holds from the next call on, and ends with the test."""
    enabled.flags = {"beta": True}
    assert evaluate("u1").source is Source.POSTHOG

    with override_settings(POSTHOG_ENABLED=False, FEATURES={"beta": "fallback"}):
        assert evaluate("u1").source is Source.DISABLED
        assert get_feature_flag("beta", opt_unique_id="u1") == "fallback"
    with override_settings(HOSTNAME="elsewhere"):
        assert default_unique_id() == "elsewhere"
    assert get_feature_flag("beta", opt_unique_id="u1") is True


# ---- coroutines


async def gather(*coroutines: Awaitable[Any]) -> list[Any]:
    return list(await asyncio.gather(*coroutines))


@pytest.mark.parametrize("outage", [False, True], ids=["health", "outage"])
def test_async_twins_agree(enabled: PostHogServer, settings: Settings, outage: bool) -> None:
    """Coroutines get the answers that the plain functions give."""
    settings.FEATURES = {"beta": "fallback", "gone": True}
    enabled.flags = {"beta": True, "checkout": Variant("test", payload=1)}
    enabled.fault = Status(500) if outage else None

    is_on, is_unknown_on, variant, unknown_variant, flags, snapshot = asyncio.run(
        gather(
            ais_enabled("beta", opt_unique_id="u1"),
            ais_enabled("unknown", True, "u1"),
            aget_feature_flag("checkout", opt_unique_id="u1"),
            aget_feature_flag("unknown", "given", "u1"),
            aget_all_feature_flags("u1"),
            aevaluate("u1"),
        )
    )

    assert (is_on, is_unknown_on) == (True, True)
    assert variant == get_feature_flag("checkout", opt_unique_id="u1")
    assert variant == (False if outage else "test")
    assert unknown_variant == "given"
    assert flags == get_all_feature_flags("u1")
    assert snapshot is evaluate("u1")
    assert snapshot.source is (Source.FALLBACK if outage else Source.POSTHOG)
    assert len(enabled.flag_calls) == 1


def test_fifty_tasks_share_one_request(enabled: PostHogServer) -> None:
    """Fifty concurrent tasks for one cold person cost one request."""
    enabled.flags = {"beta": True}

    async def ask() -> list[Any]:
        with enabled.gate():
            tasks = [asyncio.create_task(ais_enabled("beta", None, "u1")) for _ in range(50)]
            await asyncio.to_thread(enabled.wait_for_flag_calls, 1)
        return list(await asyncio.gather(*tasks))

    assert asyncio.run(ask()) == [True] * 50
    assert len(enabled.flag_calls) == 1


def test_cancelled_task_leaves_the_flight_to_others(enabled: PostHogServer) -> None:
    """A task that is cancelled does not take along the answer that others wait for."""
    enabled.flags = {"beta": True}

    async def ask() -> bool:
        with enabled.gate():
            first, second = (asyncio.create_task(ais_enabled("beta", None, "u1")) for _ in range(2))
            await asyncio.to_thread(enabled.wait_for_flag_calls, 1)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            assert not second.done()
        return await second

    assert asyncio.run(ask()) is True
    assert len(enabled.flag_calls) == 1


def test_hanging_posthog_does_not_stop_the_loop(enabled: PostHogServer, settings: Settings) -> None:
    """While a coroutine waits for flags, others run, and at the threshold FEATURES answers it."""
    settings.POSTHOG_CIRCUIT_BREAKER_TRIP_THRESHOLD_SECONDS = 0.3
    settings.FEATURES = {"beta": True}
    enabled.fault = Hang()

    async def ask() -> bool:
        waiting = asyncio.create_task(ais_enabled("beta", None, "u1"))
        await asyncio.to_thread(enabled.wait_for_flag_calls, 1)
        assert not waiting.done()
        return await waiting

    assert asyncio.run(ask()) is True
    assert evaluate("u1").source is Source.FALLBACK


SYNC_FUNCTIONS: dict[str, Callable[[], object]] = {
    "is_enabled": lambda: is_enabled("beta", None, "u1"),
    "get_feature_flag": lambda: get_feature_flag("beta", None, "u1"),
    "get_feature_flag_payload": lambda: get_feature_flag_payload("beta", "u1"),
    "get_all_feature_flags": lambda: get_all_feature_flags("u1"),
    "evaluate": lambda: evaluate("u1"),
    "for_request": lambda: for_request(RequestFactory().get("/")),
}


@pytest.mark.parametrize("name", SYNC_FUNCTIONS)
def test_blocking_call_in_a_loop_is_logged(
    enabled: PostHogServer, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """A plain function in a running loop answers, and says which one blocks; from memory, not."""
    caplog.set_level(logging.WARNING, "olposthog")
    function = SYNC_FUNCTIONS[name]

    async def ask() -> object:
        return function()

    in_loop = asyncio.run(ask())
    (line,) = caplog.messages
    assert line.startswith(f"{name}() can block the event loop it runs in; ")
    assert "aevaluate()" in line or "await a" in line

    caplog.clear()
    again = asyncio.run(ask())
    assert caplog.records == []
    if name != "for_request":
        assert again == in_loop


def test_request_of_a_user_is_answered_in_a_loop(
    enabled: PostHogServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Who made a request may have to be read from the database, which Django forbids in a loop."""

    @async_unsafe("a database is not for event loops")
    def read_user() -> Any:
        return get_user_model()(pk=42)

    request: Any = RequestFactory().get("/")
    request.user = SimpleLazyObject(read_user)

    async def ask() -> str:
        return for_request(request).distinct_id

    assert asyncio.run(ask()) == "42"
    assert caplog.messages == [
        "for_request() can block the event loop it runs in; await afor_request()."
    ]


def test_finding_out_who_asks_has_its_time(enabled: PostHogServer, settings: Settings) -> None:
    """In a loop, who asks is found out in a thread: if that hangs, the fallback answers."""
    settings.POSTHOG_CIRCUIT_BREAKER_TRIP_THRESHOLD_SECONDS = 0.3
    settings.FEATURES = {"beta": True}
    released = threading.Event()
    request: Any = RequestFactory().get("/")
    request.user = SimpleLazyObject(lambda: released.wait(30))

    async def ask() -> FlagSnapshot:
        return for_request(request)

    snapshot = asyncio.run(ask())
    released.set()

    assert (snapshot.source, snapshot.flags) == (Source.FALLBACK, {"beta": True})
    assert enabled.flag_calls == []


@pytest.mark.parametrize("about", [{"unique_id": "42"}, {"person_propertys": {}}], ids=str)
def test_unknown_argument_is_refused(enabled: PostHogServer, about: Any) -> None:
    """A misspelt argument is the caller's mistake, not a question about the server."""
    with pytest.raises(TypeError, match=next(iter(about))):
        evaluate(**about)
    with pytest.raises(TypeError, match=next(iter(about))):
        asyncio.run(aevaluate(**about))


def test_for_request_needs_a_request(enabled: PostHogServer) -> None:
    """Without one the answer would be about the server."""
    with pytest.raises(TypeError, match="needs a request"):
        for_request(None)  # type: ignore[arg-type]  # on purpose


def test_clearing_in_a_loop_is_logged(
    enabled: PostHogServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Clearing waits for the shared cache, and says so where that stops a loop."""

    async def clear() -> None:
        clear_cache("u1")

    asyncio.run(clear())

    assert caplog.messages == [
        "clear_cache() can block the event loop it runs in; call it through sync_to_async."
    ]


def test_plain_call_is_not_logged(enabled: PostHogServer, caplog: pytest.LogCaptureFixture) -> None:
    """Outside of a loop nothing is said."""
    evaluate("u1")

    assert not [record for record in caplog.records if record.name.startswith("olposthog")]


# ---- requests


def user_request(pk: int | None = None) -> Any:
    """A request as a view gets it."""
    request: Any = RequestFactory().get("/")
    request.user = AnonymousUser() if pk is None else get_user_model()(pk=pk)
    return request


def test_for_request_keeps_its_answer(enabled: PostHogServer) -> None:
    """A request has one answer all along, even if the caches are cleared between."""
    enabled.flags = {"beta": True}
    request = user_request(7)

    first = for_request(request)
    clear_cache()
    enabled.flags = {"beta": False}

    assert first.distinct_id == "7"
    assert for_request(request) is first
    assert is_enabled("beta", request=request) is True
    assert for_request(user_request(7)).flags == {"beta": False}


def test_a_clients_claims_add_to_the_person(enabled: PostHogServer) -> None:
    """Claims reach PostHog as properties, each set with an answer of its own; ids never do."""
    enabled.flags = {"pro": Flag(only_for=lambda body: "plan" in body["person_properties"])}
    request = user_request(7)

    plain = for_request(request)
    pro = for_request(request, claims={"plan": "pro", "user_id": "8", "environment": "x"})

    assert (plain.flags, pro.flags) == ({"pro": False}, {"pro": True})
    assert {plain.distinct_id, pro.distinct_id} == {"7"}
    assert enabled.flag_calls[-1]["person_properties"] == {
        "environment": "tests",
        "user_id": "7",
        "plan": "pro",
    }
    assert for_request(request, claims={"plan": "pro"}) is pro
    assert for_request(request, claims={}) is plain
    assert for_request(user_request(), claims={"plan": "pro"}).anonymous


def test_login_changes_the_person(enabled: PostHogServer) -> None:
    """What a request keeps is kept by identity: after a login it is the user who is asked about."""
    request = user_request()
    visitor = for_request(request)
    request.user = get_user_model()(pk=7)

    assert visitor.anonymous
    assert for_request(request).distinct_id == "7"
    request.user = AnonymousUser()
    assert for_request(request) is visitor
    assert len(enabled.flag_calls) == 2


def test_request_keeps_runtimes_apart(enabled: PostHogServer) -> None:
    """The same request can have an answer for servers and one for browsers."""
    enabled.flags = {"server-only": Flag(runtime="server")}
    request = user_request(7)

    assert for_request(request).flags == {"server-only": True}
    assert for_request(request, runtime=Runtime.CLIENT).flags == {}


def test_request_in_every_function(enabled: PostHogServer) -> None:
    """All functions, and their async twins, take a request in the id's place."""
    enabled.flags = {"beta": Flag(payload=1, only_for=["7"])}
    request = user_request(7)

    assert is_enabled("beta", request=request) is True
    assert get_feature_flag("beta", request=request) is True
    assert get_feature_flag_payload("beta", request=request) == 1
    assert get_all_feature_flags(request=request) == {"beta": True}
    assert asyncio.run(ais_enabled("beta", request=request)) is True
    assert asyncio.run(aget_feature_flag("beta", request=request)) is True
    assert asyncio.run(aevaluate(request=request)) is for_request(request)
    assert len(enabled.flag_calls) == 1


@pytest.mark.parametrize(
    "about",
    [
        {"opt_unique_id": "u1"},
        {"person_properties": {"plan": "pro"}},
        {"groups": {"company": "acme"}},
        {"group_properties": {"company": {"size": 1}}},
    ],
)
def test_request_and_id_exclude_each_other(enabled: PostHogServer, about: Any) -> None:
    """Who is asked about is said once: by a request, or by an id and what is known of it."""
    for call in (
        lambda: is_enabled("beta", request=user_request(7), **about),
        lambda: evaluate(request=user_request(7), **about),
        lambda: asyncio.run(aevaluate(request=user_request(7), **about)),
    ):
        with pytest.raises(TypeError, match="request, or an id"):
            call()
    assert enabled.requests == []


def test_no_request_is_no_request(enabled: PostHogServer) -> None:
    """`request=None` is as good as leaving it out."""
    assert evaluate("u1", request=None).distinct_id == "u1"
    request = RequestFactory().get("/")
    assert evaluate(request=request, person_properties=None, groups=None).anonymous
    assert engine.current().memory.get(key_of_person("u1")) is not None
