"""What tests say of flags: by `override_flags`, and with Django's test runner."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import pickle
import re
import subprocess
import sys
import unittest
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import posthog as posthog_sdk
import pytest
import requests
from django.core.management import CommandError, call_command
from django.test import Client, RequestFactory, TestCase, override_settings

from olposthog._core import engine, overrides
from olposthog.features import (
    aget_all_feature_flags,
    ais_enabled,
    clear_cache,
    configure,
    evaluate,
    for_request,
    get_all_feature_flags,
    get_feature_flag,
    get_feature_flag_payload,
    is_enabled,
)
from olposthog.snapshot import FlagSnapshot, Runtime, Source
from olposthog.testing import UnexpectedFlag, override_flags
from tests.conftest import deliver_events
from tests.posthog_server import PostHogServer, Variant

ROOT = Path(__file__).resolve().parent.parent
GREEN = {"colour": "green"}


@pytest.fixture
def site(enabled: PostHogServer, settings: Any) -> PostHogServer:
    """PostHog has flags, and so have the settings."""
    enabled.flags = {"new-nav": True, "checkout": Variant("control", payload={"colour": "red"})}
    settings.FEATURES = {"old": True, "new-nav": False}
    settings.ROOT_URLCONF = "tests.test_testing"
    return enabled


def _routes() -> list[Any]:
    from django.urls import include, path

    return [
        path("api/", include("olposthog_api.urls")),
        path("", include("olposthog_api.ofrep.urls")),
        path("swallow/", _swallow),
    ]


def _swallow(request: Any) -> Any:
    from django.http import HttpResponse

    try:
        is_enabled("unmentioned")
    except Exception as error:  # noqa: BLE001  # as some code does
        return HttpResponse(type(error).__name__)
    return HttpResponse("read")


def __getattr__(name: str) -> Any:
    if name == "urlpatterns":
        return _routes()
    raise AttributeError(name)


def features(client: Client) -> Any:
    return client.get("/api/features/").json()["features"]


def ofrep(client: Client) -> Any:
    answer = client.post(
        "/ofrep/v1/evaluate/flags",
        {"context": {"targetingKey": "x"}},
        content_type="application/json",
    )
    return {flag["key"]: flag for flag in answer.json()["flags"]}


# What an override says, everywhere


def test_python_gets_what_is_said() -> None:
    """On, off, a variant and a payload, in place of FEATURES and of nothing."""
    with (
        override_settings(FEATURES={"off": True}),
        override_flags(
            {"on": True, "off": False, "checkout": "test"}, payloads={"checkout": GREEN}
        ),
    ):
        assert is_enabled("on") is True
        assert is_enabled("off", default=True) is False
        assert is_enabled("checkout") is True
        assert get_feature_flag("checkout") == "test"
        assert get_feature_flag_payload("checkout") == GREEN
        assert get_feature_flag_payload("on") is None
        assert get_all_feature_flags() == {"on": True, "off": False, "checkout": "test"}


def test_a_flag_that_is_off_has_no_payload() -> None:
    """A payload is there while its flag is on, so that a test can be parametrised by the flag."""
    with override_flags({"checkout": False}, payloads={"checkout": GREEN}):
        assert get_feature_flag_payload("checkout") is None


def test_the_reason_says_that_a_test_decided() -> None:
    """A snapshot tells an overridden flag from PostHog's own."""
    with override_flags({"checkout": "test"}):
        assert dict(evaluate().reasons) == {"checkout": "override"}


def test_the_rest_api_gets_what_is_said(site: PostHogServer, client: Client) -> None:
    """Both reads of the REST API, with payloads."""
    with override_flags({"new-nav": False, "checkout": "test"}, payloads={"checkout": GREEN}):
        answer = client.get("/api/features/").json()
        one = client.get("/api/features/checkout/").json()

    assert answer["features"] == {"new-nav": False, "checkout": "test", "old": True}
    assert answer["payloads"] == {"checkout": GREEN}
    assert (one["variant"], one["payload"]) == ("test", GREEN)


def test_ofrep_gets_what_is_said(site: PostHogServer, client: Client) -> None:
    """OpenFeature's clients, with the payload in the metadata."""
    with override_flags({"new-nav": False, "checkout": "test"}, payloads={"checkout": GREEN}):
        flags = ofrep(client)

    assert (flags["checkout"]["value"], flags["checkout"]["reason"]) == ("test", "STATIC")
    assert json.loads(flags["checkout"]["metadata"]["payload"]) == GREEN
    assert flags["new-nav"]["value"] is False


