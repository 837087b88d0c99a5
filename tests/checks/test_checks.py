"""The system checks as a whole: where they are silent, and that nothing upsets them."""

import re
from pathlib import Path
from typing import Any

import pytest
from django.core import checks as django_checks
from django.test import override_settings
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from olposthog import conf
from olposthog.checks import check_cache_table, ids
from olposthog_api import checks as api_checks
from tests.checks.project import ROOT, Project, found
from tests.test_docs import python_blocks


def every_id() -> list[str]:
    """All ids that there are."""
    return [
        *ids.ERRORS.values(),
        *ids.MISSING.values(),
        *(
            value
            for module in (ids, api_checks)
            for value in vars(module).values()
            if isinstance(value, str) and value.startswith("olposthog")
            if value not in (module.__name__, module.__package__)
        ),
    ]


def test_ids_are_unique():
    """No id stands for two things."""
    assert len(set(every_id())) == len(every_id())
    assert ids.ERRORS.keys() | {"CACHES"} == conf.NAMES


def test_page_lists_every_id():
    """The page on checks has a row for each id, and for no other."""
    page = (ROOT / "docs/checks.md").read_text()

    assert sorted(re.findall(r"^\| `(olposthog\S+)` \|", page, re.MULTILINE)) == sorted(every_id())


def test_the_checks_carry_a_tag():
    """`manage.py check --tag olposthog` runs them."""
    assert django_checks.tag_exists("olposthog")


# Silence


def test_a_good_production_configuration_is_silent(production):
    """Nothing is said of a configuration that is as it should be."""
    assert found() == []


def test_while_disabled_nothing_is_said(settings):
    """With POSTHOG_ENABLED off, a project that sets nothing else has nothing to mend."""
    for name in ("HOSTNAME", "ENVIRONMENT", "FEATURES"):
        delattr(settings, name)
    settings.CACHES = {"default": settings.CACHES["default"]}

    assert found() == []


def test_a_bare_project_is_silent(tmp_path):
    """A project that only installs the app passes every check of Django's and ours."""
    assert Project(tmp_path, "INSTALLED_APPS = ['olposthog']\n").check() == []


def test_the_readme_is_silent(tmp_path):
    """Who follows the README to the letter, in production, has nothing to mend."""
    text = (ROOT / "README.md").read_text()
    steps = text[text.index("## Put it into your project") : text.index("## Python")]
    readme = tmp_path / "steps.md"
    readme.write_text(steps)
    apps, cache, urls, rest = python_blocks(readme)
    database = '{"ENGINE": "django.db.backends.sqlite3", "NAME": "site.sqlite3"}'
    project = Project(
        tmp_path,
        f'{apps}{cache}{rest}\nROOT_URLCONF = "urls"\nDATABASES = {{"default": {database}}}\n',
        urls=urls,
    )
    for command in re.findall(r"\$ python manage.py (\w+)", steps):
        project.manage(command)

    assert project.check(["default"]) == []


# Odd values

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.binary(max_size=5),
    st.sampled_from(
        [
            "http://[",
            "http://[v1.x]",
            "https://posthog.com:99999",
            "http://posthog\u3002com",
            "phc_x",
            "*",
            Path("/nowhere"),
            object(),
            dict,
            [""],
            ["a,b"],
            {"a": "true"},
            {1: 2},
            {"features": "60"},
        ]
    ),
    st.lists(st.one_of(st.integers(), st.text(max_size=3)), max_size=3),
    st.dictionaries(st.text(max_size=3), st.one_of(st.integers(), st.text(max_size=3)), max_size=2),
)
BACKENDS = st.sampled_from(
    [
        "django.core.cache.backends.db.DatabaseCache",
        "django.core.cache.backends.locmem.LocMemCache",
        "django.core.cache.backends.redis.RedisCache",
        "django.core.cache.backends.filebased.FileBasedCache",
        "django.core.cache.backends.memcached.PyMemcacheCache",
        "django.core.cache.backends.db.Nothing",
        "tests.checks.project.found",
    ]
)
ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "BACKEND": BACKENDS | ODD,
        "LOCATION": ODD,
        "TIMEOUT": ODD,
        "timeout": ODD,
        "OPTIONS": ODD
        | st.fixed_dictionaries(
            {}, optional={"MAX_ENTRIES": ODD, "socket_timeout": ODD, "pool_class": ODD}
        ),
        "KEY_FUNCTION": ODD,
    },
)
OTHERS = ["SESSION_COOKIE_SAMESITE", "SESSION_COOKIE_SECURE", "SESSION_COOKIE_NAME", "DEBUG"]
SETTINGS = st.dictionaries(st.sampled_from([*sorted(conf.NAMES - {"CACHES"}), *OTHERS]), ODD)


def run_ours() -> list[django_checks.CheckMessage]:
    """Our checks alone: Django's own raise what a broken cache raises."""
    return [
        *django_checks.run_checks(tags=["olposthog"]),
        *check_cache_table(databases=["default"]),
        *api_checks.check_throttle_table(databases=["default"]),
    ]


def assert_readable(messages: list[django_checks.CheckMessage]) -> None:
    for message in messages:
        assert message.id in every_id()
        assert message.msg
        assert message.hint


FREELY = hypothesis_settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150
)


@FREELY
@pytest.mark.django_db
@given(ENTRY | ODD)
@example({"BACKEND": "django.core.cache.backends.db.DatabaseCache", "LOCATION": None})
def test_no_cache_upsets_the_checks(production: Any, entry: Any) -> None:
    """Whatever CACHES holds, the checks say something readable and raise nothing."""
    with override_settings(CACHES={"default": entry, "durable": entry}):
        assert_readable(run_ours())


@FREELY
@pytest.mark.django_db
@given(SETTINGS)
def test_no_setting_upsets_the_checks(production: Any, odd: dict[str, Any]) -> None:
    """Whatever the settings hold, the checks say something readable and raise nothing."""
    with override_settings(**odd):
        assert_readable(run_ours())


@FREELY
@pytest.mark.django_db
@given(ODD)
def test_no_throttle_rates_upset_the_checks(production: Any, rates: Any) -> None:
    """Whatever DRF is given as rates, the checks say something readable and raise nothing."""
    rest = {"DEFAULT_THROTTLE_RATES": rates}
    with override_settings(REST_FRAMEWORK=rest):
        assert_readable(run_ours())
    with override_settings(REST_FRAMEWORK={"DEFAULT_THROTTLE_RATES": {"features": rates}}):
        assert_readable(run_ours())


def test_no_caches_at_all(production: Any) -> None:
    """A site may have lost all its caches."""
    with override_settings(CACHES={}):
        assert [one.id for one in run_ours()] == [ids.NO_SHARED_CACHE]
