"""Whom flags are evaluated for, as the server derives it from a request."""

from __future__ import annotations

import json
import uuid
from datetime import date
from typing import Any
from urllib.parse import quote

import pytest
from django.apps import apps
from django.contrib.auth import get_user_model, login, logout
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser
from django.contrib.sessions.backends.db import SessionStore
from django.core import signing
from django.db import models
from django.http import HttpResponse
from django.test import Client, RequestFactory

from olposthog.features import default_unique_id, evaluate, for_request, is_enabled
from olposthog.identity import (
    SHARED_VISITOR_ID,
    Identity,
    default_identity,
    identify,
    remember_identity,
)
from olposthog.snapshot import Runtime
from tests.posthog_server import Flag

FEATURES_URL = "/api/features/"
COOKIE = "olposthog_id"
BROWSER_ID = "0192d7a4-1111-7000-8000-000000000001"
OTHER_ID = "0192d7a4-2222-7000-8000-000000000002"


def make_request(user=None, **extra):
    request = RequestFactory().get("/", **extra)
    request.user = user or AnonymousUser()
    request.session = SessionStore()
    return request


def posthog_js(distinct_id: Any, token: str = "phc_test") -> tuple[str, str]:
    """The cookie that posthog-js writes: its name and its value."""
    for sign, letters in (("+", "PL"), ("/", "SL"), ("=", "EQ")):
        token = token.replace(sign, letters)
    kept = {"distinct_id": distinct_id, "$device_id": OTHER_ID, "$user_state": "anonymous"}
    return f"ph_{token}_posthog", quote(json.dumps(kept))


@pytest.fixture
def user(db):
    return get_user_model().objects.create_user("ada")


@pytest.fixture
def trusting(enabled, settings):
    """A site that takes the browser's word for which anonymous browser it is."""
    settings.POSTHOG_API_TRUST_BROWSER_ID = True
    return enabled


# Anonymous visitors


def test_a_visitor_gets_a_cookie_once(enabled, client):
    """The first answer sets a random id, which later ones neither change nor set again."""
    first = client.get(FEATURES_URL)
    later = [client.get(FEATURES_URL) for _ in range(3)]

    distinct_id = first.json()["distinct_id"]
    assert uuid.UUID(distinct_id).version == 4
    assert list(first.cookies) == [COOKIE]
    assert [response.json()["distinct_id"] for response in later] == [distinct_id] * 3
    assert [dict(response.cookies) for response in later] == [{}] * 3
    assert [call["distinct_id"] for call in enabled.flag_calls] == [distinct_id]


def test_each_visitor_is_somebody_else(enabled):
    """Two browsers get two ids."""
    ids = {Client().get(FEATURES_URL).json()["distinct_id"] for _ in range(3)}

    assert len(ids) == 3


def test_the_cookie_is_out_of_reach_of_scripts_for_a_year(enabled, client):
    """The cookie is HttpOnly, lives for a year and follows the session cookie's defaults."""
    cookie = client.get(FEATURES_URL).cookies[COOKIE]

    assert cookie["httponly"] is True
    assert cookie["max-age"] == 365 * 24 * 3600
    assert cookie["samesite"] == "Lax"
    assert cookie["path"] == "/"
    assert cookie["secure"] == ""
    assert cookie["domain"] == ""


def test_the_cookie_is_where_the_session_cookie_is(enabled, client, settings):
    """Domain, path, SameSite and Secure are those of the session cookie."""
    settings.SESSION_COOKIE_DOMAIN = ".example.com"
    settings.SESSION_COOKIE_PATH = "/api/"
    settings.SESSION_COOKIE_SAMESITE = "None"
    settings.SESSION_COOKIE_SECURE = True

    cookie = client.get(FEATURES_URL).cookies[COOKIE]

    assert cookie["domain"] == ".example.com"
    assert cookie["path"] == "/api/"
    assert cookie["samesite"] == "None"
    assert cookie["secure"] is True
    assert cookie["httponly"] is True


