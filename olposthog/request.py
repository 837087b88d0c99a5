"""`request.features`: the flags of the person whom a request is from, evaluated when first read."""

from __future__ import annotations

from typing import NoReturn
from weakref import ref

from django.http import HttpRequest

from ._evaluation.decision import JSON
from .features import for_request, get_feature_flag, get_feature_flag_payload, is_enabled
from .snapshot import FlagSnapshot


class Features:
    """The functions of `olposthog.features` for one request.

    Until it is used it costs nothing: nobody is identified, no flag evaluated, no cookie set. It
    follows a log-in within the request. `features[name]`, or `request.features.name` in a template,
    is `get_feature_flag(name)`.
    """

    def __init__(self, request: HttpRequest) -> None:
        # Weak, for else every request would wait for the garbage collector.
        self._to_request = ref(request)

    def is_enabled(self, name: str, default: bool | None = None) -> bool:
        """Return whether the flag is on; a variant counts as on. Reports the exposure."""
        return is_enabled(name, default, request=self._request)

    def get_feature_flag(self, name: str, default: bool | str | None = None) -> bool | str:
        """Return the flag's variant, or whether it is on if it has none. Reports the exposure."""
        return get_feature_flag(name, default, request=self._request)

    def get_feature_flag_payload(self, name: str) -> JSON:
        """Return the flag's payload, decoded, or None if it has none. Reports no exposure."""
        return get_feature_flag_payload(name, request=self._request)

    @property
    def snapshot(self) -> FlagSnapshot:
        """All flags with payloads, reasons, source and time. Reports no exposure."""
        return for_request(self._request)

    def __getitem__(self, name: str) -> bool | str:
        return self.get_feature_flag(name)

    # Without these two, Python would ask for the flags 0, 1, 2 and so on.

    def __contains__(self, name: object) -> NoReturn:
        raise TypeError(
            "A flag is not in request.features: ask request.features.is_enabled(name), or whether "
            "it is in request.features.snapshot.flags."
        )

    def __iter__(self) -> NoReturn:
        raise TypeError("request.features is no list: go through request.features.snapshot.flags.")

    def __reduce__(self) -> tuple[type[Features], tuple[HttpRequest]]:
        return Features, (self._request,)  # Django's requests can be pickled

    @property
    def _request(self) -> HttpRequest:
        request = self._to_request()
        if request is None:
            raise ReferenceError("The request of these features is gone: keep the request.")
        return request


class FeaturesRequest(HttpRequest):
    """A request that has been through IdentityMiddleware, for annotating views."""

    features: Features
