"""Device ids: flags that are bucketed by device keep their variant across a log-in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import posthog as sdk
import pytest
from django.contrib.auth import get_user_model, login
from django.contrib.auth.models import AnonymousUser
from django.contrib.auth.views import LoginView
from django.contrib.sessions.backends.db import SessionStore
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.template import RequestContext, Template
from django.test import Client, RequestFactory
from django.urls import include, path
from pytest_django import Settings

from olposthog.features import (
    aevaluate,
    aget_feature_flag,
    evaluate,
    for_request,
    get_all_feature_flags,
    get_feature_flag,
    get_feature_flag_payload,
    is_enabled,
)
from olposthog.identity import (
    ANONYMOUS_COOKIE_SALT,
    Identity,
    default_identity,
    device_id_of,
    identify,
)
from olposthog.inspection import inspect
from olposthog.snapshot import Source
from tests.posthog_server import PostHogServer, Split
from tests.posthog_wire import variant_of

COOKIE = "olposthog_id"
BROWSER_ID = "0192d7a4-1111-7000-8000-000000000001"
DEVICE_ID = "0192d7a4-2222-7000-8000-000000000002"
BY_DEVICE = Split(bucketing_identifier="device_id")
PAGE = "{% load olposthog %}{% posthog_bootstrap %}"


def in_python(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"checkout": get_feature_flag("checkout", request=request)})


def in_page(request: HttpRequest) -> HttpResponse:
    return HttpResponse(Template(PAGE).render(RequestContext(request)))


def without_flags(request: HttpRequest) -> HttpResponse:
    return HttpResponse("no flags")


urlpatterns = [
    path("api/", include("olposthog_api.urls")),
    path("", include("olposthog_api.ofrep.urls")),
    path("python/", in_python),
    path("page/", in_page),
    path("plain/", without_flags),
    path("login/", LoginView.as_view(next_page="/plain/")),
]
pytestmark = pytest.mark.urls(__name__)


@pytest.fixture
def ada(db: None, settings: Settings) -> Any:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    return get_user_model().objects.create_user("ada", password="lovelace")


def log_in(client: Client) -> None:
    """Log in by the form, as a person does."""
    response = client.post("/login/", {"username": "ada", "password": "lovelace"})
    assert response.status_code == 302


@pytest.fixture(params=["remote", "local"])
def by_device(
    request: pytest.FixtureRequest, settings: Settings, tmp_path: Path
) -> dict[str, object]:
    """Have a flag that is bucketed by device, decided by PostHog or by definitions."""
    if request.param == "remote":
        request.getfixturevalue("enabled").flags = {"checkout": BY_DEVICE}
    else:
        offline(settings, tmp_path, BY_DEVICE)
    return {"source": {"remote": "posthog", "local": "local"}[request.param]}


def offline(settings: Settings, folder: Path, flag: Split) -> None:
    """Have the flag decided by a definitions file, without any network."""
    file = folder / "flags.json"
    file.write_text(json.dumps({"flags": [flag.definition("checkout")]}))
    settings.POSTHOG_ENABLED = True
    settings.POSTHOG_FLAG_DEFINITIONS_FILE = str(file)


def device_in(client: Client) -> str:
    """The id in a browser's cookie."""
    request = HttpRequest()
    request.COOKIES[COOKIE] = client.cookies[COOKIE].value
    return str(request.get_signed_cookie(COOKIE, salt=ANONYMOUS_COOKIE_SALT))


def browser_of_another_variant(user: Any) -> Client:
    """A visitor's browser whose variant is not the one that the user's own id would have."""
    while True:
        client = Client()
        client.get("/api/features/")
        if variant_of("checkout", device_in(client)) != variant_of("checkout", str(user.pk)):
            return client


def everywhere(client: Client) -> list[object]:
    """The values of the flag, by each way that a site has to them."""
    bootstrap = client.get("/page/").content.decode()
    ofrep = client.post(
        "/ofrep/v1/evaluate/flags",
        {"context": {"targetingKey": "someone"}},
        content_type="application/json",
    ).json()
    return [
        client.get("/python/").json()["checkout"],
        client.get("/api/features/").json()["features"]["checkout"],
        client.get("/api/features/checkout/").json()["variant"],
        ofrep["flags"][0]["value"],
        json.loads(bootstrap[bootstrap.index("{") : bootstrap.rindex("}") + 1])["featureFlags"][
            "checkout"
        ],
    ]


