"""The connections to PostHog: how long they are used, when they are stale, how calls end."""

from __future__ import annotations

import math
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from posthog.request import KEEP_ALIVE_SOCKET_OPTIONS

from olposthog._evaluation.evaluation import Evaluation
from olposthog._posthog import Call
from olposthog._posthog.transport import Connection
from tests.gateway.asking import Clock, asking, defining, failure, needs_linux
from tests.gateway.proxy import Proxy
from tests.gateway.tls import CERTIFICATE, secure, server_context
from tests.posthog_faults import (
    DropPackets,
    Fault,
    HalfOpen,
    Hang,
    HangUp,
    Reset,
    ResetAfterBytes,
    SlowContinue,
    Status,
    TrickleBody,
    TrickleHeaders,
)
from tests.posthog_server import PATIENCE, PostHogServer


@pytest.fixture(autouse=True)
def _no_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the proxies and certificates of the machine that runs the tests."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["http", "https"])
def ask(
    request: pytest.FixtureRequest,
    posthog: PostHogServer,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[..., Evaluation]]:
    """Fetch flags without retries, over http and https. The first request has been made."""
    url = posthog.url
    if request.param == "https":
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(CERTIFICATE))
        url = secure(posthog)
    posthog.flags = {"beta": True}
    ask = asking(posthog, clock, api_host=url, max_retries=0, request_timeout_ms=1500)
    ask()
    posthog.clear()
    yield ask
    assert clock.slept == []  # nothing here is a retry of the settings


def pooled(ask: Callable[..., Any]) -> list[socket.socket]:
    """Return the sockets of a gateway's idle connections."""
    session = ask.sender._session  # type: ignore[attr-defined]  # set in `asking`
    adapter = session.get_adapter("https://")
    managers = [adapter.poolmanager, *adapter.proxy_manager.values()]
    pools = [one.pools[key] for one in managers for key in one.pools.keys()]  # noqa: SIM118
    return [one.sock for pool in pools for one in pool.pool.queue if one and one.sock]


# ---- stale connections


@pytest.mark.parametrize(
    "fault",
    [HangUp(times=1), Reset(times=1)],
    ids=str,
)
def test_stale_connection_is_no_failure(
    posthog: PostHogServer, ask: Callable[..., Evaluation], fault: Fault
) -> None:
    """A reused connection that ends before any byte of the reply costs a new connection only."""
    posthog.fault = fault

    assert ask().decisions["beta"].value is True
    assert (len(posthog.flag_calls), posthog.connections_accepted) == (2, 1)


@needs_linux
def test_connection_that_a_nat_dropped_is_no_failure(
    posthog: PostHogServer, ask: Callable[..., Evaluation]
) -> None:
    """A reused connection on which nobody acknowledges data is left within the same deadline."""
    posthog.fault = DropPackets(times=1)
    ask()

    assert ask().decisions["beta"].value is True
    assert (len(posthog.flag_calls), posthog.connections_accepted) == (2, 1)


@pytest.mark.parametrize(
    ("fault", "reason", "requests"),
    [
        (HangUp(times=2), "connection failed", 2),
        (Reset(times=2), "connection failed", 2),
        (ResetAfterBytes(times=1), "connection failed", 1),
        (Hang(times=1), "timeout", 1),
        (TrickleBody(interval=30, times=1), "timeout", 1),
        (Status(500, times=1), "HTTP 500", 1),
    ],
    ids=str,
)
def test_failure_on_a_reused_connection_counts(
    posthog: PostHogServer,
    ask: Callable[..., Evaluation],
    fault: Fault,
    reason: str,
    requests: int,
) -> None:
    """A failure after the first byte, in silence, or on a new connection is PostHog's."""
    posthog.fault = fault

    error = failure(ask, deadline=0.5)

    assert (str(error), error.counts) == (reason, True)
    assert len(posthog.flag_calls) == requests


def test_failure_on_a_new_connection_counts(posthog: PostHogServer, clock: Clock) -> None:
    """A new connection cannot be stale, so its failure is not hidden by another request."""
    posthog.fault = HangUp()

    assert str(failure(asking(posthog, clock, max_retries=0))) == "connection failed"
    assert len(posthog.flag_calls) == 1


def test_no_new_connection_past_the_deadline(
    posthog: PostHogServer, ask: Callable[..., Evaluation], clock: Clock
) -> None:
    """A stale connection that is found too late is not replaced."""

    class Late(HangUp):
        def answer(self, exchange: Any) -> None:
            clock.now += 100
            super().answer(exchange)

    posthog.fault = Late()

    failure(ask)
    assert len(posthog.flag_calls) == 1