def test_templates_get_what_is_said(site: PostHogServer) -> None:
    """The tags for flags, and the bootstrap of posthog-js."""
    from django.template import engines

    page = engines["django"].from_string(
        "{% load olposthog %}{% flag 'new-nav' %}new{% elseflag %}old{% endflag %}"
        " {% flag_variant 'checkout' %} {% posthog_bootstrap %}"
    )
    with override_flags({"new-nav": False, "checkout": "test"}):
        rendered = page.render({}, RequestFactory().get("/"))

    assert rendered.startswith("old test <script")
    assert '"featureFlags": {"checkout": "test", "new-nav": false, "old": true}' in rendered


def test_coroutines_get_what_is_said() -> None:
    """The async twins."""

    async def read() -> tuple[bool, dict[str, bool | str]]:
        with override_flags({"new-nav": True}):
            return await ais_enabled("new-nav"), await aget_all_feature_flags()

    assert asyncio.run(read()) == (True, {"new-nav": True})


def test_a_live_server_gets_what_is_said(site: PostHogServer, live_server: Any) -> None:
    """Threads that the test did not start are of the same process."""
    address = f"{live_server.url}/api/features/"

    with override_flags({"new-nav": False, "checkout": "test"}):
        inside = requests.get(address, timeout=10).json()["features"]
    outside = requests.get(address, timeout=10).json()["features"]

    assert inside == {"new-nav": False, "checkout": "test", "old": True}
    assert outside == {"new-nav": True, "checkout": "control", "old": True}


def test_what_browsers_may_see_is_still_up_to_the_settings(
    site: PostHogServer, client: Client, settings: Any
) -> None:
    """An override shows no browser what POSTHOG_API_FLAGS hides."""
    settings.POSTHOG_API_FLAGS = ["new-*"]

    with override_flags({"new-nav": True, "secret": True}):
        assert features(client) == {"new-nav": True}


def test_what_definitions_keep_from_browsers_stays_kept(
    site: PostHogServer, client: Client, settings: Any, tmp_path: Path
) -> None:
    """Nor one that a definitions file calls server-only: a test can rely on that."""
    groups = {"groups": [{"rollout_percentage": 100}]}
    secret = {"key": "secret", "filters": groups, "evaluation_runtime": "server"}
    file = tmp_path / "flags.json"
    file.write_text(json.dumps({"flags": [secret]}))
    settings.POSTHOG_FLAG_DEFINITIONS_FILE = file

    for strict in (False, True):
        with override_flags({"secret": "test", "new-nav": True}, strict=strict):
            assert is_enabled("secret")
            assert "secret" not in features(client)
            assert client.get("/api/features/secret/").status_code == 404


def test_snapshots_are_read_only_as_ever() -> None:
    """What would fail in production fails in a test, and leaves no trace in the next one."""
    override = override_flags({"new-nav": True}, payloads={"new-nav": {"tea": ["green"]}})
    for strict in (None, True):
        with override, override_flags(strict=strict):
            snapshot: Any = evaluate()
            for mapping in (snapshot.flags, snapshot.payloads, snapshot.reasons):
                with pytest.raises(TypeError):
                    mapping["other"] = True
            snapshot.payloads["new-nav"]["tea"].append("black")
    with override:
        assert get_feature_flag_payload("new-nav") == {"tea": ["green"]}


def test_it_works_while_disabled(settings: Any) -> None:
    """A site that keeps POSTHOG_ENABLED off in its tests overrides flags all the same."""
    settings.POSTHOG_ENABLED = False
    settings.FEATURES = {"old": True}

    with override_flags({"new-nav": True}):
        assert get_all_feature_flags() == {"new-nav": True, "old": True}
        assert evaluate().source == Source.LOCAL
    with override_flags():
        assert evaluate().source == Source.DISABLED


# Whom it is about


def test_one_person_alone() -> None:
    """With `for_id` everybody else keeps what they had."""
    with override_flags({"new-nav": True}), override_flags({"new-nav": False}, for_id=42):
        assert is_enabled("new-nav", opt_unique_id="42") is False
        assert is_enabled("new-nav", opt_unique_id=42) is False
        assert is_enabled("new-nav", opt_unique_id="43") is True
        assert is_enabled("new-nav") is True


def test_one_user_of_the_rest_api_alone(
    site: PostHogServer, client: Client, django_user_model: Any, db: None
) -> None:
    """The id is the one that the server derives from the log-in."""
    ada = django_user_model.objects.create_user("ada")

    with override_flags({"old": False}, for_id=ada.pk):
        assert features(client)["old"] is True
        client.force_login(ada)
        assert features(client)["old"] is False


# Nothing leaves the process


