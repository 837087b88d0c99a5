"""`manage.py posthog_status`: the status as text, as JSON, and as an exit code."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytest_django import Settings

from olposthog._core import engine
from olposthog.undecided import FIXES, UndecidedReason
from tests.management.running import Run, run
from tests.posthog_server import PATIENCE, PostHogServer
from tests.test_definitions import flag
from tests.test_status import Gone, open_circuit, polling, rewrite_head, use
from tests.undecidable import CONTINUOUS, DEFINITIONS, FAULT, REASONS

COMMAND = "posthog_status"

__all__ = ["open_circuit", "polling"]  # fixtures


def line(ran: Run, name: str) -> str:
    """What stands beside a name."""
    (found,) = re.findall(rf"^{name} +(.+)$", ran.out, re.MULTILINE)
    return str(found)


# Exit codes, and the headline


def test_ok_is_0(enabled: PostHogServer) -> None:
    """All is well: the headline says it, and nothing is on stderr for cron to send."""
    found = run(COMMAND)

    assert (found.out.splitlines()[0], found.code, found.err) == ("ok", 0, "")


def test_disabled_is_0(posthog: PostHogServer) -> None:
    """Flags that are off on purpose are no reason for an alert."""
    found = run(COMMAND)

    assert (found.out.splitlines()[0], found.code, found.err) == ("disabled", 0, "")
    assert line(found, "POSTHOG_ENABLED") == "False (default)"


def test_what_is_set_is_no_default(posthog: PostHogServer, settings: Settings) -> None:
    """Whoever switched flags off, or set another default, finds the setting; None sets nothing."""
    settings.POSTHOG_ENABLED = False
    settings.POSTHOG_MAX_RETRIES = 3
    settings.POSTHOG_POLL_INTERVAL = None
    found = run(COMMAND)

    assert line(found, "POSTHOG_ENABLED") == "False"
    assert line(found, "POSTHOG_MAX_RETRIES") == "3"
    assert line(found, "POSTHOG_POLL_INTERVAL") == "300 (default)"


def test_degraded_is_1(open_circuit: PostHogServer) -> None:
    """An open circuit is told by headline, error and exit code alike."""
    found = run(COMMAND)

    headline = found.out.splitlines()[0]
    assert headline.startswith("degraded: the circuit is open since ")
    assert (found.code, found.err) == (1, headline)


def test_every_reason_is_told(enabled: PostHogServer, settings: Settings) -> None:
    """Two settings that cannot be used are two reasons, and what to do about each follows."""
    settings.POSTHOG_MAX_RETRIES = -1
    settings.FEATURES = []
    found = run(COMMAND)

    assert found.code == 2
    assert found.out.splitlines()[0] == (
        "misconfigured: POSTHOG_MAX_RETRIES cannot be used; FEATURES cannot be used"
    )
    assert "POSTHOG_MAX_RETRIES is -1, which is not a whole number of at least 0." in found.out
    assert line(found, "POSTHOG_MAX_RETRIES ") == "cannot be used"


# The text


def test_text_of_a_healthy_site(enabled: PostHogServer) -> None:
    """One line each for circuit, cache and definitions, and one for each setting."""
    found = run(COMMAND)

    assert line(found, "circuit") == "closed, and never known to have been open"
    assert re.fullmatch(
        r"durable, LocMemCache: answers in \d+ ms; it is each process's own",
        line(found, "shared cache"),
    )
    assert line(found, "definitions") == "none"
    assert line(found, "POSTHOG_MAX_RETRIES") == "3 (default)"
    assert line(found, "POSTHOG_PERSONAL_API_KEY") == "not set (default)"
    assert line(found, "POSTHOG_PROJECT_API_KEY") == "set"
    assert line(found, "POSTHOG_FLAG_DEFINITIONS_FILE") == "'' (default)"
    assert line(found, "HOSTNAME") == "tests.example.com"


def test_text_says_since_when_the_circuit_is_open(open_circuit: PostHogServer) -> None:
    """In UTC, with seconds."""
    since = line(run(COMMAND), "circuit")

    assert re.fullmatch(r"open since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", since)


def test_text_of_a_dead_cache(enabled: PostHogServer, settings: Settings) -> None:
    """The cache is said to fail, and the circuit not to be known; no traceback, no password."""
    use(settings, Gone)
    found = run(COMMAND)

    assert found.code == 1
    assert re.fullmatch(
        r"durable, Gone: fails after \d+ ms \(ConnectionError\)", line(found, "shared cache")
    )
    assert line(found, "circuit") == "not known"
    assert "secret" not in found.out + found.err


def test_text_without_a_shared_cache(enabled: PostHogServer, settings: Settings) -> None:
    """Where processes share nothing, a command cannot know their circuits."""
    settings.CACHES = {"default": settings.CACHES["default"]}
    found = run(COMMAND)

    assert line(found, "circuit") == "each process has its own"
    assert line(found, "shared cache") == "none is used"


def test_text_of_the_fleets_definitions(polling: PostHogServer) -> None:
    """How many, how old, and when PostHog last said so."""
    assert re.fullmatch(
        r"of the fleet, 2 flags, from [-\d]+ [:\d]+ UTC \(\d+ s old\), confirmed \d+ s ago",
        line(run(COMMAND), "definitions"),
    )


def test_text_of_definitions_that_fail(polling: PostHogServer) -> None:
    """The last good ones and the reason why there are none newer."""
    rewrite_head(failure="HTTP 401")
    found = run(COMMAND)

    assert found.code == 1
    assert line(found, "definitions").startswith("of the fleet, 2 flags, from ")
    assert line(found, "definitions").endswith(", HTTP 401")


def test_text_of_definitions_that_never_came(polling: PostHogServer) -> None:
    """A fleet that has asked and got nothing has none yet."""
    rewrite_head(digest="", fetched_at=None, flags=None, failure="timeout")

    assert line(run(COMMAND), "definitions") == "of the fleet, none yet, timeout"


@pytest.fixture
def file(settings: Settings, tmp_path: Path) -> Path:
    path = tmp_path / "flags.json"
    settings.POSTHOG_ENABLED = True
    settings.POSTHOG_FLAG_DEFINITIONS_FILE = path
    return path


def test_text_of_a_definitions_file(file: Path) -> None:
    """Path, number and age; and that nobody asks PostHog."""
    file.write_text(json.dumps({"flags": [flag("a")]}))
    found = run(COMMAND)

    assert line(found, "circuit") == "none: PostHog is not asked"
    assert re.fullmatch(
        rf"file {re.escape(str(file))}, 1 flag, from .* UTC \(\d+ s old\)",
        line(found, "definitions"),
    )


def test_text_of_an_old_definitions_file(file: Path) -> None:
    """Its age is in a unit that people read."""
    file.write_text(json.dumps({"flags": []}))
    written = time.time() - 3 * 86400
    os.utime(file, (written, written))

    assert line(run(COMMAND), "definitions").endswith("(3 days old)")


def test_text_of_a_missing_definitions_file(file: Path) -> None:
    """What is wrong with the file is said in full."""
    found = run(COMMAND)

    assert found.code == 1
    assert line(found, "definitions") == f"{file} cannot be read: No such file or directory."


# Flags that cannot be decided locally


@pytest.fixture
def odd(polling: PostHogServer, another_process: Callable[[], None]) -> PostHogServer:
    """A fleet whose definitions cannot all be decided, as another process comes to it."""
    polling.definitions = DEFINITIONS
    poll = engine.current().poller
    assert poll
    rewrite_head(checked_at=0.0)
    poll.look()
    assert engine.current().shared.settle(PATIENCE)
    another_process()
    polling.clear()
    return polling


UNDECIDED = [
    {"key": key, "reason": reason, "detail": REASONS[key], "fix": FIXES[reason]}
    for key, reason in (
        ("continuous", UndecidedReason.EXPERIENCE_CONTINUITY),
        ("malformed", UndecidedReason.MALFORMED),
        ("static", UndecidedReason.STATIC_COHORT),
    )
]


def test_undecidable_flags_of_the_fleet(odd: PostHogServer) -> None:
    """They are a cost and no outage: the exit code is 0, and PostHog is not asked for the list."""
    found = run(COMMAND)

    assert (found.out.splitlines()[0], found.code) == ("ok", 0)
    assert (
        "3 of 5 flags cannot be decided locally. They cost a request to PostHog per person:\n"
        f"  continuous  {REASONS['continuous']}. Turn off"
    ) in found.out
    assert f"Malformed parts of the definitions: {FAULT}.\n\nPOSTHOG_ENABLED " in found.out
    assert json.loads(run(COMMAND, "--json").out)["undecided"] == UNDECIDED
    assert odd.requests == []


def test_undecidable_flags_of_a_file(file: Path) -> None:
    """Malformed parts degrade: the flags concerned have FEATURES until somebody fixes the file."""
    file.write_text(json.dumps(DEFINITIONS))
    found = run(COMMAND)

    assert found.code == 1
    assert found.err == "degraded: POSTHOG_FLAG_DEFINITIONS_FILE has malformed parts"
    assert "3 of 5 flags cannot be decided locally. Their values are from settings" in found.out
    document = json.loads(run(COMMAND, "--json").out)
    assert document["undecided"] == UNDECIDED
    assert document["definitions"]["faults"] == [FAULT]


def test_undecidable_flags_of_a_sound_file_are_well(file: Path) -> None:
    """A file may leave flags to FEATURES: nothing is broken."""
    file.write_text(json.dumps({"flags": [CONTINUOUS]}))
    found = run(COMMAND)

    assert (found.out.splitlines()[0], found.code) == ("ok", 0)
    assert "1 of 1 flag cannot be decided locally." in found.out


def test_definitions_that_decide_everything_have_no_list(polling: PostHogServer) -> None:
    """Where there is nothing to report, nothing is said, and the JSON has an empty list."""
    assert "cannot be decided" not in run(COMMAND).out
    assert json.loads(run(COMMAND, "--json").out)["undecided"] == []


def test_list_is_not_known_without_definitions(enabled: PostHogServer) -> None:
    """No local evaluation is told from definitions that decide everything."""
    assert json.loads(run(COMMAND, "--json").out)["undecided"] is None


# JSON


def test_json_has_everything(open_circuit: PostHogServer) -> None:
    """The same as data, with times in ISO 8601; the exit code is the same."""
    ran = run(COMMAND, "--json")
    found: dict[str, Any] = json.loads(ran.out)

    assert ran.code == 1
    assert list(found) == [
        "health",
        "reasons",
        "circuit",
        "shared_cache",
        "definitions",
        "settings",
        "problems",
        "undecided",
    ]
    assert (found["health"], found["circuit"]["state"]) == ("degraded", "open")
    assert found["circuit"]["changed_at"].endswith("Z")
    assert found["settings"][0] == {
        "name": "POSTHOG_ENABLED",
        "value": True,
        "is_default": False,
    }


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_keys_are_never_printed(
    polling: PostHogServer,
    settings: Settings,
    another_process: Callable[[], None],
    options: tuple[str, ...],
) -> None:
    """Neither key is in anything that is printed."""
    printed = run(COMMAND, *options)

    assert polling.token not in printed.out + printed.err
    assert polling.secret not in printed.out + printed.err


def test_posthog_is_not_asked(polling: PostHogServer) -> None:
    """A probe costs PostHog nothing."""
    run(COMMAND)

    assert polling.requests == []
