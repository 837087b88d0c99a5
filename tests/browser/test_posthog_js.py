"""The real posthog-js in the page: it knows what the server knows, before it asks and after."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Route, expect

from tests.browser.conftest import FRONTEND, node
from tests.browser.tab import ADA, FLAGS_URL, GRACE, Held, Tab
from tests.browser.test_page import NO_POLLING
from tests.posthog_server import PostHogServer, Variant

PEOPLE = ["Visitor", "Ada", "Grace"]

# What posthog-js says: a flag that is off is undefined before its first answer, and false after.
READ = """keys => Object.fromEntries(keys.map(key => [
  key, [window.posthog.getFeatureFlag(key, { send_event: false }) || false,
        window.posthog.getFeatureFlagPayload(key) ?? null]]))"""


def expected(tab: Tab) -> dict[str, list[Any]]:
    """What the server says, in the same form."""
    answer = tab.api()
    payloads = answer["payloads"]
    return {key: [value, payloads.get(key)] for key, value in answer["features"].items()}


def read(tab: Tab) -> dict[str, list[Any]]:
    result: dict[str, list[Any]] = tab.page.evaluate(READ, list(tab.api()["features"]))
    return result


def state_of(name: str) -> str:
    return "anonymous" if name == "Visitor" else "identified"


def known(tab: Tab) -> tuple[str, str]:
    """Whom posthog-js knows, and how."""
    return (
        tab.page.evaluate("posthog.get_distinct_id()"),
        tab.page.evaluate("posthog.get_property('$user_state')"),
    )


def cut_off(tab: Tab, posthog: PostHogServer) -> list[str]:
    """Let nothing from the browser through to PostHog; returns what was tried."""
    tried: list[str] = []

    def refuse(route: Route) -> None:
        tried.append(route.request.url)
        route.abort()

    tab.page.route(re.compile(re.escape(posthog.url)), refuse)
    return tried


def agree_after_asking(tab: Tab, posthog: PostHogServer) -> None:
    """Let posthog-js ask PostHog, and compare again."""
    tab.page.unroute(re.compile(re.escape(posthog.url)))
    posthog.clear()
    tab.page.evaluate(
        """() => new Promise(resolve => {
          window.posthog.reloadFeatureFlags();
          const stop = window.posthog.onFeatureFlags((_flags, _variants, context) => {
            if (!context?.errorsLoading) resolve();
          });
        })"""
    )
    posthog.wait_until(lambda: any("Mozilla" in str(one.headers) for one in posthog.requests))
    asked = [one.body for one in posthog.requests if one.query.get("v") == "2"]

    assert asked
    assert {body["distinct_id"] for body in asked} == {tab.api()["distinct_id"]}
    assert read(tab) == expected(tab)


@pytest.mark.parametrize("name", PEOPLE)
def test_bootstrap_of_the_app_agrees(tab: Tab, posthog: PostHogServer, name: str):
    """Started by `toBootstrap`: the same person and values, first with PostHog out of reach."""
    tried = cut_off(tab, posthog)

    tab.arrive_as(name)
    tab.page.wait_for_function("() => window.posthog")

    assert read(tab) == expected(tab)
    assert known(tab) == (tab.api()["distinct_id"], state_of(name))
    assert not any("/flags" in url for url in tried)
    agree_after_asking(tab, posthog)


@pytest.mark.parametrize("name", PEOPLE)
def test_bootstrap_of_a_django_page_agrees(
    address: str, new_context: Callable[[], BrowserContext], posthog: PostHogServer, name: str
):
    """Started by `{% posthog_bootstrap %}`, in a browser where posthog-js has never been."""
    tab = Tab(new_context().new_page(), address)
    tried = cut_off(tab, posthog)
    served = "**/posthog-js.mjs"
    tab.page.route(served, lambda route: route.fulfill(path=FRONTEND / MODULE, content_type=JS))
    tab.page.route("**/live/assets/*.js", lambda route: route.abort())  # this page has no app

    tab.bring_session_of(name)
    tab.page.goto(f"{address}/live/")
    tab.page.evaluate(START, posthog.url)

    assert read(tab) == expected(tab)
    assert known(tab) == (tab.api()["distinct_id"], state_of(name))
    assert not any("/flags" in url for url in tried)
    agree_after_asking(tab, posthog)


MODULE = "node_modules/posthog-js/dist/module.mjs"
JS = "text/javascript"
START = """async host => {
  const bootstrap = JSON.parse(document.getElementById("posthog-bootstrap").textContent);
  const { default: posthog } = await import("/posthog-js.mjs");
  const options = { api_host: host, bootstrap, disable_external_dependency_loading: true };
  posthog.init("phc_test", options);
  window.posthog = posthog;
}"""


def test_posthog_js_follows_log_ins(tab: Tab, posthog: PostHogServer):
    """A visitor, Ada, Grace, the visitor again: posthog-js is always whom the server knows."""
    tab.open()
    tab.page.wait_for_function("() => window.posthog")

    for name in ("Ada", "Grace", "Visitor"):
        tab.become(name)
        assert known(tab) == (tab.api()["distinct_id"], state_of(name))
        assert read(tab) == expected(tab)


def test_question_during_a_log_in_identifies_no_visitor(tab: Tab, posthog: PostHogServer):
    """Until Ada's answer is there posthog-js knows the visitor, and as nobody who logged in."""
    tab.page.add_init_script(NO_POLLING)
    visitor = tab.open().person
    tab.page.wait_for_function("() => window.posthog")
    held = Held(tab.page)
    with tab.page.expect_request(FLAGS_URL):
        tab.button("Ada").click()

    with tab.page.expect_request(FLAGS_URL):
        tab.come_back()

    assert known(tab) == (visitor, "anonymous")
    held.let_go()
    tab.expect_name("Ada")
    assert known(tab) == (ADA, "identified")
    assert read(tab) == expected(tab)