def test_nothing_leaves_the_process(
    site: PostHogServer, client: Client, settings: Any, another_process: Any
) -> None:
    """No evaluation, no definitions, no exposure, no event of the site's own; no cache entry."""
    settings.POSTHOG_PERSONAL_API_KEY = "phx_test"
    configure()

    with override_flags({"new-nav": True}):
        assert is_enabled("new-nav") is True
        assert is_enabled("checkout") is False
        assert features(client) == {"new-nav": True, "old": True}
        client.post("/api/features/new-nav/exposure/")
        clear_cache()
        posthog_sdk.capture("bought tea", distinct_id="42")
        deliver_events()
    another_process()

    assert site.requests == []


def test_commands_let_nothing_out_either(site: PostHogServer, settings: Any) -> None:
    """A command that would ask PostHog past all caches says how to let it."""
    settings.POSTHOG_PERSONAL_API_KEY = "phx_test"

    with override_flags(), pytest.raises(CommandError, match=r"override_flags\(ask_posthog=True"):
        call_command("posthog_export", "-")
    assert site.requests == []


@pytest.mark.parametrize("named", [True, False], ids=["enabled", "disabled"])
def test_the_sites_own_client_is_kept_quiet_and_put_back(
    posthog: PostHogServer, settings: Any, caplog: pytest.LogCaptureFixture, named: bool
) -> None:
    """A client that the site set up itself sends nothing in a test, and no line into the log."""
    settings.POSTHOG_ENABLED = named
    settings.POSTHOG_PROJECT_API_KEY = posthog.token
    settings.POSTHOG_API_HOST = posthog.url
    own = posthog_sdk.Posthog(posthog.token, host=posthog.url, sync_mode=True)
    posthog_sdk.default_client = own

    with override_flags():
        with override_flags():
            posthog_sdk.capture("in a test", distinct_id="42")
        posthog_sdk.set(distinct_id="42", properties={"plan": "pro"})
    assert posthog.requests == []
    assert caplog.messages == []

    assert posthog_sdk.default_client is own
    posthog_sdk.capture("bought tea", distinct_id="42")
    assert [event["event"] for event in posthog.events] == ["bought tea"]


def test_the_sites_own_events_are_delivered_again_afterwards(site: PostHogServer) -> None:
    """Django may start, and events be captured, while an override holds: they are not sent."""
    with override_flags():
        configure()
        posthog_sdk.capture("in a test", distinct_id="42")
    posthog_sdk.capture("bought tea", distinct_id="42")
    deliver_events()

    assert [event["event"] for event in site.events] == ["bought tea"]


