"""Signals for whoever watches the circuit breaker: an alert, a dashboard, a chat room.

    @receiver(circuit_opened)
    def alert(reason, **kwargs): ...

Each change is sent once in the whole fleet, by the process that made it, as its log line is; while
the shared cache is away, each process sends its own. SignalDispatcher get `reason`, a text such as
`slow: 6.1 s` or `5 failures: HTTP 500` that holds no key and no person. They run in a background
thread, one after the other: a slow one delays nobody, and what one raises is logged.
"""

from django.dispatch import Signal

circuit_opened = Signal()
"""No process calls PostHog from now on, for POSTHOG_CIRCUIT_BREAKER_COOLDOWN_SECONDS."""

circuit_half_opened = Signal()
"""One call finds out whether PostHog answers again."""

circuit_closed = Signal()
"""PostHog is called as usual."""
