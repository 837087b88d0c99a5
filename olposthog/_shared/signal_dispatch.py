"""The receivers of `olposthog.signals`, called where a slow one delays nobody."""

from __future__ import annotations

from contextlib import suppress

from django.db import close_old_connections

from olposthog._utils.workers import Saturated, Workers
from olposthog.signals import circuit_closed, circuit_half_opened, circuit_opened

from .breaker import Breaker, State

SIGNALS = {
    State.OPEN: circuit_opened,
    State.HALF_OPEN: circuit_half_opened,
    State.CLOSED: circuit_closed,
}


class SignalDispatcher:
    """One thread that calls them, one change after the other."""

    def __init__(self) -> None:
        self._workers = Workers("olposthog-signals", size=1, backlog=100)

    def close(self) -> None:
        """End the thread once it has nothing to tell."""
        self._workers.close()

    def tell(self, state: State, reason: str) -> None:
        """Have the receivers told of a change, without waiting for them."""

        def send() -> None:
            close_old_connections()
            SIGNALS[state].send_robust(sender=Breaker, reason=reason)
            close_old_connections()

        with suppress(Saturated):  # a hundred changes wait: a receiver hangs
            self._workers.submit(send)
