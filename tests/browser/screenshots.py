"""Takes the pictures of docs/browser.md: `make screenshots`."""

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
from tests.browser.tab import FLAGS, Tab
from tests.posthog_faults import Refuse
from tests.posthog_server import PostHogServer
from tests.shop import ROOT

IMAGES = ROOT / "docs/images"
WIDE, PHONE = (1000, 860), (375, 812)
COLOURS = 96  # enough for a page without photographs, and a quarter of the size


@contextmanager
def picture(
    browser: Browser, address: str, name: str, scheme: Literal["light", "dark"] = "light"
) -> Iterator[Tab]:
    """Open a tab of that size, and keep what it shows at the end."""
    width, height = PHONE if name == "mobile" else WIDE
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
    )
    tab = Tab(context.new_page(), address)
    yield tab
    tab.page.mouse.move(0, 0)
    tab.page.evaluate("document.activeElement?.blur()")
    shot = Image.open(io.BytesIO(tab.page.screenshot(full_page=True)))
    file = IMAGES / f"live-{name}.png"
    shot.convert("RGB").quantize(COLOURS).save(file, optimize=True)
    print(f"{file.relative_to(ROOT)}  {file.stat().st_size // 1024} kB")  # noqa: T201
    context.close()


def main() -> None:
    """One picture for each state of the page."""
    IMAGES.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        PostHogServer() as posthog,
        shop_of(posthog, Path(folder)).open() as address,
        open_browser() as browser,
    ):
        posthog.flags = FLAGS
        with picture(browser, address, "anonymous") as tab:
            tab.open()
        with picture(browser, address, "ada") as tab:
            tab.arrive_as("Ada")
        with picture(browser, address, "grace", "dark") as tab:
            tab.arrive_as("Grace")
        with picture(browser, address, "mobile") as tab:
            tab.arrive_as("Grace")
        with picture(browser, address, "outage") as tab:
            posthog.fault = Refuse()
            tab.open()


if __name__ == "__main__":
    main()
