"""The debug toolbar's panel, as a browser gets it: what a request read, and at what cost."""

from __future__ import annotations

import asyncio
import html
import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.core.cache import caches
from django.core.checks.registry import registry
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.test import AsyncClient, Client
from django.urls import path

from olposthog._core import hooks
from olposthog.features import (
    ais_enabled,
    evaluate,
    for_request,
    get_all_feature_flags,
    get_feature_flag,
    get_feature_flag_payload,
    is_enabled,
)
from tests.posthog_faults import Refuse
from tests.posthog_server import PATIENCE, Flag, Variant
from tests.test_definitions import flag, where
from tests.test_polling import Moody
from tests.undecidable import COHORT

PANEL = "olposthog.contrib.debug_toolbar.FlagsPanel"
BODY = "<html><body>Tea</body></html>"


def reading(request: HttpRequest) -> HttpResponse:
    for _ in range(3):
        get_feature_flag("checkout", opt_unique_id="ada")
    get_feature_flag_payload("checkout", opt_unique_id="ada")
    is_enabled("off", opt_unique_id="grace")
    is_enabled("only-features", opt_unique_id="grace")
    get_feature_flag("unknown", "mine", opt_unique_id="grace")
    return HttpResponse(BODY)


def two_people(request: HttpRequest) -> HttpResponse:
    for person in ("ada", "grace"):
        is_enabled("checkout", opt_unique_id=person)
    return HttpResponse(BODY)


def silent(request: HttpRequest) -> HttpResponse:
    return HttpResponse(BODY)


def everything(request: HttpRequest) -> HttpResponse:
    get_all_feature_flags("ada")
    return HttpResponse(BODY)


def visitor(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f"<html><body>{for_request(request).distinct_id}</body></html>")


def nasty(request: HttpRequest) -> HttpResponse:
    get_feature_flag("<b>key</b>", opt_unique_id="<i>person</i>")
    return HttpResponse(BODY)


def for_scripts(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"on": is_enabled("checkout", opt_unique_id="ada")})


meeting = threading.Barrier(2)
meeting_of_tasks = asyncio.Barrier(2)


def together(request: HttpRequest, name: str) -> HttpResponse:
    is_enabled(f"before-{name}", opt_unique_id=name)
    meeting.wait(PATIENCE)
    is_enabled(f"after-{name}", opt_unique_id=name)
    meeting.wait(PATIENCE)
    return HttpResponse(BODY)


async def together_async(request: HttpRequest, name: str) -> HttpResponse:
    await ais_enabled(f"before-{name}", opt_unique_id=name)
    async with asyncio.timeout(PATIENCE):
        await meeting_of_tasks.wait()
    await ais_enabled(f"after-{name}", opt_unique_id=name)
    await sync_to_async(is_enabled)(f"thread-{name}", opt_unique_id=name)
    await asyncio.create_task(ais_enabled(f"task-{name}", opt_unique_id=name))
    return HttpResponse(BODY)


@pytest.fixture
def site(enabled, settings):
    """A site in development, with our panel in the toolbar, seen from where it is developed."""
    checks = set(registry.registered_checks)
    settings.DEBUG = True
    settings.INTERNAL_IPS = ["127.0.0.1"]
    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "debug_toolbar"]
    settings.DEBUG_TOOLBAR_PANELS = [PANEL]  # once the app is there: who knows it looks at once
    settings.MIDDLEWARE = [
        "debug_toolbar.middleware.DebugToolbarMiddleware",
        *settings.MIDDLEWARE,
    ]
    from debug_toolbar.toolbar import debug_toolbar_urls

    urls = ModuleType("urls")
    urls.urlpatterns = [  # type: ignore[attr-defined]
        path("reading/", reading),
        path("silent/", silent),
        path("two-people/", two_people),
        path("everything/", everything),
        path("visitor/", visitor),
        path("nasty/", nasty),
        path("for-scripts/", for_scripts),
        path("together/<name>/", together),
        path("async/<name>/", together_async),
        *debug_toolbar_urls(),
    ]
    settings.ROOT_URLCONF = urls
    settings.FEATURES = {"only-features": True}
    enabled.flags = {
        "checkout": Variant("test", payload={"colour": "green"}),
        "off": False,
    }
    yield enabled
    hooks.watcher = None
    registry.registered_checks = checks  # the toolbar's would judge sites that have none


def panel(response: Any) -> str:
    """The panel of a page, as the toolbar fetches it when somebody opens it."""
    request_id = re.search(r'data-request-id="(\w+)"', response.text)
    assert request_id
    query = {"request_id": request_id[1], "panel_id": "FlagsPanel"}
    answer = Client().get("/__debug__/render_panel/", query)
    content: str = answer.json()["content"]
    return content


