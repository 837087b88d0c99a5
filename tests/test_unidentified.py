"""Requests that the server cannot identify: `settings.FEATURES`, and no evaluation."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from django.contrib.auth import get_user_model
from django.core.cache import caches
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory
from django.utils.functional import SimpleLazyObject
from pytest_django import Settings

from olposthog._core import engine
from olposthog.bootstrap import bootstrap
from olposthog.features import (
    aevaluate,
    aget_all_feature_flags,
    aget_feature_flag,
    ais_enabled,
    default_unique_id,
    evaluate,
    for_request,
    get_all_feature_flags,
    get_feature_flag,
    is_enabled,
    report_exposure,
)
from olposthog.guards import flag_required
from olposthog.identity import Identity, default_identity, identify, remember_identity
from olposthog.inspection import identity_of
from olposthog.request import Features
from olposthog.snapshot import Runtime, Source
from olposthog.testing import override_flags
from tests.posthog_server import PATIENCE, Flag, PostHogServer
from tests.test_definitions import flag
from tests.test_exposures import told

FEATURES_URL = "/api/features/"
OTHERS: dict[str, bool | str] = {"new-nav": True}


async def _inside(request: HttpRequest) -> HttpResponse:
    return HttpResponse("inside")


def _sync_guarded(request: HttpRequest) -> HttpResponse:
    return HttpResponse("inside")


async def _is_let_in(request: HttpRequest) -> bool:
    response = await flag_required("internal-tools", otherwise=410)(_inside)(request)
    return bool(response.status_code == 200)


async def _is_let_in_sync(request: HttpRequest) -> bool:
    response = flag_required("internal-tools", otherwise=410)(_sync_guarded)(request)
    return bool(response.status_code == 200)


def _reader(read: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Return a coroutine function that calls a plain function in the event loop."""

    async def call(request: HttpRequest) -> Any:
        return read(request)

    return call


READERS: dict[str, Callable[[HttpRequest], Any]] = {
    "ais_enabled": lambda request: ais_enabled("internal-tools", request=request),
    "aget_feature_flag": lambda request: aget_feature_flag("internal-tools", request=request),
    "aget_all": lambda request: aget_all_feature_flags(request=request),
    "aevaluate": lambda request: aevaluate(request=request),
    "aevaluate client": lambda request: aevaluate(request=request, runtime=Runtime.CLIENT),
    "async guard": _is_let_in,
    "guard in a loop": _is_let_in_sync,
    "is_enabled": _reader(lambda request: is_enabled("internal-tools", request=request)),
    "get_feature_flag": _reader(
        lambda request: get_feature_flag("internal-tools", request=request)
    ),
    "get_all": _reader(lambda request: get_all_feature_flags(request=request)),
    "evaluate": _reader(lambda request: evaluate(request=request)),
    "for_request": _reader(for_request),
    "features": _reader(lambda request: Features(request)["internal-tools"]),
}


@pytest.fixture
def hasty(
    enabled: PostHogServer, settings: Settings, request: pytest.FixtureRequest
) -> Iterator[Callable[[], HttpRequest]]:
    """Make requests whose users do not load in time, of a site with a flag for itself."""
    settings.FEATURES = OTHERS
    enabled.flags = {"internal-tools": Flag(only_for={default_unique_id()}), "new-nav": False}
    assert evaluate().flags["internal-tools"] is True  # the caches have the server's own flags
    engine.current().settle(PATIENCE)
    enabled.clear()
    settings.POSTHOG_CIRCUIT_BREAKER_TRIP_THRESHOLD_SECONDS = 0.2
    loaded = threading.Event()

    def make() -> HttpRequest:
        request: Any = RequestFactory().get("/")
        request.user = SimpleLazyObject(lambda: loaded.wait(30) and get_user_model()(pk=7))
        return cast("HttpRequest", request)

    yield make
    loaded.set()


def flags_of(found: Any) -> dict[str, bool | str]:
    """Return all flags of what a reader returned; a single value is that of internal-tools."""
    if isinstance(found, dict):
        return found
    if isinstance(found, bool | str):
        return {"internal-tools": found} if found else OTHERS
    return dict(found.flags)


@pytest.mark.parametrize("name", READERS)
def test_a_user_who_loads_slowly_is_unidentified(
    enabled: PostHogServer, hasty: Callable[[], HttpRequest], name: str
) -> None:
    """Without time to find out who asks, FEATURES is used: nothing is evaluated or reported."""
    found = asyncio.run(READERS[name](hasty()))

    assert flags_of(found) == OTHERS
    assert enabled.flag_calls == []
    assert told(enabled) == []


def test_haste_is_no_cache_entry(enabled: PostHogServer, hasty: Callable[[], HttpRequest]) -> None:
    """What an unidentified person got is kept neither in the process nor in the shared cache."""
    shared: Any = caches["durable"]
    before = dict(shared._cache)

    snapshot = asyncio.run(aevaluate(request=hasty()))

    assert (snapshot.source, snapshot.distinct_id) == (Source.FALLBACK, "")
    assert (snapshot.anonymous, snapshot.evaluation) == (True, None)
    assert len(engine.current().memory) == 0
    assert shared._cache == before


def test_haste_is_for_no_page_cache(
    enabled: PostHogServer, hasty: Callable[[], HttpRequest], settings: Settings
) -> None:
    """A page for an unidentified person is private, also where the site names headers."""
    settings.POSTHOG_API_IDENTITY_HEADERS = ["Cookie"]
    request, response = hasty(), HttpResponse()

    asyncio.run(ais_enabled("internal-tools", request=request))
    remember_identity(request, response)

    assert response["Cache-Control"] == "private"
    assert "Cookie" in response["Vary"]


