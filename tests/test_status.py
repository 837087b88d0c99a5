"""What flags stand on: looked at without asking PostHog, and without writing anything."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from django.core.cache import caches
from django.core.cache.backends.locmem import LocMemCache
from pytest_django import Settings

from olposthog import conf
from olposthog._core import engine
from olposthog._local.poller import FETCH_SECONDS, Head
from olposthog._shared.breaker import State
from olposthog._shared.large_text import PackedText, part_keys
from olposthog.features import evaluate
from olposthog.status import (
    LATE_INTERVALS,
    Circuit,
    Health,
    Status,
    definitions_in_use,
    how_long,
    status,
)
from tests.posthog_faults import Status as HttpStatus
from tests.posthog_server import PATIENCE, PostHogServer
from tests.test_definitions import flag
from tests.undecidable import DEFINITIONS, FAULT, REASONS

SINCE = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"


class Gone(LocMemCache):
    """A cache that is not there."""

    def get_many(self, *args: Any, **options: Any) -> Any:
        raise ConnectionError("redis://:secret@cache is gone")


class WriteOnce(LocMemCache):
    """A cache that takes note of whatever is written."""

    writes: list[str] = []

    def set(self, key: Any, *args: Any, **options: Any) -> None:
        self.writes.append(key)
        super().set(key, *args, **options)

    def add(self, key: Any, *args: Any, **options: Any) -> bool:
        self.writes.append(key)
        return super().add(key, *args, **options)

    def delete(self, key: Any, *args: Any, **options: Any) -> bool:
        self.writes.append(key)
        return super().delete(key, *args, **options)


def use(settings: Settings, cache: type[LocMemCache]) -> None:
    backend = f"{__name__}.{cache.__name__}"
    settings.CACHES = {**settings.CACHES, "durable": {"BACKEND": backend, "LOCATION": "status"}}


@pytest.fixture
def open_circuit(
    enabled: PostHogServer, settings: Settings, another_process: Callable[[], None]
) -> PostHogServer:
    """A fleet whose circuit one process opened, as another process comes to it."""
    settings.POSTHOG_CIRCUIT_BREAKER_FAILURE_THRESHOLD = 1
    enabled.fault = HttpStatus(500)
    evaluate("42")
    assert engine.current().shared.settle(PATIENCE)
    another_process()
    enabled.heal()
    enabled.clear()
    return enabled


@pytest.fixture
def polling(
    enabled: PostHogServer, settings: Settings, another_process: Callable[[], None]
) -> PostHogServer:
    """A fleet with local evaluation, one process of which has fetched definitions."""
    settings.POSTHOG_PERSONAL_API_KEY = enabled.secret
    enabled.definitions = {"flags": [flag("a"), flag("b")]}
    poll = engine.current().poller
    assert poll
    poll.look()
    assert engine.current().shared.settle(PATIENCE)
    another_process()
    enabled.clear()
    return enabled


def rewrite_head(**changes: Any) -> None:
    """Change what the fleet knows of its definitions."""
    poll = engine.current().poller
    assert poll
    head = poll.peek()
    assert head
    caches["durable"].set(poll._key("head"), replace(head, **changes).to_text(), None)


def values(found: Status) -> dict[str, Any]:
    return {one.name: one.value for one in found.settings}


# Health


def test_healthy_site_is_ok(enabled: PostHogServer) -> None:
    """With nothing wrong there is nothing to say."""
    found = status()

    assert (found.health, found.reasons, found.problems) == (Health.OK, (), ())


def test_disabled_site_is_neither_well_nor_ill(posthog: PostHogServer) -> None:
    """With POSTHOG_ENABLED off, there is no circuit, no cache and no definitions to look at."""
    found = status()

    assert found.health is Health.DISABLED
    assert (found.circuit, found.shared_cache, found.definitions) == (None, None, None)


def test_setting_that_cannot_be_used_is_worst(enabled: PostHogServer, settings: Settings) -> None:
    """A problem is named and described, and the rest is not looked at: nobody asks PostHog."""
    settings.POSTHOG_MAX_RETRIES = -1
    found = status()

    assert found.health is Health.MISCONFIGURED
    assert found.reasons == ("POSTHOG_MAX_RETRIES cannot be used",)
    assert [problem.setting for problem in found.problems] == ["POSTHOG_MAX_RETRIES"]
    assert found.circuit is None


def test_setting_is_judged_on_a_disabled_site_too(settings: Settings) -> None:
    """FEATURES answers there, and a fault in it matters."""
    settings.FEATURES = {"a": 1.5}

    assert status().health is Health.MISCONFIGURED


# Looking changes nothing


def test_posthog_is_not_asked(polling: PostHogServer) -> None:
    """Neither for flags nor for definitions, not even where a fetch is overdue."""
    rewrite_head(checked_at=0.0)
    status()
    polling.wait_until(lambda: polling.in_flight == 0)

    assert polling.requests == []
    poll = engine.current().poller
    assert poll is not None
    assert poll._thread is None


@pytest.mark.parametrize("known", [True, False], ids=["state known", "cache empty"])
def test_nothing_is_written(
    enabled: PostHogServer,
    settings: Settings,
    another_process: Callable[[], None],
    known: bool,
) -> None:
    """The shared cache is as it was, whether it knew of the circuit or not."""
    use(settings, WriteOnce)
    settings.POSTHOG_PERSONAL_API_KEY = enabled.secret
    caches["durable"].clear()
    if known:
        evaluate("42")
        engine.current().shared.settle(PATIENCE)
        another_process()
    WriteOnce.writes.clear()
    status()
    assert engine.current().shared.settle(PATIENCE)

    assert WriteOnce.writes == []


# The circuit


def test_circuit_that_never_opened(enabled: PostHogServer) -> None:
    """A closed circuit without a history has no time."""
    assert status().circuit == Circuit(State.CLOSED, None)


def test_open_circuit_of_the_fleet_is_seen(open_circuit: PostHogServer) -> None:
    """A new process finds in the shared cache that another one opened it, and when."""
    found = status()

    assert found.health is Health.DEGRADED
    assert found.circuit is not None
    assert found.reasons == (f"the circuit is {found.circuit}",)
    assert re.fullmatch(rf"degraded: the circuit is open since {SINCE}", found.headline)
    assert found.circuit.state is State.OPEN
    assert found.circuit.changed_at is not None
    age = datetime.now(UTC) - found.circuit.changed_at
    assert abs(age.total_seconds()) < PATIENCE


def test_circuit_after_its_cooldown_is_half_open(
    open_circuit: PostHogServer, settings: Settings
) -> None:
    """It is not well before a probe has succeeded."""
    settings.POSTHOG_CIRCUIT_BREAKER_COOLDOWN_SECONDS = 1e-9

    (reason,) = status().reasons
    assert reason.startswith("the circuit is half-open since ")


def test_circuit_that_closed_again_is_well(open_circuit: PostHogServer, settings: Settings) -> None:
    """After the probe that succeeded, there is only the time to tell of it."""
    settings.POSTHOG_CIRCUIT_BREAKER_COOLDOWN_SECONDS = 1e-9
    evaluate("43")
    found = status()

    assert found.headline == "ok"
    assert re.fullmatch(rf"closed since {SINCE}", str(found.circuit))


@pytest.mark.parametrize("where", ["none", "away"])
def test_circuit_of_this_process_alone(
    enabled: PostHogServer, settings: Settings, where: str
) -> None:
    """A process that has no fleet, or cannot see it, tells of its own open circuit."""
    settings.POSTHOG_CIRCUIT_BREAKER_FAILURE_THRESHOLD = 1
    if where == "none":
        settings.CACHES = {"default": settings.CACHES["default"]}
    else:
        use(settings, Gone)
    enabled.fault = HttpStatus(500)
    evaluate("42")

    assert status().reasons[0].startswith("the circuit is open since ")
    assert len(status().reasons) == (1 if where == "none" else 2)


@pytest.mark.parametrize("opened_at", ["1e300", "-1e300", "Infinity", "NaN", '"noon"'])
def test_nonsense_is_no_time(enabled: PostHogServer, opened_at: str) -> None:
    """A state that names no time, whoever wrote it, opens nothing and breaks nothing."""
    state = f'{{"token": "x", "opened_at": {opened_at}, "presumed": false}}'
    caches["durable"].set(engine.current()._storage.state_key, state)

    assert status().headline == "ok"


def test_garbage_in_the_place_of_the_state(enabled: PostHogServer) -> None:
    """What another version wrote is no state: closed, as far as anybody knows."""
    key = engine.current()._storage.state_key
    caches["durable"].set(key, "{", None)

    assert status().circuit == Circuit(State.CLOSED, None)
    assert caches["durable"].get(key) == "{"


# The shared cache


def test_shared_cache_is_timed(enabled: PostHogServer) -> None:
    """Alias, backend, and how long a read takes."""
    found = status().shared_cache

    assert found is not None
    assert (found.alias, found.reachable, found.failure) == ("durable", True, "")
    assert found.backend == "django.core.cache.backends.locmem.LocMemCache"
    assert found.seconds > 0


def test_dead_cache_degrades(enabled: PostHogServer, settings: Settings) -> None:
    """Why it cannot be read is said by the kind of error alone; the circuit is then not known."""
    settings.POSTHOG_PERSONAL_API_KEY = enabled.secret
    use(settings, Gone)
    found = status()

    assert found.health is Health.DEGRADED
    assert found.reasons == ("the shared cache 'durable' cannot be read (ConnectionError)",)
    assert found.shared_cache is not None
    assert not found.shared_cache.reachable
    assert (found.circuit, found.definitions) == (None, None)
    assert "secret" not in repr(found)


def test_cache_that_does_not_exist_is_no_exception(
    enabled: PostHogServer, settings: Settings
) -> None:
    """A backend that cannot be imported is a cache that cannot be read."""
    settings.CACHES = {**settings.CACHES, "durable": {"BACKEND": "nowhere.Cache"}}

    assert status().health is Health.DEGRADED


def test_site_without_a_shared_cache(enabled: PostHogServer, settings: Settings) -> None:
    """It is not degraded, but no process can see another one's circuit."""
    settings.CACHES = {"default": settings.CACHES["default"]}
    found = status()

    assert found.health is Health.OK
    assert (found.circuit, found.shared_cache) == (None, None)


