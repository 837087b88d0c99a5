"""OFREP's document: ours is sound, and the answers are as ours and the published one say.

The schemas here are the shapes of `service/openapi.yaml` of open-feature/protocol, version 0.3.0.
They are stricter in one point: there, "no value at all" is an object of any kind, so that a
boolean flag is two of a `oneOf`; here it is one without a `value`.
"""

from __future__ import annotations

import io
import json
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest
from django.core.management import call_command
from django.test import Client
from django.urls import include, path
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from tests.api.test_ofrep import FLAGS_URL
from tests.api.test_schema import assert_conforms, resolved
from tests.posthog_faults import Refuse
from tests.posthog_server import Flag, PostHogServer, Variant

urlpatterns = [path("", include("olposthog_api.ofrep.urls"))]
pytestmark = pytest.mark.urls(__name__)

FLAG_PATH = f"{FLAGS_URL}/{{key}}"

METADATA = {
    "type": "object",
    "additionalProperties": {
        "oneOf": [{"type": "boolean"}, {"type": "string"}, {"type": "number"}]
    },
}
VALUES = [
    {"properties": {"value": {"type": kind}}, "required": ["value"]}
    for kind in ("boolean", "string", "number", "object")
] + [{"not": {"required": ["value"]}}]
SUCCESS: dict[str, Any] = {
    "type": "object",
    "required": ["key", "reason"],
    "properties": {
        "key": {"type": "string"},
        "reason": {"enum": ["STATIC", "TARGETING_MATCH", "SPLIT", "DISABLED", "UNKNOWN"]},
        "variant": {"type": "string"},
        "metadata": METADATA,
        "errorCode": False,
    },
    "oneOf": VALUES,
}
FAILURE: dict[str, Any] = {
    "type": "object",
    "required": ["key", "errorCode"],
    "properties": {
        "key": {"type": "string"},
        "errorCode": {
            "enum": ["PARSE_ERROR", "TARGETING_KEY_MISSING", "INVALID_CONTEXT", "GENERAL"]
        },
        "errorDetails": {"type": "string"},
        "metadata": METADATA,
    },
}
NOT_FOUND = {
    **FAILURE,
    "properties": {**FAILURE["properties"], "errorCode": {"enum": ["FLAG_NOT_FOUND"]}},
}
BULK_SUCCESS = {
    "type": "object",
    "required": ["flags"],
    "properties": {
        "flags": {"type": "array", "items": {"oneOf": [SUCCESS, FAILURE]}},
        "metadata": METADATA,
        "eventStreams": {"type": "array"},
    },
}
BULK_FAILURE: dict[str, Any] = {
    "type": "object",
    "required": ["errorCode"],
    "properties": {"errorCode": {"type": "string"}, "errorDetails": {"type": "string"}},
}
GENERAL = {"type": "object", "properties": {"errorDetails": {"type": "string"}}}
PUBLISHED: dict[str, dict[int, Any]] = {
    FLAGS_URL: {200: BULK_SUCCESS, 304: None, 400: BULK_FAILURE},
    FLAG_PATH: {200: SUCCESS, 400: FAILURE, 404: NOT_FOUND},
}


def assert_published(path: str, response: Any) -> None:
    """The answer has the shape that OFREP's own document gives it."""
    schema = PUBLISHED[path].get(response.status_code, GENERAL)
    if schema is None:
        assert response.content == b""
    else:
        Draft202012Validator(schema).validate(response.json())


def spectacular(**options: Any) -> Any:
    out = io.StringIO()
    call_command(
        "spectacular",
        format="openapi-json",
        validate=True,
        fail_on_warn=True,
        stdout=out,
        **options,
    )
    return json.loads(out.getvalue())


@pytest.fixture(scope="module")
def document() -> Any:
    return spectacular(urlconf=SimpleNamespace(urlpatterns=urlpatterns))


@pytest.fixture
def flags(enabled: PostHogServer, settings: Any) -> PostHogServer:
    settings.FEATURES = {"own": "blue", "flag": True}
    enabled.flags = {
        "flag": Flag(reason="out_of_rollout_bound"),
        "variant": Variant("test", payload={"a": [1, None]}),
        "off": False,
        "number": 42,
        "failed": Flag(failed=True),
        "odd/% ü": Flag(reason="flag_disabled"),
    }
    return enabled


def test_the_document_names_both_endpoints(document):
    """A generated client has an operation for each, under a tag of their own."""
    operations = {
        path: {method: (one["operationId"], one["tags"]) for method, one in methods.items()}
        for path, methods in document["paths"].items()
    }

    assert operations == {
        FLAGS_URL: {"post": ("ofrep_flags", ["ofrep"])},
        FLAG_PATH: {"post": ("ofrep_flag", ["ofrep"])},
    }
    for methods in document["paths"].values():
        assert {} in methods["post"]["security"]


