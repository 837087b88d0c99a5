"""Polled definitions in the order of sources: what they decide, and what is left to PostHog."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.core.cache import caches
from pytest_django import Settings

from olposthog import _posthog
from olposthog._core import engine
from olposthog.features import (
    clear_cache,
    evaluate,
    get_all_feature_flags,
    get_feature_flag_payload,
    is_enabled,
)
from olposthog.snapshot import FlagSnapshot, Runtime, Source
from tests.posthog_faults import Hang, Refuse, Status
from tests.posthog_server import PATIENCE, Flag, PostHogServer, Variant
from tests.site.processes import until
from tests.test_definitions import cohort, flag, where
from tests.test_exposures import delivered, told

PLAN = {"key": "plan", "type": "person", "value": ["pro"], "operator": "exact"}
UNDECIDABLE = [
    pytest.param(flag("hard", ensure_experience_continuity=True), id="experience continuity"),
    pytest.param(flag("hard", where(cohort(99))), id="static cohort"),
    pytest.param(flag("hard", where(PLAN)), id="missing property"),
]


@pytest.fixture
def defined(enabled: PostHogServer, settings: Settings) -> Callable[..., None]:
    """Give the project definitions, and have them in this process."""
    settings.POSTHOG_PERSONAL_API_KEY = enabled.secret

    def define(*flags: dict[str, object], **more: object) -> None:
        store: dict[str, Any] = caches["durable"]._cache  # type: ignore[attr-defined]  # LocMemCache's
        for key in [key for key in store if ":definitions:" in key]:
            caches["durable"].delete(key.split(":", 2)[2])
        enabled.definitions = {"flags": flags, **more}
        boot()
        enabled.clear()

    return define


def boot() -> None:
    """Let a new process have its definitions before the first flag is asked for."""
    engine.reset()
    poll = engine.current().poller
    assert poll is not None
    until(lambda: poll.current() is not None)
    poll.settle(PATIENCE)
    assert engine.current().shared.settle(PATIENCE)


def settle() -> None:
    assert engine.current().shared.settle(PATIENCE)


def entries() -> list[str]:
    """The keys of the evaluations in the shared cache."""
    settle()
    store: dict[str, Any] = caches["durable"]._cache  # type: ignore[attr-defined]  # LocMemCache's
    return [key for key in store if ":entry:" in key]


def reasons(snapshot: FlagSnapshot) -> dict[str, str]:
    return dict(snapshot.reasons)


# ---- everything is decided here


def test_decided_flags_cost_nothing(enabled: PostHogServer, defined: Callable[..., None]) -> None:
    """Where definitions decide everything, no flags are requested and no entry is shared."""
    defined(flag("on"), flag("off", {"groups": []}))
    enabled.flags = {"on": False, "off": True, "remote": True}

    for number in range(10):
        snapshot = evaluate(f"u{number}")
        assert (snapshot.source, snapshot.flags) == (Source.LOCAL, {"on": True, "off": False})

    assert enabled.requests == []
    assert entries() == []


def test_definitions_beat_features(
    enabled: PostHogServer, settings: Settings, defined: Callable[..., None]
) -> None:
    """What definitions decide takes precedence over FEATURES, which answers for unknown keys."""
    settings.FEATURES = {"off": True, "only-here": "variant"}
    defined(flag("off", {"groups": []}))

    assert get_all_feature_flags("u1") == {"off": False, "only-here": "variant"}
    assert is_enabled("off", True, "u1") is False


def test_empty_project_decides_everything(
    enabled: PostHogServer, settings: Settings, defined: Callable[..., None]
) -> None:
    """A project without flags leaves nothing to ask PostHog for."""
    settings.FEATURES = {"only-here": True}
    defined()

    snapshot = evaluate("u1")

    assert (snapshot.source, snapshot.flags) == (Source.LOCAL, {"only-here": True})
    assert enabled.requests == []


def test_decided_flags_need_no_posthog(
    enabled: PostHogServer, defined: Callable[..., None]
) -> None:
    """An outage, or an open circuit, does not touch what definitions decide."""
    defined(flag("on"))
    enabled.fault = Refuse()

    assert evaluate("u1").source is Source.LOCAL


def test_next_definitions_decide_next(
    enabled: PostHogServer, settings: Settings, defined: Callable[..., None]
) -> None:
    """Whatever is evaluated after a poll is evaluated by what the poll brought."""
    settings.POSTHOG_POLL_INTERVAL = 0.1
    settings.POSTHOG_LOCAL_CACHE_SECONDS = 0
    defined(flag("beta"))
    assert evaluate("u1").flags == {"beta": True}

    enabled.definitions = {"flags": [flag("beta", {"groups": []})]}

    until(lambda: evaluate("u1").flags == {"beta": False})
    assert enabled.flag_calls == []


# ---- something is left to PostHog


@pytest.mark.parametrize("hard", UNDECIDABLE)
def test_undecidable_flag_costs_one_call(
    enabled: PostHogServer,
    defined: Callable[..., None],
    another_process: Callable[[], None],
    hard: dict[str, object],
) -> None:
    """A flag that definitions cannot decide is PostHog's: one call, and an entry for all."""
    defined(hard, flag("easy"))
    enabled.flags = {"hard": Variant("test", payload={"colour": "green"}), "easy": False}

    snapshot = evaluate("u1")
    settle()

    assert snapshot.source is Source.POSTHOG
    assert snapshot.flags == {"hard": "test", "easy": True}
    assert snapshot.payloads == {"hard": {"colour": "green"}}
    assert reasons(snapshot) == {"hard": "condition_match", "easy": "local"}
    assert len(enabled.flag_calls) == len(entries()) == 1

    another_process()
    found = evaluate("u1")
    assert (found.source, found.flags, found.payloads) == (
        Source.POSTHOG,
        snapshot.flags,
        snapshot.payloads,
    )
    assert len(enabled.flag_calls) == 1


