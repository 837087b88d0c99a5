"""The live page, as people see it."""

from __future__ import annotations

from contextlib import suppress
from typing import Literal

import pytest
from playwright.sync_api import Error, Route, expect

from tests.browser.tab import ADA, BUTTONS, FLAGS_URL, GRACE, SEEN, Held, State, Tab
from tests.posthog_faults import Refuse
from tests.posthog_server import PostHogServer


def shown(tab: Tab) -> State:
    """What the page shows of the flags."""
    state = tab.state
    return {
        "checkout": state["checkout"],
        "gift-wrapping": state["gift"],
        "web-upgrade-offer": state["offer"],
    }


def test_page_works_without_an_error(tab: Tab):
    """Nothing fails in the page, and whatever it loads is there."""
    answers: list[int] = []
    tab.page.on("response", lambda response: answers.append(response.status))

    tab.open()

    assert tab.errors == []
    assert set(answers) <= {200, 204, 304}


def test_first_paint_is_right(tab: Tab):
    """The flags that the page brings along show before the API has said anything."""
    held = Held(tab.page)

    tab.page.goto(f"{tab.address}/live/")
    expect(tab.page.locator(".buy button").first).to_be_visible()

    assert tab.state["tabs"]
    assert tab.state["button"] == BUTTONS[tab.state["checkout"]]
    assert [state["checkout"] for state in tab.states] == [None, tab.state["checkout"]]
    held.let_go()
    tab.settle()


@pytest.mark.parametrize("name", ["Visitor", "Ada", "Grace"])
def test_wrong_variant_never_shows(tab: Tab, name: str):
    """Of all states since before the first script, each is empty or right, and nothing moves."""
    tab.arrive_as(name)

    features = tab.api()["features"]
    blank, *painted = tab.states
    assert not any(blank.values())
    for state in painted:
        assert state["checkout"] == features["checkout"]
        assert state["button"] == BUTTONS[features["checkout"]]
        assert state["gift"] == features["gift-wrapping"]
        assert state["offer"] == features["web-upgrade-offer"]
        assert state["tabs"]
        assert not state["link"]
        assert not state["banner"]
    assert tab.page.evaluate("window.shift") == 0


def test_each_person_sees_their_own_flags(tab: Tab):
    """A visitor, Ada, Grace, and the same visitor again: at no moment anybody else's flags."""
    tab.open()
    visitor, at_first = tab.person, shown(tab)

    tab.become("Ada")
    assert (tab.person, shown(tab)) == (ADA, SEEN[ADA])
    assert tab.flags["web-summer-sale"] == "false"
    tab.become("Grace")
    assert (tab.person, shown(tab)) == (GRACE, SEEN[GRACE])
    assert "15 % off" in tab.page.locator(".lead").inner_text()
    tab.become("Visitor")
    assert (tab.person, shown(tab)) == (visitor, at_first)

    seen = {ADA: SEEN[ADA]["checkout"], GRACE: SEEN[GRACE]["checkout"]}
    names = {ADA: "Ada", GRACE: "Grace", visitor: "Visitor"}
    for state in tab.states:
        if state["person"]:
            assert state["name"] == names[state["person"]]
            assert state["checkout"] == seen.get(state["person"], at_first["checkout"])
            assert state["gift"] == (state["person"] == ADA)
            assert state["offer"] == (state["person"] == GRACE)


def test_late_answer_is_not_shown_to_the_next_person(tab: Tab):
    """An answer for the visitor that arrives after Ada's is dropped."""
    visitor = tab.open().api()
    late: list[Route] = []

    def hold(route: Route) -> None:
        late.append(route)

    tab.page.route(FLAGS_URL, hold, times=1)
    with tab.page.expect_request(FLAGS_URL):
        tab.come_back()
    tab.become("Ada")

    with suppress(Error):  # the page has given up on it, and may have taken it back
        late[0].fulfill(json=visitor)
    with tab.asking():
        tab.come_back()

    assert (tab.person, shown(tab)) == (ADA, SEEN[ADA])
    people = [state["person"] for state in tab.states]
    assert visitor["distinct_id"] not in people[people.index(ADA) :]


