"""The pytest plugin, as a site's own tests meet it: by its entry point, in another pytest."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.posthog_server import PostHogServer
from tests.test_docs import python_blocks

ROOT = Path(__file__).resolve().parent.parent
PREAMBLE = """
import unittest
from contextlib import suppress

import pytest

from olposthog.features import get_all_feature_flags, get_feature_flag_payload, is_enabled
from olposthog.testing import Flags, UnexpectedFlag, override_flags

"""


@dataclass
class Outcome:
    """What a run of pytest says."""

    code: int
    text: str

    def counts(self, **counts: int) -> bool:
        """Whether it ended with just these counts, such as `passed=2`."""
        found = re.findall(r"(\d+) (passed|failed|error)", self.text.strip().splitlines()[-1])
        return {name: int(count) for count, name in found} == counts


def environment(**also: str) -> dict[str, str]:
    """The environment, without what this pytest put there."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "DJANGO"))}
    return kept | also


@pytest.fixture
def run(posthog: PostHogServer, tmp_path: Path) -> Callable[..., Outcome]:
    """Run a site's tests; its settings name the PostHog, which has `new-nav` on."""
    posthog.flags = {"new-nav": True}
    (tmp_path / "pytest.ini").write_text("[pytest]\nDJANGO_SETTINGS_MODULE = shop_settings\n")
    (tmp_path / "shop_settings.py").write_text(
        "from tests.settings import *\n"
        "POSTHOG_ENABLED = True\n"
        f"POSTHOG_PROJECT_API_KEY = {posthog.token!r}\n"
        f"POSTHOG_API_HOST = {posthog.url!r}\n"
        "FEATURES = {'old': True}\n"
    )

    def run_tests(tests: str, *arguments: str) -> Outcome:
        (tmp_path / "test_shop.py").write_text(PREAMBLE + tests)
        paths = os.pathsep.join(map(str, (ROOT, ROOT / "api")))
        ran = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
            cwd=tmp_path,
            env=environment(PYTHONPATH=paths),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return Outcome(ran.returncode, ran.stdout + ran.stderr)

    return run_tests


def test_nothing_leaves_the_process(run: Callable[..., Outcome], posthog: PostHogServer) -> None:
    """From the import of the first test on, PostHog is not asked; FEATURES answers."""
    outcome = run(
        """
AT_IMPORT = get_all_feature_flags()

def test_import():
    assert AT_IMPORT == {"old": True}

def test_function():
    assert get_all_feature_flags() == {"old": True}

class TestCase(unittest.TestCase):
    def test_method(self):
        assert get_all_feature_flags() == {"old": True}
"""
    )

    assert outcome.counts(passed=3), outcome.text
    assert posthog.requests == []


def test_the_fixture_says_what_flags_are(run: Callable[..., Outcome]) -> None:
    """`flags` is called as `override_flags` is, as often as wanted, until the test ends."""
    outcome = run(
        """
@pytest.fixture
def page(flags):
    flags({"new-nav": True, "checkout": "control"})

def test_flags(page, flags: Flags):
    assert get_all_feature_flags() == {"old": True, "new-nav": True, "checkout": "control"}
    flags({"checkout": "test"}, payloads={"checkout": 1})
    assert get_all_feature_flags() == {"old": True, "new-nav": True, "checkout": "test"}
    assert get_feature_flag_payload("checkout") == 1
    flags({"new-nav": False}, for_id=42)
    assert is_enabled("new-nav") and not is_enabled("new-nav", opt_unique_id=42)

def test_after():
    assert get_all_feature_flags() == {"old": True}
"""
    )

    assert outcome.counts(passed=2), outcome.text


def test_the_marker_says_what_flags_are(run: Callable[..., Outcome]) -> None:
    """On a module, a class and a test, the closest holds; fixtures and unittest's tests see it."""
    outcome = run(
        """
pytestmark = pytest.mark.flags({"checkout": "module", "new-nav": True})

@pytest.fixture
def seen():
    return get_all_feature_flags()

def test_module(seen):
    assert seen == {"old": True, "new-nav": True, "checkout": "module"}

@pytest.mark.flags({"checkout": "class"})
class TestClass:
    def test_class(self):
        assert get_all_feature_flags() == {"old": True, "new-nav": True, "checkout": "class"}

    @pytest.mark.flags({"checkout": "test"}, payloads={"checkout": 1})
    def test_test(self, flags):
        assert get_all_feature_flags() == {"old": True, "new-nav": True, "checkout": "test"}
        assert get_feature_flag_payload("checkout") == 1
        flags({"checkout": "fixture"})
        assert get_all_feature_flags()["checkout"] == "fixture"

@pytest.mark.flags({"checkout": "function"})
@pytest.mark.parametrize(
    "variant", [pytest.param("parameter", marks=pytest.mark.flags({"checkout": "parameter"}))]
)
def test_parameter(variant):
    assert get_all_feature_flags()["checkout"] == variant

@pytest.mark.flags({"checkout": "outer"})
@pytest.mark.flags({"checkout": "inner"})
def test_stacked():
    assert get_all_feature_flags()["checkout"] == "inner"

@pytest.mark.flags({"checkout": "base"})
class Base:
    def test_inherited(self):
        assert get_all_feature_flags()["checkout"] == "sub"

@pytest.mark.flags({"checkout": "sub"})
class TestSub(Base):
    pass

class Case(unittest.TestCase):
    @pytest.mark.flags({"checkout": "case"})
    def test_case(self):
        assert get_all_feature_flags()["checkout"] == "case"
""",
        "--strict-markers",
    )

    assert outcome.counts(passed=7), outcome.text