def make_request(user: Any = None, **extra: Any) -> Any:
    request: Any = RequestFactory().get("/", **extra)
    request.user = user or AnonymousUser()
    request.session = SessionStore()
    return request


def signed_cookie(device_id: str) -> str:
    response = HttpResponse()
    response.set_signed_cookie(COOKIE, device_id, salt=ANONYMOUS_COOKIE_SALT)
    return f"{COOKIE}={response.cookies[COOKIE].value}"


def posthog_js(**claims: Any) -> str:
    """The cookie that posthog-js writes, as a request header has it."""
    return f"ph_phc_test_posthog={quote(json.dumps(claims))}"


# ---- across a log-in


def test_a_log_in_changes_no_variant(by_device: dict[str, object], ada: Any) -> None:
    """A flag bucketed by device has one variant before and after a log-in, however it is read."""
    client = browser_of_another_variant(ada)
    visitor = client.get("/api/features/").json()
    before = everywhere(client)

    log_in(client)
    after = everywhere(client)
    user = client.get("/api/features/").json()

    assert before == after == [variant_of("checkout", device_in(client))] * 5
    assert (visitor["distinct_id"], user["distinct_id"]) == (device_in(client), str(ada.pk))
    assert visitor["source"] == user["source"] == by_device["source"]


def test_a_log_in_changes_the_person(enabled: PostHogServer, ada: Any) -> None:
    """PostHog gets the id of the visitor, then that of the user, and one device id with both."""
    client = Client()
    client.get("/api/features/")
    log_in(client)
    client.get("/api/features/")

    device_id = device_in(client)
    assert [(call["distinct_id"], call["device_id"]) for call in enabled.flag_calls] == [
        (device_id, device_id),
        (str(ada.pk), device_id),
    ]


def test_a_log_in_within_a_request_changes_no_variant(enabled: PostHogServer, ada: Any) -> None:
    """A new visitor who logs in at once has the device id that the response puts in the cookie."""
    enabled.flags = {"checkout": BY_DEVICE}
    request = make_request()
    visitor = for_request(request)

    login(request, ada, backend="django.contrib.auth.backends.ModelBackend")

    assert for_request(request).distinct_id == str(ada.pk)
    assert for_request(request).flags == visitor.flags
    assert device_id_of(request) == visitor.distinct_id


def test_each_device_of_a_user_has_its_variant(enabled: PostHogServer, ada: Any) -> None:
    """One user on several devices gets on each the variant of that device."""
    enabled.flags = {"checkout": BY_DEVICE}
    browsers = [Client() for _ in range(6)]
    for browser in browsers:
        browser.get("/api/features/")
        log_in(browser)

    for _ in range(2):
        assert [
            browser.get("/api/features/").json()["features"]["checkout"] for browser in browsers
        ] == [variant_of("checkout", device_in(browser)) for browser in browsers]
    assert len(enabled.flag_calls) == 2 * len(browsers)


def test_a_user_without_the_cookie_has_no_device(enabled: PostHogServer, ada: Any) -> None:
    """A user whose browser never got the cookie gets none, and PostHog no device id."""
    enabled.flags = {"checkout": BY_DEVICE}
    client = Client()
    log_in(client)

    response = client.get("/api/features/")

    assert COOKIE not in client.cookies
    assert response.json()["features"] == {"checkout": False}
    assert "device_id" not in enabled.flag_calls[0]


@pytest.mark.parametrize("forge", ["", DEVICE_ID, f"{DEVICE_ID}:x:y"])
def test_a_forged_cookie_is_no_device(enabled: PostHogServer, forge: str) -> None:
    """A cookie that we did not sign gives a user no device id."""
    user = get_user_model()(pk=7)

    for_request(make_request(user, HTTP_COOKIE=f"{COOKIE}={forge}"))

    assert "device_id" not in enabled.flag_calls[0]


def test_without_the_anonymous_cookie_there_is_no_device(
    enabled: PostHogServer, settings: Settings
) -> None:
    """With POSTHOG_API_ANONYMOUS_COOKIE = None nobody has a device id, whatever cookie is sent."""
    settings.POSTHOG_API_ANONYMOUS_COOKIE = None
    cookie = signed_cookie(DEVICE_ID)

    assert identify(make_request(HTTP_COOKIE=cookie)).device_id is None
    assert identify(make_request(get_user_model()(pk=7), HTTP_COOKIE=cookie)).device_id is None


