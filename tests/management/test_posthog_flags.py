"""`manage.py posthog_flags`: whose flags, in which form, and what is said when PostHog is away."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.base_user import AbstractBaseUser
from django.core.cache import caches
from django.core.management import CommandError, call_command
from django.db import connection
from pytest_django import Settings

from olposthog._core import engine
from olposthog.features import clear_cache, is_enabled
from olposthog.management.commands.posthog_flags import Command
from olposthog.undecided import FIXES, UndecidedReason
from tests.management.running import run
from tests.posthog_faults import Delay, Refuse, Status
from tests.posthog_server import Flag, PostHogServer, Variant
from tests.test_definitions import flag
from tests.test_exposures import delivered
from tests.undecidable import DEFINITIONS, REASONS

COMMAND = "posthog_flags"


@pytest.fixture
def user(db: None) -> AbstractBaseUser:
    return get_user_model().objects.create_user("ada")


def of_header(request):
    return request.headers["X-Tenant"]


# Whose


def test_without_options_the_server_itself_is_asked_for(enabled: PostHogServer) -> None:
    """Nobody being named, flags are those of `settings.HOSTNAME`."""
    first_line = run(COMMAND).out.splitlines()[0]

    assert first_line.startswith("Flags of the server itself (distinct id tests.example.com)")
    assert {call["distinct_id"] for call in enabled.flag_calls} == {"tests.example.com"}


def test_user_is_found_by_the_name_that_logs_in(
    enabled: PostHogServer, user: AbstractBaseUser
) -> None:
    """--user takes the user name, and evaluates for the user's distinct id."""
    enabled.flags = {"beta": Flag(only_for={str(user.pk)})}
    found = run(COMMAND, "--user", "ada")

    assert found.out.startswith(f"Flags of user ada (distinct id {user.pk}): posthog, ")
    assert re.search(r"^beta +on ", found.out, re.MULTILINE)


def test_id_is_taken_as_it_is(enabled: PostHogServer) -> None:
    """--id takes a distinct id, whoever that is."""
    assert run(COMMAND, "--id", "someone").out.startswith(
        "Flags of this person (distinct id someone): posthog, "
    )


def test_unknown_user_is_named(enabled: PostHogServer, db: None) -> None:
    """The error quotes the name and says what to try; nobody is asked about."""
    found = run(COMMAND, "--user", "nobody")

    assert (found.out, found.code) == ("", 1)
    assert "There is no user 'nobody'" in found.err
    assert "--id" in found.err
    assert enabled.requests == []


def test_user_and_id_exclude_each_other(enabled: PostHogServer) -> None:
    """Two people at once are an error."""
    found = run(COMMAND, "--user", "ada", "--id", "1")

    assert (found.err, found.code) == ("Give --user or --id, but not both.", 1)


def test_empty_id_is_nobody(enabled: PostHogServer) -> None:
    """An empty variable in a script does not quietly mean the server."""
    found = run(COMMAND, "--id", "")

    assert (found.out, found.code) == ("", 1)
    assert "--id needs a distinct id" in found.err


def test_user_whom_only_a_request_identifies(
    enabled: PostHogServer, user: AbstractBaseUser, settings: Settings
) -> None:
    """Where POSTHOG_API_IDENTITY needs a real request, the error says so."""
    settings.POSTHOG_API_IDENTITY = f"{__name__}.of_header"
    found = run(COMMAND, "--user", "ada")

    assert found.code == 1
    assert "POSTHOG_API_IDENTITY" in found.err


def test_site_without_users(enabled: PostHogServer, settings: Settings) -> None:
    """A user who cannot be looked up is looked up by distinct id instead."""
    settings.AUTH_USER_MODEL = "shop.Missing"
    found = run(COMMAND, "--user", "ada")

    assert found.code == 1
    assert "The user 'ada' cannot be looked up (ImproperlyConfigured" in found.err
    assert "--id" in found.err


def test_table_of_users_that_is_missing(enabled: PostHogServer, db: None) -> None:
    """A database without its tables is an error, not a traceback."""
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE auth_user")
    found = run(COMMAND, "--user", "ada")

    assert found.code == 1
    assert "The user 'ada' cannot be looked up (OperationalError" in found.err


