"""The REST API's checks: what makes it answer with errors, or lets it be overrun."""

import pytest
from django.core.management import call_command
from django.test import Client

from olposthog_api import checks
from tests.checks.project import Project, error, found, warning

DATABASE = "django.core.cache.backends.db.DatabaseCache"
DUMMY = "django.core.cache.backends.dummy.DummyCache"
APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "rest_framework",
    "drf_spectacular",
    "olposthog",
    "olposthog_api",
]


def rate(settings, value):
    settings.REST_FRAMEWORK = {
        **settings.REST_FRAMEWORK,
        "DEFAULT_THROTTLE_RATES": {"features": value},
        "NUM_PROXIES": 0,
    }


@pytest.fixture
def production(settings, tmp_path):
    """A site in production, whose flags come from a file."""
    file = tmp_path / "flags.json"
    file.write_text('{"flags": []}')
    settings.POSTHOG_ENABLED = True
    settings.POSTHOG_FLAG_DEFINITIONS_FILE = file
    settings.POSTHOG_API_FLAGS = ["web-*"]
    rate(settings, "60/min")
    return settings


def test_a_good_configuration_is_silent(production):
    """Nothing is said of a configuration that is as it should be."""
    assert found() == []


@pytest.mark.parametrize("rates", [{}, {"features": None}, {"user": "60/min"}], ids=repr)
def test_no_rate(production, rates):
    """In production, requests without cookies should be held back."""
    production.REST_FRAMEWORK = {"DEFAULT_THROTTLE_RATES": rates}

    assert warning().id == checks.NO_RATE
    assert "DEFAULT_THROTTLE_RATES" in warning().msg
    assert "'features': '60/min'" in str(warning().hint)

    production.DEBUG = True
    assert found() == []
    production.DEBUG = False
    production.POSTHOG_ENABLED = False
    assert found() == []


@pytest.mark.parametrize("bad", ["60", "x/min", "60/", "60/fortnight", 60, ["60/min"]], ids=repr)
def test_bad_rate(settings, bad):
    """A rate that DRF cannot read is an error, also while disabled: every request is a 500."""
    rate(settings, bad)

    assert error().id == checks.BAD_RATE
    assert "DEFAULT_THROTTLE_RATES" in error().msg
    assert "'features': '60/min'" in str(error().hint)
    settings.ROOT_URLCONF = "olposthog_api.urls"
    assert Client(raise_request_exception=False).get("/features/").status_code == 500


@pytest.mark.parametrize("rates", ["60/min", 60])
def test_bad_rates(settings, rates):
    """Rates that are none are the same error."""
    settings.REST_FRAMEWORK = {"DEFAULT_THROTTLE_RATES": rates}

    assert error().id == checks.BAD_RATE


@pytest.mark.parametrize("nothing", ["0/min", "-1/s"])
def test_rate_of_nothing(settings, nothing):
    """A rate of nothing is no throttle's absence: nobody gets an answer."""
    rate(settings, nothing)

    assert warning().id == checks.RATE_OF_NOTHING
    assert "DEFAULT_THROTTLE_RATES" in warning().msg
    assert "None for no throttle" in str(warning().hint)
    settings.ROOT_URLCONF = "olposthog_api.urls"
    assert Client().get("/features/").status_code == 429


def test_throttle_that_counts_nothing(production):
    """In production, a rate that a cache forgets at once holds nobody back."""
    production.CACHES = {**production.CACHES, "default": {"BACKEND": DUMMY}}

    assert warning().id == checks.NOTHING_COUNTED
    assert "CACHES['default']" in warning().msg
    assert "CACHES['default']" in str(warning().hint)

    production.DEBUG = True
    assert found() == []


def test_number_of_proxies_not_set(production):
    """In production, a rate needs to know how many proxies are in front of Django."""
    rates = {"DEFAULT_THROTTLE_RATES": {"features": "60/min"}}
    production.REST_FRAMEWORK = rates

    assert warning().id == checks.NUM_PROXIES_NOT_SET
    assert "NUM_PROXIES" in warning().msg
    assert "number of proxies" in str(warning().hint)

    for number in (0, 1):
        production.REST_FRAMEWORK = {**rates, "NUM_PROXIES": number}
        assert found() == []
    production.REST_FRAMEWORK = rates
    production.DEBUG = True
    assert found() == []


@pytest.mark.django_db
def test_throttle_without_its_table(settings):
    """A rate that is counted in a table that is missing holds nobody back."""
    table = {"BACKEND": DATABASE, "LOCATION": "counted"}
    settings.CACHES = {**settings.CACHES, "default": table}
    assert found(["default"]) == []

    rate(settings, "60/min")
    assert warning(["default"]).id == checks.NO_CACHE_TABLE
    assert "CACHES['default']" in warning(["default"]).msg
    assert warning(["default"]).hint == "Run: python manage.py createcachetable"

    call_command("createcachetable")
    assert found(["default"]) == []


def project(folder, apps, more=""):
    return Project(folder, f"INSTALLED_APPS = {apps}\n{more}")


def test_bare_project_is_silent(tmp_path):
    """A project that only installs the apps has nothing to mend."""
    assert project(tmp_path, APPS).check() == []


@pytest.mark.parametrize(
    ("app", "id_"),
    [
        ("olposthog", checks.NO_LIBRARY),
        ("rest_framework", checks.APP_NOT_INSTALLED),
        ("drf_spectacular", checks.APP_NOT_INSTALLED),
    ],
)
def test_app_that_is_not_installed(tmp_path, app, id_):
    """Each app that the REST API builds on is named where it is missing."""
    ((found_id, message, hint),) = project(tmp_path, [one for one in APPS if one != app]).check()

    assert found_id == id_
    assert f'"{app}" is not' in message
    assert hint.startswith(f'Add "{app}" to INSTALLED_APPS')


def test_no_anonymous_user(tmp_path):
    """Without Django's users DRF knows no anonymous one, unless it is told that there is none."""
    apps = [one for one in APPS if not one.startswith("django.")]

    ((id_, message, hint),) = project(tmp_path, apps).check()
    assert id_ == checks.NO_ANONYMOUS_USER
    assert "UNAUTHENTICATED_USER" in message
    assert "django.contrib.auth" in hint

    nobody = "REST_FRAMEWORK = {'UNAUTHENTICATED_USER': None}\n"
    assert project(tmp_path, apps, nobody).check() == []
