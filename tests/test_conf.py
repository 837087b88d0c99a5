"""The settings: defaults, good values, and bad ones that become problems."""

import json
import logging
import os
import socket
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from django.core.signals import setting_changed
from django.test import override_settings

from olposthog import conf
from olposthog._core import engine
from olposthog._core.visibility import is_visible
from olposthog.features import default_unique_id, evaluate, get_all_feature_flags, is_enabled
from olposthog.identity import Identity
from olposthog.snapshot import Source

SECRET = "phc_very_secret"


def identify(request: object) -> Identity:
    """What a site may name as POSTHOG_API_IDENTITY."""
    return Identity("somebody")


NOT_CALLABLE = 42


class BytesPath(os.PathLike[bytes]):
    """A path, as Python has them too, that is no text."""

    def __fspath__(self) -> bytes:
        return b"flags.json"

    def __repr__(self) -> str:
        return "BytesPath()"


class Setting(NamedTuple):
    """One setting: where it is found, its default, a good value as given and as read, bad ones."""

    name: str
    field: str
    default: Any
    given: Any
    read: Any
    bad: list[Any]


NOT_BOOLEANS = ["true", "False", "", 1, 0, [True]]
NOT_POSITIVE = [0, -1, "3", True, [], float("nan"), float("inf")]
NOT_WHOLE = ["3", 2.0, True, [3], -1]
NOT_TEXT = [42, b"text", ["text"], True]

SETTINGS = [
    Setting("POSTHOG_ENABLED", "enabled", False, True, True, NOT_BOOLEANS),
    Setting(
        "POSTHOG_PROJECT_API_KEY",
        "project_api_key",
        "",
        f" {SECRET}\n",
        SECRET,
        [[SECRET], SECRET.encode(), 42],
    ),
    Setting(
        "POSTHOG_PERSONAL_API_KEY",
        "personal_api_key",
        "",
        f" {SECRET}\n",
        SECRET,
        [[SECRET], SECRET.encode(), 42],
    ),
    Setting(
        "POSTHOG_API_HOST",
        "api_host",
        "",
        " https://eu.i.posthog.com/ ",
        "https://eu.i.posthog.com",
        [
            "eu.i.posthog.com",
            "ftp://posthog.com",
            "https://",
            "http:///flags",
            "http://[",
            *NOT_TEXT,
        ],
    ),
    Setting(
        "POSTHOG_FEATURE_FLAG_REQUEST_TIMEOUT_MS",
        "request_timeout_ms",
        3000,
        500,
        500,
        NOT_POSITIVE,
    ),
    Setting("POSTHOG_MAX_RETRIES", "max_retries", 3, 0, 0, NOT_WHOLE),
    Setting("POSTHOG_POLL_INTERVAL", "poll_interval_seconds", 300, 1.5, 1.5, NOT_POSITIVE),
    Setting(
        "POSTHOG_CIRCUIT_BREAKER_TRIP_THRESHOLD_SECONDS",
        "trip_threshold_seconds",
        6,
        0.5,
        0.5,
        NOT_POSITIVE,
    ),
    Setting(
        "POSTHOG_CIRCUIT_BREAKER_COOLDOWN_SECONDS",
        "cooldown_seconds",
        60,
        0.5,
        0.5,
        NOT_POSITIVE,
    ),
    Setting(
        "POSTHOG_CIRCUIT_BREAKER_FAILURE_THRESHOLD",
        "failure_threshold",
        5,
        1,
        1,
        [0, *NOT_WHOLE],
    ),
    Setting(
        "POSTHOG_CACHE_ALIAS", "cache_alias", "durable", "default", "default", ["nowhere", 42, []]
    ),
    Setting(
        "POSTHOG_STALE_IF_ERROR_SECONDS",
        "stale_if_error_seconds",
        0,
        86400,
        86400,
        [-1, "86400", True, float("nan"), float("inf")],
    ),
    Setting(
        "POSTHOG_STALE_WHILE_REVALIDATE_SECONDS",
        "stale_while_revalidate_seconds",
        0,
        0.5,
        0.5,
        [-1, "60", False, float("nan"), float("inf")],
    ),
    Setting(
        "POSTHOG_LOCAL_CACHE_SECONDS",
        "local_cache_seconds",
        5,
        0,
        0,
        [-1, "5", True, float("nan"), float("inf")],
    ),
    Setting(
        "POSTHOG_LOCAL_CACHE_MAX_ENTRIES", "local_cache_max_entries", 1000, 1, 1, [0, *NOT_WHOLE]
    ),
    Setting(
        "POSTHOG_FLAG_DEFINITIONS_FILE",
        "definitions_file",
        "",
        Path("flags.json"),
        "flags.json",
        [42, ["flags.json"], True, BytesPath(), "a\0b", "/tmp/\ud800x"],
    ),
    Setting("POSTHOG_SEND_FEATURE_FLAG_EVENTS", "send_events", True, False, False, NOT_BOOLEANS),
    Setting(
        "POSTHOG_API_IDENTITY",
        "identity",
        None,
        "tests.test_conf.identify",
        identify,
        [
            "identify",
            "tests.test_conf.nobody",
            "tests.nowhere.identify",
            "tests.test_conf.NOT_CALLABLE",
            "",
            ".identify",
            42,
        ],
    ),
    Setting(
        "POSTHOG_API_FLAGS",
        "browser_flags",
        ("*",),
        ["new-nav", "web-*"],
        ("new-nav", "web-*"),
        ["new-nav", [1], {"new-nav"}, 42, True],
    ),
    Setting(
        "POSTHOG_API_ANONYMOUS_COOKIE",
        "anonymous_cookie",
        "olposthog_id",
        "visitor",
        "visitor",
        ["", "a visitor", "visitor;", "visitor=1", "bésucher", 42, True],
    ),
    Setting(
        "POSTHOG_API_IDENTITY_HEADERS",
        "identity_headers",
        (),
        ["Cookie", "X-Remote-User"],
        ("Cookie", "X-Remote-User"),
        [
            "X-Remote-User",
            {"Cookie"},
            [1],
            [""],
            ["*"],
            ["REMOTE_USER"],
            ["HTTP_X_USER"],
            ["X-User, Cookie"],
            ["X-User\r\nA"],
            ["X-Üser"],
            42,
            True,
        ],
    ),
    Setting("POSTHOG_API_TRUST_BROWSER_ID", "trust_browser_id", False, True, True, NOT_BOOLEANS),
    Setting(
        "POSTHOG_API_CONTEXT_PROPERTIES",
        "context_properties",
        (),
        ["plan", "locale"],
        ("plan", "locale"),
        [
            "plan",
            [1],
            [""],
            {"plan"},
            42,
            True,
            ["plan", "targetingKey"],
            ["user_id"],
            ["environment"],
            ["distinct_id"],
        ],
    ),
    Setting(
        "HOSTNAME", "hostname", socket.gethostname(), "www.example.com", "www.example.com", NOT_TEXT
    ),
    Setting("ENVIRONMENT", "environment", "", "production", "production", NOT_TEXT),
    Setting(
        "FEATURES",
        "features",
        {},
        {"on": True, "off": 0, "variant": "test", "unset": None},
        {"on": True, "off": False, "variant": "test"},
        [["on"], "on", {1: True}, {"on": 1.5}, {"on": ["test"]}, {"on": {}}, 42],
    ),
]
BY_NAME = {setting.name: setting for setting in SETTINGS}
EACH = pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
EACH_BAD = pytest.mark.parametrize(
    ("name", "bad"),
    [
        pytest.param(setting.name, bad, id=f"{setting.name}={bad!r}")
        for setting in SETTINGS
        for bad in setting.bad
    ],
)


