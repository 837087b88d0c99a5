"""`manage.py posthog_check`: step by step to PostHog, and what the first obstacle says."""

from __future__ import annotations

import itertools
import json
import re
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from django.core.cache import caches
from django.core.cache.backends.db import DatabaseCache
from django.core.cache.backends.locmem import LocMemCache
from django.db import OperationalError
from pytest_django import Settings

from olposthog._core import engine
from olposthog._shared.breaker import State
from olposthog.features import evaluate, is_enabled
from olposthog.management.commands.posthog_check import Command
from olposthog.snapshot import Source
from olposthog.undecided import FIXES, UndecidedReason
from tests.gateway.tls import CERTIFICATE, secure
from tests.management.running import Run, run
from tests.posthog_faults import (
    Body,
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
)
from tests.posthog_server import PATIENCE, Flag, PostHogServer
from tests.test_definitions import flag, where
from tests.test_exposures import delivered
from tests.test_status import Gone, use
from tests.undecidable import COHORT, CONTINUOUS, FAULT, REASONS
from tests.undecidable import DEFINITIONS as DEFINITIONS_WITH_ODDITIES

COMMAND = "posthog_check"
EVALUATION = "first evaluation, by POSTHOG_PROJECT_API_KEY"
DEFINITIONS = "flag definitions, by POSTHOG_PERSONAL_API_KEY (PostHog bills ten requests)"


class Forgetful(LocMemCache):
    """A cache that keeps nothing, as a full disk does."""

    def set(self, *args: Any, **options: Any) -> None:
        """Drop it."""


class Tableless(DatabaseCache):
    """A cache in a database that has no table for it."""

    def get_many(self, *args: Any, **options: Any) -> Any:
        """Fail as the database does."""
        raise OperationalError("no such table")


class Timed(Command):
    """The command by a clock that is a second later each time it is looked at."""

    clock = itertools.count(0.0, 1.0).__next__


def steps(ran: Run) -> list[str]:
    """What was done, without the times that it took."""
    return [re.sub(r"[\d.]+ (ms|KiB)", r"# \1", line) for line in ran.out.splitlines()]


@pytest.fixture
def keyed(enabled: PostHogServer, settings: Settings) -> PostHogServer:
    """A PostHog that lets us read its definitions."""
    settings.POSTHOG_PERSONAL_API_KEY = enabled.secret
    enabled.definitions = {"flags": [flag("a")]}
    enabled.flags = {"a": True, "b": False}
    return enabled


# All is well


def test_every_step_is_taken_and_timed(keyed: PostHogServer) -> None:
    """One line for each step, with what it found, and at the end what that means."""
    found = run(COMMAND)

    assert found.code == 0
    *taken, conclusion = steps(found)
    assert taken == [
        f"settings: ok, PostHog is at port {keyed.port} of 127.0.0.1",
        "shared cache durable ... # ms, ok",
        "name lookup of 127.0.0.1 ... # ms, 127.0.0.1",
        f"connection to port {keyed.port} ... # ms, ok",
        f"{EVALUATION} ... # ms, 2 flags",
        "second evaluation, on the same connection ... # ms, 2 flags",
        f"{DEFINITIONS} ... # ms, 1 flag, # KiB",
    ]
    assert conclusion == (
        "A process's first request takes # ms, a later one # ms; one that takes 6 s opens the "
        "circuit."
    )


def test_undecidable_flags_of_posthog_are_listed(keyed: PostHogServer) -> None:
    """After the definitions: which flags cost a request per person, why, and what would fix it."""
    keyed.definitions = DEFINITIONS_WITH_ODDITIES
    found = run(COMMAND)

    assert found.code == 0
    *_, headline, continuous, malformed, static, faults, _ = found.out.splitlines()
    assert headline == (
        "3 of 5 flags cannot be decided locally. They cost a request to PostHog per person:"
    )
    assert continuous == (
        f"  continuous  {REASONS['continuous']}. {FIXES[UndecidedReason.EXPERIENCE_CONTINUITY]}"
    )
    assert malformed == (
        f"  malformed   {REASONS['malformed']}. {FIXES[UndecidedReason.MALFORMED]}"
    )
    assert static == f"  static      {REASONS['static']}. {FIXES[UndecidedReason.STATIC_COHORT]}"
    assert faults == f"Malformed parts of the definitions: {FAULT}."


