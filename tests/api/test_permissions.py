"""The permission: API views for those who have a flag, however they authenticate."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured
from django.test import Client
from django.urls import path
from rest_framework.authentication import SessionAuthentication, TokenAuthentication
from rest_framework.authtoken.models import Token
from rest_framework.decorators import api_view
from rest_framework.decorators import permission_classes as permissions
from rest_framework.generics import RetrieveAPIView
from rest_framework.permissions import IsAuthenticated
from rest_framework.response import Response
from rest_framework.serializers import ModelSerializer
from rest_framework.test import APIRequestFactory
from rest_framework.views import APIView
from rest_framework_simplejwt.authentication import JWTAuthentication
from rest_framework_simplejwt.tokens import AccessToken

from olposthog_api.permissions import FlagPermission
from tests.posthog_faults import Refuse
from tests.posthog_server import Flag
from tests.test_exposures import told


class NewCheckout(FlagPermission):
    flag = "new-checkout"


class InTest(FlagPermission):
    flag = "new-checkout"
    variant = "test"
    message = "The new checkout is not for you yet."


class Checkout(APIView):
    authentication_classes: Any = [TokenAuthentication]
    permission_classes: Any = [NewCheckout]

    def get(self, request: Any) -> Response:
        return Response({"user": str(request.user)})


class UserSerializer(ModelSerializer[Any]):
    class Meta:
        model = get_user_model()
        fields = ["username"]


class User(RetrieveAPIView[Any]):
    queryset = get_user_model().objects.all()
    serializer_class = UserSerializer
    authentication_classes = [TokenAuthentication]


@api_view(["GET"])
@permissions([NewCheckout])
def function(request: Any) -> Response:
    return Response({})


WAYS: dict[str, Any] = {
    "session": SessionAuthentication,
    "token": TokenAuthentication,
    "jwt": JWTAuthentication,
}
urlpatterns = [
    *[
        path(f"{way}/", Checkout.as_view(authentication_classes=[kind]))
        for way, kind in WAYS.items()
    ],
    path("variant/", Checkout.as_view(permission_classes=[InTest])),
    path("and/", Checkout.as_view(permission_classes=[IsAuthenticated & NewCheckout])),
    path("or/", Checkout.as_view(permission_classes=[IsAuthenticated | NewCheckout])),
    path("not/", Checkout.as_view(permission_classes=[~NewCheckout])),
    path("object/<int:pk>/", User.as_view(permission_classes=[NewCheckout])),
    path("object/not/<int:pk>/", User.as_view(permission_classes=[~NewCheckout])),
    path("base/", Checkout.as_view(permission_classes=[FlagPermission])),
    path("function/", function),
]
pytestmark = [pytest.mark.urls(__name__), pytest.mark.django_db]


@pytest.fixture
def ada() -> Any:
    return get_user_model().objects.create_user("ada")


@pytest.fixture
def eve() -> Any:
    return get_user_model().objects.create_user("eve")


def credentials(way: str, client: Client, user: Any) -> dict[str, str]:
    """The headers that authenticate a user in this way; a session needs none."""
    match way:
        case "session":
            client.force_login(user)
            return {}
        case "token":
            return {"authorization": f"Token {Token.objects.get_or_create(user=user)[0]}"}
        case _:
            return {"authorization": f"Bearer {AccessToken.for_user(user)}"}


@pytest.mark.parametrize("way", WAYS)
def test_it_sees_whom_rest_framework_authenticated(enabled, client, ada, eve, way):
    """A session, a token or a signed JWT: the flag is that of the user whom it names."""
    enabled.flags = {"new-checkout": Flag(only_for={str(ada.pk)})}

    hers = client.get(f"/{way}/", headers=credentials(way, client, ada))
    others = client.get(f"/{way}/", headers=credentials(way, client, eve))

    assert (hers.status_code, hers.json()) == (200, {"user": "ada"})
    assert others.status_code == 403
    assert {call["distinct_id"] for call in enabled.flag_calls} == {str(ada.pk), str(eve.pk)}


def test_a_wrong_token_asks_for_no_flag(enabled, client):
    """Credentials that are wrong are refused before any flag is evaluated."""
    response = client.get("/jwt/", headers={"authorization": "Bearer forged"})

    assert response.status_code == 401
    assert enabled.requests == []


@pytest.mark.parametrize(("value", "status"), [(True, 200), ("test", 200), (False, 401)])
def test_a_visitor_may_have_the_flag(enabled, client, value, status):
    """Nobody must have logged in; who has neither the flag nor an account may try to log in."""
    enabled.flags = {"new-checkout": value}

    response = client.get("/token/")

    assert response.status_code == status


@pytest.mark.parametrize(
    ("value", "status"), [("test", 200), ("control", 403), (True, 403), (False, 403)]
)
def test_a_variant_is_for_those_who_have_that_one(enabled, client, ada, value, status):
    """With `variant` neither another one nor a plain on will do; the message is the class's."""
    enabled.flags = {"new-checkout": value}

    response = client.get("/variant/", headers=credentials("token", client, ada))

    assert response.status_code == status
    if status == 403:
        assert response.json() == {"detail": "The new checkout is not for you yet."}


