"""What an operator sees of a person's flags: both runtimes, and where each value came from."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.base_user import AbstractBaseUser
from django.http import HttpRequest
from pytest_django import Settings

from olposthog._core import engine
from olposthog.features import evaluate
from olposthog.identity import Identity
from olposthog.inspection import InspectedFlag, identity_of, inspect
from olposthog.snapshot import Source
from olposthog.testing import override_flags
from olposthog.undecided import UndecidedReason
from tests.posthog_faults import Refuse, Status
from tests.posthog_server import Flag, PostHogServer, Variant
from tests.test_definitions import flag, where
from tests.test_exposures import delivered
from tests.undecidable import CONTINUOUS, DEFINITIONS, PLAN, REASONS, SOUND, STATIC

ADA = Identity("42")


def rows(identity: Identity = ADA) -> dict[str, InspectedFlag]:
    return {one.key: one for one in inspect(identity).flags}


def of_header(request: HttpRequest) -> Identity:
    """An identity that only a real request has."""
    return Identity(request.headers["X-Tenant"])


def of_email(request: HttpRequest) -> Identity:
    return Identity(f"{request.user.pk}@{request.method}", {"plan": "pro"})


@pytest.fixture
def user(db: None) -> AbstractBaseUser:
    return get_user_model().objects.create_user("ada")


# The rows


def test_row_has_all_that_posthog_said(enabled: PostHogServer) -> None:
    """A flag's row shows value, payload and PostHog's reason in words."""
    enabled.flags = {"checkout": Variant("test", payload={"colour": "green"})}

    assert inspect(ADA).flags == (
        InspectedFlag(
            key="checkout",
            value="test",
            payload={"colour": "green"},
            reason="Condition match",
            source=Source.POSTHOG,
            undecided=None,
            server=True,
            browsers=True,
        ),
    )


def test_inspection_says_whose_when_and_how_long(enabled: PostHogServer) -> None:
    """The whole names the person and the source, and is as new as its evaluation."""
    before = datetime.now(UTC) - timedelta(seconds=1)
    found = inspect(ADA)

    assert (found.distinct_id, found.source) == ("42", Source.POSTHOG)
    assert before < found.evaluated_at <= datetime.now(UTC) + timedelta(seconds=1)
    assert found.seconds > 0


def test_rows_are_sorted_and_without_posthogs_own(enabled: PostHogServer) -> None:
    """Flags come by key; those of surveys and product tours are nobody's business."""
    enabled.flags = {"b": True, "survey-targeting-1": True, "a": False}

    assert [one.key for one in inspect(ADA).flags] == ["a", "b"]


def test_row_says_who_gets_a_flag(enabled: PostHogServer, settings: Settings) -> None:
    """PostHog keeps a flag from one runtime; POSTHOG_API_FLAGS keeps one from browsers."""
    settings.POSTHOG_API_FLAGS = ["web-*"]
    enabled.flags = {
        "web-both": True,
        "web-client": Flag(True, runtime="client"),
        "web-server": Flag(True, runtime="server"),
        "hidden": True,
        "hidden-client": Flag(True, runtime="client"),
    }

    assert {key: (one.server, one.browsers) for key, one in rows().items()} == {
        "web-both": (True, True),
        "web-client": (False, True),
        "web-server": (True, False),
        "hidden": (True, False),
        "hidden-client": (False, False),
    }


def test_two_rows_where_browsers_get_another_value(
    enabled: PostHogServer, settings: Settings
) -> None:
    """What is for browsers only, and has a fallback, shows both values that somebody gets."""
    settings.FEATURES = {"banner": True}
    enabled.flags = {"banner": Flag("red", runtime="client")}

    for_server, for_browsers = inspect(ADA).flags
    assert (for_server.value, for_server.source) == (True, Source.FALLBACK)
    assert (for_server.server, for_server.browsers) == (True, False)
    assert (for_browsers.value, for_browsers.source) == ("red", Source.POSTHOG)
    assert (for_browsers.server, for_browsers.browsers) == (False, True)


