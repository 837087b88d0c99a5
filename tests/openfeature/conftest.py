"""OpenFeature's own clients, and a site in a process of its own for them to ask.

Run by `make test-newest`, which installs and bundles the clients first.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import pytest
import requests
from corsheaders.defaults import default_headers
from playwright.sync_api import Browser, Page

from tests.browser.conftest import node, open_browser
from tests.openfeature.site import make_people
from tests.posthog_faults import Status
from tests.posthog_server import Flag, PostHogServer, Variant
from tests.site.processes import (
    CACHE_TABLE,
    DATABASE_CACHE,
    PATIENCE,
    Site,
    make_tables,
    serving,
    until,
)

CLIENTS = Path(__file__).parent
ADA = "1"
FLAGS = {
    "new-nav": True,
    "hers": Flag(only_for={ADA}),
    "checkout": Variant("test", payload={"colour": "green"}, id=7, version=3),
    "a/b 50% ü": Variant("odd"),
    "broken": Flag(failed=True),
}
FALLBACK = {"checkout": "classic"}

_visitors = count(1)


@dataclass(frozen=True)
class Place:
    """A site that is being served, and the PostHog behind it."""

    url: str
    posthog: PostHogServer
    closed: Path

    def source(self) -> str:
        """Return where the flags of somebody new come from."""
        answer = requests.get(f"{self.url}/api/features/", timeout=PATIENCE)
        return str(answer.json()["source"])

    @contextmanager
    def outage(self) -> Iterator[None]:
        """PostHog is down, and every process of the site knows it."""
        self.posthog.flags_fault = Status(500)
        until(lambda: self.source() == "fallback")
        yield
        self.posthog.heal()
        until(lambda: self.source() == "posthog")

    @contextmanager
    def shut(self) -> Iterator[None]:
        """A gateway before the site answers 503."""
        self.closed.touch()
        yield
        self.closed.unlink()


def new_address() -> dict[str, str]:
    """Headers that make a visitor somebody of their own for the throttle."""
    return {"X-Forwarded-For": f"10.0.0.{next(_visitors)}"}


@contextmanager
def site(folder: Path, posthog: PostHogServer, **settings: Any) -> Iterator[Place]:
    closed = folder / "closed"
    there = Site(
        folder,
        settings={
            "ROOT_URLCONF": "tests.openfeature.site",
            "GATEWAY_CLOSED": str(closed),
            "MIDDLEWARE": [
                "corsheaders.middleware.CorsMiddleware",
                "tests.openfeature.site.gateway",
                "django.middleware.gzip.GZipMiddleware",
                "django.contrib.sessions.middleware.SessionMiddleware",
                "django.middleware.csrf.CsrfViewMiddleware",
                "django.contrib.auth.middleware.AuthenticationMiddleware",
            ],
            "PASSWORD_HASHERS": ["django.contrib.auth.hashers.MD5PasswordHasher"],
            "CACHES": {
                "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
                "durable": {
                    "BACKEND": DATABASE_CACHE,
                    "LOCATION": CACHE_TABLE,
                    "TIMEOUT": 1,
                    "OPTIONS": {"MAX_ENTRIES": 10_000},
                },
            },
            "FEATURES": FALLBACK,
            "POSTHOG_LOCAL_CACHE_SECONDS": 0.1,
            "POSTHOG_CIRCUIT_BREAKER_FAILURE_THRESHOLD": 1,
            "POSTHOG_CIRCUIT_BREAKER_COOLDOWN_SECONDS": 0.5,
            **settings,
        },
        cache_apart=True,
    )
    there.use(posthog)
    there.run(make_tables)
    there.run(make_people)
    options = ["tests.site.wsgi", "--threads", "8", "--no-control-socket"]
    with serving(there, "gunicorn", *options, socket_option="--bind=fd://{}") as server:
        yield Place(server.url, posthog, closed)


@pytest.fixture(scope="package")
def standin() -> Iterator[PostHogServer]:
    with PostHogServer() as server:
        yield server


@pytest.fixture(scope="package")
def kept_site(standin: PostHogServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    cors = {
        "CORS_ALLOWED_ORIGIN_REGEXES": [r"^http://127\.0\.0\.1:\d+$"],
        "CORS_ALLOW_CREDENTIALS": True,
        "CORS_ALLOW_HEADERS": [*default_headers, "if-none-match"],
        "CORS_EXPOSE_HEADERS": ["ETag", "Retry-After"],
    }
    with site(tmp_path_factory.mktemp("site"), standin, **cors) as place:
        yield place


@pytest.fixture(scope="package")
def kept_throttled(
    standin: PostHogServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    throttle = {"DEFAULT_THROTTLE_RATES": {"features": "2/day"}, "NUM_PROXIES": 1}
    with site(tmp_path_factory.mktemp("throttled"), standin, REST_FRAMEWORK=throttle) as place:
        yield place


@pytest.fixture
def place(kept_site: Place) -> Iterator[Place]:
    """The site, with everything well."""
    kept_site.posthog.reset()
    kept_site.posthog.flags = FLAGS
    kept_site.closed.unlink(missing_ok=True)
    until(lambda: kept_site.source() == "posthog")
    yield kept_site
    kept_site.posthog.reset()


@pytest.fixture
def throttled(kept_throttled: Place) -> Place:
    """A site that answers everybody twice."""
    kept_throttled.posthog.reset()
    kept_throttled.posthog.flags = FLAGS
    return kept_throttled


class Client(Protocol):
    """One of OpenFeature's clients, at work somewhere."""

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a function of its module in `clients/`; return what it returns."""


class NodeClient:
    """A client in Node.js."""

    def __init__(self, running: subprocess.Popen[str]) -> None:
        self._running = running

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a function there."""
        assert self._running.stdin
        assert self._running.stdout
        self._running.stdin.write(json.dumps([name, *arguments]) + "\n")
        self._running.stdin.flush()
        return json.loads(self._running.stdout.readline())


@contextmanager
def node_client(module: str) -> Iterator[NodeClient]:
    """Run a client in Node.js."""
    assert (CLIENTS / "node_modules").exists(), "Install the clients first: make openfeature"
    with subprocess.Popen(
        [node(), "clients/node.js", module],
        cwd=CLIENTS,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        yield NodeClient(running)
        running.kill()


class PageClient:
    """A client in a page."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self._is_open = False

    def open(self, url: str) -> None:
        """Open a page of a site, and put the clients into it."""
        self._is_open = True
        self.page.goto(f"{url}/page/")
        self.page.add_script_tag(path=CLIENTS / "dist/page.js")

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a function there; a page that starts and is not open is one of the site asked."""
        if name == "start" and not self._is_open:
            self.open(arguments[0])
        call = "([name, rest]) => clients.web[name](...rest)"
        return self.page.evaluate(call, [name, arguments])


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """A Chromium."""
    with open_browser() as browser:
        yield browser


@pytest.fixture
def new_page(browser: Browser) -> Iterator[Callable[[], PageClient]]:
    """Makes pages of somebody who has never been here, all in the same browser."""
    context = browser.new_context()
    context.set_default_timeout(PATIENCE * 1000)
    yield lambda: PageClient(context.new_page())
    context.close()