# The table


def test_table_shows_each_flag(enabled: PostHogServer, settings: Settings) -> None:
    """A line has value, source, for whom, PostHog's reason, and the payload."""
    settings.FEATURES = {"old": True}
    enabled.flags = {
        "checkout": Variant("test", payload={"colour": "grün"}),
        "off": False,
        "client": Flag(True, runtime="client"),
        "server": Flag(True, runtime="server"),
    }
    lines = run(COMMAND, "--id", "42").out.splitlines()

    assert lines[1:] == [
        "",
        "flag      value  source    for            reason              payload",
        'checkout  test   posthog   both           Condition match     {"colour": "grün"}',
        "client    on     posthog   browsers only  Condition match",
        "off       off    posthog   both           No condition match",
        "old       on     fallback  both",
        "server    on     posthog   server only    Condition match",
    ]


def test_first_line_says_when_and_how_long(enabled: PostHogServer) -> None:
    """Whose, from where, when in UTC with seconds, and how long the answer took."""
    assert re.match(
        r"Flags of this person \(distinct id 42\): posthog, evaluated at "
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC, answered in \d+ ms$",
        run(COMMAND, "--id", "42").out.splitlines()[0],
    )


def test_flag_that_nobody_gets_says_so(enabled: PostHogServer, settings: Settings) -> None:
    """What PostHog has for browsers and POSTHOG_API_FLAGS keeps from them is for nobody."""
    settings.POSTHOG_API_FLAGS = []
    enabled.flags = {"client": Flag(True, runtime="client")}

    assert "client  on     posthog  nobody" in run(COMMAND).out


def test_long_payload_is_cut_in_the_table_only(enabled: PostHogServer) -> None:
    """A line has at most 100 characters; --json has all of them."""
    payload = {"text": "x" * 300}
    enabled.flags = {"checkout": Variant("test", payload=payload)}
    line = run(COMMAND).out.splitlines()[-1]

    assert len(line) == 100
    assert line.endswith("...")
    assert json.loads(run(COMMAND, "--json").out)["flags"][0]["payload"] == payload


def test_no_flags_are_said_to_be_none(enabled: PostHogServer) -> None:
    """A project without flags does not look like a broken table."""
    assert run(COMMAND).out.splitlines()[-1] == "There are none."


# JSON


def test_json_has_everything(enabled: PostHogServer) -> None:
    """An object with the whole answer, in UTC, and progress where it does no harm."""
    enabled.flags = {"checkout": Variant("test", payload=[1]), "off": False}
    ran = run(COMMAND, "--id", "42", "--json")
    found = json.loads(ran.out)

    assert list(found) == ["distinct_id", "source", "evaluated_at", "seconds", "flags"]
    assert (found["distinct_id"], found["source"]) == ("42", "posthog")
    assert datetime.fromisoformat(found["evaluated_at"]).utcoffset() == timedelta(0)
    assert found["seconds"] > 0
    assert found["flags"] == [
        {
            "key": "checkout",
            "value": "test",
            "enabled": True,
            "variant": "test",
            "payload": [1],
            "reason": "Condition match",
            "source": "posthog",
            "undecided": None,
            "fix": None,
            "server": True,
            "browsers": True,
        },
        {
            "key": "off",
            "value": False,
            "enabled": False,
            "variant": None,
            "payload": None,
            "reason": "No condition match",
            "source": "posthog",
            "undecided": None,
            "fix": None,
            "server": True,
            "browsers": True,
        },
    ]
    assert ran.err.startswith("Evaluating the flags of this person")


# Undecided flags


@pytest.fixture
def file(settings: Settings, tmp_path: Path) -> Path:
    """The definitions file of a site without any network."""
    file = tmp_path / "flags.json"
    file.write_text(json.dumps(DEFINITIONS))
    settings.POSTHOG_ENABLED = True
    settings.POSTHOG_FLAG_DEFINITIONS_FILE = str(file)
    return file


