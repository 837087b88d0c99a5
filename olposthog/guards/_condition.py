"""Whether the person of a request has a flag: what guards, templates and permissions ask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from olposthog.features import aget_feature_flag, get_feature_flag

if TYPE_CHECKING:
    from django.http import HttpRequest


@dataclass(frozen=True, slots=True)
class FlagCondition:
    """A flag that must be on, or with `variant` have that one. Asking reports the exposure."""

    name: str
    variant: str | None = None

    @classmethod
    def checked(cls, owner: str, name: Any, variant: Any = None) -> Self:
        """Return the condition that the code of a site names.

        Raises TypeError or ValueError that begins with `owner`, what the condition belongs to.
        """
        if not isinstance(name, str):
            raise TypeError(
                f'{owner}: the flag must be a str, such as "new-checkout", not {name!r}.'
            )
        if variant is not None and not isinstance(variant, str):
            raise TypeError(
                f'{owner}: the variant must be a str, such as "test", or None for any; '
                f"not {variant!r}."
            )
        if not name or variant == "":
            empty = "variant" if name else "flag"
            raise ValueError(f"{owner}: the name of the {empty} is empty.")
        return cls(name, variant)

    def holds(self, request: HttpRequest) -> bool:
        """Return whether it is so for whoever `request`, Django's or DRF's, is from."""
        return self._admits(get_feature_flag(self.name, request=request))

    async def aholds(self, request: HttpRequest) -> bool:
        """`holds` for coroutines."""
        return self._admits(await aget_feature_flag(self.name, request=request))

    def _admits(self, value: bool | str) -> bool:
        return bool(value) if self.variant is None else value == self.variant
