"""The OpenAPI document: that it is sound, and that the answers are as it says."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client
from django.urls import include, path
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from rest_framework import serializers
from rest_framework.authentication import TokenAuthentication
from rest_framework.generics import RetrieveAPIView
from rest_framework.routers import SimpleRouter

from olposthog.snapshot import Source
from olposthog_api.views import FeatureViewSet
from tests.posthog_faults import Refuse
from tests.posthog_server import Flag, Variant

FEATURES_PATH = "/api/features/"
FLAG_PATH = "/api/features/{key}/"
EXPOSURE_PATH = "/api/features/{key}/exposure/"
EXPOSURES_PATH = "/api/features/exposures/"
PATHS = {FEATURES_PATH, FLAG_PATH, EXPOSURE_PATH, EXPOSURES_PATH}
FLAG_VALUE = {"oneOf": [{"type": "boolean"}, {"type": "string"}]}


class TokenViewSet(FeatureViewSet):
    """A site's subclass whose credentials can be wrong."""

    authentication_classes = [TokenAuthentication]


class ErrorSerializer(serializers.Serializer[Any]):
    """A site's own idea of an error."""

    message = serializers.CharField()


class FeatureSerializer(serializers.Serializer[Any]):
    """A feature of the site's products, which has nothing to do with flags."""

    weight = serializers.IntegerField()


class PriceSerializer(serializers.Serializer[Any]):
    """Something else with a source of its own."""

    source = serializers.ChoiceField(["catalogue", "supplier"])  # type: ignore[assignment]


tokens = SimpleRouter()
tokens.register("features", TokenViewSet, basename="feature")
urlpatterns = [path("api/", include(tokens.urls))]


def spectacular(**options: Any) -> str:
    """What the management command writes; it fails on any warning."""
    out = io.StringIO()
    call_command("spectacular", validate=True, fail_on_warn=True, stdout=out, **options)
    return out.getvalue()


@pytest.fixture
def document() -> Any:
    return json.loads(spectacular(format="openapi-json"))


def resolved(document: Any, schema: Any) -> Any:
    """Follow a reference within the document."""
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    return schema


def assert_conforms(document: Any, path: str, response: Any) -> None:
    """The response is one that the document declares for its method, with the declared body."""
    method = response.wsgi_request.method.lower()
    declared = document["paths"][path][method]["responses"]
    assert str(response.status_code) in declared, f"{response.status_code} is not declared"
    content = declared[str(response.status_code)].get("content")
    if content is None:
        assert response.content == b""
        return
    assert list(content) == [response["Content-Type"]] == ["application/json"]
    schema = {**content["application/json"]["schema"], "components": document["components"]}
    Draft202012Validator(schema).validate(response.json())


def test_the_document_has_no_warning():
    """drf-spectacular writes and validates it without a warning, as YAML and as JSON."""
    assert spectacular().startswith("openapi: 3.1.0\n")
    assert json.loads(spectacular(format="openapi-json"))["openapi"] == "3.1.0"


def test_the_document_is_sound_for_openapi_3_0(settings):
    """A site that has not set OAS_VERSION gets a document without a warning too."""
    from drf_spectacular.settings import spectacular_settings

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spectacular_settings, "OAS_VERSION", "3.0.3")

        assert spectacular().startswith("openapi: 3.0.3\n")


@pytest.mark.parametrize("theirs", [ErrorSerializer, FeatureSerializer, PriceSerializer])
def test_a_sites_own_names_cause_no_warning(theirs):
    """A site may have errors, features and choices of `source` too: ours have other names."""
    view: Any = type("ShopView", (RetrieveAPIView,), {"serializer_class": theirs})
    api = path("api/", include("olposthog_api.urls"))
    site = SimpleNamespace(urlpatterns=[api, path("shop/", view.as_view())])

    written = json.loads(spectacular(format="openapi-json", urlconf=site))

    assert set(written["paths"]) == {*PATHS, "/shop/"}