def test_https_has_a_step_of_its_own(
    enabled: PostHogServer, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over https the handshake is timed, and the requests go over TLS too."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(CERTIFICATE))
    settings.POSTHOG_API_HOST = secure(enabled)
    found = run(COMMAND)

    assert found.code == 0
    assert re.search(r"^TLS \.\.\. \d+ ms, TLSv1\.\d$", found.out, re.MULTILINE)
    assert len(enabled.flag_calls) == 2


def test_server_itself_is_asked_about(enabled: PostHogServer) -> None:
    """Two evaluations of the server's own id, on one connection, and nothing else."""
    run(COMMAND)

    assert [call["distinct_id"] for call in enabled.flag_calls] == ["tests.example.com"] * 2
    assert len(enabled.requests) == 2


def test_definitions_can_be_left_out(keyed: PostHogServer) -> None:
    """--no-definitions spares the ten requests that PostHog bills."""
    found = run(COMMAND, "--no-definitions")

    assert found.code == 0
    assert "flag definitions: skipped" in found.out
    assert keyed.definition_calls == []


def test_site_without_personal_key_needs_no_definitions(enabled: PostHogServer) -> None:
    """Where there is no local evaluation, that is no failure."""
    found = run(COMMAND)

    assert found.code == 0
    assert "flag definitions: POSTHOG_PERSONAL_API_KEY is not set" in found.out


def test_without_definitions_disabled_is_not_off(
    enabled: PostHogServer, settings: Settings
) -> None:
    """The command states which value a flag has that is disabled in PostHog, and so it is."""
    enabled.flags = {"disabled": Flag(active=False), "zero": False}
    settings.FEATURES = {"disabled": True, "zero": True}
    found = run(COMMAND)

    assert found.code == 0
    assert "PostHog leaves it out of its answers, and the value in settings.FEATURES" in found.out
    assert "set its rollout to 0 %, or set it to False in settings.FEATURES" in found.out
    assert (is_enabled("disabled"), is_enabled("zero")) == (True, False)


def test_disabled_flags_are_named(keyed: PostHogServer, settings: Settings) -> None:
    """With definitions the command names flags that are disabled there and on in FEATURES."""
    inactive = [flag(key, active=False) for key in ("z", "variant", "off", "unlisted")]
    keyed.definitions = {"flags": [flag("a"), *inactive]}
    settings.FEATURES = {"a": True, "off": False, "unknown": True, "variant": "test", "z": True}
    found = run(COMMAND)

    assert found.code == 0
    assert "Disabled in PostHog, and on in settings.FEATURES: variant, z. Definitions" in found.out
    assert "A flag that is disabled in PostHog is not off" not in found.out


def test_site_without_shared_cache(enabled: PostHogServer, settings: Settings) -> None:
    """Where there is no shared cache, that is said and is no failure."""
    settings.CACHES = {"default": settings.CACHES["default"]}
    found = run(COMMAND)

    assert found.code == 0
    assert 'shared cache: none, for CACHES has no "durable"' in found.out


def test_slow_first_request_is_warned_of(enabled: PostHogServer, settings: Settings) -> None:
    """Half of the trip threshold is the most that a first request should take."""
    settings.POSTHOG_CIRCUIT_BREAKER_TRIP_THRESHOLD_SECONDS = 1.9
    found = run(Timed())
    assert found.code == 0
    assert "first request takes 1000 ms, a later one 1000 ms; one that takes 1.9 s" in found.out
    assert "The first request took more than half of that" in found.out

    settings.POSTHOG_CIRCUIT_BREAKER_TRIP_THRESHOLD_SECONDS = 2.1
    assert "more than half" not in run(Timed()).out


def test_proxy_stands_for_the_way(
    enabled: PostHogServer, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a proxy the way to PostHog is not this machine's: the proxy is named instead."""
    monkeypatch.setenv("http_proxy", f"http://user:secret@127.0.0.1:{enabled.port}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    settings.POSTHOG_API_HOST = "http://posthog.invalid"
    found = run(COMMAND)

    assert (found.code, len(enabled.flag_calls)) == (0, 2)
    assert f"through the proxy http://127.0.0.1:{enabled.port}" in found.out
    assert "name lookup of" not in found.out
    assert "secret" not in found.out + found.err


# PostHog is asked past the breaker


def test_open_circuit_is_passed_by_and_left_alone(
    enabled: PostHogServer, settings: Settings
) -> None:
    """An operator's question is answered while nobody else's is, and changes nothing."""
    settings.POSTHOG_CIRCUIT_BREAKER_FAILURE_THRESHOLD = 1
    enabled.fault = Status(500)
    evaluate("42")
    enabled.heal()
    enabled.clear()

    assert run(COMMAND).code == 0
    assert len(enabled.flag_calls) == 2
    assert engine.current().breaker.state is State.OPEN


def test_failure_does_not_count(enabled: PostHogServer, settings: Settings) -> None:
    """A check that fails opens no circuit."""
    settings.POSTHOG_CIRCUIT_BREAKER_FAILURE_THRESHOLD = 1
    enabled.flags_fault = Status(500)
    assert run(COMMAND).code == 1
    enabled.heal()

    assert engine.current().breaker.state is State.CLOSED
    assert evaluate("42").source is Source.POSTHOG


def test_failure_is_not_tried_again(enabled: PostHogServer) -> None:
    """One attempt, so that the time it took is the time of one request."""
    enabled.flags_fault = Reset()
    run(COMMAND)

    assert len(enabled.requests) == 1


def test_no_exposure_is_reported(enabled: PostHogServer) -> None:
    """A check is nobody's exposure."""
    enabled.flags = {"a": True}
    run(COMMAND)

    assert delivered(enabled) == []


def test_shared_cache_is_left_as_it_was_but_for_a_moment(enabled: PostHogServer) -> None:
    """What the check wrote is one entry, and not one that flags go by."""
    run(COMMAND)
    cache: Any = caches["durable"]

    assert [key.rpartition(":")[2] for key in cache._cache] == ["check"]
    assert None not in cache._expire_info.values()


# Obstacles


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Status(401), "HTTP 401. Check the key, and whether POSTHOG_API_HOST is the key's region."),
        (Status(404), "HTTP 404. Check POSTHOG_API_HOST: is it PostHog's address"),
        (Redirect(), "redirect. Set POSTHOG_API_HOST to the final address."),
        (Status(402), "HTTP 402. See PostHog's billing"),
        (Status(429), "HTTP 429. PostHog limits how often it is asked"),
        (Status(500), "HTTP 500. PostHog was reached, but gave no flags"),
        (Quota(), "over quota. See PostHog's billing"),
        (Html(), "a reply that is not JSON. Is POSTHOG_API_HOST PostHog's address?"),
        (Body(b"{}"), "a reply that is not flags. Is POSTHOG_API_HOST PostHog's address?"),
        (Reset(), "connection failed. "),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Fault) else "",
)
def test_evaluation_that_fails(enabled: PostHogServer, fault: Fault, message: str) -> None:
    """The cause and what may mend it; the steps after it are not taken."""
    enabled.flags_fault = fault
    found = run(COMMAND)

    assert found.code == 1
    assert found.err.startswith(f"{EVALUATION}: {message}")
    assert steps(found)[-1] == f"{EVALUATION} ... failed after # ms"


