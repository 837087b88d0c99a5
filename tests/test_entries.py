"""Evaluations in the shared cache: what is found again, for how long, and under which keys."""

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from django.core.cache import caches
from django.core.cache.backends.base import memcache_key_warnings
from django.core.cache.backends.locmem import LocMemCache
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from olposthog._core import engine
from olposthog._evaluation.decision import Decision
from olposthog._evaluation.evaluation import Evaluation, Origin
from olposthog._shared.evaluation_cache import COMING_SECONDS, EvaluationCache, control_prefix
from olposthog._shared.shared_cache import SharedCache
from olposthog.features import evaluate
from olposthog.snapshot import Runtime, Source
from tests.posthog_server import PATIENCE

NOON = 1_750_000_000.0
STATE_KEY = f"{control_prefix('project')}state"
SOME = hypothesis_settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


class Recording(LocMemCache):
    """A cache that remembers which keys were read, added and set."""

    read: list[str] = []
    added: list[str] = []
    written: list[str] = []
    lock = threading.Lock()

    @classmethod
    def forget(cls) -> None:
        cls.read, cls.added, cls.written = [], [], []

    def get_many(self, keys: Iterable[str], version: int | None = None) -> dict[Any, Any]:
        keys = list(keys)
        type(self).read += keys
        return super().get_many(keys, version)

    def add(self, key: str, *args: Any, **options: Any) -> bool:
        type(self).added.append(key)
        return super().add(key, *args, **options)

    def set(self, key: str, *args: Any, **options: Any) -> None:
        type(self).written.append(key)
        super().set(key, *args, **options)


@pytest.fixture(autouse=True)
def recording(settings):
    """The shared cache keeps a record; its entries live for ever unless `lifetime` says less."""
    settings.CACHES = {
        **settings.CACHES,
        "durable": {
            "BACKEND": "tests.test_entries.Recording",
            "LOCATION": "recording",
            "TIMEOUT": None,
        },
    }
    caches["durable"].clear()
    Recording.forget()
    return Recording


@pytest.fixture
def lifetime(settings) -> Callable[[float | None], None]:
    def set_lifetime(seconds: float | None) -> None:
        alias = {**settings.CACHES["durable"], "TIMEOUT": seconds}
        settings.CACHES = {**settings.CACHES, "durable": alias}

    return set_lifetime


@pytest.fixture
def wall():
    return Clock()


class Process:
    """One process's entries, and its own way to the cache that all share."""

    def __init__(self, wall: Clock, project: str = "project") -> None:
        self.wall = wall
        self.shared = SharedCache("durable", read_seconds=PATIENCE)
        self.entries = EvaluationCache(self.shared, project, STATE_KEY, wall=wall)

    def read(self, question: str = "ada's flags", distinct_id: str = "ada") -> Any:
        """Read as a process would that has seen nothing itself."""
        self.entries._own.clear()
        found = self.entries.read(question, f"{question} in browsers", distinct_id, PATIENCE)
        assert found is not None
        return found

    def fresh(self, question: str = "ada's flags", distinct_id: str = "ada") -> Evaluation | None:
        """Return the entry while it is fresh."""
        known: Evaluation | None = self.read(question, distinct_id).known
        return known if known and self.entries.overdue(known.evaluated_at) < 0 else None

    def keep(
        self,
        question: str = "ada's flags",
        distinct_id: str = "ada",
        evaluation: Evaluation | None = None,
    ) -> Evaluation:
        """Evaluate: ask, then store what came of it."""
        found = self.read(question, distinct_id)
        assert found.generation is not None
        evaluation = evaluation or self.evaluation()
        self.entries.keep(question, evaluation, found)
        assert self.shared.settle(PATIENCE)
        return evaluation

    def evaluation(self, flags: int = 2) -> Evaluation:
        decisions = {f"flag-{number}": Decision(True) for number in range(flags)}
        return Evaluation(decisions, evaluated_at=self.wall(), request_id="request-1")