def test_property_that_is_there_decides(
    enabled: PostHogServer, defined: Callable[..., None]
) -> None:
    """A flag is left to PostHog for those only whose properties were not passed."""
    defined(flag("pro", where(PLAN)))

    assert evaluate("u1", person_properties={"plan": "pro"}).source is Source.LOCAL
    assert evaluate("u1", person_properties={"plan": "free"}).flags == {"pro": False}
    assert enabled.flag_calls == []
    assert evaluate("u1").source is Source.POSTHOG
    assert len(enabled.flag_calls) == 1


def test_flag_that_posthog_does_not_know_is_not_asked_for_again(
    enabled: PostHogServer, settings: Settings, defined: Callable[..., None]
) -> None:
    """A flag that PostHog leaves undecided too falls back, and its absence is cached as usual."""
    settings.FEATURES = {"hard": "fallback"}
    settings.POSTHOG_LOCAL_CACHE_SECONDS = 0
    defined(flag("hard", ensure_experience_continuity=True), flag("easy"))

    for _ in range(5):
        snapshot = evaluate("u1")
        settle()
        assert snapshot.source is Source.POSTHOG
        assert snapshot.flags == {"hard": "fallback", "easy": True}

    assert len(enabled.flag_calls) == 1


def test_newer_definitions_overlay_an_older_entry(
    enabled: PostHogServer, settings: Settings, defined: Callable[..., None]
) -> None:
    """The shared entry holds PostHog's word only: what is decided here is decided anew."""
    settings.POSTHOG_LOCAL_CACHE_SECONDS = 0
    defined(flag("hard", ensure_experience_continuity=True), flag("easy"))
    enabled.flags = {"hard": True, "easy": True}
    evaluate("u1")
    settle()

    defined(flag("hard", ensure_experience_continuity=True), flag("easy", {"groups": []}))

    assert evaluate("u1").flags == {"hard": True, "easy": False}
    assert enabled.flag_calls == []


@pytest.mark.parametrize(
    ("of_flag", "asks", "asks_not"),
    [("client", Runtime.CLIENT, Runtime.SERVER), ("server", Runtime.SERVER, Runtime.CLIENT)],
)
def test_undecidable_flag_of_the_other_runtime(
    enabled: PostHogServer,
    defined: Callable[..., None],
    of_flag: str,
    asks: Runtime,
    asks_not: Runtime,
) -> None:
    """A flag that is not for this runtime is no reason to ask PostHog."""
    hard = flag("hard", ensure_experience_continuity=True, evaluation_runtime=of_flag)
    defined(hard, flag("easy"))
    enabled.flags = {"hard": True}

    snapshot = evaluate("u1", runtime=asks_not)
    assert (snapshot.source, snapshot.flags) == (Source.LOCAL, {"easy": True})
    assert enabled.flag_calls == []

    snapshot = evaluate("u1", runtime=asks)
    assert (snapshot.source, snapshot.flags) == (Source.POSTHOG, {"easy": True, "hard": True})
    assert [call["evaluation_runtime"] for call in enabled.flag_calls] == [asks.value]