def rows(content: str) -> list[list[str]]:
    """The cells of the panel's tables, heads included."""
    return [
        [
            html.unescape(re.sub(r"<[^>]+>", "", cell)).strip()
            for cell in re.findall(r"<t[hd]>(.*?)</t[hd]>", row, re.DOTALL)
        ]
        for row in re.findall(r"<tr>(.*?)</tr>", content, re.DOTALL)
    ]


def flags_of(content: str) -> dict[str, list[str]]:
    table = content.partition("Answers that it asked for")[0]
    return {row[0]: row[1:] for row in rows(table)[1:]}


def answers_of(content: str) -> list[list[str]]:
    table = content.partition("Answers that it asked for")[2].partition("PostHog, as")[0]
    return rows(table)[1:]


def subtitle(response: Any) -> str:
    found = re.search(r"Feature flags\s*<br><small>(.*?)</small>", response.text)
    assert found, response.text
    return html.unescape(found[1])


def test_flags_are_shown_as_they_were_read(site, client):
    """Each flag once: value, payload, source, reason, person, and how often it was read."""
    content = panel(client.get("/reading/"))

    assert flags_of(content) == {
        "checkout": ["test", "yes", "posthog", "Condition match", "ada", "4"],
        "off": ["off", "no", "posthog", "No condition match", "grace", "1"],
        "only-features": ["on", "no", "fallback", "-", "grace", "1"],
        "unknown": ["mine", "no", "default", "-", "grace", "1"],
    }


def test_undecided_flag_says_why(site, client, settings, tmp_path):
    """A flag that the definitions cannot decide has the reason, escaped, whoever decided it."""
    file = tmp_path / "flags.json"
    file.write_text(json.dumps({"flags": [flag("checkout", where({**COHORT, "value": "<i>"}))]}))
    settings.POSTHOG_FLAG_DEFINITIONS_FILE = file
    content = panel(client.get("/reading/"))

    source, reason = flags_of(content)["checkout"][2:4]
    assert source == "default"
    assert reason.startswith("-Undecided locally: it needs the cohort <i>, which the definitions")
    assert "cohort &lt;i&gt;" in content


def test_answers_are_shown_with_their_cost(site, client):
    """Who asked, for whom, in which runtime, from which source, how often, and the time waited."""
    answers = answers_of(panel(client.get("/reading/")))

    assert [answer[:5] for answer in answers] == [
        ["get_feature_flag()", "ada", "server", "posthog", "3"],
        ["get_feature_flag_payload()", "ada", "server", "posthog", "1"],
        ["is_enabled()", "grace", "server", "posthog", "2"],
        ["get_feature_flag()", "grace", "server", "posthog", "1"],
    ]
    assert answers[1][5] == answers[3][5] == "0.0 ms"
    assert all(float(cost.removesuffix(" ms")) > 0 for cost in (answers[0][5], answers[2][5]))


def test_subtitle_sums_up(site, client):
    """The toolbar itself says how many flags were read, and how long that took."""
    assert re.fullmatch(r"4 flags, [1-9]\d*\.\d ms", subtitle(client.get("/reading/")))


def test_warm_answers_cost_nothing(site, client):
    """What the process remembers is read without waiting."""
    for person in ("ada", "grace"):
        evaluate(person)

    response = client.get("/reading/")

    assert subtitle(response) == "4 flags, 0.0 ms"
    assert response["Server-Timing"] == 'FlagsPanel_flags;dur=0.0;desc="Feature flags"'


def test_request_without_flags_says_so(site, client):
    """A page that reads none is shown to read none, and the circuit all the same."""
    response = client.get("/silent/")

    assert subtitle(response) == "none read"
    assert "It read none." in panel(response)
    assert rows(panel(response)) == [["Circuit", "closed"], ["Shared cache", "'durable' answers"]]


def test_whoever_asks_for_all_flags_is_shown(site, client):
    """All flags at once are an answer, of which nobody sees what is read."""
    response = client.get("/everything/")
    content = panel(response)

    assert "read no flag by its name" in content
    assert answers_of(content)[0][:2] == ["get_all_feature_flags()", "ada"]
    assert re.fullmatch(r"0 flags, \d+\.\d ms", subtitle(response))


def test_visitor_of_the_request_is_named(site, client):
    """For a request's own person, the panel shows whom the server took the visitor for."""
    response = client.get("/visitor/")
    content = panel(response)

    ((caller, person, *_),) = answers_of(content)
    assert caller == "for_request()"
    assert f"<body>{person}" in response.text