def test_one_stale_connection_tells_of_the_others(posthog: PostHogServer, clock: Clock) -> None:
    """Connections that lay idle with a stale one are not tried one after another."""
    ask = asking(posthog, clock, max_retries=0)

    def ask_twice_at_once() -> None:
        asked = len(posthog.flag_calls)
        with ThreadPoolExecutor(2) as pool, posthog.gate():
            results = [pool.submit(ask) for _ in range(2)]
            posthog.wait_for_flag_calls(asked + 2)
        assert all(one.result() for one in results)

    ask_twice_at_once()
    assert len(pooled(ask)) == 2
    clock.now += 1
    posthog.fault = HangUp(times=1)
    ask()
    posthog.clear()

    ask_twice_at_once()

    assert posthog.connections_accepted == 1  # in place of the other old one
    posthog.wait_until(lambda: posthog.connections == 2)


@pytest.mark.parametrize(("idle", "accepted"), [(60.0, 0), (60.1, 1), (1e9, 1)])
def test_idle_connection_has_a_maximum_age(
    posthog: PostHogServer,
    ask: Callable[..., Evaluation],
    clock: Clock,
    idle: float,
    accepted: int,
) -> None:
    """A connection that was idle for over a minute is not used again: a NAT may have dropped it."""
    clock.now += idle

    ask(deadline=math.inf)

    assert posthog.connections_accepted == accepted
    assert len(posthog.flag_calls) == 1
    posthog.wait_until(lambda: posthog.connections == 1)


def test_use_renews_a_connection(
    posthog: PostHogServer, ask: Callable[..., Evaluation], clock: Clock
) -> None:
    """The age is that of the last reply, not of the connection."""
    for _ in range(5):
        clock.now += 59
        ask(deadline=math.inf)

    assert posthog.connections_accepted == 0


def test_new_connection_on_demand(posthog: PostHogServer, ask: Callable[..., Evaluation]) -> None:
    """A probe asks for a new connection, which cannot be stale, and sends one request."""
    ask(needs_new_connection=True)

    assert (len(posthog.flag_calls), posthog.connections_accepted) == (1, 1)


def test_connections_are_kept_alive(ask: Callable[..., Evaluation]) -> None:
    """Connections have TCP keepalive as the SDK sets it, and notice data without a receiver."""
    (sock,) = pooled(ask)

    for level, option, value in KEEP_ALIVE_SOCKET_OPTIONS:
        assert sock.getsockopt(level, option) == value
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 500


# ---- calls that are given up


@pytest.mark.parametrize(
    "fault",
    [
        TrickleHeaders(interval=0.01),
        TrickleBody(interval=0.01),
        SlowContinue(),
        Hang(),
    ],
    ids=str,
)
@pytest.mark.parametrize("is_new", [True, False], ids=["new", "reused"])
def test_aborted_call_ends(
    posthog: PostHogServer, ask: Callable[..., Evaluation], fault: Fault, is_new: bool
) -> None:
    """A call that is aborted from another thread ends in any phase, without another request."""
    posthog.fault = fault
    call = Call()

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(failure, ask, call=call, needs_new_connection=is_new)
        posthog.wait_for_flag_calls(1)
        call.abort()
        error = asked.result(PATIENCE)

    assert str(error) == "aborted"
    assert len(posthog.flag_calls) == 1
    assert pooled(ask) == []
    posthog.heal()
    assert ask().request_id


def test_call_that_is_aborted_early_sends_nothing(
    posthog: PostHogServer, ask: Callable[..., Evaluation]
) -> None:
    """A call that is aborted while it is queued makes no request."""
    call = Call()
    call.abort()
    call.abort()

    failure(ask, call=call)

    assert posthog.flag_calls == []


def test_call_that_is_over_cannot_be_aborted(
    posthog: PostHogServer, ask: Callable[..., Evaluation]
) -> None:
    """A late abort does not end the call that uses the connection by then."""
    earlier = Call()
    ask(call=earlier)
    with ThreadPoolExecutor(1) as pool, posthog.gate():
        asked = pool.submit(ask)
        posthog.wait_for_flag_calls(2)
        earlier.abort()

    assert asked.result(PATIENCE).decisions["beta"].value is True
    assert len(posthog.flag_calls) == 2


def test_connection_belongs_to_its_latest_call() -> None:
    """A call whose connection went back to the pool cannot shut it down under the next call."""
    connection = Connection("posthog.invalid")
    near, far = socket.socketpair()
    with near, far:
        connection.sock = near
        earlier, later = Call(), Call()
        earlier.hold(connection)
        later.hold(connection)

        earlier.abort()
        far.sendall(b"x")
        assert near.recv(1) == b"x"
        later.abort()
        assert near.recv(1) == b""
        with pytest.raises(ConnectionAbortedError):
            later.hold(connection)


