"""Who asks: however a site authenticates, the user's primary key is the distinct id."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

import pytest
from django.contrib.auth import get_user_model, login
from django.test import Client
from django.urls import include, path
from rest_framework.authentication import (
    BaseAuthentication,
    BasicAuthentication,
    SessionAuthentication,
    TokenAuthentication,
)
from rest_framework.authtoken.models import Token
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.permissions import IsAuthenticated
from rest_framework.response import Response
from rest_framework.routers import SimpleRouter
from rest_framework.views import APIView

from olposthog.features import for_request, is_enabled
from olposthog_api.views import FeatureViewSet
from tests.posthog_server import Flag

COOKIE = "olposthog_id"
BROWSER_ID = "0192d7a4-1111-7000-8000-000000000001"


class GatewayAuthentication(BaseAuthentication):
    """A site behind a gateway that says in a header who is there."""

    def authenticate(self, request):
        name = request.headers.get("x-gateway-user")
        if name is None:
            return None
        user = get_user_model().objects.filter(username=name).first()
        if user is None:
            raise AuthenticationFailed("Nobody of that name.")
        return user, None

    def authenticate_header(self, request):
        return "PostHogApi"


def served_by(*authentication):
    name = f"{authentication[0].__name__}ViewSet"
    return type(name, (FeatureViewSet,), {"authentication_classes": list(authentication)})


class MembersViewSet(FeatureViewSet):
    """A site that shows flags to members only."""

    authentication_classes = [TokenAuthentication]
    permission_classes = [IsAuthenticated]


class SiteView(APIView):
    """A view of the site's own that asks for flags by request, and logs somebody in."""

    authentication_classes = [TokenAuthentication]

    def get(self, request):
        return Response(
            {
                "distinct_id": for_request(request).distinct_id,
                "of django's": for_request(request._request).distinct_id,
                "hers": is_enabled("hers", request=request),
            }
        )

    def post(self, request):
        before = for_request(request).flags["hers"]
        user = get_user_model().objects.get(username=request.data["username"])
        login(request, user, "django.contrib.auth.backends.ModelBackend")
        return Response({"hers": [before, for_request(request).flags["hers"]]})


router = SimpleRouter()
router.register("session", served_by(SessionAuthentication), basename="session")
router.register("token", served_by(TokenAuthentication), basename="token")
router.register("basic", served_by(BasicAuthentication), basename="basic")
router.register("gateway", served_by(GatewayAuthentication), basename="gateway")
router.register("members", MembersViewSet, basename="member")
urlpatterns = [
    path("api/", include("olposthog_api.urls")),
    path("", include(router.urls)),
    path("site/", SiteView.as_view()),
]
pytestmark = [pytest.mark.urls(__name__), pytest.mark.django_db]


@pytest.fixture(autouse=True)
def _quick_passwords(settings):
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture
def ada():
    return get_user_model().objects.create_user("ada", password="lovelace")


@pytest.fixture
def eve():
    return get_user_model().objects.create_user("eve", password="dropper")


def basic(user, password):
    return f"Basic {base64.b64encode(f'{user.username}:{password}'.encode()).decode()}"


def as_user(kind, client, user):
    """The headers that authenticate a user in this way; a session needs none."""
    match kind:
        case "session":
            client.force_login(user)
            return {}
        case "token":
            return {"authorization": f"Token {Token.objects.create(user=user)}"}
        case "basic":
            return {"authorization": basic(user, "lovelace")}
        case _:
            return {"x-gateway-user": user.username}


WAYS = pytest.mark.parametrize("way", ["session", "token", "basic", "gateway"])


@WAYS
@pytest.mark.parametrize("trust", [False, True], ids=["wary", "trusting"])
@pytest.mark.parametrize("claim", ["another user", "browser"])
def test_no_claim_moves_an_authenticated_user(enabled, settings, ada, eve, *, way, trust, claim):
    """A user is `str(user.pk)`, whatever cookie, header, query or body claims."""
    settings.POSTHOG_API_TRUST_BROWSER_ID = trust
    enabled.flags = {"hers": Flag(only_for={str(ada.pk)})}
    claimed = str(eve.pk) if claim == "another user" else BROWSER_ID
    client = Client()
    visitor = Client().get("/api/features/", headers={"x-posthog-distinct-id": claimed})
    client.cookies[COOKIE] = visitor.cookies[COOKIE].value if visitor.cookies else claimed
    client.cookies["ph_phc_test_posthog"] = quote(json.dumps({"distinct_id": claimed}))
    enabled.clear()

    response = client.generic(
        "GET",
        f"/{way}/?distinct_id={claimed}&opt_unique_id={claimed}&user_id={claimed}&user={claimed}",
        data=json.dumps({"distinct_id": claimed, "opt_unique_id": claimed, "user": claimed}),
        content_type="application/json",
        headers={"x-posthog-distinct-id": claimed, **as_user(way, client, ada)},
    )

    assert response.json()["distinct_id"] == str(ada.pk)
    assert response.json()["features"] == {"hers": True}
    assert [call["distinct_id"] for call in enabled.flag_calls] == [str(ada.pk)]
    assert enabled.flag_calls[0]["person_properties"]["user_id"] == str(ada.pk)
    assert not response.cookies


