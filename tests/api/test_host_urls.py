"""Where host projects put the API: under captured URL parts, in routers, versioned, and twice."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.management import call_command
from django.urls import include, path, re_path
from rest_framework.routers import DefaultRouter
from rest_framework.versioning import NamespaceVersioning, URLPathVersioning

from olposthog_api.ofrep import urls as ofrep_urls
from olposthog_api.ofrep.views import EvaluateFlagsView, EvaluateFlagView
from olposthog_api.views import FeatureViewSet
from tests.posthog_server import Variant

API = include("olposthog_api.urls")
OFREP = include("olposthog_api.ofrep.urls")

CAPTURED = ("key", "pk", "tenant", "version", "self", "args", "kwargs", "request", "response")
"""Names that a host may capture: ours, DRF's, Python's and its own."""

router = DefaultRouter()
router.register("features", FeatureViewSet, basename="feature")


def versioned(versioning: type[Any]) -> list[Any]:
    """The views of the API as they are in a project with this default versioning."""
    own = DefaultRouter(use_regex_path=True)
    options = {"versioning_class": versioning}
    own.register("features", type("Versioned", (FeatureViewSet,), options), basename="feature")
    bulk: Any = type("Flags", (EvaluateFlagsView,), options)
    single: Any = type("Flag", (EvaluateFlagView,), options)
    ofrep = [
        path("ofrep/v1/evaluate/flags", bulk.as_view()),
        re_path(r"^ofrep/v1/evaluate/flags/(?P<key>[\s\S]*)\Z", single.as_view()),
    ]
    return [*own.urls, *ofrep]


class Path(URLPathVersioning):
    allowed_versions = ("v1", "v2")


class Namespace(NamespaceVersioning):
    allowed_versions = ("v1", "v2")


urlpatterns = [
    *(path(f"{name}/<slug:{name}>/", include([path("", API), path("", OFREP)]))
      for name in CAPTURED),
    re_path(r"^regex/(?P<edition>v1)/", include([path("", API), path("", OFREP)])),
    re_path(r"^unnamed/(v1|v2)/", include([path("", API), path("", OFREP)])),
    path("given/", include([path("", API), path("", OFREP)]), {"key": "x", "request": 1}),
    path("router/", include(router.urls)),
    path("path/<str:version>/", include(versioned(Path))),
    *(path(f"space/{one}/", include((versioned(Namespace), "flags"), namespace=one))
      for one in ("v1", "v2", "v3")),
]  # fmt: skip
pytestmark = pytest.mark.urls(__name__)

PREFIXES = [
    *(f"/{name}/acme/" for name in CAPTURED),
    "/regex/v1/",
    "/unnamed/v2/",
    "/given/",
    "/path/v1/",
    "/space/v2/",
]


def ask_all(client: Any, prefix: str, key: str) -> list[Any]:
    """Send one request to each of the six endpoints."""
    json_type = "application/json"
    ofrep = f"{prefix}ofrep/v1/evaluate/flags"
    return [
        client.get(f"{prefix}features/"),
        client.get(f"{prefix}features/{key}/"),
        client.post(f"{prefix}features/{key}/exposure/"),
        client.post(f"{prefix}features/exposures/", {"keys": [key]}, content_type=json_type),
        client.post(ofrep, {}, content_type=json_type),
        client.post(f"{ofrep}/{key}", {}, content_type=json_type),
    ]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_captured_parts_change_nothing(enabled, client, prefix):
    """All endpoints answer under any URL. For `key` it is our own route's part that counts."""
    enabled.flags = {"flag": Variant("test"), "acme": True, "x": True}

    everything, one, exposed, all_exposed, bulk, single = ask_all(client, prefix, "flag")

    assert everything.json()["features"] == {"acme": True, "flag": "test", "x": True}
    assert (one.status_code, one.json()["key"], one.json()["variant"]) == (200, "flag", "test")
    assert (exposed.status_code, all_exposed.status_code) == (204, 204)
    assert [flag["key"] for flag in bulk.json()["flags"]] == ["acme", "flag", "x"]
    assert (single.status_code, single.json()["value"]) == (200, "test")


@pytest.mark.parametrize("prefix", PREFIXES)
def test_errors_are_the_same_under_captured_parts(enabled, client, prefix):
    """Unknown flags are 404 in JSON, and the error of a bulk request has no key."""
    enabled.flags = {"flag": True}

    _, one, exposed, _, _, single = ask_all(client, prefix, "unknown")
    wrong = client.post(f"{prefix}ofrep/v1/evaluate/flags", "[", content_type="application/json")

    assert [answer.status_code for answer in (one, exposed, single)] == [404, 404, 404]
    assert one.json() == exposed.json() == {"detail": "Not found."}
    assert single.json()["key"] == "unknown"
    assert (wrong.status_code, set(wrong.json())) == (400, {"errorCode", "errorDetails"})


