"""Gives requests their features, and anonymous visitors the identity that the REST API would."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from asgiref.sync import iscoroutinefunction, markcoroutinefunction

from .identity import finish_response, remember_identity
from .request import Features

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse
    from django.http.response import HttpResponseBase


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
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)
            self.process_template_response = self._process_template_response_later

    def __call__(self, request: HttpRequest) -> HttpResponse | Awaitable[HttpResponse]:
        """Answer as the view does, and remember a new visitor."""
        request.features = Features(request)  # type: ignore[attr-defined]  # see FeaturesRequest
        response = self.get_response(request)
        if isinstance(response, Awaitable):
            return self._remember_later(request, response)
        finish_response(request, response)
        return response

    def process_template_response(
        self, request: HttpRequest, response: HttpResponseBase
    ) -> HttpResponseBase:
        """Remember the visitor before the response is rendered.

        `cache_page` stores it as soon as it is rendered, and on a method of REST framework's views
        it looks at REST framework's request, which `request.features` does not know.
        """
        remember_identity(request, response)
        return response

    async def _process_template_response_later(
        self, request: HttpRequest, response: HttpResponseBase
    ) -> HttpResponseBase:
        remember_identity(request, response)
        return response

    @staticmethod
    async def _remember_later(
        request: HttpRequest, coming: Awaitable[HttpResponse]
    ) -> HttpResponse:
        response = await coming
        finish_response(request, response)
        return response
