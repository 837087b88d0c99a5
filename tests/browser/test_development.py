"""`make dev`: Vite and Django side by side."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
from playwright.sync_api import BrowserContext

from tests.browser.conftest import shop_of
from tests.browser.tab import ADA, Tab
from tests.browser.test_exposures import RENDERED
from tests.posthog_server import PostHogServer
from tests.shop import PATIENCE, ROOT, eventually


def free_ports() -> dict[str, str]:
    """Two ports, for Django and for Vite."""
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as other,
    ):
        return {"PORT": str(one.getsockname()[1]), "VITE_PORT": str(other.getsockname()[1])}


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def development(environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "scripts/dev.py"], cwd=ROOT, env=environment)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(PATIENCE)


def test_sources_are_served_and_one_interrupt_ends_both(
    frontend: Path,
    posthog: PostHogServer,
    new_context: Callable[[], BrowserContext],
    tmp_path: Path,
):
    """In React's strict mode, too, each flag is reported once; a Ctrl-C leaves nothing behind."""
    ports = free_ports()
    django, vite = map(int, ports.values())

    with development({**shop_of(posthog, tmp_path).environment, **ports}) as process:
        eventually(lambda: listens(django) and listens(vite))
        tab = Tab(new_context().new_page(), f"http://127.0.0.1:{vite}").open()
        tab.wait_for_reports(len(RENDERED))
        asked = [one for one in tab.requests if one.url.endswith("/api/features/")]
        served = requests.get(f"{tab.address}/static/live/src/App.tsx", timeout=PATIENCE)
        reported = tab.posts()
        tab.become("Ada")
        person = tab.person
        process.send_signal(signal.SIGINT)

        assert process.wait(PATIENCE) == 0

    assert served.status_code == 200
    assert reported == ["/api/features/exposures/"]
    assert len(asked) == 1
    assert person == ADA
    assert not listens(django)
    assert not listens(vite)


def test_end_of_one_ends_the_other(frontend: Path, posthog: PostHogServer, tmp_path: Path):
    """Where one of the two cannot start, the other does not stay."""
    ports = free_ports()
    django, vite = map(int, ports.values())
    environment = {**shop_of(posthog, tmp_path).environment, **ports}

    with socket.create_server(("127.0.0.1", vite)), development(environment) as process:
        assert process.wait(PATIENCE) == 1

    assert not listens(django)
