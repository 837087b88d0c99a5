"""The real posthog-js in the page has the server's flags, before and after it asks PostHog."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Route, expect

from tests.api.test_views import RawPayload
from tests.browser.conftest import FRONTEND, node
from tests.browser.tab import ADA, FLAGS_URL, GRACE, Held, Tab
from tests.browser.test_page import NO_POLLING
from tests.posthog_server import Flag, PostHogServer, Variant
from tests.test_bootstrap import PAYLOAD_FLAGS, PAYLOADS_BY_KEY, typed

PEOPLE = ["Visitor", "Ada", "Grace"]

# Values and payloads of posthog-js; undefined, for a flag that it does not know, is "unknown".
READ = """keys => JSON.stringify(Object.fromEntries(keys.map(key => [
  key, [window.posthog.getFeatureFlag(key, { send_event: false }) ?? "unknown",
        window.posthog.getFeatureFlagPayload(key) ?? null]])))"""


def expected(tab: Tab) -> dict[str, list[Any]]:
    """The API's values and payloads in the same form: posthog-js has no payload of an off flag."""
    answer = tab.api()
    return {
        key: [value or False, answer["payloads"].get(key) if value else None]
        for key, value in answer["features"].items()
    }


def read(tab: Tab, keys: Iterable[str] | None = None) -> dict[str, list[Any]]:
    """What posthog-js says of these flags, or of all that the API has."""
    wanted = tab.api()["features"] if keys is None else keys
    result: dict[str, list[Any]] = json.loads(tab.page.evaluate(READ, list(wanted)))
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
    serve_posthog_js(tab)

    tab.bring_session_of(name)
    tab.page.goto(f"{address}/live/")
    tab.page.evaluate(START, posthog.url)

    assert read(tab) == expected(tab)
    assert known(tab) == (tab.api()["distinct_id"], state_of(name))
    assert not any("/flags" in url for url in tried)
    agree_after_asking(tab, posthog)


def serve_posthog_js(tab: Tab) -> None:
    """Let the live page have posthog-js as it comes from npm, in place of the app."""
    served = "**/posthog-js.mjs"
    tab.page.route(served, lambda route: route.fulfill(path=FRONTEND / MODULE, content_type=JS))
    tab.page.route("**/live/assets/*.js", lambda route: route.abort())


def hold_flags(tab: Tab) -> None:
    """Let PostHog never answer posthog-js's own request for flags."""
    tab.page.route("**/flags/?v=2*", lambda route: None)


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


