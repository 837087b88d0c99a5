"""OFREP: what OpenFeature's clients ask, what they are answered, and whom it is about."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from django.contrib.auth import get_user_model
from django.test import Client
from django.urls import include, path

from olposthog.features import clear_cache, evaluate
from olposthog.snapshot import Runtime
from olposthog_api.ofrep.evaluation import REASONS
from tests.posthog_faults import Quota, Refuse, Status
from tests.posthog_server import Flag, Variant

FLAGS_URL = "/ofrep/v1/evaluate/flags"

urlpatterns = [
    path("", include("olposthog_api.ofrep.urls")),
    path("api/", include("olposthog_api.urls")),
]
pytestmark = pytest.mark.urls(__name__)


def ask(client: Client, key: str | None = None, /, **context: Any) -> Any:
    """Evaluate one flag, or all."""
    address = FLAGS_URL if key is None else f"{FLAGS_URL}/{quote(key)}"
    return client.post(address, json.dumps({"context": context}), "application/json")


def by_key(response: Any) -> dict[str, dict[str, Any]]:
    return {flag["key"]: flag for flag in response.json()["flags"]}


@pytest.fixture
def user(db):
    return get_user_model().objects.create_user("ada")


@pytest.fixture
def member(client, user):
    client.force_login(user)
    return client


# Values


def test_the_answer_is_exactly_the_documented_json(enabled, client):
    """Switches are booleans, variants strings; payloads are JSON text, and flags sorted by key."""
    enabled.flags = {
        "off": False,
        "new-nav": Flag(id=7, version=3),
        "checkout": Variant("test", payload={"colour": "green"}, id=8, version=2),
    }

    response = ask(client)

    assert response.status_code == 200
    assert response["Content-Type"] == "application/json"
    assert response.json() == {
        "flags": [
            {
                "key": "checkout",
                "value": "test",
                "reason": "TARGETING_MATCH",
                "variant": "test",
                "metadata": {
                    "source": "posthog",
                    "id": 8,
                    "version": 2,
                    "posthogReason": "condition_match",
                    "payload": '{"colour":"green"}',
                },
            },
            {
                "key": "new-nav",
                "value": True,
                "reason": "TARGETING_MATCH",
                "variant": "on",
                "metadata": {
                    "source": "posthog",
                    "id": 7,
                    "version": 3,
                    "posthogReason": "condition_match",
                },
            },
            {
                "key": "off",
                "value": False,
                "reason": "UNKNOWN",
                "variant": "off",
                "metadata": {
                    "source": "posthog",
                    "id": 1,
                    "version": 1,
                    "posthogReason": "no_condition_match",
                },
            },
        ],
        "metadata": {"source": "posthog"},
    }


def test_one_flag_is_the_same_as_among_all(enabled, client, settings):
    """Both endpoints say the same of every flag."""
    settings.FEATURES = {"own": "blue"}
    enabled.flags = {"a": True, "b": Variant("test", payload=[1]), "c": Flag(failed=True), "d": 42}

    flags = by_key(ask(client))

    assert set(flags) == {"a", "b", "c", "d", "own"}
    for key, flag in flags.items():
        response = ask(client, key)
        assert response.status_code == 200
        assert response.json() == flag


def test_it_is_the_answer_of_the_rest_api(enabled, client, settings):
    """OFREP, the REST API and Python agree about a person, for one request to PostHog."""
    settings.FEATURES = {"own": True}
    enabled.flags = {"a": True, "b": Variant("test", payload={"c": [None]}), "off": False}

    flags = by_key(ask(client))
    rest = client.get("/api/features/").json()

    assert {key: flag["value"] for key, flag in flags.items()} == rest["features"]
    assert evaluate(rest["distinct_id"], runtime=Runtime.CLIENT).flags == rest["features"]
    payloads = {
        key: json.loads(flag["metadata"]["payload"])
        for key, flag in flags.items()
        if "payload" in flag["metadata"]
    }
    assert payloads == rest["payloads"]
    assert {call["distinct_id"] for call in enabled.flag_calls} == {rest["distinct_id"]}


@pytest.mark.parametrize("code", sorted(REASONS))
def test_reasons_of_posthogs(enabled, client, code):
    """PostHog's reason codes become OpenFeature's reasons, and are there in its own words too."""
    enabled.flags = {"flag": Flag(reason=code)}

    flag = ask(client, "flag").json()

    assert flag["reason"] == REASONS[code]
    assert flag["metadata"]["posthogReason"] == code


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("condition_match", "TARGETING_MATCH"),
        ("out_of_rollout_bound", "SPLIT"),
        ("flag_disabled", "DISABLED"),
        ("no_condition_match", "UNKNOWN"),
        ("whatever-comes-next", "UNKNOWN"),
    ],
)
def test_one_reason_of_each_kind(enabled, client, code, reason):
    """A code that we do not know is UNKNOWN."""
    enabled.flags = {"flag": Flag(reason=code)}

    assert ask(client, "flag").json()["reason"] == reason


def test_the_docs_have_the_same_reasons():
    """The table of reasons in the docs is the one that the code has."""
    page = (Path(__file__).parents[2] / "docs/openfeature.md").read_text()
    rows = re.findall(r"^\| (`.*) \| ([A-Z_]+) \|$", page, re.MULTILINE)
    table = {code: reason for codes, reason in rows for code in re.findall(r"`(\w+)`", codes)}

    assert table == {code: reason.value for code, reason in REASONS.items()}


def test_what_definitions_decide_has_a_reason(settings, client, tmp_path):
    """Evaluated in the process, a flag that is on matched; why one is off, nobody says."""
    everyone = {"groups": [{"properties": [], "rollout_percentage": 100}]}
    flags = [
        {"id": 1, "key": "on", "active": True, "version": 5, "filters": everyone},
        {"id": 2, "key": "off", "active": False, "version": 1, "filters": everyone},
    ]
    file = tmp_path / "flags.json"
    file.write_text(json.dumps({"flags": flags, "group_type_mapping": {}, "cohorts": {}}))
    settings.POSTHOG_ENABLED = True
    settings.POSTHOG_FLAG_DEFINITIONS_FILE = str(file)

    answer = by_key(ask(client))

    assert {key: flag["reason"] for key, flag in answer.items()} == {
        "on": "TARGETING_MATCH",
        "off": "UNKNOWN",
    }
    assert answer["on"]["metadata"] == {
        "source": "local",
        "id": 1,
        "version": 5,
        "posthogReason": "local",
    }


def test_values_of_settings_are_static(enabled, client, settings):
    """What only `settings.FEATURES` knows is STATIC, beside PostHog's values and in an outage."""
    settings.FEATURES = {"own": True, "flag": "blue"}
    enabled.flags = {"flag": Variant("green")}
    assert ask(client, "own").json()["reason"] == "STATIC"
    assert ask(client, "flag").json()["value"] == "green"
    clear_cache()
    enabled.fault = Refuse()

    response = ask(client)

    assert response.status_code == 200
    assert response.json()["metadata"] == {"source": "fallback"}
    assert by_key(response)["flag"] == {
        "key": "flag",
        "value": "blue",
        "reason": "STATIC",
        "variant": "blue",
        "metadata": {"source": "fallback"},
    }