@WAYS
def test_everybody_else_is_a_visitor(enabled, ada, way):
    """Without credentials the same endpoints answer an anonymous visitor, with a cookie."""
    enabled.flags = {"hers": Flag(only_for={str(ada.pk)})}

    response = Client().get(f"/{way}/")

    assert response.status_code == 200
    assert response.json()["features"] == {"hers": False}
    assert list(response.cookies) == [COOKIE]


@WAYS
def test_each_user_has_flags_of_their_own(enabled, ada, eve, way):
    """Two users of one browser, one after the other, each get their own."""
    enabled.flags = {"hers": Flag(only_for={str(ada.pk)})}
    if way == "basic":
        eve.set_password("lovelace")
        eve.save()
    client = Client()

    answers = [
        client.get(f"/{way}/", headers=as_user(way, client, user)).json() for user in (ada, eve)
    ]

    assert [answer["distinct_id"] for answer in answers] == [str(ada.pk), str(eve.pk)]
    assert [answer["features"]["hers"] for answer in answers] == [True, False]


@pytest.mark.parametrize(
    ("way", "headers", "status"),
    [
        ("token", {"authorization": "Token wrong"}, 401),
        ("basic", {"authorization": "Basic d3Jvbmc6d3Jvbmc="}, 401),
        ("basic", {"authorization": "Basic !"}, 401),
        ("gateway", {"x-gateway-user": "nobody"}, 401),
        ("members", {}, 401),
        ("members", {"authorization": "Token wrong"}, 401),
    ],
)
def test_wrong_credentials_are_refused(enabled, way, headers, status):
    """Credentials that are wrong are no anonymous visitor, and evaluate nothing."""
    response = Client().get(f"/{way}/", headers=headers)

    assert response.status_code == status
    assert list(response.json()) == ["detail"]
    assert response["WWW-Authenticate"]
    assert not response.cookies
    assert enabled.flag_calls == []


def test_what_the_host_installs_by_default_is_used(enabled, ada, client):
    """The endpoints as they come authenticate with the host's DRF defaults."""
    response = client.get("/api/features/", headers={"authorization": basic(ada, "lovelace")})
    assert response.json()["distinct_id"] == str(ada.pk)

    client.force_login(ada)
    assert client.get("/api/features/").json()["distinct_id"] == str(ada.pk)


def test_one_flag_is_that_of_the_user(enabled, ada, eve):
    """`GET …/{key}/` is about the same person."""
    enabled.flags = {"hers": Flag(only_for={str(ada.pk)})}
    client = Client()
    hers = client.get("/token/hers/", headers=as_user("token", client, ada)).json()
    others = client.get("/token/hers/", headers=as_user("token", client, eve)).json()

    assert (hers["enabled"], others["enabled"]) == (True, False)


def test_members_only_means_members_only(enabled, ada):
    """A subclass for members answers a member."""
    enabled.flags = {"flag": True}
    client = Client()

    response = client.get("/members/", headers=as_user("token", client, ada))

    assert response.json()["features"] == {"flag": True}


def test_a_token_may_differ_from_the_session(enabled, ada, eve):
    """Where DRF authenticates somebody else than the session, its user counts."""
    enabled.flags = {"hers": Flag(only_for={str(ada.pk)})}
    client = Client()
    client.force_login(eve)

    response = client.get("/token/", headers=as_user("token", client, ada))

    assert response.json()["distinct_id"] == str(ada.pk)
    assert response.json()["features"] == {"hers": True}


def test_the_sites_own_views_see_the_same_user(enabled, ada, client):
    """In a DRF view of the site's, DRF's request and Django's lead to DRF's user."""
    enabled.flags = {"hers": Flag(only_for={str(ada.pk)})}

    answer = client.get("/site/", headers=as_user("token", client, ada)).json()

    assert answer == {"distinct_id": str(ada.pk), "of django's": str(ada.pk), "hers": True}


def test_logging_in_within_a_drf_view_switches_the_flags(enabled, ada, client):
    """A log-in endpoint can answer with the flags of the user whom it logged in."""
    enabled.flags = {"hers": Flag(only_for={str(ada.pk)})}

    answer = client.post("/site/", {"username": "ada"}).json()

    assert answer == {"hers": [False, True]}
    assert client.get("/api/features/").json()["distinct_id"] == str(ada.pk)
