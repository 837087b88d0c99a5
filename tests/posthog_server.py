"""A stand-in PostHog that speaks real HTTP on loopback.

    with PostHogServer() as server:
        server.flags = {"new-nav": True, "checkout": Variant("test", payload={"colour": "green"})}
        ...  # with POSTHOG_API_HOST = server.url
        server.fault = Hang()

By hand: `python -m tests.posthog_server --port 8765 [--flags FILE] [--definitions FILE]`.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import math
import socket
import socketserver
import ssl
import struct
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Self

from tests.posthog_faults import Fault, HalfOpen, Refuse, Reply, Status
from tests.posthog_wire import (
    Endpoint,
    Flag,
    Record,
    Request,
    Split,
    Variant,
    device_id_in,
    in_version,
)

PATIENCE = 10.0  # seconds that a test waits for what should come at once
LONGEST_DISTINCT_ID = 200
SO_ATTACH_FILTER = 26  # of Linux

__all__ = ["Endpoint", "Flag", "PostHogServer", "Record", "Request", "Split", "Variant"]


@dataclass
class _Switch:
    """A fault while it is on, and a sign for those who wait when it no longer is."""

    fault: Fault
    remaining: float
    lifted: bool = False


class _FaultOn:
    """An attribute of the server: the fault of some endpoints, None while they are healthy."""

    def __set_name__(self, owner: type[PostHogServer], name: str) -> None:
        self.name = name

    def __get__(self, server: PostHogServer, owner: type[PostHogServer]) -> Fault | None:
        switch = server._switches.get(self.name)
        return switch.fault if switch and switch.remaining else None

    def __set__(self, server: PostHogServer, fault: Fault | None) -> None:
        if isinstance(fault, Refuse | HalfOpen) and self.name != "fault":
            raise ValueError(f"{fault} befalls whole connections: assign it to `fault`")
        with server._changed:
            before = server._switches.pop(self.name, None)
            if before:
                before.lifted = True
            if fault:
                times = math.inf if fault.times is None else fault.times
                server._switches[self.name] = _Switch(fault, times)
            server._changed.notify_all()
        if isinstance(fault, Refuse):
            server.pause()
        elif before and isinstance(before.fault, Refuse):
            server.resume()


class PostHogServer:
    """PostHog's flag and event endpoints on a port of this machine.

    Whatever is public may be read and set while the server runs, from any thread. Everything that
    waits, in the server or in a test, waits for `_changed`, so nothing outlives its reason to wait.
    """

    fault = _FaultOn()  # of every request, or of the port itself
    flags_fault = _FaultOn()
    definitions_fault = _FaultOn()
    events_fault = _FaultOn()

    def __init__(self, port: int = 0, host: str = "127.0.0.1") -> None:
        self.host = host
        self.port = port
        self.errors: list[BaseException] = []
        self._changed = threading.Condition()
        self._switches: dict[str, _Switch] = {}
        self._listener: _Listener | None = None
        self._gates = 0
        self.in_flight = 0  # requests that have arrived and not been answered
        self.reset()

    # Its life: stopped, listening, or paused

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.stop()
        if self.errors and error is None:
            raise BaseExceptionGroup("the stand-in PostHog failed", self.errors)

    @property
    def url(self) -> str:
        """What to use as POSTHOG_API_HOST."""
        return f"http://{self.authority}"

    @property
    def authority(self) -> str:
        """Host and port, as in an address."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def start(self) -> None:
        """Listen, on the port it had before if it had one."""
        self._listener = self._listener or _Listener(self)
        self._listener.listen()

    def stop(self) -> None:
        """Close the port and cut every connection, whatever it was waiting for."""
        if self._listener:
            self._listener.hang_up()
            self._listener = None

    def pause(self) -> None:
        """Refuse connections and cut those that are open, but keep the port."""
        self.stop()
        self._listener = _Listener(self)  # bound and not listening: the kernel refuses

    def resume(self) -> None:
        """Listen again after a pause."""
        if self._listener:
            self.start()

    # What it answers

    def reset(self) -> None:
        """Be as good as new: healthy, with nothing declared and nothing recorded."""
        self.heal()
        self.resume()
        self.clear()
        self.token = "phc_test"
        self.secret = "phs_test"
        self.flags: Mapping[str, object] = {}
        self.definitions: Mapping[str, object] = {
            "flags": [],
            "group_type_mapping": {},
            "cohorts": {},
        }
        self.errors_while_computing_flags = False
        self.minimal_flag_called_events = False

    def heal(self) -> None:
        """Lift every fault."""
        self.fault = self.flags_fault = self.definitions_fault = self.events_fault = None

    @contextmanager
    def gate(self) -> Iterator[None]:
        """Hold the answers to evaluations, faults included, until the block ends."""
        with self._changed:
            self._gates += 1
        try:
            yield
        finally:
            with self._changed:
                self._gates -= 1
                self._changed.notify_all()

    def _answer(self, request: Request) -> Reply:
        match request.method, request.endpoint:
            case "POST", Endpoint.FLAGS:
                return self._evaluate(request)
            case "GET", Endpoint.FLAGS:
                return Reply.of_json(self._envelope(flags={}))
            case "GET", Endpoint.DEFINITIONS:
                return self._define(request)
            case "POST", Endpoint.EVENTS:
                understood = isinstance(request.body, dict | list)
                return Reply.of_json({"status": 1}) if understood else Status(400).document()
            case "GET", Endpoint.CONFIG:  # what posthog-js asks for first
                return Reply.of_json({"hasFeatureFlags": True, "supportedCompression": []})
        return Reply(404, b"Not found")

    def _evaluate(self, request: Request) -> Reply:
        body = request.body
        if not isinstance(body, dict):
            return Reply(400, b"Failed to parse the request: it is not a JSON object.")
        if body.get("api_key", body.get("token")) != self.token:
            return Reply(401, b"The API key is not valid.")
        if body.get("distinct_id") in (None, ""):
            return Reply(400, b"The distinct_id field is missing or empty.")
        body = {
            **body,
            "distinct_id": str(body["distinct_id"])[:LONGEST_DISTINCT_ID],
            "device_id": device_id_in(body),
        }
        wanted = body.get("flag_keys_to_evaluate") or self.flags
        declared = enumerate(self.flags.items(), start=1)
        flags = [
            (key, flag if isinstance(flag, Flag) else Flag(flag), number)
            for number, (key, flag) in declared
            if key in wanted
        ]
        records = {
            key: flag.record(key, number, body)
            for key, flag, number in flags
            if flag.active and flag.runtime in {None, "all", request.runtime}
        }
        failed = self.errors_while_computing_flags or any(
            "failed" in record for record in records.values()
        )
        return Reply.of_json(self._envelope(failed, **in_version(request.query.get("v"), records)))

    def _envelope(self, failed: bool = False, **flags: object) -> dict[str, object]:
        return {
            "errorsWhileComputingFlags": failed,
            "requestId": str(uuid.uuid4()),
            "evaluatedAt": time.time_ns() // 1_000_000,
            "minimalFlagCalledEvents": self.minimal_flag_called_events,
            **flags,
        }

    def _define(self, request: Request) -> Reply:
        authorized = request.headers.get("Authorization") == f"Bearer {self.secret}"
        if not authorized or request.query.get("token") != self.token:
            return Status(401).document()
        reply = Reply.of_json(self.definitions)
        etag = f'W/"{hashlib.sha256(reply.body).hexdigest()[:32]}"'
        if request.headers.get("If-None-Match") == etag:
            return Reply(304, headers={"ETag": etag})
        return replace(reply, headers={**reply.headers, "ETag": etag})

    # What it saw

    def clear(self) -> None:
        """Forget what was recorded."""
        with self._changed:
            self._requests: list[Request] = []
            self._events: list[dict[str, Any]] = []
            self.connections_accepted = 0
            self.definitions_sent = 0  # the answers that PostHog bills
            self.definitions_not_modified = 0

    @property
    def requests(self) -> list[Request]:
        """Every request, in the order of arrival."""
        with self._changed:
            return list(self._requests)

    @property
    def flag_calls(self) -> list[dict[str, Any]]:
        """The bodies of the requests for an evaluation."""
        asked = ("POST", Endpoint.FLAGS)
        return [
            request.body for request in self.requests if (request.method, request.endpoint) == asked
        ]

    @property
    def definition_calls(self) -> list[Request]:
        """The requests for definitions."""
        return [request for request in self.requests if request.endpoint is Endpoint.DEFINITIONS]

    @property
    def events(self) -> list[dict[str, Any]]:
        """Every event taken in, whatever it was wrapped in."""
        with self._changed:
            return list(self._events)

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._listener.connections) if self._listener else 0

    def wait_until(self, fact: Callable[[], object], timeout: float = PATIENCE) -> None:
        """Return once a fact about this server holds, or raise TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(fact, timeout):
                raise TimeoutError(f"waited {timeout} s in vain: {self!r}")

    def wait_for_requests(self, count: int, timeout: float = PATIENCE) -> list[Request]:
        """Return the requests once there are this many."""
        self.wait_until(lambda: len(self.requests) >= count, timeout)
        return self.requests

    def wait_for_flag_calls(self, count: int, timeout: float = PATIENCE) -> list[dict[str, Any]]:
        """Return the bodies of the evaluations once there are this many."""
        self.wait_until(lambda: len(self.flag_calls) >= count, timeout)
        return self.flag_calls

    def wait_for_events(self, count: int, timeout: float = PATIENCE) -> list[dict[str, Any]]:
        """Return the events once there are this many."""
        self.wait_until(lambda: len(self.events) >= count, timeout)
        return self.events

    def __repr__(self) -> str:
        seen = (
            f"{len(self.requests)} requests, {len(self.events)} events, {self.in_flight} in flight"
        )
        return f"<{type(self).__name__} at {self.url}: {seen}>"

    # What its connections tell it

    def _meet_fault(self, endpoint: Endpoint | None) -> _Switch | None:
        names = ("fault", endpoint.value) if endpoint else ("fault",)
        with self._changed:
            for switch in filter(None, map(self._switches.get, names)):
                if switch.remaining and (endpoint or switch.fault.on_connect):
                    switch.remaining -= 1
                    return switch
        return None

    def _arrive(self, request: Request, reply: Reply | None) -> None:
        with self._changed:
            self._requests.append(request)
            self.in_flight += 1
            if reply:
                self._note(request, reply)
            self._changed.notify_all()

    def _note(self, request: Request, reply: Reply) -> None:
        with self._changed:
            match request.endpoint, reply.status:
                case Endpoint.DEFINITIONS, 200:
                    self.definitions_sent += 1
                case Endpoint.DEFINITIONS, 304:
                    self.definitions_not_modified += 1
                case Endpoint.EVENTS, 200:
                    body = request.body
                    self._events += body if isinstance(body, list) else body.get("batch", [body])
            self._changed.notify_all()

    def _depart(self) -> None:
        with self._changed:
            self.in_flight -= 1
            self._changed.notify_all()


class _Listener(socketserver.ThreadingTCPServer):
    """The port, and the connections that came through it."""

    allow_reuse_address = True
    block_on_close = False
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, posthog: PostHogServer) -> None:
        self.address_family = socket.AF_INET6 if ":" in posthog.host else socket.AF_INET
        super().__init__((posthog.host, posthog.port), _Exchange, bind_and_activate=False)
        self.posthog = posthog
        self.closing = False
        self.connections: dict[socket.socket, _Switch | None] = {}
        self.thread = threading.Thread(target=self.serve, name="posthog-server", daemon=True)
        try:
            self.server_bind()
        except OSError:
            self.server_close()
            raise
        posthog.port = self.server_address[1]

    def listen(self) -> None:
        """Accept connections, in a thread."""
        if not self.thread.is_alive():
            self.server_activate()
            self.thread.start()

    def serve(self) -> None:
        """Accept connections until it is time to hang up."""
        while not self.closing:
            self.handle_request()

    def hang_up(self) -> None:
        """Close the port, cut every connection and see it off."""
        changed = self.posthog._changed
        with changed:
            self.closing = True
            for connection in self.connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            changed.notify_all()
        if self.thread.is_alive():
            socket.create_connection(
                (self.posthog.host, self.posthog.port)
            ).close()  # wakes `serve`
            self.thread.join()
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)  # for forked children, who have it open too
        self.server_close()
        with changed:
            changed.wait_for(lambda: not self.connections, timeout=PATIENCE)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Note a connection, then serve it in a thread of its own."""
        with self.posthog._changed:
            if self.closing:
                super().shutdown_request(request)
                return
            self.posthog.connections_accepted += 1
            self.connections[request] = self.posthog._meet_fault(None)
            self.posthog._changed.notify_all()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close the connection, then forget it."""
        super().shutdown_request(request)
        with self.posthog._changed:
            self.connections.pop(request, None)
            self.posthog._changed.notify_all()

    def handle_error(self, request: Any, client_address: object) -> None:
        """Keep what went wrong for the test to see; a client that leaves early is no error."""
        error = sys.exception()
        if error and not isinstance(error, ConnectionError | ssl.SSLEOFError):
            self.posthog.errors.append(error)


class _Exchange(BaseHTTPRequestHandler):
    """A connection, and the request on it that is being answered."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Listener
    asked: Request
    switch: _Switch | None
    in_flight = False

    def handle(self) -> None:
        """Answer requests for as long as the connection lives."""
        self.switch = self.server.connections[self.connection]
        if self.switch:
            self.switch.fault.answer(self)
        else:
            super().handle()

    def answer(self) -> None:
        """Answer a request or let a fault do so; once it is on record, so is its effect."""
        posthog = self.server.posthog
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.asked = Request.parse(self.command, self.path, self.headers, body)
        self.switch = posthog._meet_fault(self.asked.endpoint)
        reply = None
        try:
            reply = None if self.switch else posthog._answer(self.asked)
        finally:
            posthog._arrive(self.asked, reply)
            self.in_flight = True
        if self.is_evaluation:
            self.wait_at_gate()
        if self.switch:
            self.switch.fault.answer(self)
        elif reply:
            self.reply(reply)
        self.depart()

    def finish(self) -> None:
        """Leave nothing in flight when the connection ends."""
        self.depart()
        super().finish()

    do_GET = do_POST = answer  # noqa: N815 (http.server looks for these names)

    def do_OPTIONS(self) -> None:
        """Let a browser ask from any page, as PostHog does. Not on record: it is no request."""
        self.asked = Request.parse(self.command, self.path, self.headers, b"")
        self.send(self.for_browsers(Reply(204)).head())

    def depart(self) -> None:
        if self.in_flight:
            self.in_flight = False
            self.server.posthog._depart()

    def wait_at_gate(self) -> None:
        posthog = self.server.posthog
        with posthog._changed:
            posthog._changed.wait_for(lambda: not posthog._gates or self.server.closing)

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    # What faults ask for: see posthog_faults.Exchange

    @property
    def is_evaluation(self) -> bool:
        return (self.asked.method, self.asked.endpoint) == ("POST", Endpoint.FLAGS)

    def healthy(self) -> Reply:
        reply = self.server.posthog._answer(self.asked)
        self.server.posthog._note(self.asked, reply)
        return reply

    def reply(self, reply: Reply) -> None:
        self.depart()  # first, so that a client with an answer is no longer in flight
        self.send(self.for_browsers(reply).head() + reply.body)

    def for_browsers(self, reply: Reply) -> Reply:
        """The reply, readable by the page that asked for it."""
        origin = self.headers.get("Origin")
        if not origin:
            return reply
        allowed = {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Headers": "Content-Type",
            "Access-Control-Allow-Credentials": "true",
        }
        return replace(reply, headers={**reply.headers, **allowed})

    def send(self, data: bytes) -> None:
        self.wfile.write(data)

    def wait(self, seconds: float | None = None) -> bool:
        changed = self.server.posthog._changed
        with changed:
            return not changed.wait_for(self.is_over, seconds)

    def is_over(self) -> bool:
        return self.server.closing or not self.switch or self.switch.lifted

    def close(self) -> None:
        self.close_connection = True

    def reset(self) -> None:
        self.close()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()  # it holds the socket open
        self.connection.close()

    def drop_packets(self) -> None:
        drop_all = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))  # BPF: return 0
        program = struct.pack("HL", 1, ctypes.addressof(drop_all))
        self.connection.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description="A stand-in PostHog on loopback.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument(
        "--flags", type=Path, help="a JSON file of keys and values: on, off or a variant"
    )
    parser.add_argument(
        "--definitions", type=Path, help="a JSON file as /flags/definitions sends it"
    )
    options = parser.parse_args()
    with PostHogServer(options.port) as server, suppress(KeyboardInterrupt):
        if options.flags:
            server.flags = json.loads(options.flags.read_text())
        if options.definitions:
            server.definitions = json.loads(options.definitions.read_text())
        sys.stdout.write(
            f"{server.url}\n\n"
            "A stand-in PostHog listens here. From another terminal:\n"
            f"  POSTHOG_PROJECT_API_KEY={server.token} POSTHOG_API_HOST={server.url} make run\n"
            f"With POSTHOG_PERSONAL_API_KEY={server.secret} too, flags are evaluated locally.\n"
            "End it with Ctrl-C to see an outage.\n"
        )
        sys.stdout.flush()
        threading.Event().wait()


if __name__ == "__main__":
    main()
