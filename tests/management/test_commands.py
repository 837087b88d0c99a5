"""What holds for every command."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from django.core.management import get_commands, load_command_class
from pytest_django import Settings

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
