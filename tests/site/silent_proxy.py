"""A TCP proxy that fails: it drops all that arrives, cuts replies, or accepts and never answers."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Self


class SilentProxy:
    """Forwards connections to a port of this machine, until they fall silent or are cut."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._silence = threading.Event()  # of the connections that begin from now on
        self._cuts = False
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def hang_up(self) -> None:
        """End all connections, so that whoever waits for them goes on."""
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def go_silent(self) -> None:
        """Drop all that arrives, for the connections that are open now for good."""
        self._silence.set()

    def cut_replies(self) -> None:
        """Close each connection that begins from now on in the middle of its second reply."""
        self._cuts = True

    def end(self) -> None:
        """Forward the connections that begin from now on."""
        self._silence = threading.Event()
        self._cuts = False

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            self._sockets += [client, server]
            forward = self._cut if self._cuts else self._forward
            for work, ends in ((self._forward, (client, server)), (forward, (server, client))):
                threading.Thread(target=work, args=(*ends, self._silence), daemon=True).start()

    @staticmethod
    def _forward(source: socket.socket, target: socket.socket, silence: threading.Event) -> None:
        try:
            while content := source.recv(65536):
                if not silence.is_set():
                    target.sendall(content)
            if not silence.is_set():
                target.shutdown(socket.SHUT_WR)
        except OSError:
            return

    @staticmethod
    def _cut(source: socket.socket, target: socket.socket, silence: threading.Event) -> None:
        with suppress(OSError):
            target.sendall(source.recv(65536))  # PostgreSQL's greeting
            content = source.recv(65536)
            target.sendall(content[: len(content) // 2])
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
