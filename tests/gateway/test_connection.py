"""The way to PostHog: each stage alone, what it finds, and what its failure says."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from olposthog import conf
from olposthog._posthog import PostHogApi, Way
from olposthog._posthog.diagnostics import Address
from olposthog._posthog.errors import PostHogError
from tests.gateway.tls import CERTIFICATE, secure
from tests.posthog_faults import HalfOpen
from tests.posthog_server import PATIENCE, PostHogServer


def way_to(url: str) -> Way:
    """The way of a gateway whose POSTHOG_API_HOST is `url`."""
    settings = conf.Settings(enabled=True, project_api_key="phc_test", api_host=url)
    return PostHogApi(settings, connections=1).way


@pytest.fixture(autouse=True)
def _no_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy and no certificates of the machine that runs the tests."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port of this machine at which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


# Where requests go


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://eu.i.posthog.com", ("eu.i.posthog.com", 443, True)),
        ("http://127.0.0.1:8765", ("127.0.0.1", 8765, False)),
        ("http://posthog.example.com/path", ("posthog.example.com", 80, False)),
        ("https://us.posthog.com", ("us.i.posthog.com", 443, True)),
    ],
)
def test_way_is_that_of_the_requests(url: str, expected: tuple[str, int, bool]) -> None:
    """Host, port and TLS are those of the address that is asked in the end, the SDK's."""
    way = way_to(url)

    assert (way.host, way.port, way.tls) == expected
    assert way.proxy is None


@pytest.mark.parametrize(
    "proxy",
    [
        "http://user:secret@proxy:3128",
        "user:secret@proxy:3128",
        "http://u:p@s@proxy:3128/",
        "http://user:sec/ret@proxy:3128",
    ],
)
def test_proxy_is_shown_without_its_password(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    """The environment's proxy is in the way, and its credentials are nobody's business."""
    monkeypatch.setenv("HTTPS_PROXY", proxy)

    found = way_to("https://eu.i.posthog.com").proxy
    assert found is not None
    assert found.removeprefix("http://").removesuffix("/") == "proxy:3128"


def test_proxy_that_does_not_apply_is_not_in_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_PROXY and the scheme decide, as they do for requests."""
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    assert way_to("http://posthog.example.com").proxy is None

    monkeypatch.setenv("NO_PROXY", ".example.com")
    assert way_to("https://posthog.example.com").proxy is None


# Name lookup


def test_lookup_finds_addresses(posthog: PostHogServer) -> None:
    """An address in numbers is its own answer."""
    assert way_to(posthog.url).look_up() == [Address(socket.AF_INET, ("127.0.0.1", posthog.port))]


@pytest.mark.parametrize("host", ["nowhere.invalid", "a" * 64 + ".invalid"])
def test_unknown_host_is_named(host: str) -> None:
    """The error names the host, and the setting it comes from."""
    with pytest.raises(PostHogError, match=f"^{host} cannot be found") as caught:
        way_to(f"https://{host}").look_up()

    assert "POSTHOG_API_HOST" in caught.value.hint


# Connection


def test_connection_is_made(posthog: PostHogServer) -> None:
    """A listening port takes the connection."""
    way = way_to(posthog.url)
    with way.connect(way.look_up(), PATIENCE) as connection:
        assert connection.getpeername() == ("127.0.0.1", posthog.port)


def test_every_address_is_tried(posthog: PostHogServer, closed_port: int) -> None:
    """An address that refuses, as IPv6 without a route does, is not the last word."""
    addresses = [
        Address(socket.AF_INET, ("127.0.0.1", closed_port)),
        Address(socket.AF_INET, ("127.0.0.1", posthog.port)),
    ]
    with way_to(posthog.url).connect(addresses, PATIENCE) as connection:
        assert connection.getpeername()[1] == posthog.port


def test_refused_connection_says_where(closed_port: int) -> None:
    """The hint names port and host."""
    way = way_to(f"http://127.0.0.1:{closed_port}")
    with pytest.raises(PostHogError, match=r"^connection refused$") as caught:
        way.connect(way.look_up(), PATIENCE)

    assert f"port {closed_port} of 127.0.0.1" in caught.value.hint


def test_connection_has_a_timeout() -> None:
    """A host that drops what is sent to it costs the given time, and no more."""
    with ExitStack() as connections:
        listener = connections.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        way = way_to(f"http://127.0.0.1:{listener.getsockname()[1]}")

        def fill_backlog() -> None:
            for _ in range(10):  # a full one drops whoever comes next
                connections.enter_context(way.connect(way.look_up(), 0.05))

        with pytest.raises(PostHogError, match=r"^timeout$"):
            fill_backlog()


# TLS


def shake_hands(way: Way, addresses: list[Address] | None = None, seconds: float = PATIENCE) -> str:
    """Go all the way, and leave no connection behind."""
    with way.connect(addresses or way.look_up(), seconds) as connection:
        return way.shake_hands(connection)


def test_trusted_certificate_is_taken(
    posthog: PostHogServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """REQUESTS_CA_BUNDLE names whom to trust, for the check as for the requests."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(CERTIFICATE))
    way = way_to(secure(posthog))

    assert shake_hands(way).startswith("TLSv1.")


def test_unknown_certificate_is_refused(posthog: PostHogServer) -> None:
    """A certificate of nobody's is named as the cause, with the variable that mends it."""
    way = way_to(secure(posthog))
    with pytest.raises(PostHogError, match=r"certificate is not trusted.*self.signed") as caught:
        shake_hands(way)

    assert "REQUESTS_CA_BUNDLE" in caught.value.hint


def test_certificate_of_another_host_is_refused(
    posthog: PostHogServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trusted certificate must also be for the host that was asked for."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(CERTIFICATE))
    secure(posthog)
    way = way_to(f"https://localhost.example.com:{posthog.port}")
    address = Address(socket.AF_INET, ("127.0.0.1", posthog.port))

    with pytest.raises(PostHogError, match=r"certificate is not trusted.*mismatch"):
        shake_hands(way, [address])


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_authorities_that_cannot_be_read(
    posthog: PostHogServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None
) -> None:
    """A bundle that is missing or broken is the environment's fault, and named."""
    bundle = tmp_path / "bundle.pem"
    if content:
        bundle.write_text(content)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    way = way_to(secure(posthog))

    with pytest.raises(PostHogError, match=f"authorities can be read from {bundle}") as caught:
        shake_hands(way)
    assert "REQUESTS_CA_BUNDLE" in caught.value.hint


def test_authorities_may_be_a_folder(
    posthog: PostHogServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A folder is one of certificates by their hashes: an empty one trusts nobody."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path))
    way = way_to(secure(posthog))

    with pytest.raises(PostHogError, match="certificate is not trusted"):
        shake_hands(way)


def test_port_without_tls_is_told(posthog: PostHogServer) -> None:
    """A server that speaks http where https is wanted is no question of certificates."""
    way = way_to(f"https://127.0.0.1:{posthog.port}")
    with pytest.raises(PostHogError, match=r"^TLS fails") as caught:
        shake_hands(way)

    assert "speak https" in caught.value.hint


def test_handshake_that_hangs_ends(posthog: PostHogServer) -> None:
    """A server that accepts and says nothing costs the connection's timeout."""
    posthog.fault = HalfOpen()
    way = way_to(f"https://127.0.0.1:{posthog.port}")

    with pytest.raises(PostHogError, match=r"^TLS fails \(timeout\)$"):
        shake_hands(way, seconds=0.1)