def test_settings_that_cannot_be_used_are_not_complained_of(
    settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Tests do without keys, and their log without the error that a site would deserve."""
    settings.POSTHOG_ENABLED = True

    with override_flags({"new-nav": True}):
        assert is_enabled("new-nav")
    assert caplog.messages == []


def test_what_it_does_not_mention_answers_from_features(site: PostHogServer) -> None:
    """In tests an unmentioned flag is what the settings say, whatever PostHog would."""
    with override_flags({"checkout": "test"}):
        assert get_all_feature_flags() == {"checkout": "test", "old": True, "new-nav": False}


def test_a_definitions_file_goes_on_deciding(
    site: PostHogServer, settings: Any, tmp_path: Path
) -> None:
    """What a site's tests evaluate from a file, they evaluate beside overrides too."""
    flag = {"key": "filed", "active": True, "filters": {"groups": [{"rollout_percentage": 100}]}}
    file = tmp_path / "flags.json"
    file.write_text(json.dumps({"flags": [flag]}))
    settings.POSTHOG_FLAG_DEFINITIONS_FILE = file

    with override_flags({"new-nav": True}):
        assert get_all_feature_flags() == {"filed": True, "new-nav": True, "old": True}
    with override_flags({"filed": False}):
        assert is_enabled("filed") is False


def test_posthog_decides_the_rest_where_it_is_asked(site: PostHogServer) -> None:
    """With `ask_posthog` the settings hold, and what is overridden is."""
    with override_flags({"new-nav": False}, ask_posthog=True):
        assert get_all_feature_flags() == {"new-nav": False, "checkout": "control", "old": True}
        assert get_feature_flag_payload("checkout") == {"colour": "red"}
    assert len(site.flag_calls) == 1

    with override_flags({"checkout": "control"}, ask_posthog=True):
        assert get_feature_flag_payload("checkout") is None  # PostHog's went with its value


def test_an_overridden_value_is_no_exposure(site: PostHogServer) -> None:
    """PostHog hears of what it decided, never of what a test said."""
    configure()
    with override_flags({"new-nav": False}, ask_posthog=True):
        is_enabled("new-nav", opt_unique_id="42")
        is_enabled("checkout", opt_unique_id="42")

    deliver_events()
    (event,) = site.events
    assert (event["properties"]["$feature_flag"], event["distinct_id"]) == ("checkout", "42")


def test_asking_is_inherited_and_taken_back(site: PostHogServer) -> None:
    """A block within asks as the one around it does, unless it says otherwise."""
    with override_flags(ask_posthog=True):
        with override_flags({"other": True}):
            assert is_enabled("new-nav", opt_unique_id="1") is True
        with override_flags(ask_posthog=False):
            assert is_enabled("new-nav", opt_unique_id="2") is False
        assert is_enabled("new-nav", opt_unique_id="3") is True

    assert [call["distinct_id"] for call in site.flag_calls] == ["1", "3"]


# Blocks begin and end


def test_the_inner_block_holds() -> None:
    """Of two that name a flag the inner one holds, payload included; then the outer one again."""
    with override_flags({"checkout": "test", "new-nav": True}, payloads={"checkout": GREEN}):
        with override_flags({"checkout": "other"}):
            assert get_feature_flag("checkout") == "other"
            assert get_feature_flag_payload("checkout") is None
            assert is_enabled("new-nav") is True
        assert get_feature_flag("checkout") == "test"
        assert get_feature_flag_payload("checkout") == GREEN


def test_what_was_there_is_there_again(site: PostHogServer, client: Client) -> None:
    """After the block PostHog answers as before it, for a request object kept across it too."""
    request = RequestFactory().get("/")
    before = for_request(request, runtime=Runtime.CLIENT).flags, features(client)

    with override_flags({"new-nav": False}):
        assert for_request(request, runtime=Runtime.CLIENT).flags["new-nav"] is False
        assert features(client)["new-nav"] is False

    assert (for_request(request, runtime=Runtime.CLIENT).flags, features(client)) == before
    assert before[1] == {"new-nav": True, "checkout": "control", "old": True}


def test_an_error_ends_the_block_too() -> None:
    """What a test raises leaves nothing behind, and is raised."""
    with pytest.raises(ZeroDivisionError), override_flags({"new-nav": True}):
        raise ZeroDivisionError

    assert is_enabled("new-nav") is False


def test_overlapping_blocks_take_back_their_own() -> None:
    """In async code a block may end before one that began later: the other one still holds."""

    async def run() -> list[dict[str, bool | str]]:
        seen: list[dict[str, bool | str]] = []
        second_began, first_ended = asyncio.Event(), asyncio.Event()

        async def first() -> None:
            with override_flags({"a": True, "both": "first"}):
                await second_began.wait()
                seen.append(await aget_all_feature_flags())
            first_ended.set()

        async def second() -> None:
            with override_flags({"b": True, "both": "second"}):
                second_began.set()
                await first_ended.wait()
                seen.append(await aget_all_feature_flags())

        await asyncio.gather(first(), second())
        return [*seen, await aget_all_feature_flags()]

    assert asyncio.run(run()) == [
        {"a": True, "b": True, "both": "second"},
        {"b": True, "both": "second"},
        {},
    ]


def test_settings_may_change_meanwhile(site: PostHogServer, settings: Any) -> None:
    """What a test says of flags holds whatever it says of settings."""
    with override_flags({"new-nav": True}):
        settings.FEATURES = {"new": True}
        assert get_all_feature_flags() == {"new-nav": True, "new": True}
    assert site.requests == []


def test_one_override_may_be_entered_again() -> None:
    """The same object serves for a block within its own."""
    override = override_flags({"new-nav": True})

    with override:
        with override:
            assert is_enabled("new-nav")
        assert is_enabled("new-nav")
    assert not is_enabled("new-nav")


# Every flag that is read must be mentioned


@pytest.mark.parametrize(
    "read",
    [
        lambda client: is_enabled("unmentioned"),
        lambda client: get_feature_flag("unmentioned", "control"),
        lambda client: get_feature_flag_payload("unmentioned"),
        lambda client: asyncio.run(ais_enabled("unmentioned")),
        lambda client: evaluate().flags["unmentioned"],
        lambda client: "unmentioned" in for_request(RequestFactory().get("/")).flags,
        lambda client: client.get("/api/features/unmentioned/"),
        lambda client: client.get("/api/features/?keys=unmentioned"),
        lambda client: client.post("/api/features/unmentioned/exposure/"),
    ],
)
def test_reading_an_unmentioned_flag_fails_the_test(
    read: Any, site: PostHogServer, client: Client, settings: Any
) -> None:
    """A strict override makes the read itself an error that names the flag and the fix."""
    settings.FEATURES = {"unmentioned": True}

    with (
        pytest.raises(UnexpectedFlag, match=r"'unmentioned' .* override_flags\(\{'unmentioned'"),
        override_flags({"new-nav": True}, strict=True),
    ):
        read(client)


def test_mentioned_flags_are_all_there_are(site: PostHogServer, client: Client) -> None:
    """A strict override can be listed and read, and FEATURES takes no part."""
    with override_flags({"new-nav": True, "off": False}, payloads={"new-nav": 1}, strict=True):
        assert is_enabled("off", default=True) is False
        assert get_feature_flag_payload("off") is None
        assert get_feature_flag_payload("new-nav") == 1
        assert get_all_feature_flags() == {"new-nav": True, "off": False}
        assert features(client) == {"new-nav": True, "off": False}
        assert set(ofrep(client)) == {"new-nav", "off"}


def test_browsers_may_ask_for_what_they_may_not_see(
    site: PostHogServer, client: Client, settings: Any
) -> None:
    """A key that POSTHOG_API_FLAGS hides is no flag to browsers, and no error of the test."""
    settings.POSTHOG_API_FLAGS = ["new-*"]

    with override_flags({"new-nav": True}, strict=True):
        assert client.get("/api/features/?keys=new-nav,hidden").json()["features"] == {
            "new-nav": True
        }
        assert client.get("/api/features/hidden/").status_code == 404
        answer = client.post(
            "/ofrep/v1/evaluate/flags/hidden", {"context": {}}, content_type="application/json"
        )
        assert answer.status_code == 404


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))]
)
def test_copies_of_a_snapshot_are_as_strict(copied: Callable[[FlagSnapshot], FlagSnapshot]) -> None:
    """A copy or a pickle of a strict test's snapshot refuses the flags that it refuses."""
    with override_flags({"new-nav": True}, payloads={"new-nav": {"a": 1}}, strict=True):
        found: Any = copied(evaluate("u1"))
        assert found.flags == {"new-nav": True}
        assert found.flags.get("new-nav") is True
        for read in (
            lambda: found.flags["old"],
            lambda: found.flags.get("old"),
            lambda: "old" in found.flags,
        ):
            with pytest.raises(UnexpectedFlag, match="'old'"):
                read()
        with pytest.raises(TypeError):
            found.flags["new-nav"] = False
        overrides.take_unexpected()


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_reads_of_a_copy_are_reported(copied: Callable[[FlagSnapshot], FlagSnapshot]) -> None:
    """What is read of a copy, and swallowed, fails the test as if it was read of the original."""

    @override_flags(strict=True)
    def read_and_swallow() -> None:
        found = copied(evaluate("u1"))
        with suppress(UnexpectedFlag):
            found.flags["old"]

    with pytest.raises(UnexpectedFlag, match="'old'"):
        read_and_swallow()


