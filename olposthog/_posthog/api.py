"""PostHog over HTTP: evaluations and flag definitions, each request with a deadline."""

from __future__ import annotations

import math
import random
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import posthog.request
import requests
from urllib3.exceptions import HTTPError, ReadTimeoutError

from olposthog import conf
from olposthog._evaluation.evaluation import Evaluation
from olposthog._utils.jitter import jittered
from olposthog.identity import Identity, plain
from olposthog.snapshot import Runtime

from .diagnostics import Way
from .errors import OVER_QUOTA, PostHogError
from .responses import parse
from .transport import Attempt, Call, find_cause, making, new_session

FLAGS_PATH = "/flags/?v=4"
DEFINITIONS_PATH = "/flags/definitions"
BACKOFF_SECONDS = 0.3
"""Maximum pause before the first retry. It doubles with each; half of it is random."""
MAX_BODY_BYTES = 4 * 2**20
"""The most that is read of a reply, and the most that it may decode to."""
MAX_ETAG_CHARACTERS = 256
MAX_IDLE_SECONDS = 60.0
"""The time after which an idle connection is not used again. A NAT may have dropped it silently."""
RETRIED_STATUSES = frozenset({502, 504})
CALLERS_FAULT_STATUSES = frozenset({400, 413})
REDIRECTS = frozenset({301, 302, 303, 307, 308})
HINTS = {
    402: OVER_QUOTA,
    401: "Check the key, and whether POSTHOG_API_HOST is the key's region.",
    403: "Check the key, and what it may read.",
    404: "Check POSTHOG_API_HOST: is it PostHog's address, without a path?",
    429: "PostHog limits how often it is asked: look for who asks so often with the project's key.",
}
"""What may mend a refusal, by its status."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What PostHog's definitions endpoint sent."""

    text: str | None
    """The definitions as JSON; None when they are those of the ETag that was asked with."""
    etag: str | None


