"""The server component has the visitor's flags, and the browser goes on with them."""

from __future__ import annotations

import re
from pathlib import Path

import requests
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.browser.tab import ADA, SEEN
from tests.browser.test_exposures import wait_for_exposures
from tests.nextjs.conftest import Application, serve_next
from tests.shop import PATIENCE
from tests.site.servers import free_port

COOKIE = "olposthog_id"


def rendered(session: requests.Session, url: str) -> dict[str, str]:
    """What Next.js has rendered: the texts of the page's outputs."""
    response = session.get(url, timeout=PATIENCE)
    assert response.status_code == 200
    return dict(re.findall(r'<output id="(\w+)">(.*?)</output>', response.text))


def test_visitor_is_the_same_on_every_page(application: Application) -> None:
    """A new visitor gets Django's cookie with the first page, and has the flags of its id."""
    with requests.Session() as session:
        first = rendered(session, application.url)
        second = rendered(session, application.url)
        answer = session.get(f"{application.url}/api/features/", timeout=PATIENCE).json()

        assert COOKIE in session.cookies
    assert first == second
    assert first["person"] == answer["distinct_id"]
    assert first["checkout"] == answer["features"]["checkout"]


def test_visitors_are_different_people(application: Application) -> None:
    """No page of one visitor is served to another."""
    people = set()
    for _ in range(3):
        with requests.Session() as session:
            people.add(rendered(session, application.url)["person"])

    assert len(people) == 3


def test_page_without_django(tmp_path: Path) -> None:
    """While Django does not answer, the page is rendered without flags."""
    nowhere = f"http://127.0.0.1:{free_port()}"
    with serve_next(nowhere, free_port(), tmp_path / "next.log") as url, requests.Session() as one:
        assert rendered(one, url) == {"person": "", "checkout": "undefined"}


def open_page(context: BrowserContext, url: str) -> tuple[Page, list[str]]:
    """Open the page; return it with what it says on the console, or throws."""
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    with page.expect_response("**/api/features/"):
        page.goto(url)
    return page, said


def test_flags_of_the_server_are_hydrated(application: Application, browser: Browser) -> None:
    """React takes over what the server rendered without a mismatch, and reports the exposures."""
    with browser.new_context() as context:
        page, said = open_page(context, application.url)
        person = page.locator("#person").inner_text()

        told = wait_for_exposures(application.posthog, person, 2)

        assert told["checkout"] == page.locator("#checkout").inner_text()
        assert set(told) == {"checkout", "gift-wrapping"}
        assert said == []


def test_user_has_their_own_flags(application: Application, browser: Browser) -> None:
    """The cookies of a log-in reach Django from the server component and from the browser."""
    with browser.new_context() as context:
        session = f"{application.url}/api/session/"
        context.request.get(session)
        token = next(one for one in context.cookies() if one["name"] == "csrftoken")["value"]
        headers = {"X-CSRFToken": token, "Origin": application.url}
        form: dict[str, str | float | bool] = {"username": "ada", "password": "demo"}
        assert context.request.post(session, form=form, headers=headers).ok

        html = context.request.get(application.url).text()
        page, said = open_page(context, application.url)

        assert f'<output id="person">{ADA}</output>' in html
        expect(page.locator("#checkout")).to_have_text(str(SEEN[ADA]["checkout"]))
        expect(page.get_by_text("Gifts come wrapped.")).to_be_visible()
        told = wait_for_exposures(application.posthog, ADA, 2)
        assert told == {"checkout": "express", "gift-wrapping": True}
        assert said == []
