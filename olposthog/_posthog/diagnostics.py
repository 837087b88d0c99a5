"""The way to PostHog, one stage after the other, so that an operator sees which one fails."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import requests
from requests.utils import DEFAULT_CA_BUNDLE_PATH, select_proxy
from urllib3.util.ssl_ import create_urllib3_context

from olposthog.conf import without_credentials

from .errors import PostHogError

PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Address:
    """An address of PostHog's, as the name lookup found it."""

    family: int
    sockaddr: Any
    """What `socket.connect` takes."""


@dataclass(frozen=True, slots=True)
class Way:
    """Where a session's requests go. Its stages raise `PostHogError` with a hint."""

    host: str
    port: int
    tls: bool
    proxy: str | None
    """The proxy in between, without its credentials: the stages are then its business."""
    authorities: str
    """The file or folder of certificate authorities that are trusted."""

    @classmethod
    def of(cls, url: str, session: requests.Session) -> Self:
        """Return the way of `session` to `url`."""
        parts = urlsplit(url)
        proxy = select_proxy(url, session.proxies)
        return cls(
            host=parts.hostname or "",
            port=parts.port or PORTS[parts.scheme],
            tls=parts.scheme == "https",
            proxy=proxy and without_credentials(proxy),
            authorities=session.verify
            if isinstance(session.verify, str)
            else DEFAULT_CA_BUNDLE_PATH,
        )

    def look_up(self) -> list[Address]:
        """Return the addresses of the host. The system's resolver knows no deadline."""
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise PostHogError(
                f"{self.host} cannot be found ({_reason(error)})",
                hint="Check POSTHOG_API_HOST, and the name servers of this machine.",
            ) from error
        return [Address(family, sockaddr) for family, _, _, _, sockaddr in found]

    def connect(self, addresses: Sequence[Address], seconds: float) -> socket.socket:
        """Return a connection to the first address that takes one, each being given `seconds`."""
        failure: OSError | None = None
        for address in addresses:
            connection = socket.socket(address.family, socket.SOCK_STREAM)
            connection.settimeout(seconds)
            try:
                connection.connect(address.sockaddr)
            except OSError as error:
                connection.close()
                failure = error
            else:
                return connection
        raise PostHogError(
            _reason(failure),
            hint=f"Does a server listen at port {self.port} of {self.host}, and does a firewall "
            "let this machine reach it? Check POSTHOG_API_HOST.",
        ) from failure

    def shake_hands(self, connection: socket.socket) -> str:
        """Return the version of TLS that was agreed on, the certificate having been judged."""
        context = create_urllib3_context()
        try:
            if Path(self.authorities).is_dir():
                context.load_verify_locations(capath=self.authorities)
            else:
                context.load_verify_locations(self.authorities)
        except OSError as error:
            raise PostHogError(
                f"no certificate authorities can be read from {self.authorities}",
                hint="Mend REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE in the environment.",
            ) from error
        try:
            with context.wrap_socket(connection, server_hostname=self.host) as secured:
                return secured.version() or "TLS"
        except ssl.SSLCertVerificationError as error:
            raise PostHogError(
                f"the certificate is not trusted ({error.verify_message})",
                hint="Where a proxy of your own inspects TLS, name the file of its authority in "
                "REQUESTS_CA_BUNDLE.",
            ) from error
        except OSError as error:
            raise PostHogError(
                f"TLS fails ({_reason(error)})",
                hint="Does the port of POSTHOG_API_HOST speak https?",
            ) from error


def _reason(error: BaseException | None) -> str:
    match error:
        case TimeoutError():
            return "timeout"
        case ConnectionRefusedError():
            return "connection refused"
        case ssl.SSLError(reason=str(reason)):
            return reason
        case OSError(strerror=str(reason)):
            return reason
    return str(error)