# Definitions


def test_definitions_of_the_fleet(polling: PostHogServer) -> None:
    """What one process fetched, another sees: how many, from when, and confirmed when."""
    found = status()

    assert found.health is Health.OK
    assert found.definitions is not None
    assert (found.definitions.file, found.definitions.flags) == (None, 2)
    assert found.definitions.faults is None
    assert found.definitions.failure == ""
    now = time.time()
    for moment in (found.definitions.changed_at, found.definitions.confirmed_at):
        assert moment is not None
        assert abs(moment.timestamp() - now) < PATIENCE


def test_definitions_that_nobody_asked_for_yet(enabled: PostHogServer, settings: Settings) -> None:
    """A site that has just been deployed is well."""
    settings.POSTHOG_PERSONAL_API_KEY = enabled.secret
    found = status()

    assert (found.health, found.definitions) == (Health.OK, None)


def test_failing_fetch_degrades(
    enabled: PostHogServer, settings: Settings, another_process: Callable[[], None]
) -> None:
    """Why definitions cannot be fetched is known to the whole fleet."""
    settings.POSTHOG_PERSONAL_API_KEY = "phx_wrong"
    poll = engine.current().poller
    assert poll
    poll.look()
    assert engine.current().shared.settle(PATIENCE)
    another_process()
    found = status()

    assert found.reasons == ("flag definitions are not renewed (HTTP 401)",)
    assert found.definitions is not None
    assert (found.definitions.changed_at, found.definitions.confirmed_at) == (None, None)
    assert found.definitions.flags is None