def test_switched_off_is_static_too(settings, client):
    """Without PostHog the site's values answer."""
    settings.FEATURES = {"own": False}

    flag = ask(client, "own").json()

    assert (flag["value"], flag["variant"], flag["reason"]) == (False, "off", "STATIC")
    assert flag["metadata"] == {"source": "disabled"}


def test_a_failed_flag_leaves_the_default_to_the_client(enabled, client, another_process):
    """Where PostHog says that a flag failed, there is no value, not even a null; caches keep it."""
    enabled.flags = {"bad": Flag(failed=True), "good": True}

    for _ in range(2):
        flag = ask(client, "bad").json()
        assert "value" not in flag
        assert (flag["reason"], flag["variant"]) == ("UNKNOWN", "undecided")
        assert by_key(ask(client))["bad"] == flag
        another_process()
    assert len(enabled.flag_calls) == 1


def test_a_failed_flag_with_a_fallback_has_its_value(enabled, client, settings):
    """`settings.FEATURES` answers for a flag that PostHog could not compute."""
    settings.FEATURES = {"bad": "blue"}
    enabled.flags = {"bad": Flag(failed=True), "good": True}

    flag = ask(client, "bad").json()

    assert (flag["value"], flag["reason"]) == ("blue", "STATIC")


@dataclass(frozen=True)
class BareFlag(Flag):
    """A flag of which PostHog says no more than the value."""

    def record(self, key: str, number: int, body: dict[str, Any]) -> dict[str, Any]:
        return super().record(key, number, body) | {"metadata": None, "reason": None}