def test_the_cookie_may_have_another_name(enabled, client, settings):
    """`POSTHOG_API_ANONYMOUS_COOKIE` names the cookie."""
    settings.POSTHOG_API_ANONYMOUS_COOKIE = "visitor"

    first = client.get(FEATURES_URL)

    assert list(first.cookies) == ["visitor"]
    assert client.get(FEATURES_URL).json()["distinct_id"] == first.json()["distinct_id"]


@pytest.mark.parametrize(
    "forge",
    [
        lambda genuine: "",
        lambda genuine: BROWSER_ID,
        lambda genuine: "1",
        lambda genuine: genuine[:-1] + ("A" if genuine[-1] != "A" else "B"),
        lambda genuine: "1" + genuine[genuine.index(":") :],
        lambda genuine: genuine.upper(),
        lambda genuine: "::",
        lambda genuine: "\x80\xff:é:1",
        lambda genuine: signing.get_cookie_signer(salt=COOKIE).sign(BROWSER_ID),
        lambda genuine: signing.TimestampSigner(key="another site").sign(BROWSER_ID),
        lambda genuine: signing.dumps(BROWSER_ID),
    ],
    ids=[
        "empty",
        "id",
        "user",
        "changed",
        "swapped",
        "case",
        "bare",
        "bytes",
        "salt",
        "key",
        "dump",
    ],
)
def test_a_cookie_that_is_not_ours_is_a_new_visitor(enabled, client, forge):
    """A cookie that we did not write selects nobody: the visitor is a new one."""
    genuine = client.get(FEATURES_URL)
    client.cookies[COOKIE] = forge(genuine.cookies[COOKIE].value)

    response = client.get(FEATURES_URL)

    new = response.json()["distinct_id"]
    assert new not in {genuine.json()["distinct_id"], BROWSER_ID, "1", ""}
    assert list(response.cookies) == [COOKIE]
    assert client.get(FEATURES_URL).json()["distinct_id"] == new


def test_without_the_cookie_visitors_share_an_id(enabled, settings):
    """With `POSTHOG_API_ANONYMOUS_COOKIE = None` all anonymous visitors are one person."""
    settings.POSTHOG_API_ANONYMOUS_COOKIE = None

    responses = [Client().get(FEATURES_URL) for _ in range(3)]

    ids = {response.json()["distinct_id"] for response in responses}
    assert ids == {SHARED_VISITOR_ID} != {default_unique_id()}
    assert not any(response.cookies for response in responses)
    assert len(enabled.flag_calls) == 1


def test_one_request_makes_one_visitor(enabled):
    """However often a first request asks, it is one new visitor."""
    request = make_request()

    ids = {for_request(request).distinct_id for _ in range(3)}
    ids.add(for_request(request, runtime=Runtime.CLIENT).distinct_id)
    ids.add(identify(request).distinct_id)

    assert len(ids) == 1


def test_an_answer_that_sets_the_cookie_is_private(enabled):
    """No cache may hand one visitor's cookie to others, whatever the view said before."""
    request, response = RequestFactory().get("/"), HttpResponse()
    response["Cache-Control"] = "public, max-age=60"
    for_request(request)

    remember_identity(request, response)

    parts = {part.strip() for part in response["Cache-Control"].split(",")}
    assert parts == {"private", "max-age=60"}


@pytest.mark.parametrize("headers", [None, ["Cookie"]], ids=["by default", "named headers"])
def test_a_later_answer_may_be_cached(enabled, client, settings, headers):
    """An answer that sets no cookie keeps its Cache-Control where the site names the headers."""
    settings.POSTHOG_API_IDENTITY_HEADERS = headers
    client.get(FEATURES_URL)
    request, response = RequestFactory().get("/"), HttpResponse()
    request.COOKIES = {name: each.value for name, each in client.cookies.items()}
    for_request(request)

    remember_identity(request, response)

    assert "Cookie" in response["Vary"]
    assert response.get("Cache-Control") == (None if headers else "private")