@pytest.fixture
def start(wall: Clock) -> Iterator[Callable[..., Process]]:
    """Starts processes and ends their threads when the test is over."""
    started: list[Process] = []

    def start_one(project: str = "project") -> Process:
        started.append(Process(wall, project))
        return started[-1]

    yield start_one
    for process in started:
        process.shared.close()


@pytest.fixture
def process(start) -> Process:
    one: Process = start()
    return one


# Round trip


def test_an_evaluation_is_found_again(process, start):
    """What one process keeps, every process finds."""
    kept = process.keep()

    assert process.fresh() == kept
    assert start().fresh() == kept


def test_nothing_is_found_before_it_is_kept(process):
    """Without an entry there is no answer, but a generation for one to come."""
    found = process.read()

    assert found.known is None
    assert found.state is None
    assert len(found.generation) == 2


def test_another_question_is_a_miss(process, start):
    """An entry answers its own question, and that for its own project only."""
    process.keep("ada's flags")

    assert process.fresh("bob's flags") is None
    assert start("elsewhere").fresh("ada's flags") is None


def test_the_breakers_state_comes_along(process):
    """The same read brings the state of the circuit breaker."""
    caches["durable"].set(STATE_KEY, "open since noon")

    assert process.read().state == "open since noon"


def test_a_hit_is_one_read(process, recording):
    """Finding an entry costs one access to the cache, for both runtimes, state and tokens."""
    process.keep()
    recording.forget()

    assert process.fresh()
    assert len(recording.read) == 5
    assert recording.added == recording.written == []


def test_an_evaluation_is_one_row(process, recording):
    """However many flags there are, an evaluation is written once, under one key."""
    process.read()
    assert process.shared.settle(PATIENCE)
    recording.forget()

    process.keep(evaluation=process.evaluation(flags=100))

    assert len(recording.written) == 1
    assert recording.added == []


def test_an_entry_is_json_text(process, recording):
    """What is stored is text that any program can read, and nothing pickled of ours."""
    process.keep()

    stored = caches["durable"].get(recording.written[0])
    assert isinstance(stored, str)
    assert json.loads(stored)


def test_no_shared_cache_finds_nothing(wall):
    """Without a cache to ask, there is neither an answer nor a generation."""
    nowhere = EvaluationCache(SharedCache(None), "project", STATE_KEY, wall=wall)

    found = nowhere.read("ada's flags", "the same in browsers", "ada", PATIENCE)
    assert (found.known, found.state, found.generation) == (None, None, None)


def test_own_entries_count_without_a_shared_cache(wall):
    """What the process has seen itself is known, until it is cleared."""
    nowhere = EvaluationCache(SharedCache(None), "project", STATE_KEY, wall=wall)
    kept = Evaluation({"a": Decision(True)}, wall())
    nowhere.keep(
        "ada's flags", kept, nowhere.read("ada's flags", "the same in browsers", "ada", PATIENCE)
    )

    assert nowhere.read("ada's flags", "the same in browsers", "ada", PATIENCE).known == kept
    assert nowhere.own("ada's flags") == kept
    assert nowhere.own("bob's flags") is None

    before = nowhere.read("ada's flags", "the same in browsers", "ada", PATIENCE)
    assert nowhere.clear("ada", PATIENCE)
    nowhere.keep("ada's flags", kept, before)
    assert nowhere.own("ada's flags") is None


def test_newest_entry_counts(process, wall, recording):
    """Where a write was lost, the process's own answer is newer than the fleet's, and counts."""
    process.keep()
    (key,) = {one for one in recording.written if ":entry:" in one}
    older = caches["durable"].get(key)
    wall.now += 1
    newer = process.keep()
    caches["durable"].set(key, older)

    assert (
        process.entries.read("ada's flags", "the same in browsers", "ada", PATIENCE).known == newer
    )
    assert process.read().known != newer


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
DECISIONS = st.builds(
    Decision,
    value=st.booleans() | st.text(min_size=1, max_size=8),
    payload=JSON_VALUES,
    reason=st.text(max_size=8),
    description=st.text(max_size=8),
    id=st.none() | st.integers(),
    version=st.none() | st.integers(),
)
EVALUATIONS = st.builds(
    Evaluation,
    decisions=st.dictionaries(st.text(max_size=12), DECISIONS, max_size=4),
    evaluated_at=st.floats(min_value=0, max_value=NOON),
    request_id=st.none() | st.text(max_size=12),
)


