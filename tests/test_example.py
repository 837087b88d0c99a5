"""The example project, used as a person would: from the command line, and over HTTP."""

from __future__ import annotations

import html
import json
import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pytest
import requests

from tests.posthog_faults import Refuse
from tests.posthog_server import PostHogServer, Variant
from tests.shop import PATIENCE, ROOT, Shop, eventually

SERVER_ONLY = "stock-forecast"
BROWSER_ONLY = "web-animations"
INTERNAL = "survey-targeting-5c1d2e-custom"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A shop that is ready to open."""
    return Shop.prepared(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def address(shop: Shop) -> Iterator[str]:
    """The address of the open shop."""
    with shop.open() as address:
        yield address


class Visitor:
    """Somebody with a browser of their own: a visitor, until they log in."""

    def __init__(self, address: str, name: str | None = None) -> None:
        self._address = address
        self._browser = requests.Session()
        self._browser.trust_env = False
        if name:
            arrived = self.submit("/log-in/", username=name, password="demo")
            assert arrived.url == f"{address}/", arrived.text

    def get(self, path: str, **headers: str) -> requests.Response:
        return self._browser.get(self._address + path, headers=headers, timeout=PATIENCE)

    def api(self) -> Any:
        """What the REST API says."""
        response = self.get("/api/features/")
        assert response.status_code == 200, response.text
        return response.json()

    def page(self) -> Page:
        """What the home page shows."""
        return Page.read(self.get("/"))

    def report(self, key: str, **headers: str) -> requests.Response:
        """Say that a flag was rendered, as a script does that can read the CSRF cookie."""
        token = self._browser.cookies.get("csrftoken", "")
        return self._browser.post(
            f"{self._address}/api/features/{key}/exposure/",
            headers={"X-CSRFToken": token, **headers},
            timeout=PATIENCE,
        )

    def preflight(self, path: str, **headers: str) -> requests.Response:
        """Ask, as a browser does, whether a script of another origin may send a request."""
        return self._browser.options(self._address + path, headers=headers, timeout=PATIENCE)

    def log_out(self) -> None:
        self.submit("/log-out/", form_at="/")

    def submit(self, path: str, form_at: str | None = None, **fields: str) -> requests.Response:
        """Send a form as a browser does, with the token from its page; follows the redirect."""
        form = self.get(form_at or path).text
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', form)
        assert token, form
        response = self._browser.post(
            self._address + path,
            data={**fields, "csrfmiddlewaretoken": token[1]},
            timeout=PATIENCE,
        )
        assert response.status_code == 200, response.text
        return response


@dataclass(frozen=True)
class Page:
    text: str
    flags: Mapping[str, str]
    distinct_id: str
    source: str

    @classmethod
    def read(cls, response: requests.Response) -> Page:
        assert response.status_code == 200, response.text
        text = html.unescape(response.text)
        rows = re.findall(r'data-flag="([^"]+)" data-value="([^"]+)"', text)
        distinct_id = re.search(r'id="distinct-id">([^<]+)<', text)
        source = re.search(r'id="source">([^<]+)<', text)
        assert distinct_id
        assert source
        return cls(text, dict(rows), distinct_id[1], source[1])

    @property
    def is_about_outage(self) -> bool:
        return re.search(r'id="outage" role="status" hidden', self.text) is None


def as_shown(value: bool | str) -> str:
    return value if isinstance(value, str) else "on" if value else "off"


def test_checks_give_no_message(shop):
    """The settings are an example: no check finds anything, not even a hint."""
    check = shop.manage("check", "--fail-level", "DEBUG")

    assert check.returncode == 0, check.stderr
    assert "no issues (0 silenced)" in check.stdout


def test_migrations_are_complete(shop):
    """The models and their migrations say the same."""
    assert shop.manage("makemigrations", "--check").returncode == 0


def test_demo_tells_who_can_log_in_and_runs_twice(shop):
    """`demo` prepares what is missing; with nothing missing it changes nothing."""
    again = shop.manage("demo")

    assert (again.returncode, again.stderr) == (0, "")
    for told in ("ada", "grace", "operator", "password demo", "/api/features/", "/api/docs/"):
        assert told in again.stdout
    for told in ("/admin/olposthog_admin/person/", "/health/"):
        assert told in again.stdout


def test_flags_have_a_database_of_their_own(shop):
    """Beside the cache's table the database `flags` has none, and no other database has that."""

    def tables(database: str) -> set[str]:
        with closing(sqlite3.connect(shop.folder / "var" / database)) as connection:
            found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            return {name for (name,) in found}

    assert tables("flags.sqlite3") == {"flags_cache"}
    assert "storefront_customer" in tables("shop.sqlite3")
    assert "flags_cache" not in tables("shop.sqlite3")