def test_remembering_nobody_does_nothing(enabled):
    """A response to a request that asked for no identity has neither a cookie nor a `Vary`."""
    response = HttpResponse()

    remember_identity(make_request(), response)

    assert not response.cookies
    assert "Vary" not in response


def test_anonymous_is_said_of_visitors_only(enabled, user):
    """An identity tells whether anybody logged in."""
    assert identify(make_request()).anonymous is True
    assert identify(make_request(user)).anonymous is False


# Users


def test_a_user_is_their_primary_key(enabled, user):
    """An authenticated user is `str(user.pk)` and leaves no anonymous cookie."""
    client = Client()
    client.force_login(user)

    response = client.get(FEATURES_URL)

    assert response.json()["distinct_id"] == str(user.pk)
    assert not response.cookies
    assert [call["distinct_id"] for call in enabled.flag_calls] == [str(user.pk)]


@pytest.mark.parametrize("trust", [False, True], ids=["wary", "trusting"])
def test_no_claim_selects_a_user(enabled, client, settings, trust):
    """Cookie, header, query and body of an anonymous visitor never become the id of a user."""
    settings.POSTHOG_API_TRUST_BROWSER_ID = trust
    enabled.flags = {"hers": Flag(only_for={"1"})}
    name, value = posthog_js("1")
    client.cookies[name] = value
    client.cookies[COOKIE] = "1"

    answer = client.generic(
        "GET",
        f"{FEATURES_URL}?distinct_id=1&opt_unique_id=1&user_id=1",
        data=json.dumps({"distinct_id": "1", "opt_unique_id": "1"}),
        content_type="application/json",
        headers={"x-posthog-distinct-id": "1", "remote-user": "1"},
    ).json()

    assert answer["distinct_id"] != "1"
    assert answer["features"] == {"hers": False}


def test_a_page_and_the_api_agree_about_a_user(enabled, user):
    """`is_enabled(request=…)`, the id and the API are about one person."""
    enabled.flags = {"hers": Flag(only_for={str(user.pk)})}
    client = Client()
    client.force_login(user)

    assert is_enabled("hers", request=make_request(user)) is True
    assert is_enabled("hers", opt_unique_id=user.pk) is True
    assert is_enabled("hers", request=make_request()) is False
    assert client.get(FEATURES_URL).json()["features"] == {"hers": True}


# Users without an ordinary primary key


class Account:
    """What a site's own authentication may put into `request.user`."""

    is_authenticated = True

    def __init__(self, pk: Any) -> None:
        self.pk = pk


class Keyless:
    """The same without any primary key."""

    is_authenticated = True


@pytest.fixture
def membership():
    """A model whose primary key has two parts, until the test is over."""
    meta = type("Meta", (), {"app_label": "auth", "managed": False})
    fields = {
        "pk": models.CompositePrimaryKey("tenant", "number"),
        "tenant": models.CharField(max_length=9),
        "number": models.IntegerField(),
        "is_authenticated": True,
    }
    yield type("Membership", (models.Model,), {"__module__": __name__, "Meta": meta, **fields})
    del apps.all_models["auth"]["membership"]
    apps.clear_cache()


def test_a_composite_key_is_joined(enabled, membership):
    """A user with a composite key is the key's parts, joined by colons."""
    user = membership(tenant="acme", number=7)

    assert for_request(make_request(user)).distinct_id == "acme:7"
    assert identify(make_request(user)).anonymous is False


def test_composite_keys_are_told_apart(enabled):
    """No two composite keys are one person, whatever their parts contain."""
    keys = [("a:b", "c"), ("a", "b:c"), ("a%3Ab", "c"), ("a", "b%3Ac"), ("a", "b", "c")]

    ids = {default_identity(make_request(Account(key))).distinct_id for key in keys}

    assert len(ids) == len(keys)


@pytest.mark.parametrize(
    "user",
    [Account(None), Account((None, None)), Account(("acme", None)), Keyless()],
    ids=["unsaved", "unsaved composite", "half of a composite", "keyless"],
)
def test_a_user_without_a_key_is_nobody(enabled, user):
    """A user whom nothing tells from others gets FEATURES, and no cookie."""
    request, response = make_request(user), HttpResponse()

    snapshot = for_request(request)
    remember_identity(request, response)

    assert snapshot.distinct_id == ""
    assert snapshot.anonymous
    assert not response.cookies
    assert enabled.requests == []


