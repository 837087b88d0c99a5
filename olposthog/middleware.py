"""Gives requests their features, and anonymous visitors the identity that the REST API would."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias

from asgiref.sync import iscoroutinefunction, markcoroutinefunction

from .identity import finish_response, remember_identity
from .request import Features

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse
    from django.http.response import HttpResponseBase

    ResponseHook: TypeAlias = Callable[
        [HttpRequest, HttpResponseBase], HttpResponseBase | Awaitable[HttpResponseBase]
    ]


class IdentityMiddleware:
    """Sets `request.features`, and the visitor's cookie on pages whose flags depend on the visitor.

    Put it anywhere in MIDDLEWARE, but after one that caches pages. A page that asks for no flags by
    request gets neither a cookie nor a `Vary`. A streamed body that asks for flags by request first
    raises RuntimeError, because the response's headers are sent.
    """

    sync_capable = True
    async_capable = True

    def __init__(
        self, get_response: Callable[[HttpRequest], HttpResponse | Awaitable[HttpResponse]]
    ) -> None:
        self.get_response = get_response
        self.process_template_response: ResponseHook = self._remember_early
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)
            self.process_template_response = self._aremember_early

    def __call__(self, request: HttpRequest) -> HttpResponse | Awaitable[HttpResponse]:
        """Answer as the view does, and remember a new visitor."""
        request.features = Features(request)  # type: ignore[attr-defined]  # see FeaturesRequest
        response = self.get_response(request)
        if isinstance(response, Awaitable):
            return self._remember_later(request, response)
        finish_response(request, response)
        return response

    def _remember_early(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        """Add the headers to a response that is not rendered yet.

        `cache_page` stores it as soon as it is rendered. On a method of REST framework's views it
        looks at REST framework's request for that, which `request.features` does not know.
        """
        remember_identity(request, response)
        return response

    async def _aremember_early(
        self, request: HttpRequest, response: HttpResponseBase
    ) -> HttpResponseBase:
        return self._remember_early(request, response)  # without a thread

    @staticmethod
    async def _remember_later(
        request: HttpRequest, coming: Awaitable[HttpResponse]
    ) -> HttpResponse:
        response = await coming
        finish_response(request, response)
        return response
