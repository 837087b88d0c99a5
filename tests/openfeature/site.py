"""The site that the clients ask: the REST API and OFREP, with a log-in for tests, behind a gateway.

The gateway answers 503 as long as the file that `GATEWAY_CLOSED` names is there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from django.conf import settings
from django.contrib.auth import get_user_model, login
from django.http import HttpRequest, HttpResponse
from django.urls import include, path
from django.views.decorators.csrf import csrf_exempt

PASSWORD = "demo"


def gateway(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[[HttpRequest], HttpResponse]:
    """Middleware: let nothing of OFREP through while the gateway is closed."""
    closed = Path(settings.GATEWAY_CLOSED)  # type: ignore[misc]  # a setting of this site alone

    def answer(request: HttpRequest) -> HttpResponse:
        if request.path.startswith("/ofrep/") and closed.exists():
            return HttpResponse("Service unavailable", status=503)
        return get_response(request)

    return answer


@csrf_exempt
def log_in(request: HttpRequest) -> HttpResponse:
    """Log in the person of `?name=`."""
    user = get_user_model().objects.get(username=request.GET["name"])
    login(request, user, "django.contrib.auth.backends.ModelBackend")
    return HttpResponse()


def make_people() -> None:
    """Make the people who can log in; for a process of its own."""
    for number, name in enumerate(("ada", "grace"), 1):
        get_user_model().objects.create_user(name, password=PASSWORD, pk=number)


urlpatterns = [
    path("", include("olposthog_api.ofrep.urls")),
    path("api/", include("olposthog_api.urls")),
    path("log-in/", log_in),
    path("page/", lambda request: HttpResponse("<!doctype html><title>A page</title>")),
]
