"""What all commands have in common: they run on any site, and move nobody's terminal."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from olposthog._utils.log_lines import printable


class OperatorCommand(BaseCommand):
    """A command that says what is wrong with a site, and so runs while it is."""

    requires_system_checks = []

    def run_from_argv(self, argv: list[str]) -> None:
        """Run, and print what a narrow encoding of the standard output lacks as an escape."""
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        super().run_from_argv(argv)

    def execute(self, *args: Any, **options: Any) -> str | None:
        """Run; an error that ends the command is as fit for a terminal as what it says."""
        try:
            return super().execute(*args, **options)
        except CommandError as error:
            error.args = (_printable_lines(str(error)),)
            raise

    def say(self, text: str, style: Callable[[str], str] = str, ending: str = "\n") -> None:
        """Print lines that people asked for."""
        self._write(self.stdout, text, style, ending)

    def tell(self, text: str, style: Callable[[str], str] = str) -> None:
        """Tell the person at the terminal; what is printed stays what was asked for."""
        self._write(self.stderr, text, style, "\n")

    def _write(self, output: Any, text: str, style: Callable[[str], str], ending: str) -> None:
        output.write(style(_printable_lines(text)), str, ending)
        output.flush()


def _printable_lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))
