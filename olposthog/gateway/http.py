"""PostHog over HTTP: evaluations and flag definitions, each request with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import posthog.request
import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, ReadTimeoutError

from olposthog import conf
from olposthog.identity import Identity, plain
from olposthog.protocol import OVER_QUOTA, PostHogError, parse
from olposthog.snapshot import Evaluation, Runtime

from .connection import Way

FLAGS_PATH = "/flags/?v=4"
DEFINITIONS_PATH = "/flags/definitions"
BACKOFF_SECONDS = 0.3
"""The pause before the first retry; it doubles with each."""
MAX_BODY_BYTES = 4 * 2**20
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


class Gateway:
    """One project's PostHog."""

    def __init__(
        self,
        settings: conf.Settings,
        *,
        connections: int,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._wall = wall
        self._sleep = sleep
        self._host = posthog.request.determine_server_host(settings.api_host)
        self._session = _session(self._host, connections)

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
    ) -> Evaluation:
        """Ask PostHog for all flags of a person in a runtime; raises `PostHogError`.

        Tries again, POSTHOG_MAX_RETRIES times, while `deadline` (on the clock) allows it and
        `may_retry()` does. The SDK's timeout is for each socket operation, so a reply that
        trickles can outlast the deadline: call it where it may be abandoned.
        """
        body = _body(identity, person_properties, runtime)
        for attempt in range(self._settings.max_retries + 1):
            try:
                return parse(self._post(body, deadline), self._wall())
            except PostHogError as error:
                pause = BACKOFF_SECONDS * 2**attempt
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

    def fetch_definitions(self, etag: str | None, *, deadline: float) -> Fetched:
        """Ask PostHog for the flag definitions, once; raises `PostHogError`.

        PostHog bills this as ten requests, unless it is still what `etag` names.
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
        )
        if reply.status == requests.codes.not_modified and etag:
            return Fetched(None, etag)
        return Fetched(_content(reply).decode(errors="replace"), reply.etag)

    def _post(self, body: dict[str, Any], deadline: float) -> bytes:
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
            )
        )

    def _exchange(self, send: Callable[[float], requests.Response], deadline: float) -> _Reply:
        if self._settings.isolated:
            raise PostHogError("a test runs", hint="Ask by override_flags(ask_posthog=True).")
        remaining = deadline - self._clock()
        if remaining <= 0:
            raise PostHogError("no time left to ask")
        timeout = min(self._settings.timeout_seconds, remaining)
        try:
            with send(timeout) as response:
                content = self._read(response, deadline)
        except (requests.Timeout, ReadTimeoutError) as error:
            raise PostHogError(
                "timeout",
                transient=True,
                hint=f"It takes more than {timeout:.3g} s: is PostHog slow, or "
                "POSTHOG_FEATURE_FLAG_REQUEST_TIMEOUT_MS short?",
            ) from error
        except (requests.RequestException, HTTPError) as error:
            proxy = self.way.proxy
            hint = f"Does the proxy {proxy} answer, and let this machine pass?" if proxy else ""
            if _was_refused(error):
                raise PostHogError("connection refused", hint=hint) from error
            raise PostHogError("connection failed", transient=True, hint=hint) from error
        return _Reply(response.status_code, content, response.headers.get("ETag"))

    def _read(self, response: requests.Response, deadline: float) -> bytes:
        content = bytearray()
        # read1 returns what has arrived: a body that trickles meets the deadline between two bytes.
        for chunk in iter(lambda: response.raw.read1(2**16, decode_content=True), b""):
            content += chunk
            if self._clock() >= deadline:
                raise requests.Timeout
            if len(content) > MAX_BODY_BYTES:
                raise PostHogError(f"a reply of more than {MAX_BODY_BYTES >> 20} MiB")
        return bytes(content)


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    content: bytes
    etag: str | None


def _content(reply: _Reply) -> bytes:
    if reply.status in REDIRECTS:
        raise PostHogError("redirect", hint="Set POSTHOG_API_HOST to the final address.")
    if reply.status != requests.codes.ok:
        raise PostHogError(
            f"HTTP {reply.status}",
            transient=reply.status in RETRIED_STATUSES,
            counts=reply.status not in CALLERS_FAULT_STATUSES,
            hint=HINTS.get(reply.status, ""),
        )
    return reply.content


def _session(host: str, connections: int) -> requests.Session:
    session = requests.Session()
    # Proxies and certificates of the environment, looked up once and not for each request.
    surroundings = session.merge_environment_settings(host, {}, None, None, None)
    session.proxies, session.verify = surroundings["proxies"], surroundings["verify"]
    session.trust_env = False
    # A followed redirect turns the POST into a GET, which PostHog answers with "no flags".
    session.get_redirect_target = lambda response: None  # type: ignore[assignment, method-assign]  # follow none
    session.stream = True
    adapter = HTTPAdapter(pool_maxsize=connections)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


def _was_refused(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, ConnectionRefusedError):
        error = error.__cause__ or error.__context__
    return error is not None


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
