"""What `manage.py check` says: in this process, and in whole projects with one of their own."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from django.core import checks as django_checks

ROOT = Path(__file__).resolve().parent.parent.parent
ENTRIES = 100_000
"""Enough for a shared cache."""


def found(databases: Sequence[str] | None = None) -> list[django_checks.CheckMessage]:
    """What `manage.py check` says of this library, with `--database` for each of `databases`."""
    messages = django_checks.run_checks(databases=databases)
    return [message for message in messages if str(message.id).startswith("olposthog")]


def found_ids() -> list[str | None]:
    return [message.id for message in found()]


def only(level: int, databases: Sequence[str] | None = None) -> django_checks.CheckMessage:
    """The one message, which is of this level and says the fix."""
    (message,) = found(databases)
    assert message.level == level
    assert message.hint
    return message


def warning(databases: Sequence[str] | None = None) -> django_checks.CheckMessage:
    return only(django_checks.WARNING, databases)


def error() -> django_checks.CheckMessage:
    return only(django_checks.ERROR)


CHECK = """
import json
from django.core.checks import run_checks

print(json.dumps([[one.id, one.msg, one.hint] for one in run_checks(databases={databases!r})]))
"""


class Project:
    """A project of its own, in a folder: `project_settings.py` and what else a test puts there."""

    def __init__(self, folder: Path, settings: str, **modules: str) -> None:
        self.folder = folder
        modules["project_settings"] = f"SECRET_KEY = 'tests only'\nUSE_TZ = True\n{settings}"
        for name, code in modules.items():
            file = folder / f"{name.replace('.', '/')}.py"
            file.parent.mkdir(exist_ok=True)
            file.write_text(code)

    def check(self, databases: Sequence[str] | None = None) -> list[tuple[str, str, str]]:
        """What all checks find, Django's own too: ids, texts and hints."""
        code = f"import django\ndjango.setup()\n{CHECK.format(databases=databases)}"
        process = self._run("-c", code)
        assert process.returncode == 0, process.stderr
        return [(id_, text, hint) for id_, text, hint in json.loads(process.stdout)]

    def ids(self) -> list[str]:
        return [id_ for id_, _, _ in self.check()]

    def manage(self, *arguments: str) -> str:
        """What a management command prints, which must succeed."""
        process = self._run("-m", "django", *arguments)
        assert process.returncode == 0, process.stderr
        return process.stdout + process.stderr

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-W", "ignore", *arguments],
            cwd=self.folder,
            env={
                **os.environ,
                "DJANGO_SETTINGS_MODULE": "project_settings",
                "PYTHONPATH": os.pathsep.join(map(str, (self.folder, ROOT, ROOT / "api"))),
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


ENABLED = f"""
POSTHOG_ENABLED = True
POSTHOG_PROJECT_API_KEY = "phc_test"
POSTHOG_API_HOST = "https://eu.i.posthog.com"
HOSTNAME = "www.example.com"
ENVIRONMENT = "production"
CACHES = {{
    "default": {{"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}},
    "durable": {{
        "BACKEND": "django.core.cache.backends.db.DatabaseCache",
        "LOCATION": "flags",
        "OPTIONS": {{"MAX_ENTRIES": {ENTRIES}}},
    }},
}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["olposthog"]
"""
