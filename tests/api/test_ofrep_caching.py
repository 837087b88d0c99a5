"""OFREP's ETags: when a client is told that nothing changed, and when it is not."""

from __future__ import annotations

import gzip
import json

import pytest
from django.contrib.auth import get_user_model
from django.test import Client

from olposthog._core import engine
from olposthog._shared.breaker import State
from olposthog.features import clear_cache
from tests.api.test_caching import ALIKE, SAME
from tests.api.test_ofrep import FLAGS_URL, urlpatterns  # noqa: F401  # the routes
from tests.posthog_faults import Refuse, Status
from tests.posthog_server import Variant
from tests.site.processes import until

pytestmark = pytest.mark.urls("tests.api.test_ofrep")


def fetch(client, known=None, **headers):
    headers |= {"if-none-match": known} if known else {}
    return client.post(FLAGS_URL, "{}", "application/json", headers=headers)


@pytest.fixture
def visited(enabled, client):
    """A visitor who has been here: the identity stays the same."""
    enabled.flags = {"flag": Variant("test", payload={"a": 1}), "other": True}
    fetch(client)
    return client


def test_what_is_unchanged_is_not_sent_again(visited):
    """A 304 repeats the ETag and has no body; both answers are for their reader alone."""
    fresh = fetch(visited)
    unchanged = fetch(visited, fresh["ETag"])

    assert (fresh.status_code, unchanged.status_code) == (200, 304)
    assert unchanged.content == b""
    for response in (fresh, unchanged):
        assert response["ETag"] == fresh["ETag"]
        assert response["Cache-Control"] == "private, no-cache"
        assert response["X-Content-Type-Options"] == "nosniff"
        assert {one.strip().lower() for one in response["Vary"].split(",")} == {
            "cookie",
            "authorization",
        }


@pytest.mark.parametrize("condition", ["{etag}", "W/{etag}", '"x", W/{etag}', "*"])
def test_comparison_is_weak(visited, condition):
    """An ETag matches strong, weak, in a list and as `*`."""
    etag = fetch(visited)["ETag"]

    assert fetch(visited, condition.format(etag=etag)).status_code == 304


@pytest.mark.parametrize("condition", ['"x"', "nonsense", 'W/"'])
def test_another_etag_gets_the_answer(visited, condition):
    """What matches nothing costs the whole answer."""
    assert fetch(visited, condition).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"if-match": '"x"'},
        {"if-unmodified-since": "Wed, 21 Oct 2015 07:28:00 GMT"},
        {"if-modified-since": "Wed, 21 Oct 2115 07:28:00 GMT"},
    ],
    ids=str,
)
def test_other_conditions_mean_nothing(visited, headers):
    """No condition leads to a 412, which a client would take for an error."""
    assert fetch(visited, **headers).status_code == 200


def test_behind_djangos_compression(visited, enabled, settings):
    """GZipMiddleware makes the ETag weak; sent back like that, it still costs a 304."""
    settings.MIDDLEWARE = ["django.middleware.gzip.GZipMiddleware", *settings.MIDDLEWARE]
    enabled.flags = {f"flag-{number}": True for number in range(50)}
    clear_cache()
    browser = Client()
    browser.cookies = visited.cookies

    fresh = fetch(browser, **{"accept-encoding": "gzip"})

    assert fresh["ETag"].startswith('W/"')
    assert len(json.loads(gzip.decompress(fresh.content))["flags"]) == 50
    assert fetch(browser, fresh["ETag"]).status_code == 304


def test_another_value_is_another_etag(visited, enabled):
    """A change of any value is seen."""
    etag = fetch(visited)["ETag"]
    enabled.flags = {**enabled.flags, "other": False}
    clear_cache()

    assert fetch(visited, etag).status_code == 200


def test_another_person_is_another_etag(visited, db):
    """After a log-in by cookie, the visitor's ETag is not the user's, though the values are."""
    etag = fetch(visited)["ETag"]
    visited.force_login(get_user_model().objects.create_user("ada"))

    answer = fetch(visited, etag)

    assert answer.status_code == 200
    assert answer["ETag"] != etag
    assert answer.content == fetch(visited).content


def test_another_source_is_another_etag(visited, enabled, settings):
    """Values that are the same, but the site's own, are told apart."""
    etag = fetch(visited)["ETag"]
    settings.FEATURES = {"flag": "test", "other": True}
    enabled.fault = Refuse()
    clear_cache()

    assert fetch(visited, etag).status_code == 200


def test_the_end_of_an_outage_changes_the_etag_once(enabled, client, settings, another_process):
    """A client that holds its flags for stale gets one answer that is no 304; then 304s again.

    All processes agree on the new ETag.
    """
    settings.POSTHOG_CIRCUIT_BREAKER_FAILURE_THRESHOLD = 1
    settings.POSTHOG_CIRCUIT_BREAKER_COOLDOWN_SECONDS = 0.01
    enabled.flags = {"flag": True}
    before = fetch(client)
    assert fetch(client, before["ETag"]).status_code == 304
    enabled.flags_fault = Status(500)
    clear_cache()
    assert fetch(client).json()["metadata"] == {"source": "fallback"}
    enabled.heal()
    breaker = engine.current().breaker
    until(lambda: breaker.state is State.HALF_OPEN)
    engine.current().memory.clear()

    after = fetch(client, before["ETag"])

    assert after.status_code == 200
    assert after.content == before.content
    assert fetch(client, after["ETag"]).status_code == 304
    another_process()
    assert fetch(client, after["ETag"]).status_code == 304


def test_the_circuit_is_no_matter_of_definitions(settings, client, tmp_path):
    """What is evaluated in the process knows no outage: its ETag names no closing."""
    file = tmp_path / "flags.json"
    file.write_text('{"flags": [], "group_type_mapping": {}, "cohorts": {}}')
    settings.POSTHOG_ENABLED = True
    settings.POSTHOG_FLAG_DEFINITIONS_FILE = str(file)
    answer = fetch(client)
    assert answer.json()["metadata"] == {"source": "local"}

    engine.current().breaker.last_closing = "heard of in this process"

    assert fetch(client, answer["ETag"]).status_code == 304


def test_one_flag_has_no_etag(visited):
    """The protocol has none for a single flag."""
    response = visited.post(
        f"{FLAGS_URL}/flag", "{}", "application/json", headers={"if-none-match": "*"}
    )

    assert response.status_code == 200
    assert "ETag" not in response
    assert response["Cache-Control"] == "private, no-cache"


@pytest.mark.parametrize(
    ("condition", "status"), [*((one, 304) for one in SAME), *((one, 200) for one in ALIKE)]
)
def test_validators_that_proxies_rewrite_match(visited, condition, status):
    """A content coding may be appended to the ETag, and nothing else."""
    opaque = fetch(visited)["ETag"].strip('"')

    assert fetch(visited, condition.replace("X", opaque)).status_code == status
