"""The one module that talks to PostHog and to its SDK."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import posthog
import posthog.request
import posthog.utils
import requests
from django.utils.functional import SimpleLazyObject
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, ReadTimeoutError

from . import conf
from .definitions import Definitions
from .identity import Identity, plain
from .protocol import PostHogError, decoded, parse
from .snapshot import Decision, Evaluation, Runtime

log = logging.getLogger(__name__)

FLAGS_PATH = "/flags/?v=4"
BACKOFF_SECONDS = 0.3
"""The pause before the first retry; it doubles with each."""
MAX_BODY_BYTES = 16 * 2**20
RETRIED_STATUSES = frozenset({502, 504})
CALLERS_FAULT_STATUSES = frozenset({400, 413})


class Gateway:
    """Remote evaluation by one project's PostHog, and local evaluation by its SDK."""

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
        self._local_lock = threading.Lock()
        self._given = _Given()
        self._local: posthog.Posthog | None = None

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

    def _post(self, body: dict[str, Any], deadline: float) -> bytes:
        remaining = deadline - self._clock()
        if remaining <= 0:
            raise PostHogError("no time left to ask")
        try:
            response = posthog.request.post(
                self._settings.project_api_key,
                self._host,
                FLAGS_PATH,
                timeout=min(self._settings.timeout_seconds, remaining),
                session=self._session,
                **body,
            )
            with response:
                content = self._read(response, deadline)
        except requests.TooManyRedirects as error:
            raise PostHogError("redirect: set POSTHOG_API_HOST to the final address") from error
        except (requests.Timeout, ReadTimeoutError) as error:
            raise PostHogError("timeout", transient=True) from error
        except (requests.RequestException, HTTPError) as error:
            if _was_refused(error):
                raise PostHogError("connection refused") from error
            raise PostHogError("connection failed", transient=True) from error
        if response.status_code != requests.codes.ok:
            raise PostHogError(
                f"HTTP {response.status_code}",
                transient=response.status_code in RETRIED_STATUSES,
                counts=response.status_code not in CALLERS_FAULT_STATUSES,
            )
        return content

    def _read(self, response: requests.Response, deadline: float) -> bytes:
        content = bytearray()
        # read1 returns what has arrived: a body that trickles meets the deadline between two bytes.
        for chunk in iter(lambda: response.raw.read1(2**16, decode_content=True), b""):
            content += chunk
            if self._clock() >= deadline:
                raise requests.Timeout
            if len(content) > MAX_BODY_BYTES:
                raise PostHogError("a reply of more than 16 MiB")
        return bytes(content)

    def evaluate_locally(
        self,
        definitions: Definitions,
        identity: Identity,
        person_properties: Mapping[str, Any],
        runtime: Runtime,
    ) -> Evaluation:
        """Evaluate `definitions` for a person without any network.

        Flags that the definitions alone cannot decide are left out, and so are those meant for
        the other runtime, which the SDK evaluates all the same.
        """
        found = self._local_sdk(definitions).get_all_flags_and_payloads(
            identity.distinct_id,
            groups=plain(identity.groups),
            person_properties=plain(person_properties),
            group_properties=plain(identity.group_properties),
            only_evaluate_locally=True,
        )
        values: Mapping[str, Any] = found["featureFlags"] or {}
        payloads = found["featureFlagPayloads"] or {}
        undecided = len(definitions.runtimes) - len(values)
        if undecided:
            log.debug("%d flags cannot be decided by their definitions alone.", undecided)
        decisions = {}
        for key, value in values.items():
            if not definitions.suits(key, runtime):
                continue
            id_, version = definitions.versions.get(key, (None, None))
            decisions[key] = Decision(
                value=value if isinstance(value, bool | str) else True,
                payload=decoded(payloads.get(key)),
                reason="local",
                description="Evaluated locally",
                id=id_,
                version=version,
            )
        return Evaluation(decisions, evaluated_at=self._wall())

    def _local_sdk(self, definitions: Definitions) -> posthog.Posthog:
        with self._local_lock:
            if self._local is None:
                # The key only has to look like one, and any secret makes the SDK evaluate locally.
                self._local = posthog.Posthog(
                    "phc_local",
                    secret_key="local",  # noqa: S106  # no secret
                    send=False,
                    enable_local_evaluation=False,
                    flag_definition_cache_provider=self._given,
                )
            if self._given.definitions is not definitions:
                self._given.definitions = definitions
                self._local.load_feature_flags()  # type: ignore[no-untyped-call]  # the SDK's
            return self._local


class _Given:
    """Hands the SDK definitions that are already here, so that it never fetches any."""

    definitions: Definitions | None = None

    def should_fetch_flag_definitions(self) -> bool:
        return False

    def get_flag_definitions(self) -> Any:
        return dict(self.definitions.data) if self.definitions else None

    def on_flag_definitions_received(self, data: Any) -> None:
        """Take nothing: the SDK never fetches."""

    def shutdown(self) -> None:
        """Close nothing."""


def _session(host: str, connections: int) -> requests.Session:
    session = requests.Session()
    # Proxies and certificates of the environment, looked up once and not for each request.
    surroundings = session.merge_environment_settings(host, {}, None, None, None)
    session.proxies, session.verify = surroundings["proxies"], surroundings["verify"]
    session.trust_env = False
    # A followed redirect turns the POST into a GET, which PostHog answers with "no flags".
    session.max_redirects = 0
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
        "person_properties": plain(person_properties),
        "groups": groups,
        "group_properties": {
            name: {"$group_key": key, **group_properties.get(name, {})}
            for name, key in groups.items()
        },
        "geoip_disable": True,
        "evaluation_runtime": runtime.value,
    }


_client: tuple[conf.Settings, posthog.Posthog] | None = None
_client_lock = threading.Lock()


def client() -> posthog.Posthog:
    """Return the process's SDK client for events, built on first use.

    It evaluates no flags. Its thread starts with it.
    """
    global _client  # noqa: PLW0603  # one client per process, as the SDK wants it
    settings = conf.current()
    with _client_lock:
        if _client is None or _client[0] is not settings:
            sdk = posthog.Posthog(
                settings.project_api_key,
                host=settings.api_host,
                max_retries=settings.max_retries,
                feature_flags_request_timeout_seconds=settings.timeout_seconds,
                disable_geoip=True,
                enable_local_evaluation=False,
            )
            # What the first event finds out about the machine, by running a program: find it out
            # here, where no fork comes between and leaves the SDK's locks held for ever.
            posthog.utils.system_context()
            _client = (settings, sdk)
        return _client[1]


def install_client() -> None:
    """Make `posthog.capture(…)` and its like use `client()`, without building it yet."""
    posthog.default_client = SimpleLazyObject(client)  # type: ignore[assignment]  # stands in for it


def capture(
    event: str, distinct_id: str, properties: dict[str, Any], groups: dict[str, str]
) -> None:
    """Queue an event for PostHog; a background thread delivers it. Never waits, never raises."""
    try:
        client().capture(event, distinct_id=distinct_id, properties=properties, groups=groups)
    except Exception:
        log.exception("An event could not be queued for PostHog.")


os.register_at_fork(
    before=_client_lock.acquire,
    after_in_parent=_client_lock.release,
    after_in_child=_client_lock.release,
)
