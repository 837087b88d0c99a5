"""Other origins, and what a stranger can put into a request."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, expect

from tests.browser.conftest import FRONTEND, shop_of
from tests.browser.tab import ADA, BUTTONS, GRACE, SESSION, Tab
from tests.posthog_server import PostHogServer, Variant


class Quiet(SimpleHTTPRequestHandler):
    """Serves files, and says nothing."""

    def log_message(self, *args: object) -> None: ...


@contextmanager
def another_server(folder: Path) -> Iterator[int]:
    """A web server with these files; yields its port."""
    handler = partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


APP = """<!doctype html><title>Elsewhere</title>
<script id="page" type="application/json">{{"api": "{api}"}}</script>
<script type="module" src="/static/live/{main}"></script>
<body><div id="root"></div></body>"""


@pytest.fixture(scope="package")
def elsewhere(
    frontend: Path, standin: PostHogServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    """A shop that lets one other origin in, and the frontend at that origin: both addresses."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "static").mkdir()
    (folder / "static/live").symlink_to(FRONTEND / "dist")
    main = json.loads((FRONTEND / "dist/manifest.json").read_text())["src/main.tsx"]["file"]
    with another_server(folder) as port:
        app = f"http://127.0.0.1:{port}"
        shop = shop_of(standin, tmp_path_factory.mktemp("api"), SHOP_SPA_ORIGIN=app)
        with shop.open() as api:
            (folder / "index.html").write_text(APP.format(api=api, main=main))
            yield app, api


@pytest.fixture
def far(
    elsewhere: tuple[str, str], posthog: PostHogServer, new_context: Callable[[], BrowserContext]
) -> Tab:
    """A tab for the app that has an origin of its own."""
    return Tab(new_context().new_page(), elsewhere[0])


def test_nothing_shows_before_the_first_answer(far: Tab, posthog: PostHogServer):
    """Without flags in the page, no piece that depends on one shows until the API has answered."""
    with posthog.gate():
        far.page.goto(far.address)
        expect(far.page.locator("h1")).to_be_visible()
        posthog.wait_for_flag_calls(1)
        waiting = [state for state in far.states if state["person"] is None]
        assert not any(any(state.values()) for state in waiting)
        assert far.page.locator(".price").first.inner_text() == ""
    far.settle()

    final = far.state
    assert final["tabs"]
    assert final["button"] == BUTTONS[final["checkout"]]
    assert {state["checkout"] for state in far.states} == {None, final["checkout"]}
    assert not any(state["link"] for state in far.states)


def test_app_of_another_origin_has_it_all(far: Tab):
    """Cookies, log-in, ETag and exposures work from an origin that the shop names."""
    far.open("/")
    with far.asking() as again:
        far.come_back()
    visitor = far.person
    with far.page.expect_response(lambda answer: answer.url.endswith("/exposures/")) as exposure:
        far.become("Ada")
    assert far.person == ADA
    far.become("Grace")
    assert far.person == GRACE
    far.become("Visitor")

    assert far.person == visitor
    assert again[0].status == 304  # so the page could read the ETag, and send it
    assert exposure.value.status == 204
    assert far.errors == []


READ = """async url => {
  try {
    const answer = await fetch(url, { credentials: "include" });
    return [answer.type, await answer.text()];
  } catch (error) {
    return [error.name, ""];
  }
}"""


def test_site_that_is_not_named_reads_nothing(tab: Tab, tmp_path: Path):
    """Ada opens a page of another site: its scripts can read no flag of hers, however they try."""
    tab.arrive_as("Ada")
    (tmp_path / "index.html").write_text("<!doctype html><title>Another site</title>")

    with another_server(tmp_path) as port:
        page = tab.page.context.new_page()
        for host in ("127.0.0.1", "localhost"):  # another origin of the same site, another site
            page.goto(f"http://{host}:{port}/")
            url = f"{tab.address}/api/features/"

            assert page.evaluate(READ, url) == ["TypeError", ""]
            assert page.evaluate(AS_SCRIPT, url) is False
            opaque = page.evaluate(
                "async url => { const answer = await fetch(url, { mode: 'no-cors',"
                " credentials: 'include' }); return [answer.type, await answer.text()]; }",
                url,
            )
            assert opaque == ["opaque", ""]
        page.close()


ATTACK = """<!doctype html><title>Another site</title>
<a href="{shop}/live/">To the shop</a>
<form method="post" action="{shop}/api/features/checkout/exposure/"></form>
<form method="post" action="{shop}/live/"></form>
<iframe src="{shop}/api/features/"></iframe>
<img src="{shop}/api/features/?keys=checkout">
<script>
  const all = { credentials: "include", mode: "no-cors" };
  window.done = Promise.allSettled([
    fetch("{shop}/api/features/", all),
    fetch("{shop}/api/features/checkout/exposure/", { ...all, method: "POST" }),
  ]);
</script>"""


