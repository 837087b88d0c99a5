"""A memcached for tests: its text protocol and its limit on the size of an entry.

MEMCACHED_PATH names a real one, which is then run in its place.
"""

from __future__ import annotations

import os
import socket
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.core.cache.backends.base import DEFAULT_TIMEOUT
from django.core.cache.backends.memcached import PyMemcacheCache

from tests.site.processes import PATIENCE, until

MIB = 2**20
OVERHEAD_BYTES = 60
"""What memcached adds to key and value, about."""


class Raising(PyMemcacheCache):
    """Django's backend: pymemcache raises when memcached refuses a value."""

    instances: list[PyMemcacheCache] = []
    """Those of all threads, whose connections the test closes."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.instances.append(self)


class Reporting(Raising):
    """A client that reports a refused value by returning False, as others do."""

    def __init__(self, server: str, params: dict[str, Any]) -> None:
        super().__init__(server, {**params, "OPTIONS": {"ignore_exc": True}})


class Silent(Raising):
    """A client that does not wait for memcached's reply when it sets a value."""

    def set(
        self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: Any = None
    ) -> None:
        client: Any = self._cache  # type: ignore[attr-defined]  # untyped in Django
        name = self.make_and_validate_key(key, version=version)
        client.set(name, value, self.get_backend_timeout(timeout), noreply=True)
        client.get(name)  # by now memcached has stored or refused it: other connections agree


class _Handler(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        while line := self.rfile.readline():
            command, *arguments = line.decode().split()
            reply = getattr(self, f"do_{command}")(*arguments)
            if arguments[-1:] != ["noreply"]:
                self.wfile.write(reply)

    def do_get(self, *keys: str) -> bytes:
        found = [(key, self.server.entries.get(key)) for key in keys]
        values = [
            b"VALUE %s %s %d\r\n%s\r\n" % (key.encode(), flags, len(value), value)
            for key, (flags, value) in ((key, one) for key, one in found if one)
        ]
        return b"".join(values) + b"END\r\n"

    def do_set(self, key: str, flags: str, _: str, size: str, *__: str) -> bytes:
        value = self.rfile.read(int(size) + 2)[:-2]
        if len(key) + len(value) + OVERHEAD_BYTES > self.server.limit:
            self.server.entries.pop(key, None)
            return b"SERVER_ERROR object too large for cache\r\n"
        self.server.entries[key] = flags.encode(), value
        return b"STORED\r\n"

    def do_add(self, key: str, *arguments: str) -> bytes:
        if key not in self.server.entries:
            return self.do_set(key, *arguments)
        self.rfile.read(int(arguments[2]) + 2)
        return b"NOT_STORED\r\n"

    def do_delete(self, key: str, *_: str) -> bytes:
        return b"DELETED\r\n" if self.server.entries.pop(key, None) else b"NOT_FOUND\r\n"

    def do_flush_all(self, *_: str) -> bytes:
        self.server.entries.clear()
        return b"OK\r\n"


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, limit: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.limit = limit
        self.entries: dict[str, tuple[bytes, bytes]] = {}


@contextmanager
def memcached(limit: int, client: type[Raising] = Raising) -> Iterator[dict[str, Any]]:
    """Run a memcached that accepts entries of at most `limit` bytes; yield it for CACHES."""
    path = os.environ.get("MEMCACHED_PATH")
    with _real(path, limit) if path else _stand_in(limit) as location:
        yield {"BACKEND": f"{__name__}.{client.__name__}", "LOCATION": location}
        while Raising.instances:
            Raising.instances.pop().close()


@contextmanager
def _stand_in(limit: int) -> Iterator[str]:
    with _Server(limit) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join(PATIENCE)


@contextmanager
def _real(path: str, limit: int) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    sizes = ["-I", str(limit), "-o", "slab_chunk_max=16384"]
    with subprocess.Popen(
        [path, "-l", "127.0.0.1", "-p", str(port), "-u", "nobody", *sizes]
    ) as process:

        def is_ready() -> bool:
            with socket.socket() as connection:
                return connection.connect_ex(("127.0.0.1", port)) == 0

        until(is_ready)
        yield f"127.0.0.1:{port}"
        process.terminate()
