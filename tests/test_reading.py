"""Evaluate what is read: PostHog is asked for a person only if a flag that is read needs it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth import get_user_model
from django.core.cache import caches
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.template import RequestContext, Template
from django.test import Client, RequestFactory
from django.urls import include, path
from pytest_django import Settings

from olposthog.features import (
    aget_all_feature_flags,
    ais_enabled,
    evaluate,
    for_request,
    get_all_feature_flags,
    get_feature_flag,
    get_feature_flag_payload,
    is_enabled,
)
from olposthog.guards import flag_path, flag_required
from olposthog.identity import BROWSER_ID_HEADER, Identity
from olposthog.snapshot import Source
from tests.posthog_server import Flag, PostHogServer
from tests.test_definitions import flag, where
from tests.test_local import boot

PLAN = {"key": "plan", "type": "person", "value": ["pro"], "operator": "exact"}
DECIDED = flag("decided", {**where(), "payloads": {"true": '{"colour": "green"}'}})
UNDECIDED = flag("undecided", where(PLAN))
BROWSER_ID = "0192d7a4-1111-4000-8000-000000000001"


def shown(template: str) -> Callable[[HttpRequest], HttpResponse]:
    """A view that renders a template."""

    def view(request: HttpRequest) -> HttpResponse:
        text = "{% load olposthog %}" + template
        return HttpResponse(Template(text).render(RequestContext(request)))

    return view


def new(request: HttpRequest) -> HttpResponse:
    return HttpResponse("on")


def old(request: HttpRequest) -> HttpResponse:
    return HttpResponse("off")


def tag(key: str) -> Callable[[HttpRequest], HttpResponse]:
    return shown(f'{{% flag "{key}" %}}on{{% elseflag %}}off{{% endflag %}}')


def attribute(key: str) -> Callable[[HttpRequest], HttpResponse]:
    def view(request: HttpRequest) -> HttpResponse:
        features: Any = request.features  # type: ignore[attr-defined]  # IdentityMiddleware's
        return HttpResponse("on" if features.is_enabled(key) else "off")

    return view


def for_keys(key: str) -> Callable[[HttpRequest], HttpResponse]:
    def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse("on" if for_request(request, keys=[key]).flags[key] else "off")

    return view


def full_list(request: HttpRequest) -> HttpResponse:
    return JsonResponse(dict(for_request(request).flags))


WAYS = {
    "flag": tag,
    "flag-variant": lambda key: shown(f'{{% flag_variant "{key}" %}}'),
    "flag-payload": lambda key: shown(f'{{% flag_payload "{key}" as it %}}{{{{ it }}}}'),
    "for-request": for_keys,
    "request-features": attribute,
    "flag-required": lambda key: flag_required(key, otherwise=410)(new),
}
urlpatterns = [
    *(
        path(f"{name}/{key}/", way(key))
        for name, way in WAYS.items()
        for key in ("decided", "undecided")
    ),
    *(
        flag_path(f"flag-path/{key}/", flag=key, on=new, off=old)
        for key in ("decided", "undecided")
    ),
    path("list/", full_list),
    path("api/", include("olposthog_api.urls")),
]
READINGS = [*WAYS, "flag-path"]
pytestmark = pytest.mark.urls(__name__)


@pytest.fixture
def site(enabled: PostHogServer, settings: Settings) -> PostHogServer:
    """A site whose definitions decide one flag, and another for those whose plan is known."""
    settings.POSTHOG_PERSONAL_API_KEY = enabled.secret
    enabled.flags = {"decided": False, "undecided": Flag(True, payload={"colour": "red"})}
    define(enabled, DECIDED, UNDECIDED)
    return enabled


def define(posthog: PostHogServer, *flags: dict[str, object], **more: object) -> None:
    posthog.definitions = {"flags": flags, **more}
    caches["durable"].clear()  # it has the former definitions
    boot()
    posthog.clear()


@pytest.fixture
def undecided_for_visitors(site: PostHogServer) -> PostHogServer:
    """A site one of whose flags PostHog has to evaluate, whoever asks."""
    define(site, DECIDED, flag("undecided", ensure_experience_continuity=True))
    return site


# Python


def test_decided_flag_sends_no_request(site: PostHogServer) -> None:
    """Another flag that is undecided costs nothing until it is read."""
    assert is_enabled("decided", opt_unique_id="ann")
    assert get_feature_flag("decided", opt_unique_id="ann") is True
    assert get_feature_flag_payload("decided", opt_unique_id="ann") == {"colour": "green"}
    assert is_enabled("unknown", opt_unique_id="ann") is False

    assert site.flag_calls == []


def test_undecided_flag_asks_once(site: PostHogServer) -> None:
    """Whatever is read after it, and in whichever order, there is one call for a person."""
    assert is_enabled("decided", opt_unique_id="ann")
    assert is_enabled("undecided", opt_unique_id="ann")
    assert len(site.flag_calls) == 1

    assert get_feature_flag_payload("undecided", opt_unique_id="ann") == {"colour": "red"}
    assert is_enabled("decided", opt_unique_id="ann")
    assert get_all_feature_flags("ann") == {"decided": True, "undecided": True}
    assert len(site.flag_calls) == 1


@pytest.mark.parametrize("listed", [get_all_feature_flags, lambda one: evaluate(one).flags])
def test_full_list_asks_once(site: PostHogServer, listed: Callable[[str], Any]) -> None:
    """A list needs every flag."""
    assert is_enabled("decided", opt_unique_id="ann")

    for _ in range(3):
        assert dict(listed("ann")) == {"decided": True, "undecided": True}

    assert len(site.flag_calls) == 1
    assert is_enabled("undecided", opt_unique_id="ann")
    assert len(site.flag_calls) == 1


def test_full_list_of_decided_flags_sends_no_request(site: PostHogServer) -> None:
    """A person whose properties decide all flags costs no request."""
    found = get_all_feature_flags("ann", person_properties={"plan": "pro"})

    assert found == {"decided": True, "undecided": True}
    assert site.flag_calls == []


def test_each_person_is_asked_for_once(site: PostHogServer) -> None:
    """Requests follow people, not reads."""
    for _ in range(2):
        for person in ("ann", "bob", "cy"):
            assert is_enabled("undecided", opt_unique_id=person)

    assert [call["distinct_id"] for call in site.flag_calls] == ["ann", "bob", "cy"]


def test_coroutines_read_alike(site: PostHogServer) -> None:
    """The async functions ask as often as their twins."""

    async def read() -> list[int]:
        counts = []
        for reading in (
            ais_enabled("decided", opt_unique_id="ann"),
            ais_enabled("undecided", opt_unique_id="ann"),
            ais_enabled("undecided", opt_unique_id="ann"),
            aget_all_feature_flags("bob"),
            aget_all_feature_flags("bob"),
        ):
            await reading
            counts.append(len(site.flag_calls))
        return counts

    assert async_to_sync(read)() == [0, 1, 1, 2, 2]


# Requests: views, templates and guards


@pytest.mark.parametrize("reading", READINGS)
def test_request_that_reads_a_decided_flag_sends_none(
    undecided_for_visitors: PostHogServer, client: Client, reading: str
) -> None:
    """In a view, a template or a guard, at the first visit and the next."""
    responses = [client.get(f"/{reading}/decided/") for _ in range(2)]

    assert {one.content for one in responses} <= {
        b"on",
        b"True",
        b"{&#x27;colour&#x27;: &#x27;green&#x27;}",
    }
    assert undecided_for_visitors.flag_calls == []


@pytest.mark.parametrize("reading", READINGS)
def test_request_that_reads_an_undecided_flag_asks_once(
    undecided_for_visitors: PostHogServer, client: Client, reading: str
) -> None:
    """The visitor is asked for once, whatever else is read later."""
    responses = [
        client.get(f"/{reading}/{key}/") for key in ("decided", "undecided", "undecided", "decided")
    ]
    assert {one.status_code for one in responses} == {200}

    assert client.get("/list/").json() == {"decided": True, "undecided": True}
    assert len(undecided_for_visitors.flag_calls) == 1


def test_keys_select_what_is_asked_for(undecided_for_visitors: PostHogServer) -> None:
    """`for_request` with keys leaves the others as the definitions have them."""
    request = RequestFactory().get("/")

    few = for_request(request, keys=["decided"])
    assert (few.source, few.flags["decided"]) == (Source.LOCAL, True)
    assert "undecided" not in few.flags
    assert undecided_for_visitors.flag_calls == []

    both = for_request(request, keys=["decided", "undecided"])
    assert (both.source, both.flags["undecided"]) == (Source.POSTHOG, True)
    assert for_request(request, keys=["decided"]) is both
    assert len(undecided_for_visitors.flag_calls) == 1


# Visitors with our cookie have no other properties than those that are passed


def test_visitors_cost_no_request(site: PostHogServer, client: Client) -> None:
    """A flag by a property that is not passed is decided: PostHog has no profile of visitors."""
    answers = [client.get("/api/features/") for _ in range(2)]

    assert {one.json()["source"] for one in answers} == {"local"}
    assert [one.json()["features"] for one in answers] == [
        {"decided": True, "undecided": False}
    ] * 2
    assert client.get("/flag/undecided/").content == b"off"
    assert site.flag_calls == []


def test_negated_filter_matches_visitors(site: PostHogServer, client: Client) -> None:
    """As PostHog's servers match a property that is absent."""
    define(site, flag("others", where({**PLAN, "operator": "is_not"})))

    assert client.get("/api/features/").json()["features"] == {"others": True}
    assert site.flag_calls == []