def test_one_persons_mention_is_nobody_elses() -> None:
    """Strictly, a flag that is overridden for one person is unmentioned for the others."""

    @override_flags({"new-nav": True}, for_id="42", strict=True)
    def read(id_: str) -> bool:
        return is_enabled("new-nav", opt_unique_id=id_)

    assert read("42")
    with pytest.raises(UnexpectedFlag, match="new-nav"):
        read("43")


def test_swallowed_errors_fail_the_test_at_the_end(site: PostHogServer, client: Client) -> None:
    """Code that catches everything does not hide that it read an unmentioned flag."""
    with (
        pytest.raises(UnexpectedFlag, match="the code went on: 'unmentioned'"),
        override_flags(strict=True),
    ):
        assert client.get("/swallow/").content == b"UnexpectedFlag"


def test_strictness_is_inherited_and_taken_back(settings: Any) -> None:
    """A block within is as strict as the one around it, unless it says otherwise."""
    settings.FEATURES = {"old": True}

    with override_flags({"a": True}, strict=True):
        with override_flags({"b": True}):
            assert get_all_feature_flags() == {"a": True, "b": True}
        with override_flags(strict=False):
            assert is_enabled("old") is True
            assert is_enabled("unheard-of") is False


# As a decorator


@override_flags({"new-nav": True})
def decorated_function(number: int, *, word: str) -> tuple[int, str, bool]:
    """Say what it was given."""
    return number, word, is_enabled("new-nav")


@override_flags({"new-nav": True})
async def decorated_coroutine(number: int) -> tuple[int, bool]:
    await asyncio.sleep(0)
    return number, await ais_enabled("new-nav")


def test_a_function_is_decorated() -> None:
    """It takes and returns what it did, under its own name."""
    assert decorated_function(1, word="a") == (1, "a", True)
    assert decorated_function.__name__ == "decorated_function"
    assert decorated_function.__doc__ == "Say what it was given."
    assert not is_enabled("new-nav")


def test_a_coroutine_is_decorated() -> None:
    """The flags hold until it has run, not only until it was made."""
    assert asyncio.iscoroutinefunction(decorated_coroutine)
    assert asyncio.run(decorated_coroutine(1)) == (1, True)
    assert not is_enabled("new-nav")


def test_a_generator_is_decorated() -> None:
    """As fixtures are: the flags hold from its first step to its last."""

    @override_flags({"new-nav": True})
    def fixture() -> Any:
        yield is_enabled("new-nav")

    steps = fixture()
    assert next(steps) is True
    assert is_enabled("new-nav")
    assert list(steps) == []
    assert not is_enabled("new-nav")


