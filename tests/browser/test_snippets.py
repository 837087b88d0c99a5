"""The code of docs/browser.md: it compiles, runs in Chromium, or is a file of the project."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Response

from tests.browser.tab import ADA, Tab, is_flags
from tests.browser.test_copy import STRICTEST, compile_all, copy
from tests.browser.test_page import NO_POLLING
from tests.shop import ROOT

PAGE = ROOT / "docs/browser.md"
BLOCKS: list[tuple[str, str]] = re.findall(
    r"^```(js|tsx?)\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE
)
FILES: dict[str, str] = dict(
    code.removeprefix("// ").split("\n", 1) for _, code in BLOCKS if code.startswith("// ")
)
MODULES = [(kind, code) for kind, code in BLOCKS if kind != "js" and not code.startswith("// ")]
SCRIPTS = [code for kind, code in BLOCKS if kind == "js"]


@pytest.mark.parametrize("name", FILES)
def test_file_on_the_page_is_the_file(name: str):
    """What the page shows under the name of a file is what the tests build and run."""
    assert (ROOT / "tests/nextjs" / name).read_text() == FILES[name]


def test_modules_on_the_page_compile(frontend: Path, tmp_path: Path):
    """TypeScript of the page compiles next to the copied client, where types are strictest."""
    (tmp_path / "node_modules").symlink_to(frontend / "node_modules")
    project = tmp_path / "src"
    project.mkdir()
    copy(frontend, project, ("checkout", "new-navigation"))
    for number, (kind, code) in enumerate(MODULES):
        (project / f"module-{number}.{kind}").write_text(code)

    assert MODULES
    assert compile_all(frontend, tmp_path, STRICTEST) == []


def test_every_script_on_the_page_is_run_below():
    """The two scripts are the first request and the functions of plain fetch."""
    first, functions = SCRIPTS

    assert "answer.features" in first
    assert "function reportExposures" in functions


def test_first_request_of_the_page(tab: Tab):
    """The first lines of the page get the flags."""
    tab.open()

    answer = tab.page.evaluate(f"async () => {{ {SCRIPTS[0]} return answer; }}")

    assert answer == tab.api()


def test_plain_fetch_of_the_page(tab: Tab):
    """Flags cost a 304 the second time; a report has Django's token, whatever other cookies are."""
    tab.page.add_init_script(NO_POLLING)
    tab.page.context.add_cookies([{"name": "a-csrftoken", "value": "wrong", "url": tab.address}])
    tab.arrive_as("Ada")
    statuses: list[int] = []

    def note(response: Response) -> None:
        if is_flags(response):
            statuses.append(response.status)

    tab.page.on("response", note)
    answers, status = tab.page.evaluate(
        f"""async () => {{
          {SCRIPTS[1]}
          const answers = [await ask(), await ask()];
          const response = await reportExposures(["checkout"]);
          return [answers, response.status];
        }}"""
    )

    assert status == 204
    assert [one["distinct_id"] for one in answers] == [ADA, ADA]
    assert statuses == [200, 304]