def test_late_definitions_degrade(polling: PostHogServer, settings: Settings) -> None:
    """Definitions that nobody has confirmed for a few intervals are late; a little less is not."""
    late = LATE_INTERVALS * 300 + FETCH_SECONDS
    rewrite_head(checked_at=time.time() - late + 100)
    assert status().health is Health.OK

    rewrite_head(checked_at=time.time() - late - 100)
    (reason,) = status().reasons
    assert reason.startswith("flag definitions are not renewed (not confirmed for 17 min)")


def test_time_of_another_world_is_no_exception(polling: PostHogServer) -> None:
    """Whatever number another version wrote, the status is shown."""
    rewrite_head(checked_at=1e300)
    found = status().definitions

    assert found is not None
    assert found.confirmed_at is None


def test_head_of_an_earlier_version(polling: PostHogServer) -> None:
    """A head without the number of flags is still one."""
    poll = engine.current().poller
    assert poll
    key = poll._key("head")
    written = json.loads(caches["durable"].get(key))
    del written["flags"]
    caches["durable"].set(key, json.dumps(written), None)

    found = status().definitions
    assert found is not None
    assert found.flags is None
    assert found.changed_at is not None


@pytest.mark.parametrize("flags", ["2", 1.5, [2], True])
def test_head_with_a_wrong_number_is_none(flags: object) -> None:
    """A head says how many in a whole number, or not at all."""
    text = json.dumps({"token": "t", "checked_at": 1.0, "flags": flags})

    assert Head.from_text(text) is None