def test_an_unsaved_user_of_django_is_nobody(enabled):
    """The same goes for Django's own user before it is saved."""
    assert for_request(make_request(get_user_model()())).distinct_id == ""


def test_a_composite_key_is_no_id(enabled, membership):
    """A tuple as an id raises TypeError, which says how to pass a composite key."""
    user = membership(tenant="acme", number=7)
    keys: list[Any] = [user.pk, (1, 2), ()]

    for unique_id in keys:
        with pytest.raises(
            TypeError, match=r"not tuple\. Pass a composite key as one text, .*join"
        ):
            is_enabled("beta", opt_unique_id=unique_id)
    assert is_enabled("beta", opt_unique_id=":".join(map(str, user.pk))) is False
    assert [call["distinct_id"] for call in enabled.flag_calls] == ["acme:7"]


def test_an_unsaved_object_is_no_id(enabled, membership):
    """An object in an id's place raises TypeError; an unsaved one is to be saved first."""
    saved: Any = get_user_model()(pk=7)
    unsaved: list[Any] = [get_user_model()(), membership(tenant="acme")]

    for user in unsaved:
        with pytest.raises(TypeError, match="Save the object first: it has no primary key yet"):
            is_enabled("beta", opt_unique_id=user)
    with pytest.raises(TypeError, match=r"Pass for example str\(user\.pk\)"):
        is_enabled("beta", opt_unique_id=saved)
    assert enabled.requests == []


# Logging in and out


def test_logging_in_switches_the_flags_at_once(enabled, client, user):
    """The next request after a login has the user's flags, the next after a logout does not."""
    enabled.flags = {"hers": Flag(only_for={str(user.pk)})}
    before = client.get(FEATURES_URL).json()

    client.force_login(user)
    during = client.get(FEATURES_URL).json()
    client.logout()
    after = client.get(FEATURES_URL).json()

    assert [answer["features"]["hers"] for answer in (before, during, after)] == [
        False,
        True,
        False,
    ]
    assert during["distinct_id"] == str(user.pk)
    assert after["distinct_id"] != str(user.pk)


def test_a_visitor_who_logs_out_is_the_visitor_from_before(enabled, client, user):
    """The session ends at the logout, the browser's own id does not."""
    before = client.get(FEATURES_URL).json()["distinct_id"]
    visitor = client.cookies[COOKIE].value
    client.force_login(user)
    client.get(FEATURES_URL)
    assert client.cookies[COOKIE].value == visitor
    del client.cookies["sessionid"]

    assert client.get(FEATURES_URL).json()["distinct_id"] == before


def test_logging_in_and_out_within_one_request(enabled, user):
    """Flags kept on the request are those of whoever is logged in at that moment."""
    enabled.flags = {"hers": Flag(only_for={str(user.pk)})}
    request = make_request()
    assert for_request(request).flags["hers"] is False
    visitor = for_request(request).distinct_id

    login(request, user, backend="django.contrib.auth.backends.ModelBackend")
    assert for_request(request).flags["hers"] is True
    assert for_request(request).distinct_id == str(user.pk)
    assert is_enabled("hers", request=request) is True

    logout(request)
    assert for_request(request).distinct_id == visitor
    assert is_enabled("hers", request=request) is False


# The id of posthog-js


def test_a_browsers_id_means_nothing_by_default(enabled, client):
    """Without `POSTHOG_API_TRUST_BROWSER_ID` neither the cookie nor the header counts."""
    name, value = posthog_js(BROWSER_ID)
    client.cookies[name] = value

    answer = client.get(FEATURES_URL, headers={"x-posthog-distinct-id": OTHER_ID}).json()

    assert answer["distinct_id"] not in {BROWSER_ID, OTHER_ID}


