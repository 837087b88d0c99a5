"""How PostHog is asked: where, how often, and how long anybody waits."""

import json

import posthog.request
import pytest

from olposthog.checks import ids
from olposthog.checks.service import APP_ADDRESSES
from tests.checks.project import found, warning


@pytest.mark.parametrize(
    "host",
    [
        "https://posthog.com",
        "https://www.posthog.com",
        "http://us.posthog.com",
        "https://us.posthog.com/project/1",
        "https://us.i.posthog.com/flags",
        "http://eu.i.posthog.com",
    ],
)
def test_no_api_address(production, host):
    """An address of PostHog Cloud's that has no API is named, with those that have."""
    production.POSTHOG_API_HOST = host

    assert warning().id == ids.NO_API_ADDRESS
    assert warning().msg.startswith("POSTHOG_API_HOST")
    assert host in warning().msg
    assert "https://eu.i.posthog.com" in str(warning().hint)


@pytest.mark.parametrize("host", ["http://{}@us.posthog.com", "http://{}@posthog.example.com"])
def test_no_password_is_shown(production, host):
    """Nobody's name and password are in a message that quotes the address."""
    production.POSTHOG_API_HOST = host.format("bob:s3cret")

    assert host.replace("{}@", "") in warning().msg
    assert "s3cret" not in warning().msg


@pytest.mark.parametrize(
    "host",
    [
        "https://us.i.posthog.com",
        "https://eu.i.posthog.com/",
        "https://flags.example.com/posthog",
        "https://notposthog.com",
        *sorted(APP_ADDRESSES),
    ],
)
def test_api_address(production, host):
    """PostHog Cloud's API, a proxy, and the addresses that the SDK translates are fine."""
    production.POSTHOG_API_HOST = host

    assert found() == []


@pytest.mark.parametrize("address", sorted(APP_ADDRESSES))
def test_app_addresses_are_those_that_the_sdk_translates(address):
    """The SDK knows the API of each address that people know from their browser."""
    assert posthog.request.determine_server_host(address).endswith(".i.posthog.com")


@pytest.mark.parametrize(
    "host", ["http://posthog.example.com", "http://8.8.8.8", "http://[2606:4700::1111]:8000"]
)
def test_unencrypted(production, host):
    """In production, what crosses a network is encrypted."""
    production.POSTHOG_API_HOST = host

    assert warning().id == ids.UNENCRYPTED
    assert warning().msg.startswith("POSTHOG_API_HOST")
    assert "https://" in str(warning().hint)

    production.DEBUG = True
    assert found() == []


@pytest.mark.parametrize(
    "host",
    [
        "http://127.0.0.1:8765",
        "http://[::1]:8000",
        "http://localhost:8000",
        "http://10.1.2.3",
        "http://posthog:8000",
        "http://posthog.svc.cluster.local",
        "http://posthog.corp.internal",
        "http://posthog.flags.svc",
        "http://100.64.1.2:8000",
    ],
)
def test_unencrypted_within_the_sites_own_network(production, host):
    """The same machine, and names and addresses of a network of one's own, need no encryption."""
    production.POSTHOG_API_HOST = host

    assert found() == []


@pytest.mark.parametrize(
    ("name", "bad", "good", "id_"),
    [
        ("POSTHOG_FEATURE_FLAG_REQUEST_TIMEOUT_MS", 3, 50, ids.SHORT_REQUEST_TIMEOUT),
        ("POSTHOG_CIRCUIT_BREAKER_TRIP_THRESHOLD_SECONDS", 30, 29, ids.LONG_WAIT),
        ("POSTHOG_CIRCUIT_BREAKER_COOLDOWN_SECONDS", 60_000, 600, ids.LONG_COOLDOWN),
        ("POSTHOG_POLL_INTERVAL", 29.5, 30, ids.SHORT_POLL_INTERVAL),
    ],
)
def test_number_of_another_order(production, name, bad, good, id_):
    """A number that can be used, and that nobody means, is named with one that does."""
    setattr(production, name, good)
    assert found() == []

    setattr(production, name, bad)
    assert warning().id == id_
    assert warning().msg.startswith(name)
    assert f"{bad:g} " in warning().msg
    assert str(warning().hint).startswith("Set ")


@pytest.mark.parametrize(
    "change", [{"POSTHOG_PERSONAL_API_KEY": ""}, {"DEBUG": True}], ids=["remote", "development"]
)
def test_short_poll_interval_that_costs_nothing(production, change):
    """Without local evaluation nothing is fetched, and in development little."""
    production.POSTHOG_POLL_INTERVAL = 1
    for name, value in change.items():
        setattr(production, name, value)

    assert found() == []


@pytest.fixture
def with_file(production, tmp_path):
    """A site whose flags come from a file."""
    file = tmp_path / "flags.json"
    file.write_text(json.dumps({"flags": []}))
    production.POSTHOG_FLAG_DEFINITIONS_FILE = file
    return production


def test_file_beside_posthog(with_file):
    """A definitions file wins over PostHog, which in production is hardly meant."""
    assert warning().id == ids.FILE_BESIDE_POSTHOG
    for name in ("POSTHOG_FLAG_DEFINITIONS_FILE", "POSTHOG_PROJECT_API_KEY", "POSTHOG_API_HOST"):
        assert name in warning().msg
    assert "POSTHOG_FLAG_DEFINITIONS_FILE" in str(warning().hint)

    with_file.DEBUG = True
    assert found() == []


@pytest.mark.parametrize("name", ["POSTHOG_PROJECT_API_KEY", "POSTHOG_API_HOST"])
def test_file_beside_half_of_posthog(with_file, name):
    """With half of what asking PostHog takes, the file is what is meant."""
    delattr(with_file, name)

    assert found() == []


def test_file_needs_no_address_and_no_times(with_file):
    """How PostHog is asked does not matter where it is not."""
    del with_file.POSTHOG_PROJECT_API_KEY
    with_file.POSTHOG_API_HOST = "http://posthog.com"
    with_file.POSTHOG_CIRCUIT_BREAKER_COOLDOWN_SECONDS = 60_000
    with_file.POSTHOG_POLL_INTERVAL = 1

    assert found() == []
