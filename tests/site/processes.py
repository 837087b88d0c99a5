"""Starts processes of the project in this folder, and ends them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import IO, Any

import requests

from tests.posthog_server import PostHogServer

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 90.0
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


@dataclass(frozen=True)
class Store:
    """What a shared cache is kept in: a server, or a part of one, that this test has to itself."""

    durable: dict[str, Any]
    """The cache, as CACHES says it."""
    list_keys: Callable[[], list[str]]
    """Says which keys there are, as they stand there."""
    database: dict[str, Any] | None = None
    """The database that a `DatabaseCache` is in, as DATABASES says it."""


@dataclass
class Site:
    """A project in a directory, with its databases there, and the settings of its processes."""

    directory: Path
    settings: dict[str, Any] = field(default_factory=dict)
    cache_apart: bool = False
    """Whether the shared cache is in a database of its own."""
    atomic_requests: bool = False
    cache_entries: int = 10_000
    """How many entries a `DatabaseCache` holds before it throws some away."""
    store: Store | None = None
    """What the shared cache is kept in, if not in a SQLite file of the directory."""

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
        return replace(self, directory=directory, settings=dict(self.settings))

    def environment(self) -> dict[str, str]:
        """Return the environment of a process of the site: nothing of it configures PostHog."""
        databases = {
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": str(self.directory / "site.sqlite3"),
                "ATOMIC_REQUESTS": self.atomic_requests,
            }
        }
        durable: dict[str, Any] = {"BACKEND": DATABASE_CACHE, "LOCATION": CACHE_TABLE}
        if self.store:
            durable = self.store.durable
        if durable["BACKEND"] == DATABASE_CACHE:
            durable = {**durable, "OPTIONS": {"MAX_ENTRIES": self.cache_entries}}
        settings = {
            "ROOT_URLCONF": "tests.site.urls",
            "DATABASES": databases,
            "CACHES": {
                "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
                "durable": durable,
            },
            **self.settings,
        }
        if self.cache_apart:
            databases["cache"] = {**databases["default"], "NAME": str(self.cache_file)}
        if self.store and self.store.database:
            databases["cache"] = self.store.database
        if "cache" in databases:
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

    @contextmanager
    def process(self) -> Iterator[Process]:
        """Run a process that evaluates flags when it is told to."""
        with tempfile.TemporaryFile("w+") as log:
            running = self.start(evaluate_as_told, stdin=subprocess.PIPE, stderr=log.fileno())
            try:
                yield Process(running, log)
            finally:
                running.kill()
                running.communicate()

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


def evaluate_as_told() -> None:
    """For each line on stdin, evaluate that person's flags and say where they come from."""
    from olposthog.features import evaluate
    from tests.site.child import say

    for person in sys.stdin:
        say(evaluate(person.strip()).source)


class Process:
    """A process that runs `evaluate_as_told`."""

    def __init__(self, running: subprocess.Popen[str], log: IO[str]) -> None:
        self._running = running
        self._log = log
        self._people = count()

    def ask(self) -> str:
        """Return where the flags of somebody new come from."""
        self.tell()
        return self.hear()

    def ask_until(self, source: str) -> None:
        """Ask until flags come from `source`: a process that has just started may fall back."""
        until(lambda: self.ask() == source)

    def tell(self) -> None:
        """As `ask`, without waiting for the answer."""
        assert self._running.stdin
        self._running.stdin.write(f"person {next(self._people)} of {self._running.pid}\n")
        self._running.stdin.flush()

    def hear(self) -> str:
        """Return the answer to the earliest question that has none yet."""
        assert self._running.stdout
        return self._running.stdout.readline().strip() or f"ended: {self.log()}"

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        self._running.send_signal(number)

    def log(self) -> str:
        """Return what it has said on stderr."""
        self._log.seek(0)
        return self._log.read()


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


class Visitors:
    """People who ask a web server for their flags all the time, each of them once."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._over = threading.Event()
        self._answers: list[Answer] = []

    def ask(self) -> None:
        """Ask until it is over; a server that drops a connection has lost a worker."""
        while not self._over.is_set():
            with suppress(requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
                self._answers.append(self._server.get())

    def end(self) -> None:
        """Ask no more."""
        self._over.set()

    def until_all_answered(self, workers: int, *, source: str | None = None) -> list[Answer]:
        """Return the answers from now on, once each worker has given one (from `source`)."""
        start = len(self._answers)

        def counted() -> set[int]:
            answers = self._answers[start:]
            return {one.worker for one in answers if source in (None, one.content["source"])}

        until(lambda: len(counted()) >= workers)
        return self._answers[start:]


@contextmanager
def visiting(server: Server, number: int) -> Iterator[Visitors]:
    """Have some people visit at any time while the block runs."""
    visitors = Visitors(server)
    with ThreadPoolExecutor(number) as pool:
        asking = [pool.submit(visitors.ask) for _ in range(number)]
        try:
            yield visitors
        finally:
            visitors.end()
    for one in asking:
        one.result()


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