def test_two_rows_where_browsers_get_another_payload(
    enabled: PostHogServer, settings: Settings
) -> None:
    """The same value with another payload is another answer."""
    settings.FEATURES = {"banner": True}
    enabled.flags = {"banner": Flag(True, payload="red", runtime="client")}

    assert [one.payload for one in inspect(ADA).flags] == [None, "red"]


def test_one_row_where_browsers_may_not_see_the_other_value(
    enabled: PostHogServer, settings: Settings
) -> None:
    """A value that POSTHOG_API_FLAGS hides is nobody's."""
    settings.FEATURES = {"banner": True}
    settings.POSTHOG_API_FLAGS = []
    enabled.flags = {"banner": Flag("red", runtime="client")}

    (row,) = inspect(ADA).flags
    assert (row.value, row.server, row.browsers) == (True, True, False)


# Where values come from


def test_flag_that_posthog_lacks_is_a_fallback(enabled: PostHogServer, settings: Settings) -> None:
    """Each value has a source of its own: FEATURES answers for what PostHog does not know."""
    settings.FEATURES = {"old": True, "new": False}
    enabled.flags = {"new": True}

    found = rows()
    assert (found["new"].value, found["new"].source) == (True, Source.POSTHOG)
    assert (found["old"].value, found["old"].source) == (True, Source.FALLBACK)
    assert (found["old"].reason, found["old"].payload) == ("", None)


def test_outage_shows_fallbacks(enabled: PostHogServer, settings: Settings) -> None:
    """While PostHog cannot be asked, the inspection and its rows say so."""
    settings.FEATURES = {"old": "variant"}
    enabled.fault = Status(500)

    found = inspect(ADA)
    assert found.source is Source.FALLBACK
    assert [(one.value, one.source) for one in found.flags] == [("variant", Source.FALLBACK)]


def test_less_good_answer_of_the_two_is_told(enabled: PostHogServer) -> None:
    """Where only Python code's answer is at hand, flags are not as they should be."""
    enabled.flags = {"beta": True}
    evaluate("42")
    enabled.fault = Refuse()
    found = inspect(ADA)

    assert found.source is Source.FALLBACK
    (row,) = found.flags
    assert (row.source, row.server, row.browsers) == (Source.POSTHOG, True, False)


def test_disabled_flags_say_so(settings: Settings, posthog: PostHogServer) -> None:
    """Without POSTHOG_ENABLED the source is that, and nobody is asked."""
    settings.FEATURES = {"old": True}

    found = inspect(ADA)
    assert found.source is Source.DISABLED
    assert [one.source for one in found.flags] == [Source.DISABLED]
    assert posthog.requests == []


def test_what_definitions_decide_is_local(settings: Settings, tmp_path: Path) -> None:
    """A flag out of a definitions file has the source of local evaluation."""
    file = tmp_path / "flags.json"
    file.write_text(json.dumps({"flags": [flag("beta"), flag("srv", evaluation_runtime="server")]}))
    settings.POSTHOG_ENABLED = True
    settings.POSTHOG_FLAG_DEFINITIONS_FILE = str(file)
    settings.FEATURES = {"old": True}

    found = rows()
    assert {key: one.source for key, one in found.items()} == {
        "beta": Source.LOCAL,
        "srv": Source.LOCAL,
        "old": Source.FALLBACK,
    }
    assert found["beta"].reason == "Evaluated locally"
    assert (found["srv"].server, found["srv"].browsers) == (True, False)


def test_what_definitions_decide_stays_local_in_an_outage(
    enabled: PostHogServer, settings: Settings
) -> None:
    """Where PostHog would have to decide the other flags and cannot, these are no fallbacks."""
    settings.POSTHOG_PERSONAL_API_KEY = enabled.secret
    settings.FEATURES = {"undecided": True}
    enabled.definitions = {"flags": [flag("beta"), flag("undecided", where(PLAN))]}
    enabled.flags_fault = Status(500)
    poll = engine.current().poller
    assert poll
    poll.look()

    found = inspect(ADA)
    assert found.source is Source.FALLBACK
    assert {one.key: one.source for one in found.flags} == {
        "beta": Source.LOCAL,
        "undecided": Source.FALLBACK,
    }


