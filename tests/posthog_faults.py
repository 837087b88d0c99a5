"""The ways in which the stand-in PostHog can misbehave, as values to assign to `server.fault`."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import ClassVar, Protocol


@dataclass(frozen=True)
class Reply:
    """One HTTP answer, before it becomes bytes."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_json(
        cls, content: object, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """A JSON document."""
        headers = {"Content-Type": "application/json", **(headers or {})}
        return cls(status, json.dumps(content).encode(), headers)

    def head(self) -> bytes:
        """The status line and headers; a Content-Length given explicitly may lie."""
        bodiless = self.status == HTTPStatus.NOT_MODIFIED
        headers = {} if bodiless else {"Content-Length": str(len(self.body))}
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in {**headers, **self.headers}.items()]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


class Exchange(Protocol):
    """What a fault may do with the request that it meets."""

    path: str

    @property
    def is_evaluation(self) -> bool:
        """Whether flags were asked for, and not definitions or anything else."""

    def healthy(self) -> Reply:
        """What PostHog would answer if nothing were wrong."""

    def reply(self, reply: Reply) -> None:
        """Send a whole answer; the request is then no longer in flight."""

    def send(self, data: bytes) -> None:
        """Write bytes to the client, as they are."""

    def wait(self, seconds: float | None = None) -> bool:
        """Pause; False as soon as the fault is lifted or the server stops, True if it never was."""

    def close(self) -> None:
        """Let the connection end after this exchange."""

    def reset(self) -> None:
        """Tear the connection down with a TCP reset."""

    def drop_packets(self) -> None:
        """Drop all further packets of the client, unacknowledged, as a NAT does that forgot it."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A way to misbehave: for the next `times` requests, or until it is lifted."""

    times: int | None = None

    #: Met when a connection is accepted, before a request has been read.
    on_connect: ClassVar[bool] = False

    def answer(self, exchange: Exchange) -> None:
        """Answer in place of PostHog."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Canned(Fault):
    """Answer promptly, and wrongly."""

    def reply(self, exchange: Exchange) -> Reply:
        """The wrong answer."""
        raise NotImplementedError

    def answer(self, exchange: Exchange) -> None:
        """Send the reply whole."""
        exchange.reply(self.reply(exchange))


@dataclass(frozen=True)
class Hang(Fault):
    """Take the request and never answer; lifting the fault drops the connection."""

    def answer(self, exchange: Exchange) -> None:
        """Say nothing until nobody wants to hear it any more."""
        exchange.wait()
        exchange.close()


@dataclass(frozen=True)
class HalfOpen(Hang):
    """Accept the TCP connection and say nothing: over https, a TLS handshake that hangs."""

    on_connect: ClassVar[bool] = True


@dataclass(frozen=True)
class Refuse(Fault):
    """Close the port: connections are refused until the fault is lifted, whatever `times` says."""

    def answer(self, exchange: Exchange) -> None:
        """Drop a request that slipped in while the port was closing."""
        exchange.reset()


@dataclass(frozen=True)
class Reset(Fault):
    """Take the request and reset the connection."""

    def answer(self, exchange: Exchange) -> None:
        """Reset."""
        exchange.reset()


@dataclass(frozen=True)
class HangUp(Fault):
    """Take the request and close the connection without a byte of a reply."""

    def answer(self, exchange: Exchange) -> None:
        """Close."""
        exchange.close()


@dataclass(frozen=True)
class ResetAfterBytes(Fault):
    """Begin the status line and reset the connection."""

    def answer(self, exchange: Exchange) -> None:
        """Send a few bytes, wait until the client has them, and reset."""
        exchange.send(b"HTTP/1.1 2")
        exchange.wait(0.05)
        exchange.reset()


@dataclass(frozen=True)
class DropPackets(Fault):
    """Answer correctly, then leave the connection open and drop what arrives on it."""

    def answer(self, exchange: Exchange) -> None:
        """Send what a healthy server would, and nothing ever again."""
        exchange.drop_packets()
        exchange.reply(exchange.healthy())
        exchange.wait()


@dataclass(frozen=True)
class Delay(Fault):
    """Answer correctly after a while."""

    seconds: float

    def answer(self, exchange: Exchange) -> None:
        """Wait, then send what a healthy server would."""
        exchange.wait(self.seconds)
        exchange.reply(exchange.healthy())


@dataclass(frozen=True)
class TrickleHeaders(Fault):
    """Answer correctly, but send the status line and the headers a few bytes at a time."""

    bytes_at_a_time: int = 1
    interval: float = 0.05

    def answer(self, exchange: Exchange) -> None:
        """Trickle the head; the body follows at once."""
        reply = exchange.healthy()
        self.trickle(exchange, reply.head())
        exchange.send(reply.body)

    def trickle(self, exchange: Exchange, data: bytes) -> None:
        """Send a bit at every interval, and the rest at once when the fault is lifted."""
        step = self.bytes_at_a_time
        for start in range(0, len(data), step):
            exchange.send(data[start : start + step])
            if not exchange.wait(self.interval):
                exchange.send(data[start + step :])
                return


@dataclass(frozen=True)
class SlowContinue(Fault):
    """Send one interim reply (100 Continue) after the other, and never the final one."""

    interval: float = 0.01

    def answer(self, exchange: Exchange) -> None:
        """Go on until the fault is lifted."""
        while exchange.wait(self.interval):
            exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        exchange.close()


@dataclass(frozen=True)
class TrickleBody(TrickleHeaders):
    """Answer correctly, but send the body a few bytes at a time."""

    def answer(self, exchange: Exchange) -> None:
        """Send the head at once and trickle the body."""
        reply = exchange.healthy()
        exchange.send(reply.head())
        self.trickle(exchange, reply.body)


@dataclass(frozen=True)
class Status(Canned):
    """Answer with an HTTP error; without a body of its own it carries PostHog's error document."""

    code: int
    body: str | None = None
    retry_after: float | str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    #: PostHog's `type` and `code` for the errors that have their own.
    DOCUMENTS: ClassVar[Mapping[int, tuple[str, str]]] = {
        400: ("validation_error", "invalid_input"),
        401: ("authentication_error", "authentication_failed"),
        402: ("quota_limited", "payment_required"),
        429: ("throttled_error", "rate_limit_exceeded"),
    }

    def reply(self, exchange: Exchange) -> Reply:
        """The error, whatever was asked."""
        return self.document()

    def document(self) -> Reply:
        """The error, with a Retry-After when one was asked for."""
        headers = dict(self.headers)
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        if self.body is not None:
            return Reply(self.code, self.body.encode(), {"Content-Type": "text/plain", **headers})
        kind, code = self.DOCUMENTS.get(self.code, ("server_error", "error"))
        detail = HTTPStatus(self.code).phrase
        content = {"type": kind, "code": code, "detail": detail, "attr": None}
        return Reply.of_json(content, self.code, headers)