def computed(expression: str, argument: object) -> Any:
    """The value of an expression of TypeScript, which names what `bootstrap.ts` exports."""
    script = (
        'import * as bootstrap from "./src/features/bootstrap.ts";'
        f"const argument = JSON.parse({json.dumps(json.dumps(argument))});"
        f"console.log(JSON.stringify({expression}));"
    )
    made = subprocess.run(
        [node(), "--input-type=module", "--eval", script],
        cwd=FRONTEND,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(made.stdout)


def to_bootstrap(answer: object) -> Any:
    return computed("bootstrap.toBootstrap(argument, true)", answer)


ODD: dict[str, Any] = {
    "distinct_id": ADA,
    "source": "posthog",
    "features": {
        "__proto__": True,
        "constructor": False,
        "empty": "",
        "off": False,
        "on": True,
        "toString": "express",
        "valueOf": True,
        "variant": "express",
    },
    "payloads": {
        "__proto__": {"on": "not its own", "valueOf": "nor its own"},
        "empty": 3,
        "hasOwnProperty": "no flag has it",
        "off": 2,
        "toString": "123",
        "variant": {"a": "123"},
    },
}
"""An answer of the API with every value, and with keys that objects of JavaScript inherit."""


def test_bootstrap_of_every_value(frontend: Path):
    """`toBootstrap` includes flags that are off as false, and payloads of those on, as JSON text.

    A flag named `__proto__` is left out.
    """
    assert to_bootstrap(ODD) == {
        "distinctID": ADA,
        "isIdentifiedID": True,
        "featureFlags": {
            "constructor": False,
            "empty": False,
            "off": False,
            "on": True,
            "toString": "express",
            "valueOf": True,
            "variant": "express",
        },
        "featureFlagPayloads": {"toString": '"123"', "variant": {"a": "123"}},
    }


def test_bootstrap_is_read_backwards(frontend: Path):
    """`fromBootstrap` returns the payloads of the answer, of the same types."""
    answer: dict[str, Any] = {
        "distinct_id": ADA,
        "source": "local",
        "features": dict.fromkeys(PAYLOADS_BY_KEY, True),
        "payloads": PAYLOADS_BY_KEY,
    }
    there_and_back = 'bootstrap.fromBootstrap(bootstrap.toBootstrap(argument, true), "local")'

    found = computed(there_and_back, answer)

    assert typed(found.pop("payloads")) == typed(answer.pop("payloads"))
    assert found == answer


Start = Callable[[Tab, PostHogServer], None]


def start_in_a_django_page(tab: Tab, posthog: PostHogServer) -> None:
    """Hand posthog-js the block of `{% posthog_bootstrap %}`."""
    serve_posthog_js(tab)
    tab.page.goto(f"{tab.address}/live/")
    tab.page.evaluate(START, posthog.url)


def start_in_the_app(tab: Tab, posthog: PostHogServer) -> None:
    """Open the app, which hands posthog-js the result of `toBootstrap`."""
    tab.open()
    tab.page.wait_for_function("() => window.posthog")


def log_out_of_the_app(tab: Tab, posthog: PostHogServer) -> None:
    """Log out, so that the app hands `posthog.updateFlags` the result of `toBootstrap`."""
    tab.open().become("Ada")
    tab.page.wait_for_function("() => window.posthog")
    tab.become("Visitor")


WAYS = [start_in_a_django_page, start_in_the_app, log_out_of_the_app]


@pytest.mark.parametrize("start", WAYS)
def test_payload_is_the_payload_of_the_api(tab: Tab, posthog: PostHogServer, start: Start):
    """posthog-js has the API's payload, of the same type, for text, other JSON and neither."""
    hold_flags(tab)
    posthog.flags = {**posthog.flags, **PAYLOAD_FLAGS}

    start(tab, posthog)

    found = read(tab, PAYLOADS_BY_KEY)
    assert typed({key: payload for key, (_, payload) in found.items()}) == typed(PAYLOADS_BY_KEY)
    assert read(tab) == expected(tab)


@pytest.mark.parametrize("start", WAYS)
def test_exposure_of_an_off_flag_is_clean(tab: Tab, posthog: PostHogServer, start: Start):
    """posthog-js reports a flag that is off as false, with no error, and a payload as JSON text."""
    hold_flags(tab)
    flags = {
        "web-empty": RawPayload("", text="1"),
        "web-experiment": Variant(False, payload="never"),
        "web-off": RawPayload(False, text='"never"'),
        "web-true": Flag(payload="true"),
        "web-variant": Variant("test", payload="123"),
    }
    keys = [*flags, "web-unknown"]
    posthog.flags = {**posthog.flags, **flags}
    start(tab, posthog)
    posthog.clear()

    tab.page.evaluate(REPORT, keys)
    posthog.wait_until(lambda: len(reported(posthog)) == len(keys))

    off = (False, None, None, True)
    assert {key: facts(one) for key, one in reported(posthog).items()} == {
        "web-empty": off,
        "web-experiment": off,
        "web-off": off,
        "web-true": (True, '"true"', None, True),
        "web-variant": ("test", '"123"', None, True),
        "web-unknown": (None, None, "flag_missing", True),
    }


# A browser that is driven counts as a bot, whose events posthog-js does not send.
REPORT = """keys => {
  posthog.set_config({ opt_out_useragent_filter: true, request_batching: false });
  for (const key of keys) posthog.getFeatureFlag(key);
}"""


def reported(posthog: PostHogServer) -> dict[str, dict[str, Any]]:
    """The properties of the exposures that posthog-js has sent, by flag."""
    return {
        event["properties"]["$feature_flag"]: event["properties"]
        for event in posthog.events
        if event["event"] == "$feature_flag_called" and event["properties"]["$lib"] == "web"
    }


def facts(properties: dict[str, Any]) -> tuple[Any, ...]:
    """What an exposure states: value, payload, error, and whether both are the server's."""
    return (
        properties.get("$feature_flag_response"),
        properties.get("$feature_flag_payload"),
        properties.get("$feature_flag_error"),
        properties["$used_bootstrap_value"],
    )


@pytest.mark.parametrize("handed_over", ["by bootstrap", "by updateFlags"])
def test_keys_of_javascript_objects(tab: Tab, posthog: PostHogServer, handed_over: str):
    """Flags with names that objects inherit have their own values, and no effect on others."""
    hold_flags(tab)
    start_in_a_django_page(tab, posthog)
    made = to_bootstrap(ODD)
    again = UPDATE if handed_over == "by updateFlags" else RESET
    tab.page.evaluate(again, made)

    found = read(tab, made["featureFlags"])

    assert {key: value for key, (value, _) in found.items()} == made["featureFlags"]
    assert found["toString"][1] == "123"
    assert found["variant"][1] == {"a": "123"}
    assert found["on"][1] is None


UPDATE = "made => posthog.updateFlags(made.featureFlags, made.featureFlagPayloads)"
RESET = "made => posthog.reset({ bootstrap: made })"


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