def test_metadata_holds_what_is_known_only(enabled, client):
    """Id, version and reason are left out where PostHog does not send them."""
    enabled.flags = {"flag": BareFlag()}

    assert ask(client, "flag").json()["metadata"] == {"source": "posthog"}


# Visibility


def test_only_visible_flags(enabled, client, settings):
    """Hidden, server-only, PostHog's own and unknown flags look alike, also when they failed."""
    settings.POSTHOG_API_FLAGS = ["shown", "survey-*", "server"]
    enabled.flags = {
        "shown": True,
        "hidden": True,
        "hidden-failed": Flag(failed=True),
        "survey-targeting-1": True,
        "server": Flag(runtime="server"),
    }

    assert set(by_key(ask(client))) == {"shown"}
    for key in ("hidden", "hidden-failed", "survey-targeting-1", "server", "unknown"):
        response = ask(client, key)
        assert response.status_code == 404
        assert response.json() == {
            "key": key,
            "errorCode": "FLAG_NOT_FOUND",
            "errorDetails": f"There is no flag {key!r} for browsers.",
        }


# Keys


@pytest.mark.parametrize(
    "key",
    [
        "a/b",
        "a//b",
        "/a",
        "a/",
        "with space",
        "50%",
        "%41",
        "größe",
        "a.b",
        "\n",
        "a\nb\n",
        "旗",
        "?#",
    ],
)
def test_keys_of_any_kind(enabled, client, key):
    """Slashes, spaces, percent signs, line ends and unicode are parts of a key."""
    enabled.flags = {key: Variant("test"), "a": True}

    response = ask(client, key)

    assert response.status_code == 200
    assert (response.json()["key"], response.json()["value"]) == (key, "test")


def test_an_escaped_slash_is_a_slash(enabled, client):
    """Clients that escape the whole key, and those that do not, get the same flag."""
    enabled.flags = {"a/b c": True}

    for written in ("a/b c", "a%2Fb%20c"):
        response = client.post(f"{FLAGS_URL}/{written}", "{}", "application/json")
        assert response.json()["key"] == "a/b c"


def test_no_key_is_no_flag(enabled, client):
    """The bulk address with a slash is none, and says so as JSON."""
    response = client.post(f"{FLAGS_URL}/", "{}", "application/json")

    assert response.status_code == 404
    assert response.json()["errorCode"] == "FLAG_NOT_FOUND"


# Who is asking


def test_no_targeting_key_selects_a_person(enabled, member, user):
    """A user is who logged in, whatever the context claims."""
    other = get_user_model().objects.create_user("eve")
    enabled.flags = {"hers": Flag(only_for={str(other.pk)})}

    for context in ({}, {"targetingKey": str(other.pk)}, {"targetingKey": "", "user_id": other.pk}):
        assert ask(member, "hers", **context).json()["value"] is False
    assert {call["distinct_id"] for call in enabled.flag_calls} == {str(user.pk)}


def test_a_visitor_stays_the_same(enabled, client):
    """A visitor without a name gets the cookie that the REST API gives, and is that person."""
    enabled.flags = {"flag": True}
    response = ask(client, targetingKey="somebody")
    assert "olposthog_id" in response.cookies

    assert ask(client, targetingKey="somebody else").status_code == 200
    visitor = client.get("/api/features/").json()["distinct_id"]
    assert [call["distinct_id"] for call in enabled.flag_calls] == [visitor]


# The client's context


def sent(enabled: Any) -> dict[str, Any]:
    properties: dict[str, Any] = enabled.flag_calls[-1]["person_properties"]
    return properties


