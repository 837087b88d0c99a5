"""The order of sources: which one answers, what it costs PostHog, and that a caller never waits."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any

import pytest
from django.core.cache import caches
from django.core.cache.backends.locmem import LocMemCache
from pytest_django import Settings

from olposthog import conf
from olposthog._core import engine
from olposthog._core.context import EvaluationContext
from olposthog._core.engine import Engine
from olposthog._shared.breaker import Record, State
from olposthog._shared.shared_cache import READ_SECONDS, STARTUP_SECONDS
from olposthog.features import (
    ais_enabled,
    clear_cache,
    evaluate,
    get_all_feature_flags,
    get_feature_flag,
    is_enabled,
)
from olposthog.identity import Identity
from olposthog.snapshot import Runtime, Source
from tests.posthog_faults import (
    Body,
    CutShort,
    Delay,
    Fault,
    HalfOpen,
    Hang,
    Html,
    Quota,
    Redirect,
    Refuse,
    Reset,
    Status,
    TrickleBody,
    TrickleHeaders,
)
from tests.posthog_server import PATIENCE, Flag, PostHogServer, Variant
from tests.site.processes import until

LOG = "olposthog"


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def start_on(clock: Clock) -> Engine:
    """Let this process begin again, by the test's clock."""
    engine.reset()
    engine._current = Engine(conf.current(), clock=clock, wall=clock)
    return engine._current


def settle() -> None:
    """Wait for the writes to the shared cache and for what they tell; nobody else waits."""
    assert engine.current().shared.settle(10)
    engine.current()._storage._teller.submit(lambda: None).result(10)


def circuit() -> State:
    return engine.current().breaker.state


def fail_times(posthog: PostHogServer, count: int) -> None:
    """Let so many evaluations fail, each for another person."""
    before = posthog.fault
    posthog.fault = Status(500)
    for number in range(count):
        evaluate(f"unlucky-{number}")
    posthog.fault = before


# ---- the order of sources


def test_posthog_answers_first_question(enabled: PostHogServer) -> None:
    """With nothing cached, PostHog is asked, once."""
    enabled.flags = {"beta": True, "checkout": Variant("test", payload={"colour": "green"})}

    snapshot = evaluate("u1")

    assert snapshot.source is Source.POSTHOG
    assert snapshot.flags == {"beta": True, "checkout": "test"}
    assert snapshot.payloads == {"checkout": {"colour": "green"}}
    assert snapshot.reasons == {"beta": "condition_match", "checkout": "condition_match"}
    assert [call["distinct_id"] for call in enabled.flag_calls] == ["u1"]


def test_process_cache_answers_next_questions(enabled: PostHogServer) -> None:
    """Every function for the same person is answered by the one evaluation in the process."""
    enabled.flags = {"beta": True}
    first = evaluate("u1")
    enabled.flags = {}

    assert is_enabled("beta", opt_unique_id="u1") is True
    assert get_feature_flag("beta", opt_unique_id="u1") is True
    assert get_all_feature_flags("u1") == {"beta": True}
    assert evaluate("u1") is first
    assert len(enabled.flag_calls) == 1


def test_process_cache_forgets_after_its_seconds(
    enabled: PostHogServer, settings: Settings
) -> None:
    """After POSTHOG_LOCAL_CACHE_SECONDS the shared cache is looked at again."""
    settings.POSTHOG_LOCAL_CACHE_SECONDS = 5
    clock = Clock()
    start_on(clock)
    first = evaluate("u1")
    settle()

    clock.now += 4.9
    within = evaluate("u1")
    clock.now += 0.2
    after = evaluate("u1")

    assert within is first
    assert after is not first
    assert after.evaluated_at == first.evaluated_at
    assert len(enabled.flag_calls) == 1


def test_process_cache_is_bounded(enabled: PostHogServer, settings: Settings) -> None:
    """A process remembers no more than POSTHOG_LOCAL_CACHE_MAX_ENTRIES people."""
    settings.POSTHOG_LOCAL_CACHE_MAX_ENTRIES = 3

    for number in range(5):
        evaluate(f"u{number}")

    assert len(engine.current().memory) == 3


def test_shared_cache_serves_another_process(
    enabled: PostHogServer, another_process: Callable[[], None]
) -> None:
    """What one process asked PostHog for, another one finds in the shared cache."""
    enabled.flags = {"beta": True, "checkout": Variant("test", payload=[1, None, "x"])}
    first = evaluate("u1")
    settle()

    another_process()
    enabled.fault = Refuse()
    found = evaluate("u1")

    assert found.source is Source.POSTHOG
    assert found.flags == first.flags
    assert found.payloads == first.payloads
    assert found.reasons == first.reasons
    assert found.evaluated_at == first.evaluated_at
    assert found.evaluation == first.evaluation
    assert len(enabled.flag_calls) == 1


def test_shared_entry_is_not_another_persons(
    enabled: PostHogServer, another_process: Callable[[], None]
) -> None:
    """Person, properties, groups and runtime each tell entries of the shared cache apart."""
    evaluate("u1")
    settle()
    another_process()

    evaluate("u2")
    evaluate("u1", person_properties={"plan": "pro"})
    evaluate("u1", groups={"company": "acme"})
    evaluate("u1", runtime=Runtime.CLIENT)

    assert len(enabled.flag_calls) == 5