def test_asking_for_a_device_sets_no_cookie(enabled: PostHogServer) -> None:
    """`device_id_of` reads the cookie, and starts no visitor."""
    request = make_request()

    assert device_id_of(request) is None
    assert default_identity(request).device_id == device_id_of(request) is not None


# ---- the device id of posthog-js


@pytest.fixture
def trusting(enabled: PostHogServer, settings: Settings) -> PostHogServer:
    """A site that takes the browser's word for which browser it is."""
    settings.POSTHOG_API_TRUST_BROWSER_ID = True
    return enabled


@pytest.mark.parametrize("user_id", [None, 7], ids=["visitor", "user"])
def test_the_device_of_posthog_js_is_used(trusting: PostHogServer, user_id: int | None) -> None:
    """A trusted browser's `$device_id` is the device id, for visitors and for users."""
    user = user_id and get_user_model()(pk=user_id)
    claims = posthog_js(**{"distinct_id": BROWSER_ID, "$device_id": DEVICE_ID})

    snapshot = for_request(make_request(user, HTTP_COOKIE=f"{claims}; {signed_cookie(BROWSER_ID)}"))

    assert snapshot.distinct_id == (str(user_id) if user_id else BROWSER_ID)
    assert [call["device_id"] for call in trusting.flag_calls] == [DEVICE_ID]


@pytest.mark.parametrize("claim", ["7", "", None, 7, [DEVICE_ID], f"{DEVICE_ID}x", {"a": 1}])
def test_a_claimed_device_must_be_a_uuid(trusting: PostHogServer, claim: Any) -> None:
    """A `$device_id` that posthog-js would not have made is not used; the cookie's id is."""
    claims = posthog_js(**{"distinct_id": BROWSER_ID, "$device_id": claim})
    user = get_user_model()(pk=7)

    identity = identify(make_request(user, HTTP_COOKIE=f"{claims}; {signed_cookie(DEVICE_ID)}"))

    assert (identity.distinct_id, identity.device_id) == ("7", DEVICE_ID)


def test_a_claimed_device_means_nothing_by_default(enabled: PostHogServer) -> None:
    """Without POSTHOG_API_TRUST_BROWSER_ID a `$device_id` is not used."""
    claims = posthog_js(**{"distinct_id": BROWSER_ID, "$device_id": DEVICE_ID})

    assert identify(make_request(get_user_model()(pk=7), HTTP_COOKIE=claims)).device_id is None


def test_a_claimed_device_selects_no_person(trusting: PostHogServer) -> None:
    """Whatever device a browser claims, the person is the one that the server derives."""
    claims = posthog_js(**{"$device_id": DEVICE_ID})
    visitor = identify(make_request(HTTP_COOKIE=claims))

    assert visitor.anonymous
    assert visitor.distinct_id != DEVICE_ID


# ---- a site's own identities


def plain_identity(request: HttpRequest) -> Identity:
    return Identity("who-the-site-says")


def device_identity(request: HttpRequest) -> Identity:
    return Identity("who-the-site-says", device_id="till-3")


def no_device_identity(request: HttpRequest) -> Identity:
    return Identity("who-the-site-says", device_id="")


@pytest.mark.parametrize(
    ("function", "sent"),
    [(plain_identity, DEVICE_ID), (device_identity, "till-3"), (no_device_identity, None)],
)
def test_a_site_may_name_the_device(
    enabled: PostHogServer, settings: Settings, function: Callable[..., Identity], sent: str | None
) -> None:
    """POSTHOG_API_IDENTITY's device id counts, else the default one; empty text means none."""
    settings.POSTHOG_API_IDENTITY = f"{__name__}.{function.__name__}"

    for_request(make_request(HTTP_COOKIE=signed_cookie(DEVICE_ID)))

    assert [call.get("device_id") for call in enabled.flag_calls] == [sent]


# ---- calls with a device id


