"""The bootstrap of posthog-js: the REST API's answer in a page, in the form of posthog-js."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse
from django.template import Context, RequestContext, Template
from django.test import AsyncClient, Client
from django.urls import include, path

from olposthog.bootstrap import bootstrap
from olposthog.features import evaluate
from olposthog.identity import Identity
from olposthog.snapshot import Runtime
from tests.api.test_ofrep import ask, by_key
from tests.api.test_views import RawPayload
from tests.posthog_faults import Refuse
from tests.posthog_server import Flag, Variant
from tests.test_exposures import delivered

PAGE = "<body>{% load olposthog %}{% posthog_bootstrap %}<p>after</p></body>"
FEATURES_URL = "/api/features/"


def page(request: HttpRequest) -> HttpResponse:
    return HttpResponse(Template(PAGE).render(RequestContext(request)))


async def async_page(request: HttpRequest) -> HttpResponse:
    return page(request)


urlpatterns = [
    path("api/", include("olposthog_api.urls")),
    path("", include("olposthog_api.ofrep.urls")),
    path("page/", page),
    path("async/", async_page),
]
pytestmark = pytest.mark.urls(__name__)


class Elements(HTMLParser):
    """The elements of a page, with their attributes and their text, as a browser reads it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.found.append((tag, dict(attrs), []))

    def handle_data(self, data: str) -> None:
        self.found[-1][2].append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")


def bootstrapped(response: Any) -> Any:
    """What a page's script would hand to posthog-js; there is nothing else in the page."""
    elements = Elements(response.content.decode()).found
    assert [tag for tag, *_ in elements] == ["body", "script", "p"]
    assert elements[1][1] == {"id": "posthog-bootstrap", "type": "application/json"}
    assert elements[2][2] == ["after"]
    return json.loads("".join(elements[1][2]))


def decoded(payload: Any) -> Any:
    """A payload as posthog-js reads it: text is decoded as JSON, once; other text stays."""
    try:
        return json.loads(payload) if isinstance(payload, str) else payload
    except ValueError:
        return payload


PAYLOADS: dict[str, Any] = {
    # Text, some of which looks like JSON
    '"plain"': "plain",
    '"123"': "123",
    '"-1.5e3"': "-1.5e3",
    '"true"': "true",
    '"null"': "null",
    '"[1]"': "[1]",
    r'"{\"a\": 1}"': '{"a": 1}',
    r'"\"quoted\""': '"quoted"',
    r'"\"\\\"twice\\\"\""': r'"\"twice\""',
    '""': "",
    '" "': " ",
    r'"\ud800 alone"': "\ud800 alone",
    r'"\u2028\u2029"': "\u2028\u2029",
    '"</script><!--"': "</script><!--",
    # Text that is not JSON
    "": "",
    " ": " ",
    "plain": "plain",
    "{not json": "{not json",
    "'single'": "'single'",
    "NaN": "NaN",
    "-Infinity": "-Infinity",
    "1e999": "1e999",
    "[1,]": "[1,]",
    "</script><script>": "</script><script>",
    "\u2028": "\u2028",
    # Other JSON
    "123": 123,
    "0": 0,
    "-1.5": -1.5,
    "true": True,
    "false": False,
    "null": None,
    "[]": [],
    "{}": {},
    '["1", 2, null, "null", ["[]"]]': ["1", 2, None, "null", ["[]"]],
    r'{"n": "123", "q": "\"q\"", "o": {"t": "true", "l": ["{}"]}}': {
        "n": "123",
        "q": '"q"',
        "o": {"t": "true", "l": ["{}"]},
    },
    '{"__proto__": {"a": "1"}, "constructor": "2"}': {"__proto__": {"a": "1"}, "constructor": "2"},
}
"""Payloads by the text that PostHog sends for them."""

PAYLOAD_FLAGS = {f"web-{n}": RawPayload(text=wire) for n, wire in enumerate(PAYLOADS)}
PAYLOADS_BY_KEY = {
    key: PAYLOADS[flag.text]
    for key, flag in PAYLOAD_FLAGS.items()
    if PAYLOADS[flag.text] is not None
}


@pytest.fixture
def user(db):
    return get_user_model().objects.create_user("ada")


@pytest.fixture
def member(client, user):
    client.force_login(user)
    return client


# The shape


