"""How often one client may ask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from rest_framework.settings import api_settings
from rest_framework.throttling import ScopedRateThrottle, SimpleRateThrottle

from olposthog._utils.log_lines import get_logger
from olposthog._utils.log_throttle import LogThrottle

if TYPE_CHECKING:
    from rest_framework.request import Request

log = get_logger(__name__)


class TolerantCache:
    """The cache in which DRF counts requests, except that one which is away counts none."""

    def __init__(self) -> None:
        self._log_throttle = LogThrottle()

    def get(self, key: str, default: Any) -> Any:
        """Return the times of a client's requests; `default` where they cannot be read."""
        try:
            return SimpleRateThrottle.cache.get(key, default)
        except Exception as error:  # noqa: BLE001  # a backend may raise anything
            self._complain(error)
            return default

    def set(self, key: str, times: Any, seconds: float) -> None:
        """Keep them, if that can be done."""
        try:
            SimpleRateThrottle.cache.set(key, times, seconds)
        except Exception as error:  # noqa: BLE001  # likewise
            self._complain(error)

    def _complain(self, error: Exception) -> None:
        if self._log_throttle.allows("away"):
            # The type alone: a backend may quote a key or an address.
            log.warning(
                "Requests for flags cannot be counted (%s), so all are let through.",
                type(error).__name__,
            )


class FeaturesThrottle(ScopedRateThrottle):
    """The throttle of scope `features`; without a rate for it there is no throttle.

    While DRF's cache is unavailable, requests are neither counted nor refused.

    An anonymous client is the address that connects. `X-Forwarded-For`, which a client can set to
    anything, is used only if REST framework's `NUM_PROXIES` is set.
    """

    cache = TolerantCache()  # type: ignore[assignment]  # as much of a cache as a throttle uses

    def get_rate(self) -> str | None:
        """Return the host project's rate, as it is now."""
        rates = api_settings.DEFAULT_THROTTLE_RATES
        return cast("str | None", rates.get(self.scope or ""))

    def get_ident(self, request: Request) -> str:
        """Return the client's address."""
        if api_settings.NUM_PROXIES is None:
            return str(request.META.get("REMOTE_ADDR"))
        return super().get_ident(request)
