"""One request to PostHog: what is sent, how long it may take, and when it is sent again."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from posthog.version import VERSION
from pytest_django import Settings
from requests import PreparedRequest, Response
from requests.adapters import HTTPAdapter

from olposthog import conf
from olposthog._evaluation.evaluation import Evaluation
from olposthog._posthog import Fetched
from olposthog.identity import Identity
from olposthog.snapshot import Runtime
from tests.gateway.asking import Clock, asking, defining, failure
from tests.posthog_faults import (
    Body,
    CutShort,
    Delay,
    Exchange,
    Fault,
    Hang,
    Html,
    Quota,
    Redirect,
    Refuse,
    Reset,
    Status,
    TrickleBody,
    TrickleHeaders,
)
from tests.posthog_server import PostHogServer, Variant


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ask(posthog: PostHogServer, clock: Clock) -> Callable[..., Evaluation]:
    """Fetch a person's flags from the stand-in PostHog, by the test's clock."""
    return asking(posthog, clock)


# ---- what is sent


def test_request(posthog: PostHogServer, ask: Callable[..., Evaluation]) -> None:
    """The request is the one that PostHog's own clients send, with the runtime beside it."""
    identity = Identity(
        "u1",
        groups={"company": "acme", "team": 7},
        group_properties={"company": {"size": 3}, "unused": {"x": 1}},
    )
    ask(identity, {"plan": "pro"}, Runtime.CLIENT)

    (request,) = posthog.requests
    assert (request.method, request.path, dict(request.query)) == ("POST", "/flags/", {"v": "4"})
    body = dict(request.body)
    assert datetime.fromisoformat(body.pop("sent_at")).tzinfo is not None
    assert body == {
        "api_key": posthog.token,
        "distinct_id": "u1",
        "person_properties": {"plan": "pro"},
        "groups": {"company": "acme", "team": 7},
        "group_properties": {
            "company": {"$group_key": "acme", "size": 3},
            "team": {"$group_key": 7},
        },
        "geoip_disable": True,
        "evaluation_runtime": "client",
    }


def test_request_headers(posthog: PostHogServer, ask: Callable[..., Evaluation]) -> None:
    """The request carries no credentials but the project's key in its body."""
    ask()

    (request,) = posthog.requests
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["User-Agent"] == f"posthog-python/{VERSION}"
    assert "Authorization" not in request.headers
    assert "Cookie" not in request.headers


def test_personal_key_is_never_sent_with_flags(posthog: PostHogServer, clock: Clock) -> None:
    """The personal key stays here: an evaluation needs none."""
    asking(posthog, clock, personal_api_key="phx_secret")()

    (request,) = posthog.requests
    assert "phx_secret" not in f"{request.headers.items()} {request.raw!r}"