@pytest.mark.parametrize("token", ["phc_test", "phc_a+b/c=", "phc_++//=="])
def test_the_cookie_of_posthog_js_is_used(trusting, client, settings, token):
    """The id is read from `ph_<token>_posthog`, whatever signs the token has."""
    trusting.token = settings.POSTHOG_PROJECT_API_KEY = token
    name, value = posthog_js(BROWSER_ID, token)
    assert not set(name) & set("+/=")
    client.cookies[name] = value
    trusting.flags = {"theirs": Flag(only_for={BROWSER_ID})}

    response = client.get(FEATURES_URL)

    assert response.json()["distinct_id"] == BROWSER_ID
    assert response.json()["features"] == {"theirs": True}
    assert not response.cookies


def test_the_header_of_posthog_js_is_used(trusting, client):
    """Without its cookie, `X-POSTHOG-DISTINCT-ID` is the browser's id."""
    response = client.get(FEATURES_URL, headers={"x-posthog-distinct-id": BROWSER_ID})

    assert response.json()["distinct_id"] == BROWSER_ID
    assert not response.cookies


def test_the_cookie_comes_before_the_header(trusting, client):
    """Where both are sent, the cookie counts."""
    name, value = posthog_js(BROWSER_ID)
    client.cookies[name] = value

    answer = client.get(FEATURES_URL, headers={"x-posthog-distinct-id": OTHER_ID}).json()

    assert answer["distinct_id"] == BROWSER_ID


def test_another_projects_cookie_is_not_used(trusting, client):
    """Only the cookie of the site's own PostHog project counts."""
    name, value = posthog_js(BROWSER_ID, "phc_other")
    client.cookies[name] = value

    assert client.get(FEATURES_URL).json()["distinct_id"] != BROWSER_ID


NO_BROWSER_IDS = [
    "1",
    "42",
    "",
    "ada@example.com",
    "$posthog_cookieless",
    BROWSER_ID.replace("-", ""),
    f"{{{BROWSER_ID}}}",
    f"urn:uuid:{BROWSER_ID}",
    f"{BROWSER_ID}x",
    f"x{BROWSER_ID}",
    BROWSER_ID[:-1],
    BROWSER_ID.replace("a", "g"),
]


@pytest.mark.parametrize("claim", NO_BROWSER_IDS)
def test_a_header_that_is_no_uuid_is_refused(trusting, client, claim):
    """An id in any other form could be a user's: it is not used, and the visitor is a new one."""
    response = client.get(FEATURES_URL, headers={"x-posthog-distinct-id": claim})

    assert response.json()["distinct_id"] != claim
    assert list(response.cookies) == [COOKIE]


@pytest.mark.parametrize(
    "claim",
    [*NO_BROWSER_IDS, f"{BROWSER_ID}\n", 1, 1.5, True, None, [BROWSER_ID], {"a": BROWSER_ID}],
)
def test_a_cookie_that_holds_no_uuid_is_refused(trusting, client, claim):
    """What posthog-js would not have made is not used."""
    name, value = posthog_js(claim)
    client.cookies[name] = value

    response = client.get(FEATURES_URL)

    assert response.status_code == 200
    assert response.json()["distinct_id"] not in [claim, str(claim), BROWSER_ID]
    assert list(response.cookies) == [COOKIE]


@pytest.mark.parametrize(
    "value",
    [
        "",
        "nonsense",
        "%",
        "%ff%fe",
        "null",
        "[]",
        '"text"',
        "1e999",
        "NaN",
        BROWSER_ID,
        quote(f'{{"distinct_id": "{BROWSER_ID}"'),
        quote(json.dumps([{"distinct_id": BROWSER_ID}])),
        "9" * 5000,
        "[" * 4000,
        '{"a":' * 1500,
    ],
    ids=lambda value: value[:20],
)
def test_a_malformed_cookie_is_ignored(trusting, client, value):
    """Whatever stands in the cookie, the answer is the one for a new visitor."""
    name, _ = posthog_js(BROWSER_ID)
    client.cookies[name] = value

    response = client.get(FEATURES_URL)

    assert response.status_code == 200
    assert response.json()["distinct_id"] != BROWSER_ID
    assert list(response.cookies) == [COOKIE]