# What nobody decided


@pytest.fixture
def definitions_file(settings: Settings, tmp_path: Path) -> Path:
    """The definitions file of a site without any network."""
    file = tmp_path / "flags.json"
    file.write_text(json.dumps(DEFINITIONS))
    settings.POSTHOG_ENABLED = True
    settings.POSTHOG_FLAG_DEFINITIONS_FILE = str(file)
    return file


def test_every_defined_flag_has_a_row(definitions_file: Path, settings: Settings) -> None:
    """What a file cannot decide has the value of FEATURES, or none, as a fallback with reasons."""
    settings.FEATURES = {"static": "classic", "old": True}

    found = rows()
    assert {key: (one.value, one.source) for key, one in found.items()} == {
        "by-plan": (None, Source.FALLBACK),
        "continuous": (None, Source.FALLBACK),
        "malformed": (None, Source.FALLBACK),
        "old": (True, Source.FALLBACK),
        "sound": (True, Source.LOCAL),
        "static": ("classic", Source.FALLBACK),
    }
    undecided = {key: str(one.undecided) for key, one in found.items() if one.undecided}
    assert {key: undecided[key] for key in REASONS} == REASONS
    assert undecided.keys() - REASONS.keys() == {"by-plan"}


@pytest.mark.parametrize(
    ("flags", "source"),
    [
        ([SOUND], Source.LOCAL),
        ([SOUND, CONTINUOUS], Source.FALLBACK),
        ([SOUND, {**CONTINUOUS, "key": "survey-targeting-1"}], Source.LOCAL),
        ([{**CONTINUOUS, "evaluation_runtime": "client"}], Source.FALLBACK),
    ],
    ids=["all decided", "one undecided", "one of PostHog's own", "one in browsers"],
)
def test_inspection_is_local_if_definitions_decide_all(
    definitions_file: Path, flags: list[object], source: Source
) -> None:
    """The source is `local` only while each flag that the person gets is decided."""
    definitions_file.write_text(json.dumps({"flags": flags}))

    assert inspect(ADA).source is source


def test_property_of_the_person_decides(definitions_file: Path) -> None:
    """A flag may be undecided for one person, and decided for another."""
    unknown = rows(Identity("42"))["by-plan"]
    assert unknown.undecided
    assert unknown.undecided.reason is UndecidedReason.MISSING_PROPERTY

    known = rows(Identity("42", {"plan": "pro"}))["by-plan"]
    assert (known.value, known.source, known.undecided) == (True, Source.LOCAL, None)


def test_posthog_decides_what_definitions_cannot(
    enabled: PostHogServer, settings: Settings
) -> None:
    """PostHog's value and reason stand next to why it was asked; what it lacks has no value."""
    settings.POSTHOG_PERSONAL_API_KEY = enabled.secret
    enabled.definitions = {"flags": [SOUND, CONTINUOUS, STATIC]}
    enabled.flags = {"continuous": "blue"}
    poll = engine.current().poller
    assert poll
    poll.look()

    found = inspect(ADA)
    assert found.source is Source.POSTHOG
    assert [(one.key, one.value, one.source, one.reason) for one in found.flags] == [
        ("continuous", "blue", Source.POSTHOG, "Condition match"),
        ("sound", True, Source.LOCAL, "Evaluated locally"),
        ("static", None, Source.FALLBACK, ""),
    ]
    assert [bool(one.undecided) for one in found.flags] == [True, False, True]


@pytest.mark.parametrize(("features", "value"), [({}, None), ({"failed": "classic"}, "classic")])
def test_flag_that_posthog_failed_to_compute_has_a_row(
    enabled: PostHogServer, settings: Settings, features: dict[str, str], value: str | None
) -> None:
    """Its value is that of FEATURES, or none, and the reason says what happened."""
    settings.FEATURES = features
    enabled.flags = {"failed": Flag(failed=True), "sound": True}

    row, _ = inspect(ADA).flags
    assert (row.key, row.value, row.source) == ("failed", value, Source.FALLBACK)
    assert (row.reason, row.undecided) == ("PostHog failed to compute it", None)
    assert (row.server, row.browsers) == (True, True)