def test_posthog_js_follows_a_log_in_of_another_tab(tab: Tab, posthog: PostHogServer):
    """The cookies are Ada's all at once: so is posthog-js once the page has asked again."""
    tab.open()
    tab.page.wait_for_function("() => window.posthog")

    tab.bring_session_of("Ada")
    tab.come_back()

    tab.expect_name("Ada")
    assert known(tab) == (ADA, "identified")
    assert read(tab) == expected(tab)


def test_log_in_while_posthog_js_loads(tab: Tab, posthog: PostHogServer):
    """It starts as the person of that moment, not as the one of the moment when it was wanted."""
    loading: list[Route] = []

    def hold(route: Route) -> None:
        loading.append(route)

    tab.page.route(CHUNK, hold)
    tab.open().become("Ada")

    loading[0].continue_()
    tab.page.wait_for_function("() => window.posthog")

    assert known(tab) == (ADA, "identified")
    assert read(tab) == expected(tab)


CHUNK = "**/live/assets/module-*.js"


@pytest.mark.parametrize("moment", ["before", "after"])
def test_log_in_around_the_first_answer(tab: Tab, posthog: PostHogServer, moment: str):
    """A log-in in another tab, while the page still opens, does not make a user of the visitor."""
    tab.page.add_init_script(NO_POLLING)

    def answer(route: Route) -> None:
        visitors = route.fetch()
        tab.bring_session_of("Ada")
        if moment == "before":
            route.continue_()
        else:
            route.fulfill(response=visitors)

    tab.page.route(FLAGS_URL, answer, times=1)
    tab.open()
    tab.page.wait_for_function("() => window.posthog")

    assert (tab.person == ADA) == (moment == "before")
    assert known(tab) == (tab.person, "identified" if moment == "before" else "anonymous")
    tab.come_back()
    tab.expect_name("Ada")
    assert known(tab) == (ADA, "identified")


def test_person_of_an_earlier_visit_is_forgotten(tab: Tab, posthog: PostHogServer):
    """posthog-js remembers Ada; the next page is Grace's, who logged in somewhere else."""
    tab.arrive_as("Ada")
    tab.page.wait_for_function("() => window.posthog")
    assert known(tab) == (ADA, "identified")

    tab.arrive_as("Grace")
    tab.page.wait_for_function("() => window.posthog")

    assert known(tab) == (GRACE, "identified")
    assert read(tab) == expected(tab)


def test_page_works_without_posthog_js(tab: Tab):
    """A blocker that stops it costs the page nothing, and makes no error."""
    tab.page.route(CHUNK, lambda route: route.abort())

    tab.open().become("Ada")

    expect(tab.page.locator("#distinct-id")).to_have_text(ADA)
    assert tab.page.evaluate("window.posthog") is None
    assert tab.errors == []


def test_bootstrap_has_what_is_on(frontend: Path):
    """`toBootstrap` drops every value that is off, an empty text among them, as Python's does."""
    answer = {
        "distinct_id": ADA,
        "source": "posthog",
        "features": {"on": True, "variant": "express", "off": False, "empty": ""},
        "payloads": {"variant": 1, "off": 2, "empty": 3},
    }
    script = (
        'import { toBootstrap } from "./src/features/bootstrap.ts";'
        f"console.log(JSON.stringify(toBootstrap({json.dumps(answer)}, true)));"
    )

    made = subprocess.run(
        [node(), "--input-type=module", "--eval", script],
        cwd=frontend,
        capture_output=True,
        text=True,
        check=True,
    )

    assert json.loads(made.stdout) == {
        "distinctID": ADA,
        "isIdentifiedID": True,
        "featureFlags": {"on": True, "variant": "express"},
        "featureFlagPayloads": {"variant": 1},
    }


def test_markup_in_a_payload_stays_text(tab: Tab, posthog: PostHogServer):
    """A payload that ends the script element and starts another runs nowhere."""
    attack = (
        "</script><script>window.attacked = 1</script><img src=x onerror='window.attacked = 1'>"
    )
    posthog.flags = {**posthog.flags, "checkout": Variant("express", payload={"button": attack})}

    tab.open()
    tab.page.wait_for_function("() => window.posthog")

    bootstrap = tab.page.locator("#posthog-bootstrap").text_content()
    assert bootstrap
    assert tab.page.evaluate("text => JSON.parse(text)", bootstrap)["featureFlagPayloads"][
        "checkout"
    ] == {"button": attack}
    assert tab.page.locator(".buy button").first.inner_text().startswith(attack[:9])
    assert tab.page.evaluate("window.attacked") is None
    assert tab.errors == []