def test_a_context_counts_for_nothing_by_default(enabled, client):
    """Unless a site names properties, none reaches PostHog, or costs a request of its own."""
    enabled.flags = {"flag": True}

    for plan in ("pro", "free", {"deep": [1]}):
        assert ask(client, plan=plan, targetingKey="x").status_code == 200

    assert len(enabled.flag_calls) == 1
    assert set(sent(enabled)) == {"user_id", "environment"}


def is_pro(body: dict[str, Any]) -> bool:
    return bool(body["person_properties"].get("plan") == "pro")


def test_named_properties_reach_the_evaluation(enabled, client, settings):
    """What the setting names goes along; the rest, and what is null, does not."""
    settings.POSTHOG_API_CONTEXT_PROPERTIES = ["plan", "seats", "beta", "gone"]
    enabled.flags = {
        "pro": Flag(only_for=lambda body: body["person_properties"].get("plan") == "pro")
    }

    pro = ask(client, "pro", plan="pro", seats=3, beta=True, gone=None, other="x", targetingKey="x")
    free = ask(client, "pro", plan="free")

    assert (pro.json()["value"], free.json()["value"]) == (True, False)
    first = enabled.flag_calls[0]["person_properties"]
    assert {name: first[name] for name in first if name not in {"user_id", "environment"}} == {
        "plan": "pro",
        "seats": 3,
        "beta": True,
    }
    assert sent(enabled)["plan"] == "free"


def identity(request):
    """What a site knows about its people."""
    from olposthog.identity import Identity

    return Identity("ada", person_properties={"plan": "free"}, groups={"company": "acme"})


def test_the_server_knows_better(enabled, client, settings):
    """A context adds to what the server says about the person, and overrides none of it."""
    settings.POSTHOG_API_CONTEXT_PROPERTIES = ["plan", "locale"]
    settings.POSTHOG_API_IDENTITY = f"{__name__}.identity"
    enabled.flags = {"flag": True}

    assert ask(client, plan="pro", locale="de").status_code == 200

    assert sent(enabled) == {
        "environment": "tests",
        "user_id": "ada",
        "plan": "free",
        "locale": "de",
    }
    assert enabled.flag_calls[-1]["groups"] == {"company": "acme"}


@pytest.mark.parametrize(
    "value",
    [[], {}, ["pro"], {"a": 1}, "x" * 401, 2**53 + 1, -(2**53) - 1, 1e300, "a\0b", "\ud800"],
    ids=repr,
)
@pytest.mark.parametrize("key", [None, "flag"])
def test_a_property_that_cannot_be_used(enabled, client, settings, key, value):
    """Named properties are primitives of a bounded size; an error says which is not."""
    settings.POSTHOG_API_CONTEXT_PROPERTIES = ["plan"]
    enabled.flags = {"flag": True}

    response = ask(client, key, plan=value)

    assert response.status_code == 400
    assert response.json()["errorCode"] == "INVALID_CONTEXT"
    assert "'plan'" in response.json()["errorDetails"]
    assert response.json().get("key") == key
    assert enabled.requests == []


@pytest.mark.parametrize("value", ["x" * 400, "", 2**53, -(2**53), 0, 1.5, True, False, "ü"])
def test_a_property_that_just_can(enabled, client, settings, value):
    """The limits themselves are allowed."""
    settings.POSTHOG_API_CONTEXT_PROPERTIES = ["plan"]
    enabled.flags = {"flag": True}

    assert ask(client, plan=value).status_code == 200

    assert sent(enabled)["plan"] == value


# Nothing counts as exposed


def test_evaluating_reports_no_exposure(enabled, client):
    """Delivering flags is no exposure: experiments count who is shown them."""
    enabled.flags = {"flag": Variant("test")}

    ask(client)
    ask(client, "flag")

    assert enabled.events == []


# Outages


@pytest.mark.parametrize("fault", [Refuse(), Status(500), Quota()], ids=repr)
def test_an_outage_is_no_error(enabled, client, settings, fault):
    """PostHog's troubles never make a 5xx: the site's values answer."""
    settings.FEATURES = {"own": True}
    enabled.fault = fault

    assert by_key(ask(client))["own"]["value"] is True
    assert ask(client, "own").status_code == 200
    assert ask(client, "other").status_code == 404