def test_question_during_a_log_in_shows_no_name_over_older_flags(tab: Tab):
    """Ada's name waits for her flags, also if the page asks again before they are there."""
    tab.page.add_init_script(NO_POLLING)
    visitor = tab.open().person
    at_first = shown(tab)
    held = Held(tab.page)
    with tab.page.expect_request(FLAGS_URL):
        tab.button("Ada").click()

    tab.come_back()

    assert tab.state["name"] == "Visitor"
    assert (tab.person, shown(tab)) == (visitor, at_first)
    held.let_go()
    tab.expect_name("Ada")
    assert (tab.person, shown(tab)) == (ADA, SEEN[ADA])
    people = {(state["name"], state["person"]) for state in tab.states if state["person"]}
    assert people == {("Visitor", visitor), ("Ada", ADA)}


def test_page_follows_a_log_in_of_another_tab(tab: Tab):
    """Flags and name are Ada's once the page has asked again."""
    tab.open()

    tab.bring_session_of("Ada")
    tab.come_back()

    tab.expect_name("Ada")
    assert (tab.person, shown(tab)) == (ADA, SEEN[ADA])
    assert ("Visitor", ADA) not in {(state["name"], state["person"]) for state in tab.states}


def test_flags_of_one_person_do_not_outlive_a_failed_answer(tab: Tab):
    """After a log-in the flags of the person before are gone, even if no others can be had."""
    tab.open().become("Ada")
    tab.page.route(FLAGS_URL, lambda route: route.abort())

    tab.become("Grace")

    assert shown(tab) == {"checkout": "false", "gift-wrapping": False, "web-upgrade-offer": False}
    assert tab.state["link"]  # the fallback: no answer is available
    tab.page.unroute(FLAGS_URL)
    tab.come_back()
    expect(tab.page.locator("#distinct-id")).to_have_text(GRACE)
    assert shown(tab) == SEEN[GRACE]


def test_outage_shows_and_passes(tab: Tab, posthog: PostHogServer):
    """While PostHog is down the page says so and has the defaults; afterwards all is as before."""
    tab.arrive_as("Ada")
    banner = tab.page.locator("#outage")
    expect(banner).to_be_empty()

    posthog.fault = Refuse()
    until(tab, "#source", "fallback")
    expect(banner).to_contain_text("PostHog is down")
    assert tab.person == ADA
    assert tab.state["button"] == "Add to the basket"  # the defaults have no payloads
    assert shown(tab)["checkout"] == "classic"

    posthog.heal()
    until(tab, "#source", "posthog")
    expect(banner).to_be_empty()
    assert shown(tab) == SEEN[ADA]


def until(tab: Tab, selector: str, text: str) -> None:
    """Come back to the tab again and again, until it says so."""
    tab.page.wait_for_function(
        """([selector, text]) => {
          document.dispatchEvent(new Event("visibilitychange"));
          return document.querySelector(selector).textContent === text;
        }""",
        arg=[selector, text],
        polling=200,
    )


def test_last_known_flags_stay_while_the_network_is_gone(tab: Tab):
    """A page that cannot reach its own server keeps what it has, and says so mildly."""
    tab.arrive_as("Ada")

    tab.page.context.set_offline(True)
    tab.come_back()
    expect(tab.page.locator("#outage")).to_contain_text("does not answer")
    assert shown(tab) == SEEN[ADA]

    tab.page.context.set_offline(False)
    tab.come_back()
    expect(tab.page.locator("#outage")).to_be_empty()


@pytest.mark.parametrize("status", [401, 403, 429])
def test_refusal_is_an_answer(tab: Tab, status: int):
    """A shop that refuses is no shop that does not answer; the last known values stay."""
    tab.page.add_init_script(NO_POLLING)
    tab.arrive_as("Ada")

    tab.page.route(FLAGS_URL, lambda route: route.fulfill(status=status, json={"detail": "No."}))
    tab.come_back()

    expect(tab.page.locator("#status")).to_have_text(str(status))
    expect(tab.page.locator("#outage")).to_be_empty()
    assert (tab.person, shown(tab)) == (ADA, SEEN[ADA])


