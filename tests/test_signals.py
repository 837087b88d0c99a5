"""Signals: each change of the circuit is told to receivers, once, with its reason."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from pytest_django import Settings

from olposthog._core import engine
from olposthog._shared.breaker import State
from olposthog.features import evaluate
from olposthog.signals import circuit_closed, circuit_half_opened, circuit_opened
from olposthog.snapshot import Source
from tests.posthog_faults import Status
from tests.posthog_server import PATIENCE, PostHogServer
from tests.site.processes import until

ALL = {"opened": circuit_opened, "half-opened": circuit_half_opened, "closed": circuit_closed}


class Told:
    """What receivers were told, and by which threads."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, str]] = []
        self.threads: set[threading.Thread] = set()

    def by(self, name: str) -> Any:
        def receive(reason: str, **_: object) -> None:
            self.threads.add(threading.current_thread())
            self.changes.append((name, reason))

        return receive


@pytest.fixture
def told() -> Iterator[Told]:
    """Listens to all three signals."""
    told = Told()
    receivers = {name: told.by(name) for name in ALL}
    for name, signal in ALL.items():
        signal.connect(receivers[name])
    yield told
    for name, signal in ALL.items():
        signal.disconnect(receivers[name])


@pytest.fixture
def outage(enabled: PostHogServer, settings: Settings) -> PostHogServer:
    """A PostHog that fails, for a process with short times."""
    settings.POSTHOG_CIRCUIT_BREAKER_FAILURE_THRESHOLD = 2
    settings.POSTHOG_CIRCUIT_BREAKER_COOLDOWN_SECONDS = 0.01
    settings.POSTHOG_LOCAL_CACHE_SECONDS = 0
    enabled.flags_fault = Status(500, times=2)
    return enabled


def recover() -> None:
    until(lambda: evaluate("somebody").source is Source.POSTHOG)


def test_an_outage_from_its_beginning_to_its_end(outage: PostHogServer, told: Told) -> None:
    """Opening, probe and closing are told in this order, each once, each with its reason."""
    for number in range(2):
        evaluate(f"person-{number}")
    recover()
    until(lambda: len(told.changes) == 3)

    assert told.changes == [
        ("opened", "2 failures: HTTP 500"),
        ("half-opened", "the cooldown is over"),
        ("closed", "PostHog answered the probe"),
    ]
    assert threading.current_thread() not in told.threads


def test_a_receiver_that_hangs_or_raises_harms_nobody(outage: PostHogServer, told: Told) -> None:
    """Flags are answered and the circuit closes while a receiver hangs; the others hear of it."""
    released = threading.Event()

    def hang(**_: object) -> None:
        assert released.wait(PATIENCE)
        raise RuntimeError("and then it fails")

    circuit_opened.connect(hang)
    try:
        for number in range(2):
            evaluate(f"person-{number}")
        recover()
        assert engine.current().breaker.state is State.CLOSED
    finally:
        released.set()
        until(lambda: len(told.changes) == 3)
        circuit_opened.disconnect(hang)