def test_a_malformed_cookie_leaves_the_header(trusting, client):
    """Who sends a cookie that cannot be read may still be known by the header."""
    name, _ = posthog_js(BROWSER_ID)
    client.cookies[name] = "nonsense"

    answer = client.get(FEATURES_URL, headers={"x-posthog-distinct-id": OTHER_ID}).json()

    assert answer["distinct_id"] == OTHER_ID


@pytest.fixture
def user_model(settings):
    """Makes another user model with this primary key, until the test is over."""
    made = []

    def make(base, name, **fields):
        meta = type("Meta", (), {"app_label": "auth", "managed": False})
        made.append(name.lower())
        return type(name, (base,), {"__module__": __name__, "Meta": meta, **fields})

    def swap(primary_key):
        key: models.Field[Any, Any]
        parent = make(models.Model, "Party", id=models.UUIDField(primary_key=True))
        if primary_key is models.OneToOneField:
            key = primary_key(parent, models.CASCADE, primary_key=True, related_name="+")
        elif primary_key is models.CharField:
            key = primary_key(primary_key=True, max_length=36, default=uuid.uuid4)
        else:
            key = primary_key(primary_key=True)
        make(AbstractBaseUser, "Member", key=key, USERNAME_FIELD="key", REQUIRED_FIELDS=[])
        settings.AUTH_USER_MODEL = "auth.Member"

    yield swap
    settings.AUTH_USER_MODEL = "auth.User"
    for name in made:
        del apps.all_models["auth"][name]
    apps.clear_cache()


@pytest.mark.parametrize("primary_key", [models.UUIDField, models.CharField, models.OneToOneField])
def test_users_whose_ids_may_be_uuids_are_safe(trusting, user_model, primary_key):
    """Where a user's id can look like a browser's, no browser's id is used at run time either."""
    user_model(primary_key)
    name, value = posthog_js(BROWSER_ID)
    by_cookie = make_request(HTTP_COOKIE=f"{name}={value}")
    by_header = make_request(HTTP_X_POSTHOG_DISTINCT_ID=BROWSER_ID)

    assert default_identity(by_cookie).distinct_id != BROWSER_ID
    assert default_identity(by_header).distinct_id != BROWSER_ID


@pytest.mark.parametrize("primary_key", [models.BigIntegerField, models.SmallAutoField])
def test_users_with_numbers_are_no_obstacle(trusting, user_model, primary_key):
    """Another user model with numbers as ids changes nothing about browser ids."""
    user_model(primary_key)
    request = make_request(HTTP_X_POSTHOG_DISTINCT_ID=BROWSER_ID)

    assert default_identity(request).distinct_id == BROWSER_ID


# The site's own rule


def tenant_identity(request):
    tenant = request.headers.get("x-tenant", "none")
    return Identity(
        f"{tenant}/someone",
        person_properties={"plan": "pro", "since": date(2024, 2, 29), "user_id": "own"},
        groups={"company": tenant, "team": 7},
        group_properties={"company": {"size": 12}},
    )


def refused_identity(request):
    return request.headers.get("x-tenant", "text")


def identity_of_nothing(request):
    return None


def identity_as_tuple(request):
    return ("ada", {})


def identity_of_number(request):
    return Identity(42)  # type: ignore[arg-type]  # the mistake


def identity_of_no_text(request):
    return Identity("")


def identity_of_an_object(request):
    return Identity("ada", person_properties={"request": request})


def polite_identity(request):
    identity = default_identity(request)
    return Identity(identity.distinct_id, {"polite": True}, anonymous=identity.anonymous)


