"""The REST API, and views in which flags are asked for in unusual places."""

from __future__ import annotations

import os
from collections.abc import Callable

from django.contrib.auth.models import Group
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import include, path

from olposthog.features import aevaluate, ais_enabled, evaluate
from olposthog.snapshot import Runtime

people_asked_for: list[str] = []
"""Whom requests to `flags_of_person` were about, in the order of their arrival."""


def name_worker(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[[HttpRequest], HttpResponse]:
    """Middleware: say which process answered."""

    def answer(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        response["X-Worker"] = str(os.getpid())
        return response

    return answer


def write_and_fail(request: HttpRequest) -> HttpResponse:
    """Write, ask for the flags of each of `?people=`, and fail."""
    Group.objects.create(name="of a request that fails")
    for person in request.GET["people"].split(","):
        evaluate(person)
    raise RuntimeError("the view fails")


async def flags_of_person(request: HttpRequest) -> HttpResponse:
    """Answer with the flags of `?person=`."""
    person = request.GET["person"]
    people_asked_for.append(person)
    snapshot = await aevaluate(person)
    new_nav = await ais_enabled("new-nav", opt_unique_id=person)
    return JsonResponse({"source": snapshot.source, "new-nav": new_nav})


async def flags_of_visitor(request: HttpRequest) -> HttpResponse:
    """Answer with what the REST API would say, from a coroutine."""
    snapshot = await aevaluate(request=request, runtime=Runtime.CLIENT)
    return JsonResponse({"distinct_id": snapshot.distinct_id, "features": dict(snapshot.flags)})


async def how_many_asked(request: HttpRequest) -> HttpResponse:
    """Answer with how many requests have come to `flags_of_person`."""
    return JsonResponse({"asked": len(people_asked_for)})


urlpatterns = [
    path("api/", include("olposthog_api.urls")),
    path("fails/", write_and_fail),
    path("async/person/", flags_of_person),
    path("async/visitor/", flags_of_visitor),
    path("async/asked/", how_many_asked),
]
