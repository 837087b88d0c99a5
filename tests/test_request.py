"""`request.features`: a request's flags, at no cost until they are read."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Iterator
from typing import Any
from weakref import ref

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth import get_user_model, login
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.template import RequestContext, Template
from django.test import AsyncClient, RequestFactory
from django.urls import include, path
from rest_framework.authentication import TokenAuthentication
from rest_framework.authtoken.models import Token
from rest_framework.response import Response
from rest_framework.views import APIView

from olposthog.features import for_request, get_feature_flag
from olposthog.middleware import IdentityMiddleware
from olposthog.request import Features, FeaturesRequest
from tests.posthog_faults import Refuse
from tests.posthog_server import Flag, Variant
from tests.test_exposures import delivered, told

COOKIE = "olposthog_id"


def reading(request: FeaturesRequest) -> HttpResponse:
    features = request.features
    return JsonResponse(
        {
            "is_enabled": features.is_enabled("checkout"),
            "get_feature_flag": features.get_feature_flag("checkout"),
            "get_feature_flag_payload": features.get_feature_flag_payload("checkout"),
            "item": features["checkout"],
            "unknown": [
                features.is_enabled("unknown"),
                features.get_feature_flag("unknown"),
                features.get_feature_flag_payload("unknown"),
                features["unknown"],
            ],
            "default": [
                features.is_enabled("unknown", True),
                features.get_feature_flag("unknown", "given"),
            ],
            "snapshot": features.snapshot is for_request(request),
        }
    )


def ignoring(request: FeaturesRequest) -> HttpResponse:
    assert isinstance(request.features, Features)
    return HttpResponse()


async def aignoring(request: FeaturesRequest) -> HttpResponse:
    return ignoring(request)


async def aread(request: FeaturesRequest) -> HttpResponse:
    return JsonResponse({"checkout": request.features["checkout"]})


def loggingin(request: FeaturesRequest) -> HttpResponse:
    seen = [request.features["hers"]]
    login(request, get_user_model().objects.get(), "django.contrib.auth.backends.ModelBackend")
    seen.append(request.features["hers"])
    return JsonResponse({"seen": seen})


def templated(request: HttpRequest) -> HttpResponse:
    return HttpResponse(Template(request.GET["template"]).render(RequestContext(request)))


class APIRead(APIView):
    authentication_classes = [TokenAuthentication]

    def get(self, request: Any) -> Response:
        return Response({"hers": request.features["hers"]})


urlpatterns = [
    path("api/", include("olposthog_api.urls")),
    path("reading/", reading),
    path("ignoring/", ignoring),
    path("async/ignoring/", aignoring),
    path("async/", aread),
    path("login/", loggingin),
    path("template/", templated),
    path("drf/", APIRead.as_view()),
]
pytestmark = pytest.mark.urls(__name__)


@pytest.fixture
def request_() -> HttpRequest:
    """A request with features, as the middleware gives them."""
    request = RequestFactory().get("/")
    IdentityMiddleware(lambda request: HttpResponse())(request)
    return request


def features_of(request: Any) -> Features:
    assert isinstance(request.features, Features)
    return request.features


def test_it_answers_as_the_functions_do(enabled, client):
    """Flag, variant, payload, default and snapshot are those of the person of the request."""
    enabled.flags = {"checkout": Variant("test", payload={"colour": "green"})}

    response = client.get("/reading/")

    assert response.json() == {
        "is_enabled": True,
        "get_feature_flag": "test",
        "get_feature_flag_payload": {"colour": "green"},
        "item": "test",
        "unknown": [False, False, None, False],
        "default": [True, "given"],
        "snapshot": True,
    }
    assert len(enabled.flag_calls) == 1
    assert list(response.cookies) == [COOKIE]
    assert "Cookie" in response["Vary"]


@pytest.mark.parametrize("url", ["/ignoring/", "/async/ignoring/"])
def test_unused_it_costs_nothing(enabled, client, url):
    """A view that reads no flag asks PostHog nothing, and gets neither a cookie nor a `Vary`."""
    for response in (client.get(url), async_to_sync(AsyncClient().get)(url)):
        assert response.status_code == 200
        assert not response.cookies
        assert "Vary" not in response
    assert enabled.requests == []


@pytest.mark.parametrize(
    ("read", "reports"),
    [
        (lambda features: features.is_enabled("checkout"), True),
        (lambda features: features.get_feature_flag("checkout"), True),
        (lambda features: features["checkout"], True),
        (lambda features: features.get_feature_flag_payload("checkout"), False),
        (lambda features: features.snapshot.flags["checkout"], False),
    ],
    ids=["is_enabled", "get_feature_flag", "item", "payload", "snapshot"],
)
def test_reading_reports_what_the_functions_report(enabled, request_, read, reports):
    """A flag that is read is an exposure; a payload or the snapshot is none."""
    enabled.flags = {"checkout": "test"}

    read(features_of(request_))

    person = for_request(request_).distinct_id
    assert told(enabled) == ([(person, "checkout", "test")] if reports else [])


def test_a_log_in_changes_the_person(enabled, client, db):
    """Who logs in within a request has their own flags from then on."""
    user = get_user_model().objects.create_user("ada")
    enabled.flags = {"hers": Flag(only_for={str(user.pk)})}

    assert client.get("/login/").json() == {"seen": [False, True]}


def test_it_sees_whom_rest_framework_authenticated(enabled, client, db):
    """REST framework's request has the features too, of the user that a token names."""
    user = get_user_model().objects.create_user("ada")
    token = Token.objects.create(user=user)
    enabled.flags = {"hers": Flag(only_for={str(user.pk)})}

    answer = client.get("/drf/", headers={"authorization": f"Token {token}"})

    assert answer.json() == {"hers": True}
    assert client.get("/drf/").json() == {"hers": False}