@pytest.mark.parametrize("name", [None, "ada", "grace"])
def test_page_and_api_agree(address, name):
    """Whoever asks, the page and the API know the same person and the same flags."""
    visitor = Visitor(address, name)

    page, api = visitor.page(), visitor.api()

    assert page.distinct_id == api["distinct_id"]
    assert page.source == api["source"] == "local"
    assert page.flags.keys() ^ api["features"].keys() == {SERVER_ONLY, BROWSER_ONLY}
    for key in page.flags.keys() & api["features"].keys():
        assert page.flags[key] == as_shown(api["features"][key])


def test_customers_get_different_flags(address):
    """Ada has the plan pro and Grace has not: pages, values and payloads differ."""
    ada, grace = Visitor(address, "ada"), Visitor(address, "grace")

    ada_api, grace_api = ada.api(), grace.api()

    assert ada_api["features"]["checkout"] == "express"
    assert grace_api["features"]["checkout"] == "one-page"
    assert ada_api["features"]["gift-wrapping"] is True
    assert grace_api["features"]["gift-wrapping"] is False
    assert ada_api["features"]["web-upgrade-offer"] is False
    assert grace_api["features"]["web-upgrade-offer"] is True
    assert ada_api["payloads"]["checkout"]["button"] in ada.page().text
    assert grace_api["payloads"]["checkout"]["button"] in grace.page().text
    assert "Wrap it as a gift" in ada.page().text
    assert "Wrap it as a gift" not in grace.page().text


def test_flag_that_is_off_is_off_for_all(address):
    """An inactive flag is known, and off."""
    for name in (None, "ada", "grace"):
        assert Visitor(address, name).api()["features"]["web-dark-mode"] is False


def test_rollout_reaches_some(address):
    """Half of the visitors are in the sale: among thirty, some are and some are not."""
    sales = {Visitor(address).api()["features"]["web-summer-sale"] for _ in range(30)}

    assert sales == {True, False}


def test_visitor_keeps_flags(address):
    """A visitor is the same person on the next request, and nobody else's."""
    visitor, another = Visitor(address), Visitor(address)

    first_page, first = visitor.page(), visitor.api()

    assert visitor.api() == first
    assert visitor.page().flags == first_page.flags
    assert visitor.page().distinct_id == first["distinct_id"]
    assert another.api()["distinct_id"] != first["distinct_id"]


def test_log_out_makes_a_visitor(address):
    """After logging out there is nothing left of Ada."""
    ada = Visitor(address, "ada")
    assert ada.api()["distinct_id"] == "1"

    ada.log_out()

    assert ada.api()["distinct_id"] != "1"
    assert ada.api()["features"]["gift-wrapping"] is False


def test_wrong_password_is_told(address):
    """The log-in page says what is wrong, and nobody is logged in."""
    visitor = Visitor(address)

    refused = visitor.submit("/log-in/", username="ada", password="wrong")

    assert "Please enter a correct username and password" in refused.text
    assert visitor.api()["distinct_id"] != "1"


@pytest.mark.parametrize("name", [None, "ada", "grace"])
@pytest.mark.parametrize("key", [SERVER_ONLY, INTERNAL])
def test_browser_never_hears_of(address, name, key):
    """A flag for servers, and one of PostHog's own, are unknown to the API."""
    visitor = Visitor(address, name)

    assert key not in visitor.get("/api/features/").text
    assert visitor.get(f"/api/features/?keys={key}").json()["features"] == {}
    assert visitor.get(f"/api/features/{key}/").status_code == 404
    assert INTERNAL not in visitor.page().text


def test_polling_costs_a_304(address):
    """The page's script asks again with the ETag, and gets no body while nothing changes."""
    visitor = Visitor(address)
    etag = visitor.get("/api/features/").headers["ETag"]

    again = visitor.get("/api/features/", **{"If-None-Match": etag})

    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("path", ["/", "/log-in/", "/api/docs/"])
def test_pages_need_no_other_site(address, path):
    """Every style, script and image comes from the shop itself, and is there."""
    visitor = Visitor(address)
    text = visitor.get(path).text
    assets = re.findall(r'<(?:link|script|img)\b[^>]*?(?:href|src)="([^"]*)"', text)

    assert assets
    for asset in assets:
        assert asset.startswith("/static/")
        assert visitor.get(asset).status_code == 200


