"""Keys of every kind: each one that is listed can be read and reported, behind real servers too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from django.urls import include, path

from tests.posthog_server import PostHogServer, Variant
from tests.site.processes import PATIENCE, Server, Site, make_tables, serving
from tests.test_exposures import delivered

FEATURES_URL = "/api/features/"
KEYS = [
    "a/b",
    "/a",
    "a/",
    "a//b",
    "/",
    "50%",
    "%2F",
    "%252F",
    "with space",
    " ",
    "v1.2.json",
    "a.json/",
    "größe",
    "旗",
    "\U0001f600",
    "a?b=c&d",
    "a#b",
    "a,b",
    "a;b",
    "a+b",
    "a:b@c",
    "'\"<>\\|`{}[]",
    "line\nbreak",
    "end\n",
    "\t",
    "exposure",
    "exposures",
    "a/exposure",
    "exposures/exposure",
    "exposure/exposure",
    "exposure/",
    "/exposure",
]


def encoded(key: str) -> str:
    """Return what JavaScript's `encodeURIComponent` does."""
    return quote(key, safe="!'()*-._~")


# Imported by processes of servers too, which have no pytest settings.
urlpatterns = [
    path("api/", include("olposthog_api.urls")),
    path("", include("olposthog_api.ofrep.urls")),
]


@pytest.fixture(scope="module", params=["gunicorn", "uvicorn"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, PostHogServer]]:
    """A site served through WSGI or ASGI."""
    folder: Path = tmp_path_factory.mktemp("site")
    with PostHogServer() as posthog:
        posthog.flags = dict.fromkeys(KEYS, Variant("test"))
        site = Site(folder, settings={"ROOT_URLCONF": __name__})
        site.use(posthog)
        site.run(make_tables)
        options, socket_option = (
            (["tests.site.wsgi", "--no-control-socket"], "--bind=fd://{}")
            if request.param == "gunicorn"
            else (["tests.site.asgi:application"], "--fd={}")
        )
        with serving(site, request.param, *options, socket_option=socket_option) as running:
            yield running, posthog


def send(server: Server, method: str, target: str, body: Any = None) -> tuple[int, Any]:
    """Send a request whose target nothing normalizes on its way."""
    connection = HTTPConnection(urlsplit(server.url).netloc, timeout=PATIENCE)
    text = None if body is None else json.dumps(body)
    connection.request(method, target, text, {"Content-Type": "application/json"})
    response = connection.getresponse()
    content = response.read()
    connection.close()
    assert not content or response.headers["Content-Type"] == "application/json"
    return response.status, json.loads(content) if content else None


def test_what_is_listed_can_be_read_and_reported(server):
    """Each key of the list has an address, for REST and for OFREP."""
    running, posthog = server
    status, everything = send(running, "GET", FEATURES_URL)
    assert (status, set(everything["features"])) == (200, set(KEYS))

    for key in everything["features"]:
        address = f"{FEATURES_URL}{encoded(key)}/"
        status, one = send(running, "GET", address)
        assert (status, one["key"], one["variant"]) == (200, key, "test")
        assert send(running, "POST", f"{address}exposure/") == (204, None)
        status, one = send(running, "POST", f"/ofrep/v1/evaluate/flags/{encoded(key)}", {})
        assert (status, one["key"], one["value"]) == (200, key, "test")

    reported = [
        event["properties"]["$feature_flag"] for event in posthog.wait_for_events(len(KEYS))
    ]
    assert sorted(reported) == sorted(KEYS)


@pytest.mark.parametrize("key", ["no/such", "no such", "no%", "", "no.json", "größer", "n\n"])
def test_an_unknown_key_is_a_404_in_json(server, key):
    """Whatever the key looks like, the error is not an HTML page."""
    running, _ = server
    address = f"{FEATURES_URL}{encoded(key)}/"

    assert send(running, "GET", address) == (404, {"detail": "Not found."})
    assert send(running, "POST", f"{address}exposure/") == (404, {"detail": "Not found."})
    status, error = send(running, "POST", f"/ofrep/v1/evaluate/flags/{encoded(key)}", {})
    assert (status, error["errorCode"], error["key"]) == (404, "FLAG_NOT_FOUND", key)


def test_a_batch_reports_keys_of_every_kind(enabled, client):
    """In a body a key needs no encoding."""
    enabled.flags = dict.fromkeys(KEYS, Variant("test"))

    response = client.post(
        f"{FEATURES_URL}exposures/", {"keys": KEYS}, content_type="application/json"
    )

    assert response.status_code == 204
    events = [event["properties"]["$feature_flag"] for event in delivered(enabled)]
    assert events == KEYS


def test_the_address_of_an_exposure_reads_only_a_flag_of_that_name(enabled, client):
    """`GET …/exposure/` is 405 as ever, unless there is a flag whose key ends so."""
    enabled.flags = {"a": True, "b/exposure": True}

    assert client.get(f"{FEATURES_URL}a/exposure/").status_code == 405
    assert client.get(f"{FEATURES_URL}b/exposure/").json()["key"] == "b/exposure"
    assert client.post(f"{FEATURES_URL}b/exposure/").status_code == 404
    assert client.post(f"{FEATURES_URL}b/exposure/exposure/").status_code == 204
