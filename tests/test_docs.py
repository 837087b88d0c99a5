"""What the documents say is so: their code runs, and their tables are complete."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

from olposthog.conf import Settings
from tests.posthog_server import PostHogServer, Variant

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def python_blocks(page: Path) -> list[str]:
    blocks = re.findall(r"^( *)```python\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", code, flags=re.MULTILINE) for indent, code in blocks]


def name(page: Path) -> str:
    return page.name


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_code_on_every_page_runs(page: Path, enabled: PostHogServer) -> None:
    """A reader can copy the Python of a page, from its first block to its last."""
    enabled.flags = {"new-nav": True, "checkout": Variant("test", payload={"colour": "green"})}
    scope: dict[str, Any] = {}
    for code in python_blocks(page):
        exec(compile(code, str(page), "exec"), scope)  # it is ours
    if page.name == "README.md":
        assert (scope["variant"], scope["colours"]) == ("test", {"colour": "green"})


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every link to a file of the project names one that exists."""
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_settings_page_lists_every_setting_with_its_default() -> None:
    """The table of settings is the one that the code has, in the same order."""
    table = dict(
        re.findall(
            r"^\| `(\w+)` \| `(.*?)` \|", (ROOT / "docs/settings.md").read_text(), re.MULTILINE
        )
    )
    known = {
        field.metadata["name"]: {} if field.default is MISSING else field.default
        for field in fields(Settings)
        if field.metadata
    }
    assert list(table) == list(known)
    for setting, default in known.items():
        shown = list(default) if isinstance(default, tuple) else default
        assert table[setting] == repr(shown).replace("'", '"'), setting