@pytest.mark.parametrize(("prefix", "status"), [("/path/v3/", 404), ("/space/v3/", 404)])
def test_a_version_that_is_not_allowed_is_refused(enabled, client, prefix, status):
    """DRF's versioning decides, and its refusal is JSON."""
    for response in ask_all(client, prefix, "flag"):
        assert response.status_code == status
        assert response["Content-Type"] == "application/json"
    assert enabled.flag_calls == []


def test_a_hosts_router_adds_format_suffixes(enabled, client):
    """In a `DefaultRouter` `.json` works, keys may still have dots, and the root lists us."""
    enabled.flags = {"flag": True, "v1.2.json": True}

    assert client.get("/router/features.json").json()["features"]["flag"] is True
    assert client.get("/router/features/flag.json").json()["key"] == "flag"
    assert client.get("/router/features/v1.2.json/").json()["key"] == "v1.2.json"
    assert client.post("/router/features/flag/exposure.json").status_code == 204
    assert (
        client.post(
            "/router/features/exposures.json", {"keys": []}, content_type="application/json"
        ).status_code
        == 204
    )
    assert client.get("/router/features.xml").json() == {"detail": "Not found."}
    assert set(client.get("/router/", headers={"accept": "application/json"}).json()) == {
        "features"
    }


# The OpenAPI document


def operation_ids(urls: list[Any], **options: Any) -> dict[str, list[str]]:
    """Write the document of a project; any warning, such as a collision, fails."""
    out = io.StringIO()
    site = SimpleNamespace(urlpatterns=urls)
    call_command(
        "spectacular", format="openapi-json", validate=True, fail_on_warn=True, stdout=out,
        urlconf=site, **options,
    )  # fmt: skip
    paths = json.loads(out.getvalue())["paths"]
    return {
        where: [operation["operationId"] for operation in methods.values()]
        for where, methods in paths.items()
    }


def test_two_places_have_two_sets_of_ids():
    """The first place has the plain ids; those of the second have its path."""
    urls = [
        path(f"{version}/", include([path("api/", API), path("", include(ofrep_urls))]))
        for version in ("v1", "v2")
    ]

    assert operation_ids(urls) == {
        "/v1/api/features/": ["features_list"],
        "/v1/api/features/{key}/": ["features_retrieve"],
        "/v1/api/features/{key}/exposure/": ["features_exposure_create"],
        "/v1/api/features/exposures/": ["features_exposures_create"],
        "/v1/ofrep/v1/evaluate/flags": ["ofrep_flags"],
        "/v1/ofrep/v1/evaluate/flags/{key}": ["ofrep_flag"],
        "/v2/api/features/": ["v2_api_features_list"],
        "/v2/api/features/{key}/": ["v2_api_features_retrieve"],
        "/v2/api/features/{key}/exposure/": ["v2_api_features_exposure_create"],
        "/v2/api/features/exposures/": ["v2_api_features_exposures_create"],
        "/v2/ofrep/v1/evaluate/flags": ["v2_ofrep_flags"],
        "/v2/ofrep/v1/evaluate/flags/{key}": ["v2_ofrep_flag"],
    }


@pytest.mark.parametrize(
    "urls",
    [
        [path("", API), path("api/", API), path("<slug:tenant>/api/", API)],
        [path("a-b/", API), path("a_b/", API), path("a/b/", API)],
        [path("", include(router.urls)), path("again/", include(router.urls))],
        [path("<slug:tenant>/<slug:key>/", OFREP), path("<int:tenant>/", OFREP)],
        [re_path(r"^(?P<version>v1)/", API), re_path(r"^(?P<version>v2)/", API)],
    ],
    ids=["nested", "alike", "routers", "captured", "regex"],
)
def test_no_ids_collide(urls):
    """However often and wherever it is mounted, each operation has an id of its own."""
    ids = [one for many in operation_ids(urls).values() for one in many]

    assert len(set(ids)) == len(ids) > 1


def test_a_document_can_be_written_again():
    """The ids of one document do not depend on the documents before it."""
    assert operation_ids([path("", API)]) == operation_ids([path("", API)])


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize(
    ("urls", "prefix"),
    [
        ([path("<str:version>/", include(versioned(Path)))], "/{}/"),
        (
            [
                path(f"space/{one}/", include((versioned(Namespace), "flags"), namespace=one))
                for one in ("v1", "v2")
            ],
            "/space/{}/",
        ),
    ],
    ids=["path", "namespace"],
)
def test_a_versions_document_has_its_paths_only(urls, prefix, version):
    """Each version's document has the plain ids."""
    found = operation_ids(urls, api_version=version)

    assert found[f"{prefix.format(version)}features/"] == ["features_list"]
    assert found[f"{prefix.format(version)}ofrep/v1/evaluate/flags"] == ["ofrep_flags"]
    assert all(one.startswith(prefix.format(version)) for one in found)
