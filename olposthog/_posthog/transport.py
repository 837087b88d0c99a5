"""HTTP connections to PostHog that stay usable, and that another thread can shut down.

requests and urllib3 pool connections, but have no hook for three things: the age of an idle
connection, whether a failed request was on a reused one, and the socket of a request under way.
"""

from __future__ import annotations

import errno
import http.client
import math
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from typing import Any, TypeVar

import requests
from posthog.request import KEEP_ALIVE_SOCKET_OPTIONS
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, ProxyManager
from urllib3.connection import HTTPConnection, HTTPSConnection

E = TypeVar("E", bound=BaseException)

UNACKNOWLEDGED_SHARE = 1 / 3
"""The share of a request's timeout after which a peer that acknowledges no data is unreachable."""


class Call:
    """A call to PostHog that another thread can abort."""

    def __init__(self) -> None:
        self.is_aborted = False
        self._connection: Connection | None = None

    def abort(self) -> None:
        """Shut down the call's socket, so that its thread returns from any read. Never raise.

        A name lookup and a TCP or TLS handshake under way end by their own timeouts.
        """
        self.is_aborted = True
        connection = self._connection
        if connection is not None and connection.call is self:
            with suppress(OSError, TypeError):  # closed, or not connected
                # SSLSocket.shutdown would make the reader take ciphertext for plain text.
                socket.socket.shutdown(connection.transport_socket, socket.SHUT_RDWR)

    def hold(self, connection: Connection | None) -> None:
        """Set the connection that the call is on. Raise ConnectionAbortedError if aborted."""
        self._connection = connection  # before the check, so that no abort comes between
        if connection is not None:
            connection.call = self
            if self.is_aborted:
                raise ConnectionAbortedError


@dataclass(slots=True)
class Attempt:
    """One request of a call, made by the current thread."""

    call: Call
    clock: Callable[[], float]
    used_since: float
    """When a pooled connection must have been used last, to be used for this."""
    is_reused: bool = False
    """Whether its connection has served a request before."""
    has_reply: bool = False
    """Whether a byte of the reply has arrived."""

    def is_stale(self, error: BaseException) -> bool:
        """Return whether `error` shows that a pooled connection had died before the request.

        A timeout does not show that, unless it is the kernel's for data that nobody acknowledged.
        """
        if not self.is_reused or self.has_reply:
            return False
        timeout = find_cause(error, TimeoutError)
        return timeout is None or timeout.errno == errno.ETIMEDOUT


class _Thread(threading.local):
    attempt: Attempt


_thread = _Thread()


@contextmanager
def making(attempt: Attempt) -> Iterator[None]:
    """Have the connections of this thread's session know the attempt."""
    _thread.attempt = attempt
    try:
        yield
    finally:
        del _thread.attempt
        attempt.call.hold(None)


class _Response(http.client.HTTPResponse):
    def begin(self, *args: Any, **kwargs: Any) -> None:
        """Read the head of the reply, and note whether any of it arrived."""
        _thread.attempt.has_reply = bool(self.fp.peek(1))
        super().begin(*args, **kwargs)
        # urllib3 logs malformed headers as they are, with the address of the request and its key.
        self.msg.defects = []
        self.msg.set_payload("")


class Connection(HTTPConnection):
    """A connection with TCP keepalive that knows its last use and its call."""

    response_class = _Response
    call: Call | None = None
    _has_served = False
    _used_at = -math.inf

    @property
    def transport_socket(self) -> Any:
        """The operating system's socket. With TLS within TLS, `sock` is none."""
        return getattr(self.sock, "socket", self.sock)

    def connect(self) -> None:
        """Connect, unless the call is aborted meanwhile."""
        attempt = _thread.attempt
        attempt.is_reused = self._has_served = False
        attempt.call.hold(self)
        super().connect()
        for option in KEEP_ALIVE_SOCKET_OPTIONS:
            self.transport_socket.setsockopt(*option)
        attempt.call.hold(self)  # again, as a call aborted meanwhile had no socket to shut down

    @property
    def is_connected(self) -> bool:
        """Whether the pool may use the connection for the attempt."""
        return self._used_at >= _thread.attempt.used_since and super().is_connected

    def request(self, *args: Any, **kwargs: Any) -> None:
        """Send a request."""
        attempt = _thread.attempt
        attempt.is_reused = self._has_served
        attempt.call.hold(self)
        super().request(*args, **kwargs)

    def getresponse(self) -> Any:
        """Return the reply, whose body is not read yet."""
        if isinstance(self.timeout, int | float) and hasattr(socket, "TCP_USER_TIMEOUT"):
            milliseconds = max(1, int(self.timeout * UNACKNOWLEDGED_SHARE * 1000))
            self.transport_socket.setsockopt(
                socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds
            )
        reply = super().getresponse()
        self._has_served = True
        self._used_at = _thread.attempt.clock()
        return reply


class SecureConnection(Connection, HTTPSConnection):
    """The same with TLS."""


class _Pool(HTTPConnectionPool):
    ConnectionCls: Any = Connection  # urllib3's protocols of its classes do not fit them


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls: Any = SecureConnection


POOLS = {"http": _Pool, "https": _SecurePool}


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = POOLS

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> ProxyManager:
        manager: ProxyManager = super().proxy_manager_for(*args, **kwargs)
        if type(manager) is ProxyManager:  # one for SOCKS has connections of its own
            manager.pool_classes_by_scheme = POOLS
        return manager


def new_session(host: str, connections: int) -> requests.Session:
    """Return a session for `host` that keeps up to so many connections, and no cookies."""
    session = requests.Session()
    # Proxies and certificates of the environment, looked up once and not for each request.
    surroundings = session.merge_environment_settings(host, {}, None, None, None)
    session.proxies, session.verify = surroundings["proxies"], surroundings["verify"]
    session.trust_env = False
    # A followed redirect turns the POST into a GET, which PostHog answers with "no flags".
    session.get_redirect_target = lambda response: None  # type: ignore[assignment, method-assign]  # follow none
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.headers["Accept-Encoding"] = "gzip"
    session.stream = True
    adapter = _Adapter(pool_maxsize=connections)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


def find_cause(error: BaseException | None, kind: type[E]) -> E | None:
    """Return the first exception of a type among `error` and its causes."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error