def test_it_is_exactly_what_posthog_js_takes(enabled, member, user):
    """The person, all flags, and the payloads of those that are on."""
    enabled.flags = {
        "new-nav": True,
        "checkout": Variant("test", payload={"colour": "green"}),
        "off": Flag(False, payload="never"),
        "off-with-payload": RawPayload(False, text='"never"'),
        "empty": RawPayload("", text="1"),
    }

    assert bootstrapped(member.get("/page/")) == {
        "distinctID": str(user.pk),
        "isIdentifiedID": True,
        "featureFlags": {
            "checkout": "test",
            "empty": False,
            "new-nav": True,
            "off": False,
            "off-with-payload": False,
        },
        "featureFlagPayloads": {"checkout": {"colour": "green"}},
    }


def test_a_visitor_is_not_identified(enabled, client):
    """posthog-js must not make a person profile of somebody who has not logged in."""
    answer = bootstrapped(client.get("/page/"))

    assert answer["isIdentifiedID"] is False
    assert (answer["featureFlags"], answer["featureFlagPayloads"]) == ({}, {})


def test_payload_is_the_same_everywhere(enabled, member, user):
    """Python, REST, OFREP and posthog-js read the same payload of the same type."""
    enabled.flags = PAYLOAD_FLAGS

    in_page = bootstrapped(member.get("/page/"))["featureFlagPayloads"]
    rest = member.get(FEATURES_URL).json()["payloads"]
    single = {key: member.get(f"{FEATURES_URL}{key}/").json()["payload"] for key in PAYLOAD_FLAGS}
    ofrep = {
        key: json.loads(flag["metadata"]["payload"])
        for key, flag in by_key(ask(member)).items()
        if "payload" in flag["metadata"]
    }

    expected = typed(PAYLOADS_BY_KEY)
    assert typed(evaluate(str(user.pk), runtime=Runtime.CLIENT).payloads) == expected
    assert typed(rest) == expected
    assert typed({key: one for key, one in single.items() if one is not None}) == expected
    assert typed(ofrep) == expected
    assert typed({key: decoded(one) for key, one in in_page.items()}) == expected


def typed(payloads: Mapping[str, Any]) -> dict[str, str]:
    """The payloads as JSON text, in which 1, 1.0 and True differ."""
    return {key: json.dumps(payload) for key, payload in payloads.items()}


def test_only_text_at_the_top_is_encoded(enabled, client):
    """Lists, objects, numbers and booleans go out as they are, and so does the text in them."""
    enabled.flags = PAYLOAD_FLAGS
    expected = {key: one for key, one in PAYLOADS_BY_KEY.items() if not isinstance(one, str)}

    payloads = bootstrapped(client.get("/page/"))["featureFlagPayloads"]

    assert typed({key: payloads[key] for key in expected}) == typed(expected)


def test_keys_of_javascript_objects(enabled, client):
    """Keys that JavaScript objects inherit are keys like others, except `__proto__`.

    That one would put its payload behind the payloads of other flags: it is left out.
    """
    enabled.flags = {
        "__proto__": Flag(payload={"checkout": "not its own"}),
        "constructor": Variant("test", payload="123"),
        "hasOwnProperty": False,
        "toString": Flag(payload={"a": 1}),
    }

    found = bootstrapped(client.get("/page/"))

    assert found["featureFlags"] == {
        "constructor": "test",
        "hasOwnProperty": False,
        "toString": True,
    }
    assert found["featureFlagPayloads"] == {"constructor": '"123"', "toString": {"a": 1}}


@pytest.mark.parametrize("first", ["page", "api"])
@pytest.mark.parametrize("who", ["visitor", "member"])
def test_page_and_api_agree(enabled, user, first, who):
    """Whichever comes first, posthog-js starts with the person and the flags of the API."""
    enabled.flags = {
        "hers": Flag(only_for={str(user.pk)}),
        "theirs": Flag(only_for=lambda body: body["distinct_id"] > "8"),
        "v": Variant("test", payload=[1]),
    }
    browser = Client()
    if who == "member":
        browser.force_login(user)
    if first == "page":
        page, api = bootstrapped(browser.get("/page/")), browser.get(FEATURES_URL).json()
    else:
        api, page = browser.get(FEATURES_URL).json(), bootstrapped(browser.get("/page/"))

    assert page["distinctID"] == api["distinct_id"]
    assert page["featureFlags"] == api["features"]
    assert page["featureFlagPayloads"] == api["payloads"]