class PostHogApi:
    """One project's PostHog."""

    def __init__(
        self,
        settings: conf.Settings,
        *,
        connections: int,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._wall = wall
        self._sleep = sleep
        self._chance = chance
        self._host = posthog.request.determine_server_host(settings.api_host)
        self._stale_at = -math.inf
        self._session = new_session(self._host, connections)

    @property
    def way(self) -> Way:
        """The way that its requests take."""
        return Way.of(self._host, self._session)

    def fetch(
        self,
        identity: Identity,
        person_properties: Mapping[str, Any],
        runtime: Runtime,
        *,
        deadline: float,
        may_retry: Callable[[], bool],
        call: Call | None = None,
        needs_new_connection: bool = False,
    ) -> Evaluation:
        """Return the flags of a person in a runtime, as PostHog evaluates them.

        Retry POSTHOG_MAX_RETRIES times, while `deadline` (on the clock) and `may_retry()` allow it.
        The timeout is for each socket operation, so headers that trickle can outlast the deadline:
        abort `call` from another thread then. `needs_new_connection` uses no pooled connection.
        Raise `PostHogError`.
        """
        call = call or Call()
        body = _body(identity, person_properties, runtime)
        for attempt in range(self._settings.max_retries + 1):
            try:
                content = self._post(body, deadline, call, needs_new_connection)
                return parse(content, self._wall())
            except PostHogError as error:
                pause = jittered(BACKOFF_SECONDS * 2**attempt, self._chance)
                if (
                    not error.transient
                    or attempt == self._settings.max_retries
                    or self._clock() + pause >= deadline
                ):
                    raise
                self._sleep(pause)
                if not may_retry():
                    raise
        raise AssertionError  # pragma: no cover  # the last attempt returns or raises

    def fetch_definitions(
        self, etag: str | None, *, deadline: float, call: Call | None = None
    ) -> Fetched:
        """Return the flag definitions, without a retry. Raise `PostHogError`.

        PostHog bills this as ten requests, unless they still have the ETag `etag`. Headers that
        trickle can outlast `deadline`: abort `call` from another thread then.
        """
        token = quote(self._settings.project_api_key, safe="")
        headers = {
            "Authorization": f"Bearer {self._settings.personal_api_key}",
            "User-Agent": posthog.request.USER_AGENT,
        }
        if etag:
            headers["If-None-Match"] = etag
        reply = self._exchange(
            lambda timeout: self._session.get(
                f"{self._host}{DEFINITIONS_PATH}?token={token}&send_cohorts",
                headers=headers,
                timeout=timeout,
            ),
            deadline,
            call or Call(),
        )
        if reply.status == requests.codes.not_modified and etag:
            return Fetched(None, etag)
        return Fetched(_content(reply).decode(errors="replace"), reply.etag)

    def _post(
        self, body: dict[str, Any], deadline: float, call: Call, needs_new_connection: bool
    ) -> bytes:
        return _content(
            self._exchange(
                lambda timeout: posthog.request.post(
                    self._settings.project_api_key,
                    self._host,
                    FLAGS_PATH,
                    timeout=timeout,
                    session=self._session,
                    **body,
                ),
                deadline,
                call,
                needs_new_connection,
            )
        )

    def _exchange(
        self,
        send: Callable[[float], requests.Response],
        deadline: float,
        call: Call,
        needs_new_connection: bool = False,
    ) -> _Reply:
        """Send a request; if its pooled connection is stale, send it again on a new one."""
        now = self._clock()
        used_since = (
            math.inf if needs_new_connection else max(now - MAX_IDLE_SECONDS, self._stale_at)
        )
        try:
            return self._send(send, deadline, Attempt(call, self._clock, used_since))
        except _StaleConnection:
            self._stale_at = self._clock()  # what was idle with it is probably stale, too
            return self._send(send, deadline, Attempt(call, self._clock, math.inf))

    def _send(
        self, send: Callable[[float], requests.Response], deadline: float, attempt: Attempt
    ) -> _Reply:
        if self._settings.isolated:
            raise PostHogError("a test runs", hint="Ask by override_flags(ask_posthog=True).")
        remaining = deadline - self._clock()
        if remaining <= 0 or attempt.call.is_aborted:
            raise PostHogError("no time left to ask")
        timeout = min(self._settings.timeout_seconds, remaining)
        try:
            with making(attempt), send(timeout) as response:
                content = self._read(response, deadline)
        except (requests.RequestException, HTTPError) as error:
            raise self._failure(error, attempt, timeout) from error
        return _Reply(response.status_code, content, response.headers)

    def _failure(self, error: Exception, attempt: Attempt, timeout: float) -> PostHogError:
        if attempt.call.is_aborted:
            return PostHogError("aborted")
        if attempt.is_stale(error):
            return _StaleConnection("connection failed", transient=True)
        if isinstance(error, requests.Timeout | ReadTimeoutError):
            return PostHogError(
                "timeout",
                transient=True,
                hint=f"It takes more than {timeout:.3g} s: is PostHog slow, or "
                "POSTHOG_FEATURE_FLAG_REQUEST_TIMEOUT_MS short?",
            )
        proxy = self.way.proxy
        hint = f"Does the proxy {proxy} answer, and let this machine pass?" if proxy else ""
        if find_cause(error, ConnectionRefusedError):
            return PostHogError("connection refused", hint=hint)
        return PostHogError("connection failed", transient=True, hint=hint)

    def _read(self, response: requests.Response, deadline: float) -> bytes:
        """Return the body as sent. urllib3 before 2.6 decodes a small reply to gigabytes."""
        content = bytearray()
        # read1 returns what has arrived: a body that trickles meets the deadline between two bytes.
        for chunk in iter(lambda: response.raw.read1(2**16, decode_content=False), b""):
            content += chunk
            if self._clock() >= deadline:
                raise requests.Timeout
            if len(content) > MAX_BODY_BYTES:
                raise _too_large()
        return bytes(content)


class _StaleConnection(PostHogError):
    """A pooled connection was dead before any byte of a reply arrived."""


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    content: bytes
    headers: Mapping[str, str]

    @property
    def etag(self) -> str | None:
        """The ETag, if it can be sent back."""
        etag = self.headers.get("ETag", "")
        is_usable = etag.isascii() and etag.isprintable() and len(etag) <= MAX_ETAG_CHARACTERS
        return etag if etag and is_usable else None


def _content(reply: _Reply) -> bytes:
    """Return the decoded body of a successful reply."""
    if reply.status in REDIRECTS:
        raise PostHogError("redirect", hint="Set POSTHOG_API_HOST to the final address.")
    if reply.status != requests.codes.ok:
        raise PostHogError(
            f"HTTP {reply.status}",
            transient=reply.status in RETRIED_STATUSES,
            counts=reply.status not in CALLERS_FAULT_STATUSES,
            hint=HINTS.get(reply.status, ""),
        )
    match reply.headers.get("Content-Encoding", "").strip().lower():
        case "" | "identity":
            return reply.content
        case "gzip" | "x-gzip":
            return _gunzip(reply.content)
    raise PostHogError(
        "a reply in an encoding other than gzip", hint="Does a proxy change PostHog's replies?"
    )


def _gunzip(content: bytes) -> bytes:
    member = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        decoded = member.decompress(content, MAX_BODY_BYTES + 1)
    except zlib.error as error:
        raise PostHogError("a reply with malformed gzip") from error
    if len(decoded) > MAX_BODY_BYTES:
        raise _too_large()
    if not member.eof or member.unused_data:  # a second member could be one of 200,000
        raise PostHogError("a reply with malformed gzip")
    return decoded


def _too_large() -> PostHogError:
    return PostHogError(f"a reply of more than {MAX_BODY_BYTES >> 20} MiB")


def _body(
    identity: Identity, person_properties: Mapping[str, Any], runtime: Runtime
) -> dict[str, Any]:
    groups = plain(identity.groups)
    group_properties = plain(identity.group_properties)
    return {
        "distinct_id": identity.distinct_id,
        **({"device_id": identity.device_id} if identity.device_id else {}),
        "person_properties": plain(person_properties),
        "groups": groups,
        "group_properties": {
            name: {"$group_key": key, **group_properties.get(name, {})}
            for name, key in groups.items()
        },
        "geoip_disable": True,
        "evaluation_runtime": runtime.value,
    }