def test_property_that_is_passed_decides_for_visitors(
    site: PostHogServer, settings: Settings, client: Client
) -> None:
    """What the site knows of a visitor counts, and costs no request either."""
    settings.POSTHOG_API_IDENTITY = f"{__name__}.visitor_with_a_plan"
    boot()
    site.clear()

    assert client.get("/api/features/").json()["features"] == {"decided": True, "undecided": True}
    assert site.flag_calls == []


def visitor_with_a_plan(request: HttpRequest) -> Identity:
    return Identity("visitor", {"plan": "pro"}, anonymous=True, properties_complete=True)


def visitor_in_a_company(request: HttpRequest) -> Identity:
    return Identity("visitor", groups={"company": "acme"}, anonymous=True, properties_complete=True)


def test_properties_of_a_visitors_groups_stay_unknown(
    site: PostHogServer, settings: Settings, client: Client
) -> None:
    """PostHog keeps properties of groups, whoever is in them."""
    settings.POSTHOG_API_IDENTITY = f"{__name__}.visitor_in_a_company"
    by_group = {**where({**PLAN, "type": "group"}), "aggregation_group_type_index": 0}
    define(site, flag("undecided", by_group), group_type_mapping={"0": "company"})

    assert client.get("/api/features/").json()["features"]["undecided"] is True
    assert len(site.flag_calls) == 1