def test_the_site_may_say_who_it_is(enabled, client, settings):
    """`POSTHOG_API_IDENTITY` decides, and PostHog gets its properties and groups."""
    settings.POSTHOG_API_IDENTITY = f"{__name__}.tenant_identity"
    enabled.flags = {"pro": Flag(only_for=lambda body: body["person_properties"]["plan"] == "pro")}

    response = client.get(FEATURES_URL, headers={"x-tenant": "acme"})

    assert response.json()["distinct_id"] == "acme/someone"
    assert response.json()["features"] == {"pro": True}
    assert not response.cookies
    (call,) = enabled.flag_calls
    assert call["distinct_id"] == "acme/someone"
    assert call["groups"] == {"company": "acme", "team": 7}
    assert call["group_properties"]["company"]["size"] == 12
    assert call["person_properties"] == {
        "environment": "tests",
        "user_id": "own",
        "plan": "pro",
        "since": "2024-02-29",
    }


def test_each_group_has_flags_of_its_own(enabled, client, settings):
    """Two people who differ in a group share no answer."""
    settings.POSTHOG_API_IDENTITY = f"{__name__}.tenant_identity"
    enabled.flags = {"acme": Flag(only_for=lambda body: body["groups"]["company"] == "acme")}

    answers = [
        client.get(FEATURES_URL, headers={"x-tenant": tenant}).json()["features"]["acme"]
        for tenant in ("acme", "other", "acme")
    ]

    assert answers == [True, False, True]
    assert len(enabled.flag_calls) == 2


def test_the_sites_rule_may_start_from_ours(enabled, client, settings):
    """`default_identity` is there for sites that only add properties; its cookie still works."""
    settings.POSTHOG_API_IDENTITY = f"{__name__}.polite_identity"
    enabled.flags = {"flag": True}

    first = client.get(FEATURES_URL)

    assert list(first.cookies) == [COOKIE]
    assert client.get(FEATURES_URL).json()["distinct_id"] == first.json()["distinct_id"]
    assert enabled.flag_calls[0]["person_properties"]["polite"] is True


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        ("refused_identity", "str"),
        ("identity_of_nothing", "NoneType"),
        ("identity_as_tuple", "tuple"),
    ],
)
def test_anything_but_an_identity_is_a_mistake(enabled, client, settings, function, kind):
    """A rule that returns something else gets a TypeError that says what it should return."""
    settings.POSTHOG_API_IDENTITY = f"{__name__}.{function}"

    with pytest.raises(TypeError) as raised:
        client.get(FEATURES_URL)

    assert str(raised.value) == (
        f"POSTHOG_API_IDENTITY returned {kind}; it must return an olposthog.identity.Identity."
    )


@pytest.mark.parametrize("function", ["identity_of_number", "identity_of_no_text"])
def test_an_identity_without_a_text_id_is_a_mistake(enabled, client, settings, function):
    """A distinct id that is no text, or empty, is said to be one, and reaches nobody."""
    settings.POSTHOG_API_IDENTITY = f"{__name__}.{function}"

    with pytest.raises((TypeError, ValueError), match="distinct_id"):
        client.get(FEATURES_URL)

    assert enabled.flag_calls == []


def test_properties_that_are_no_json_are_a_mistake(enabled, client, settings):
    """A property that PostHog could not be told is a TypeError that names the argument."""
    settings.POSTHOG_API_IDENTITY = f"{__name__}.identity_of_an_object"

    with pytest.raises(TypeError, match="person_properties must hold JSON values"):
        client.get(FEATURES_URL)


def test_a_rule_that_cannot_be_found_is_no_rule_at_all(enabled, client, settings):
    """A dotted path that leads nowhere costs PostHog's flags, and identifies as by default."""
    settings.POSTHOG_API_IDENTITY = "nowhere.identity"
    settings.FEATURES = {"own": True}
    enabled.flags = {"flag": True}

    answer = client.get(FEATURES_URL).json()

    assert (answer["source"], answer["features"]) == ("fallback", {"own": True})
    assert enabled.flag_calls == []


def test_a_request_and_an_id_exclude_each_other(enabled):
    """Giving both a request and an id, or properties, is a TypeError."""
    with pytest.raises(TypeError, match="not both"):
        evaluate("1", request=make_request())
    with pytest.raises(TypeError, match="not both"):
        evaluate(request=make_request(), person_properties={"plan": "pro"})