@pytest.fixture
def bare(settings):
    """A project that sets nothing of ours."""
    for name in ("HOSTNAME", "ENVIRONMENT", "FEATURES"):
        delattr(settings, name)
    setting_changed.send(sender=None, setting="FEATURES", value=None, enter=True)
    return settings


def test_every_setting_is_tried_here():
    """A setting that this file does not know would go untested."""
    assert BY_NAME.keys() | {"CACHES"} == conf.NAMES


@EACH
def test_default(bare, setting):
    """What is not set has its default, and is no problem."""
    settings = conf.current()

    assert getattr(settings, setting.field) == setting.default
    assert settings.problems == ()


@EACH
def test_good_value(bare, setting):
    """A good value is read, and is no problem of its own."""
    with override_settings(**{setting.name: setting.given}):
        settings = conf.current()

    assert getattr(settings, setting.field) == setting.read
    assert setting.name not in {problem.setting for problem in settings.problems}


@EACH
def test_none_is_not_set(bare, setting):
    """None stands for the default, as it comes from an environment variable that is not there."""
    with override_settings(**{setting.name: None}):
        settings = conf.current()

    expected = None if setting.field == "anonymous_cookie" else setting.default
    assert getattr(settings, setting.field) == expected
    assert settings.problems == ()


@EACH_BAD
def test_bad_value(bare, name, bad):
    """A bad value is one problem that names its setting and a fix, and the default stands in."""
    with override_settings(**{name: bad}):
        settings = conf.current()

    (problem,) = settings.problems
    assert problem.setting == name
    assert problem.message.startswith(name)
    assert problem.message.endswith(".")
    assert problem.hint.endswith(".")
    if name != "POSTHOG_API_FLAGS":
        setting = BY_NAME[name]
        # A switch that cannot be read counts as on, so that the log says what is wrong with it.
        default = setting.default if name != "POSTHOG_ENABLED" else True
        assert getattr(settings, setting.field) == default