def test_an_async_generator_is_decorated() -> None:
    """Likewise."""

    @override_flags({"new-nav": True})
    async def fixture() -> Any:
        yield await ais_enabled("new-nav")

    async def run() -> list[bool]:
        return [step async for step in fixture()]

    assert asyncio.run(run()) == [True]
    assert not is_enabled("new-nav")


def test_a_decorated_async_generator_is_the_functions_own() -> None:
    """It is sent to, thrown at and closed as the function would be, with the flags holding."""
    seen: list[Any] = []

    @override_flags({"new-nav": True})
    async def steps() -> Any:
        try:
            seen.append((yield 1))
            yield 2
        except ValueError as error:
            seen.append(str(error))
            yield 3
        finally:
            seen.append(is_enabled("new-nav"))

    async def run() -> list[Any]:
        sent, closed = steps(), steps()
        values = [await anext(sent), await sent.asend("tea"), await sent.athrow(ValueError("no"))]
        with pytest.raises(StopAsyncIteration):
            await anext(sent)
        await anext(closed)
        await closed.aclose()
        return values

    assert asyncio.run(run()) == [1, 2, 3]
    assert seen == ["tea", "no", True, True]


def test_a_function_that_returns_a_coroutine_is_decorated() -> None:
    """As a coroutine is that another decorator has wrapped."""

    def wrapped() -> Any:
        return ais_enabled("new-nav")

    assert asyncio.run(override_flags({"new-nav": True})(wrapped)()) is True


def test_calls_that_overlap_are_blocks_of_their_own() -> None:
    """A decorated coroutine that runs twice at once takes back what each call said."""

    async def run() -> list[bool]:
        first_may_end, first_ended = asyncio.Event(), asyncio.Event()
        began = asyncio.Event()

        @override_flags({"new-nav": True})
        async def decorated(*, last: bool) -> bool:
            if not last:
                began.set()
                await first_may_end.wait()
                return await ais_enabled("new-nav")
            first_may_end.set()
            await first_ended.wait()
            return await ais_enabled("new-nav")

        async def first() -> bool:
            found = await decorated(last=False)
            first_ended.set()
            return found

        async def then() -> bool:
            await began.wait()
            with override_flags({"new-nav": False}):
                return await decorated(last=True)

        return list(await asyncio.gather(first(), then()))

    assert asyncio.run(run()) == [True, True]


def test_the_inner_decorator_holds() -> None:
    """Two of them are two blocks, on a function as on a class."""

    @override_flags({"checkout": "outer", "new-nav": True})
    @override_flags({"checkout": "inner"})
    def read() -> Any:
        return get_all_feature_flags()

    assert read() == {"checkout": "inner", "new-nav": True}


@override_flags({"checkout": "class", "new-nav": True})
class TestOfAPlainClass:
    """The flags of a class hold for its tests."""

    def test_of_the_class(self) -> None:
        """Each method whose name begins so."""
        assert get_feature_flag("checkout") == "class"

    @override_flags({"checkout": "method"})
    def test_of_the_method(self) -> None:
        """A method's own hold over the class's."""
        assert get_all_feature_flags() == {"checkout": "method", "new-nav": True}

    @staticmethod
    def test_without_self() -> None:
        """A static one too."""
        assert get_feature_flag("checkout") == "class"


class Inherited:
    """Tests for classes that say more."""

    def test_inherited(self) -> None:
        assert get_all_feature_flags() == {"checkout": "sub", "new-nav": True}


@override_flags({"checkout": "base", "new-nav": True})
class Base(Inherited):
    """What a base class says."""

    __test__ = False


@override_flags({"checkout": "sub"})
class TestOfASubclass(Base):
    """Holds beside what the subclass says, and below it."""

    __test__ = True


class Case(TestCase):
    """What Django's test cases see, and when; run below."""

    seen: dict[str, Any]

    @classmethod
    def setUpClass(cls) -> None:
        cls.seen = {"setUpClass": get_all_feature_flags()}
        super().setUpClass()

    @classmethod
    def setUpTestData(cls) -> None:
        cls.seen["setUpTestData"] = get_all_feature_flags()

    def setUp(self) -> None:
        self.seen["setUp"] = get_all_feature_flags()

    def test_flags(self) -> None:
        self.seen["test"] = get_all_feature_flags()

    async def test_flags_in_a_coroutine(self) -> None:
        self.seen["coroutine"] = await aget_all_feature_flags()

    @override_flags({"checkout": "method"})
    def test_of_a_method(self) -> None:
        self.seen["method"] = get_all_feature_flags()


def run(case: type[unittest.TestCase]) -> unittest.TestResult:
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
    assert result.errors == []
    return result


