"""Views for those who have a flag, and another answer for the others.

    @flag_required("new-checkout", otherwise=old_checkout)
    def checkout(request): ...

Works on functions and classes, sync and async. Asking reports the exposure, as reading a flag does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar

from asgiref.sync import markcoroutinefunction
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django.urls import NoReverseMatch, URLPattern, path, reverse
from django.utils.functional import Promise
from django.views import View

from ._condition import FlagCondition
from ._switch import (
    ViewFunction,
    attributes,
    check_page_caches,
    is_async,
    shared_attributes,
    switched,
)

Otherwise: TypeAlias = int | str | Promise | ViewFunction
"""The answer for the others: a status, where to redirect to, or a view."""

V = TypeVar("V", bound=ViewFunction)

_OF_CLASSES = {"view_class", "view_initkwargs", "cls", "initkwargs", "actions"}
"""Attributes that say which class a view was made from: Django's, and REST framework's."""


def flag_required(
    name: str, *, variant: str | None = None, otherwise: Otherwise = 404
) -> Callable[[V], V]:
    """Show the view to those who have the flag, or with `variant` to those who have that one.

    The others get `otherwise`: a status from 400 to 499 (404 raises Http404, 403 PermissionDenied),
    a redirect to a URL, a path or the name of a URL, which may take the arguments of the view, or
    the answer of another view, which is called as this one would be. If one of the two views is
    async, the result is. Of the attributes that decorators below left on the view, such as
    `csrf_exempt`, it has those that both views have.

    Raises TypeError or ValueError for arguments, or a view, that cannot be meant.
    """
    owner = "flag_required()"
    condition = FlagCondition.checked(owner, name, variant)
    _check_otherwise(owner, otherwise)

    def decorate(view: V) -> V:
        if isinstance(view, type):
            raise TypeError(
                f"{owner} decorates functions, and {view.__name__} is a class: "
                "use FlagRequiredMixin."
            )
        _check_view(owner, "what it decorates", view)
        return _guarded(condition, view, otherwise)  # type: ignore[return-value]  # called alike

    return decorate


if TYPE_CHECKING:  # what the mixin asks of its views; Any, for REST framework's say more of theirs

    class _View:
        @classmethod
        def as_view(cls, *args: Any, **initkwargs: Any) -> Any: ...
        def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase: ...
else:
    _View = View  # so that it guards Django's views also where it is named after them


class FlagRequiredMixin(_View):
    """Shows a class-based view to those who have the flag, before its `dispatch`.

    Name it before the other bases. The attributes are the arguments of the function
    `flag_required`; a view in `flag_otherwise` is called with the request, not with `self`.
    `as_view()` raises ImproperlyConfigured where `flag_required` is missing; other mistakes raise
    TypeError or ValueError when the class is made.
    """

    flag_required: ClassVar[str] = ""
    flag_variant: ClassVar[str | None] = None
    flag_otherwise: ClassVar[Otherwise] = 404

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.flag_required:
            FlagCondition.checked(cls.__qualname__, cls.flag_required, cls.flag_variant)
        _check_otherwise(cls.__qualname__, cls.flag_otherwise)

    @classmethod
    def as_view(cls, *args: Any, **initkwargs: Any) -> Any:
        """Return the view, which carries no attribute that `flag_otherwise` lacks."""
        name = initkwargs.get("flag_required", cls.flag_required)
        variant = initkwargs.get("flag_variant", cls.flag_variant)
        otherwise = initkwargs.get("flag_otherwise", cls.flag_otherwise)
        if not name:
            raise ImproperlyConfigured(
                f"{cls.__qualname__} names no flag: set flag_required on the class."
            )
        FlagCondition.checked(cls.__qualname__, name, variant)
        _check_otherwise(cls.__qualname__, otherwise)
        view = super().as_view(*args, **initkwargs)
        check_page_caches(cls._methods_below_guard(), otherwise)
        if callable(otherwise):
            awaited = is_async(view)  # which an attribute says, too
            kept = _OF_CLASSES | shared_attributes(view, otherwise).keys()
            for attribute in attributes(view).keys() - kept:
                delattr(view, attribute)
            if awaited:
                markcoroutinefunction(view)
        return view

    @classmethod
    def _methods_below_guard(cls) -> list[Any]:
        above = cls.__mro__[: cls.__mro__.index(FlagRequiredMixin)]
        return [
            method
            for base in cls.__mro__
            for name, method in vars(base).items()
            if name != "flag_otherwise" and not (name == "dispatch" and base in above)
        ]

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """Answer as the view does, or as the others are answered."""
        condition = FlagCondition(self.flag_required, self.flag_variant)
        # Read from the class: a function that is read from an instance is bound to it.
        otherwise = vars(self).get("flag_otherwise", type(self).flag_otherwise)
        guard = _guarded(condition, super().dispatch, otherwise)
        return guard(request, *args, **kwargs)  # type: ignore[no-any-return]  # what either returns


def flag_path(
    route: str,
    *,
    flag: str,
    on: ViewFunction,
    off: ViewFunction,
    variant: str | None = None,
    kwargs: dict[str, Any] | None = None,
    name: str | None = None,
) -> URLPattern:
    """Return a `path()` that shows the view `on` to those who have the flag, `off` to the others.

    With `variant`, to those who have that one. Takes sync and async views, also one of each.
    Raises TypeError or ValueError for arguments that cannot be meant, such as an `include()`.
    """
    owner = "flag_path()"
    condition = FlagCondition.checked(owner, flag, variant)
    _check_view(owner, "on", on)
    _check_view(owner, "off", off)
    return path(route, _guarded(condition, on, off), kwargs, name)


def _guarded(condition: FlagCondition, view: ViewFunction, otherwise: Otherwise) -> ViewFunction:
    check_page_caches(view, otherwise)
    if callable(otherwise):
        guard = switched(condition, view, otherwise)
        kept = shared_attributes(view, otherwise)
    else:
        guard = switched(condition, view, _refusal(otherwise, awaited=is_async(view)))
        kept = attributes(view)
    update_wrapper(guard, view, updated=())
    attributes(guard).update(kept)
    return guard


def _refusal(otherwise: int | str | Promise, *, awaited: bool) -> ViewFunction:
    def refuse(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if not isinstance(otherwise, int):
            return redirect(_address(str(otherwise), args, kwargs))
        if otherwise == HTTPStatus.NOT_FOUND:
            raise Http404
        if otherwise == HTTPStatus.FORBIDDEN:
            raise PermissionDenied
        return HttpResponse(status=otherwise)

    async def arefuse(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        return refuse(request, *args, **kwargs)  # at once: it needs no thread

    return arefuse if awaited else refuse


def _address(to: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    try:  # Where there are both, the URL has the args, and the kwargs are the pattern's own.
        return reverse(to, args=args, kwargs=None if args else kwargs)
    except NoReverseMatch:
        return to  # a name that takes no arguments, a path or a URL


def _check_view(owner: str, argument: str, view: Any) -> None:
    if isinstance(view, list | tuple):
        raise TypeError(
            f"{owner}: {argument} is an include(), which cannot depend on a flag: "
            "use flag_path() or flag_required() for the paths in it."
        )
    if isinstance(view, type):
        raise TypeError(
            f"{owner}: {argument} is the class {view.__name__}; give {view.__name__}.as_view()."
        )
    if not callable(view):
        raise TypeError(f"{owner}: {argument} must be a view, not {view!r}.")


def _check_otherwise(owner: str, otherwise: Any) -> None:
    if callable(otherwise):
        _check_view(owner, "otherwise", otherwise)
    elif isinstance(otherwise, bool) or not isinstance(otherwise, int | str | Promise):
        raise TypeError(
            f"{owner}: otherwise must be a status such as 404, where to redirect to, or a view; "
            f"not {otherwise!r}."
        )
    elif isinstance(otherwise, int) and not 400 <= otherwise < 500:  # noqa: PLR2004  # a client's errors
        raise ValueError(f"{owner}: otherwise must be a status from 400 to 499, not {otherwise}.")
    elif isinstance(otherwise, str) and not otherwise:
        raise ValueError(f"{owner}: otherwise is empty; give a URL, a path or the name of a URL.")