def test_every_endpoint_is_there_and_named(document):
    """A generated client has an operation for each endpoint, under a tag of its own."""
    operations = {
        path: {method: operation["operationId"] for method, operation in methods.items()}
        for path, methods in document["paths"].items()
    }

    assert operations == {
        FEATURES_PATH: {"get": "features_list"},
        FLAG_PATH: {"get": "features_retrieve"},
        EXPOSURE_PATH: {"post": "features_exposure_create"},
        EXPOSURES_PATH: {"post": "features_exposures_create"},
    }
    for methods in document["paths"].values():
        assert [operation["tags"] for operation in methods.values()] == [["features"]]


def test_parameters_are_declared(document):
    """`keys` is an optional query parameter, `key` the required part of a path."""
    (keys,) = document["paths"][FEATURES_PATH]["get"]["parameters"]
    (key,) = document["paths"][FLAG_PATH]["get"]["parameters"]

    assert (keys["name"], keys["in"], keys.get("required", False)) == ("keys", "query", False)
    assert (key["name"], key["in"], key["required"]) == ("key", "path", True)
    assert (keys["schema"]["type"], keys["schema"]["items"]["type"]) == ("array", "string")
    assert (keys["explode"], keys["schema"]["maxItems"]) == (False, 100)
    assert key["schema"]["type"] == "string"


def test_an_exposure_has_no_body(document):
    """A generated client asks for the key alone; posthog-js's session may go along as a header."""
    operation = document["paths"][EXPOSURE_PATH]["post"]
    required = {one["name"]: one.get("required", False) for one in operation["parameters"]}

    assert "requestBody" not in operation
    assert required == {"key": True, "X-POSTHOG-SESSION-ID": False}
    assert set(operation["responses"]) == {"204", "401", "403", "404", "406", "429"}


def test_exposures_have_a_list_of_keys(document):
    """The body is required, and the document names the limit of its list."""
    operation = document["paths"][EXPOSURES_PATH]["post"]
    body = operation["requestBody"]
    schema = resolved(document, body["content"]["application/json"]["schema"])

    assert (list(body["content"]), body["required"]) == (["application/json"], True)
    assert schema["required"] == ["keys"]
    assert schema["properties"]["keys"]["items"] == {"type": "string"}
    assert schema["properties"]["keys"]["maxItems"] == 100


def test_anybody_may_ask(document):
    """No endpoint needs credentials: the empty security requirement is among the possible ones."""
    for methods in document["paths"].values():
        assert all({} in operation["security"] for operation in methods.values())


def test_the_list_is_one_object(document):
    """`GET /api/features/` answers one object, no array and no page."""
    ok = document["paths"][FEATURES_PATH]["get"]["responses"]["200"]
    schema = resolved(document, ok["content"]["application/json"]["schema"])

    assert schema["type"] == "object"
    assert set(schema["required"]) == {"distinct_id", "source", "features", "payloads"}
    assert set(schema["properties"]) == set(schema["required"])


def test_every_source_is_declared(document):
    """The choices of `source` are those that there are."""
    ok = document["paths"][FLAG_PATH]["get"]["responses"]["200"]
    schema = resolved(document, ok["content"]["application/json"]["schema"])
    source = resolved(document, schema["properties"]["source"])

    assert set(source["enum"]) == {source.value for source in Source}
    assert all(f"`{word}`" in source["description"] for word in source["enum"])


def test_a_payload_is_any_json(document):
    """Null, text, numbers, lists and objects are payloads; `variant` is text or null."""
    ok = document["paths"][FLAG_PATH]["get"]["responses"]["200"]
    schema = resolved(document, ok["content"]["application/json"]["schema"])
    valid = {"key": "a", "enabled": True, "variant": None, "source": "posthog"}
    validator = Draft202012Validator({**schema, "components": document["components"]})

    for payload in (None, True, 0, 1.5, "", [], [None], {}, {"a": [1]}):
        assert validator.is_valid({**valid, "payload": payload})
    assert validator.is_valid({**valid, "payload": None, "variant": "test"})
    assert not validator.is_valid({**valid, "payload": None, "variant": 1})
    assert not validator.is_valid({**valid, "payload": None, "enabled": "yes"})
    assert not validator.is_valid(valid)