@dataclass(frozen=True)
class Quota(Canned):
    """Over the quota: evaluations say so in a 200 without flags, definitions in a 402."""

    def reply(self, exchange: Exchange) -> Reply:
        """No flags, and why."""
        if not exchange.is_evaluation:
            return Status(402).document()
        envelope = {
            "flags": {},
            "errorsWhileComputingFlags": False,
            "quotaLimited": ["feature_flags"],
        }
        request = {"requestId": str(uuid.uuid4()), "evaluatedAt": time.time_ns() // 1_000_000}
        return Reply.of_json(envelope | request)


@dataclass(frozen=True)
class Body(Canned):
    """Answer 200 with these bytes; a `content_length` beyond them ends in an early close."""

    content: bytes = b""
    content_type: str = "application/json"
    content_length: int | None = None

    def reply(self, exchange: Exchange) -> Reply:
        """The bytes as they are."""
        headers = {"Content-Type": self.content_type}
        if self.content_length is not None:
            headers["Content-Length"] = str(self.content_length)
            exchange.close()
        return Reply(200, self.content, headers)


@dataclass(frozen=True)
class Raw(Fault):
    """Answer with these bytes, from the status line on, and close the connection if asked to."""

    data: bytes
    closes: bool = True
    repeated: bytes = b""
    """Sent after `data` for as long as the client reads."""

    def answer(self, exchange: Exchange) -> None:
        """Send the bytes as they are."""
        exchange.send(self.data)
        while self.repeated and exchange.wait(0):
            exchange.send(self.repeated)
        if self.closes:
            exchange.close()


@dataclass(frozen=True)
class HeaderLines(Fault):
    """Answer correctly, with these lines in addition among the headers."""

    lines: bytes = b""

    def answer(self, exchange: Exchange) -> None:
        """Insert the lines after the status line."""
        reply = exchange.healthy()
        status, _, headers = reply.head().partition(b"\r\n")
        exchange.send(status + b"\r\n" + self.lines + headers + reply.body)


@dataclass(frozen=True)
class Encoded(Canned):
    """Answer with the healthy body in an encoding, or with another body."""

    encoding: str
    encode: Callable[[bytes], bytes] = bytes
    content: bytes | None = None

    def reply(self, exchange: Exchange) -> Reply:
        """The encoded body, and its Content-Encoding."""
        healthy = exchange.healthy()
        body = self.encode(healthy.body if self.content is None else self.content)
        return Reply(200, body, {**healthy.headers, "Content-Encoding": self.encoding})


@dataclass(frozen=True)
class Html(Body):
    """Answer 200 with a web page, as a captive portal or a wrong host does."""

    content: bytes = b"<!doctype html><title>Welcome</title><p>Please sign in.</p>"
    content_type: str = "text/html; charset=utf-8"


@dataclass(frozen=True)
class CutShort(Fault):
    """Begin the healthy answer and close the connection after these many bytes of its body."""

    after: int = 10

    def answer(self, exchange: Exchange) -> None:
        """Promise the whole body and send its beginning."""
        reply = exchange.healthy()
        exchange.send(reply.head() + reply.body[: self.after])
        exchange.close()


@dataclass(frozen=True)
class Redirect(Canned):
    """Send the client elsewhere: by default to the same address, where it then finds an answer.

    A client that follows a 301 or 302 turns its POST into a GET, and `GET /flags/` has no flags.
    """

    code: int = 302
    location: str | None = None

    def reply(self, exchange: Exchange) -> Reply:
        """A redirect, unless the request has already followed it."""
        if exchange.path.endswith("redirected"):
            return exchange.healthy()
        here = f"{exchange.path}{'&' if '?' in exchange.path else '?'}redirected"
        return Reply(self.code, headers={"Location": self.location or here})