def test_definitions_that_fail(keyed: PostHogServer, settings: Settings) -> None:
    """The step names the key in question."""
    settings.POSTHOG_PERSONAL_API_KEY = "phx_wrong"
    found = run(COMMAND)

    assert found.code == 1
    assert f"{DEFINITIONS}: HTTP 401. Check" in found.err
    assert "phx_wrong" not in found.out + found.err


def test_definitions_that_are_none(keyed: PostHogServer) -> None:
    """A reply that holds no definitions says what it lacks."""
    keyed.definitions_fault = Html()

    found = run(COMMAND).err

    assert "PostHog's reply is not JSON" in found
    assert "Is POSTHOG_API_HOST PostHog's address?" in found


def test_refused_connection(enabled: PostHogServer) -> None:
    """Where nobody listens, no request is tried."""
    enabled.fault = Refuse()
    found = run(COMMAND)

    assert found.code == 1
    assert f"connection to port {enabled.port}: connection refused. " in found.err
    assert "first evaluation" not in found.out


def test_unknown_host(enabled: PostHogServer, settings: Settings) -> None:
    """A typing error in the host is found at the lookup."""
    settings.POSTHOG_API_HOST = "https://nowhere.invalid"
    found = run(COMMAND)

    assert found.code == 1
    assert "name lookup of nowhere.invalid: nowhere.invalid cannot be found (" in found.err
    assert "Check POSTHOG_API_HOST" in found.err


def test_certificate_that_nobody_trusts(enabled: PostHogServer, settings: Settings) -> None:
    """A certificate is judged before any key is sent."""
    settings.POSTHOG_API_HOST = secure(enabled)
    found = run(COMMAND)

    assert found.code == 1
    assert "TLS: the certificate is not trusted (" in found.err
    assert enabled.requests == []