def test_credentials_of_the_machine_are_not_sent(
    posthog: PostHogServer,
    ask: Callable[..., Evaluation],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A netrc file on the server is not for PostHog."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))

    ask()

    assert "Authorization" not in posthog.requests[0].headers


def test_proxy_of_the_machine_is_used(
    posthog: PostHogServer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that reaches the world through a proxy reaches PostHog through it."""
    monkeypatch.setenv("http_proxy", posthog.url)
    monkeypatch.setenv("no_proxy", "")

    asking(posthog, clock, api_host="http://posthog.invalid")()

    assert posthog.requests[0].headers["Host"] == "posthog.invalid"


def test_dates_and_uuids_are_sent_as_text(
    posthog: PostHogServer, ask: Callable[..., Evaluation], settings: Settings
) -> None:
    """Properties that JSON does not know travel as text, a naive datetime with its offset."""
    settings.TIME_ZONE = "Asia/Tokyo"
    properties = {
        "on": date(2026, 1, 2),
        "at": datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
        "here": datetime(2026, 1, 2, 3, 4),  # noqa: DTZ001  # naive on purpose
        "of": UUID(int=7),
        "in": [UUID(int=8)],
    }
    identity = Identity("u1", None, {"team": "a"}, {"team": {"since": date(2025, 1, 1)}})
    ask(identity, properties)

    (call,) = posthog.flag_calls
    assert call["person_properties"] == {
        "on": "2026-01-02",
        "at": "2026-01-02T03:04:00Z",
        "here": "2026-01-02T03:04:00+09:00",
        "of": str(UUID(int=7)),
        "in": [str(UUID(int=8))],
    }
    assert call["group_properties"] == {"team": {"$group_key": "a", "since": "2025-01-01"}}


def test_address_may_end_with_a_slash(settings: Settings, posthog: PostHogServer) -> None:
    """POSTHOG_API_HOST with or without a slash, the path is the same."""
    settings.POSTHOG_API_HOST = f"{posthog.url}/"
    asking(posthog, Clock(), api_host=conf.current().api_host)()

    assert posthog.requests[0].path == "/flags/"


def test_answer_is_read(posthog: PostHogServer, ask: Callable[..., Evaluation]) -> None:
    """What PostHog decided arrives, at the time of our own clock."""
    posthog.flags = {"checkout": Variant("test", payload={"a": 1}), "off": False}

    evaluation = ask()

    assert {key: one.value for key, one in evaluation.decisions.items()} == {
        "checkout": "test",
        "off": False,
    }
    assert evaluation.decisions["checkout"].payload == {"a": 1}
    assert evaluation.request_id


def test_connection_is_used_again(posthog: PostHogServer, ask: Callable[..., Evaluation]) -> None:
    """Requests one after another share a connection."""
    for _ in range(3):
        ask()

    assert posthog.connections == 1
    assert len(posthog.flag_calls) == 3


# ---- how long it may take


class Recorder(HTTPAdapter):
    """Sends requests, and notes with which timeout."""

    def __init__(self) -> None:
        super().__init__()
        self.timeouts: list[Any] = []

    def send(self, request: PreparedRequest, *args: Any, **kwargs: Any) -> Response:
        self.timeouts.append(kwargs["timeout"])
        return super().send(request, *args, **kwargs)


def test_each_attempt_has_the_timeout_that_is_left(posthog: PostHogServer, clock: Clock) -> None:
    """An attempt may be silent for the request timeout, and never past the deadline."""
    ask = asking(posthog, clock, request_timeout_ms=2000, max_retries=3)
    recorder = Recorder()
    ask.sender._session.mount("http://", recorder)  # type: ignore[attr-defined]  # set in `asking`
    posthog.fault = Status(502)

    failure(ask, deadline=2.5)

    assert recorder.timeouts == pytest.approx([2.0, 2.0, 1.6, 0.4])
    assert clock.slept == pytest.approx([0.3, 0.6, 1.2])


def test_nothing_is_sent_after_the_deadline(
    posthog: PostHogServer, ask: Callable[..., Evaluation]
) -> None:
    """A request whose time has passed is not made."""
    failure(ask, deadline=0.0)

    assert posthog.requests == []


def test_silence_ends_with_the_timeout(posthog: PostHogServer, clock: Clock) -> None:
    """A server that hangs is given up after the request timeout, and said to be too slow."""
    posthog.fault = Hang()

    error = failure(asking(posthog, clock, request_timeout_ms=50, max_retries=0))

    assert str(error) == "timeout"
    assert error.counts


class Ticking(TrickleBody):
    """Trickles a body; on the test's clock a second passes with each byte."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(interval=0.005)
        object.__setattr__(self, "clock", clock)

    def trickle(self, exchange: Exchange, data: bytes) -> None:
        for byte in data:
            self.clock.now += 1  # type: ignore[attr-defined]  # set by __init__
            exchange.send(bytes([byte]))
            if not exchange.wait(self.interval):
                return


def test_trickling_body_stops_at_the_deadline(posthog: PostHogServer, clock: Clock) -> None:
    """Each byte may be in time and the whole too late: reading ends at the deadline."""
    posthog.fault = Ticking(clock)

    error = failure(asking(posthog, clock, max_retries=0), deadline=10.0)

    assert str(error) == "timeout"
    assert 10 <= clock.now < 100  # of some two hundred bytes
    posthog.wait_until(lambda: not posthog.connections)


class Flood(Fault):
    """Sends a body that does not end, for as long as somebody reads it."""

    def answer(self, exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
        exchange.close()
        for _ in range(1000):  # 62 MiB
            exchange.send(b" " * 2**16)


def test_huge_body_is_refused(posthog: PostHogServer, ask: Callable[..., Evaluation]) -> None:
    """A reply too long to be flags is not read to its end."""
    posthog.fault = Flood()

    error = failure(ask)

    assert str(error) == "a reply of more than 4 MiB"
    assert error.counts
    assert len(posthog.flag_calls) == 1


# ---- when it is sent again

RETRIED = [
    pytest.param(Reset(times=1), id="reset"),
    pytest.param(CutShort(times=1), id="cut short"),
    pytest.param(Hang(times=1), id="read timeout"),
    pytest.param(Status(502, times=1), id="502"),
    pytest.param(Status(504, times=1), id="504"),
]
NOT_RETRIED = [
    *(pytest.param(Status(code), id=str(code)) for code in (400, 401, 402, 403, 404, 413, 429)),
    *(pytest.param(Status(code), id=str(code)) for code in (500, 501, 503)),
    pytest.param(Status(503, retry_after=0), id="503 with Retry-After"),
    pytest.param(Quota(), id="quota"),
    pytest.param(Html(), id="html"),
    pytest.param(Body(b"[]"), id="[]"),
    pytest.param(Body(b"{}"), id="{}"),
    pytest.param(Body(b""), id="empty"),
    pytest.param(Redirect(302), id="redirect"),
]


@pytest.mark.parametrize("fault", RETRIED)
def test_passing_failure_is_tried_again(posthog: PostHogServer, clock: Clock, fault: Fault) -> None:
    """A failure that may have passed a moment later is asked again, after a pause."""
    posthog.flags = {"beta": True}
    posthog.fault = fault

    evaluation = asking(posthog, clock, request_timeout_ms=200)()

    assert evaluation.decisions["beta"].value is True
    assert clock.slept == [0.3]
    assert len(posthog.flag_calls) == 2


@pytest.mark.parametrize("fault", NOT_RETRIED)
def test_lasting_failure_is_not_tried_again(
    posthog: PostHogServer, ask: Callable[..., Evaluation], clock: Clock, fault: Fault
) -> None:
    """A failure that a second request would meet again costs one request."""
    posthog.fault = fault

    error = failure(ask)

    assert not error.transient
    assert clock.slept == []
    assert len(posthog.flag_calls) == 1


def test_refused_connection_is_not_tried_again(
    posthog: PostHogServer, ask: Callable[..., Evaluation], clock: Clock
) -> None:
    """A closed port answers at once, and would do so again."""
    posthog.fault = Refuse()

    assert str(failure(ask)) == "connection refused"
    assert clock.slept == []


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_retries_are_those_of_the_setting(
    posthog: PostHogServer, clock: Clock, retries: int
) -> None:
    """POSTHOG_MAX_RETRIES is how often it is tried again, with pauses that double."""
    posthog.fault = Status(502)

    failure(asking(posthog, clock, max_retries=retries))

    assert len(posthog.flag_calls) == retries + 1
    assert clock.slept == pytest.approx([0.3, 0.6, 1.2][:retries])


def test_pauses_have_jitter(posthog: PostHogServer, clock: Clock) -> None:
    """Between half and all of each pause passes, so that processes do not retry in step."""
    posthog.fault = Status(502)
    pauses = []
    for seed in range(20):
        clock.slept = []
        failure(asking(posthog, clock, random.Random(seed).random, max_retries=2))
        pauses.append(tuple(clock.slept))

    assert len(set(pauses)) == 20
    assert all(0.15 <= first <= 0.3 and 0.3 <= second <= 0.6 for first, second in pauses)
    assert len({second / first for first, second in pauses}) == 20  # each is drawn anew


def test_pause_counts_as_long_as_it_is(posthog: PostHogServer, clock: Clock) -> None:
    """A retry that only the longest pause would put past the deadline is made."""
    posthog.fault = Status(502)

    failure(asking(posthog, clock, lambda: 0.0), deadline=0.2)

    assert clock.slept == [0.15]
    assert len(posthog.flag_calls) == 2


@pytest.mark.parametrize(("deadline", "requests"), [(0.29, 1), (0.6, 2), (0.89, 2), (1.5, 3)])
def test_no_retry_past_the_deadline(
    posthog: PostHogServer,
    ask: Callable[..., Evaluation],
    clock: Clock,
    deadline: float,
    requests: int,
) -> None:
    """A pause that would end after the deadline is not begun."""
    posthog.fault = Status(504)

    failure(ask, deadline=deadline)

    assert len(posthog.flag_calls) == requests
    assert clock.now < deadline


def test_retry_asks_leave_first(posthog: PostHogServer, ask: Callable[..., Evaluation]) -> None:
    """Without leave there is no retry: the circuit may have opened meanwhile."""
    posthog.fault = Status(502)
    leaves = [True, False]

    failure(ask, may_retry=lambda: leaves.pop(0))

    assert leaves == []
    assert len(posthog.flag_calls) == 2


def test_leave_that_goes_during_the_pause_counts(posthog: PostHogServer, clock: Clock) -> None:
    """The question whether to retry is put when the retry is due, not before the pause."""
    posthog.fault = Status(502)
    ask = asking(posthog, clock, max_retries=1)

    failure(ask, may_retry=lambda: not clock.slept)

    assert len(posthog.flag_calls) == 1


# ---- what is refused


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirect_is_not_followed(
    posthog: PostHogServer, ask: Callable[..., Evaluation], code: int
) -> None:
    """A redirect would turn the POST into a GET, whose answer looks like "no flags"."""
    posthog.fault = Redirect(code)

    error = failure(ask)
    assert (str(error), error.hint) == ("redirect", "Set POSTHOG_API_HOST to the final address.")
    assert [request.method for request in posthog.requests] == ["POST"]


def test_redirect_elsewhere_is_not_followed(
    posthog: PostHogServer, ask: Callable[..., Evaluation]
) -> None:
    """No other server learns who was asked about."""
    with PostHogServer() as elsewhere:
        posthog.fault = Redirect(307, location=f"{elsewhere.url}/flags/?v=4")

        failure(ask)

        assert elsewhere.requests == []


@pytest.mark.parametrize(
    ("fault", "reason", "counts"),
    [
        (Status(400), "HTTP 400", False),
        (Status(413), "HTTP 413", False),
        (Status(401), "HTTP 401", True),
        (Status(402), "HTTP 402", True),
        (Status(404), "HTTP 404", True),
        (Status(429), "HTTP 429", True),
        (Status(500, body="alice@example.com phc_test"), "HTTP 500", True),
        (Status(204, body=""), "HTTP 204", True),
        (Quota(), "over quota", True),
        (Html(b"<p>alice@example.com secretplan phc_test"), "a reply that is not JSON", True),
        (Body(b'{"alice@example.com": 1}'), "a reply that is not flags", True),
        (Reset(), "connection failed", True),
        (CutShort(), "connection failed", True),
        (Refuse(), "connection refused", True),
        (Hang(), "timeout", True),
        (Delay(30), "timeout", True),
        (TrickleHeaders(interval=30), "timeout", True),
        (TrickleBody(interval=30), "timeout", True),
    ],
    ids=str,
)
def test_reason_is_fit_for_a_log(
    posthog: PostHogServer, clock: Clock, fault: Fault, reason: str, counts: bool
) -> None:
    """A failure says what happened, without key or person, and whether PostHog is to blame."""
    posthog.fault = fault

    error = failure(asking(posthog, clock, request_timeout_ms=200, max_retries=0))

    assert (str(error), error.counts) == (reason, counts)


def test_next_request_recovers(posthog: PostHogServer, ask: Callable[..., Evaluation]) -> None:
    """No failure spoils the connections for the requests after it."""
    for fault in (Reset(), Status(500), Body(b"[]", content_length=99), Redirect(302), Refuse()):
        posthog.fault = fault
        failure(ask, may_retry=lambda: False)
        posthog.heal()
        assert ask().request_id


# ---- definitions


def test_request_for_definitions(posthog: PostHogServer, clock: Clock) -> None:
    """The personal key travels in a header, and the project's in the query, whatever it holds."""
    posthog.token = "phc_a/b c+d"

    fetched = defining(posthog, clock)()

    (request,) = posthog.requests
    assert (request.method, request.path) == ("GET", "/flags/definitions")
    assert dict(request.query) == {"token": "phc_a/b c+d", "send_cohorts": ""}
    assert request.headers["Authorization"] == f"Bearer {posthog.secret}"
    assert request.headers["User-Agent"] == f"posthog-python/{VERSION}"
    assert "If-None-Match" not in request.headers
    assert json.loads(fetched.text or "") == posthog.definitions
    assert fetched.etag


def test_definitions_that_are_still_the_same(posthog: PostHogServer, clock: Clock) -> None:
    """With the ETag of what PostHog has, nothing is sent again; with another one, all of it."""
    fetch = defining(posthog, clock)
    etag = fetch().etag

    assert fetch(etag) == Fetched(None, etag)
    assert fetch('W/"another"').text
    assert (posthog.definitions_sent, posthog.definitions_not_modified) == (2, 1)


def test_not_modified_without_a_question(posthog: PostHogServer, clock: Clock) -> None:
    """A 304 that nobody asked for is no answer."""
    posthog.fault = Status(304, body="")

    assert str(failure(defining(posthog, clock))) == "HTTP 304"


def test_definitions_are_not_tried_again(posthog: PostHogServer, clock: Clock) -> None:
    """Each fetch is billed, so a failure waits for the next turn."""
    posthog.fault = Status(502)

    failure(defining(posthog, clock))

    assert len(posthog.requests) == 1
    assert clock.slept == []


def test_trickling_definitions_stop_at_the_deadline(posthog: PostHogServer, clock: Clock) -> None:
    """Reading definitions ends at the deadline, between two bytes."""
    posthog.fault = Ticking(clock)

    assert str(failure(defining(posthog, clock), deadline=10.0)) == "timeout"
    assert 10 <= clock.now < 40  # of some sixty bytes


def test_no_time_left_for_definitions(posthog: PostHogServer, clock: Clock) -> None:
    """A fetch whose time has passed is not made."""
    failure(defining(posthog, clock), deadline=0.0)

    assert posthog.requests == []


def test_redirect_with_the_personal_key_is_not_followed(
    posthog: PostHogServer, clock: Clock
) -> None:
    """No other server is shown the personal key."""
    with PostHogServer() as elsewhere:
        posthog.fault = Redirect(307, location=f"{elsewhere.url}/flags/definitions")

        error = failure(defining(posthog, clock))

        assert elsewhere.requests == []
    assert str(error) == "redirect"