def test_table_of_a_file_that_decides_not_everything(file: Path, settings: Settings) -> None:
    """Each flag has a line, also without a value; below stand the reasons and what to do."""
    settings.FEATURES = {"static": "classic"}
    found = run(COMMAND, "--id", "42")
    first, *lines = found.out.splitlines()

    assert first.startswith("Flags of this person (distinct id 42): fallback, evaluated at ")
    assert lines[1:9] == [
        "flag        value    source    for   reason             payload",
        "by-plan     -        fallback  both  undecided",
        "continuous  -        fallback  both  undecided",
        "malformed   -        fallback  both  undecided",
        "sound       on       local     both  Evaluated locally",
        "static      classic  fallback  both  undecided",
        "",
        "Flags that the definitions cannot decide for this person:",
    ]
    assert [line.split()[0] for line in lines[9:]] == [
        "by-plan",
        "continuous",
        "malformed",
        "static",
    ]
    assert lines[9].endswith(f". {FIXES[UndecidedReason.MISSING_PROPERTY]}")
    assert lines[12].endswith(f"{REASONS['static']}. {FIXES[UndecidedReason.STATIC_COHORT]}")
    assert len(found.err.splitlines()) == 1


def test_json_of_a_flag_that_nobody_decided(file: Path) -> None:
    """It has no value and is not enabled; the reason and the fix are text."""
    found = json.loads(run(COMMAND, "--json").out)
    (row,) = [one for one in found["flags"] if one["key"] == "static"]

    assert (found["source"], row["source"]) == ("fallback", "fallback")
    assert (row["value"], row["enabled"], row["variant"]) == (None, False, None)
    assert (row["undecided"], row["fix"]) == (
        REASONS["static"],
        FIXES[UndecidedReason.STATIC_COHORT],
    )


def test_flag_that_posthog_failed_to_compute_is_shown(enabled: PostHogServer) -> None:
    """It exists, though it has no value now: the reason says so."""
    enabled.flags = {"failed": Flag(failed=True), "sound": True}

    assert "failed  -      fallback  both  PostHog failed to compute it" in run(COMMAND).out


@pytest.mark.parametrize("options", [(), ("--json",), ("--typescript",)])
def test_no_exposure_is_reported(enabled: PostHogServer, options: tuple[str, ...]) -> None:
    """Whatever is shown, nobody counts in an experiment for it."""
    enabled.flags = {"checkout": Variant("test")}
    run(COMMAND, *options)
    assert is_enabled("checkout", opt_unique_id="7")

    (event,) = delivered(enabled)
    assert event["distinct_id"] == "7"


# PostHog away


def test_outage_is_explained(enabled: PostHogServer, settings: Settings) -> None:
    """The values are fallbacks; beside them stands what to do, and the command succeeds."""
    settings.FEATURES = {"old": True}
    enabled.fault = Refuse()
    found = run(COMMAND)

    assert "old   on     fallback  both" in found.out
    assert "PostHog could not be asked: settings.FEATURES answered." in found.err
    assert "manage.py posthog_check" in found.err
    assert "circuit" not in found.err
    assert found.code == 0


def test_open_circuit_is_named(enabled: PostHogServer, settings: Settings) -> None:
    """Where PostHog was not even asked, because the circuit is open, that is said."""
    settings.POSTHOG_CIRCUIT_BREAKER_FAILURE_THRESHOLD = 1
    enabled.fault = Status(500)

    assert "Its circuit is open" in run(COMMAND).err


def test_stale_values_are_explained(enabled: PostHogServer, settings: Settings) -> None:
    """Last known values are told from new ones."""
    settings.CACHES = {
        **settings.CACHES,
        "durable": {**settings.CACHES["durable"], "TIMEOUT": 0},
    }
    settings.POSTHOG_LOCAL_CACHE_SECONDS = 0
    settings.POSTHOG_STALE_IF_ERROR_SECONDS = 3600
    enabled.flags = {"beta": True}
    run(COMMAND, "--json")
    run(COMMAND, "--typescript")
    enabled.fault = Refuse()

    assert "PostHog could not be asked: the last known values answered." in run(COMMAND).err
    typescript = run(COMMAND, "--typescript")
    assert '"beta"' in typescript.out
    assert "last known keys" in typescript.err


