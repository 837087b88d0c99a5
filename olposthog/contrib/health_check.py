"""A check for django-health-check: an outage of PostHog is to be seen, but no site is down for it.

The views of django-health-check answer 500 as soon as one check raises, and whoever watches them
may take the process out of service. So this one never raises because flags fall back; it says so
in its `state`, which every format of those views shows.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from health_check.base import HealthCheck  # type: ignore[import-untyped]  # it brings no types

from olposthog.status import Health, status


@dataclass
class FlagsHealth(HealthCheck):  # type: ignore[misc]  # likewise
    """Says how flags are doing. It succeeds whatever becomes of PostHog and the shared cache."""

    state: str = field(init=False, default="")
    """`ok`, `disabled`, or `degraded: ` and why; empty before the first run."""

    async def run(self) -> None:
        """Look at the circuit breaker. Evaluates no flag and calls no PostHog."""
        found = await asyncio.to_thread(status)
        if found.health is Health.MISCONFIGURED:
            # For whoever watches: what is wrong with a setting makes flags fall back, too.
            found = replace(found, health=Health.DEGRADED)
        self.state = found.headline