def test_head_with_a_wrong_time_is_none() -> None:
    """When definitions were fetched must be a time."""
    assert Head.from_text('{"token": "t", "checked_at": 1.0, "fetched_at": "today"}') is None
    assert Head.from_text('{"token": "t", "checked_at": 1.0, "fetched_at": NaN}') is None


# Definitions, compiled


def test_definitions_in_use_are_the_fleets(polling: PostHogServer) -> None:
    """A process that has none of its own reads the fleet's, and starts no thread for it."""
    found = definitions_in_use()
    poll = engine.current().poller

    assert found is not None
    assert list(found.definitions.flags) == ["a", "b"]
    assert polling.requests == []
    assert poll is not None
    assert poll._thread is None


def test_definitions_in_use_are_the_processs_own(polling: PostHogServer) -> None:
    """Where a process has the fleet's definitions already, they are not read again."""
    poll = engine.current().poller
    assert poll
    poll.look()
    assert poll.head
    caches["durable"].delete_many(part_keys(poll._prefix, poll.head.digest, poll.head.parts))

    assert definitions_in_use() is poll.current()


@pytest.mark.parametrize("changes", [{"digest": "0" * 64}, {"parts": 0}, {"parts": 2}], ids=str)
def test_definitions_that_are_not_stored(
    polling: PostHogServer, changes: dict[str, object]
) -> None:
    """Where the shared cache lacks the text, or a part of it, there are no definitions."""
    rewrite_head(**changes)

    assert definitions_in_use() is None


def test_definitions_of_another_version(polling: PostHogServer) -> None:
    """What only another version of this library can read is none, and no exception."""
    poll = engine.current().poller
    assert poll
    text = PackedText.of("[]")
    assert text.store(caches["durable"], poll._prefix)
    rewrite_head(digest=text.digest, parts=len(text.parts))

    assert definitions_in_use() is None


def test_definitions_in_use_of_a_dead_cache(enabled: PostHogServer, settings: Settings) -> None:
    """A fleet that cannot be seen has no definitions, as far as this process knows."""
    settings.POSTHOG_PERSONAL_API_KEY = enabled.secret
    use(settings, Gone)

    assert definitions_in_use() is None


@pytest.fixture
def file(settings: Settings, tmp_path: Path) -> Path:
    """A definitions file that is to be used."""
    path = tmp_path / "flags.json"
    settings.POSTHOG_ENABLED = True
    settings.POSTHOG_FLAG_DEFINITIONS_FILE = path
    return path


def test_definitions_file(file: Path) -> None:
    """A file is as old as it is, and needs neither circuit nor cache."""
    file.write_text(json.dumps({"flags": [flag("a")]}))
    found = status()

    assert (found.health, found.circuit, found.shared_cache) == (Health.OK, None, None)
    assert found.definitions is not None
    assert (found.definitions.file, found.definitions.flags) == (str(file), 1)
    assert found.definitions.changed_at == datetime.fromtimestamp(file.stat().st_mtime, UTC)
    assert found.definitions.confirmed_at is None


@pytest.mark.parametrize(
    ("text", "fault"), [(None, "No such file or directory"), ("{}", 'a list under "flags"')]
)
def test_definitions_file_that_cannot_be_used(file: Path, text: str | None, fault: str) -> None:
    """A missing or broken file degrades; its fault is named, in the reason without its path."""
    if text is not None:
        file.write_text(text)
    found = status()

    assert found.health is Health.DEGRADED
    assert found.reasons == ("POSTHOG_FLAG_DEFINITIONS_FILE cannot be used",)
    assert found.definitions is not None
    assert fault in found.definitions.failure