@EACH_BAD
def test_a_message_shows_the_value_unless_it_is_secret(bare, name, bad):
    """One sees what is wrong from the message, but never a key."""
    with override_settings(**{name: bad}):
        (problem,) = conf.current().problems

    secret = name in {"POSTHOG_PROJECT_API_KEY", "POSTHOG_PERSONAL_API_KEY"}
    assert (repr(bad) in problem.message) is not secret
    assert SECRET not in problem.message + problem.hint


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("ftp://bob:s3cret@posthog.example.com", "'ftp://posthog.example.com'"),
        ("https://bob:s3/cret@posthog.example.com", "'https://posthog.example.com'"),
        ("https://bob:s3@cret@posthog.example.com:0", "'https://posthog.example.com:0'"),
        ("bob:s3cret@posthog.example.com", "'posthog.example.com'"),
        ("https:/bob:s3cret@posthog.example.com", "'posthog.example.com'"),
        (b"https://bob:s3cret@posthog.example.com", "posthog.example.com"),
    ],
)
def test_a_message_shows_no_password(bare, host, shown):
    """An address is shown without who logs in there, however malformed it is."""
    with override_settings(POSTHOG_API_HOST=host):
        (problem,) = conf.current().problems

    assert f" is {shown}" in problem.message
    for part in ("bob", "s3", "cret"):
        assert part not in problem.message


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://a:b@host/path", "https://host/path"),
        ("https://host/path", "https://host/path"),
        (" HTTPS://a:b@c@host", " HTTPS://host"),
        ("a:b@host:80", "host:80"),
        ("", ""),
    ],
)
def test_credentials_are_cut_out_of_an_address(address, shown):
    """Whatever stands before the last @ goes, with or without a scheme."""
    assert conf.without_credentials(address) == shown


def test_every_problem_is_found_at_once(bare):
    """Problems do not hide one another."""
    with override_settings(POSTHOG_MAX_RETRIES=-1, POSTHOG_POLL_INTERVAL=0, FEATURES="on"):
        problems = conf.current().problems

    assert {problem.setting for problem in problems} == {
        "POSTHOG_MAX_RETRIES",
        "POSTHOG_POLL_INTERVAL",
        "FEATURES",
    }


def test_a_bad_allowlist_allows_nothing(settings):
    """Flags that browsers may see cannot be guessed: with a bad list they see none."""
    settings.POSTHOG_API_FLAGS = "new-nav"

    assert conf.current().browser_flags == ()
    assert not is_visible("new-nav")


@pytest.mark.parametrize("missing", ["POSTHOG_PROJECT_API_KEY", "POSTHOG_API_HOST"])
@pytest.mark.parametrize("value", [None, "", "  "], ids=["none", "empty", "blank"])
def test_what_is_required_while_enabled(enabled, settings, missing, value):
    """With POSTHOG_ENABLED, the key and the address have to be there."""
    setattr(settings, missing, value)

    (problem,) = conf.current().problems
    assert problem.setting == missing
    assert "required" in problem.message
    assert "POSTHOG_ENABLED = False" in problem.hint


def test_a_bad_address_is_not_called_missing_too(enabled, settings):
    """A required setting that is there and bad is one problem, not two."""
    settings.POSTHOG_API_HOST = "eu.i.posthog.com"

    (problem,) = conf.current().problems
    assert "required" not in problem.message


def test_a_definitions_file_needs_no_posthog(settings, tmp_path):
    """With a definitions file, neither a key nor an address is required."""
    settings.POSTHOG_ENABLED = True
    settings.POSTHOG_FLAG_DEFINITIONS_FILE = tmp_path / "flags.json"

    assert conf.current().definitions_file
    assert conf.current().definitions_file == os.fspath(tmp_path / "flags.json")
    assert conf.current().problems == ()


def test_no_durable_cache_is_none(settings):
    """Without CACHES["durable"] there is no shared cache, which is no problem."""
    settings.CACHES = {"default": settings.CACHES["default"]}

    assert conf.current().cache_alias is None
    assert conf.current().problems == ()


def test_an_unknown_alias_is_told_the_known_ones(settings):
    """The hint for a wrong alias names the right ones."""
    settings.POSTHOG_CACHE_ALIAS = "durble"

    (problem,) = conf.current().problems
    assert "default, durable" in problem.hint


def test_the_timeout_is_in_seconds(settings):
    """Milliseconds are what is set, seconds what is used."""
    settings.POSTHOG_FEATURE_FLAG_REQUEST_TIMEOUT_MS = 1500

    assert conf.current().timeout_seconds == 1.5


# Following the site's settings