def features_schema(document: Any) -> tuple[Any, Draft202012Validator]:
    ok = document["paths"][FEATURES_PATH]["get"]["responses"]["200"]
    schema = resolved(document, ok["content"]["application/json"]["schema"])
    features = schema["properties"]["features"]
    return features, Draft202012Validator({**features, "components": document["components"]})


def test_flags_are_switches_or_variants(document):
    """A value is true, false or text; the site has not named its flags, so any key may come."""
    features, validator = features_schema(document)

    assert "properties" not in features
    assert validator.is_valid({"a": True, "b": False, "c": "test"})
    wrong: list[Any] = [None, 1, [], {}]
    assert not any(validator.is_valid({"a": value}) for value in wrong)


def test_named_flags_are_all_where_there_are_no_globs(settings):
    """Without globs no other key may come, and a generated client refuses a misspelled one."""
    settings.POSTHOG_API_FLAGS = ["checkout", "new-nav"]
    _, validator = features_schema(json.loads(spectacular(format="openapi-json")))

    assert validator.is_valid({"checkout": "test"})
    assert not validator.is_valid({"chekout": "test"})


def test_named_flags_are_properties(settings):
    """Plain keys of `POSTHOG_API_FLAGS` become properties, which a generated client knows."""
    settings.POSTHOG_API_FLAGS = [
        "new-nav",
        "a.b",
        "web-*",
        "x?",
        "[ab]",
        "checkout",
        "survey-targeting-1",
    ]
    features, validator = features_schema(json.loads(spectacular(format="openapi-json")))

    assert features["properties"] == dict.fromkeys(["a.b", "checkout", "new-nav"], FLAG_VALUE)
    assert list(features["properties"]) == ["a.b", "checkout", "new-nav"]
    assert "required" not in features
    assert validator.is_valid({"checkout": "test", "web-x": True})
    assert not validator.is_valid({"checkout": 1})
    assert not validator.is_valid({"web-x": 1})


# Answers against the document


def cases() -> list[tuple[str, str, dict[str, str], int]]:
    return [
        (FEATURES_PATH, "", {}, 200),
        (FEATURES_PATH, "?keys=flag", {}, 200),
        (FEATURES_PATH, "", {"if-none-match": "*"}, 304),
        (FEATURES_PATH, "?keys=%00", {}, 400),
        (FEATURES_PATH, f"?keys={'k' * 401}", {}, 400),
        (FEATURES_PATH, "", {"authorization": "Basic !"}, 403),
        (FEATURES_PATH, "", {"accept": "text/html"}, 406),
        (FLAG_PATH, "flag/", {}, 200),
        (FLAG_PATH, "variant/", {}, 200),
        (FLAG_PATH, "off/", {}, 200),
        (FLAG_PATH, "own/", {}, 200),
        (FLAG_PATH, "flag/", {"if-none-match": "*"}, 304),
        (FLAG_PATH, "unknown/", {}, 404),
        (FLAG_PATH, "flag/", {"authorization": "Basic !"}, 403),
        (FLAG_PATH, "flag/", {"accept": "text/html"}, 406),
        (EXPOSURE_PATH, "flag/exposure/", {}, 204),
        (EXPOSURE_PATH, "own/exposure/", {}, 204),
        (EXPOSURE_PATH, "unknown/exposure/", {}, 404),
        (EXPOSURE_PATH, "flag/exposure/", {"authorization": "Basic !"}, 403),
        (EXPOSURE_PATH, "flag/exposure/", {"accept": "text/html"}, 406),
        (EXPOSURES_PATH, "exposures/", {}, 204),
        (EXPOSURES_PATH, "exposures/", {"content-type": "text/plain"}, 415),
        (EXPOSURES_PATH, "exposures/", {"authorization": "Basic !"}, 403),
        (EXPOSURES_PATH, "exposures/", {"accept": "text/html"}, 406),
    ]


