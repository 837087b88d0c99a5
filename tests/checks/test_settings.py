"""Settings that cannot be used, and those that nobody reads because of their names."""

import json
import os

import pytest
from django.core import checks as django_checks
from django.test import override_settings

from olposthog.checks import ids
from tests.checks.project import error, found, found_ids, warning
from tests.test_conf import EACH_BAD, SECRET


@EACH_BAD
def test_a_bad_value_is_an_error(production, name, bad):
    """A bad value is an error under its setting's id, named in the message, with a fix."""
    with override_settings(**{name: bad}):
        messages = found()

    (message,) = [message for message in messages if message.id == ids.ERRORS[name]]
    assert message.level == django_checks.ERROR
    assert message.msg.startswith(name)
    assert message.hint
    assert SECRET not in str(messages)


@pytest.mark.parametrize("name", ids.MISSING)
def test_a_missing_required_setting_is_an_error(production, name):
    """What POSTHOG_ENABLED requires has to be there."""
    delattr(production, name)

    assert error().id == ids.MISSING[name]
    assert error().msg.startswith(name)
    assert "required" in error().msg
    assert "POSTHOG_ENABLED = False" in str(error().hint)


def test_a_bad_value_is_an_error_while_disabled(settings):
    """A bad value is reported before it starts to matter."""
    settings.POSTHOG_POLL_INTERVAL = "300"

    assert found_ids() == [ids.ERRORS["POSTHOG_POLL_INTERVAL"]]


def test_every_bad_value_is_reported(production):
    """Two bad values are two errors."""
    production.POSTHOG_POLL_INTERVAL = 0
    production.POSTHOG_MAX_RETRIES = "3"

    assert sorted(str(id_) for id_ in found_ids()) == ["olposthog.E006", "olposthog.E007"]


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
    del production.POSTHOG_API_HOST

    assert error().id == ids.BAD_DEFINITIONS_FILE
    assert error().msg.startswith("POSTHOG_FLAG_DEFINITIONS_FILE")
    assert os.fspath(file) in error().msg
    assert complaint in error().msg


def test_a_directory_is_no_definitions_file(production, tmp_path):
    """What exists and cannot be read as a file is an error too."""
    production.POSTHOG_FLAG_DEFINITIONS_FILE = tmp_path
    del production.POSTHOG_API_HOST

    assert found_ids() == [ids.BAD_DEFINITIONS_FILE]


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


def test_project_key_as_personal_key(production):
    """A project's key reads no definitions: it is an error that does not show the key."""
    production.POSTHOG_PERSONAL_API_KEY = SECRET

    assert error().id == ids.PROJECT_KEY_AS_PERSONAL_KEY
    assert error().msg.startswith("POSTHOG_PERSONAL_API_KEY")
    assert SECRET not in str(found())


@pytest.mark.parametrize("key", ["phx_test", "phs_test", "", None], ids=repr)
def test_other_personal_keys(production, key):
    """A personal key, a secure key or none is as it should be."""
    production.POSTHOG_PERSONAL_API_KEY = key

    assert found() == []


@pytest.mark.parametrize(
    "owner", ["SESSION_COOKIE_NAME", "CSRF_COOKIE_NAME", "LANGUAGE_COOKIE_NAME"]
)
def test_taken_cookie_name(production, owner):
    """A cookie of Django's that the anonymous visitor's replaces is an error naming both."""
    production.POSTHOG_API_ANONYMOUS_COOKIE = "shared"
    assert found() == []

    setattr(production, owner, "shared")
    assert error().id == ids.COOKIE_NAME_TAKEN
    assert error().msg.startswith("POSTHOG_API_ANONYMOUS_COOKIE")
    assert owner in error().msg

    production.POSTHOG_API_ANONYMOUS_COOKIE = None
    assert found() == []


@pytest.mark.parametrize(
    ("slip", "meant"),
    [
        ("POSTHOG_ENABELD", "POSTHOG_ENABLED"),
        ("POSTHOG_ENABLE", "POSTHOG_ENABLED"),
        ("POSTHOG_PROJECT_KEY", "POSTHOG_PROJECT_API_KEY"),
        ("POSTHOG_API_HOSTS", "POSTHOG_API_HOST"),
        ("POSTHOG_API_FLAG", "POSTHOG_API_FLAGS"),
        (
            "POSTHOG_CIRCUIT_BREAKER_COOLDOWN",
            "POSTHOG_CIRCUIT_BREAKER_COOLDOWN_SECONDS",
        ),
        (
            "POSTHOG_FEATURE_FLAGS_REQUEST_TIMEOUT_MS",
            "POSTHOG_FEATURE_FLAG_REQUEST_TIMEOUT_MS",
        ),
    ],
)
def test_misspelt_setting(settings, slip, meant):
    """A name that is nearly one of ours is named with it, and never its value."""
    setattr(settings, slip, SECRET)

    assert warning().id == ids.MISSPELT_SETTING
    assert slip in warning().msg
    assert meant in str(warning().hint)
    assert SECRET not in str(found())


def test_setting_beside_the_one_it_is_like(production):
    """Where the setting itself is there, one that is like it is the site's own."""
    production.POSTHOG_PROJECT_KEY = "phc_other"
    production.POSTHOG_API_HOSTS = ["https://eu.i.posthog.com"]

    assert found() == []


def test_settings_of_other_packages(settings):
    """What others read, or a site for its own use, is no slip of ours."""
    for name in (
        "POSTHOG_API_KEY",
        "POSTHOG_APP_HOST",
        "POSTHOG_DEBUG",
        "POSTHOG_DISABLED",
        "POSTHOG_HOST",
        "POSTHOG_KEY",
        "POSTHOG_MW_CAPTURE_EXCEPTIONS",
        "POSTHOG_MW_EXTRA_TAGS",
        "POSTHOG_PROJECT_ID",
        "POSTHOG_PROJECT_TOKEN",
        "POSTHOG_SECRET_KEY",
        "POSTHOG_TIMEOUT",
        "POSTHOG_UI_HOST",
    ):
        setattr(settings, name, "theirs")

    assert found() == []