def test_a_trusted_browsers_id_is_kept(enabled, client, settings):
    """Where the site trusts posthog-js's own id, posthog-js gets that one back."""
    settings.POSTHOG_API_TRUST_BROWSER_ID = True
    browser_id = "0192d7a4-1111-7000-8000-000000000001"

    answer = bootstrapped(client.get("/page/", headers={"x-posthog-distinct-id": browser_id}))

    assert (answer["distinctID"], answer["isIdentifiedID"]) == (browser_id, False)


# What a browser may see


def test_hidden_flags_are_not_in_the_page(enabled, client, settings):
    """Server-only flags, those that the site hides, and PostHog's own are nowhere in it."""
    settings.POSTHOG_API_FLAGS = ["web-*", "survey-targeting-*"]
    enabled.flags = {
        "web-nav": True,
        "web-server": Flag(runtime="server", payload="secret"),
        "billing": Variant("secret", payload="secret"),
        "survey-targeting-1": Flag(payload="secret"),
    }

    response = client.get("/page/")

    assert bootstrapped(response)["featureFlags"] == {"web-nav": True}
    assert b"secret" not in response.content
    assert [call["evaluation_runtime"] for call in enabled.flag_calls] == [Runtime.CLIENT.value]


def test_a_servers_snapshot_is_refused(enabled):
    """Flags that were evaluated for the server reach no page by mistake."""
    with pytest.raises(ValueError, match=r"Runtime\.CLIENT"):
        bootstrap(evaluate("u1"))

    assert bootstrap(evaluate("u1", runtime=Runtime.CLIENT))["distinctID"] == "u1"


# The page


HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "-->",
    "]]>",
    "&lt;/script&gt;&amp;",
    "\u2028\u2029",
    "\"'\\`${}",
    "<SCRIPT></SCRIPT >",
    "\0\x7f\r\n\t",
    "{% now %}{{ request }}",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_whatever_flags_say_stays_inert(enabled, client, settings, text):
    """No key, variant, payload or id leaves the script, and all arrive as they are."""
    settings.POSTHOG_API_IDENTITY = f"{__name__}.hostile_visitor"
    enabled.flags = {text: Variant(text, payload={text: [text]}), "plain": Flag(payload=text)}

    response = client.get("/page/", {"id": text})

    assert bootstrapped(response) == {
        "distinctID": text,
        "isIdentifiedID": True,
        "featureFlags": {text: text, "plain": True},
        "featureFlagPayloads": {text: {text: [text]}, "plain": json.dumps(text)},
    }
    block = response.content.split(b'type="application/json">')[1].split(b"<p>after</p>")[0]
    assert block.endswith(b"</script>")
    inside = block.removesuffix(b"</script>")
    assert not set("<>&\u2028\u2029") & set(inside.decode())
    assert inside.isascii()


def hostile_visitor(request: HttpRequest) -> Identity:
    return Identity(request.GET["id"])


def test_a_page_remembers_its_visitor(enabled, client):
    """The middleware gives a new visitor the cookie, and the next page has the same id."""
    first = client.get("/page/")
    second = client.get("/page/")

    assert list(first.cookies) == ["olposthog_id"]
    assert "Cookie" in first["Vary"]
    assert not second.cookies
    assert bootstrapped(first) == bootstrapped(second)


def test_a_page_is_no_exposure(enabled, client):
    """Handing flags to posthog-js reports nothing: it does so itself once one is read."""
    enabled.flags = {"beta": True}
    assert bootstrapped(client.get("/page/"))["featureFlags"] == {"beta": True}

    assert delivered(enabled) == []


def test_an_outage_leaves_the_sites_values(enabled, client, settings):
    """With PostHog down the page has `settings.FEATURES`."""
    settings.FEATURES = {"beta": True, "off": False}
    enabled.fault = Refuse()

    assert bootstrapped(client.get("/page/"))["featureFlags"] == {"beta": True, "off": False}


def test_without_the_request_the_fix_is_named():
    """A page that is rendered without the request says what is missing."""
    with pytest.raises(ImproperlyConfigured, match=r"posthog_bootstrap.* needs the request"):
        Template(PAGE).render(Context())


def test_it_works_in_an_async_view(enabled):
    """A coroutine's page has the same block."""
    enabled.flags = {"beta": True}

    response = async_to_sync(AsyncClient().get)("/async/")

    assert bootstrapped(response)["featureFlags"] == {"beta": True}