EACH = pytest.mark.parametrize(
    ("path", "rest"),
    [
        (FEATURES_PATH, ""),
        (FLAG_PATH, "flag/"),
        (EXPOSURE_PATH, "flag/exposure/"),
        (EXPOSURES_PATH, "exposures/"),
    ],
)


def ask(client: Client, path: str, rest: str, headers: dict[str, str] | None = None) -> Any:
    """Send the one request that an endpoint is there for."""
    address, headers = f"{FEATURES_PATH}{rest}", dict(headers or {})
    if path in {FEATURES_PATH, FLAG_PATH}:
        return client.get(address, headers=headers)
    body = '{"keys": ["flag"]}' if path == EXPOSURES_PATH else ""
    kind = headers.pop("content-type", "application/json")
    return client.post(address, body, content_type=kind, headers=headers)


@pytest.fixture
def flags(enabled, settings):
    settings.FEATURES = {"own": "blue", "flag": True}
    enabled.flags = {
        "flag": Flag(payload=None),
        "variant": Variant("test", payload={"a": [1, None]}),
        "off": False,
        "number": 42,
    }
    return enabled


@pytest.mark.parametrize(("path", "rest", "headers", "status"), cases())
def test_every_answer_is_as_declared(flags, document, client, *, path, rest, headers, status):
    """Each status that the endpoints answer with is declared, and so is its body."""
    response = ask(client, path, rest, headers)

    assert response.status_code == status
    assert_conforms(document, path, response)


@pytest.mark.parametrize(("path", "rest"), [(FEATURES_PATH, ""), (FLAG_PATH, "flag/")])
def test_an_outage_is_as_declared(flags, document, client, settings, *, path, rest):
    """Fallback and disabled answers have the declared shape."""
    flags.fault = Refuse()
    fallback = client.get(f"{FEATURES_PATH}{rest}")
    settings.POSTHOG_ENABLED = False
    disabled = client.get(f"{FEATURES_PATH}{rest}")

    assert [fallback.json()["source"], disabled.json()["source"]] == ["fallback", "disabled"]
    assert_conforms(document, path, fallback)
    assert_conforms(document, path, disabled)


@EACH
def test_a_throttled_answer_is_as_declared(flags, document, client, settings, *, path, rest):
    """429 is declared."""
    settings.REST_FRAMEWORK = {
        **settings.REST_FRAMEWORK,
        "DEFAULT_THROTTLE_RATES": {"features": "1/day"},
    }
    ask(client, path, rest)

    response = ask(client, path, rest)

    assert response.status_code == 429
    assert_conforms(document, path, response)


@pytest.mark.urls(__name__)
@pytest.mark.django_db
@EACH
def test_wrong_credentials_are_answered_as_declared(flags, document, client, path, rest):
    """401 is declared, for sites whose authentication answers so."""
    response = ask(client, path, rest, {"authorization": "Token wrong"})

    assert response.status_code == 401
    assert_conforms(document, path, response)


@EACH
@pytest.mark.parametrize(
    "headers",
    [
        {"if-match": '"x"'},
        {"if-match": "*"},
        {"if-unmodified-since": "Wed, 21 Oct 2015 07:28:00 GMT"},
        {"if-none-match": '"x"', "if-match": '"y"'},
        {"if-none-match": '"x"', "if-unmodified-since": "Wed, 21 Oct 2015 07:28:00 GMT"},
        {"if-modified-since": "Wed, 21 Oct 2015 07:28:00 GMT"},
        {"range": "bytes=0-1"},
        {"content-type": "nonsense"},
        {"accept-language": "de"},
        {"origin": "https://elsewhere.example"},
        {"x-http-method-override": "DELETE"},
    ],
    ids=str,
)
def test_no_header_leads_out_of_the_document(flags, document, client, *, path, rest, headers):
    """Whatever a client or a proxy sends along, the answer is one that is declared."""
    assert_conforms(document, path, ask(client, path, rest, headers))


def test_documents_are_written_without_evaluating_flags(enabled):
    """Writing the document asks PostHog nothing."""
    spectacular()

    assert enabled.requests == []
