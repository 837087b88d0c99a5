"""Renderers, parsers and schema hooks that a host project sets for all of its API."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from tests.posthog_server import PostHogServer, Variant

PROJECT = """
import io, json, sys
import django
from django.conf import settings
from django.urls import include, path

host = json.load(sys.stdin)
from tests import settings as base

given = {name: getattr(base, name) for name in dir(base) if name.isupper()}
for name, value in host["settings"].items():
    given[name] = {**given[name], **value} if isinstance(given.get(name), dict) else value
given["MIDDLEWARE"] = [*host["middleware"], *given["MIDDLEWARE"]]
settings.configure(**{**given, "ROOT_URLCONF": sys.modules[__name__]})
django.setup()

from django.core.management import call_command
from django.test import Client
from django.test.utils import setup_test_environment
from rest_framework import serializers
from rest_framework.generics import RetrieveAPIView
from rest_framework.response import Response


class OrderSerializer(serializers.Serializer):
    line_items = serializers.ListField(child=serializers.CharField())


class OrderView(RetrieveAPIView):
    serializer_class = OrderSerializer

    def get(self, request):
        return Response({"line_items": []})


urlpatterns = [
    path("api/", include("olposthog_api.urls")),
    path("", include("olposthog_api.ofrep.urls")),
    path("order/", OrderView.as_view()),
]
setup_test_environment()
out = io.StringIO()
call_command("spectacular", format="openapi-json", validate=True, fail_on_warn=True, stdout=out)
kind = {"content_type": "application/json"}
client = Client()
answers = [
    ["/api/features/", "get", client.get("/api/features/?keys=new_nav,other_flag")],
    ["/api/features/{key}/", "get", client.get("/api/features/new_nav/")],
    ["/ofrep/v1/evaluate/flags", "post", client.post("/ofrep/v1/evaluate/flags", {}, **kind)],
    [
        "/ofrep/v1/evaluate/flags/{key}",
        "post",
        client.post("/ofrep/v1/evaluate/flags/new_nav", {}, **kind),
    ],
    ["/order/", "get", client.get("/order/", headers={"accept": "application/json"})],
]
json.dump([json.loads(out.getvalue()), [[*one[:2], one[2].json()] for one in answers]], sys.stdout)
"""

CAMEL_CASE = {
    "DEFAULT_RENDERER_CLASSES": [
        "djangorestframework_camel_case.render.CamelCaseJSONRenderer",
        "djangorestframework_camel_case.render.CamelCaseBrowsableAPIRenderer",
    ],
    "DEFAULT_PARSER_CLASSES": ["djangorestframework_camel_case.parser.CamelCaseJSONParser"],
}
CAMELIZE = "drf_spectacular.contrib.djangorestframework_camel_case.camelize_serializer_fields"
ENUMS = "drf_spectacular.hooks.postprocess_schema_enums"


def of_project(
    posthog: PostHogServer, spectacular: dict[str, Any], middleware: list[str]
) -> tuple[Any, dict[str, Any]]:
    """Return the document of a project with these settings, and the answers by path."""
    project = {
        "middleware": middleware,
        "settings": {
            "REST_FRAMEWORK": CAMEL_CASE,
            "SPECTACULAR_SETTINGS": spectacular,
            "POSTHOG_ENABLED": True,
            "POSTHOG_PROJECT_API_KEY": posthog.token,
            "POSTHOG_API_HOST": posthog.url,
            "POSTHOG_API_FLAGS": ["new_nav", "other_flag"],
        },
    }
    run = subprocess.run(
        [sys.executable, "-c", PROJECT],
        input=json.dumps(project),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert run.returncode == 0, run.stderr
    document, answers = json.loads(run.stdout)
    for where, method, answer in answers:
        ok = document["paths"][where][method]["responses"]["200"]
        schema = ok["content"]["application/json"]["schema"]
        Draft202012Validator({**schema, "components": document["components"]}).validate(answer)
    return document, {where: answer for where, _, answer in answers}


@pytest.mark.parametrize(
    ("spectacular", "middleware"),
    [
        ({"POSTPROCESSING_HOOKS": [ENUMS, CAMELIZE]}, []),
        ({"POSTPROCESSING_HOOKS": [CAMELIZE, ENUMS], "CAMELIZE_NAMES": True}, []),
        (
            {"POSTPROCESSING_HOOKS": [CAMELIZE], "COMPONENT_SPLIT_REQUEST": True},
            ["djangorestframework_camel_case.middleware.CamelCaseMiddleWare"],
        ),
    ],
    ids=["hook", "names", "middleware"],
)
def test_camel_case_leaves_our_names_as_they_are(enabled, spectacular, middleware):
    """Document and answers agree; the host's own are in camel case, and ours are plain."""
    enabled.flags = {"new_nav": Variant("test", payload={"snake_key": 1}), "other_flag": True}

    document, answers = of_project(enabled, spectacular, middleware)

    everything = answers["/api/features/"]
    assert set(everything) == {"distinct_id", "source", "features", "payloads"}
    assert everything["features"] == {"new_nav": "test", "other_flag": True}
    assert everything["payloads"] == {"new_nav": {"snake_key": 1}}
    schemas = document["components"]["schemas"]
    assert set(schemas["FeatureFlags"]["required"]) == set(everything)
    assert set(schemas["FeatureFlags"]["properties"]) == set(everything)
    named = schemas["FeatureFlags"]["properties"]["features"]["properties"]
    assert set(named) == {"new_nav", "other_flag"}
    assert answers["/order/"] == {"lineItems": []}
    assert schemas["Order"]["required"] == ["lineItems"]