def test_a_call_may_name_the_device(by_device: dict[str, object]) -> None:
    """Every function takes `device_id=`, and so do the coroutines."""
    for device_id in map(str, range(8)):
        variant = variant_of("checkout", device_id)
        assert get_feature_flag("checkout", None, "u1", device_id=device_id) == variant
        assert is_enabled("checkout", None, "u1", device_id=device_id) is True
        assert get_feature_flag_payload("checkout", "u1", device_id=device_id) is None
        assert get_all_feature_flags("u1", device_id=device_id) == {"checkout": variant}
        assert evaluate("u1", device_id=device_id).flags == {"checkout": variant}
        for coroutine in (
            aget_feature_flag("checkout", None, "u1", device_id=device_id),
            aevaluate("u1", device_id=device_id),
        ):
            found = asyncio.run(coroutine)
            assert variant in (found, getattr(found, "flags", {}).get("checkout"))
        (seen,) = inspect(Identity("u1", device_id=device_id)).flags
        assert seen.value == variant


def test_the_caches_tell_devices_apart(
    enabled: PostHogServer, another_process: Callable[[], None]
) -> None:
    """The device id is part of the process cache's key and of the shared cache's."""
    enabled.flags = {"checkout": BY_DEVICE}
    devices = [None, *map(str, range(6))]
    wanted = [device and variant_of("checkout", device) for device in devices]
    wanted[0] = False  # type: ignore[call-overload]  # off without a device id

    for _ in range(2):
        for _ in range(2):
            assert [
                get_feature_flag("checkout", None, "u1", device_id=device) for device in devices
            ] == wanted
        assert len(enabled.flag_calls) == len(devices)
        another_process()


@pytest.mark.parametrize("junk", [7, True, b"d", ["d"], object()])
def test_a_device_id_is_text(enabled: PostHogServer, junk: Any) -> None:
    """A device id of another type is the caller's mistake, and the message names the argument."""
    for call in (
        lambda: is_enabled("checkout", None, "u1", device_id=junk),
        lambda: asyncio.run(aevaluate("u1", device_id=junk)),
        lambda: Identity("u1", device_id=junk),
    ):
        with pytest.raises(TypeError, match=r"^device_id must be text or None, not "):
            call()
    assert enabled.requests == []


def test_a_device_id_and_a_request_exclude_each_other(enabled: PostHogServer) -> None:
    """The device is that of the request, or the one that is named."""
    with pytest.raises(TypeError, match="request, or an id"):
        evaluate(request=make_request(), device_id="d")


def test_a_long_device_id_is_sent_whole(enabled: PostHogServer) -> None:
    """PostHog cuts no device ids before it hashes them, so neither do we."""
    evaluate("u1", device_id="d" * 300)

    assert enabled.flag_calls[0]["device_id"] == "d" * 300


# ---- the SDK's ambient context


def test_the_ambient_context_names_no_device(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A flag that needs a device id is undecided without one, whatever `new_context()` holds."""
    offline(settings, tmp_path, BY_DEVICE)
    settings.FEATURES = {"checkout": "from FEATURES"}

    with sdk.new_context():
        sdk.set_context_device_id("ambient")
        sdk.identify_context("ambient")
        inside = get_feature_flag("checkout", None, "u1")

    assert inside == get_feature_flag("checkout", None, "u1") == "from FEATURES"
    assert get_feature_flag("checkout", None, "u1", device_id="d") == variant_of("checkout", "d")


def test_the_ambient_context_is_not_sent(enabled: PostHogServer) -> None:
    """PostHog evaluates the person, the device and the properties of the call, and no others."""
    with sdk.new_context():
        sdk.set_context_device_id("ambient")
        sdk.identify_context("ambient")
        sdk.set_context_session("ambient")
        sdk.tag("ambient", True)
        evaluate("u1")
        evaluate()

    assert [call["distinct_id"] for call in enabled.flag_calls] == ["u1", "tests.example.com"]
    assert "ambient" not in json.dumps(enabled.flag_calls)


def test_the_ambient_context_changes_no_cached_values(
    enabled: PostHogServer, settings: Settings, tmp_path: Path
) -> None:
    """Who reads a flag first, inside or outside of a context, decides nothing for the others."""
    enabled.flags = {"checkout": BY_DEVICE}
    devices = [f"ambient-{number}" for number in range(8)]
    assert {variant_of("checkout", device) for device in devices} == {"control", "test"}

    for number, device in enumerate(devices):
        with sdk.new_context():
            sdk.set_context_device_id(device)
            inside = evaluate(f"u{number}")
        assert evaluate(f"u{number}") is inside
        assert inside.flags == {"checkout": False}
        assert inside.source is Source.POSTHOG
