"""The system checks, by id: each thing that cannot work, and each that will hurt."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core import checks as django_checks
from django.test import override_settings

from olposthog import checks, conf
from tests.test_conf import EACH_BAD, SECRET

ROOT = Path(__file__).parent.parent


def found() -> list[django_checks.CheckMessage]:
    """What `manage.py check` says of this library."""
    messages = django_checks.run_checks()
    return [message for message in messages if str(message.id).startswith("olposthog.")]


def ids() -> list[str | None]:
    return [message.id for message in found()]


@pytest.fixture
def production(settings):
    """A configuration with nothing to complain of; each test spoils one thing."""
    settings.POSTHOG_ENABLED = True
    settings.POSTHOG_PROJECT_API_KEY = "phc_test"
    settings.POSTHOG_PERSONAL_API_KEY = "phx_test"
    settings.POSTHOG_API_HOST = "https://eu.i.posthog.com"
    settings.POSTHOG_API_FLAGS = ["new-nav", "web-*"]
    settings.HOSTNAME = "www.example.com"
    settings.ENVIRONMENT = "production"
    settings.FEATURES = {"new-nav": True, "checkout": "test", "old": False}
    settings.CACHES = {
        "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
        "durable": {
            "BACKEND": "django.core.cache.backends.db.DatabaseCache",
            "LOCATION": "flags",
            "OPTIONS": {"MAX_ENTRIES": 100_000},
        },
    }
    return settings


def test_a_good_production_configuration_is_silent(production):
    """Nothing is said of a configuration that is as it should be."""
    assert found() == []


def test_while_disabled_nothing_is_said(settings):
    """With POSTHOG_ENABLED off, a project that sets nothing else has nothing to mend."""
    for name in ("HOSTNAME", "ENVIRONMENT", "FEATURES"):
        delattr(settings, name)
    settings.CACHES = {"default": settings.CACHES["default"]}

    assert found() == []


def test_the_checks_carry_a_tag():
    """`manage.py check --tag olposthog` runs them."""
    assert django_checks.tag_exists("olposthog")


def test_ids_are_unique():
    """No id stands for two things."""
    every = [
        *checks.ERRORS.values(),
        checks.FORGEABLE_USER_ID,
        checks.NO_HOSTNAME,
        checks.NO_ENVIRONMENT,
        checks.NO_SHARED_CACHE,
        checks.SMALL_CACHE,
        checks.EVERY_FLAG_VISIBLE,
        checks.TEXT_FOR_SWITCH,
    ]

    assert len(set(every)) == len(every)
    assert checks.ERRORS.keys() | {"CACHES"} == conf.NAMES


# Settings that cannot be used


@EACH_BAD
def test_a_bad_value_is_an_error(production, name, bad):
    """A bad value is an error under its setting's id, named in the message, with a fix."""
    with override_settings(**{name: bad}):
        messages = found()

    (error,) = [message for message in messages if message.id == checks.ERRORS[name]]
    assert error.level == django_checks.ERROR
    assert error.msg.startswith(name)
    assert error.hint
    assert SECRET not in str(messages)


@pytest.mark.parametrize("name", ["POSTHOG_PROJECT_API_KEY", "POSTHOG_API_HOST"])
def test_a_missing_required_setting_is_an_error(production, name):
    """What POSTHOG_ENABLED requires has to be there."""
    delattr(production, name)

    (error,) = found()
    assert error.id == checks.ERRORS[name]
    assert "required" in error.msg


def test_a_bad_value_is_an_error_while_disabled(settings):
    """A bad value is reported before it starts to matter."""
    settings.POSTHOG_POLL_INTERVAL = "300"

    assert ids() == [checks.ERRORS["POSTHOG_POLL_INTERVAL"]]


