"""A call to PostHog: permitted by the breaker, ended by a deadline, and its outcome reported."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

from olposthog._evaluation.evaluation import Evaluation
from olposthog._posthog import Call, PostHogApi
from olposthog._posthog.errors import PostHogError
from olposthog._shared.breaker import Breaker, Permit
from olposthog._utils.log_lines import get_logger
from olposthog._utils.log_throttle import LogThrottle
from olposthog._utils.workers import Closed, Saturated, Workers
from olposthog.counters import Tally
from olposthog.identity import Identity
from olposthog.snapshot import Runtime

log = get_logger(__name__)

MAX_CALLS = 16
"""How many calls to PostHog one process has under way at most, abandoned ones included."""
MAX_LATE_SECONDS = 1.0
"""How late a call may end after its deadline. If it ends later, this process was paused."""
OUTCOMES = Tally("calls", ("succeeded", "failed", "slow"))
"""How calls for a person's flags ended."""


class Remote:
    """Remote evaluation that neither hangs nor raises."""

    def __init__(
        self,
        api: PostHogApi,
        breaker: Breaker,
        refresh: Callable[[], None],
        *,
        slow_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._breaker = breaker
        self._refresh = refresh
        self._slow_seconds = slow_seconds
        self._clock = clock
        self._workers = Workers("olposthog-call", size=MAX_CALLS, backlog=MAX_CALLS)
        self._log_throttle = LogThrottle(clock)

    def close(self) -> None:
        """Make no more calls."""
        self._workers.close()

    def evaluate(
        self,
        identity: Identity,
        person_properties: Mapping[str, Any],
        runtime: Runtime,
        deadline: float,
    ) -> Evaluation | None:
        """Return PostHog's decisions, or None: not permitted, failed, or not in time."""
        # A process that is too busy to ask in time is no failure of PostHog's.
        is_late = deadline - self._clock() < self._slow_seconds / 4
        permit = None if is_late else self._breaker.permit()
        if permit is None:
            return None
        started = self._clock()
        call = Call()
        try:
            future = self._workers.submit(
                lambda: self._api.fetch(
                    identity,
                    person_properties,
                    runtime,
                    deadline=deadline,
                    may_retry=lambda: self._may_retry(permit),
                    call=call,
                    # A stale pooled connection must not fail the probe, nor have it sent twice.
                    needs_new_connection=permit.probe,
                )
            )
        except Closed:
            return None  # settings have changed, and nobody asks by these any more
        except Saturated:
            OUTCOMES.count("failed")
            self._breaker.failed(permit, f"{MAX_CALLS} calls hang")
            return None
        try:
            evaluation = future.result(max(0.0, deadline - started))
        except FutureTimeoutError:
            future.cancel()
            call.abort()
            seconds = self._clock() - started
            # A shared cache that hung before may have left PostHog less than the trip threshold.
            self._fail(permit, PostHogError(f"no answer within {seconds:.1f} s"), seconds, deadline)
            return None
        except Exception as error:  # whatever it is, the breaker must hear of it
            if isinstance(error, PostHogError):
                # The cause can quote the reply, so it is escaped and cut.
                log.debug("A call to PostHog failed (%s): %.300r", error, error.__cause__)
            else:
                log.debug("A call to PostHog failed.", exc_info=True)
                error = PostHogError(type(error).__name__)
            self._complain(error)
            self._fail(permit, error, self._clock() - started, deadline)
            return None
        OUTCOMES.count("succeeded")
        if permit.probe:
            self._refresh()
        self._breaker.succeeded(permit)
        return evaluation

    def _complain(self, error: PostHogError) -> None:
        if self._log_throttle.allows("no flags"):
            log.warning(
                "PostHog gave no flags (%s); cached and fallback values answer.%s",
                error,
                error.hint and f" {error.hint}",
            )

    def _fail(self, permit: Permit, error: PostHogError, seconds: float, deadline: float) -> None:
        """Report a failure to the breaker, unless this process was paused meanwhile.

        A process that was suspended, or whose machine was, measured its pause and not PostHog.
        """
        slow = seconds >= self._slow_seconds
        OUTCOMES.count("slow" if slow else "failed")
        if self._clock() - deadline > MAX_LATE_SECONDS:
            return
        if slow or error.counts:
            self._refresh()  # read before writing: others may have opened and closed meanwhile
        if slow:
            self._breaker.was_slow(permit, seconds)
        elif error.counts:
            self._breaker.failed(permit, str(error))
        else:
            self._breaker.succeeded(permit)

    def _may_retry(self, permit: Permit) -> bool:
        if permit.probe:
            return False  # one request is the fleet's whole probe
        self._refresh()
        return self._breaker.allows(permit)
