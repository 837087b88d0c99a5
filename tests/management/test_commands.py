"""What holds for every command."""

from __future__ import annotations

import io
import re
import sys
import traceback
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command, get_commands, load_command_class
from pytest_django import Settings

from tests.management.running import run
from tests.posthog_faults import Fault, Refuse, Reset
from tests.posthog_server import PostHogServer

COMMANDS = sorted(name for name, app in get_commands().items() if app == "olposthog")


def test_there_are_commands() -> None:
    """Django finds them all."""
    assert COMMANDS == ["posthog_check", "posthog_export", "posthog_flags", "posthog_status"]


@pytest.mark.parametrize("name", COMMANDS)
def test_page_has_a_chapter(name: str) -> None:
    """The page on commands shows each of them, and what its exit codes mean."""
    page = Path(__file__).parents[2] / "docs" / "commands.md"
    (chapter,) = re.findall(
        rf"^## {name}\n(.*?)(?=^## |\Z)", page.read_text(), re.MULTILINE | re.DOTALL
    )

    assert f"$ python manage.py {name}" in chapter
    assert "exit code" in chapter.lower()


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_examples(name: str) -> None:
    """Whoever asks for help sees how the command is typed."""
    text = load_command_class("olposthog", name).create_parser("manage.py", name).format_help()

    assert f"{name} " in text.split("Examples:")[1]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["posthog_check"], 1),
        (["posthog_export", "-"], 1),
        (["posthog_flags"], 0),
        (["posthog_status"], 2),
    ],
)
def test_system_checks_do_not_stop_a_command(
    enabled: PostHogServer,
    settings: Settings,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
) -> None:
    """On a site whose settings are wrong, the commands that help to mend them still run."""
    settings.POSTHOG_MAX_RETRIES = -1
    command = load_command_class("olposthog", arguments[0])
    try:
        command.run_from_argv(["manage.py", *arguments])
        ended = 0
    except SystemExit as end:
        ended = int(end.code or 0)
    printed = capsys.readouterr()

    assert ended == code
    assert "POSTHOG_MAX_RETRIES is -1, which is not" in printed.out + printed.err
    assert "SystemCheckError" not in printed.err
    assert "Traceback" not in printed.err


BELL = "\x1b]0;owned\x07"


@pytest.mark.parametrize(
    "arguments",
    [
        ["posthog_flags", "--id", BELL],
        ["posthog_flags", "--user", BELL],
        ["posthog_export", f"/nowhere/{BELL}"],
    ],
    ids=" ".join,
)
def test_terminal_obeys_nothing_that_was_typed(
    enabled: PostHogServer, settings: Settings, db: None, arguments: list[str]
) -> None:
    """Control characters are shown as escapes in results, progress and errors; lines stay lines."""
    settings.POSTHOG_PERSONAL_API_KEY = enabled.secret
    found = run(*arguments)
    printed = found.out + found.err

    assert r"\x1b]0;owned" in printed
    assert printed.replace("\n", "").isprintable()


@pytest.mark.parametrize("name", ["posthog_check", "posthog_status"])
def test_terminal_obeys_no_setting(settings: Settings, name: str) -> None:
    """Nor does what a setting holds reach it."""
    settings.POSTHOG_ENABLED = True
    settings.POSTHOG_FLAG_DEFINITIONS_FILE = f"/nowhere/{BELL}"
    found = run(name)
    printed = found.out + found.err

    assert r"\x1b]0;owned" in printed
    assert printed.replace("\n", "").isprintable()


def test_narrow_standard_output_gets_escapes(
    enabled: PostHogServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the encoding of the standard output lacks is printed as an escape."""
    enabled.flags = {"grün-雪": True}
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, encoding="ascii"))
    load_command_class("olposthog", "posthog_flags").run_from_argv(["manage.py", "posthog_flags"])

    assert rb"gr\xfcn-\u96ea" in printed.getvalue()


@pytest.mark.parametrize(
    ("arguments", "where", "fault"),
    [
        (["posthog_export", "-"], "fault", Refuse()),
        (["posthog_check"], "definitions_fault", Reset()),
    ],
    ids=["posthog_export", "posthog_check"],
)
def test_traceback_shows_no_key(
    enabled: PostHogServer, settings: Settings, arguments: list[str], where: str, fault: Fault
) -> None:
    """With --traceback too: the address that could not be reached has the project's key in it."""
    settings.POSTHOG_PERSONAL_API_KEY = enabled.secret
    setattr(enabled, where, fault)
    with pytest.raises(CommandError) as caught:
        call_command(*arguments, stdout=io.StringIO(), stderr=io.StringIO())
    shown = "".join(traceback.format_exception(caught.value))

    assert "CommandError" in shown
    assert "requests.exceptions" not in shown
    assert enabled.token not in shown
    assert enabled.secret not in shown


@pytest.mark.parametrize(
    "host",
    [
        "http://bob:s3cret@127.0.0.1:9",
        "https://bob:s3/cret@ph.example.com",
        "https://bob:s3@cret@ph.example.com:0",
        "ftp://bob:s3cret@ph.example.com",
        "bob:s3cret@ph.example.com",
    ],
)
@pytest.mark.parametrize(
    "arguments",
    [["posthog_status"], ["posthog_status", "--json"], ["posthog_check"], ["posthog_flags"]],
    ids=" ".join,
)
def test_no_command_prints_a_password(
    enabled: PostHogServer, settings: Settings, host: str, arguments: list[str]
) -> None:
    """Who logs in to POSTHOG_API_HOST is nobody's business, be the address right or wrong."""
    settings.POSTHOG_API_HOST = host
    found = run(*arguments)

    assert "s3" not in found.out + found.err
    assert "cret" not in found.out + found.err