def test_failure_of_the_shop_is_no_answer(tab: Tab):
    """An error of the server is told as the network's is."""
    tab.page.add_init_script(NO_POLLING)
    tab.arrive_as("Ada")

    tab.page.route(FLAGS_URL, lambda route: route.fulfill(status=502, body="Bad gateway"))
    tab.come_back()

    expect(tab.page.locator("#outage")).to_contain_text("does not answer")
    assert (tab.person, shown(tab)) == (ADA, SEEN[ADA])


def test_empty_value_is_off(tab: Tab):
    """A flag whose value is an empty text shows what it shows when it is off."""
    tab.page.add_init_script(NO_POLLING)
    answer = tab.open().api()
    assert tab.state["tabs"]

    empty = answer["features"] | {"new-navigation": ""}
    tab.page.route(FLAGS_URL, lambda route: route.fulfill(json=answer | {"features": empty}))
    tab.come_back()

    expect(tab.page.locator("nav[aria-label=Shop]")).to_have_text("Everything we sell")
    expect(tab.page.locator("tr[data-flag=new-navigation] .value.off")).to_have_text("off")


def test_key_of_javascript_objects_has_no_payload_of_theirs(tab: Tab):
    """A flag named as a method that objects inherit shows no payload where it has none."""
    tab.page.add_init_script(NO_POLLING)
    answer = tab.open().api()

    features = answer["features"] | {"toString": True}
    tab.page.route(FLAGS_URL, lambda route: route.fulfill(json=answer | {"features": features}))
    tab.come_back()

    expect(tab.page.locator("tr[data-flag=toString] .value")).to_have_text("on")
    expect(tab.page.locator("tr[data-flag=toString] .part")).to_have_count(0)


def test_second_question_costs_a_304(tab: Tab):
    """The page sends the ETag back and gets a 304 without a body: the wire's, not a cache's."""
    tab.page.add_init_script(NO_POLLING)
    with tab.asking() as first:
        tab.page.goto(f"{tab.address}/live/")
    tab.settle()

    with tab.asking() as second:
        tab.come_back()

    assert first[0].status == 200
    etag = first[0].all_headers()["etag"]
    assert second[0].status == 304  # devtools would say 200 if the browser's cache had answered
    assert second[0].request.all_headers()["if-none-match"] == etag
    assert second[0].request.sizes()["responseBodySize"] == 0
    expect(tab.page.locator("#status")).to_contain_text("304")


def test_page_asks_again_when_it_becomes_visible(tab: Tab, posthog: PostHogServer):
    """Whoever returns to the tab sees what has changed meanwhile, without any polling."""
    tab.page.add_init_script(NO_POLLING)
    tab.open()
    assert tab.state["tabs"]

    posthog.flags = {**posthog.flags, "new-navigation": False}
    until(tab, "nav[aria-label=Shop]", "Everything we sell")

    assert tab.state["link"]
    assert not tab.state["tabs"]


NO_POLLING = "window.setInterval = () => 0;"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_fits_a_phone(tab: Tab, scheme: Literal["light", "dark"]):
    """At 375 pixels nothing sticks out sideways, and text can be told from its ground."""
    tab.page.emulate_media(color_scheme=scheme)
    tab.page.set_viewport_size({"width": 375, "height": 700})

    tab.arrive_as("Grace")

    assert tab.page.evaluate("document.documentElement.scrollWidth") == 375
    assert tab.page.evaluate(CONTRAST) >= 4.5


# The lowest contrast of any text on the page, as WCAG counts it.
CONTRAST = """() => {
  const parse = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (rgb) => rgb.slice(0, 3)
    .map(v => v / 255)
    .map(v => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const rgba = parse(getComputedStyle(at).backgroundColor);
      if (rgba.length === 3 || rgba[3] > 0) return rgba;
    }
    return [255, 255, 255];
  };
  let lowest = 21;
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
    if (!own || !element.checkVisibility()) continue;
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(ground(element))];
    lowest = Math.min(lowest, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
  }
  return lowest;
}"""


def test_people_can_be_switched_with_the_keyboard(tab: Tab):
    """The buttons are buttons: focus and Enter do, and a screen reader hears which is pressed."""
    tab.open()

    ada = tab.page.get_by_role("button", name="Ada")
    ada.focus()
    tab.page.keyboard.press("Enter")

    expect(ada).to_have_attribute("aria-pressed", "true")
    assert ada.evaluate("element => element === document.activeElement")
    assert tab.person == ADA
