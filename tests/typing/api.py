"""What type checkers make of the public API. It is never run: `make types` reads it.

A line that must be refused bears a reasoned ignore; one that is needless is an error itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, assert_type
from unittest import TestCase
from uuid import UUID

from django.dispatch import Signal
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, reverse_lazy
from django.views.generic import TemplateView
from rest_framework.request import Request
from rest_framework.routers import SimpleRouter
from rest_framework.viewsets import ViewSet

from olposthog import counters, features, signals
from olposthog._evaluation.decision import JSON
from olposthog.bootstrap import Bootstrap, bootstrap
from olposthog.guards import FlagRequiredMixin, flag_path, flag_required
from olposthog.identity import Identity, default_identity, device_id_of
from olposthog.inspection import InspectedFlag, Inspection, inspect
from olposthog.request import Features, FeaturesRequest
from olposthog.snapshot import FlagSnapshot, Runtime, Source
from olposthog.status import Health, status
from olposthog.testing import Flags, UnexpectedFlag, override_flags
from olposthog_api.permissions import FlagPermission
from olposthog_api.views import FeatureViewSet


def python(request: HttpRequest, uuid: UUID) -> None:
    """The functions that a site calls."""
    assert_type(features.configure(), None)
    assert_type(features.default_unique_id(), str)
    assert_type(features.is_enabled("new-nav"), bool)
    assert_type(features.is_enabled("new-nav", False, "42"), bool)
    assert_type(features.is_enabled("new-nav", default=True, opt_unique_id=42), bool)
    assert_type(features.is_enabled("new-nav", opt_unique_id=uuid), bool)
    assert_type(features.is_enabled("new-nav", request=request), bool)
    assert_type(
        features.is_enabled(
            "new-nav",
            opt_unique_id="42",
            person_properties={"plan": "pro", "since": datetime.now()},  # noqa: DTZ005  # any
            groups={"company": 7},
            group_properties={"company": {"size": 3}},
            device_id="d",
        ),
        bool,
    )
    assert_type(features.get_feature_flag("checkout", "control"), bool | str)
    assert_type(features.get_feature_flag_payload("checkout", "42"), JSON)
    assert_type(features.get_all_feature_flags("42"), dict[str, bool | str])
    assert_type(features.evaluate("42", runtime=Runtime.CLIENT), FlagSnapshot)
    assert_type(features.for_request(request, claims={"plan": "pro"}), FlagSnapshot)
    assert_type(features.clear_cache(), None)

    features.is_enabled(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no name
    features.is_enabled("x", opt_unique_id=1.5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no id
    features.is_enabled("x", opt_unique_id=(1, 2))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no id
    features.is_enabled("x", device_id=7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no text
    features.is_enabled("x", "control")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no bool
    features.is_enabled("x", propertis={})  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # misspelt


async def coroutines(request: HttpRequest) -> None:
    """Their twins."""
    assert_type(await features.ais_enabled("new-nav", request=request), bool)
    assert_type(await features.aget_feature_flag("checkout", "control"), bool | str)
    assert_type(await features.aget_all_feature_flags(), dict[str, bool | str])
    assert_type(await features.aevaluate("42", runtime=Runtime.CLIENT), FlagSnapshot)


def snapshots(snapshot: FlagSnapshot) -> None:
    """What an evaluation found."""
    assert_type(snapshot.distinct_id, str)
    assert_type(snapshot.flags, Mapping[str, bool | str])
    assert_type(snapshot.payloads, Mapping[str, JSON])
    assert_type(snapshot.reasons, Mapping[str, str])
    assert_type(snapshot.source, Source)
    assert_type(snapshot.evaluated_at, datetime)
    assert_type(bootstrap(snapshot), Bootstrap)
    assert_type(features.report_exposure(snapshot, "checkout", session_id=None), None)

    snapshot.source = Source.STALE  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]  # frozen
    snapshot.flags["x"] = True  # type: ignore[index]  # pyright: ignore[reportIndexIssue]  # read-only


def identity(request: HttpRequest) -> Identity:
    """What POSTHOG_API_IDENTITY names."""
    assert_type(default_identity(request).distinct_id, str)
    assert_type(default_identity(request).device_id, str | None)
    assert_type(device_id_of(request), str | None)
    return Identity("42", person_properties={"plan": "pro"}, groups={"company": "acme"})


def watching() -> None:
    """Signals and counters."""
    assert_type(signals.circuit_opened, Signal)
    assert_type(counters.read(), dict[str, dict[str, int]])


@override_flags({"new-nav": True, "checkout": "test"}, payloads={"checkout": {"colour": "green"}})
def decorated(number: int, *, word: str) -> tuple[int, str]:
    """A decorated function keeps its type."""
    return number, word


@override_flags({"new-nav": True}, for_id=42, strict=True, ask_posthog=False)
async def decorated_coroutine(number: int) -> str:
    """And so does a coroutine."""
    return str(number)


@override_flags({"new-nav": True})
class Decorated(TestCase):
    """And a class."""

    attribute: int = 1


async def testing(flags: Flags) -> None:
    """What tests use."""
    assert_type(decorated(1, word="a"), tuple[int, str])
    assert_type(await decorated_coroutine(1), str)
    assert_type(Decorated.attribute, int)
    with override_flags({"new-nav": True}) as nothing:
        assert_type(nothing, None)
    assert_type(flags({"new-nav": True}, for_id="42", strict=True), None)
    assertion: type[AssertionError] = UnexpectedFlag
    decorated("1", word="a")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no int
    override_flags({"new-nav": 1.5})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]  # no value
    del assertion


@flag_required("new-nav", variant=None, otherwise=404)
def guarded(request: HttpRequest, tea: int) -> HttpResponse:
    """A guarded view keeps its type."""
    return HttpResponse(str(tea))


@flag_required("checkout", variant="test", otherwise=guarded)
async def guarded_coroutine(request: HttpRequest, tea: int) -> HttpResponse:
    """And so does a coroutine."""
    return HttpResponse(str(tea))


class GuardedView(FlagRequiredMixin, TemplateView):
    """A class-based view with attributes in place of arguments."""

    flag_required = "new-nav"
    flag_variant = "test"
    flag_otherwise = reverse_lazy("home")


class GuardedViewSet(FlagRequiredMixin, ViewSet):
    """A viewset, whose `as_view()` takes its actions."""

    flag_required = "new-nav"


class NewCheckout(FlagPermission):
    """A permission of one flag."""

    flag = "new-checkout"


async def guards(request: HttpRequest) -> None:
    """What depends on a flag as a whole."""
    assert_type(guarded(request, 7), HttpResponse)
    assert_type(await guarded_coroutine(request, 7), HttpResponse)
    assert_type(flag_path("tea/", flag="new-nav", on=guarded, off=guarded), URLPattern)

    assert_type(GuardedView.as_view(flag_variant="other"), Any)
    assert_type(GuardedViewSet.as_view({"get": "list"}), Any)
    SimpleRouter().register("teas", GuardedViewSet, basename="tea")

    guarded(request, "7")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no int
    flag_required(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no name
    flag_required("x", otherwise=4.04)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no answer


def of_the_request(request: FeaturesRequest) -> None:
    """What the middleware puts on a request."""
    assert_type(request.features, Features)
    assert_type(request.features.is_enabled("new-nav"), bool)
    assert_type(request.features.get_feature_flag("checkout", "control"), bool | str)
    assert_type(request.features.get_feature_flag_payload("checkout"), JSON)
    assert_type(request.features["checkout"], bool | str)
    assert_type(request.features.snapshot, FlagSnapshot)


def operating() -> None:
    """What an operator's own code asks."""
    assert_type(status().health, Health)
    assert_type(status().reasons, tuple[str, ...])
    assert_type(status().headline, str)
    assert_type(inspect(Identity("42")), Inspection)
    assert_type(inspect(Identity("42")).flags, tuple[InspectedFlag, ...])


class Members(FeatureViewSet):
    """A view of the site's own."""

    def list(self, request: Request) -> HttpResponse:
        return super().list(request)


def nothing_is_any(value: Any) -> None:
    """`assert_type` above would pass for no Any: this holds it to that."""
    assert_type(value, bool)  # type: ignore[assert-type]  # pyright: ignore[reportAssertTypeFailure]  # Any