def test_id_of_posthog_js_stays_undecided(
    site: PostHogServer, settings: Settings, client: Client
) -> None:
    """posthog-js may have set properties of the person whose id it claims."""
    settings.POSTHOG_API_TRUST_BROWSER_ID = True
    boot()
    site.clear()
    headers = {BROWSER_ID_HEADER: BROWSER_ID}

    assert client.get("/api/features/", headers=headers).json()["features"]["undecided"] is True
    assert [call["distinct_id"] for call in site.flag_calls] == [BROWSER_ID]

    site.clear()
    kept = quote(json.dumps({"distinct_id": BROWSER_ID.replace("0192", "0193")}))
    client.cookies[f"ph_{site.token}_posthog"] = kept
    assert client.get("/api/features/").json()["features"]["undecided"] is True
    assert len(site.flag_calls) == 1


def test_visitor_without_a_claim_is_decided_next_to_those_with_one(
    site: PostHogServer, settings: Settings, client: Client
) -> None:
    """The setting changes nothing for browsers without posthog-js."""
    settings.POSTHOG_API_TRUST_BROWSER_ID = True
    boot()
    site.clear()

    assert client.get("/api/features/").json()["features"]["undecided"] is False
    assert site.flag_calls == []


@pytest.mark.django_db
def test_user_stays_undecided(site: PostHogServer, client: Client) -> None:
    """PostHog may have any property of a user."""
    client.force_login(get_user_model().objects.create_user("ada"))

    assert client.get("/api/features/").json()["features"]["undecided"] is True
    assert len(site.flag_calls) == 1