@SOME
@given(EVALUATIONS)
def test_any_evaluation_survives_the_cache(start, evaluation):
    """Whatever PostHog decided is read as it was written: values, payloads, reasons, time."""
    process = start()
    process.keep(evaluation=evaluation)

    assert process.fresh() == evaluation
    process.shared.close()


# Freshness


def test_freshness_is_the_aliass_timeout(process, wall, lifetime):
    """An entry is fresh for the alias's TIMEOUT after its evaluation, and no longer."""
    lifetime(60)
    kept = process.keep()

    wall.now += 59.9
    assert process.fresh() == kept
    wall.now += 0.1
    assert process.fresh() is None


def test_freshness_counts_from_the_evaluation(process, wall, lifetime):
    """The time of the evaluation counts, not the one at which it was stored."""
    lifetime(60)
    old = process.evaluation()
    wall.now += 60

    process.keep(evaluation=old)

    assert process.fresh() is None


def test_freshness_is_not_the_caches_expiry(process, wall, lifetime):
    """An entry that the cache would keep for ever is fresh for as long as the alias now says."""
    process.keep()
    wall.now += 60

    lifetime(60)
    assert process.fresh() is None
    lifetime(61)
    assert process.fresh() is not None


@pytest.mark.parametrize("ahead", [61, 3600, 86_400, 365 * 86_400])
def test_entry_from_the_future_counts_as_now(process, wall, lifetime, ahead):
    """A time in the future counts as now, for the process that reads it and for all after it."""
    lifetime(60)
    future = replace(process.evaluation(), evaluated_at=NOON + ahead)
    process.keep(evaluation=future)

    assert process.read().known == replace(future, evaluated_at=NOON)
    wall.now += 59.9
    assert process.fresh()
    assert process.shared.settle(PATIENCE)
    wall.now += 0.1
    assert process.fresh() is None


def test_entry_from_the_future_is_dated_once(process, wall, lifetime, recording, monkeypatch):
    """Where the replaced time cannot be stored, a process goes on counting from its first read."""
    lifetime(60)
    process.keep(evaluation=replace(process.evaluation(), evaluated_at=NOON + 86_400))
    monkeypatch.setattr(recording, "set", lambda *_: None)
    process.entries._own.clear()
    keys = "ada's flags", "the same in browsers", "ada", PATIENCE
    process.entries.read(*keys)
    wall.now += 60

    known = process.entries.read(*keys).known
    assert known is not None
    assert process.entries.overdue(known.evaluated_at) == 0
    newer = process.evaluation()
    process.entries.keep("ada's flags", newer, process.entries.read(*keys))
    assert process.entries.read(*keys).known == newer


def test_time_of_an_earlier_decision_in_the_future_counts_as_now(process, wall):
    """The time of a decision that stands in for a failed one is replaced as well."""
    origins = {"flag-0": Origin(NOON + 86_400, "request-0")}
    process.keep(evaluation=replace(process.evaluation(), origins=origins))

    known = process.read().known
    assert known is not None
    assert known.origin("flag-0") == Origin(NOON, "request-0")


def test_clock_that_is_set_back_does_not_pin_a_process(process, wall, lifetime):
    """After the clock is corrected, what the process evaluated before counts as evaluated now."""
    lifetime(60)
    process.keep()
    wall.now -= 86_400
    keys = "ada's flags", "the same in browsers", "ada", PATIENCE
    process.entries.read(*keys)
    wall.now += 60

    known = process.entries.own("ada's flags")
    assert known is not None
    assert process.entries.overdue(known.evaluated_at) == 0


