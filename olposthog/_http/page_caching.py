"""Whether caches may keep an answer that depends on who asks.

Django's page caches, `cache_page` and UpdateCacheMiddleware, and shared caches such as nginx give
a stored answer to every request that agrees in the headers that `Vary` names. An identity may come
from any header. So answers are private, unless POSTHOG_API_IDENTITY_HEADERS names the headers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.utils.cache import patch_cache_control

if TYPE_CHECKING:
    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

PAGE_CACHES = frozenset(
    {"django.middleware.cache.UpdateCacheMiddleware", "django.middleware.cache.CacheMiddleware"}
)
"""The middleware by which Django caches all pages of a site."""

_IS_HELD = "olposthog.page_cache_is_held"
_MAY_STORE = "_cache_update_cache"
"""The attribute of a request by which Django's page caches decide whether to store its answer."""


def hold(request: HttpRequest) -> None:
    """Keep Django's page caches from storing the answer before it names its `Vary`.

    A cache inside IdentityMiddleware, such as `cache_page`, sees the answer before it does.
    """
    for one in _both(request):
        if getattr(one, _MAY_STORE, False):
            setattr(one, _MAY_STORE, False)
            request.META[_IS_HELD] = True


def release(request: HttpRequest) -> None:
    """Let the caches outside of the caller store the answer, which names its `Vary` now."""
    if request.META.pop(_IS_HELD, False):
        for one in _both(request):
            setattr(one, _MAY_STORE, True)


def make_private(response: HttpResponseBase) -> None:
    """Forbid all caches but the browser's own, whatever the view allowed."""
    directives = response.get("Cache-Control", "").split(",")
    if not any(one.strip().lower() == "private" for one in directives):
        patch_cache_control(response, private=True)


def _both(request: HttpRequest) -> list[Any]:
    """Return Django's request, and REST framework's wrapper of it if that was given."""
    wrapped = getattr(request, "_request", None)
    return [request] if wrapped is None else [request, wrapped]
