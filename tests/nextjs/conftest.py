"""A Next.js application in front of the example project, and a Chromium before it.

Run by `make test-newest`, which builds the application first.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.browser.conftest import node, open_browser, shop_of
from tests.browser.tab import FLAGS
from tests.posthog_server import PostHogServer
from tests.shop import eventually, listens
from tests.site.servers import free_port

APPLICATION = Path(__file__).parent
NEXT = "node_modules/next/dist/bin/next"


@dataclass(frozen=True)
class Application:
    """Next.js, and the Django behind it."""

    url: str
    django: str
    posthog: PostHogServer


@contextmanager
def serve_next(django: str, port: int, log: Path) -> Iterator[str]:
    """Run `next start`; yield its address."""
    assert (APPLICATION / ".next/BUILD_ID").exists(), "Build the application first: make nextjs"
    with (
        log.open("w") as output,
        subprocess.Popen(
            [node(), NEXT, "start", "--hostname", "127.0.0.1", "--port", str(port)],
            cwd=APPLICATION,
            env={**os.environ, "DJANGO_URL": django, "NEXT_TELEMETRY_DISABLED": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            eventually(lambda: process.poll() is not None or listens(port))
            assert process.poll() is None, log.read_text()
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


@pytest.fixture(scope="package")
def kept_application(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    """The application, for all tests here."""
    folder = tmp_path_factory.mktemp("shop")
    port = free_port()
    origin = f"http://127.0.0.1:{port}"
    with PostHogServer() as posthog:
        posthog.flags = FLAGS
        with (
            shop_of(posthog, folder, SHOP_SPA_ORIGIN=origin).open() as django,
            serve_next(django, port, folder / "next.log") as url,
        ):
            yield Application(url, django, posthog)


@pytest.fixture
def application(kept_application: Application) -> Application:
    """The application, with no events on record."""
    kept_application.posthog.clear()
    return kept_application


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """A Chromium."""
    with open_browser() as browser:
        yield browser