def test_entry_that_was_written_meanwhile_is_not_replaced(process, wall, recording):
    """A replaced time is stored only if the entry is still the one that was read."""
    future = replace(process.evaluation(), evaluated_at=NOON + 86_400)
    process.keep(evaluation=future)
    gate = threading.Event()
    process.shared.later(lambda _: gate.wait(PATIENCE))
    found = process.read()
    caches["durable"].set(process.entries._key("ada's flags"), "newer")
    gate.set()
    assert process.shared.settle(PATIENCE)

    assert found.known is not None
    assert caches["durable"].get(process.entries._key("ada's flags")) == "newer"


def test_half_a_minute_ahead_is_not_replaced(process, wall, recording):
    """A small difference between clocks costs no write."""
    process.keep(evaluation=replace(process.evaluation(), evaluated_at=NOON + 30))
    recording.forget()

    assert process.fresh()
    assert process.shared.settle(PATIENCE)
    assert not [key for key in recording.written if ":entry:" in key]


def test_no_timeout_is_for_ever(process, wall, lifetime):
    """With TIMEOUT None an entry is fresh for as long as it is there."""
    lifetime(None)
    kept = process.keep()

    wall.now += 10 * 365 * 86_400
    assert process.fresh() == kept


def test_zero_timeout_is_never(process, lifetime):
    """With TIMEOUT 0 no entry is ever fresh."""
    process.keep()

    lifetime(0)
    assert process.fresh() is None
    process.keep()
    assert process.fresh() is None


# Generations


def test_clearing_a_person_makes_misses_everywhere(process, start):
    """A person who is cleared in one process is a miss in every process, for every question."""
    process.keep("ada's flags", "ada")
    process.keep("ada's flags in the browser", "ada")

    assert start().entries.clear("ada", PATIENCE)

    assert process.fresh("ada's flags", "ada") is None
    assert process.fresh("ada's flags in the browser", "ada") is None


def test_clearing_a_person_spares_most_others(process):
    """Of two hundred people, one who is cleared takes along a few at most."""
    people = [f"person-{number}" for number in range(200)]
    for person in people:
        process.keep(person, person)

    process.entries.clear("person-0", PATIENCE)

    spared = [person for person in people if process.fresh(person, person)]
    assert "person-0" not in spared
    assert len(spared) > 180


def test_clearing_all_makes_misses_of_all(process, start):
    """After everybody was cleared, nobody's entry is found."""
    for person in ["ada", "bob", "cleo"]:
        process.keep(person, person)

    assert start().entries.clear(None, PATIENCE)

    assert [process.fresh(person, person) for person in ["ada", "bob", "cleo"]] == [None] * 3


@pytest.mark.parametrize("cleared", ["ada", None], ids=["the person", "everybody"])
def test_an_evaluation_from_before_a_clearing_is_a_miss(process, cleared):
    """Flags that were asked for before a clearing and stored after it are not found."""
    before = process.read()
    process.entries.clear(cleared, PATIENCE)

    process.entries.keep("ada's flags", process.evaluation(), before)
    process.shared.settle(PATIENCE)

    assert process.fresh() is None


def test_what_is_kept_after_a_clearing_is_found(process):
    """A clearing is no obstacle to what comes after it."""
    process.keep()
    process.entries.clear("ada", PATIENCE)

    kept = process.keep()

    assert process.fresh() == kept


@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_token_is_a_miss(process, start, recording, lost):
    """An entry whose generation's token got lost is not found, by nobody and never again."""
    process.keep()
    assert len(recording.added) == 2

    caches["durable"].delete(recording.added[lost])

    assert process.fresh() is None
    assert start().fresh() is None


def test_lost_tokens_come_back_as_others(process, recording):
    """Tokens are random: those that replace lost ones are not the same again."""
    before = process.read().generation
    assert process.shared.settle(PATIENCE)
    for token in recording.added:
        caches["durable"].delete(token)

    after = process.read().generation

    assert not set(before) & set(after)


