"""What every test starts from: a healthy PostHog over HTTP, and a process that knows nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import posthog as posthog_sdk
import pytest
from django.core.cache import caches
from pytest_django import Settings

from olposthog import evaluation
from olposthog.gateway import events
from tests.posthog_server import PostHogServer


@pytest.fixture
def posthog() -> Iterator[PostHogServer]:
    """A PostHog that answers; it is nobody's until `settings` names it, as `enabled` does."""
    with PostHogServer() as server:
        yield server
        server.heal()
        deliver_events()


def deliver_events() -> None:
    """End the SDK's client, which would go on delivering events to a server that is gone."""
    kept, events._client = events._client, None
    posthog_sdk.default_client = None
    if kept:
        kept[1].shutdown()


@pytest.fixture
def enabled(posthog: PostHogServer, settings: Settings) -> PostHogServer:
    """Flags come from the stand-in PostHog."""
    settings.POSTHOG_ENABLED = True
    settings.POSTHOG_PROJECT_API_KEY = posthog.token
    settings.POSTHOG_API_HOST = posthog.url
    return posthog


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """No test sees what another one left in a cache or in the process."""
    caches["default"].clear()
    caches["durable"].clear()
    forget_process()
    yield
    forget_process()


def forget_process() -> None:
    """Make this process a new one, as far as flags go: only the shared cache stays."""
    evaluation.reset()


@pytest.fixture
def another_process() -> Callable[[], None]:
    """Go on as another process: nothing of this one is known, the shared cache is the same."""
    return forget_process
