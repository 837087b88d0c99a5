"""TLS for the stand-in PostHog, with a certificate that nobody trusts unless told to."""

from __future__ import annotations

import ssl
from pathlib import Path

from tests.posthog_server import PostHogServer

CERTIFICATE = Path(__file__).with_name("localhost.pem")
"""For 127.0.0.1, until the year 2120. Its key is in the same file, so it protects nothing."""


def server_context() -> ssl.SSLContext:
    """Return what a server with the certificate speaks TLS with."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


def secure(posthog: PostHogServer) -> str:
    """Have the stand-in speak TLS, and return its address. It has taken no connection yet."""
    assert posthog._listener
    posthog._listener.socket = server_context().wrap_socket(
        posthog._listener.socket, server_side=True
    )
    return f"https://127.0.0.1:{posthog.port}"