def test_every_bad_value_is_reported(production):
    """Two bad values are two errors."""
    production.POSTHOG_POLL_INTERVAL = 0
    production.POSTHOG_MAX_RETRIES = "3"

    assert sorted(str(id_) for id_ in ids()) == ["olposthog.E006", "olposthog.E007"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "cannot be read"),
        ("", "is not JSON"),
        ('{"flags": [', "is not JSON"),
        ("[]", 'a list under "flags"'),
        ('{"flags": {}}', 'a list under "flags"'),
        ('{"flags": [], "cohorts": []}', '"cohorts"'),
        ('{"flags": [], "group_type_mapping": 1}', '"group_type_mapping"'),
        ('{"flags": ["new-nav"]}', "flags[0]"),
        ('{"flags": [{"key": ""}]}', "flags[0]"),
        ('{"flags": [{"key": "new-nav"}]}', "new-nav"),
        ('{"flags": [{"key": "new-nav", "filters": {"groups": 1}}]}', "new-nav"),
    ],
)
def test_a_bad_definitions_file_is_an_error(production, tmp_path, content, complaint):
    """A definitions file that is missing or malformed is an error that says where."""
    file = tmp_path / "flags.json"
    if content is not None:
        file.write_text(content)
    production.POSTHOG_FLAG_DEFINITIONS_FILE = file

    (error,) = found()
    assert error.id == checks.ERRORS["POSTHOG_FLAG_DEFINITIONS_FILE"]
    assert error.level == django_checks.ERROR
    assert error.msg.startswith("POSTHOG_FLAG_DEFINITIONS_FILE")
    assert os.fspath(file) in error.msg
    assert complaint in error.msg
    assert error.hint


def test_a_directory_is_no_definitions_file(production, tmp_path):
    """What exists and cannot be read as a file is an error too."""
    production.POSTHOG_FLAG_DEFINITIONS_FILE = tmp_path

    assert ids() == [checks.ERRORS["POSTHOG_FLAG_DEFINITIONS_FILE"]]


def test_a_good_definitions_file_needs_nothing_else(production, tmp_path):
    """With a file that can be used, no key and no address are needed."""
    file = tmp_path / "flags.json"
    flag = {"key": "new-nav", "filters": {"groups": []}}
    file.write_text(json.dumps({"flags": [flag], "group_type_mapping": {}, "cohorts": {}}))
    production.POSTHOG_FLAG_DEFINITIONS_FILE = file
    del production.POSTHOG_PROJECT_API_KEY
    del production.POSTHOG_API_HOST

    assert found() == []


def test_a_definitions_file_does_not_matter_while_disabled(settings, tmp_path):
    """With POSTHOG_ENABLED off the file may be missing."""
    settings.POSTHOG_FLAG_DEFINITIONS_FILE = tmp_path / "missing.json"

    assert found() == []


# What works, but will hurt


def warning() -> django_checks.CheckMessage:
    """The one message, which is a warning with a fix."""
    (message,) = found()
    assert message.level == django_checks.WARNING
    assert message.hint
    return message


@pytest.mark.parametrize("hostname", [None, ""], ids=["none", "empty"])
def test_no_hostname(production, hostname):
    """Without HOSTNAME each machine is somebody else."""
    production.HOSTNAME = hostname

    assert warning().id == checks.NO_HOSTNAME
    assert "HOSTNAME" in warning().msg
    assert conf.current().hostname in warning().msg


@pytest.mark.parametrize("environment", [None, "", " "], ids=["none", "empty", "blank"])
def test_no_environment(production, environment):
    """Without ENVIRONMENT flags cannot tell deployments apart."""
    production.ENVIRONMENT = environment

    assert warning().id == checks.NO_ENVIRONMENT
    assert "ENVIRONMENT" in warning().msg


def test_no_shared_cache(production):
    """Without a shared cache each process is on its own."""
    production.CACHES = {"default": production.CACHES["default"]}

    assert warning().id == checks.NO_SHARED_CACHE
    assert 'CACHES["durable"]' in str(warning().hint)


@pytest.mark.parametrize("options", [{}, {"OPTIONS": {}}, {"OPTIONS": {"CULL_FREQUENCY": 2}}])
def test_a_small_database_cache(production, options):
    """A `DatabaseCache` with Django's default of 300 entries is too small."""
    small = {"BACKEND": checks.DATABASE_CACHE, "LOCATION": "flags", **options}
    production.CACHES = {**production.CACHES, "durable": small}

    assert warning().id == checks.SMALL_CACHE
    assert "durable" in warning().msg
    assert "MAX_ENTRIES" in str(warning().hint)


def test_another_small_database_cache_is_not_ours(production):
    """It is the cache under POSTHOG_CACHE_ALIAS that counts."""
    small = {"BACKEND": checks.DATABASE_CACHE, "LOCATION": "flags"}
    production.CACHES = {**production.CACHES, "default": small}
    assert found() == []

    production.POSTHOG_CACHE_ALIAS = "default"
    assert warning().id == checks.SMALL_CACHE
    assert "default" in warning().msg


@pytest.mark.parametrize("patterns", [None, ["*"], ["new-nav", "*"]], ids=repr)
def test_every_flag_visible(production, patterns):
    """In production, browsers should see the flags that they use and no others."""
    production.POSTHOG_API_FLAGS = patterns

    assert warning().id == checks.EVERY_FLAG_VISIBLE
    assert "POSTHOG_API_FLAGS" in str(warning().hint)