@pytest.mark.parametrize(
    ("url", "member", "has_flag", "status"),
    [
        ("/and/", True, True, 200),
        ("/and/", True, False, 403),
        ("/and/", False, True, 401),
        ("/or/", True, False, 200),
        ("/or/", False, True, 200),
        ("/or/", False, False, 401),
        ("/not/", True, True, 403),
        ("/not/", True, False, 200),
    ],
)
def test_it_combines_with_others(enabled, client, ada, url, *, member, has_flag, status):
    """REST framework's operators `&`, `|` and `~` take it as any permission."""
    enabled.flags = {"new-checkout": has_flag}

    response = client.get(url, headers=credentials("token", client, ada) if member else {})

    assert response.status_code == status


@pytest.mark.parametrize(
    ("url", "has_flag", "status"),
    [
        ("/object", True, 200),
        ("/object", False, 403),
        ("/object/not", True, 403),
        ("/object/not", False, 200),
    ],
)
def test_it_holds_for_objects(enabled, client, ada, url, *, has_flag, status):
    """A view of one object is open to the same people, also with `~`."""
    enabled.flags = {"new-checkout": has_flag}

    response = client.get(f"{url}/{ada.pk}/", headers=credentials("token", client, ada))

    assert response.status_code == status
    assert len(enabled.flag_calls) == 1


def test_it_works_on_functions(enabled, client):
    """`@permission_classes` takes it."""
    enabled.flags = {"new-checkout": True}

    assert client.get("/function/").status_code == 200


def test_being_let_in_is_an_exposure(enabled, client, ada):
    """Asking reports what was read, for the user who was authenticated."""
    enabled.flags = {"new-checkout": "control"}

    client.get("/token/", headers=credentials("token", client, ada))

    assert told(enabled) == [(str(ada.pk), "new-checkout", "control")]


@pytest.mark.parametrize("value", [True, False])
def test_in_an_outage_features_decides(enabled, client, settings, ada, value):
    """With PostHog down the permission goes by `settings.FEATURES`."""
    settings.FEATURES = {"new-checkout": value}
    enabled.fault = Refuse()

    response = client.get("/token/", headers=credentials("token", client, ada))

    assert response.status_code == (200 if value else 403)


def test_a_refusal_is_about_the_person(enabled, client):
    """A 401 varies and gives a new visitor the cookie, as any page that reads a flag does."""
    response = client.get("/token/")

    assert list(response.cookies) == ["olposthog_id"]
    assert {"Cookie", "Authorization"} <= set(response["Vary"].split(", "))


# Mistakes


@pytest.mark.parametrize(
    ("attributes", "error", "told_as"),
    [
        ({"flag": b"new-checkout"}, TypeError, "Mistaken: the flag must be a str"),
        ({"flag": 1}, TypeError, "Mistaken: the flag must be a str"),
        ({"flag": "a", "variant": True}, TypeError, "Mistaken: the variant must be a str"),
        ({"flag": "a", "variant": ""}, ValueError, "Mistaken: the name of the variant is empty"),
    ],
)
def test_a_mistaken_class_is_named(attributes, error, told_as):
    """What is no flag or variant is told when the class is made."""
    with pytest.raises(error, match=told_as):
        type("Mistaken", (FlagPermission,), attributes)


def test_an_abstract_permission_may_lack_the_flag():
    """What permissions share can stand in a class of its own; used itself, it names itself."""

    class Polite(FlagPermission):
        message = "Sorry."

    class Concrete(Polite):
        flag = "a"

    assert Concrete.message == "Sorry."
    with pytest.raises(ImproperlyConfigured, match=r"Polite.*set flag on a subclass"):
        Polite().has_permission(APIRequestFactory().get("/"), APIView())


def test_the_base_class_lets_nobody_in(enabled, client):
    """The class itself, in place of a subclass, is a mistake and no open door."""
    with pytest.raises(ImproperlyConfigured, match="FlagPermission names no flag"):
        client.get("/base/")