def test_shared_entry_of_another_environment_is_not_used(
    enabled: PostHogServer, settings: Settings
) -> None:
    """ENVIRONMENT is a person property, so two environments share no entries."""
    evaluate("u1")
    settle()

    settings.ENVIRONMENT = "production"
    evaluate("u1")

    assert [call["person_properties"]["environment"] for call in enabled.flag_calls] == [
        "tests",
        "production",
    ]


def test_shared_entry_is_fresh_for_the_timeout_of_its_alias(
    enabled: PostHogServer, settings: Settings
) -> None:
    """The alias's TIMEOUT says how long an entry answers, whatever the cache still holds."""
    settings.CACHES = {
        **settings.CACHES,
        "durable": {**settings.CACHES["durable"], "TIMEOUT": 100},
    }
    clock = Clock()
    start_on(clock)
    evaluate("u1")
    settle()

    clock.now += 99
    evaluate("u1")
    assert len(enabled.flag_calls) == 1
    clock.now += 6
    evaluate("u1")
    assert len(enabled.flag_calls) == 2


def test_garbage_in_the_shared_cache_is_a_miss(
    enabled: PostHogServer, another_process: Callable[[], None]
) -> None:
    """An entry that is not as this version writes it is asked for anew."""
    evaluate("u1")
    settle()
    store: dict[str, Any] = caches["durable"]._cache  # type: ignore[attr-defined]  # LocMemCache's
    entries = [key.split(":", 2)[2] for key in store if ":entry:" in key]
    assert len(entries) == 1

    for number, garbage in enumerate(["", "[]", "{}", '{"generation": 1}', "\x00", None, 7], 2):
        caches["durable"].set(entries[0], garbage)
        another_process()
        assert evaluate("u1").source is Source.POSTHOG
        assert len(enabled.flag_calls) == number
        settle()


def test_keys_and_ids_are_in_no_shared_key(enabled: PostHogServer) -> None:
    """No person, property or project key can be read off the shared cache's keys."""
    evaluate("alice@example.com", person_properties={"plan": "secretplan"})
    settle()

    store: dict[str, Any] = caches["durable"]._cache  # type: ignore[attr-defined]  # LocMemCache's
    keys = " ".join(store)
    assert ":entry:" in keys
    for secret in ("alice", "secretplan", enabled.token):
        assert secret not in keys


def test_one_shared_write_per_evaluation(enabled: PostHogServer) -> None:
    """A person with a hundred flags is one entry of the shared cache."""
    enabled.flags = {f"flag-{number}": True for number in range(100)}
    evaluate("u1")
    settle()

    store: dict[str, Any] = caches["durable"]._cache  # type: ignore[attr-defined]  # LocMemCache's
    assert len([key for key in store if ":entry:" in key]) == 1


def test_without_a_shared_cache_posthog_answers(
    enabled: PostHogServer, settings: Settings, another_process: Callable[[], None]
) -> None:
    """A site without the alias is served all the same; its processes share nothing."""
    settings.CACHES = {"default": settings.CACHES["default"]}

    assert evaluate("u1").source is Source.POSTHOG
    another_process()
    assert evaluate("u1").source is Source.POSTHOG
    assert len(enabled.flag_calls) == 2


