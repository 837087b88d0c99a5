"""One page never contradicts itself: Python code and browsers agree on the flags they share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.template import Context, Template
from django.test import RequestFactory
from pytest_django import Settings

from olposthog import conf
from olposthog._core import engine
from olposthog._core.agreement import Agreement
from olposthog._core.engine import Engine
from olposthog._evaluation.decision import Decision
from olposthog._evaluation.evaluation import Evaluation
from olposthog.features import clear_cache, evaluate, for_request, get_feature_flag
from olposthog.snapshot import Runtime, Source
from tests.posthog_faults import Status
from tests.posthog_server import PATIENCE, Flag, PostHogServer, Variant
from tests.site.processes import until
from tests.test_definitions import Clock, flag

CLIENT = Runtime.CLIENT


@pytest.fixture
def site(enabled: PostHogServer, settings: Settings) -> PostHogServer:
    """A site whose flags are known to PostHog, with other values in FEATURES."""
    settings.POSTHOG_LOCAL_CACHE_SECONDS = 0
    settings.FEATURES = {"checkout": "control", "secret": False, "ui": False}
    enabled.flags = {
        "checkout": Variant("express"),
        "secret": Flag(True, runtime="server"),
        "ui": Flag(True, runtime="client"),
    }
    return enabled


def settle() -> None:
    assert engine.current().shared.settle(PATIENCE)


def know(runtime: Runtime, who: str = "u1") -> None:
    """Have PostHog's flags of one runtime, stored for all processes."""
    assert evaluate(who, runtime=runtime).source is Source.POSTHOG
    settle()


def test_server_uses_what_is_known_for_browsers(
    site: PostHogServer, another_process: Callable[[], None]
) -> None:
    """In an outage Python code has the values that the REST API gives, in any process."""
    know(CLIENT)
    site.flags_fault = Status(500)

    for _ in range(2):
        snapshot = evaluate("u1")
        assert snapshot.source is Source.POSTHOG  # not older than an evaluation may be
        assert snapshot.flags["checkout"] == "express"
        assert get_feature_flag("checkout", opt_unique_id="u1") == "express"
        another_process()


def test_page_agrees_with_its_bootstrap_in_an_outage(site: PostHogServer) -> None:
    """A template's variant and posthog-js's are one, whichever was known before."""
    request = RequestFactory().get("/")
    assert for_request(request, runtime=CLIENT).source is Source.POSTHOG
    settle()
    site.flags_fault = Status(500)

    page = Template(
        '{% load olposthog %}{% flag_variant "checkout" %}|{% posthog_bootstrap %}'
    ).render(Context({"request": request}))

    variant, bootstrap = page.split("|")
    assert variant == "express"
    assert '"checkout": "express"' in bootstrap


def test_browsers_get_no_flag_that_may_be_the_servers(site: PostHogServer) -> None:
    """Where nothing tells which flags browsers may have, they get none of the server's."""
    know(Runtime.SERVER)
    site.flags_fault = Status(500)

    snapshot = evaluate("u1", runtime=CLIENT)

    assert snapshot.source is Source.FALLBACK
    assert snapshot.flags == {"checkout": "control", "secret": False, "ui": False}
    assert snapshot.evaluation is None


def test_browsers_use_what_posthog_named_for_them(site: PostHogServer) -> None:
    """A flag that anybody's browser has is no flag of the server: it has the server's value."""
    know(CLIENT, "somebody else")
    know(Runtime.SERVER)
    site.flags_fault = Status(500)

    flags = evaluate("u1", runtime=CLIENT).flags

    assert flags == {"checkout": "express", "secret": False, "ui": False}