# EvaluationCache that cannot be read


@pytest.mark.parametrize(
    "foreign",
    [None, 0, 42, True, b"bytes", [], {}, {"generation": 1}, "", "text", "[]", "{}", "null", "7"],
    ids=repr,
)
def test_a_foreign_entry_is_a_miss(process, recording, foreign):
    """Whatever else may stand under an entry's key, it is a miss, and then replaced."""
    process.keep()
    caches["durable"].set(recording.written[0], foreign)

    assert process.fresh() is None
    assert process.keep() == process.fresh()


def test_a_cut_entry_is_a_miss(process, recording):
    """An entry of which a part is missing is a miss, wherever it was cut."""
    process.keep()
    stored = caches["durable"].get(recording.written[0])

    for length in range(0, len(stored), 5):
        caches["durable"].set(recording.written[0], stored[:length])
        assert process.fresh() is None


def forge(process: Process, **changes: Any) -> None:
    """Replace parts of an entry of the present generation."""
    process.keep()
    key = Recording.written[-1]
    stored = json.loads(caches["durable"].get(key))
    stored["evaluation"].update(changes)
    caches["durable"].set(key, json.dumps(stored))


@pytest.mark.parametrize(
    "changes",
    [
        {"decisions": None},
        {"decisions": ["flag"]},
        {"decisions": {"flag": True}},
        {"decisions": {"flag": {}}},
        {"decisions": {"flag": {"value": True, "unheard": "of"}}},
        {"evaluated_at": None},
        {"evaluated_at": "noon"},
        {"evaluated_at": [1]},
        {"evaluated_at": float("nan")},
        {"evaluated_at": float("inf")},
        {"evaluated_at": 1e300},
        {"evaluated_at": 10**400},
    ],
    ids=lambda changes: str(changes)[:40],
)
def test_an_entry_of_another_version_is_a_miss(process, changes):
    """An entry that another version, or nobody in their right mind, would write is a miss."""
    forge(process, **changes)

    assert process.fresh() is None


@SOME
@given(stored=JSON_VALUES | st.fixed_dictionaries({"decisions": JSON_VALUES}))
def test_no_stored_value_raises(start, stored):
    """Whatever JSON stands where an evaluation should, reading it raises nothing."""
    process = start()
    process.keep()
    key = Recording.written[-1]
    entry = json.loads(caches["durable"].get(key))
    entry["evaluation"] = stored
    caches["durable"].set(key, json.dumps(entry))

    assert process.fresh() is None
    process.shared.close()


# Keys, as whole evaluations use them


NAMES = st.text(max_size=6)
PROPERTIES = st.dictionaries(NAMES, JSON_VALUES, max_size=3)
QUESTIONS = st.fixed_dictionaries(
    {"distinct_id": st.text(min_size=1, max_size=12), "runtime": st.sampled_from(list(Runtime))},
    optional={
        "person_properties": PROPERTIES,
        "groups": st.dictionaries(NAMES, NAMES | st.integers(), max_size=2),
        "group_properties": st.dictionaries(NAMES, PROPERTIES, max_size=2),
    },
)


@pytest.fixture
def failing_posthog(settings):
    """Flags are asked of a PostHog that does not exist, so that each question is looked up."""
    settings.POSTHOG_ENABLED = True
    settings.POSTHOG_PROJECT_API_KEY = "phc_test"
    settings.POSTHOG_API_HOST = "http://127.0.0.1:9"
    settings.POSTHOG_LOCAL_CACHE_SECONDS = 0
    settings.POSTHOG_CIRCUIT_BREAKER_FAILURE_THRESHOLD = 1


def keys_of(question: dict[str, Any]) -> tuple[str, list[str]]:
    """The key under which a question is looked up, and the control keys read with it."""
    Recording.forget()
    details = dict(question)
    assert evaluate(details.pop("distinct_id"), **details).source is Source.FALLBACK
    entry, _counterpart, *control = Recording.read
    return entry, [*control, *Recording.added]


