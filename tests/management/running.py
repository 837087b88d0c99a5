"""A command as whoever types it sees it: what it prints where, and how it ends."""

from __future__ import annotations

from dataclasses import dataclass
from io import StringIO

from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError


@dataclass(frozen=True)
class Run:
    """A command that has ended."""

    out: str
    err: str
    """What it said on the way, and the error that ended it."""
    code: int


def run(command: str | BaseCommand, *arguments: str) -> Run:
    out, err = StringIO(), StringIO()
    try:
        call_command(command, *arguments, stdout=out, stderr=err)
    except CommandError as error:
        return Run(out.getvalue(), f"{err.getvalue()}{error}", error.returncode)
    return Run(out.getvalue(), err.getvalue(), 0)