def test_an_async_view_can_read_it(enabled, caplog):
    """Reading in a coroutine answers, and the log says what to await instead."""
    enabled.flags = {"checkout": "test"}

    response = async_to_sync(AsyncClient().get)("/async/")

    assert response.json() == {"checkout": "test"}
    assert caplog.messages == [
        "get_feature_flag() can block the event loop it runs in; await aget_feature_flag()."
    ]


def test_an_outage_leaves_the_sites_values(enabled, request_, settings):
    """With PostHog down it is `settings.FEATURES` that answers."""
    settings.FEATURES = {"checkout": "control"}
    enabled.fault = Refuse()

    assert features_of(request_)["checkout"] == "control"
    assert features_of(request_)["unknown"] is False


def test_it_is_no_collection(enabled, request_):
    """`in` and loops say what to use instead, and ask for no flag called 0."""
    features: Any = features_of(request_)

    with pytest.raises(TypeError, match="is_enabled"):
        assert "checkout" in features
    for go_through in (list, dict, iter, set):
        with pytest.raises(TypeError, match=r"snapshot\.flags"):
            go_through(features)
    assert enabled.requests == []


@pytest.mark.parametrize("name", [0, None, ("a", "b")])
def test_a_name_is_text(enabled, request_, name):
    """What is no name of a flag is a mistake, and none is read for it."""
    features: Any = features_of(request_)

    with pytest.raises(TypeError, match="must be a str"):
        features[name]
    assert delivered(enabled) == []


# In templates


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        ("{{ request.features.checkout }}", "test"),
        ('{% if request.features.checkout == "test" %}new{% else %}old{% endif %}', "new"),
        ('{% if request.features.checkout == "other" %}new{% else %}old{% endif %}', "old"),
        ("{% if request.features.unknown %}new{% else %}old{% endif %}", "old"),
        ("{{ request.features.hostile }}", "&lt;b&gt;"),
        ("{{ request.features.snapshot }}", "flag of that name"),
        ("{{ request.features.is_enabled }}", "False"),
    ],
)
def test_templates_read_flags_by_name(enabled, client, template, shown):
    """A name in a template is a flag, whatever Python methods there are; values are escaped."""
    enabled.flags = {"checkout": "test", "hostile": "<b>", "snapshot": "flag of that name"}

    assert client.get("/template/", {"template": template}).content.decode() == shown


def test_a_template_reports_what_it_reads(enabled, client):
    """A flag in a template is an exposure of the page's visitor."""
    enabled.flags = {"checkout": "test", "other": True}

    client.get("/template/", {"template": "{{ request.features.checkout }}"})

    assert [flag for _, flag, _ in told(enabled)] == ["checkout"]


# Its life


@pytest.fixture
def _no_garbage_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_garbage_collector")
def test_a_request_goes_without_the_garbage_collector(enabled):
    """Features make no reference cycle: a request that is done with is gone at once."""
    request: Any = RequestFactory().get("/")
    IdentityMiddleware(lambda request: HttpResponse())(request)
    assert request.features["beta"] is False
    gone = ref(request)

    del request

    assert gone() is None


def test_features_without_their_request_say_so(enabled, request_):
    """Features do not keep the request: who keeps them alone is told."""
    features = Features(RequestFactory().get("/"))

    with pytest.raises(ReferenceError, match="keep the request"):
        features.is_enabled("beta")


def test_a_request_can_still_be_pickled():
    """Django's requests can be pickled and copied, and so they can with features."""
    request: Any = HttpRequest()
    request.META["REMOTE_ADDR"] = "127.0.0.1"
    request.features = Features(request)

    for another in (pickle.loads(pickle.dumps(request)), copy.deepcopy(request)):
        assert another.features._request is another


def test_it_is_what_the_functions_say(enabled, request_):
    """A function that is given the request reads the same answer."""
    enabled.flags = {"checkout": "test"}

    assert features_of(request_)["checkout"] == get_feature_flag("checkout", request=request_)
    assert len(enabled.flag_calls) == 1


def test_without_the_middleware_a_template_shows_nothing_of_it(enabled):
    """There Django's variables take any flag for off, which `{% flag %}` does not."""
    enabled.flags = {"beta": True}
    context = RequestContext(RequestFactory().get("/"))
    template = (
        "{% load olposthog %}{% if request.features.beta %}on{% else %}off{% endif %}, "
        '{% flag "beta" %}on{% endflag %}'
    )

    assert Template(template).render(context) == "off, on"
