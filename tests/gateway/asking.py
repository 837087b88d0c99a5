"""Ask the stand-in PostHog by a gateway of the test's own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from olposthog import conf
from olposthog._evaluation.evaluation import Evaluation
from olposthog._posthog import Fetched, PostHogApi
from olposthog._posthog.errors import PostHogError
from olposthog.identity import Identity
from olposthog.snapshot import Runtime
from tests.posthog_server import PostHogServer

PERSON = Identity("alice@example.com", {"plan": "secretplan"})
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs TCP_USER_TIMEOUT and BPF")


class Clock:
    """Seconds that pass when somebody sleeps; it remembers for how long they slept."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def longest() -> float:
    """Return the chance that makes each pause as long as it may be."""
    return 1.0


def asking(
    posthog: PostHogServer,
    clock: Clock,
    chance: Callable[[], float] = longest,
    **settings: Any,
) -> Callable[..., Evaluation]:
    """Return `fetch` of a gateway with these settings."""
    connection = {"enabled": True, "project_api_key": posthog.token, "api_host": posthog.url}
    sender = PostHogApi(
        conf.Settings(**{**connection, **settings}),
        connections=2,
        clock=clock,
        sleep=clock.sleep,
        chance=chance,
    )

    def fetch(
        identity: Identity = PERSON,
        person_properties: Mapping[str, Any] | None = None,
        runtime: Runtime = Runtime.SERVER,
        *,
        deadline: float = 60.0,
        may_retry: Callable[[], bool] = lambda: True,
        **options: Any,
    ) -> Evaluation:
        properties = identity.person_properties if person_properties is None else person_properties
        return sender.fetch(
            identity,
            properties or {},
            runtime,
            deadline=deadline,
            may_retry=may_retry,
            **options,
        )

    fetch.sender = sender  # type: ignore[attr-defined]  # for tests that look inside
    return fetch


def failure(ask: Callable[..., object], **how: Any) -> PostHogError:
    """The error that a request ends with."""
    with pytest.raises(PostHogError) as caught:
        ask(**how)
    return caught.value


def defining(posthog: PostHogServer, clock: Clock, **settings: Any) -> Callable[..., Fetched]:
    """Return `fetch_definitions` of a gateway with these settings, under a deadline."""
    sender: PostHogApi = asking(posthog, clock, personal_api_key=posthog.secret, **settings).sender  # type: ignore[attr-defined]  # set in `asking`

    def fetch(etag: str | None = None, deadline: float = 60.0) -> Fetched:
        return sender.fetch_definitions(etag, deadline=deadline)

    return fetch
