"""Moving from mitol-django-olposthog: what `docs/moving.md` promises, beside the real package.

Each package has a process of its own; both meet the same stand-in PostHog.
"""

from __future__ import annotations

import inspect
import sqlite3
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from olposthog import conf, features
from olposthog.checks import check_settings
from olposthog.checks.ids import MISSING
from tests.posthog_faults import Delay, Status
from tests.posthog_server import PostHogServer, Variant
from tests.site.child import say
from tests.site.processes import CACHE_TABLE, Site, make_tables, result_of

OURS = "olposthog"
THEIRS = "mitol.olposthog"
PACKAGES = [OURS, THEIRS]
FALLBACK = {"new-nav": True, "only-here": True}

CALL_SITES = """
from PACKAGE.features import configure, default_unique_id, get_all_feature_flags, is_enabled

configure()
answers = {
    "who": default_unique_id(),
    "on": is_enabled("on"),
    "off": is_enabled("off"),
    "off, whatever FEATURES says": is_enabled("off-but-in-features", True),
    "in FEATURES only": is_enabled("only-here"),
    "unknown": is_enabled("unknown"),
    "unknown, by default": [is_enabled("unknown", True), is_enabled("unknown", default=False)],
    "for a person": is_enabled("for-ann", False, "ann"),
    "for another": is_enabled("for-ann", opt_unique_id="ben"),
    "all": get_all_feature_flags("ann")["for-ann"],
    "all, by name": get_all_feature_flags(opt_unique_id="ben")["for-ann"],
    "all of the server": get_all_feature_flags()["on"],
}
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A site whose shared cache is in its database."""
    site = Site(tmp_path_factory.mktemp("template"))
    site.run(make_tables)
    return site


SiteOf = Callable[[str], Site]


@pytest.fixture
def site_of(template: Site, posthog: PostHogServer, tmp_path: Path) -> SiteOf:
    """Makes the site of a package, configured alike but for the app's name."""

    def make(package: str) -> Site:
        site = template.copy(tmp_path / package)
        site.use(posthog)
        site.settings |= {
            # The predecessor's settings module would set these.
            "POSTHOG_FEATURE_FLAG_REQUEST_TIMEOUT_MS": 3000,
            "POSTHOG_MAX_RETRIES": 3,
            "POSTHOG_POLL_INTERVAL": 300,
            "POSTHOG_CIRCUIT_BREAKER_TRIP_THRESHOLD_SECONDS": 6,
            "POSTHOG_CIRCUIT_BREAKER_COOLDOWN_SECONDS": 60,
            "INSTALLED_APPS": [
                "django.contrib.auth",
                "django.contrib.contenttypes",
                package,
            ],
            "FEATURES": FALLBACK,
            "MIDDLEWARE": [],
            "ROOT_URLCONF": "tests.site.no_urls",
        }
        return site

    return make


def configured(package: str) -> ModuleType:
    """Return the package's functions, ready for use."""
    found = import_module(f"{package}.features")
    found.configure()
    return found


# Names


def public_functions(package: str) -> dict[str, list[list[str]]]:
    """Return name, kind and default of each parameter of a module's own public functions."""
    module = import_module(f"{package}.features")
    return {
        name: [
            [parameter.name, parameter.kind.name, repr(parameter.default)]
            for parameter in inspect.signature(function).parameters.values()
        ]
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if not name.startswith("_") and function.__module__ == module.__name__
    }


def test_functions_take_what_they_took(site_of: SiteOf) -> None:
    """Each of the predecessor's functions is here, and takes the same arguments in its places."""
    theirs = site_of(THEIRS).run(public_functions, THEIRS)
    ours = public_functions(OURS)

    assert set(theirs) == {
        "configure",
        "default_unique_id",
        "get_all_feature_flags",
        "is_enabled",
    }
    for name, parameters in theirs.items():
        assert ours[name][: len(parameters)] == parameters, name
        added = {kind for _, kind, _ in ours[name][len(parameters) :]}
        assert added <= {"KEYWORD_ONLY", "VAR_KEYWORD"}, name


