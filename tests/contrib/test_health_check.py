"""The check for django-health-check, through that package's own view."""

from __future__ import annotations

import logging

import pytest
from django.urls import path
from health_check.views import HealthCheckView  # type: ignore[import-untyped]  # it has no types

from olposthog.features import evaluate
from tests.posthog_faults import Hang, Refuse, Status

CHECK = "olposthog.contrib.health_check.FlagsHealth"

urlpatterns = [path("health/", HealthCheckView.as_view(checks=[CHECK]))]
pytestmark = pytest.mark.urls(__name__)

FORMATS = ["html", "json", "text", "openmetrics", "atom", "rss"]


@pytest.fixture(autouse=True)
def _templates(settings):
    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "health_check"]


@pytest.fixture
def outage(enabled, settings):
    """PostHog is gone, and the circuit is open."""
    settings.POSTHOG_CIRCUIT_BREAKER_FAILURE_THRESHOLD = 1
    settings.POSTHOG_MAX_RETRIES = 0
    enabled.fault = Refuse()
    evaluate("u1")
    return enabled


@pytest.mark.parametrize("kind", FORMATS)
def test_healthy_site_is_ok(enabled, client, kind):
    """All is well: 200, and the state says ok, in each format."""
    response = client.get("/health/", {"format": kind})

    assert response.status_code == 200
    assert "ok" in response.text
    assert "degraded" not in response.text


@pytest.mark.parametrize("kind", FORMATS)
def test_outage_is_degraded_and_not_down(outage, client, kind):
    """PostHog is gone: still 200, and the state says what is wrong, in each format."""
    response = client.get("/health/", {"format": kind})

    assert response.status_code == 200
    assert "degraded: the circuit is open since " in response.text


def test_json_says_that_the_check_passed(outage, client):
    """Whoever reads the JSON by machine finds the state in the name, and OK as the result."""
    (name, result), *others = client.get("/health/", {"format": "json"}).json().items()

    assert not others
    assert name.startswith("FlagsHealth(state='degraded: ")
    assert result == "OK"


def test_check_waits_for_no_posthog(enabled, client):
    """A PostHog that hangs is not asked, so the check cannot hang with it."""
    enabled.fault = Hang()

    assert client.get("/health/").status_code == 200
    assert enabled.requests == []


def test_setting_that_cannot_be_used_is_degraded(enabled, settings, client):
    """A mistake in the settings makes flags fall back and no site go down; values stay hidden."""
    settings.POSTHOG_API_HOST = "ftp://secret.example.com"

    response = client.get("/health/", {"format": "text"})

    assert response.status_code == 200
    assert "degraded: POSTHOG_API_HOST cannot be used" in response.text
    assert "secret" not in response.text


def test_disabled_site_says_so(settings, client):
    """With POSTHOG_ENABLED off nothing is wrong."""
    settings.POSTHOG_ENABLED = False

    assert "'disabled'" in client.get("/health/", {"format": "text"}).text


def test_library_logs_no_failure(outage, client, caplog):
    """An outage of days is no line in the log for each look at the health."""
    with caplog.at_level(logging.WARNING, "health_check"):
        client.get("/health/")

    assert [one for one in caplog.records if one.name == "health_check"] == []


def test_no_key_is_shown(outage, settings, client):
    """Neither key of the project is on the page."""
    settings.POSTHOG_PERSONAL_API_KEY = "phx_very_secret"
    outage.definitions_fault = Status(401)

    text = client.get("/health/", {"format": "text"}).text

    assert outage.token not in text
    assert "phx_very_secret" not in text
