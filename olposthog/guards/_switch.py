"""One view made of two, sync or async: which of them answers is a matter of a flag."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any, TypeAlias

from asgiref.sync import async_to_sync, iscoroutinefunction, sync_to_async
from django.conf import settings
from django.http import HttpRequest, HttpResponseBase
from django.middleware.cache import UpdateCacheMiddleware
from django.views import View

from olposthog._http.page_caching import PAGE_CACHES
from olposthog.identity import remember_identity

from ._condition import FlagCondition

ViewFunction: TypeAlias = Callable[..., Any]

POLICIES = {"authentication_classes", "permission_classes", "throttle_classes"}
"""Attributes that REST framework's `@api_view` takes from the function below it."""


def switched(condition: FlagCondition, on: ViewFunction, off: ViewFunction) -> ViewFunction:
    """Return a view that answers as `on` does where the condition holds, else as `off` does.

    A function becomes async if either of the two is, a method only if its class is. Its
    answers name their `Vary` and give a new visitor the cookie: caches around it keep people apart.
    """
    if is_async(on) or (is_async(off) and _class_based(on) is None):
        return _async_switch(condition, _awaitable(on), _awaitable(off))
    return _sync_switch(condition, _blocking(on), _blocking(off))


def shared_attributes(on: ViewFunction, off: ViewFunction) -> dict[str, Any]:
    """Return what decorators left on both views.

    What they leave decides about safety, as `csrf_exempt` and `login_not_required` do: where two
    views have one address, what holds for one of them only must not hold for the other.
    """
    of_on, of_off = attributes(on), attributes(off)
    shared = {key: value for key, value in of_on.items() if key in of_off and of_off[key] == value}
    lost = (POLICIES & (of_on.keys() | of_off.keys())) - shared.keys()
    if lost:
        raise TypeError(
            f"The two views differ in {', '.join(sorted(lost))}: put REST framework's decorators "
            "above flag_required, where they hold for both."
        )
    return shared


def check_page_caches(on: ViewFunction | list[Any], off: Any) -> None:
    """Raise TypeError if `cache_page` below a guard shares a key with another page of the address.

    The first page stored would be served to all visitors. The other page is that of the view
    `off`, or the whole address in Django's site-wide cache. `on` may be a list of methods.
    """
    of_on, of_off = _page_caches(on, set()), _page_caches(off, set())
    of_site = {
        (settings.CACHE_MIDDLEWARE_ALIAS, settings.CACHE_MIDDLEWARE_KEY_PREFIX)
        for middleware in settings.MIDDLEWARE or ()
        if middleware in PAGE_CACHES
    }
    if of_on & of_off or (of_on | of_off) & of_site:
        raise TypeError(
            "cache_page below a guard stores a page under a key that another page of the same "
            'address has. Give it a key_prefix, as in cache_page(60, key_prefix="new").'
        )


def _page_caches(part: Any, seen: set[Any]) -> set[tuple[str, str]]:
    """Return alias and key prefix of the page caches in the functions that make up a view."""
    if isinstance(part, UpdateCacheMiddleware):
        return {(part.cache_alias, part.key_prefix)}
    parts: list[Any] = []
    if isinstance(part, list):
        parts = part
    elif isinstance(part, FunctionType) and part not in seen:
        seen.add(part)
        cells = zip(part.__code__.co_freevars, part.__closure__ or (), strict=True)
        variables = {name: cell.cell_contents for name, cell in cells}
        parts = list(variables.values())
        # Django's names: `as_view()` calls the class so, and `method_decorator` its decorators.
        parts += _methods_of(variables.get("cls"))
        parts += [decorator(_view) for decorator in variables.get("decorators", ())]
    return set().union(*(_page_caches(one, seen) for one in parts))


def _methods_of(view_class: Any) -> list[Any]:
    """Return the functions of a class of views and of its bases; none for anything else."""
    if not (isinstance(view_class, type) and issubclass(view_class, View)):
        return []
    return [one for base in view_class.__mro__ for one in vars(base).values()]


def _view(request: HttpRequest, *args: Any, **kwargs: Any) -> None:
    """Stand in for a method, to see what a decorator makes of it."""


def attributes(view: ViewFunction) -> dict[str, Any]:
    """Return what decorators left on the view."""
    return getattr(view, "__dict__", {})


def is_async(view: ViewFunction) -> bool:
    """Return whether what the view returns must be awaited."""
    owner = _class_based(view)
    return bool(owner.view_is_async) if owner else iscoroutinefunction(view)


def _class_based(view: ViewFunction) -> View | None:
    """Return the class-based view whose method it is, as `method_decorator` hands it over."""
    owner = getattr(getattr(view, "func", view), "__self__", None)
    return owner if isinstance(owner, View) else None


def _sync_switch(condition: FlagCondition, on: ViewFunction, off: ViewFunction) -> ViewFunction:
    def switch(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        chosen = on if condition.holds(_checked(request)) else off
        return _remembered(request, chosen(request, *args, **kwargs))

    return switch


def _async_switch(condition: FlagCondition, on: ViewFunction, off: ViewFunction) -> ViewFunction:
    async def switch(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        chosen = on if await condition.aholds(_checked(request)) else off
        return _remembered(request, await chosen(request, *args, **kwargs))

    return switch


def _remembered(request: HttpRequest, response: Any) -> Any:
    if isinstance(response, HttpResponseBase):
        remember_identity(request, response)
    return response


def _awaitable(view: ViewFunction) -> ViewFunction:
    return view if is_async(view) else sync_to_async(view, thread_sensitive=True)


def _blocking(view: ViewFunction) -> ViewFunction:
    return async_to_sync(view) if is_async(view) else view


def _checked(request: Any) -> HttpRequest:
    if isinstance(request, View):
        raise TypeError(
            f"flag_required() decorates functions, and was put on a method of "
            f"{type(request).__name__}: use @method_decorator(flag_required(...))."
        )
    return request  # type: ignore[no-any-return]  # Django's, or REST framework's
