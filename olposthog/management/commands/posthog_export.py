"""`manage.py posthog_export`: the flag definitions as a file, for offline use and for tests."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from django.core.management.base import CommandError, CommandParser

from olposthog import conf
from olposthog._local import Definitions, DefinitionsError, LocalEvaluator, parse
from olposthog._local.poller import FETCH_SECONDS
from olposthog._posthog import PostHogApi
from olposthog._posthog.errors import WRONG_ADDRESS, PostHogError
from olposthog._utils.workers import within
from olposthog.management.base import OperatorCommand
from olposthog.management.layout import number_of_flags
from olposthog.management.undecided import definitions_report

STDOUT = "-"


class Command(OperatorCommand):
    """Exports what local evaluation evaluates."""

    help = (
        "Fetch the current flag definitions from PostHog, which bills ten requests for it, and "
        "write them to a file for POSTHOG_FLAG_DEFINITIONS_FILE. Needs POSTHOG_PERSONAL_API_KEY. "
        "Examples: posthog_export flags.json; posthog_export - | less"
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Say where to."""
        parser.add_argument(
            "file",
            metavar="FILE",
            help="where to write them, whole or not at all; - for the standard output",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Fetch, judge and write."""
        settings = conf.current()
        _demand(settings)
        api = PostHogApi(settings, connections=1)
        if options["file"] == STDOUT:
            self.tell(f"Fetching flag definitions from {api.way.host} ...")
            definitions = _fetch(api)
            self.stdout.write(_text(definitions), ending="")
            self.tell(f"{number_of_flags(len(definitions.flags))}.")
            self._report(definitions)
            return
        path = Path(options["file"])
        with _replacing(path) as file:  # first, so that a fetch is not billed for nothing
            self.say(f"Fetching flag definitions from {api.way.host} ...")
            definitions = _fetch(api)
            file.write(_text(definitions))
        self.say(
            f"{path} has {number_of_flags(len(definitions.flags))}. To use it, set "
            f"POSTHOG_FLAG_DEFINITIONS_FILE = {str(path.resolve())!r}."
        )
        self._report(definitions)

    def _report(self, definitions: Definitions) -> None:
        """Warn of what the file cannot decide: it is exported as PostHog sent it."""
        for line in definitions_report(LocalEvaluator(definitions), is_file=True):
            self.tell(line, self.style.WARNING)


def _demand(settings: conf.Settings) -> None:
    for problem in settings.problems:
        raise CommandError(f"{problem.message} {problem.hint}")
    if not settings.personal_api_key:
        raise CommandError(
            "POSTHOG_PERSONAL_API_KEY is not set: set a key that may read flag definitions, a "
            "personal one (phx_...) or the project's feature flags secure key (phs_...)."
        )
    for name, value in (
        ("POSTHOG_PROJECT_API_KEY", settings.project_api_key),
        ("POSTHOG_API_HOST", settings.api_host),
    ):
        if not value:
            raise CommandError(f"{name} is not set: it says where to fetch definitions.")


def _fetch(api: PostHogApi) -> Definitions:
    deadline = time.monotonic() + FETCH_SECONDS
    # No cause is shown, not even with --traceback: it may quote the request's address, and a key.
    try:
        fetched = within(FETCH_SECONDS, lambda: api.fetch_definitions(None, deadline=deadline))
        return parse(fetched.text or "", "PostHog's reply")
    except TimeoutError:
        raise CommandError(
            f"Flag definitions cannot be fetched: no answer within {FETCH_SECONDS:g} s. "
            "See `manage.py posthog_check`."
        ) from None
    except PostHogError as error:
        hint = error.hint or "See `manage.py posthog_check`."
        raise CommandError(f"Flag definitions cannot be fetched: {error}. {hint}") from None
    except DefinitionsError as error:
        raise CommandError(f"Flag definitions cannot be used: {error} {WRONG_ADDRESS}") from None
    except Exception as error:  # noqa: BLE001  # whatever it is, an operator gets a sentence
        raise CommandError(
            f"Flag definitions cannot be fetched: {type(error).__name__}. "
            "See `manage.py posthog_check`."
        ) from None


def _text(definitions: Definitions) -> str:
    return json.dumps(definitions.document, indent=2) + "\n"


@contextmanager
def _replacing(path: Path) -> Iterator[TextIO]:
    """Give a file that takes the place of the one at `path` when all has gone well."""
    try:
        target = Path(os.path.realpath(path))  # a link stays a link
        if target.exists() and not target.is_file():
            what = "a directory" if target.is_dir() else "no regular file"
            raise CommandError(f"{path} is {what}: name a file, or - for the standard output.")
        new = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        file = new.open("x", encoding="utf-8")
    except (OSError, ValueError) as error:
        raise _unwritable(path, error) from error
    try:
        with file:
            yield file
            if target.exists():
                shutil.copymode(target, new)
        new.replace(target)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        with suppress(OSError):
            new.unlink(missing_ok=True)


def _unwritable(path: Path, error: Exception) -> CommandError:
    reason = getattr(error, "strerror", None) or error
    return CommandError(f"{path} cannot be written: {reason}. Name a file in a folder that can.")