@pytest.mark.parametrize(
    ("runtime", "expected"),
    [
        (CLIENT, {"checkout": "express", "ui": False}),
        (Runtime.SERVER, {"checkout": "express", "secret": False}),
    ],
)
def test_definitions_say_which_flags_are_shared(
    site: PostHogServer, settings: Settings, runtime: Runtime, expected: dict[str, object]
) -> None:
    """With definitions the runtime of each flag is known, also without any evaluation."""
    settings.POSTHOG_PERSONAL_API_KEY = site.secret
    hard = {"ensure_experience_continuity": True}
    site.definitions = {
        "flags": [
            flag("checkout", **hard),
            flag("secret", evaluation_runtime="server", **hard),
            flag("ui", evaluation_runtime="client", **hard),
        ]
    }
    poll = engine.current().poller
    assert poll is not None
    until(lambda: poll.current() is not None)
    other = CLIENT if runtime is Runtime.SERVER else Runtime.SERVER
    know(other)
    site.flags_fault = Status(500)

    assert evaluate("u1", runtime=runtime).flags == expected


@pytest.mark.parametrize("first", list(Runtime))
def test_newer_evaluation_decides_in_health(site: PostHogServer, first: Runtime) -> None:
    """What one runtime's newer evaluation says of a shared flag holds for the other as well."""
    second = CLIENT if first is Runtime.SERVER else Runtime.SERVER
    know(first)
    site.flags = {
        "checkout": Variant("instant"),
        "secret": Flag(False, runtime="server"),
        "ui": Flag(False, runtime="client"),
    }
    know(second)

    calls = len(site.flag_calls)
    flags = evaluate("u1", runtime=first).flags

    assert flags["checkout"] == "instant"
    assert flags["ui"] is (first is CLIENT)  # not shared: as it was
    assert flags["secret"] is (first is Runtime.SERVER)
    assert len(site.flag_calls) == calls


def test_old_values_of_the_other_runtime_are_not_used(
    site: PostHogServer, settings: Settings
) -> None:
    """What may not be used for one runtime any more may not be used for the other."""
    settings.CACHES = {
        **settings.CACHES,
        "durable": {**settings.CACHES["durable"], "TIMEOUT": 0},
    }
    know(CLIENT)
    site.flags_fault = Status(500)

    assert evaluate("u1").source is Source.FALLBACK

    settings.POSTHOG_STALE_IF_ERROR_SECONDS = 86_400
    assert evaluate("u1").source is Source.FALLBACK  # the entry was not kept for so long
    site.flags_fault = None
    know(CLIENT)
    site.flags_fault = Status(500)
    snapshot = evaluate("u1")
    assert (snapshot.source, snapshot.flags["checkout"]) == (Source.STALE, "express")


def test_cleared_values_are_not_used(site: PostHogServer) -> None:
    """Clearing a person's flags clears them for both runtimes."""
    know(CLIENT)
    clear_cache("u1")
    site.flags_fault = Status(500)

    assert evaluate("u1").source is Source.FALLBACK


def test_other_people_and_properties_are_not_used(site: PostHogServer) -> None:
    """Only the same person with the same properties is the other runtime's counterpart."""
    know(CLIENT)
    site.flags_fault = Status(500)

    assert evaluate("u2").source is Source.FALLBACK
    assert evaluate("u1", person_properties={"plan": "pro"}).source is Source.FALLBACK


def test_clock_that_is_set_back_does_not_pin_the_flags_of_a_runtime() -> None:
    """Which flags a runtime has is what PostHog named last, whatever the clock was before."""
    now = 86_400.0
    agreement = Agreement(lambda evaluated_at: True, wall=lambda: now)
    agreement.observe(Runtime.CLIENT, Evaluation({"old": Decision(True)}, now))
    now = 60.0
    agreement.observe(Runtime.CLIENT, Evaluation({"new": Decision(True)}, now))

    other = Evaluation({"old": Decision(True), "new": Decision(True)}, now)
    borrowed = agreement.borrow(other, Runtime.CLIENT, None)
    assert borrowed is not None
    assert set(borrowed.decisions) == {"new"}


def test_names_of_long_ago_are_not_used(site: PostHogServer, settings: Settings) -> None:
    """A flag that PostHog named for browsers long ago may be the server's by now."""
    clock = Clock()
    engine._current = Engine(conf.current(), clock=clock, wall=clock)
    know(CLIENT, "somebody else")
    clock.now += 10 * 86_400
    know(Runtime.SERVER)
    site.flags_fault = Status(500)

    assert evaluate("u1", runtime=CLIENT).source is Source.FALLBACK