def test_runtimes_are_kept_apart(enabled: PostHogServer, defined: Callable[..., None]) -> None:
    """Browsers get no flag of the server, and the server none of the browsers."""
    defined(
        flag("server-only", evaluation_runtime="server"),
        flag("client-only", evaluation_runtime="client"),
        flag("both"),
    )

    assert evaluate("u1").flags == {"server-only": True, "both": True}
    assert evaluate("u1", runtime=Runtime.CLIENT).flags == {"client-only": True, "both": True}


def test_callers_share_the_call_for_the_rest(
    enabled: PostHogServer, defined: Callable[..., None]
) -> None:
    """Every function for the same person is answered by the one call."""
    defined(flag("hard", ensure_experience_continuity=True), flag("easy"))
    enabled.flags = {"hard": Flag(True, payload=[1])}

    assert is_enabled("hard", opt_unique_id="u1") is True
    assert get_all_feature_flags("u1") == {"hard": True, "easy": True}
    assert get_feature_flag_payload("hard", opt_unique_id="u1") == [1]
    assert len(enabled.flag_calls) == 1
    clear_cache("u1")
    evaluate("u1")
    assert len(enabled.flag_calls) == 2


# ---- PostHog cannot be asked for the rest


@pytest.mark.parametrize("fault", [Status(500), Refuse(), Hang()], ids=str)
def test_undecided_flags_fall_back_one_by_one(
    enabled: PostHogServer, settings: Settings, defined: Callable[..., None], fault: Any
) -> None:
    """In an outage FEATURES answers for the undecided flags; the decided ones keep their values."""
    settings.FEATURES = {"hard": "fallback", "easy": False, "only-here": True}
    settings.POSTHOG_CIRCUIT_BREAKER_TRIP_THRESHOLD_SECONDS = 0.5
    defined(
        flag("hard", ensure_experience_continuity=True),
        flag("harder", where(cohort(7))),
        flag("easy"),
        flag("off", {"groups": []}),
    )
    enabled.fault = fault

    snapshot = evaluate("u1")

    assert snapshot.source is Source.FALLBACK
    assert snapshot.flags == {"hard": "fallback", "easy": True, "off": False, "only-here": True}
    assert reasons(snapshot) == {"easy": "local", "off": "local"}
    assert is_enabled("harder", True, "u1") is True


def test_decided_flags_report_exposures_in_an_outage(
    enabled: PostHogServer, settings: Settings, defined: Callable[..., None]
) -> None:
    """Experiments keep counting what was decided here; a fallback value is no exposure."""
    settings.FEATURES = {"hard": True}
    defined(flag("hard", ensure_experience_continuity=True), flag("easy"))
    enabled.flags_fault = Status(500)

    assert is_enabled("easy", opt_unique_id="u1") is True
    assert is_enabled("hard", opt_unique_id="u1") is True
    assert evaluate("u1").source is Source.FALLBACK

    assert told(enabled) == [("u1", "easy", True)]


def test_last_known_values_fill_what_is_undecided(
    enabled: PostHogServer, settings: Settings, defined: Callable[..., None]
) -> None:
    """With stale values allowed they answer for the undecided, and never for the decided."""
    settings.POSTHOG_STALE_IF_ERROR_SECONDS = 86_400
    settings.POSTHOG_LOCAL_CACHE_SECONDS = 0
    settings.CACHES = {
        **settings.CACHES,
        "durable": {**settings.CACHES["durable"], "TIMEOUT": 0},
    }
    defined(flag("hard", ensure_experience_continuity=True), flag("easy"))
    enabled.flags = {"hard": "test", "easy": False}
    assert evaluate("u1").source is Source.POSTHOG
    settle()
    enabled.flags_fault = Status(500)

    snapshot = evaluate("u1")

    assert (snapshot.source, snapshot.flags) == (Source.STALE, {"hard": "test", "easy": True})


# ---- what PostHog is told


def test_events_say_who_decided(enabled: PostHogServer, defined: Callable[..., None]) -> None:
    """`locally_evaluated` is said of each flag, and a request only of those that needed one."""
    defined(flag("easy", id=7, version=3), flag("hard", ensure_experience_continuity=True))
    enabled.flags = {"hard": Flag(True, id=8, version=4), "easy": True}

    is_enabled("easy", opt_unique_id="u1")
    is_enabled("hard", opt_unique_id="u1")

    properties = {
        event["properties"]["$feature_flag"]: event["properties"] for event in delivered(enabled)
    }
    snapshot = evaluate("u1")
    assert snapshot.evaluation is not None
    assert properties["easy"]["locally_evaluated"] is True
    assert properties["easy"]["$feature_flag_id"] == 7
    assert properties["easy"]["$feature_flag_version"] == 3
    assert "$feature_flag_request_id" not in properties["easy"]
    assert properties["hard"]["locally_evaluated"] is False
    assert properties["hard"]["$feature_flag_id"] == 8
    assert properties["hard"]["$feature_flag_request_id"] == snapshot.evaluation.request_id