@pytest.mark.parametrize("fault", [Hang(), HalfOpen()], ids=["no answer", "no handshake"])
def test_hanging_posthog_ends_the_check(
    enabled: PostHogServer, settings: Settings, fault: Fault
) -> None:
    """Each step is bounded by the trip threshold, whatever hangs."""
    settings.POSTHOG_CIRCUIT_BREAKER_TRIP_THRESHOLD_SECONDS = 0.2
    if isinstance(fault, HalfOpen):
        settings.POSTHOG_API_HOST = f"https://127.0.0.1:{enabled.port}"
    enabled.fault = fault
    found = run(COMMAND)

    assert found.code == 1
    assert re.search(r"(no answer within 0\.2 s|timeout)", found.err)


def test_lookup_that_hangs_ends_the_check(
    enabled: PostHogServer, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's resolver knows no deadline; the check does."""
    settings.POSTHOG_CIRCUIT_BREAKER_TRIP_THRESHOLD_SECONDS = 0.1
    over = threading.Event()
    real = socket.getaddrinfo

    def hanging(*args: Any, **options: Any) -> Any:
        over.wait(PATIENCE)
        return real(*args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", hanging)
    found = run(COMMAND)
    over.set()

    assert found.code == 1
    assert "name lookup of 127.0.0.1: no answer within 0.1 s. Check the name servers" in found.err


def test_late_evaluation_is_no_success(enabled: PostHogServer, settings: Settings) -> None:
    """An answer after the trip threshold would open the circuit: the check says so."""
    settings.POSTHOG_CIRCUIT_BREAKER_TRIP_THRESHOLD_SECONDS = 0.2
    enabled.flags_fault = Delay(5)

    assert run(COMMAND).code == 1


def test_dead_cache_ends_the_check(enabled: PostHogServer, settings: Settings) -> None:
    """A cache that fails is named with the kind of error, and PostHog is not asked."""
    use(settings, Gone)
    found = run(COMMAND)

    assert found.code == 1
    assert "shared cache durable: it cannot be read (ConnectionError). Check CACHES" in found.err
    assert "LOCATION must be reachable" in found.err
    assert "createcachetable" not in found.err
    assert "secret" not in found.out + found.err
    assert enabled.requests == []


def test_table_of_the_cache_that_is_missing(enabled: PostHogServer, settings: Settings) -> None:
    """What makes the table of a `DatabaseCache` is named."""
    settings.CACHES = {**settings.CACHES, "durable": {"BACKEND": f"{__name__}.Tableless"}}
    found = run(COMMAND)

    assert found.code == 1
    assert "manage.py createcachetable" in found.err


def test_silent_request_names_the_timeout(enabled: PostHogServer, settings: Settings) -> None:
    """What ended it is a setting: it is named, with how long that was."""
    settings.POSTHOG_FEATURE_FLAG_REQUEST_TIMEOUT_MS = 150
    enabled.flags_fault = Hang()
    found = run(COMMAND)

    assert found.code == 1
    assert "timeout. It takes more than 0.15 s" in found.err
    assert "POSTHOG_FEATURE_FLAG_REQUEST_TIMEOUT_MS" in found.err


def test_proxy_that_is_not_there(
    enabled: PostHogServer, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who refused the connection is the proxy: it is named, and its password is not."""
    monkeypatch.setenv("http_proxy", "http://bob:s3/cret@127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    settings.POSTHOG_API_HOST = "http://posthog.invalid"
    found = run(COMMAND)

    assert found.code == 1
    assert "Does the proxy http://127.0.0.1:9 answer" in found.err
    assert "cret" not in found.out + found.err


def test_cache_that_keeps_nothing_ends_the_check(
    enabled: PostHogServer, settings: Settings
) -> None:
    """A cache that can be read and not be written is no shared cache."""
    settings.CACHES = {**settings.CACHES, "durable": {"BACKEND": f"{__name__}.Forgetful"}}
    found = run(COMMAND)

    assert found.code == 1
    assert "it does not keep what is written (in silence)" in found.err


def test_settings_that_cannot_be_used_end_the_check(
    enabled: PostHogServer, settings: Settings
) -> None:
    """Each is named with its fix, and nothing is tried."""
    settings.POSTHOG_MAX_RETRIES = -1
    settings.FEATURES = []
    found = run(COMMAND)

    assert (found.out, found.code) == ("", 1)
    assert "POSTHOG_MAX_RETRIES is -1" in found.err
    assert "FEATURES is []" in found.err
    assert enabled.requests == []


# Nothing to ask


def test_disabled_site_has_nothing_to_check(posthog: PostHogServer) -> None:
    """With POSTHOG_ENABLED off, it is said what asking PostHog would need."""
    found = run(COMMAND)

    assert found.code == 0
    assert found.out.startswith("POSTHOG_ENABLED is off")
    assert "POSTHOG_ENABLED = True, and set POSTHOG_PROJECT_API_KEY and POSTHOG" in found.out
    assert posthog.requests == []


@pytest.fixture
def file(settings: Settings, tmp_path: Path) -> Path:
    path = tmp_path / "flags.json"
    settings.POSTHOG_ENABLED = True
    settings.POSTHOG_FLAG_DEFINITIONS_FILE = path
    return path


def test_definitions_file_is_read(file: Path) -> None:
    """Where a file answers, the file is what is checked."""
    file.write_text(json.dumps({"flags": [flag("a")]}))
    found = run(COMMAND)

    assert found.code == 0
    assert steps(found)[0] == f"definitions file {file} ... # ms, 1 flag"
    assert "Disabled in PostHog" not in found.out
    assert "PostHog is not asked" in found.out
    assert "unset POSTHOG_FLAG_DEFINITIONS_FILE, and set POSTHOG_PROJECT_API_KEY" in found.out


def test_undecidable_flags_of_a_file_are_listed(file: Path) -> None:
    """Nobody else decides them, so the list says what does; the file is used all the same."""
    file.write_text(json.dumps(DEFINITIONS_WITH_ODDITIES))
    found = run(COMMAND)

    assert found.code == 0
    assert found.out.splitlines()[1] == (
        "3 of 5 flags cannot be decided locally. Their values are from settings.FEATURES, else "
        "the caller's default:"
    )
    assert found.out.splitlines()[5] == f"Malformed parts of the definitions: {FAULT}."


def test_list_of_undecidable_flags_is_bounded(file: Path) -> None:
    """The first twenty are listed; of a long key or reason the beginning is."""
    odd = [{**CONTINUOUS, "key": f"{'k' * 99}{number:02}"} for number in range(21)]
    long = flag("a", where({**COHORT, "value": "c" * 5000}))
    file.write_text(json.dumps({"flags": [long, *odd]}))
    _, headline, *rows, more, _ = run(COMMAND).out.splitlines()

    assert headline.startswith("22 of 22 flags cannot be decided locally.")
    assert (len(rows), more) == (20, "  and 2 more")
    assert rows[0].startswith(f"  {'a':40}  it needs the cohort ccccc")
    assert f"ccc.... {FIXES[UndecidedReason.STATIC_COHORT]}" in rows[0]
    assert rows[1].startswith(f"  {'k' * 37}...  it persists")
    assert max(map(len, rows)) < 400


def test_terminal_obeys_no_key_and_no_reason(file: Path) -> None:
    """What definitions hold is shown with escapes, and each flag keeps to its line."""
    odd = flag("a\n\x1b[2J", where({**COHORT, "value": "\n\x1b[2J"}))
    file.write_text(json.dumps({"flags": [odd, {**odd, "filters": None}]}))
    printed = run(COMMAND).out

    assert printed.replace("\n", "").isprintable()
    assert len(printed.splitlines()) == 5


def test_disabled_flags_of_a_file_are_named(file: Path, settings: Settings) -> None:
    """A definitions file is checked for disabled flags too; they are off."""
    file.write_text(json.dumps({"flags": [flag("a", active=False)]}))
    settings.FEATURES = {"a": True}

    assert "Disabled in PostHog, and on in settings.FEATURES: a. Definitions" in run(COMMAND).out
    assert not is_enabled("a")


def test_what_is_set_need_not_be_set(file: Path, settings: Settings) -> None:
    """Where key and address are there already, unsetting the file is all it takes."""
    file.write_text(json.dumps({"flags": []}))
    settings.POSTHOG_PROJECT_API_KEY = "phc_test"
    settings.POSTHOG_API_HOST = "https://eu.i.posthog.com"

    assert run(COMMAND).out.endswith("To ask it, unset POSTHOG_FLAG_DEFINITIONS_FILE.\n")


def test_definitions_file_that_cannot_be_used(file: Path) -> None:
    """Its fault ends the check, and the fix is named."""
    file.write_text("{")
    found = run(COMMAND)

    assert found.code == 1
    assert f"{file} is not JSON" in found.err
    assert "posthog_export" in found.err


def test_keys_are_never_printed(keyed: PostHogServer) -> None:
    """Neither key is in anything that is said, in success or failure."""
    well = run(COMMAND)
    keyed.definitions_fault = Status(401)
    ill = run(COMMAND)

    for said in (well.out, well.err, ill.out, ill.err):
        assert keyed.token not in said
        assert keyed.secret not in said
