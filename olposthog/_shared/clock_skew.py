"""Clock skew: how far ahead a time in the shared cache may be before it counts as now.

Whoever finds a shared time further ahead replaces it by its own now. Otherwise each process that
lives shorter than the time is ahead would find the record brand-new.
"""

from __future__ import annotations

ENTRY_SKEW_SECONDS = 60.0
"""For evaluations: replacing a time too early costs one call to PostHog."""
CONTROL_SKEW_SECONDS = 300.0
"""For the breaker's state and definitions: on a machine whose clock is behind, every time is ahead,
and replacing one makes a probe or a fetch early for processes that start afterwards."""
