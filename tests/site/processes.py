"""Starts processes of the project in this folder, and ends them."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from tests.posthog_server import PostHogServer

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 30.0
"""Seconds that a test waits, at most, for what should come soon."""
DATABASE_CACHE = "django.core.cache.backends.db.DatabaseCache"
CACHE_TABLE = "durable_cache"


def until(fact: Callable[[], object], patience: float = PATIENCE) -> None:
    """Return once a fact holds that nothing announces, or raise TimeoutError."""
    never = threading.Event()
    end = time.monotonic() + patience
    while not fact():
        if time.monotonic() >= end:
            raise TimeoutError(f"waited {patience:g} s in vain")
        never.wait(0.02)


@dataclass
class Site:
    """A project in a directory, with its databases there, and the settings of its processes."""

    directory: Path
    settings: dict[str, Any] = field(default_factory=dict)
    cache_apart: bool = False
    """Whether the shared cache is in a database of its own."""
    atomic_requests: bool = False
    cache_entries: int = 10_000
    """How many entries the shared cache holds before it throws some away."""

    @property
    def cache_file(self) -> Path:
        """The SQLite file that the shared cache is in."""
        return self.directory / ("cache.sqlite3" if self.cache_apart else "site.sqlite3")

    def use(self, posthog: PostHogServer) -> None:
        """Get flags from a stand-in PostHog."""
        self.settings |= {
            "POSTHOG_ENABLED": True,
            "POSTHOG_PROJECT_API_KEY": posthog.token,
            "POSTHOG_API_HOST": posthog.url,
        }

    def copy(self, directory: Path) -> Site:
        """Return a site like this one, with copies of its databases."""
        shutil.copytree(self.directory, directory)
        return Site(directory, dict(self.settings), self.cache_apart)

    def environment(self) -> dict[str, str]:
        """Return the environment of a process of the site: nothing of it configures PostHog."""
        databases = {
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": str(self.directory / "site.sqlite3"),
                "ATOMIC_REQUESTS": self.atomic_requests,
            }
        }
        durable = {"BACKEND": DATABASE_CACHE, "LOCATION": CACHE_TABLE}
        settings = {
            "ROOT_URLCONF": "tests.site.urls",
            "DATABASES": databases,
            "CACHES": {
                "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
                "durable": {**durable, "OPTIONS": {"MAX_ENTRIES": self.cache_entries}},
            },
            **self.settings,
        }
        if self.cache_apart:
            databases["cache"] = {**databases["default"], "NAME": str(self.cache_file)}
            settings["DATABASE_ROUTERS"] = ["tests.site.router.CacheRouter"]
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith("POSTHOG_")
        }
        return inherited | {
            "DJANGO_SETTINGS_MODULE": "tests.site.settings",
            "SITE_SETTINGS": json.dumps(settings),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "api")]),
        }

    def start(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        bare: bool = False,
        stdin: int = subprocess.DEVNULL,
        stderr: int = subprocess.PIPE,
    ) -> subprocess.Popen[str]:
        """Start a process that calls a function of a test module and prints what it returns."""
        options = ["--bare"] if bare else []
        names = [function.__module__, function.__name__, json.dumps(arguments)]
        return subprocess.Popen(
            [sys.executable, "-m", "tests.site.child", *options, *names],
            cwd=ROOT,
            env=self.environment(),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )

    def run(self, function: Callable[..., Any], *arguments: Any, bare: bool = False) -> Any:
        """Return what a function of a test module returns in a process of its own."""
        return result_of(self.start(function, *arguments, bare=bare))

    def cache_keys(self) -> list[str]:
        """Return the keys in the shared cache, without Django's prefix."""
        with closing(sqlite3.connect(self.cache_file)) as database:
            rows = database.execute(f"SELECT cache_key FROM {CACHE_TABLE} ORDER BY cache_key")
            return [key.split(":", 2)[2] for (key,) in rows]


def result_of(process: subprocess.Popen[str], patience: float = PATIENCE) -> Any:
    """Return what a process printed last, as JSON, once it has ended of its own accord."""
    with process:
        try:
            output, errors = process.communicate(timeout=patience)
        finally:
            process.kill()
    assert process.returncode == 0, errors
    return json.loads(output.splitlines()[-1])


def result_of_ending(process: subprocess.Popen[str], patience: float) -> Any:
    """As `result_of`, for a process that says "ending" first: from then on patience counts."""
    with process:
        assert process.stdout
        assert process.stderr
        try:
            assert process.stdout.readline() == "ending\n", process.stderr.read()
            process.wait(patience)
        finally:
            process.kill()
        assert process.returncode == 0, process.stderr.read()
        return json.loads(process.stdout.read().splitlines()[-1])


def make_tables() -> None:
    """Make every table of the site; for a process of its own."""
    from django.conf import settings
    from django.core.management import call_command

    for alias in settings.DATABASES:
        call_command("migrate", database=alias, verbosity=0)
        call_command("createcachetable", database=alias, verbosity=0)


@dataclass(frozen=True)
class Answer:
    """What a web server answered, and which of its processes did."""

    status: int
    worker: int
    content: Any
    cookies: dict[str, str]


class Server:
    """A web server that is running."""

    def __init__(self, port: int, log: Path) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._log = log

    def log(self) -> str:
        """Return what it has said."""
        return self._log.read_text()

    def get(self, path: str = "/api/features/", **cookies: str) -> Answer:
        """Ask for a page, as a new visitor if there are no cookies."""
        response = requests.get(f"{self.url}{path}", cookies=cookies, timeout=PATIENCE)
        return Answer(
            status=response.status_code,
            worker=int(response.headers["X-Worker"]),
            content=response.json(),
            cookies=response.cookies.get_dict(),
        )

    def get_until_all_answered(self, workers: int) -> list[Answer]:
        """Ask four at a time, as new visitors, until this many processes have answered."""
        answers: list[Answer] = []

        def ask() -> bool:
            answers.extend(pool.map(lambda _: self.get(), range(4)))
            return len({answer.worker for answer in answers}) >= workers

        with ThreadPoolExecutor(4) as pool:
            until(ask)
        return answers

    def get_until_source(self, source: str) -> Answer:
        """Ask, each time as a new visitor, until the flags come from `source`."""
        answers: list[Answer] = []

        def ask() -> bool:
            answers.append(self.get())
            return bool(answers[-1].content["source"] == source)

        until(ask)
        return answers[-1]


@contextmanager
def serving(site: Site, module: str, *options: str, socket_option: str) -> Iterator[Server]:
    """Run a web server on a free port of this machine."""
    log = site.directory / "server.log"
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener, log.open("w") as output:
        port, descriptor = listener.getsockname()[1], listener.fileno()
        process = subprocess.Popen(
            [sys.executable, "-m", module, *options, socket_option.format(descriptor)],
            cwd=ROOT,
            env=site.environment(),
            pass_fds=[descriptor],
            stdout=output,
            stderr=output,
        )
    try:
        yield Server(port, log)
    except BaseException as error:
        error.add_note(log.read_text())
        raise
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        finally:
            process.kill()