def canonical(question: dict[str, Any]) -> str:
    """Equal for equal questions: what was left out is the same as what is empty."""
    return json.dumps({name: value for name, value in question.items() if value}, sort_keys=True)


@SOME
@given(QUESTIONS, QUESTIONS)
def test_distinct_questions_have_distinct_keys(failing_posthog, one, other):
    """Two questions share a key exactly when they are the same question."""
    same_key = keys_of(one)[0] == keys_of(other)[0]

    assert same_key == (canonical(one) == canonical(other))


@SOME
@given(QUESTIONS, st.data())
def test_the_same_question_has_the_same_key(failing_posthog, question, data):
    """The order in which properties are given does not matter, nor does a new process."""
    shuffled = {
        name: dict(data.draw(st.permutations(list(value.items()))))
        if isinstance(value, dict)
        else value
        for name, value in question.items()
    }

    key = keys_of(question)[0]
    engine.reset()

    assert keys_of(shuffled)[0] == key


@SOME
@given(QUESTIONS, st.sampled_from(Runtime), st.sampled_from(["distinct_id", "person_properties"]))
def test_one_difference_makes_another_key(failing_posthog, question, runtime, part):
    """Another id, property or runtime is another question."""
    changed: dict[str, Any] = dict(question)
    if part == "distinct_id":
        changed[part] += "\n"
    else:
        changed[part] = {**question.get(part, {}), "a new one": True}
    key = keys_of(question)[0]

    assert keys_of(changed)[0] != key
    if runtime is not question["runtime"]:
        assert keys_of({**question, "runtime": runtime})[0] != key


@SOME
@given(QUESTIONS)
def test_keys_are_safe_for_every_backend(failing_posthog, question):
    """Keys are short and plain enough for Memcached, with room for a prefix of Django's."""
    entry, control = keys_of(question)

    for key in [entry, *control]:
        assert len(key) <= 200
        assert list(memcache_key_warnings(key)) == []


@SOME
@given(QUESTIONS)
def test_entries_sort_before_control_keys(failing_posthog, question):
    """`DatabaseCache` culls the first keys: those of entries come before any other one."""
    entry, control = keys_of(question)

    assert len(control) >= 3
    assert all(entry < key for key in control)


@SOME
@given(st.text(max_size=12), st.dictionaries(NAMES, NAMES, max_size=2))
def test_keys_tell_nothing_of_the_person(failing_posthog, text, properties):
    """Neither an id nor a property is part of any key."""
    question = {
        "distinct_id": f"person@{text}",
        "runtime": Runtime.SERVER,
        "person_properties": {**properties, "plan@": "paid@"},
    }

    entry, control = keys_of(question)

    for key in [entry, *control]:
        assert not any(part in key for part in ["@", "person", "plan", "paid"])


def test_token_from_before_a_clearing_never_wins(wall, monkeypatch):
    """A token that could not be written in time is not written later: a culled clearing stands."""
    now = [0.0]
    shared = SharedCache("durable", read_seconds=PATIENCE)
    late = EvaluationCache(shared, "project", STATE_KEY, wall=wall, clock=lambda: now[0])
    busy = threading.Event()
    shared._writer.submit(lambda: busy.wait(PATIENCE))
    before = late.read("ada's flags", "the same in browsers", "ada", PATIENCE)
    late.keep("ada's flags", Evaluation({"a": Decision(True)}, wall()), before)

    other = EvaluationCache(SharedCache("durable"), "project", STATE_KEY, wall=wall)
    assert other.clear(None, PATIENCE)
    caches["durable"].clear()  # the clearing's token is culled
    now[0] += COMING_SECONDS
    busy.set()
    assert shared.settle(PATIENCE)

    after = late.read("ada's flags", "the same in browsers", "ada", PATIENCE)
    assert after.known is None
    assert after.generation
    assert before.generation
    assert not set(after.generation) & set(before.generation)
    shared.close()
    other._shared.close()
