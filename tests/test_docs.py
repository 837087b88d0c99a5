"""What the documents say is so: their code runs, and their tables are complete."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import MISSING, fields
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.test import Client
from django.urls import include, path

from olposthog._core.engine import Engine
from olposthog._utils.workers import Workers
from olposthog.conf import Settings
from olposthog.features import configure
from olposthog.undecided import FIXES, UndecidedReason
from tests.posthog_server import PostHogServer, Variant
from tests.test_exposures import delivered

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

HOW_IT_WORKS = ROOT / "docs/how-it-works.md"


def python_blocks(page: Path) -> list[str]:
    blocks = re.findall(r"^( *)```python\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", code, flags=re.MULTILINE) for indent, code in blocks]


def copied(page: Path, posthog: PostHogServer) -> dict[str, Any]:
    """What a reader has who copies all Python of a page, with the flags that pages are about."""
    posthog.flags = {"new-nav": True, "checkout": Variant("test", payload={"colour": "green"})}
    scope: dict[str, Any] = {}
    for code in python_blocks(page):
        exec(compile(code, str(page), "exec"), scope)  # it is ours
    return scope


def name(page: Path) -> str:
    return page.name


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_code_on_every_page_runs(page: Path, enabled: PostHogServer) -> None:
    """A reader can copy the Python of a page, from its first block to its last."""
    scope = copied(page, enabled)
    if page.name == "README.md":
        assert (scope["variant"], scope["colours"]) == ("test", {"colour": "green"})


def test_log_in_view_joins_visitor_and_user(
    enabled: PostHogServer, settings: Any, client: Client, db: None
) -> None:
    """The view that the page on exposures shows tells PostHog that the two are one person."""
    scope = copied(ROOT / "docs/exposures.md", enabled)
    configure()
    site = ModuleType("site")
    site.urlpatterns = [  # type: ignore[attr-defined]
        path("", include("olposthog_api.urls")),
        path("log-in/", scope["LogInView"].as_view()),
        path("log-out/", scope["LogOutView"].as_view(next_page="/")),
    ]
    settings.ROOT_URLCONF = site
    user = get_user_model().objects.create_user("ada", password="demo")
    visitor = client.get("/features/").json()["distinct_id"]

    for _ in range(2):  # the second time it is no visitor who logs in
        assert client.post("/log-in/", {"username": "ada", "password": "demo"}).status_code == 302
    assert client.get("/features/").json()["distinct_id"] == str(user.pk)
    client.post("/log-out/")
    assert client.get("/features/").json()["distinct_id"] not in {visitor, str(user.pk)}

    (joined,) = [event for event in delivered(enabled) if event["event"] == "$create_alias"]
    assert joined["properties"]["distinct_id"] == visitor
    assert joined["properties"]["alias"] == str(user.pk)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every link to a file of the project names one that exists."""
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def slug(heading: str) -> str:
    """The anchor that a heading gets, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_anchors_lead_to_headings(page: Path) -> None:
    """Every link to a part of a page names a heading that it has."""
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", page.read_text()):
        text = (page.parent / target if target else page).read_text()
        assert anchor in map(slug, re.findall(r"^#+ (.*)$", text, re.MULTILINE)), anchor


def test_every_line_of_the_log_is_explained() -> None:
    """What is logged above DEBUG stands, as far as it is always the same, on the outages page."""
    page = (ROOT / "docs/outages.md").read_text()
    for module in sorted((ROOT / "olposthog").rglob("*.py")):
        calls = re.findall(
            r"log\.(?:info|warning|error|exception)\(\s*\"(.*?)\"", module.read_text()
        )
        for line in calls:
            beginning = re.split(r"%[rsg]", line)
            longest = max(beginning, key=len).strip(" ():;,.")
            assert longest in page, line


def test_every_reason_of_an_undecided_flag_is_explained() -> None:
    """The table of reasons has each of them, with the fix that the commands show."""
    chapter = (ROOT / "docs/settings.md").read_text().split("### Why a flag is undecided")[1]
    rows = re.findall(r"^\| `(\w+)` \| .+ \| (.+) \|$", chapter.split("\n## ")[0], re.MULTILINE)

    assert list(map(list, rows)) == [[reason, FIXES[reason]] for reason in UndecidedReason]


def test_thread_bounds_are_those_of_the_code() -> None:
    """The number of threads that the pages name is the sum of what an evaluator can start."""
    settings = Settings(
        enabled=True, project_api_key="k", personal_api_key="k", api_host="http://h"
    )
    evaluator = Engine(settings)
    assert evaluator.poller
    parts = [
        evaluator,
        evaluator.shared,
        evaluator._remote,
        evaluator._storage,
        evaluator._signals,
        evaluator.poller,
    ]
    pools = [one for part in parts for one in vars(part).values() if isinstance(one, Workers)]
    pools.append(evaluator._refreshes._workers)
    sizes = {one._name: one._size for one in pools} | {"olposthog-definitions": 1}

    production = (ROOT / "docs/production.md").read_text()
    assert f"at most {sum(sizes.values())} threads" in " ".join(production.split())
    rows = re.findall(
        r"^\| `(olposthog-[\w-]+)` \| (\d+) \|", HOW_IT_WORKS.read_text(), re.MULTILINE
    )
    assert {name: int(size) for name, size in rows} == sizes


def test_map_has_every_module() -> None:
    """The rows of the map are the layers of the linter, in their order."""
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (layers,) = [one for one in contract["contracts"] if one["id"] == "layers"]
    table = HOW_IT_WORKS.read_text().split("\n## The map\n")[1]
    rows = [
        re.findall(r"`(\w+)`", one) for one in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    ]

    assert [sorted(row) for row in rows] == [sorted(one.split(" | ")) for one in layers["layers"]]


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


def test_the_generators_in_the_docs_are_those_that_are_tested() -> None:
    """Each row of the table names the version that `make generators-check` runs."""
    section = (ROOT / "docs/browser.md").read_text().split("### Generators")[1]
    rows = re.findall(r"^\| (\S+?),? .*?\| ([\d.]+) \|", section, re.MULTILINE)
    npm = json.loads((ROOT / "tests/clients/package.json").read_text())["devDependencies"]
    lock = (ROOT / "requirements/generators.txt").read_text()
    python = dict(re.findall(r"^([\w-]+)==(\S+)", lock, re.MULTILINE))
    python["openapi-generator"] = python["openapi-generator-cli"]

    assert len(rows) == 6
    for generator, version in rows:
        assert (npm | python)[generator] == version