def test_disabled_flags_are_explained(posthog: PostHogServer) -> None:
    """POSTHOG_ENABLED being off is no outage: nothing is to be checked."""
    found = run(COMMAND)

    assert "POSTHOG_ENABLED is off: settings.FEATURES answers." in found.err
    assert "posthog_check" not in found.err
    assert posthog.requests == []


def test_setting_that_cannot_be_used_is_explained(
    enabled: PostHogServer, settings: Settings
) -> None:
    """A misconfigured site still shows its flags, and what to mend."""
    settings.POSTHOG_MAX_RETRIES = "three"
    found = run(COMMAND)

    assert found.code == 0
    assert "PostHog was not asked, for a setting cannot be used" in found.err
    assert "POSTHOG_MAX_RETRIES is 'three', which is not" in found.err
    assert "could not be asked" not in found.err


def test_broken_definitions_file_is_explained(settings: Settings) -> None:
    """Where a file is to answer and cannot, its fault is named."""
    settings.POSTHOG_ENABLED = True
    settings.POSTHOG_FLAG_DEFINITIONS_FILE = "/nowhere/flags.json"

    found = run(COMMAND)

    assert "The definitions file could not be used: settings.FEATURES answered." in found.err
    assert "/nowhere/flags.json cannot be read: No such file or directory." in found.err
    assert "PostHog could not be asked" not in found.err


def test_healthy_answer_needs_no_explanation(enabled: PostHogServer) -> None:
    """While all is well, there is one line of progress and no warning."""
    assert len(run(COMMAND).err.splitlines()) == 1


# TypeScript


def union(text: str) -> list[str]:
    """The members of the type in a TypeScript module that has nothing else."""
    comment, declaration = text.split("\n", 1)
    assert comment == (
        "// Written by `manage.py posthog_flags --typescript`: the flags that browsers may see."
    )
    string = r'"(?:[^"\\]|\\.)*"'
    found = re.fullmatch(
        rf"export type FlagKey =((?:\n  \| {string})+|  ?never);\n", declaration
    ) or re.fullmatch(r"export type FlagKey = (never);\n", declaration)
    assert found, declaration
    return [json.loads(one) for one in re.findall(string, found[1])]


def test_typescript_is_the_keys_that_browsers_may_see(
    enabled: PostHogServer, settings: Settings
) -> None:
    """Keys are sorted, whatever their values; server-only and hidden ones are not among them."""
    settings.FEATURES = {"web-old": True, "hidden-old": True}
    settings.POSTHOG_API_FLAGS = ["web-*"]
    enabled.flags = {
        "web-z": False,
        "web-a": Flag(True, runtime="client"),
        "web-server": Flag(True, runtime="server"),
        "hidden": True,
        "survey-targeting-1": True,
    }

    assert union(run(COMMAND, "--typescript").out) == ["web-a", "web-old", "web-z"]


def test_typescript_escapes_every_key(enabled: PostHogServer) -> None:
    """A key is a string of TypeScript, whatever is in it."""
    keys = ['a"b', "a\\b", "grün", "line\u2028end", "new\nline"]
    enabled.flags = dict.fromkeys(keys, True)
    text = run(COMMAND, "--typescript").out

    assert union(text) == sorted(keys)
    assert text.isascii()


def test_typescript_without_flags_is_never(enabled: PostHogServer) -> None:
    """No key at all is still a type."""
    text = run(COMMAND, "--typescript").out

    assert union(text) == []
    assert "FlagKey = never;" in text


def test_typescript_is_the_same_from_run_to_run(enabled: PostHogServer) -> None:
    """The file changes when the flags do, and not otherwise."""
    enabled.flags = {"b": True, "a": True}
    before = run(COMMAND, "--typescript").out
    enabled.flags = {"a": False, "b": "variant"}
    clear_cache()

    assert run(COMMAND, "--typescript").out == before