def test_settings_with_a_problem_ask_nobody(
    enabled: PostHogServer, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """Half a configuration is no base for a request: FEATURES answers, and the log says why."""
    settings.POSTHOG_API_HOST = ""
    settings.FEATURES = {"beta": True}

    snapshot = evaluate("u1")

    assert (snapshot.source, snapshot.flags) == (Source.FALLBACK, {"beta": True})
    assert caplog.text.count("POSTHOG_API_HOST is required") == 1
    assert enabled.requests == []


def test_no_flags_is_an_answer(enabled: PostHogServer, settings: Settings) -> None:
    """A project without flags is healthy: its empty answer is PostHog's, and it is kept."""
    settings.FEATURES = {"beta": True}
    enabled.flags = {}

    snapshot = evaluate("u1")
    evaluate("u1")

    assert snapshot.source is Source.POSTHOG
    assert snapshot.flags == {"beta": True}
    assert len(enabled.flag_calls) == 1


# ---- no stampede


def test_fifty_threads_share_one_request(enabled: PostHogServer) -> None:
    """Fifty cold callers for one person cost one request and get one answer."""
    enabled.flags = {"beta": True}
    ready = threading.Barrier(50)

    def ask() -> object:
        ready.wait(10)
        return evaluate("u1")

    with ThreadPoolExecutor(50) as pool:
        with enabled.gate():
            asked = [pool.submit(ask) for _ in range(50)]
            enabled.wait_for_flag_calls(1)
        answers = {id(answer.result()) for answer in asked}

    assert len(answers) == 1
    assert len(enabled.flag_calls) == 1
    assert evaluate("u1").source is Source.POSTHOG


def test_fifty_threads_share_one_failure(enabled: PostHogServer, settings: Settings) -> None:
    """In an outage fifty cold callers for one person cost one request too."""
    settings.FEATURES = {"beta": True}
    enabled.fault = Status(500)

    with ThreadPoolExecutor(50) as pool:
        with enabled.gate():
            asked = [pool.submit(is_enabled, "beta", None, "u1") for _ in range(50)]
            enabled.wait_for_flag_calls(1)
        answers = [answer.result() for answer in asked]

    assert answers == [True] * 50
    assert len(enabled.flag_calls) == 1


def test_nobody_waits_for_the_trip_threshold_to_the_end() -> None:
    """A flight lands, and its callers give up, before the time that was promised."""
    evaluator = engine.current()

    assert evaluator.evaluation_seconds < evaluator.wait_seconds
    assert evaluator.wait_seconds < evaluator.settings.trip_threshold_seconds


def test_more_callers_than_can_wait_are_answered_at_once(
    enabled: PostHogServer, settings: Settings
) -> None:
    """Whoever finds the ground full gets the fallback, and does not wait."""
    settings.FEATURES = {"beta": True}
    evaluator = engine.current()
    with every_flight_taken():
        evaluator._workers._backlog = 1
        waiting = evaluator.start(query("first"), None)
        assert evaluator.start(query("second"), None).result(0).source is Source.FALLBACK
        assert not waiting.done()


def test_an_unforeseen_error_is_a_fallback(
    enabled: PostHogServer,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever goes wrong on the way, the caller gets FEATURES, and the log gets the traceback."""
    settings.FEATURES = {"beta": True}
    monkeypatch.setattr(engine.current()._evaluations, "read", lambda *_: 1 / 0)

    assert evaluate("u1").flags == {"beta": True}
    assert "ZeroDivisionError" in caplog.text


def test_an_answer_that_has_landed_is_not_given_up(enabled: PostHogServer) -> None:
    """A caller who looks too late, as after a blocked event loop, still gets PostHog's answer."""
    enabled.flags = {"beta": True}
    evaluate("u1")

    assert engine.current().give_up(query("u1")).source is Source.POSTHOG


def test_retries_heed_what_other_processes_found_out(
    enabled: PostHogServer, settings: Settings, another_process: Callable[[], None]
) -> None:
    """Before a retry the fleet's state is read again: an opening elsewhere ends the trying."""
    settings.POSTHOG_CIRCUIT_BREAKER_FAILURE_THRESHOLD = 1
    fail_times(enabled, 1)
    settle()
    opening = caches["durable"].get(engine.current()._storage.state_key)
    caches["durable"].clear()
    another_process()
    enabled.flags_fault = Status(502)

    with ThreadPoolExecutor(1) as pool:
        with enabled.gate():
            asked = pool.submit(evaluate, "u1")
            enabled.wait_for_flag_calls(2)
            settle()
            caches["durable"].set(engine.current()._storage.state_key, opening)
        assert asked.result().source is Source.FALLBACK

    assert len(enabled.flag_calls) == 2


def test_different_people_fly_separately(enabled: PostHogServer) -> None:
    """One person's flight does not hold up another one's."""
    with ThreadPoolExecutor(3) as pool:
        with enabled.gate():
            asked = [pool.submit(evaluate, person) for person in ("u1", "u2", "u3")]
            calls = enabled.wait_for_flag_calls(3)
        assert {call["distinct_id"] for call in calls} == {"u1", "u2", "u3"}
        assert [one.result().distinct_id for one in asked] == ["u1", "u2", "u3"]


def test_more_people_than_flights_are_all_answered(enabled: PostHogServer) -> None:
    """People beyond the bound on concurrent flights wait their turn and get PostHog's answer."""
    enabled.flags = {"beta": True}
    people = [f"u{number}" for number in range(engine.MAX_EVALUATIONS * 3)]

    with ThreadPoolExecutor(len(people)) as pool:
        answers = list(pool.map(evaluate, people))

    assert {answer.source for answer in answers} == {Source.POSTHOG}
    assert [answer.distinct_id for answer in answers] == people
    assert len(enabled.flag_calls) == len(people)


@contextmanager
def every_flight_taken() -> Iterator[None]:
    """Until the block ends, who boards a flight waits on the ground."""
    everyone_waits = threading.Barrier(engine.MAX_EVALUATIONS + 1)
    takeoff = threading.Event()

    def occupy() -> Any:
        everyone_waits.wait(10)
        takeoff.wait()  # a caller who waits for a flight without a limit waits for ever

    for number in range(engine.MAX_EVALUATIONS):
        engine.current()._evaluations_under_way.join(number, occupy)
    everyone_waits.wait(10)
    try:
        yield
    finally:
        takeoff.set()


def test_own_congestion_is_no_failure_of_posthog(
    enabled: PostHogServer, settings: Settings
) -> None:
    """A flight that starts after its deadline asks nobody, and is no vote against PostHog."""
    settings.POSTHOG_CIRCUIT_BREAKER_FAILURE_THRESHOLD = 1
    settings.POSTHOG_CIRCUIT_BREAKER_TRIP_THRESHOLD_SECONDS = 0.5
    settings.POSTHOG_LOCAL_CACHE_SECONDS = 0

    with every_flight_taken():
        assert evaluate("late").source is Source.FALLBACK
    engine.current().start(query("late"), None).result(10)
    evaluate("known")

    assert circuit() is State.CLOSED
    assert "known" in [call["distinct_id"] for call in enabled.flag_calls]


def test_one_wait_per_person(enabled: PostHogServer, settings: Settings) -> None:
    """Who waited in vain is remembered: thirty checks in one request wait once."""
    settings.POSTHOG_CIRCUIT_BREAKER_TRIP_THRESHOLD_SECONDS = 0.3

    with every_flight_taken():
        first = evaluate("u1")
        assert all(evaluate("u1") is first for _ in range(30))

    assert first.source is Source.FALLBACK
    assert enabled.flag_calls == []


def test_cancelled_task_leaves_a_waiting_flight_to_others(enabled: PostHogServer) -> None:
    """A flight that has not begun is not called off for those who still wait for it."""
    enabled.flags = {"beta": True}

    async def ask() -> bool:
        with every_flight_taken():
            tasks = [asyncio.create_task(ais_enabled("beta", None, "u1")) for _ in range(2)]
            await asyncio.wait(tasks, timeout=0.01)
            tasks[0].cancel()
            await asyncio.wait(tasks[:1])
        assert tasks[0].cancelled()
        return await tasks[1]

    assert asyncio.run(ask()) is True


# ---- whatever PostHog does

SLOW_FAULTS = [
    pytest.param(Hang(), id="hang"),
    pytest.param(Delay(30), id="delay"),
    pytest.param(TrickleHeaders(interval=0.1), id="trickling headers"),
    pytest.param(TrickleBody(interval=0.1), id="trickling body"),
]
PROMPT_FAULTS = [
    pytest.param(Refuse(), id="refuse"),
    pytest.param(Reset(), id="reset"),
    *(pytest.param(Status(code), id=str(code)) for code in (401, 402, 403, 404, 429)),
    *(pytest.param(Status(code), id=str(code)) for code in (500, 502, 503, 504)),
    pytest.param(Status(429, retry_after=3600), id="429 with Retry-After"),
    pytest.param(Quota(), id="quota"),
    pytest.param(Html(), id="html"),
    pytest.param(Body(b"[]"), id="[]"),
    pytest.param(Body(b"{}"), id="{}"),
    pytest.param(Body(b""), id="empty body"),
    pytest.param(Body(b"null"), id="null"),
    pytest.param(Body(b"\xff\xfe\x00"), id="no text"),
    pytest.param(Body(b"[" * 200_000), id="nested without end"),
    pytest.param(CutShort(), id="cut short"),
    pytest.param(Body(b'{"flags": {}, "requestId": "x"}', content_length=10**6), id="too short"),
    *(pytest.param(Redirect(code), id=f"redirect {code}") for code in (301, 302, 303, 307, 308)),
]
CALLERS_FAULTS = [pytest.param(Status(code), id=str(code)) for code in (400, 413)]


@pytest.fixture
def fallback(settings: Settings) -> Settings:
    """A site with fallback values, whose circuit opens on the first failure that counts."""
    settings.FEATURES = {"beta": True, "checkout": "control"}
    settings.POSTHOG_CIRCUIT_BREAKER_FAILURE_THRESHOLD = 1
    settings.POSTHOG_MAX_RETRIES = 0
    return settings


def assert_features_answer(person: str) -> None:
    """Every public function answers from FEATURES, and none raises."""
    snapshot = evaluate(person)
    assert snapshot.source is Source.FALLBACK
    assert snapshot.flags == {"beta": True, "checkout": "control"}
    assert is_enabled("beta", opt_unique_id=person) is True
    assert is_enabled("unknown", opt_unique_id=person) is False
    assert get_feature_flag("checkout", opt_unique_id=person) == "control"
    assert get_all_feature_flags(person) == {"beta": True, "checkout": "control"}


@pytest.mark.parametrize("fault", SLOW_FAULTS)
def test_slow_posthog_is_given_up(enabled: PostHogServer, fallback: Settings, fault: Fault) -> None:
    """Whatever PostHog does that takes too long, FEATURES answers and the circuit opens."""
    fallback.POSTHOG_CIRCUIT_BREAKER_TRIP_THRESHOLD_SECONDS = 0.3
    enabled.flags = {"beta": False}
    enabled.fault = fault

    assert_features_answer("u1")

    assert len(enabled.flag_calls) == 1
    engine.current().start(query("u1"), None).result(10)
    assert circuit() is State.OPEN


def query(person: str) -> EvaluationContext:
    return EvaluationContext.of(Identity(person), Runtime.SERVER)


def test_half_open_tls_is_given_up(enabled: PostHogServer, fallback: Settings) -> None:
    """A port that accepts and never shakes hands is given up like any other hang."""
    fallback.POSTHOG_CIRCUIT_BREAKER_TRIP_THRESHOLD_SECONDS = 0.3
    fallback.POSTHOG_API_HOST = enabled.url.replace("http://", "https://")
    enabled.fault = HalfOpen()

    assert_features_answer("u1")

    assert enabled.requests == []
    engine.current().start(query("u1"), None).result(10)
    assert circuit() is State.OPEN


@pytest.mark.parametrize("fault", PROMPT_FAULTS)
def test_failing_posthog_counts(enabled: PostHogServer, fallback: Settings, fault: Fault) -> None:
    """FEATURES answers for a PostHog that fails, and the failure counts for the breaker."""
    enabled.flags = {"beta": False}
    enabled.fault = fault

    assert_features_answer("u1")

    assert circuit() is State.OPEN


@pytest.mark.parametrize("fault", CALLERS_FAULTS)
def test_refused_question_does_not_count(
    enabled: PostHogServer, fallback: Settings, fault: Fault
) -> None:
    """FEATURES answers for a question that PostHog cannot take, and PostHog counts as well."""
    enabled.fault = fault

    assert_features_answer("u1")
    assert_features_answer("u2")

    assert circuit() is State.CLOSED
    assert len(enabled.flag_calls) == 2


def test_unknown_host_is_survived(enabled: PostHogServer, fallback: Settings) -> None:
    """A name that does not resolve is a failure like any other."""
    fallback.POSTHOG_CIRCUIT_BREAKER_TRIP_THRESHOLD_SECONDS = 1
    fallback.POSTHOG_API_HOST = "http://posthog.invalid"

    assert_features_answer("u1")


@pytest.mark.parametrize("fault", [Status(500), Refuse(), Html()], ids=str)
def test_thirty_checks_cost_one_failure(
    enabled: PostHogServer, settings: Settings, fault: Fault
) -> None:
    """A failed evaluation is remembered: thirty checks in one request ask PostHog once."""
    settings.POSTHOG_CIRCUIT_BREAKER_FAILURE_THRESHOLD = 2
    settings.FEATURES = {f"flag-{number}": True for number in range(30)}
    enabled.fault = fault

    assert all(is_enabled(f"flag-{number}", opt_unique_id="u1") for number in range(30))

    assert len(enabled.flag_calls) == (0 if isinstance(fault, Refuse) else 1)
    assert circuit() is State.CLOSED  # a second failure would have opened it


def test_failure_is_remembered_for_seconds_only(enabled: PostHogServer, settings: Settings) -> None:
    """After POSTHOG_LOCAL_CACHE_SECONDS a failed evaluation is tried again."""
    settings.POSTHOG_LOCAL_CACHE_SECONDS = 5
    clock = Clock()
    start_on(clock)
    enabled.flags = {"beta": True}
    enabled.fault = Status(500, times=1)

    assert evaluate("u1").source is Source.FALLBACK
    clock.now += 5.1
    assert evaluate("u1").source is Source.POSTHOG


def test_failure_is_never_shared(
    enabled: PostHogServer, settings: Settings, another_process: Callable[[], None]
) -> None:
    """What one process failed to get, another one asks PostHog for."""
    settings.FEATURES = {"beta": False}
    enabled.flags = {"beta": True}
    enabled.fault = Status(500)
    assert evaluate("u1").source is Source.FALLBACK
    settle()
    store: dict[str, Any] = caches["durable"]._cache  # type: ignore[attr-defined]  # LocMemCache's
    assert not [key for key in store if ":entry:" in key]

    another_process()
    enabled.heal()

    assert evaluate("u1").source is Source.POSTHOG
    assert is_enabled("beta", opt_unique_id="u1") is True


def test_late_answer_is_not_lost(enabled: PostHogServer, settings: Settings) -> None:
    """After a timeout the same question is answered by FEATURES, not by another request."""
    settings.POSTHOG_CIRCUIT_BREAKER_TRIP_THRESHOLD_SECONDS = 0.3
    settings.POSTHOG_CIRCUIT_BREAKER_FAILURE_THRESHOLD = 100
    enabled.fault = Hang()

    for _ in range(5):
        assert evaluate("u1").source is Source.FALLBACK

    assert len(enabled.flag_calls) == 1


# ---- partial answers


def test_failed_flags_fall_back_one_by_one(enabled: PostHogServer, settings: Settings) -> None:
    """A flag that PostHog could not compute has FEATURES' value, the others PostHog's."""
    settings.FEATURES = {"broken": True, "sound": False}
    enabled.flags = {"broken": Flag(failed=True), "sound": True, "unheard-of": Flag(failed=True)}

    snapshot = evaluate("u1")

    assert snapshot.source is Source.POSTHOG
    assert snapshot.flags == {"broken": True, "sound": True}
    assert "broken" not in snapshot.reasons
    assert is_enabled("unheard-of", True, "u1") is True


def test_errors_while_computing_keep_what_was_computed(
    enabled: PostHogServer, settings: Settings
) -> None:
    """An answer with errors is used for the flags it has; FEATURES fills the gaps."""
    settings.FEATURES = {"missing": True, "sound": True}
    enabled.flags = {"sound": False}
    enabled.errors_while_computing_flags = True

    assert evaluate("u1").flags == {"missing": True, "sound": False}
    assert circuit() is State.CLOSED


# ---- the circuit breaker, through the API


def test_failures_in_a_row_open_the_circuit(enabled: PostHogServer, settings: Settings) -> None:
    """After FAILURE_THRESHOLD failures no request leaves, and FEATURES answers."""
    settings.POSTHOG_CIRCUIT_BREAKER_FAILURE_THRESHOLD = 3
    settings.FEATURES = {"beta": True}
    enabled.fault = Status(500)

    for number in range(10):
        assert is_enabled("beta", opt_unique_id=f"u{number}") is True

    assert circuit() is State.OPEN
    assert len(enabled.flag_calls) == 3


def test_success_breaks_the_row(enabled: PostHogServer, settings: Settings) -> None:
    """Only failures without a success between them open the circuit."""
    settings.POSTHOG_CIRCUIT_BREAKER_FAILURE_THRESHOLD = 3

    for _ in range(3):
        fail_times(enabled, 2)
        clear_cache()
        assert evaluate("lucky").source is Source.POSTHOG

    assert circuit() is State.CLOSED


def test_one_hang_opens_the_circuit(enabled: PostHogServer, settings: Settings) -> None:
    """One call as long as the trip threshold is enough; then no request leaves."""
    settings.POSTHOG_CIRCUIT_BREAKER_TRIP_THRESHOLD_SECONDS = 1
    settings.POSTHOG_CIRCUIT_BREAKER_FAILURE_THRESHOLD = 100
    enabled.fault = Hang()

    evaluate("u1")
    engine.current().start(query("u1"), None).result(10)

    assert circuit() is State.OPEN
    enabled.heal()
    assert evaluate("u2").source is Source.FALLBACK
    assert len(enabled.flag_calls) == 1


def test_open_circuit_still_serves_what_is_cached(
    enabled: PostHogServer, settings: Settings, another_process: Callable[[], None]
) -> None:
    """An open circuit stops requests, not answers: both caches go on serving."""
    settings.POSTHOG_CIRCUIT_BREAKER_FAILURE_THRESHOLD = 1
    enabled.flags = {"beta": True}
    evaluate("known")
    fail_times(enabled, 1)
    settle()
    assert circuit() is State.OPEN

    assert evaluate("known").source is Source.POSTHOG
    another_process()
    assert evaluate("known").source is Source.POSTHOG


def test_other_processes_learn_of_an_opening(
    enabled: PostHogServer, settings: Settings, another_process: Callable[[], None]
) -> None:
    """A process that starts while the circuit is open calls PostHog not once."""
    settings.POSTHOG_CIRCUIT_BREAKER_FAILURE_THRESHOLD = 1
    fail_times(enabled, 1)
    settle()
    enabled.clear()

    another_process()

    assert evaluate("u1").source is Source.FALLBACK
    assert circuit() is State.OPEN
    assert enabled.flag_calls == []


def test_one_probe_among_many_threads(enabled: PostHogServer, settings: Settings) -> None:
    """After the cooldown one call probes; the others fall back at once, until it succeeds."""
    settings.POSTHOG_CIRCUIT_BREAKER_FAILURE_THRESHOLD = 1
    settings.POSTHOG_CIRCUIT_BREAKER_COOLDOWN_SECONDS = 60
    clock = Clock()
    start_on(clock)
    fail_times(enabled, 1)
    enabled.clear()

    clock.now += 59.9
    assert evaluate("early").source is Source.FALLBACK
    assert enabled.flag_calls == []

    clock.now += 0.2
    with ThreadPoolExecutor(20) as pool:
        with enabled.gate():
            asked = as_completed([pool.submit(evaluate, f"u{number}") for number in range(20)])
            others = [next(asked).result().source for _ in range(19)]
            enabled.wait_for_flag_calls(1)
            assert len(enabled.flag_calls) == 1
        probe = next(asked).result()

    assert others == [Source.FALLBACK] * 19
    assert probe.source is Source.POSTHOG
    assert circuit() is State.CLOSED
    assert evaluate("later").source is Source.POSTHOG


def test_failed_probe_opens_for_another_cooldown(
    enabled: PostHogServer, settings: Settings
) -> None:
    """A probe that fails costs one request per cooldown, no more."""
    settings.POSTHOG_CIRCUIT_BREAKER_FAILURE_THRESHOLD = 3
    settings.POSTHOG_CIRCUIT_BREAKER_COOLDOWN_SECONDS = 60
    clock = Clock()
    start_on(clock)
    fail_times(enabled, 3)
    enabled.clear()
    enabled.fault = Status(500)

    for second in range(181):
        evaluate(f"u{second}")
        settle()
        clock.now += 1

    assert circuit() in {State.OPEN, State.HALF_OPEN}
    assert len(enabled.flag_calls) == 3


def test_outdated_read_does_not_undo_an_opening(enabled: PostHogServer, settings: Settings) -> None:
    """A state that was read before this process replaced it is no news when it arrives after."""
    settings.POSTHOG_CIRCUIT_BREAKER_FAILURE_THRESHOLD = 1
    evaluator = engine.current()
    evaluate("u1")
    settle()
    closed = caches["durable"].get(evaluator._storage.state_key)
    assert closed is not None

    fail_times(enabled, 1)
    evaluator.breaker.mirror(closed)

    assert circuit() is State.OPEN


def test_short_cooldown_on_the_real_clock(enabled: PostHogServer, settings: Settings) -> None:
    """The cooldown setting is obeyed by the clocks that production uses."""
    settings.POSTHOG_CIRCUIT_BREAKER_FAILURE_THRESHOLD = 1
    settings.POSTHOG_CIRCUIT_BREAKER_COOLDOWN_SECONDS = 0.001
    enabled.flags = {"beta": True}

    fail_times(enabled, 1)
    answers = (evaluate(f"u{number}").source for number in range(10_000))

    assert Source.POSTHOG in answers
    assert circuit() is State.CLOSED


def test_each_change_of_the_circuit_is_logged_once(
    enabled: PostHogServer, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """An outage costs a line when the circuit opens and a line when it closes."""
    caplog.set_level(logging.WARNING, LOG)
    settings.POSTHOG_CIRCUIT_BREAKER_FAILURE_THRESHOLD = 2
    clock = Clock()
    start_on(clock)
    fail_times(enabled, 20)
    settle()
    clock.now += 61
    assert evaluate("probe").source is Source.POSTHOG
    settle()

    lines = [record.getMessage() for record in caplog.records]
    assert len([line for line in lines if "circuit is open (2 failures: HTTP 500)" in line]) == 1
    assert len([line for line in lines if "circuit is closed" in line]) == 1
    assert len(lines) == 3  # and one that says that PostHog gave no flags


def test_logs_name_no_person_and_no_key(
    enabled: PostHogServer, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """No log line above DEBUG holds an id, a property or the project's key."""
    caplog.set_level(logging.INFO)
    settings.POSTHOG_MAX_RETRIES = 0
    settings.POSTHOG_CIRCUIT_BREAKER_FAILURE_THRESHOLD = 100
    for fault in (Status(500), Html(), Quota(), Reset(), Refuse(), Status(401)):
        enabled.fault = fault
        evaluate("alice@example.com", person_properties={"fault": "secretplan" + str(fault)})
        engine.reset()

    assert "PostHog gave no flags" in caplog.text
    for secret in ("alice", "secretplan", enabled.token):
        assert secret not in caplog.text


# ---- a shared cache that is down


class BrokenCache(LocMemCache):
    """A cache whose server is gone."""

    def get(self, *args: Any, **kwargs: Any) -> Any:
        raise ConnectionError("the cache is gone")

    get_many = add = set = set_many = delete = get


class HangingCache(LocMemCache):
    """A cache whose server takes connections and says nothing."""

    released = threading.Event()

    def get(self, *args: Any, **kwargs: Any) -> Any:
        self.released.wait(60)
        raise TimeoutError

    get_many = add = set = set_many = delete = get


@pytest.fixture(params=[BrokenCache, HangingCache], ids=lambda backend: str(backend.__name__))
def dead_cache(request: pytest.FixtureRequest, settings: Settings) -> Iterator[str]:
    """The shared cache raises or hangs at every touch; the value is a pattern of what is logged."""
    backend = request.param
    HangingCache.released.clear()
    settings.CACHES = {
        **settings.CACHES,
        "durable": {"BACKEND": f"{__name__}.{backend.__name__}", "LOCATION": "dead"},
    }
    settings.POSTHOG_CIRCUIT_BREAKER_TRIP_THRESHOLD_SECONDS = 2
    yield "ConnectionError" if backend is BrokenCache else r"no answer within 0\.\d+ s"
    HangingCache.released.set()
    engine.reset()
    del settings.CACHES


def give_up_cache() -> Clock:
    """Start a process that has found out by now that a dead cache is dead."""
    clock = Clock()
    start_on(clock)
    evaluate("first")
    clock.now += STARTUP_SECONDS
    assert engine.current().shared.get_many(["key"], PATIENCE) is None
    assert engine.current().shared.is_away
    return clock


def test_cache_that_hangs_from_the_start_costs_no_call_and_no_wait_beyond_the_deadline(
    enabled: PostHogServer, dead_cache: str
) -> None:
    """Until it counts as dead, a new process cannot know whether the circuit is open."""
    enabled.flags = {"beta": True}
    clock = Clock()
    start_on(clock)
    hangs = dead_cache != "ConnectionError"

    assert evaluate("u1").source is (Source.FALLBACK if hangs else Source.POSTHOG)
    assert len(enabled.flag_calls) == (0 if hangs else 1)

    clock.now += STARTUP_SECONDS
    assert evaluate("u2").source is Source.POSTHOG


def test_dead_shared_cache_costs_no_answer(
    enabled: PostHogServer, dead_cache: str, caplog: pytest.LogCaptureFixture
) -> None:
    """PostHog answers although the shared cache is down, and one line says that it is."""
    caplog.set_level(logging.WARNING, LOG)
    enabled.flags = {"beta": True}
    give_up_cache()
    enabled.clear()

    for number in range(10):
        assert evaluate(f"u{number}").source is Source.POSTHOG

    assert len(enabled.flag_calls) == 10
    (record,) = caplog.records
    assert re.fullmatch(
        rf"The shared cache 'durable' fails \({dead_cache}\); this process does without it "
        r"until it answers\.",
        record.getMessage(),
    )


def test_dead_shared_cache_costs_no_local_evaluation(
    enabled: PostHogServer, dead_cache: str, settings: Settings
) -> None:
    """A process that looks for definitions there, too, has time left to ask PostHog."""
    settings.POSTHOG_PERSONAL_API_KEY = enabled.secret
    enabled.definitions_fault = Status(500)
    enabled.flags = {"beta": True}
    give_up_cache()

    assert [evaluate(f"u{number}").source for number in range(3)] == ["posthog"] * 3


class ConnectingCache(LocMemCache):
    """A cache whose first answer is late: the process connects and imports."""

    connected = threading.Event()

    def get_many(self, *args: Any, **kwargs: Any) -> Any:
        assert self.connected.wait(PATIENCE)
        return super().get_many(*args, **kwargs)


@pytest.mark.parametrize("is_open", [False, True], ids=["closed", "open"])
def test_first_look_that_is_late_is_waited_for(
    enabled: PostHogServer, settings: Settings, is_open: bool
) -> None:
    """A new process waits for it: it neither falls back at once nor calls into an open circuit."""
    settings.POSTHOG_CIRCUIT_BREAKER_TRIP_THRESHOLD_SECONDS = 4 * PATIENCE
    settings.CACHES = {
        **settings.CACHES,
        "durable": {"BACKEND": f"{__name__}.ConnectingCache", "LOCATION": "connecting"},
    }
    caches["durable"].clear()
    if is_open:
        state = Record("token", opened_at=time.time()).to_text()
        caches["durable"].set(engine.current()._storage.state_key, state, None)
    ConnectingCache.connected.clear()

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(evaluate, "u1")
        with pytest.raises(TimeoutError):
            asked.result(READ_SECONDS * 1.5)
        assert enabled.flag_calls == []
        ConnectingCache.connected.set()
        source = asked.result().source

    assert source is (Source.FALLBACK if is_open else Source.POSTHOG)
    assert len(enabled.flag_calls) == (0 if is_open else 1)


def test_breaker_protects_a_process_without_its_cache(
    enabled: PostHogServer, settings: Settings, dead_cache: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With the shared cache down, failures still open the circuit, and a probe closes it."""
    settings.POSTHOG_CIRCUIT_BREAKER_FAILURE_THRESHOLD = 2
    clock = give_up_cache()
    enabled.clear()

    fail_times(enabled, 5)
    assert circuit() is State.OPEN
    assert len(enabled.flag_calls) == 2
    until(lambda: caplog.text.count("circuit is open") == 1)

    clock.now += 61
    assert evaluate("probe").source is Source.POSTHOG
    assert circuit() is State.CLOSED


def test_clearing_a_dead_cache_says_so(
    enabled: PostHogServer, dead_cache: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Clearing while the shared cache is down clears the process, and is logged once a minute."""
    line = "did not confirm in time that its flags are cleared"
    clock = give_up_cache()
    enabled.clear()
    evaluate("u1")

    clear_cache()
    clear_cache("u1")

    assert caplog.text.count(line) == 1
    clock.now += 61
    clear_cache("u1")
    assert caplog.text.count(line) == 2
    evaluate("u1")
    assert len(enabled.flag_calls) == 2


# ---- clearing


@pytest.mark.parametrize("whom", ["u1", None], ids=["one person", "everyone"])
def test_cleared_flags_are_asked_for_again(
    enabled: PostHogServer, another_process: Callable[[], None], whom: str | None
) -> None:
    """Clearing reaches this process and, through the shared cache, all others."""
    enabled.flags = {"beta": True}
    evaluate("u1")
    settle()
    enabled.flags = {"beta": False}

    clear_cache(whom)
    assert is_enabled("beta", opt_unique_id="u1") is False
    assert len(enabled.flag_calls) == 2

    settle()
    clear_cache(whom)
    another_process()
    evaluate("u1")
    assert len(enabled.flag_calls) == 3


def test_clearing_one_person_spares_the_others(
    enabled: PostHogServer, another_process: Callable[[], None]
) -> None:
    """Another person's entry in the shared cache goes on answering."""
    evaluate("u1")
    evaluate("u2")
    settle()

    clear_cache("u1")
    another_process()
    evaluate("u2")
    assert len(enabled.flag_calls) == 2
    evaluate("u1")
    assert len(enabled.flag_calls) == 3


@pytest.mark.parametrize("whom", ["u1", None], ids=["one person", "everyone"])
def test_flight_under_way_does_not_undo_clearing(
    enabled: PostHogServer, another_process: Callable[[], None], whom: str | None
) -> None:
    """What was asked for before the clearing is kept neither here nor in the shared cache."""
    enabled.flags = {"beta": True}
    with ThreadPoolExecutor(2) as pool:
        with enabled.gate():
            before = pool.submit(evaluate, "u1")
            enabled.wait_for_flag_calls(1)
            enabled.flags = {"beta": False}
            clear_cache(whom)
            after = pool.submit(evaluate, "u1")
            enabled.wait_for_flag_calls(2)
        assert before.result().flags == {"beta": True}
        assert after.result().flags == {"beta": False}

    assert is_enabled("beta", opt_unique_id="u1") is False
    settle()
    another_process()
    assert is_enabled("beta", opt_unique_id="u1") is False
    assert len(enabled.flag_calls) <= 3


@pytest.mark.parametrize("whom", ["u1", None], ids=["one person", "everyone"])
def test_late_landing_is_not_remembered(enabled: PostHogServer, whom: str | None) -> None:
    """A flight that lands after the clearing answers who boarded it, and nobody after."""
    enabled.flags = {"beta": True}
    with ThreadPoolExecutor(1) as pool:
        with enabled.gate():
            before = pool.submit(evaluate, "u1")
            enabled.wait_for_flag_calls(1)
            clear_cache(whom)
        assert before.result().source is Source.POSTHOG
    enabled.flags = {"beta": False}

    assert is_enabled("beta", opt_unique_id="u1") is False
    assert len(enabled.flag_calls) == 2


def test_lost_generation_means_miss(
    enabled: PostHogServer, another_process: Callable[[], None]
) -> None:
    """A generation token that the cache lost counts as cleared: nothing old comes back."""
    evaluate("u1")
    settle()
    store: dict[str, Any] = caches["durable"]._cache  # type: ignore[attr-defined]  # LocMemCache's
    for key in [key for key in store if "generation:" in key]:
        caches["durable"].delete(key.split(":", 2)[2])

    another_process()
    evaluate("u1")

    assert len(enabled.flag_calls) == 2