def test_schema_is_served_to_everybody(address):
    """What Swagger UI shows is the contract at the root of the repository."""
    served = Visitor(address).get("/api/schema/")

    assert served.status_code == 200
    assert served.text.strip() == (ROOT / "openapi.yaml").read_text().strip()


def test_openapi_file_is_up_to_date(shop):
    """`openapi.yaml` is what the command writes, without a warning."""
    fresh = shop.folder / "openapi.yaml"

    written = shop.manage("spectacular", "--validate", "--fail-on-warn", "--file", str(fresh))

    assert (written.returncode, written.stderr) == (0, "")
    assert fresh.read_text() == (ROOT / "openapi.yaml").read_text()


def test_edited_definitions_show_up(shop, address):
    """Whoever edits `flags.json` sees the change without a restart, in the API and on the page."""
    ada = Visitor(address, "ada")
    assert ada.api()["features"]["web-dark-mode"] is False
    original = shop.flags.read_text()
    definitions = json.loads(original)
    for flag in definitions["flags"]:
        flag["active"] = flag["active"] or flag["key"] == "web-dark-mode"
    try:
        shop.flags.write_text(json.dumps(definitions))

        eventually(lambda: ada.api()["features"]["web-dark-mode"] is True)
        eventually(lambda: ada.page().flags["web-dark-mode"] == "on")
    finally:
        shop.flags.write_text(original)
    eventually(lambda: ada.api()["features"]["web-dark-mode"] is False)


def test_environment_alone_switches_to_posthog(shop, posthog: PostHogServer):
    """With a key and a host the shop asks PostHog; in an outage it has its defaults and says so."""
    posthog.flags = {
        "checkout": Variant("express", payload={"button": "Straight from PostHog"}),
        "gift-wrapping": True,
        INTERNAL: True,
    }
    connected = Shop(
        shop.folder,
        {"POSTHOG_PROJECT_API_KEY": posthog.token, "POSTHOG_API_HOST": posthog.url},
    )
    assert connected.manage("check", "--fail-level", "DEBUG").returncode == 0

    with connected.open() as address:
        grace = Visitor(address, "grace")
        page, api = grace.page(), grace.api()
        posthog.fault = Refuse()
        visitor = Visitor(address)
        outage_page, outage_api = visitor.page(), visitor.api()

    assert page.source == api["source"] == "posthog"
    assert "Straight from PostHog" in page.text
    assert not page.is_about_outage
    assert api["features"] == {"checkout": "express", "gift-wrapping": True, "new-navigation": True}
    assert INTERNAL not in page.text
    assert posthog.flag_calls[0]["person_properties"] == {
        "environment": "demo",
        "plan": "free",
        "user_id": api["distinct_id"],
    }
    assert outage_page.source == outage_api["source"] == "fallback"
    assert outage_page.is_about_outage
    assert outage_api["features"] == {"checkout": "classic", "new-navigation": True}


def test_operator_sees_what_a_customer_gets(shop, address):
    """The operator of the demo finds Ada in the admin, sees her flags, and may clear them."""
    operator = Visitor(address)
    people = "/admin/olposthog_admin/person/"
    operator.submit(f"/admin/login/?next={people}", username="operator", password="demo")

    found = re.search(r'href="([^"]+)">ada</a>', operator.get(f"{people}?q=ada").text)
    assert found
    page = operator.get(found[1])
    cleared = operator.submit(f"{people}1/clear/", form_at=found[1])

    assert "the user ada" in page.text
    row = re.search(r'<th scope="row">checkout</th>\s*<td>([^<]+)</td>', page.text)
    assert row
    assert row[1] == Visitor(address, "ada").api()["features"]["checkout"] == "express"
    assert "Cleared the cached flags." in cleared.text
    assert operator.get("/admin/storefront/customer/add/").status_code == 403


def test_customers_are_no_operators(address):
    """A customer gets into no page of the admin."""
    assert "/admin/login/" in Visitor(address, "ada").get("/admin/olposthog_admin/person/").url


def test_health_page_tells_of_flags(address):
    """The health page is for everybody, and has a line for flags."""
    health = Visitor(address).get("/health/?format=text")

    assert health.status_code == 200
    assert "FlagsHealth(state='ok')" in health.text


