"""An HTTP proxy that tunnels TLS, and can trickle its reply to CONNECT."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import suppress
from typing import Self


class Proxy:
    """A proxy on a port of this machine. Its tunnels all lead to `target`."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.reply = b"HTTP/1.1 200 OK\r\n\r\n"
        self.tls: ssl.SSLContext | None = None
        """What the proxy itself speaks TLS with."""
        self.repeated = b""
        """Sent in place of a tunnel for as long as the client reads."""
        self.heads: list[bytes] = []
        self.ended = threading.Event()
        """Set when a client has gone that was sent `repeated`."""
        self._closing = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        while not self._closing.is_set():
            with suppress(OSError):
                client, _ = self._listener.accept()
                threading.Thread(target=self._tunnel, args=[client], daemon=True).start()

    def _tunnel(self, client: socket.socket) -> None:
        with suppress(OSError):
            self._serve_client(
                self.tls.wrap_socket(client, server_side=True) if self.tls else client
            )

    def _serve_client(self, client: socket.socket) -> None:
        with client:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += client.recv(1)
            self.heads.append(head)
            client.sendall(self.reply)
            if self.repeated:
                self._repeat(client)
                return
            with socket.create_connection(("127.0.0.1", self.target)) as server:
                back = threading.Thread(target=_relay, args=[server, client], daemon=True)
                back.start()
                _relay(client, server)
                back.join()

    def _repeat(self, client: socket.socket) -> None:
        try:
            while not self._closing.wait(0.01):
                client.sendall(self.repeated)
        finally:
            self.ended.set()


def _relay(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(2**16):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