def test_a_test_may_ask_posthog(run: Callable[..., Outcome], posthog: PostHogServer) -> None:
    """PostHog is asked where a marker or the fixture says so, and nowhere else."""
    outcome = run(
        """
@pytest.mark.flags(ask_posthog=True)
def test_marker():
    assert is_enabled("new-nav", opt_unique_id="1")

def test_fixture(flags):
    assert not is_enabled("new-nav", opt_unique_id="2")
    flags(ask_posthog=True)
    assert is_enabled("new-nav", opt_unique_id="3")

def test_other():
    assert not is_enabled("new-nav", opt_unique_id="4")
"""
    )

    assert outcome.counts(passed=3), outcome.text
    assert [call["distinct_id"] for call in posthog.flag_calls] == ["1", "3"]


def test_a_strict_test_fails_by_the_flags_name(run: Callable[..., Outcome]) -> None:
    """Reading what is not mentioned fails the test, also where the tested code swallows it."""
    outcome = run(
        """
@pytest.mark.flags({"new-nav": True}, strict=True)
def test_mentioned():
    assert is_enabled("new-nav")

@pytest.mark.flags(strict=True)
def test_unmentioned():
    is_enabled("first-flag")

@pytest.mark.flags(strict=True)
def test_swallowed():
    with suppress(AssertionError):
        is_enabled("second-flag")

def test_swallowed_by_fixture(flags):
    flags(strict=True)
    with suppress(AssertionError):
        is_enabled("third-flag")
"""
    )

    assert outcome.counts(passed=1, failed=3), outcome.text
    for key in ("first-flag", "second-flag", "third-flag"):
        assert f"'{key}'" in outcome.text


def test_a_wrong_marker_says_what_is_wrong(run: Callable[..., Outcome]) -> None:
    """What cannot be a flag is an error of that test, which names it."""
    outcome = run(
        """
@pytest.mark.flags({"new-nav": 1})
def test_value(): ...

@pytest.mark.flags({"new-nav": True}, strct=True)
def test_argument(): ...
"""
    )

    assert outcome.counts(error=2), outcome.text
    assert "'new-nav' must be True, False or the name of a variant" in outcome.text
    assert "'strct'" in outcome.text


def test_the_marker_is_explained(run: Callable[..., Outcome]) -> None:
    """`pytest --markers` tells of it."""
    assert "@pytest.mark.flags(flags=None, *, payloads=None" in run("", "--markers").text


def test_the_page_on_testing_is_a_file_of_tests(run: Callable[..., Outcome]) -> None:
    """What docs/testing.md shows can be run as it stands."""
    page = "\n".join(python_blocks(ROOT / "docs/testing.md"))

    assert run(page).counts(passed=9)


def test_it_works_in_parallel(run: Callable[..., Outcome], posthog: PostHogServer) -> None:
    """Each process of pytest-xdist is isolated."""
    outcome = run(
        """
@pytest.mark.parametrize("number", range(4))
def test_isolated(number):
    assert get_all_feature_flags() == {"old": True}
""",
        "-n2",
    )

    assert outcome.counts(passed=4), outcome.text
    assert posthog.requests == []


def test_it_can_be_switched_off(run: Callable[..., Outcome], posthog: PostHogServer) -> None:
    """`-p no:olposthog` leaves the process as it would be without pytest."""
    outcome = run("def test_it(): assert is_enabled('new-nav')\n", "-p", "no:olposthog")

    assert outcome.counts(passed=1), outcome.text
    assert len(posthog.flag_calls) == 1


def pytest_of(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run pytest where there is no Django."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_pytest_without_django_goes_on(tmp_path: Path) -> None:
    """In a project that has no Django settings, the plugin is not noticed."""
    (tmp_path / "test_sums.py").write_text("def test_sum(): assert 1 + 1 == 2\n")

    assert pytest_of(tmp_path).returncode == 0


def test_other_plugins_errors_are_told_as_they_are(tmp_path: Path) -> None:
    """Where pytest cannot be configured, its own message is the last."""
    (tmp_path / "conftest.py").write_text(
        "import pytest\ndef pytest_configure(): raise pytest.UsageError('please set TEA')\n"
    )
    ran = pytest_of(tmp_path)

    assert "please set TEA" in ran.stderr
    assert "KeyError" not in ran.stdout + ran.stderr