Case.__test__ = False  # type: ignore[attr-defined]  # for the tests below alone


def test_a_test_case_is_decorated(db: None) -> None:
    """The flags hold from before `setUpClass` until its clean-up, and then no more."""

    @override_flags({"checkout": "class", "new-nav": True})
    class Decorated(Case):
        pass

    assert run(Decorated).wasSuccessful()

    everywhere = {"checkout": "class", "new-nav": True}
    assert Decorated.seen.pop("method") == {"checkout": "method", "new-nav": True}
    assert set(Decorated.seen) == {"setUpClass", "setUpTestData", "setUp", "test", "coroutine"}
    assert all(seen == everywhere for seen in Decorated.seen.values())
    assert get_all_feature_flags() == {}


def test_a_subclass_says_more(db: None) -> None:
    """What a subclass says holds over what its base says, and the base goes without it."""

    @override_flags({"checkout": "base", "new-nav": True})
    class Base(Case):
        pass

    class Plain(Base):
        pass

    @override_flags({"checkout": "outer"})
    @override_flags({"checkout": "inner"})
    class Sub(Base):
        pass

    for case, variant in ((Sub, "inner"), (Plain, "base"), (Base, "base")):
        assert run(case).wasSuccessful()
        assert case.seen["test"] == {"checkout": variant, "new-nav": True}
    assert get_all_feature_flags() == {}


def test_mixed_in_cases_keep_their_own_set_up() -> None:
    """Each base's `setUpClass` runs, in the usual order."""
    order: list[str] = []

    @override_flags({"a": True})
    class A(unittest.TestCase):
        pass

    @override_flags({"b": True})
    class B(unittest.TestCase):
        @classmethod
        def setUpClass(cls) -> None:
            order.append("B")
            super().setUpClass()

    class Both(A, B):
        def test_flags(self) -> None:
            order.append(str(get_all_feature_flags()))

    assert run(Both).wasSuccessful()
    assert order == ["B", "{'b': True, 'a': True}"]


def test_a_case_that_swallows_fails() -> None:
    """A strict class fails where its tests read what it does not mention and go on."""

    class Swallowing(unittest.TestCase):
        @override_flags(strict=True)
        def test_flags(self) -> None:
            with suppress(AssertionError):
                is_enabled("unmentioned")

    result = run(Swallowing)
    ((_, complaint),) = result.failures
    assert "'unmentioned'" in complaint


def test_each_test_of_a_strict_case_fails_by_itself(db: None) -> None:
    """The one that read what is not mentioned fails, once, and nobody else; coroutines too."""

    @override_flags({"new-nav": True}, strict=True)
    class Strict(TestCase):
        def test_innocent(self) -> None:
            assert is_enabled("new-nav")

        def test_raised(self) -> None:
            is_enabled("first")

        def test_swallowed(self) -> None:
            with suppress(AssertionError):
                is_enabled("second")

        async def test_swallowed_in_a_coroutine(self) -> None:
            with suppress(AssertionError):
                await ais_enabled("third")

    class Sub(Strict):
        @override_flags({"other": True})
        def test_of_the_subclass(self) -> None:
            with suppress(AssertionError):
                is_enabled("fourth")

    failures = {
        str(test).split()[0]: complaint.splitlines()[-1] for test, complaint in run(Sub).failures
    }
    read = {test: set(re.findall(r"'(\w+)'", text)) & KEYS for test, text in failures.items()}
    assert read == {
        "test_raised": {"first"},
        "test_swallowed": {"second"},
        "test_swallowed_in_a_coroutine": {"third"},
        "test_of_the_subclass": {"fourth"},
    }


KEYS = {"first", "second", "third", "fourth"}


# What cannot be said


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"flags": {"new-nav": None}}, "'new-nav' must be True, False or the name of a variant"),
        ({"flags": {"new-nav": 1}}, "'new-nav' must be"),
        ({"flags": {"new-nav": ""}}, "'new-nav' is empty text"),
        ({"flags": {7: True}}, "must be a str, not 7"),
        ({"flags": ["new-nav"]}, "flags must be a dict"),
        ({"flags": "new-nav"}, "flags must be a dict"),
        ({"payloads": {"new-nav": 1}}, "'new-nav': say in flags"),
        ({"flags": {"new-nav": True}, "payloads": 1}, "payloads must be a dict"),
        ({"flags": {"": True}}, "key of a flag is empty"),
        ({"flags": {"a": "b"}, "payloads": {"a": {1, 2}}}, "The payload for 'a' must be JSON"),
        ({"flags": {"a": "b"}, "payloads": {"a": float("nan")}}, "payload for 'a' must be JSON"),
        ({"strict": "no"}, "strict must be True, False or None, not 'no'"),
        ({"ask_posthog": 1}, "ask_posthog must be True, False or None, not 1"),
        ({"flags": {"new-nav": True}, "for_id": ""}, "for_id is empty"),
        ({"flags": {"new-nav": True}, "for_id": 1.5}, "for_id must be text, an int or a UUID"),
    ],
)
def test_what_is_no_flag_is_refused(arguments: Any, complaint: str) -> None:
    """What cannot be a flag is refused at once, by a message that names it."""
    with pytest.raises((TypeError, ValueError)) as raised:
        override_flags(**arguments)

    assert complaint in str(raised.value)