@pytest.mark.parametrize("debug", ["on", "off"])
def test_toolbar_is_for_developers(shop, debug):
    """With DEBUG the toolbar shows the flags that the shop's page read; without, nobody sees it."""
    settings = {"SHOP_DEBUG_TOOLBAR": "on", "SHOP_DEBUG": debug}
    assert Shop(shop.folder, settings).manage("check", "--fail-level", "DEBUG").returncode == 0

    with Shop(shop.folder, settings).open() as address:
        page = Visitor(address).get("/")
        answer = Visitor(address).get("/api/features/")

    is_shown = debug == "on"
    assert ("FlagsPanel" in page.text) is is_shown
    assert ("__debug__" in page.text) is is_shown
    assert answer.headers["Cache-Control"] == "private, no-cache"
    assert answer.json()["source"] == "local"


SPA = "https://app.example.com"
CORS = "Access-Control-"


def of_cors(response: requests.Response) -> dict[str, str]:
    named = {name.title(): value for name, value in response.headers.items()}
    return {name: value for name, value in named.items() if name.startswith(CORS)}


def test_another_origin_may_not_read(address):
    """Out of the box a script of another origin can read no flags and report no exposure."""
    visitor = Visitor(address, "ada")

    asked = visitor.preflight("/api/features/", **{"Origin": SPA, f"{CORS}Request-Method": "GET"})
    answer = visitor.get("/api/features/", Origin=SPA)

    assert f"{CORS}Allow-Origin" not in asked.headers
    assert f"{CORS}Allow-Origin" not in answer.headers
    assert visitor.report("checkout", Origin=SPA).status_code == 403
    assert visitor.report("checkout").status_code == 204


def test_the_apps_origin_may_read_and_report(shop):
    """SHOP_SPA_ORIGIN lets a single-page app of that origin, and of no other, have it all."""
    with Shop(shop.folder, {"SHOP_SPA_ORIGIN": f"{SPA} http://localhost:5173"}).open() as address:
        ada = Visitor(address, "ada")
        wanted = "if-none-match,x-csrftoken,x-posthog-distinct-id,x-posthog-session-id"
        leave = {f"{CORS}Request-Method": "POST", f"{CORS}Request-Headers": wanted}
        granted = ada.preflight("/api/features/checkout/exposure/", Origin=SPA, **leave)
        answer = ada.get("/api/features/", Origin=SPA)
        reported = ada.report("checkout", Origin=SPA)
        page = ada.get("/", Origin=SPA)
        stranger = ada.get("/api/features/", Origin="https://evil.example.com")
        strangers_report = ada.report("checkout", Origin="https://evil.example.com")

    assert granted.headers[f"{CORS}Allow-Origin"] == SPA
    allowed = granted.headers[f"{CORS}Allow-Headers"].split(", ")
    assert {*wanted.split(","), "x-posthog-window-id"} <= set(allowed)
    assert "POST" in granted.headers[f"{CORS}Allow-Methods"]
    assert answer.json()["distinct_id"] == "1"
    assert of_cors(answer) == {
        f"{CORS}Allow-Origin": SPA,
        f"{CORS}Allow-Credentials": "true",
        f"{CORS}Expose-Headers": "ETag, Retry-After",
    }
    assert "origin" in answer.headers["Vary"].lower()
    assert (reported.status_code, reported.headers[f"{CORS}Allow-Origin"]) == (204, SPA)
    assert of_cors(page) == {}
    assert f"{CORS}Allow-Origin" not in stranger.headers
    assert strangers_report.status_code == 403


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"POSTHOG_API_HOST": "https://eu.i.posthog.com"}, "olposthog.E101"),
        ({"POSTHOG_PROJECT_API_KEY": "phc_demo"}, "olposthog.E102"),
        ({"POSTHOG_ENABLED": "perhaps"}, "POSTHOG_ENABLED is 'perhaps'"),
        ({"POSTHOG_LOCAL_CACHE_SECONDS": "five"}, "POSTHOG_LOCAL_CACHE_SECONDS is 'five'"),
        ({"SHOP_SPA_ORIGIN": "app.example.com"}, "corsheaders.E013"),
    ],
)
def test_mistake_in_the_environment_is_told(shop, given, told):
    """Half a configuration, or a value that is none, is named before anybody is served."""
    check = Shop(shop.folder, given).manage("check")

    assert check.returncode != 0
    assert told in check.stderr


def test_switched_off_shop_has_its_defaults(shop):
    """POSTHOG_ENABLED=off leaves the fallback values, without an outage."""
    with Shop(shop.folder, {"POSTHOG_ENABLED": "off"}).open() as address:
        visitor = Visitor(address)

        assert visitor.api()["source"] == "disabled"
        assert visitor.api()["features"] == {"checkout": "classic", "new-navigation": True}
        assert not visitor.page().is_about_outage
