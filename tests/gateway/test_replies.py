"""Replies of any size, encoding and form: what is read of them, and what is kept."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import zlib
from collections.abc import Callable, Iterator

import pytest

from olposthog._posthog.api import MAX_BODY_BYTES
from tests.gateway.asking import Clock, asking, defining, failure
from tests.posthog_faults import Body, Encoded, Fault, HeaderLines, Raw, Status
from tests.posthog_server import PostHogServer

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
ZEROS = bytes(2**20)
OTHER_ENCODING = "a reply in an encoding other than gzip"
MALFORMED = "a reply with malformed gzip"
NOT_JSON = "a reply that is not JSON"
MAX_PEAK_BYTES = 6 * MAX_BODY_BYTES
"""The body as received, joined, decoded and parsed, and what the stand-in has of it."""
TOO_LARGE = "a reply of more than 4 MiB"


def gzipped_zeros(mebibytes: int) -> bytes:
    """Return the gzip of so many MiB of zeros."""
    member = zlib.compressobj(9, wbits=31)
    return b"".join(member.compress(ZEROS) for _ in range(mebibytes)) + member.flush()


BOMB = gzipped_zeros(256)
TWICE = gzip.compress(BOMB)
"""About 1 kB for 256 MiB."""


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def peak() -> Iterator[Callable[[], int]]:
    """Return the most bytes that Python had allocated since the test began."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


# ---- encodings


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [
        ("gzip", gzip.compress),
        ("GZIP", gzip.compress),
        ("x-gzip", gzip.compress),
        (" gzip ", gzip.compress),
        ("identity", bytes),
        ("", bytes),
    ],
)
def test_gzip_is_decoded(
    posthog: PostHogServer, clock: Clock, encoding: str, encode: Callable[[bytes], bytes]
) -> None:
    """Flags and definitions arrive as they are or with gzip, and nothing else is accepted."""
    posthog.flags = {"beta": True}
    posthog.fault = Encoded(encoding, encode)

    evaluation = asking(posthog, clock)()
    definitions = defining(posthog, clock)().text

    assert evaluation.decisions["beta"].value is True
    assert json.loads(definitions or "") == posthog.definitions
    assert {one.headers["Accept-Encoding"] for one in posthog.requests} == {"gzip"}


ENCODED = {
    "bomb": ("gzip", BOMB, TOO_LARGE),
    "one byte too many": ("gzip", gzip.compress(bytes(MAX_BODY_BYTES + 1)), TOO_LARGE),
    "just fits": ("gzip", gzip.compress(bytes(MAX_BODY_BYTES)), NOT_JSON),
    "twice, told once": ("gzip", TWICE, NOT_JSON),
    "twice": ("gzip, gzip", TWICE, OTHER_ENCODING),
    "hundred times": (", ".join(["gzip"] * 100), TWICE, OTHER_ENCODING),
    "identity and gzip": ("identity, gzip", BOMB, OTHER_ENCODING),
    "two headers": ("gzip\r\nContent-Encoding: gzip", TWICE, OTHER_ENCODING),
    "deflate": ("deflate", zlib.compress(b"{}"), OTHER_ENCODING),
    "brotli": ("br", b"\x0b\x02\x80{}\x03", OTHER_ENCODING),
    "zstd": ("zstd", b"\x28\xb5\x2f\xfd", OTHER_ENCODING),
    "compress": ("compress", b"{}", OTHER_ENCODING),
    "control characters": ("\x1b[31mred", b"{}", OTHER_ENCODING),
    "empty": ("gzip", b"", MALFORMED),
    "not gzip": ("gzip", b"{}", MALFORMED),
    "cut short": ("gzip", gzip.compress(b"{}")[:-9], MALFORMED),
    "trailing data": ("gzip", gzip.compress(b"{}") + b"x", MALFORMED),
    "150,000 members": ("gzip", gzip.compress(b"") * 150_000, MALFORMED),
}


@pytest.mark.parametrize("case", ENCODED)
def test_encoded_reply_is_bounded(
    posthog: PostHogServer, clock: Clock, peak: Callable[[], int], case: str
) -> None:
    """Whatever a reply decodes to, it costs a bounded number of bytes and a fixed reason."""
    encoding, content, reason = ENCODED[case]
    posthog.fault = Encoded(encoding, content=content)

    assert str(failure(asking(posthog, clock))) == reason
    if reason is not NOT_JSON:
        assert str(failure(defining(posthog, clock))) == reason
    assert peak() < MAX_PEAK_BYTES
    assert len(posthog.flag_calls) == 1


def test_error_body_is_never_decoded(
    posthog: PostHogServer, clock: Clock, peak: Callable[[], int]
) -> None:
    """The body of an error is not needed, so it is not decoded either."""
    posthog.fault = Status(500, body="not gzip", headers={"Content-Encoding": "gzip"})

    assert str(failure(asking(posthog, clock))) == "HTTP 500"
    assert peak() < MAX_BODY_BYTES


# ---- lengths


