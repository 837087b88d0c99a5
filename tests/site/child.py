"""Runs a function of a test module in this process, and prints what it returns as JSON.

python -m tests.site.child [--bare] MODULE FUNCTION ARGUMENTS
"""

from __future__ import annotations

import json
import logging
import os
import sys
from importlib import import_module
from typing import Any, Self

import django


class Heard(logging.Handler):
    """The warnings and errors of a library inside a `with` block."""

    def __init__(self, logger: str = "olposthog") -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []
        self._logger = logging.getLogger(logger)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the text of a record."""
        self.messages.append(record.getMessage())

    def __enter__(self) -> Self:
        self._logger.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)


def say(text: str) -> None:
    """Tell the parent something at once; several threads may."""
    os.write(sys.stdout.fileno(), f"{text}\n".encode())


def main(module: str, function: str, arguments: str, *, bare: bool) -> None:
    """Do what the module's docstring says; `bare` leaves setting up Django to the function."""
    if not bare:
        django.setup()
    result: Any = getattr(import_module(module), function)(*json.loads(arguments))
    say(json.dumps(result))


if __name__ == "__main__":
    options = [argument for argument in sys.argv[1:] if argument != "--bare"]
    main(*options, bare=len(options) < len(sys.argv) - 1)