def test_another_site_does_not_change_who_a_visitor_is(tab: Tab, tmp_path: Path):
    """Whatever another site makes the browser send, the visitor's id and cookie stay."""
    tab.open()
    visitor = tab.person

    def kept() -> list[Any]:
        cookies = tab.page.context.cookies(tab.address)
        return [one["value"] for one in cookies if one["name"] == "olposthog_id"]

    before = kept()
    (tmp_path / "index.html").write_text(ATTACK.replace("{shop}", tab.address))
    with another_server(tmp_path) as port:
        page = tab.page.context.new_page()
        for form in range(2):
            page.goto(f"http://localhost:{port}/")
            page.evaluate("window.done")
            assert kept() == before
            with page.expect_response(
                lambda answer: answer.request.is_navigation_request()
            ) as sent:
                page.evaluate("number => document.forms[number].submit()", form)
            assert sent.value.request.method == "POST"
            assert sent.value.url.startswith(tab.address)
            assert kept() == before
        page.close()
    tab.open()

    assert len(before) == 1
    assert tab.person == visitor


def test_a_link_from_another_site_brings_a_visitor(
    address: str, tmp_path: Path, new_context: Callable[[], BrowserContext]
):
    """Who first comes by another site's link is a visitor from that page on."""
    (tmp_path / "index.html").write_text(f'<!doctype html><a href="{address}/live/">Shop</a>')
    with another_server(tmp_path) as port:
        newcomer = Tab(new_context().new_page(), address)
        newcomer.page.goto(f"http://localhost:{port}/")
        newcomer.page.get_by_role("link").click()
        newcomer.settle()
    visitor = newcomer.person

    newcomer.open()

    assert newcomer.person == visitor


# JSON is not run as a script, and not shown as a page.
AS_SCRIPT = """url => new Promise(resolve => {
  const script = document.createElement("script");
  script.onload = () => resolve(true);
  script.onerror = () => resolve(false);
  script.src = url;
  document.head.append(script);
})"""


def test_json_is_never_a_page(tab: Tab, posthog: PostHogServer):
    """Markup in a payload stays text when somebody opens the API itself."""
    attack = "<html><script>window.attacked = 1</script>"
    posthog.flags = {"checkout": Variant("express", payload={"button": attack})}

    answer = tab.page.goto(f"{tab.address}/api/features/")

    assert answer
    assert answer.all_headers()["content-type"] == "application/json"
    assert answer.all_headers()["x-content-type-options"] == "nosniff"
    assert attack in answer.json()["payloads"]["checkout"]["button"]
    assert tab.page.evaluate("window.attacked") is None


UUID = "01890a5d-ac96-774b-bcce-b302099a8057"
CLAIMS: dict[str, Any] = {
    "header": {"X-POSTHOG-DISTINCT-ID": GRACE},
    "another header": {"X-POSTHOG-DISTINCT-ID": UUID},
    "session header": {"X-POSTHOG-SESSION-ID": UUID},
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_header_does_not_change_who_ada_is(tab: Tab, claim: str):
    """Whatever id a header claims, Ada's flags stay Ada's."""
    tab.arrive_as("Ada")
    honest = tab.api()

    tab.page.context.set_extra_http_headers(CLAIMS[claim])
    tab.open()

    assert tab.person == ADA
    assert tab.api() == honest


def test_cookies_do_not_change_who_ada_is(
    tab: Tab, address: str, new_context: Callable[[], BrowserContext]
):
    """A stranger's anonymous cookie, and posthog-js's with Grace's id, leave Ada's flags alone."""
    stranger = Tab(new_context().new_page(), address).open()
    kept = [one for one in stranger.page.context.cookies() if one["name"] not in SESSION]
    assert kept
    tab.arrive_as("Ada")
    honest = tab.api()

    cookies: list[Any] = [
        {"name": one["name"], "value": one["value"], "url": address} for one in kept
    ]
    claim = "%7B%22distinct_id%22%3A%22" + GRACE + "%22%7D"
    tab.page.context.add_cookies(
        [*cookies, {"name": "ph_phc_test_posthog", "value": claim, "url": address}]
    )
    tab.open()

    assert tab.person == ADA
    assert tab.api() == honest


@pytest.mark.parametrize(
    "query", ["distinct_id=2", "user=grace", "opt_unique_id=2", "keys=checkout"]
)
def test_query_does_not_change_who_ada_is(tab: Tab, query: str):
    """Nor does a query, of the page or of the API."""
    tab.arrive_as("Ada")
    honest = tab.api()

    tab.open(f"/live/?{query}")
    asked = tab.page.context.request.get(f"{tab.address}/api/features/?{query}").json()

    assert tab.person == ADA
    assert asked["distinct_id"] == ADA
    assert asked["features"].items() <= honest["features"].items()
