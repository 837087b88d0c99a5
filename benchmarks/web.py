"""What a browser's request costs, from Django's handler on: no server, no socket."""

from __future__ import annotations

import json
from enum import Enum
from functools import cache
from http import HTTPStatus

from django.contrib.auth import get_user_model
from django.core.handlers.base import BaseHandler
from django.core.handlers.wsgi import WSGIRequest
from django.http import HttpResponse
from django.test import Client, RequestFactory

from .tasks import seconds_per_call

FEATURES_PATH = "/api/features/"
PLAIN_PATH = "/plain/features/"


class Visitor(Enum):
    """Who sends a request."""

    ANONYMOUS = "anonymous, with our cookie"
    LOGGED_IN = "logged in"


def get(path: str, visitor: Visitor, *, conditional: bool = False) -> float:
    """Time a GET: middleware, routing, view and rendering. A conditional one comes to a 304.

    The handler closes no database connection after a request, so that what it costs to open one
    does not hide what the views cost.
    """
    from . import urls

    first, cookies = _first_visit(visitor)
    urls.ANSWER = json.loads(first.content)
    headers = {"Cookie": cookies}
    if conditional:
        headers["If-None-Match"] = first["ETag"]
    environ = RequestFactory().get(path, headers=headers).environ
    handler = _handler()

    def respond() -> HttpResponse:
        response = handler.get_response(WSGIRequest(environ.copy()))
        assert isinstance(response, HttpResponse)
        return response

    response = respond()
    if conditional:
        as_expected = response.status_code == HTTPStatus.NOT_MODIFIED
    else:
        as_expected = json.loads(response.content) == json.loads(first.content)
    if not as_expected:
        raise RuntimeError(f"{path} answered {response.status_code} {response.content!r}")
    return seconds_per_call(respond)


@cache
def _handler() -> BaseHandler:
    handler = BaseHandler()
    handler.load_middleware()
    return handler


@cache
def _first_visit(visitor: Visitor) -> tuple[HttpResponse, str]:
    """Return the flags that a visitor gets at first, and the cookies to come back with."""
    client = Client()
    if visitor is Visitor.LOGGED_IN:
        client.force_login(get_user_model().objects.create_user("ann"))
    first = client.get(FEATURES_PATH)
    cookies = (f"{name}={morsel.value}" for name, morsel in client.cookies.items())
    return HttpResponse(first.content, headers=first.headers), "; ".join(cookies)
