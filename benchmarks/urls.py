"""The REST API, and beside it the least that DRF can do: a viewset with the answer in memory."""

from __future__ import annotations

from django.urls import include, path
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.routers import SimpleRouter
from rest_framework.viewsets import ViewSet

ANSWER: object = None
"""What the viewset returns."""


class PlainViewSet(ViewSet):
    """Returns a dictionary; authentication, as for the REST API, is the host project's."""

    renderer_classes = [JSONRenderer]

    def list(self, request: Request) -> Response:
        return Response(ANSWER)


router = SimpleRouter()
router.register("features", PlainViewSet, basename="plain")

urlpatterns = [
    path("api/", include("olposthog_api.urls")),
    path("plain/", include(router.urls)),
]