def test_malformed_file_degrades(file: Path) -> None:
    """Its faults are known, and the others of its flags are counted."""
    file.write_text(json.dumps(DEFINITIONS))
    found = status()

    assert found.headline == "degraded: POSTHOG_FLAG_DEFINITIONS_FILE has malformed parts"
    assert found.definitions is not None
    assert (found.definitions.flags, found.definitions.failure) == (5, "")
    assert found.definitions.faults == (FAULT,)


def test_definitions_in_use_of_a_file(file: Path, settings: Settings) -> None:
    """They are those of the file, while it can be used and flags are enabled."""
    file.write_text(json.dumps(DEFINITIONS))
    found = definitions_in_use()
    assert found is not None
    assert sorted(found.undecidable) == sorted(REASONS)

    file.write_text("{")
    assert definitions_in_use() is None

    file.write_text(json.dumps(DEFINITIONS))
    settings.POSTHOG_ENABLED = False
    assert definitions_in_use() is None


# The settings


def test_every_setting_is_shown_in_order(enabled: PostHogServer) -> None:
    """The list is that of the page on settings, whatever is added to it."""
    assert list(values(status())) == [
        spec.metadata["name"]
        for spec in conf.Settings.__dataclass_fields__.values()
        if spec.metadata
    ]


def test_settings_are_those_in_effect(enabled: PostHogServer, settings: Settings) -> None:
    """Values are JSON's, defaults are marked, and what None means is resolved."""
    settings.POSTHOG_API_FLAGS = ("a", "b")
    settings.POSTHOG_API_IDENTITY = "olposthog.identity.default_identity"
    settings.POSTHOG_API_ANONYMOUS_COOKIE = None
    settings.FEATURES = {"old": 1}
    del settings.HOSTNAME
    found = status()
    shown = values(found)
    defaults = {one.name for one in found.settings if one.is_default}

    assert shown["POSTHOG_API_FLAGS"] == ["a", "b"]
    assert shown["POSTHOG_API_IDENTITY"] == "olposthog.identity.default_identity"
    assert shown["POSTHOG_API_ANONYMOUS_COOKIE"] is None
    assert shown["POSTHOG_CACHE_ALIAS"] == "durable"
    assert shown["FEATURES"] == {"old": True}
    assert shown["HOSTNAME"] == conf.current().hostname
    assert defaults >= {"HOSTNAME", "POSTHOG_CACHE_ALIAS", "POSTHOG_MAX_RETRIES"}
    assert not defaults & {"FEATURES", "POSTHOG_API_ANONYMOUS_COOKIE", "POSTHOG_API_HOST"}
    json.dumps(shown)


def test_secrets_are_not_shown(enabled: PostHogServer, settings: Settings) -> None:
    """Of a key it is said whether it is set; a password in an address or a cache is left out."""
    settings.POSTHOG_PROJECT_API_KEY = "phc_secret"
    settings.POSTHOG_API_HOST = f"http://user:secret@127.0.0.1:{enabled.port}/path"
    settings.CACHES = {
        **settings.CACHES,
        "durable": {**settings.CACHES["durable"], "LOCATION": "redis://:secret@cache"},
    }
    found = status()

    assert values(found)["POSTHOG_PROJECT_API_KEY"] == "set"
    assert values(found)["POSTHOG_PERSONAL_API_KEY"] == "not set"
    assert values(found)["POSTHOG_API_HOST"] == f"http://127.0.0.1:{enabled.port}/path"
    assert "secret" not in repr(found)


def test_status_of_a_process_that_has_been_at_it(enabled: PostHogServer) -> None:
    """Called in a running process, it sees what that process sees."""
    enabled.flags = {"a": True}
    evaluate("42")

    assert status().health is Health.OK


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (119, "119 s"),
        (120, "2 min"),
        (7199, "120 min"),
        (7200, "2 h"),
        (100_000, "28 h"),
        (1_000_000, "12 days"),
    ],
)
def test_duration_in_a_unit_that_people_read(seconds: float, words: str) -> None:
    """Nobody divides a hundred thousand seconds in the head."""
    assert how_long(seconds) == words
