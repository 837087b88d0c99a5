"""REST framework's views for those who have a flag."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from django.core.exceptions import ImproperlyConfigured
from rest_framework.permissions import BasePermission

from olposthog.guards._condition import FlagCondition

if TYPE_CHECKING:
    from rest_framework.request import Request
    from rest_framework.views import APIView


class FlagPermission(BasePermission):
    """Lets those in who have the flag, or with `variant` those who have that one.

        class NewCheckout(FlagPermission):
            flag = "new-checkout"

    It sees the user whom the view's authentication found, whatever kind that is. Asking reports the
    exposure. Whoever is refused gets REST framework's 401 or 403, with `message` if there is one. A
    flag or variant that is no str raises TypeError when the class is made, a class without a flag
    ImproperlyConfigured when it is used.
    """

    flag: ClassVar[str] = ""
    variant: ClassVar[str | None] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.flag:
            FlagCondition.checked(cls.__qualname__, cls.flag, cls.variant)

    def has_permission(self, request: Request, view: APIView) -> bool:
        """Return whether the request's person has the flag."""
        if not self.flag:
            raise ImproperlyConfigured(
                f"{type(self).__qualname__} names no flag: set flag on a subclass of it."
            )
        return FlagCondition(self.flag, self.variant).holds(request)

    def has_object_permission(self, request: Request, view: APIView, obj: Any) -> bool:
        """Return the same of every object, so that `~` of the permission means its opposite."""
        return self.has_permission(request, view)