@pytest.mark.parametrize("runtime", ["server", "client"])
def test_flag_without_a_value_has_its_runtime(definitions_file: Path, runtime: str) -> None:
    """Who gets a flag is up to its definition, also while nobody decides it."""
    definitions_file.write_text(
        json.dumps({"flags": [{**CONTINUOUS, "evaluation_runtime": runtime}]})
    )

    (row,) = inspect(ADA).flags
    assert (row.server, row.browsers) == (runtime == "server", runtime == "client")


def test_override_decides_what_definitions_cannot(definitions_file: Path) -> None:
    """In a test, a flag that is overridden is decided, though the definitions could not."""
    definitions_file.write_text(json.dumps({"flags": [CONTINUOUS]}))
    with override_flags({"continuous": True}):
        found = inspect(ADA)

    assert (found.source, found.flags[0].value) == (Source.LOCAL, True)


def test_looking_reads_no_flag_of_a_strict_test(definitions_file: Path) -> None:
    """Where every flag that is read must be mentioned, an inspection reads none."""
    with override_flags({"sound": False}, strict=True):
        found = rows()

    assert (found["sound"].value, found["static"].value) == (False, None)


# Other answers than PostHog's newest


def test_stale_values_say_so(
    enabled: PostHogServer, settings: Settings, another_process: object
) -> None:
    """Last known values are shown as such."""
    settings.CACHES = {
        **settings.CACHES,
        "durable": {**settings.CACHES["durable"], "TIMEOUT": 0},
    }
    settings.POSTHOG_LOCAL_CACHE_SECONDS = 0
    settings.POSTHOG_STALE_IF_ERROR_SECONDS = 3600
    enabled.flags = {"beta": True}
    inspect(ADA)
    enabled.fault = Refuse()

    assert (inspect(ADA).source, rows()["beta"].source) == (Source.STALE, Source.STALE)


def test_looking_is_no_exposure(enabled: PostHogServer) -> None:
    """Nobody counts in an experiment because an operator looked."""
    enabled.flags = {"checkout": Variant("test")}
    inspect(ADA)

    assert delivered(enabled) == []


def test_posthog_hears_all_that_is_known_of_the_person(enabled: PostHogServer) -> None:
    """Properties and groups go along, once in each runtime."""
    inspect(Identity("42", {"plan": "pro"}, {"company": "acme"}, {"company": {"size": 9}}))

    assert {call["evaluation_runtime"] for call in enabled.flag_calls} == {"server", "client"}
    for call in enabled.flag_calls:
        assert call["distinct_id"] == "42"
        assert call["person_properties"]["plan"] == "pro"
        assert call["group_properties"] == {"company": {"$group_key": "acme", "size": 9}}


# Users


def test_user_is_who_a_request_of_theirs_would_be(user: AbstractBaseUser) -> None:
    """By default a user's distinct id is the primary key."""
    assert identity_of(user) == Identity(str(user.pk))


def test_sites_own_identity_is_asked(user: AbstractBaseUser, settings: Settings) -> None:
    """POSTHOG_API_IDENTITY sees a request with that user."""
    settings.POSTHOG_API_IDENTITY = f"{__name__}.of_email"

    assert identity_of(user) == Identity(f"{user.pk}@GET", {"plan": "pro"})


def test_identity_that_needs_a_real_request_says_so(
    user: AbstractBaseUser, settings: Settings
) -> None:
    """The error names the setting, the user and the way out."""
    settings.POSTHOG_API_IDENTITY = f"{__name__}.of_header"

    with pytest.raises(LookupError, match=r"POSTHOG_API_IDENTITY.*ada.*by distinct id"):
        identity_of(user)
