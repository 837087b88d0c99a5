"""Takes the pictures of docs/browser.md and docs/seeing.md: `make screenshots`."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from PIL import Image
from playwright.sync_api import Browser

from tests.browser.conftest import open_browser, shop_of
from tests.browser.tab import ADA, FLAGS, Tab
from tests.posthog_faults import Refuse
from tests.posthog_server import PostHogServer
from tests.shop import ROOT, eventually

IMAGES = ROOT / "docs/images"
PEOPLE = "/admin/olposthog_admin/person/"
WIDE, PHONE = (1000, 860), (375, 812)
COLOURS = 96  # enough for a page without photographs, and a quarter of the size


@contextmanager
def picture(
    browser: Browser,
    address: str,
    name: str,
    scheme: Literal["light", "dark"] = "light",
    size: tuple[int, int] = WIDE,
) -> Iterator[Tab]:
    """Open a tab of that size, and keep what it shows at the end."""
    width, height = size
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
    )
    tab = Tab(context.new_page(), address)
    yield tab
    tab.page.mouse.move(0, 0)
    tab.page.evaluate("document.activeElement?.blur()")
    is_open = tab.page.locator(".djdt-panelContent:visible").count()  # over the page, in sight
    shot = Image.open(io.BytesIO(tab.page.screenshot(full_page=not is_open)))
    file = IMAGES / f"{name}.png"
    shot.convert("RGB").quantize(COLOURS).save(file, optimize=True)
    print(f"{file.relative_to(ROOT)}  {file.stat().st_size // 1024} kB")  # noqa: T201
    context.close()


def live(browser: Browser, address: str, posthog: PostHogServer) -> None:
    """One picture for each state of the live page."""
    with picture(browser, address, "live-anonymous") as tab:
        tab.open()
    with picture(browser, address, "live-ada") as tab:
        tab.arrive_as("Ada")
    with picture(browser, address, "live-grace", "dark") as tab:
        tab.arrive_as("Grace")
    with picture(browser, address, "live-mobile", size=PHONE) as tab:
        tab.arrive_as("Grace")
    with picture(browser, address, "live-outage") as tab:
        posthog.fault = Refuse()
        tab.open()


def toolbar(browser: Browser, address: str, posthog: PostHogServer) -> None:
    """What a developer sees of the page that Ada gets."""
    with picture(browser, address, "seeing-toolbar", size=(1100, 730)) as tab:
        tab.bring_session_of("Ada")
        tab.page.goto(f"{address}/")
        tab.page.locator("#djShowToolBarButton").click()
        tab.page.locator("#djDebugPanelList .FlagsPanel").click()
        tab.page.get_by_text("Shared cache").wait_for()


def operator(browser: Browser, address: str, posthog: PostHogServer) -> None:
    """What an operator sees of Ada, in health and in an outage."""
    ada = f"{address}{PEOPLE}{ADA}/change/"
    with picture(browser, address, "seeing-search", size=(1100, 430)) as tab:
        tab.bring_session_of("operator")
        tab.page.goto(f"{address}{PEOPLE}?q=a")
    with picture(browser, address, "seeing-person", size=(1280, 800)) as tab:
        tab.bring_session_of("operator")
        tab.page.goto(ada)
    posthog.fault = Refuse()
    with picture(browser, address, "seeing-outage", "dark", size=(1280, 660)) as tab:
        tab.bring_session_of("operator")
        eventually(lambda: tab.page.goto(ada) and tab.page.get_by_text("degraded").count())
    with picture(browser, address, "seeing-health", size=(1000, 320)) as tab:
        tab.page.goto(f"{address}/health/")


def main() -> None:
    """Take them all, each kind with a shop of its own."""
    IMAGES.mkdir(exist_ok=True)
    with open_browser() as browser:
        for take, also in (
            (live, {}),
            (toolbar, {"SHOP_DEBUG_TOOLBAR": "on"}),
            (operator, {"POSTHOG_CIRCUIT_BREAKER_COOLDOWN_SECONDS": "60"}),
        ):
            with (
                tempfile.TemporaryDirectory() as folder,
                PostHogServer() as posthog,
                shop_of(posthog, Path(folder), **also).open() as address,
            ):
                posthog.flags = FLAGS
                take(browser, address, posthog)


if __name__ == "__main__":
    main()