def test_every_flag_visible_in_development(production):
    """With DEBUG on it is convenient."""
    production.POSTHOG_API_FLAGS = ["*"]
    production.DEBUG = True

    assert found() == []


@pytest.mark.parametrize("text", ["true", "False", " FALSE ", "0", "1", ""])
def test_text_for_a_switch(production, text):
    """Text in FEATURES that reads like a switch is a variant, and so it is on."""
    production.FEATURES = {"new-nav": text, "checkout": "test"}

    assert warning().id == checks.TEXT_FOR_SWITCH
    assert "new-nav" in warning().msg
    assert "True or False" in str(warning().hint)


def test_trusting_browsers_is_fine_with_numbered_users(production):
    """A browser's UUID cannot pass for the number of a user."""
    production.POSTHOG_API_TRUST_BROWSER_ID = True

    assert found() == []


# Whole projects, each in a process of its own


def check_project(tmp_path: Path, project_settings: str, models: str = "") -> list[Any]:
    """What `manage.py check` finds in a project: ids, texts and hints."""
    people = tmp_path / "people"
    people.mkdir()
    (people / "__init__.py").touch()
    (people / "models.py").write_text(models)
    (tmp_path / "project_settings.py").write_text(
        f"SECRET_KEY = 'tests only'\nUSE_TZ = True\n{project_settings}"
    )
    script = """
import json
import django
from django.core.checks import run_checks

django.setup()
print(json.dumps([[one.id, one.msg, one.hint] for one in run_checks()]))
"""
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "project_settings",
            "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT), str(ROOT / "api")]),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    messages: list[Any] = json.loads(process.stdout)
    return messages


def test_a_bare_project_is_silent(tmp_path):
    """A project that only installs the app passes every check of Django's and ours."""
    assert check_project(tmp_path, "INSTALLED_APPS = ['olposthog']\n") == []


ENABLED = """
POSTHOG_ENABLED = True
POSTHOG_PROJECT_API_KEY = "phc_test"
POSTHOG_API_HOST = "https://eu.i.posthog.com"
POSTHOG_API_TRUST_BROWSER_ID = True
HOSTNAME = "www.example.com"
ENVIRONMENT = "production"
CACHES = {
    name: {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "LOCATION": name}
    for name in ("default", "durable")
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
"""
WITH_PEOPLE = f"""{ENABLED}
INSTALLED_APPS = [
    "django.contrib.auth", "django.contrib.contenttypes", "people", "olposthog"
]
AUTH_USER_MODEL = "people.Person"
"""
PERSON = """
import uuid
from django.contrib.auth.models import AbstractBaseUser
from django.db import models

class Person(AbstractBaseUser):
    {}
    email = models.EmailField(unique=True)
    USERNAME_FIELD = "email"
"""


def test_users_with_uuids_cannot_trust_browsers(tmp_path):
    """Where users' ids are UUIDs, a browser's UUID could be a user's: that is an error."""
    messages = check_project(
        tmp_path,
        WITH_PEOPLE,
        PERSON.format("id = models.UUIDField(primary_key=True, default=uuid.uuid4)"),
    )

    ((id_, message, hint),) = messages
    assert id_ == checks.FORGEABLE_USER_ID
    assert message.startswith("POSTHOG_API_TRUST_BROWSER_ID")
    assert hint == "Set POSTHOG_API_TRUST_BROWSER_ID = False."


def test_users_of_another_model_with_numbers_can_trust_browsers(tmp_path):
    """The model alone is no error: what counts is its primary key."""
    assert check_project(tmp_path, WITH_PEOPLE, PERSON.format("")) == []


def test_users_that_inherit_their_uuids_cannot_trust_browsers(tmp_path):
    """A primary key that leads to a parent's UUID is a UUID."""
    parent = """
import uuid
from django.contrib.auth.models import AbstractBaseUser
from django.db import models

class Party(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)

class Person(AbstractBaseUser, Party):
    email = models.EmailField(unique=True)
    USERNAME_FIELD = "email"
"""

    assert [message[0] for message in check_project(tmp_path, WITH_PEOPLE, parent)] == [
        checks.FORGEABLE_USER_ID
    ]


def test_a_project_without_users_can_trust_browsers(tmp_path):
    """Where nobody can log in, there is no user whose id could be claimed."""
    project = f"{ENABLED}\nINSTALLED_APPS = ['olposthog']\n"

    assert check_project(tmp_path, project) == []