def test_definitions_decide_nothing_for_unidentified(
    hasty: Callable[[], HttpRequest], settings: Settings, tmp_path: Path
) -> None:
    """Local evaluation costs no time, and is for an unidentified person all the same."""
    settings.POSTHOG_FLAG_DEFINITIONS_FILE = tmp_path / "flags.json"
    definitions = [flag("internal-tools"), flag("new-nav")]
    (tmp_path / "flags.json").write_text(json.dumps({"flags": definitions}))
    assert is_enabled("internal-tools") is True

    snapshot = asyncio.run(aevaluate(request=hasty()))

    assert (snapshot.source, snapshot.flags) == (Source.FALLBACK, OTHERS)


def test_while_disabled_unidentified_is_told_so(
    hasty: Callable[[], HttpRequest], settings: Settings
) -> None:
    """With POSTHOG_ENABLED off the source is `disabled`, for unidentified requests too."""
    settings.POSTHOG_ENABLED = False

    assert asyncio.run(aevaluate(request=hasty())).source is Source.DISABLED


def test_tests_decide_for_unidentified_too(
    enabled: PostHogServer, hasty: Callable[[], HttpRequest]
) -> None:
    """A test's override holds for unidentified people too, and is no exposure."""
    with override_flags({"internal-tools": True}):
        assert asyncio.run(ais_enabled("internal-tools", request=hasty())) is True
    assert told(enabled) == []


# Users whom nothing tells from others


class Keyless:
    """What a site's own authentication may put into `request.user`."""

    is_authenticated = True


def keyless_request() -> HttpRequest:
    request: Any = RequestFactory().get("/")
    request.user = Keyless()
    return cast("HttpRequest", request)


def of_unidentified(request: HttpRequest) -> Identity:
    """An identity callable that cannot tell anybody."""
    return Identity("", {"plan": "free"}, anonymous=True)


@pytest.mark.parametrize(
    "callable_", [None, f"{__name__}.of_unidentified"], ids=["keyless", "callable"]
)
@pytest.mark.parametrize("runtime", Runtime)
def test_an_identity_of_unidentified(
    enabled: PostHogServer, settings: Settings, callable_: str | None, runtime: Runtime
) -> None:
    """A user without a primary key, or an identity without a distinct id, is unidentified."""
    settings.POSTHOG_API_IDENTITY = callable_
    settings.FEATURES = OTHERS
    enabled.flags = {"internal-tools": True, "new-nav": False}

    snapshot = for_request(keyless_request(), runtime=runtime, claims={"plan": "pro"})
    report_exposure(snapshot, "new-nav")

    assert (snapshot.source, snapshot.distinct_id) == (Source.FALLBACK, "")
    assert snapshot.flags == OTHERS
    assert enabled.requests == []
    assert told(enabled) == []


def test_a_user_without_a_distinct_id_is_a_mistake(settings: Settings) -> None:
    """An empty distinct id of a user who logged in is refused, as it may be anybody's."""
    settings.POSTHOG_API_IDENTITY = f"{__name__}.mistaken"

    with pytest.raises(TypeError, match="empty distinct_id"):
        identify(keyless_request())


def mistaken(request: HttpRequest) -> Identity:
    """An identity callable that forgets the id."""
    return Identity("")


def test_the_admin_says_that_a_user_is_unidentified(settings: Settings) -> None:
    """A look-up of a user who is unidentified shows no flags of the server's."""
    settings.POSTHOG_API_IDENTITY = f"{__name__}.of_unidentified"

    with pytest.raises(LookupError, match="no distinct id"):
        identity_of(get_user_model()(pk=7))


# Visitors of a site without the anonymous cookie


def test_visitors_without_cookies_are_not_the_server(
    enabled: PostHogServer, settings: Settings, client: Any
) -> None:
    """All visitors of a site without the cookie share one id, which is not the server's."""
    settings.POSTHOG_API_ANONYMOUS_COOKIE = None
    enabled.flags = {"internal-tools": Flag(only_for={default_unique_id()}), "for-all": True}

    answer = client.get(FEATURES_URL).json()

    assert answer["features"] == {"internal-tools": False, "for-all": True}
    assert answer["distinct_id"] == "$anonymous"
    assert enabled.flag_calls[0]["person_properties"]["user_id"] == "$anonymous"


@pytest.mark.parametrize("shared", ["", "$anonymous"])
def test_a_bootstrap_names_no_shared_person(
    enabled: PostHogServer, settings: Settings, shared: str
) -> None:
    """posthog-js makes an id of its own where the server has none for this browser alone."""
    settings.POSTHOG_API_ANONYMOUS_COOKIE = None
    settings.FEATURES = OTHERS
    request = RequestFactory().get("/") if shared else keyless_request()
    snapshot = for_request(request, runtime=Runtime.CLIENT)

    assert snapshot.distinct_id == shared
    assert bootstrap(snapshot) == {"featureFlags": OTHERS, "featureFlagPayloads": {}}


def test_the_default_identity_of_unidentified_can_be_completed(settings: Settings) -> None:
    """`default_identity` returns an identity for them too, which a callable may complete."""
    assert default_identity(keyless_request()) == Identity("", anonymous=True, device_id="")
