"""The stand-in PostHog in a process of its own, so that it takes no time from the visitors."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection

from tests.posthog_faults import Exchange, Fault
from tests.posthog_server import PostHogServer, Variant

from .scenario import Scenario

PATIENCE_SECONDS = 30.0


@dataclass(frozen=True)
class Noted(Fault):
    """Behave as another fault says, and note when each request for flags came."""

    fault: Fault
    arrivals: list[float]

    def answer(self, exchange: Exchange) -> None:
        if exchange.is_evaluation:
            self.arrivals.append(time.monotonic())
        self.fault.answer(exchange)


class PostHog:
    """What the benchmark sees of it."""

    def __init__(self, url: str, token: str, connection: Connection) -> None:
        self.url = url
        self.token = token
        self._connection = connection

    def go_through_phases(self, zero: float) -> None:
        """Begin with the first phase at `zero` on the monotonic clock, and go on by itself."""
        self._connection.send(zero)

    def calls(self) -> list[float]:
        """Return when flags were asked for, once the last phase is over."""
        if not self._connection.poll(PATIENCE_SECONDS):
            raise TimeoutError("the stand-in PostHog says nothing")
        arrivals: list[float] = self._connection.recv()
        return arrivals


@contextmanager
def posthog(scenario: Scenario) -> Iterator[PostHog]:
    """A PostHog that is healthy until it is told to go through the phases."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, scenario), daemon=True)
    process.start()
    try:
        if not ours.poll(PATIENCE_SECONDS):
            raise TimeoutError("the stand-in PostHog does not start")
        url, token = ours.recv()
        yield PostHog(url, token, ours)
    finally:
        process.terminate()
        process.join()


def flags(number: int) -> dict[str, object]:
    """Declare flags: on, off, and every third a variant."""
    kinds = (True, False, Variant("test"))
    return {f"flag-{index:02}": kinds[index % 3] for index in range(number)}


def _serve(connection: Connection, scenario: Scenario) -> None:
    arrivals: list[float] = []
    with PostHogServer() as server:
        server.flags = flags(scenario.flags)
        server.flags_fault = Noted(scenario.healthy, arrivals)
        connection.send((server.url, server.token))
        zero: float = connection.recv()
        for phase in scenario.phases:
            _sleep_until(zero + phase.begins)
            server.flags_fault = Noted(phase.fault, arrivals)
        _sleep_until(zero + scenario.seconds)
        connection.send([arrival - zero for arrival in arrivals])
        connection.recv()  # for ever: the end is termination


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))