def test_requests_are_json(document):
    """Nothing but JSON can be sent."""
    for methods in document["paths"].values():
        content = methods["post"]["requestBody"]["content"]
        schema = resolved(document, content["application/json"]["schema"])
        assert list(content) == ["application/json"]
        assert schema["properties"]["context"]["properties"] == {"targetingKey": {"type": "string"}}


def test_our_document_refuses_what_the_published_one_does(document):
    """A null for a value, another reason or nested metadata would be no answer of ours."""
    ok = document["paths"][FLAG_PATH]["post"]["responses"]["200"]
    schema = resolved(document, ok["content"]["application/json"]["schema"])
    ours = Draft202012Validator({**schema, "components": document["components"]})
    flag: dict[str, Any] = {
        "key": "a",
        "value": True,
        "reason": "STATIC",
        "variant": "on",
        "metadata": {"a": 1},
    }
    wrong: list[dict[str, Any]] = [
        {"value": None},
        {"reason": "DEFAULT"},
        {"metadata": {"a": {}}},
        {"variant": None},
    ]

    for validator in (ours, Draft202012Validator(SUCCESS)):
        assert validator.is_valid(flag)
        assert validator.is_valid({name: flag[name] for name in flag if name != "value"})
        for change in wrong:
            assert not validator.is_valid({**flag, **change})


CASES: list[tuple[str | None, bytes, dict[str, str], int]] = [
    (None, b"{}", {}, 200),
    (None, b"{}", {"if-none-match": "*"}, 304),
    (None, b"[", {}, 400),
    (None, b'{"context": 1}', {}, 400),
    (None, b"{}", {"authorization": "Basic !"}, 403),
    (None, b" " * 70_000, {}, 413),
    (None, b"{}", {"content-type": "text/plain"}, 415),
    *[(key, b"{}", {}, 200) for key in ("flag", "variant", "off", "number", "failed", "own")],
    ("odd/% ü", b"{}", {}, 200),
    ("unknown", b"{}", {}, 404),
    ("flag", b"[", {}, 400),
    ("flag", b'{"context": 1}', {}, 400),
    ("flag", b"{}", {"authorization": "Basic !"}, 403),
    ("flag", b" " * 70_000, {}, 413),
    ("flag", b"{}", {"content-type": "text/plain"}, 415),
]


def send(client: Client, key: str | None, body: bytes, headers: dict[str, str]) -> tuple[str, Any]:
    kind = headers.get("content-type", "application/json")
    rest = {name: value for name, value in headers.items() if name != "content-type"}
    path = FLAGS_URL if key is None else FLAG_PATH
    address = path.replace("{key}", quote(key or "", safe=""))
    return path, client.generic("POST", address, body, kind, headers=rest)


@pytest.mark.parametrize(("key", "body", "headers", "status"), CASES)
def test_every_answer_is_as_declared(flags, document, client, *, key, body, headers, status):
    """Each status that the endpoints answer with is declared, with the body that OFREP gives it."""
    path, response = send(client, key, body, headers)

    assert response.status_code == status
    assert_conforms(document, path, response)
    assert_published(path, response)


@pytest.mark.parametrize("key", [None, "own"])
def test_an_outage_is_as_declared(flags, document, client, key):
    """Fallback values have the declared shape."""
    flags.fault = Refuse()

    path, response = send(client, key, b"{}", {})

    assert response.status_code == 200
    assert_conforms(document, path, response)
    assert_published(path, response)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
bodies = st.one_of(
    st.binary(max_size=80),
    json_values.map(lambda value: json.dumps(value).encode()),
    json_values.map(lambda value: json.dumps({"context": value}).encode()),
    st.dictionaries(st.sampled_from(["plan", "targetingKey", "a"]), json_values).map(
        lambda value: json.dumps({"context": value}).encode()
    ),
)


@pytest.mark.parametrize("is_healthy", [True, False], ids=["healthy", "down"])
@given(
    key=st.none() | st.sampled_from(["flag", "odd/% ü", "own"]) | st.text(max_size=20),
    body=bodies,
    content_type=st.just("application/json") | st.text(st.characters(max_codepoint=0xFF)),
)
@settings(
    max_examples=150,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_nothing_leads_out_of_the_documents(
    flags, document, settings, *, is_healthy, key, body, content_type
):
    """Whatever is sent, as whatever, the answer is one that both documents have; never a 5xx."""
    settings.POSTHOG_API_CONTEXT_PROPERTIES = ["plan"]
    flags.fault = None if is_healthy else Refuse()
    try:
        quote(key or "")
    except UnicodeEncodeError:
        return
    headers = {"content-type": content_type.replace("\n", "").replace("\r", "")}

    path, response = send(Client(raise_request_exception=False), key, body, headers)

    assert_conforms(document, path, response)
    assert_published(path, response)