def test_slow_name_lookup_ends_with_its_call(
    posthog: PostHogServer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lookup knows no deadline; a call that is aborted meanwhile sends nothing afterwards."""
    looks_up, may_answer = threading.Event(), threading.Event()
    look_up = socket.getaddrinfo

    def slow(*args: Any, **options: Any) -> Any:
        looks_up.set()
        may_answer.wait(PATIENCE)
        return look_up(*args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    call = Call()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(failure, asking(posthog, clock), call=call)
        assert looks_up.wait(PATIENCE)
        call.abort()
        may_answer.set()
        error = asked.result(PATIENCE)

    assert str(error) == "aborted"
    assert posthog.flag_calls == []
    posthog.wait_until(lambda: not posthog.connections)


# ---- TLS, proxies and addresses


def test_untrusted_certificate_is_refused(posthog: PostHogServer, clock: Clock) -> None:
    """Connections check certificates as `requests` does."""
    ask = asking(posthog, clock, api_host=secure(posthog), max_retries=0)

    assert str(failure(ask)) == "connection failed"
    assert posthog.requests == []


class TrickledHandshake(HalfOpen):
    """Sends a TLS record byte by byte, each in time, and never completes it."""

    def answer(self, exchange: Any) -> None:
        exchange.send(b"\x16\x03\x03\x40\x00")
        while exchange.wait(0.01):
            exchange.send(b"\x00")
        exchange.close()


@pytest.mark.parametrize("fault", [HalfOpen(), TrickledHandshake()], ids=str)
def test_handshake_has_a_timeout(posthog: PostHogServer, clock: Clock, fault: Fault) -> None:
    """A TLS handshake that hangs or trickles ends with the request timeout."""
    posthog.fault = fault
    url = f"https://127.0.0.1:{posthog.port}"

    ask = asking(posthog, clock, api_host=url, max_retries=0, request_timeout_ms=200)

    assert str(failure(ask)) == "timeout"


@pytest.fixture
def proxy(posthog: PostHogServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy in the environment, for https to the stand-in under the name `localhost`."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(CERTIFICATE))
    secure(posthog)
    with Proxy(posthog.port) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        yield proxy


def asking_securely(posthog: PostHogServer, clock: Clock) -> Callable[..., Evaluation]:
    """Return `fetch` over https."""
    return asking(posthog, clock, api_host=f"https://127.0.0.1:{posthog.port}", max_retries=0)


@pytest.mark.parametrize("is_secure", [False, True], ids=["http", "https"])
def test_tunnel_has_the_same_connections(
    posthog: PostHogServer,
    clock: Clock,
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
    is_secure: bool,
) -> None:
    """Through a proxy, connections are kept alive, and replaced when stale, as without one."""
    if is_secure:
        proxy.tls = server_context()
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("http:", "https:"))
    ask = asking_securely(posthog, clock)
    ask()
    (sock,) = pooled(ask)
    sock = getattr(sock, "socket", sock)  # of the proxy's TLS
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    posthog.fault = HangUp(times=1)

    ask()

    assert len(proxy.heads) == 2
    assert proxy.heads[0].startswith(f"CONNECT 127.0.0.1:{posthog.port} ".encode())
    assert not [head for head in proxy.heads if posthog.token.encode() in head]


def test_no_proxy_is_obeyed(
    posthog: PostHogServer, clock: Clock, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NO_PROXY sends requests past the proxy."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    assert asking_securely(posthog, clock)().request_id
    assert proxy.heads == []


def test_refusal_of_a_proxy_is_told_by_its_address(
    posthog: PostHogServer, clock: Clock, proxy: Proxy
) -> None:
    """What the proxy says in its refusal is in no message; its address is in the hint."""
    proxy.reply = b"HTTP/1.1 407 \x1b[31mred\r\n\r\n"

    error = failure(asking_securely(posthog, clock))

    assert str(error) == "connection failed"
    assert proxy.url in error.hint


def test_trickling_proxy_ends_with_its_call(
    posthog: PostHogServer, clock: Clock, proxy: Proxy
) -> None:
    """A call that is aborted while a proxy trickles its reply to CONNECT ends."""
    proxy.reply, proxy.repeated = b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"
    call = Call()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(failure, asking_securely(posthog, clock), call=call)
        while not proxy.heads:
            assert not asked.done()
        call.abort()
        error = asked.result(PATIENCE)

    assert str(error) == "aborted"
    assert proxy.ended.wait(PATIENCE)


def test_address_of_ipv6(
    posthog: PostHogServer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An address of IPv6 is asked as any other; the test needs no IPv6 of the machine."""
    look_up = socket.getaddrinfo
    hosts = []

    def by_ipv4(host: str, port: int, *args: Any, **options: Any) -> Any:
        hosts.append(host)
        return look_up("127.0.0.1", port, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", by_ipv4)
    posthog.flags = {"beta": True}
    address = f"http://[::1]:{posthog.port}"

    assert set(asking(posthog, clock, api_host=address)().decisions) == {"beta"}
    assert defining(posthog, clock, api_host=address)().text
    assert set(hosts) == {"::1"}


def test_next_address_is_tried(
    posthog: PostHogServer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An IPv6 address without a route does not hide the IPv4 address of the same name."""
    look_up = socket.getaddrinfo

    def both(host: str, port: int, *args: Any, **options: Any) -> Any:
        unreachable = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0))
        return [unreachable, *look_up("127.0.0.1", port, *args, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", both)

    assert asking(posthog, clock, api_host=f"http://posthog.invalid:{posthog.port}")().request_id