def chunk(data: bytes) -> bytes:
    """Return one chunk of a chunked reply."""
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        pytest.param(Raw(OK + b"\r\n", repeated=ZEROS), TOO_LARGE, id="no end"),
        pytest.param(
            Raw(OK + b"Content-Length: 99999999999\r\n\r\n", repeated=ZEROS), TOO_LARGE, id="long"
        ),
        pytest.param(Raw(CHUNKED, repeated=chunk(ZEROS)), TOO_LARGE, id="chunks"),
        pytest.param(Raw(CHUNKED + b"fffffffffff\r\n", repeated=ZEROS), TOO_LARGE, id="one chunk"),
        pytest.param(Raw(CHUNKED + b"-5\r\n", repeated=ZEROS), TOO_LARGE, id="negative chunk"),
        pytest.param(Raw(CHUNKED + b"zz\r\n{}"), "connection failed", id="chunk without size"),
        pytest.param(Raw(CHUNKED + b"9" * 70_000), "connection failed", id="long chunk size"),
        pytest.param(Raw(CHUNKED + b"2\r\n{}"), "connection failed", id="chunks cut short"),
        pytest.param(
            Raw(CHUNKED + chunk(b"{}") + b"0\r\nX: " + b"x" * 70_000),
            "connection failed",
            id="long trailer",
        ),
        pytest.param(Body(b"{}", content_length=9), "connection failed", id="too short a body"),
        pytest.param(Raw(OK + b"Content-Length: x\r\n\r\n{"), NOT_JSON, id="length is no number"),
        pytest.param(Raw(OK + b"Content-Length: -1\r\n\r\n{"), NOT_JSON, id="negative length"),
        pytest.param(
            Raw(OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}"),
            "connection failed",
            id="two lengths",
        ),
        pytest.param(
            Raw(OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + chunk(BOMB)[:1000]),
            NOT_JSON,
            id="transfer encoding",
        ),
        pytest.param(Raw(OK + b"X: y\r\n" * 101 + b"\r\n{"), "connection failed", id="101 headers"),
        pytest.param(
            Raw(OK + b"X: " + b"x" * 70_000 + b"\r\n\r\n{"), "connection failed", id="long header"
        ),
        pytest.param(Raw(b"HTTP/1.1 200 " + b"x" * 70_000), "connection failed", id="long status"),
        pytest.param(Raw(b"\x1b[31m" * 1000), "connection failed", id="no status line"),
        pytest.param(Raw(b"HTTP/1.1 -1 x\r\n\r\n"), "connection failed", id="negative status"),
        pytest.param(Raw(b"HTTP/1.1 999 \x1b\r\n\r\n"), "HTTP 999", id="unknown status"),
    ],
)
def test_malformed_reply_is_bounded(
    posthog: PostHogServer, clock: Clock, peak: Callable[[], int], fault: Fault, reason: str
) -> None:
    """Whatever lengths and headers a reply claims, it costs bounded bytes and a fixed reason."""
    posthog.fault = fault

    assert str(failure(asking(posthog, clock, max_retries=0))) == reason
    if reason is not NOT_JSON:
        assert str(failure(defining(posthog, clock))) == reason
    assert peak() < MAX_PEAK_BYTES
    posthog.heal()
    posthog.wait_until(lambda: not posthog.connections)


def test_rest_of_a_reply_is_not_the_next_reply(posthog: PostHogServer, clock: Clock) -> None:
    """A reply longer than its Content-Length does not become the answer for another person."""
    ask = asking(posthog, clock)
    forged = b'{"flags":{"forged":{"key":"forged","value":true}},"requestId":"r"}'
    rest = OK + f"Content-Length: {len(forged)}\r\n\r\n".encode() + forged
    posthog.flags = {"beta": True}
    posthog.fault = Raw(OK + b"Content-Length: 2\r\n\r\n{}" + rest, closes=False, times=1)

    assert str(failure(ask)) == "a reply that is not flags"
    assert set(ask().decisions) == {"beta"}


# ---- headers


MANY_COOKIES = b"".join(b"Set-Cookie: c%d=v; Path=/\r\n" % number for number in range(60))


@pytest.mark.parametrize(
    "lines",
    [
        b"Set-Cookie: session=secret; Path=/; Max-Age=9999999\r\n",
        b"Set-Cookie: a=b; Domain=127.0.0.1\r\n",
        b"Set-Cookie2: a=b; Version=1\r\n",
        MANY_COOKIES,
        b"Set-Cookie: big=" + b"x" * 60_000 + b"\r\n",
    ],
    ids=["session", "domain", "old", "many", "big"],
)
def test_cookies_are_never_kept(posthog: PostHogServer, clock: Clock, lines: bytes) -> None:
    """No request carries what a reply to another request has set, however many there were."""
    ask = asking(posthog, clock)
    posthog.fault = HeaderLines(lines)

    for _ in range(130):
        ask()

    assert len(posthog.flag_calls) == 130
    assert not [one for one in posthog.requests if "Cookie" in one.headers]
    assert posthog.connections == 1


@pytest.mark.parametrize(
    "etag",
    [
        b'"' + b"x" * 300 + b'"',
        b'"\xe4"',
        b'"a\x1b[31m"',
        b"",
    ],
)
def test_etag_that_cannot_be_sent_back_is_dropped(
    posthog: PostHogServer, clock: Clock, etag: bytes
) -> None:
    """An odd ETag costs the next fetch its saving, and never fails it."""
    fetch = defining(posthog, clock)
    body = b'{"flags":[]}'
    head = OK + b"ETag: " + etag + b"\r\nContent-Length: %d\r\n\r\n" % len(body)
    posthog.fault = Raw(head + body, closes=False)

    fetched = fetch()

    assert (fetched.text, fetched.etag) == ('{"flags":[]}', None)
    assert fetch(fetched.etag).text


@pytest.mark.parametrize(
    "lines",
    [b"no header\r\n", b"\x1b[31mred: x\r\n", b": empty\r\n", b"Content-Type: multipart/x\r\n"],
)
def test_malformed_headers_are_not_logged(
    posthog: PostHogServer, clock: Clock, caplog: pytest.LogCaptureFixture, lines: bytes
) -> None:
    """urllib3's warning of malformed headers would quote them, and the key in the address."""
    posthog.fault = Raw(OK + lines + b'Connection: close\r\n\r\n{"flags":[]}')

    assert defining(posthog, clock)().text

    assert [record for record in caplog.records if record.levelname != "DEBUG"] == []