def test_answer_for_scripts_has_a_server_timing(site, client):
    """Where no toolbar fits in, the header tells what flags cost."""
    response = client.get("/for-scripts/")

    assert response.json() == {"on": True}
    timing = r'FlagsPanel_flags;dur=([\d.]+);desc="Feature flags"'
    cost = re.fullmatch(timing, response["Server-Timing"])
    assert cost
    assert float(cost[1]) > 0


def test_outage_is_shown(site, client, settings):
    """Values that fell back say so, and the circuit says since when it is open."""
    settings.POSTHOG_CIRCUIT_BREAKER_FAILURE_THRESHOLD = 1
    settings.POSTHOG_MAX_RETRIES = 0
    site.fault = Refuse()

    content = panel(client.get("/reading/"))

    assert flags_of(content)["only-features"][2] == "fallback"
    assert flags_of(content)["checkout"][:3] == ["off", "no", "default"]
    assert re.search(r"<td>open since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC</td>", content)


def test_shared_cache_that_is_away_is_shown(site, client, settings):
    """The panel says that this process does without the shared cache."""
    settings.CACHES = {
        **settings.CACHES,
        "durable": {"BACKEND": "tests.test_polling.Moody", "LOCATION": "moody"},
    }
    Moody.refuses = True
    try:
        content = panel(client.get("/reading/"))
    finally:
        Moody.refuses = False
        caches["durable"].clear()

    assert ["Shared cache", "'durable' is away (ConnectionError)"] in rows(content)


def test_disabled_site_is_shown(site, client, settings):
    """With POSTHOG_ENABLED off, FEATURES' values have that source."""
    settings.POSTHOG_ENABLED = False

    content = panel(client.get("/reading/"))

    assert flags_of(content)["only-features"][:3] == ["on", "no", "disabled"]
    assert answers_of(content)[0][3] == "disabled"
    assert rows(content)[-2:] == [
        ["Circuit", "none: PostHog is not asked"],
        ["Shared cache", "none is used"],
    ]


def test_everything_is_escaped(site, client):
    """Keys, variants, reasons and ids are text, whatever is in them."""
    site.flags = {"<b>key</b>": Variant("<script>alert(1)</script>")}

    content = panel(client.get("/nasty/"))

    assert "&lt;b&gt;key&lt;/b&gt;" in content
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in content
    assert "&lt;i&gt;person&lt;/i&gt;" in content
    assert not re.search(r"<(b|i|script)>", content)


def test_two_requests_at_once_do_not_mix(site):
    """Two threads serve two people at the same time: each panel has its own request's reads."""
    with ThreadPoolExecutor(2) as pool:
        ada, grace = pool.map(Client().get, ["/together/ada/", "/together/grace/"])

    assert sorted(flags_of(panel(ada))) == ["after-ada", "before-ada"]
    assert sorted(flags_of(panel(grace))) == ["after-grace", "before-grace"]


def test_two_coroutines_at_once_do_not_mix(site):
    """One event loop serves two people: threads and tasks that a view starts belong to it."""

    async def both():
        urls = ["/async/ada/", "/async/grace/"]
        return await asyncio.gather(*(AsyncClient().get(url) for url in urls))

    ada, grace = async_to_sync(both)()

    parts = ["after", "before", "task", "thread"]
    assert sorted(flags_of(panel(ada))) == [f"{part}-ada" for part in parts]
    assert sorted(flags_of(panel(grace))) == [f"{part}-grace" for part in parts]


def test_plain_views_under_asgi_are_recorded(site):
    """A plain view that an event loop serves, in a thread, is seen like any other."""
    response = async_to_sync(AsyncClient().get)("/reading/")

    assert subtitle(response).startswith("4 flags, ")


def test_nothing_is_recorded_for_others(site, client, settings):
    """Whoever is not shown the toolbar, and what runs between requests, is not recorded."""
    from olposthog.contrib import debug_toolbar

    client.get("/reading/")
    assert debug_toolbar._record.get() is None

    stranger = client.get("/reading/", REMOTE_ADDR="192.0.2.1")
    assert stranger.text == BODY
    assert "Server-Timing" not in stranger


def test_one_flag_for_two_people_is_two_rows(site, client):
    """A request that reads a flag for two people shows both values, and whose each is."""
    site.flags = {"checkout": Flag(only_for=["ada"])}

    content = panel(client.get("/two-people/"))

    assert [[row[1], row[5]] for row in rows(content)[1:3]] == [["on", "ada"], ["off", "grace"]]
    assert len(flags_of(content)) == 1