def test_an_override_takes_effect_and_ends():
    """An overridden setting counts while the override lasts, in the object and in behaviour."""
    with override_settings(HOSTNAME="other.example.com", FEATURES={"a": True}):
        assert default_unique_id() == "other.example.com"
        assert is_enabled("a")

    assert default_unique_id() == "tests.example.com"
    assert not is_enabled("a")


def test_the_object_stays_while_nothing_changes():
    """The settings are read once, not at each use."""
    assert conf.current() is conf.current()


def test_other_settings_change_nothing():
    """A setting that is not ours rebuilds neither the settings nor what was made of them."""
    before = conf.current(), engine.current()

    with override_settings(LANGUAGE_CODE="fr"):
        assert (conf.current(), engine.current()) == before


@pytest.mark.parametrize("name", sorted(conf.NAMES))
def test_each_of_our_settings_counts_at_once(name):
    """A change of any setting of ours makes the process start anew."""
    before = conf.current(), engine.current()

    setting_changed.send(sender=None, setting=name, value=None, enter=True)

    assert conf.current() is not before[0]
    assert engine.current() is not before[1]


def test_the_sites_dictionary_is_not_kept(settings):
    """FEATURES is copied: whoever changes the dictionary later changes nothing here."""
    features = {"a": True}
    settings.FEATURES = features
    assert conf.current().features == {"a": True}

    features["b"] = True

    assert conf.current().features == {"a": True}


# A misconfiguration at run time


def lines(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name.startswith("olposthog")]


def test_a_misconfiguration_means_features(enabled, settings, caplog):
    """With a setting that cannot be used FEATURES answers, nothing goes out, one line says it."""
    enabled.flags = {"a": False}
    settings.POSTHOG_MAX_RETRIES = -1
    settings.FEATURES = {"a": True, "b": "test"}

    for person in ["ada", "bob", "ada"]:
        assert is_enabled("a", opt_unique_id=person)
        assert get_all_feature_flags(person) == {"a": True, "b": "test"}
        assert evaluate(person).source is Source.FALLBACK

    assert enabled.requests == []
    (line,) = lines(caplog)
    assert line.levelname == "ERROR"
    assert "POSTHOG_MAX_RETRIES is -1" in line.getMessage()
    assert "at least 0" in line.getMessage()
    assert "Using settings.FEATURES" in line.getMessage()


@pytest.mark.parametrize("name", ["POSTHOG_PROJECT_API_KEY", "POSTHOG_PERSONAL_API_KEY"])
def test_a_misconfigured_key_is_not_logged(enabled, settings, caplog, name):
    """The line about a key that cannot be used does not show it."""
    setattr(settings, name, [SECRET])

    assert evaluate("ada").source is Source.FALLBACK

    (line,) = lines(caplog)
    assert name in line.getMessage()
    assert SECRET not in caplog.text


def test_a_misconfiguration_that_is_mended(enabled, settings, caplog):
    """Once the setting is good, PostHog answers."""
    enabled.flags = {"a": True}
    settings.POSTHOG_MAX_RETRIES = -1
    assert not is_enabled("a", opt_unique_id="ada")

    settings.POSTHOG_MAX_RETRIES = 0

    assert is_enabled("a", opt_unique_id="ada")
    assert len(lines(caplog)) == 1


def test_a_misconfiguration_while_disabled_is_silent(settings, caplog):
    """With POSTHOG_ENABLED off a bad setting hurts nobody: the system checks say it."""
    settings.POSTHOG_MAX_RETRIES = -1
    settings.FEATURES = {"a": True}

    assert is_enabled("a")
    assert evaluate().source is Source.DISABLED
    assert lines(caplog) == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "cannot be read"), ("{", "is not JSON"), ("[]", "must be a JSON object")],
    ids=["missing", "cut", "no object"],
)
def test_a_bad_definitions_file_means_features(settings, caplog, tmp_path, content, reason):
    """With definitions that cannot be used FEATURES answers, and one line says why."""
    file = tmp_path / "flags.json"
    if content is not None:
        file.write_text(content)
    settings.POSTHOG_ENABLED = True
    settings.POSTHOG_FLAG_DEFINITIONS_FILE = file
    settings.FEATURES = {"a": True}

    for person in ["ada", "bob", "ada"]:
        assert is_enabled("a", opt_unique_id=person)
        assert evaluate(person).source is Source.FALLBACK

    (line,) = lines(caplog)
    assert line.levelname == "WARNING"
    assert os.fspath(file) in line.getMessage()
    assert content is None or reason in line.getMessage()


def test_a_good_definitions_file_answers(settings, caplog, tmp_path):
    """The same configuration with a file that can be used is not a fallback."""
    file = tmp_path / "flags.json"
    file.write_text(json.dumps({"flags": []}))
    settings.POSTHOG_ENABLED = True
    settings.POSTHOG_FLAG_DEFINITIONS_FILE = file

    assert evaluate("ada").source is Source.LOCAL
    assert lines(caplog) == []