def test_what_is_no_test_is_not_decorated() -> None:
    """A class without tests, or no function at all, would do nothing in silence."""

    class Page:
        def read(self) -> None: ...

    with pytest.raises(TypeError, match="Page has none"):
        override_flags({"new-nav": True})(Page)
    with pytest.raises(TypeError, match=r"below @pytest\.fixture"):
        override_flags({"new-nav": True})(pytest.fixture(lambda: None))
    with pytest.raises(TypeError, match="decorates functions and classes, not 42"):
        override_flags({"new-nav": True})(42)  # type: ignore[type-var]


def test_the_callers_dict_is_no_longer_looked_at() -> None:
    """What a test does to its dictionaries afterwards changes nothing."""
    flags: dict[str, bool | str] = {"new-nav": True}
    with override_flags(flags):
        flags["new-nav"] = False
        engine.reset()
        assert is_enabled("new-nav")


# Django's test runner

TESTS = """
import os
import unittest

import posthog
from django.test import SimpleTestCase

from olposthog.features import get_all_feature_flags, is_enabled
from olposthog.testing import override_flags


class First(SimpleTestCase):
    def test_isolated(self):
        self.assertEqual(get_all_feature_flags(), {"old": True})
        posthog.capture("bought tea", distinct_id="42")

    @override_flags({"new-nav": True})
    def test_overridden(self):
        self.assertTrue(is_enabled("new-nav"))


class Second(SimpleTestCase):
    def test_isolated(self):
        self.assertFalse(is_enabled("new-nav"))
"""
ASKING = """

class Third(SimpleTestCase):
    @override_flags(ask_posthog=True)
    def test_asking(self):
        self.assertTrue(is_enabled("new-nav"))
"""
MANAGE = """
import multiprocessing
import sys

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv.pop())
    execute_from_command_line(sys.argv)
"""


def manage(folder: Path, posthog: PostHogServer, tests: str, *arguments: str) -> str:
    """Run `manage.py test` on a site that asks this PostHog; return what it printed."""
    (folder / "test_shop.py").write_text(tests)
    (folder / "manage.py").write_text(MANAGE)
    (folder / "shop_settings.py").write_text(
        "from tests.settings import *\n"
        "POSTHOG_ENABLED = True\n"
        f"POSTHOG_PROJECT_API_KEY = {posthog.token!r}\n"
        f"POSTHOG_API_HOST = {posthog.url!r}\n"
        "FEATURES = {'old': True}\n"
        "TEST_RUNNER = 'olposthog.testing.FlagsTestRunner'\n"
    )
    paths = os.pathsep.join(map(str, (folder, ROOT, ROOT / "api")))
    ran = subprocess.run(
        [sys.executable, "manage.py", "test", "test_shop", *arguments],
        cwd=folder,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "shop_settings", "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stderr


@pytest.mark.parametrize(
    "arguments", [("--parallel=1", "fork"), ("--parallel=2", "fork"), ("--parallel=2", "spawn")]
)
def test_djangos_runner_lets_nothing_out(
    posthog: PostHogServer, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """Neither in one process nor in several, forked or spawned."""
    posthog.flags = {"new-nav": True}

    assert "Ran 3 tests" in manage(tmp_path, posthog, TESTS, *arguments)
    assert posthog.requests == []


def test_djangos_runner_leaves_the_process_as_it_was() -> None:
    """Whoever runs tests from a program of their own goes on with PostHog."""
    program = (
        "from django.conf import settings; settings.configure()\n"
        "from olposthog import testing; from olposthog._core import overrides\n"
        "runner = testing.FlagsTestRunner(verbosity=0)\n"
        "for step in (runner.setup_test_environment, runner.teardown_test_environment):\n"
        "    step()\n"
        "    print(overrides.isolated())\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ran.stdout.split() == ["True", "False"]


def test_djangos_runner_lets_out_what_asks(posthog: PostHogServer, tmp_path: Path) -> None:
    """A test that asks for PostHog gets it."""
    posthog.flags = {"new-nav": True}

    assert "Ran 4 tests" in manage(tmp_path, posthog, TESTS + ASKING, "--parallel=1", "fork")
    assert len(posthog.flag_calls) == 1