def predecessors_settings() -> dict[str, Any]:
    module = import_module("mitol.olposthog.settings.olposthog")
    return {name: value for name, value in vars(module).items() if name.startswith("POSTHOG_")}


def test_settings_keep_their_names_and_defaults(site_of: SiteOf) -> None:
    """Each of the predecessor's settings is here with the same default, but for the host."""
    theirs = site_of(THEIRS).run(predecessors_settings)
    ours = {
        field.metadata["name"]: field.default
        for field in conf.Settings.__dataclass_fields__.values()
        if field.metadata
    }

    assert theirs.pop("POSTHOG_API_HOST") == "https://us.posthog.com"
    assert theirs
    assert {name: ours[name] for name in theirs} == theirs


def test_host_must_be_named(settings: Any) -> None:
    """Without POSTHOG_API_HOST, for which the predecessor had a default, a check says so."""
    settings.POSTHOG_ENABLED = True
    settings.POSTHOG_PROJECT_API_KEY = "phc_test"

    assert [message.id for message in check_settings()] == [MISSING["POSTHOG_API_HOST"]]
    assert features.evaluate("ann").source == "fallback"


def run_call_sites(package: str) -> Any:
    scope: dict[str, Any] = {}
    exec(CALL_SITES.replace("PACKAGE", package), scope)  # it is ours
    return scope["answers"]


def test_call_sites_need_another_import_only(site_of: SiteOf, posthog: PostHogServer) -> None:
    """Code that used the predecessor gets the same answers when its import is changed."""
    posthog.flags = {
        "on": True,
        "off": False,
        "off-but-in-features": False,
        "for-ann": Variant(True, only_for={"ann"}),
    }
    answers = {}
    for package in PACKAGES:
        site = site_of(package)
        site.settings["FEATURES"] = FALLBACK | {"off-but-in-features": True}
        answers[package] = site.run(run_call_sites, package)

    assert answers[OURS] == answers[THEIRS]
    assert answers[OURS] == {
        "who": "tests.example.com",
        "on": True,
        "off": False,
        "off, whatever FEATURES says": False,
        "in FEATURES only": True,
        "unknown": False,
        "unknown, by default": [True, False],
        "for a person": True,
        "for another": False,
        "all": True,
        "all, by name": False,
        "all of the server": True,
    }


# What is better now, as counts


def ask_at_once(package: str, callers: int) -> list[bool]:
    """Ask for the same flag in this many threads; each tells when it is about to."""
    is_enabled = configured(package).is_enabled

    def ask(_: int) -> bool:
        say("asking")
        return bool(is_enabled("new-nav", opt_unique_id="ann"))

    with ThreadPoolExecutor(callers) as pool:
        return list(pool.map(ask, range(callers)))


@pytest.mark.parametrize(("package", "calls"), [(OURS, 1), (THEIRS, 50)])
def test_cold_callers_at_once(
    site_of: SiteOf, posthog: PostHogServer, package: str, calls: int
) -> None:
    """Fifty cold callers for one person cost one request; the predecessor makes fifty."""
    posthog.flags = {"new-nav": True}
    process = site_of(package).start(ask_at_once, package, 50, stderr=subprocess.STDOUT)

    with posthog.gate():
        assert process.stdout
        for _ in range(50):
            assert process.stdout.readline() == "asking\n"
        posthog.wait_for_flag_calls(calls)
        with pytest.raises(TimeoutError):
            posthog.wait_for_flag_calls(calls + 1, timeout=0.5)

    assert result_of(process) == [True] * 50
    assert len(posthog.flag_calls) == calls


def ask_amid_failures(package: str, people: int, checks: int) -> bool:
    """Check different flags of each person; tell whether the circuit is open then."""
    found = configured(package)
    for person in range(people):
        for flag in range(checks):
            found.is_enabled(f"flag-{flag}", opt_unique_id=f"person-{person}")
    if package == THEIRS:
        return bool(found._is_circuit_open())
    from olposthog._core import engine

    return engine.current().breaker.state == "open"


