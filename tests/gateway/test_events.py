"""Events: one client of the SDK for each process, made when it is first wanted."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import posthog as sdk
import pytest
from pytest_django import Settings

from olposthog import _posthog
from olposthog._posthog import events
from olposthog._utils.log_throttle import LogThrottle
from olposthog.features import configure
from olposthog.testing import override_flags
from tests.posthog_faults import Status
from tests.posthog_server import PostHogServer
from tests.site.processes import ROOT


def test_sdks_functions_use_our_client(enabled: PostHogServer) -> None:
    """After `configure()` a site's own `posthog.capture()` arrives, with the project's key."""
    configure()
    sdk.capture("x", distinct_id="u", properties={"colour": "green"})
    _posthog.client().flush()

    (event,) = enabled.wait_for_events(1)
    assert (event["event"], event["distinct_id"]) == ("x", "u")
    assert event["properties"]["colour"] == "green"
    assert {request.body["api_key"] for request in enabled.requests} == {enabled.token}
    assert enabled.flag_calls == []
    assert enabled.definition_calls == []


def test_our_events_go_through_the_same_client(enabled: PostHogServer) -> None:
    """A process has one client, whoever captures."""
    configure()
    sdk.capture("theirs", distinct_id="u")
    first = _posthog.client()
    _posthog.capture("ours", "u", {"x": 1}, {"company": "acme"})
    first.flush()

    events = enabled.wait_for_events(2)
    assert {event["event"] for event in events} == {"theirs", "ours"}
    assert _posthog.client() is first


def test_configure_is_idempotent(enabled: PostHogServer) -> None:
    """Configuring again changes nothing for events that are under way."""
    configure()
    sdk.capture("first", distinct_id="u")
    client = _posthog.client()
    configure()
    configure()
    sdk.capture("second", distinct_id="u")
    _posthog.client().flush()

    assert _posthog.client() is client
    assert [event["event"] for event in enabled.wait_for_events(2)] == ["first", "second"]


def test_capture_never_raises(
    enabled: PostHogServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An event that cannot be queued, as for want of threads, is a line in the log each minute."""

    def no_more_threads() -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(events, "client", no_more_threads)
    monkeypatch.setattr(events, "_log_throttle", LogThrottle())

    assert [_posthog.capture("x", "alice", {}, {}) for _ in range(3)] == [False] * 3

    assert caplog.text.count("An event could not be queued for PostHog.") == 1
    assert "alice" not in caplog.text
    assert enabled.events == []


def test_capture_tells_whether_an_event_was_queued(enabled: PostHogServer) -> None:
    """A hook's drop counts as queued, since it is meant; a failing hook and a closed client do not.

    This checks private arguments of the SDK, which no public function offers.
    """
    client = _posthog.client()
    hooks: dict[str, Callable[[dict[str, Any]], dict[str, Any] | None]] = {
        "passed": lambda event: event,
        "dropped": lambda event: None,
        "failed": lambda event: {}[event["event"]],
    }

    def queued(name: str) -> bool:
        client.before_send = hooks.get(name)
        return _posthog.capture(name, "u", {}, {})

    found = {name: queued(name) for name in ("plain", *hooks)}
    client.shutdown()

    assert found == {"plain": True, "passed": True, "dropped": True, "failed": False}
    assert queued("late") is False
    assert [event["event"] for event in enabled.events] == ["plain", "passed"]


def test_properties_of_an_event_can_be_settled(enabled: PostHogServer) -> None:
    """Super properties touch no pinned name, and come in by no other name than an allowed one.

    This checks private arguments of the SDK, which no public function offers.
    """
    client = _posthog.client()
    client.super_properties = {"own": "super", "absent": "super", "more": "super"}
    pinned = frozenset({"own", "absent"})
    _posthog.capture("free", "u", {"own": 1}, {})
    _posthog.capture("pinned", "u", {"own": 1}, {}, pinned=pinned)
    _posthog.capture("allowed", "u", {"own": 1}, {}, allowed=frozenset({"own"}))
    _posthog.capture("both", "u", {"own": 1}, {}, pinned=pinned, allowed=pinned)
    client.flush()

    found = {event["event"]: event["properties"] for event in enabled.wait_for_events(4)}
    assert found["free"].items() >= client.super_properties.items()
    assert (found["pinned"]["own"], found["pinned"]["more"]) == (1, "super")
    assert "absent" not in found["pinned"]
    assert (found["allowed"], found["both"]) == ({"own": "super"}, {"own": 1})


UNTOUCHED = """
import socket, threading
import urllib3  # binds a port on import, to find out about IPv6

def no_socket(*args, **kwargs):
    raise SystemExit("a socket was made")

socket.socket.connect = socket.socket.bind = no_socket

import django
from django.conf import settings
settings.configure(
    SECRET_KEY="x",
    INSTALLED_APPS=["olposthog"],
    CACHES={"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}},
    POSTHOG_ENABLED=True,
    POSTHOG_PROJECT_API_KEY="phc_x",
    POSTHOG_API_HOST="https://posthog.invalid",
    HOSTNAME="h",
)
django.setup()
from olposthog import features
from olposthog._core import engine
from olposthog._posthog import events
from olposthog.testing import override_flags
features.configure()
features.configure()
import posthog
print(len(threading.enumerate()), events._client, engine._current)
print(type(posthog.__dict__["default_client"]).__name__)
"""


def test_configure_makes_nothing_yet() -> None:
    """Starting Django makes no client, no thread and no socket."""
    ran = subprocess.run(
        [sys.executable, "-c", UNTOUCHED],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'api'}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ran.stderr == ""
    assert ran.stdout.splitlines() == ["1 None None", "_Current"]


def test_the_client_outlives_a_test_without_posthog(enabled: PostHogServer) -> None:
    """What has not been delivered yet is the same client's, before an override and after it."""
    before = events.client()
    with override_flags():
        assert events.client() is not before
        assert events.client().disabled

    assert events.client() is before


def test_disabled_site_leaves_the_sdk_alone(settings: Settings) -> None:
    """Without POSTHOG_ENABLED the SDK's functions are as its user left them."""
    settings.POSTHOG_ENABLED = False
    sdk.default_client = None

    configure()

    assert sdk.default_client is None


@pytest.mark.parametrize(
    "body", ["\x1b[31mred\nERROR forged line", "x" * 2**20, "\x1b" * 2**20, "\u2028"], ids=range(4)
)
def test_error_body_in_the_sdks_log_is_escaped_and_cut(
    enabled: PostHogServer, caplog: pytest.LogCaptureFixture, body: str
) -> None:
    """The SDK logs the body of an error that PostHog sends for events: one short line of it."""
    enabled.events_fault = Status(400, body=body)

    _posthog.capture("x", "u", {}, {})
    _posthog.client().flush()

    (line,) = [one.getMessage() for one in caplog.records if one.name == "posthog"]
    assert "error uploading: " in line
    assert line.isprintable()
    assert len(line) <= events.MAX_SDK_LOG_CHARACTERS


def test_ordinary_log_of_the_sdk_is_unchanged(
    enabled: PostHogServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A short printable message stays as it is, and a malformed one raises nothing."""
    _posthog.client()
    logger = logging.getLogger("posthog")

    logger.error("caf\u00e9 %s", "cr\u00e8me")

    assert [one.getMessage() for one in caplog.records] == ["[PostHog] caf\u00e9 cr\u00e8me"]
    assert events._sdk_log_filter.filter(logging.makeLogRecord({"msg": "%d", "args": ("x",)}))