def test_typescript_has_flags_that_failed(enabled: PostHogServer) -> None:
    """A flag that PostHog could not compute just now exists all the same."""
    enabled.flags = {"sound": True, "failed": Flag(failed=True)}

    assert union(run(COMMAND, "--typescript").out) == ["failed", "sound"]


def test_typescript_has_flags_that_definitions_cannot_decide(file: Path) -> None:
    """All keys of a file are known, whatever it decides; those for servers only are left out."""
    server = flag("server", evaluation_runtime="server")
    file.write_text(json.dumps({"flags": [*DEFINITIONS["flags"], server]}))

    assert union(run(COMMAND, "--typescript").out) == [
        "by-plan",
        "continuous",
        "malformed",
        "sound",
        "static",
    ]


def test_typescript_prints_no_half_a_union(enabled: PostHogServer, settings: Settings) -> None:
    """While PostHog cannot be asked, keys would be missing: an error, and nothing printed."""
    settings.FEATURES = {"old": True}
    enabled.fault = Refuse()
    found = run(COMMAND, "--typescript")

    assert (found.out, found.code) == ("", 1)
    assert "The keys that PostHog has are not known now." in found.err
    assert "manage.py posthog_check" in found.err


def test_typescript_of_disabled_flags_is_features(settings: Settings) -> None:
    """With POSTHOG_ENABLED off, the keys of FEATURES are all there are, and that is said."""
    settings.FEATURES = {"old": True}
    found = run(COMMAND, "--typescript")

    assert (union(found.out), found.code) == (["old"], 0)
    assert "keys of settings.FEATURES alone: POSTHOG_ENABLED is off" in found.err


@pytest.mark.parametrize("other", [("--json",), ("--id", "42"), ("--user", "ada")])
def test_typescript_goes_with_no_other_option(
    enabled: PostHogServer, other: tuple[str, ...]
) -> None:
    """What it prints depends on nobody, so naming somebody is a mistake."""
    found = run(COMMAND, "--typescript", *other)

    assert (found.out, found.code) == ("", 1)
    assert "--typescript goes with no other option" in found.err


def test_callers_get_a_command_error(enabled: PostHogServer) -> None:
    """Whoever calls the command from Python gets Django's own exception."""
    with pytest.raises(CommandError):
        call_command(COMMAND, id="")


@pytest.mark.parametrize("options", [[], ["--typescript"]], ids=["table", "TypeScript"])
def test_fetch_that_was_begun_is_finished(
    enabled: PostHogServer, settings: Settings, options: list[str]
) -> None:
    """A command whose turn it is to fetch the fleet's definitions leaves them for the others."""
    settings.POSTHOG_PERSONAL_API_KEY = enabled.secret
    enabled.definitions_fault = Delay(0.5)
    run(COMMAND, *options)

    assert len(enabled.definition_calls) == 1
    engine.reset()
    assert has_definitions()


def has_definitions() -> bool:
    """Whether the fleet has some."""
    poll = engine.current().poller
    assert poll
    head = poll.peek()
    return bool(head and head.fetched_at)


def test_fetch_is_finished_by_a_command_that_fails(
    enabled: PostHogServer, settings: Settings
) -> None:
    """Keys that are not known are an error; the definitions that were begun come all the same."""
    settings.POSTHOG_PERSONAL_API_KEY = enabled.secret
    enabled.flags_fault = Status(500)
    enabled.definitions_fault = Delay(0.5)
    found = run(COMMAND, "--typescript")

    assert found.code == 1
    engine.reset()
    assert has_definitions()


class Impatient(Command):
    """The command, which says at once what it waits for."""

    patience_seconds = 0.01


def test_waiting_is_explained(enabled: PostHogServer, settings: Settings) -> None:
    """Whoever waits for longer is told once what for; most never are."""
    settings.POSTHOG_PERSONAL_API_KEY = enabled.secret
    assert "Finishing" not in run(COMMAND).err
    clear_cache()
    engine.reset()
    caches["durable"].clear()
    enabled.definitions_fault = Delay(0.5)

    assert run(Impatient()).err.count("Finishing what other processes wait for") == 1