@pytest.mark.parametrize("has_experiment", [True, False, None, "false", 0])
def test_events_say_whether_there_is_an_experiment(
    enabled: PostHogServer, defined: Callable[..., None], has_experiment: object
) -> None:
    """What a definition says is reported; nothing is, where it says neither yes nor no."""
    defined(flag("easy", has_experiment=has_experiment))

    is_enabled("easy", opt_unique_id="u1")

    (event,) = delivered(enabled)
    said = event["properties"].get("$feature_flag_has_experiment")
    assert said is (has_experiment if isinstance(has_experiment, bool) else None)


@pytest.mark.parametrize("asked", ["definitions", "reply"])
def test_each_decision_has_the_form_its_source_asked_for(
    enabled: PostHogServer, defined: Callable[..., None], asked: str
) -> None:
    """Minimised is the event of a flag whose definitions, or whose reply, asked for it."""
    defined(
        flag("easy", has_experiment=False),
        flag("hard", ensure_experience_continuity=True),
        minimal_flag_called_events=asked == "definitions",
    )
    enabled.minimal_flag_called_events = asked == "reply"
    enabled.flags = {"hard": True}

    is_enabled("easy", opt_unique_id="u1")
    is_enabled("hard", opt_unique_id="u1")

    sent = [event["properties"] for event in delivered(enabled)]
    is_full = {one["$feature_flag"]: f"$feature/{one['$feature_flag']}" in one for one in sent}
    assert is_full == {"easy": asked == "reply", "hard": asked == "definitions"}


@pytest.mark.parametrize("asked", [False, None, "true", 1])
def test_definitions_that_do_not_ask_for_minimised_events(
    enabled: PostHogServer, defined: Callable[..., None], asked: object
) -> None:
    """Only `true` asks for them."""
    defined(flag("easy", has_experiment=False), minimal_flag_called_events=asked)

    is_enabled("easy", opt_unique_id="u1")

    (event,) = delivered(enabled)
    assert event["properties"]["$feature/easy"] is True


def test_locally_decided_flag_has_no_request(
    enabled: PostHogServer, defined: Callable[..., None]
) -> None:
    """A local event names neither a request nor its time, nor a rule, and is no assignment."""
    defined(flag("easy"), flag("hard", ensure_experience_continuity=True))
    enabled.flags = {"hard": True}
    evaluate("u1")

    is_enabled("easy", opt_unique_id="u1")

    (event,) = delivered(enabled)
    remote = ("request_id", "evaluated_at", "config_version", "reason_code", "rule_id")
    assert not {f"$feature_flag_{name}" for name in remote} & event["properties"].keys()
    assert event["properties"]["$feature_flag_reason"] == "Evaluated locally"


def test_local_evaluation_sends_no_event_of_its_own(
    enabled: PostHogServer, defined: Callable[..., None]
) -> None:
    """Evaluating is no exposure, for this library or for the SDK inside it."""
    defined(flag("easy"))
    evaluate("u1")
    get_all_feature_flags("u1")

    assert delivered(enabled) == []
    assert _posthog.client() is not None


# ---- what browsers get


@pytest.mark.parametrize("outage", [False, True], ids=["in health", "in an outage"])
def test_server_only_fallback_is_withheld(
    enabled: PostHogServer, settings: Settings, defined: Callable[..., None], outage: bool
) -> None:
    """A key of FEATURES that the definitions call server-only reaches no browser, ever."""
    settings.FEATURES = {"secret": True, "open": True}
    hard = flag("hard", ensure_experience_continuity=True)
    defined(flag("secret", where(PLAN), evaluation_runtime="server"), hard)
    if outage:
        enabled.fault = Refuse()

    browsers = evaluate("u1", runtime=Runtime.CLIENT)

    assert browsers.source is (Source.FALLBACK if outage else Source.POSTHOG)
    assert browsers.flags == {"open": True}
    assert evaluate("u1").flags["secret"] is True


def test_server_only_fallback_is_withheld_by_a_new_process(
    enabled: PostHogServer, settings: Settings, defined: Callable[..., None]
) -> None:
    """A process that starts in an outage knows from the shared definitions what to withhold."""
    settings.FEATURES = {"secret": True, "open": True}
    hard = flag("hard", ensure_experience_continuity=True)
    defined(flag("secret", evaluation_runtime="server"), hard)
    engine.reset()
    enabled.fault = Refuse()

    assert evaluate("u1", runtime=Runtime.CLIENT).flags == {"open": True}
