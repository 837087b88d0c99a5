"""Requests that nobody thought of: whatever comes, the answer is one that the document declares.

The document is drf-spectacular's own, written from the views; schemathesis makes requests from it,
sound and unsound ones, sends them through WSGI and runs all of its checks on the answers.
"""

from __future__ import annotations

import io
import json
from urllib.parse import quote

import pytest
import schemathesis
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.test import Client
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from schemathesis.config import SchemathesisConfig

from tests.api.test_schema import EXPOSURE_PATH, EXPOSURES_PATH, assert_conforms
from tests.posthog_faults import Refuse
from tests.posthog_server import Flag, PostHogServer, Variant

FLAG_PATH = "/api/features/{key}/"
EXAMPLES = 60
KEYS = ["flag", "v1.2", "größe", "a,b", "with space", "%41", "50%", "own", "off", "\u0085", "NUL\0"]

# The same requests in every run, and nothing read from the disk or written to it.
GENERATION = {
    "mode": "all",
    "deterministic": True,
    "database": "none",
    "max-examples": EXAMPLES,
}
bounded = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    # One PostHog, with its flags, is meant to answer all requests of a test.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def load_schema():
    out = io.StringIO()
    call_command("spectacular", format="openapi-json", stdout=out)
    config = SchemathesisConfig.from_dict({"generation": GENERATION})
    loaded = schemathesis.openapi.from_dict(json.loads(out.getvalue()), config=config)
    loaded.app = get_wsgi_application()
    return loaded


schema = load_schema()


@pytest.fixture
def healthy(enabled: PostHogServer, settings, db) -> PostHogServer:
    """PostHog answers, with keys of every kind."""
    settings.FEATURES = {"own": True}
    known = dict.fromkeys(KEYS[:7], Variant("test", payload={"a": [1, None]}))
    enabled.flags = {**known, "0": Flag(payload=0), "off": False, "\u0085": True}
    return enabled


@pytest.fixture
def down(enabled: PostHogServer, settings, db) -> PostHogServer:
    """PostHog refuses connections, so the site's own values answer."""
    settings.FEATURES = {"0": True, "own": "blue", "off": False}
    enabled.fault = Refuse()
    return enabled


@schema.parametrize()
@bounded
def test_every_answer_is_declared(healthy, case):
    """With PostHog well, no request gets a 5xx or an answer outside the document."""
    case.call_and_validate()


@schema.parametrize()
@bounded
def test_every_answer_is_declared_in_an_outage(down, case):
    """With PostHog down, no request gets a 5xx or an answer outside the document."""
    case.call_and_validate()


header_text = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF), max_size=80)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.uuids().map(str),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
browser_cookie = st.one_of(
    header_text,
    json_values.map(json.dumps).map(quote),
    json_values.map(lambda claim: quote(json.dumps({"distinct_id": claim}))),
)
claims = st.fixed_dictionaries(
    {},
    optional={
        "Cookie": st.one_of(
            header_text,
            header_text.map("olposthog_id={}".format),
            header_text.map("sessionid={}".format),
            browser_cookie.map("ph_phc_test_posthog={}".format),
        ),
        "X-POSTHOG-DISTINCT-ID": header_text | st.uuids().map(str),
        "X-POSTHOG-SESSION-ID": header_text | st.uuids().map(str),
        "Authorization": header_text | header_text.map("Basic {}".format),
        "If-None-Match": header_text | st.just("*"),
        "Accept": header_text | st.sampled_from(["*/*", "application/json", "text/html"]),
        "User-Agent": header_text,
    },
)


@pytest.mark.parametrize("is_healthy", [True, False], ids=["healthy", "down"])
@given(key=st.none() | st.sampled_from(KEYS), headers=claims)
@example(key=None, headers={"Cookie": f"ph_phc_test_posthog={'[' * 3000}"})
@example(key="flag", headers={"Cookie": "olposthog_id=:::"})
@bounded
def test_no_header_leads_out_of_the_document(healthy, settings, is_healthy, key, headers):
    """Whatever headers and cookies claim, with their trust switched on, the answer is declared."""
    settings.POSTHOG_API_TRUST_BROWSER_ID = True
    healthy.fault = None if is_healthy else Refuse()
    path, rest = ("/api/features/", "") if key is None else (FLAG_PATH, f"{quote(key, safe='')}/")

    response = Client(raise_request_exception=False).get(f"/api/features/{rest}", headers=headers)

    assert_conforms(schema.raw_schema, path, response)


@pytest.mark.parametrize("is_healthy", [True, False], ids=["healthy", "down"])
@given(
    key=st.sampled_from(KEYS),
    headers=claims,
    content_type=header_text | st.sampled_from(["application/json", "multipart/form-data"]),
    body=st.binary(max_size=80),
)
@example(key="flag", headers={}, content_type="application/json", body=b"{")
@example(key="flag", headers={}, content_type="multipart/form-data; boundary=x", body=b"--x")
@bounded
def test_no_body_leads_out_of_the_document(
    healthy, settings, *, is_healthy, key, headers, content_type, body
):
    """Whatever is posted to the exposure endpoint, as whatever, the answer is declared."""
    settings.POSTHOG_API_TRUST_BROWSER_ID = True
    healthy.fault = None if is_healthy else Refuse()

    response = Client(raise_request_exception=False).generic(
        "POST",
        f"/api/features/{quote(key, safe='')}/exposure/",
        data=body,
        content_type=content_type,
        headers=headers,
    )

    assert_conforms(schema.raw_schema, EXPOSURE_PATH, response)


exposed = st.one_of(
    st.binary(max_size=80),
    json_values.map(lambda value: json.dumps(value).encode()),
    json_values.map(lambda value: json.dumps({"keys": value}).encode()),
    st.lists(st.sampled_from(KEYS) | st.text()).map(
        lambda keys: json.dumps({"keys": keys}).encode()
    ),
)


@pytest.mark.parametrize("is_healthy", [True, False], ids=["healthy", "down"])
@given(
    headers=claims,
    content_type=st.just("application/json") | header_text,
    body=exposed,
)
@example(headers={}, content_type="application/json", body=b'{"keys": ["\\ud800", "a\\u0000"]}')
@example(headers={}, content_type="application/json", body=b'{"keys": ' + b"[" * 100_000)
@bounded
def test_no_list_leads_out_of_the_document(
    healthy, settings, *, is_healthy, headers, content_type, body
):
    """Whatever is posted as a list of keys, the answer is declared."""
    settings.POSTHOG_API_TRUST_BROWSER_ID = True
    healthy.fault = None if is_healthy else Refuse()

    response = Client(raise_request_exception=False).generic(
        "POST", EXPOSURES_PATH, data=body, content_type=content_type, headers=headers
    )

    assert_conforms(schema.raw_schema, EXPOSURES_PATH, response)