@pytest.mark.parametrize(("package", "calls"), [(OURS, 1), (THEIRS, 20)])
def test_checks_of_one_person_amid_failures(
    site_of: SiteOf, posthog: PostHogServer, package: str, calls: int
) -> None:
    """Twenty flags checked against a PostHog that answers 500 cost one request, not twenty."""
    posthog.flags_fault = Status(500)

    site_of(package).run(ask_amid_failures, package, 1, 20)

    assert len(posthog.flag_calls) == calls


@pytest.mark.parametrize(("package", "calls", "opens"), [(OURS, 5, True), (THEIRS, 20, False)])
def test_checks_of_many_people_amid_failures(
    site_of: SiteOf, posthog: PostHogServer, package: str, calls: int, *, opens: bool
) -> None:
    """Five failures open the circuit; the predecessor's never opened for failures."""
    posthog.flags_fault = Status(500)

    assert site_of(package).run(ask_amid_failures, package, 20, 1) is opens
    assert len(posthog.flag_calls) == calls


def check_variant(package: str) -> bool | str:
    value: bool | str = configured(package).is_enabled("checkout")
    return value


@pytest.mark.parametrize(("package", "value"), [(OURS, True), (THEIRS, "test")])
def test_variant_counts_as_on(
    site_of: SiteOf, posthog: PostHogServer, package: str, value: bool | str
) -> None:
    """`is_enabled` is a real bool for a variant, where the predecessor gave its name."""
    posthog.flags = {"checkout": Variant("test")}

    assert site_of(package).run(check_variant, package) == value


def all_flags_once_open(package: str) -> Any:
    found = configured(package)
    found.get_all_feature_flags("slow")
    return found.get_all_feature_flags("ann")


@pytest.mark.parametrize(("package", "flags"), [(OURS, FALLBACK), (THEIRS, {})])
def test_all_flags_while_the_circuit_is_open(
    site_of: SiteOf, posthog: PostHogServer, package: str, flags: dict[str, bool]
) -> None:
    """A slow call opens both circuits; then all flags are FEATURES, where they were none."""
    posthog.flags = {"new-nav": False}
    posthog.flags_fault = Delay(2.5, times=1)
    site = site_of(package)
    site.settings["POSTHOG_CIRCUIT_BREAKER_TRIP_THRESHOLD_SECONDS"] = 2

    assert site.run(all_flags_once_open, package) == flags
    assert len(posthog.flag_calls) == 1


def ask_for_all(package: str, people: list[str]) -> list[int]:
    found = configured(package)
    known = [len(found.get_all_feature_flags(person)) for person in people]
    if package == OURS:
        from olposthog._core import engine

        assert engine.current().shared.settle(20)
    return known


@pytest.mark.parametrize(("package", "rows"), [(OURS, 1), (THEIRS, 20)])
def test_rows_that_a_persons_flags_take(
    site_of: SiteOf, posthog: PostHogServer, package: str, rows: int
) -> None:
    """All flags of a person are one row of the shared cache, where each flag had its own."""
    posthog.flags = {f"flag-{number}": True for number in range(20)}
    site = site_of(package)
    site.settings["FEATURES"] = {}
    people = ["ann", "ben", "cleo"]
    with closing(sqlite3.connect(site.cache_file)) as database:
        database.executescript(
            f"""
            CREATE TABLE written (cache_key TEXT);
            CREATE TRIGGER note_inserted AFTER INSERT ON {CACHE_TABLE}
            BEGIN INSERT INTO written VALUES (new.cache_key); END;
            CREATE TRIGGER note_updated AFTER UPDATE ON {CACHE_TABLE}
            BEGIN INSERT INTO written VALUES (new.cache_key); END;
            """
        )

    assert site.run(ask_for_all, package, people) == [20] * len(people)
    with closing(sqlite3.connect(site.cache_file)) as database:
        written = [key for (key,) in database.execute("SELECT cache_key FROM written")]
    of_people = [key for key in written if ":zz:" not in key]
    assert len(of_people) == rows * len(people)
    assert len(written) <= rows * len(people) + len(people) + 2  # with tokens, and the state
