"""The REST API, and the least that DRF can do: a viewset that returns what is in memory."""

from __future__ import annotations

import time
from functools import cache
from typing import Any

from django.contrib.auth import get_user_model, login
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import include, path
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.routers import SimpleRouter
from rest_framework.viewsets import ViewSet


@cache
def content() -> Any:
    """Return the JSON that the REST API has for some visitor."""
    return Client().get("/api/features/").json()


class PlainViewSet(ViewSet):
    """Returns a dictionary; authentication, as for the REST API, is the host project's."""

    renderer_classes = [JSONRenderer]

    def list(self, request: Request) -> Response:
        return Response(content())


def cpu_seconds(request: HttpRequest) -> HttpResponse:
    """Return the CPU time that this process has taken."""
    return HttpResponse(str(time.process_time()))


def log_in(request: HttpRequest) -> HttpResponse:
    """Log a user in, without a password."""
    user, _ = get_user_model().objects.get_or_create(username="ann")
    login(request, user)
    return HttpResponse()


router = SimpleRouter()
router.register("features", PlainViewSet, basename="plain")

urlpatterns = [
    path("api/", include("olposthog_api.urls")),
    path("plain/", include(router.urls)),
    path("cpu-seconds/", cpu_seconds),
    path("log-in/", log_in),
]
