"""The admin's pages of a person's flags, as an operator uses them."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.admin.utils import quote
from django.contrib.auth import get_user_model
from django.contrib.auth.admin import UserAdmin
from django.contrib.auth.models import Permission
from django.contrib.contenttypes.models import ContentType
from django.core.cache import caches
from django.core.management import call_command
from django.test import Client, override_settings
from django.urls import path

from olposthog._core import engine
from olposthog.contrib.admin.admin import CLEARED, UNCONFIRMED, PersonAdmin
from olposthog.contrib.admin.models import Person
from olposthog.features import evaluate
from olposthog.identity import Identity, default_identity
from olposthog.undecided import FIXES, UndecidedReason
from tests.posthog_faults import Hang, Refuse
from tests.posthog_server import Flag, Variant
from tests.site.processes import Site
from tests.test_definitions import flag, where
from tests.test_exposures import delivered
from tests.test_polling import Moody
from tests.undecidable import COHORT, CONTINUOUS, REASONS, SOUND

backstage = admin.AdminSite(name="backstage")
backstage.register(Person, PersonAdmin)

urlpatterns = [path("admin/", admin.site.urls), path("backstage/", backstage.urls)]
pytestmark = [pytest.mark.urls(__name__), pytest.mark.django_db]

PEOPLE = "/admin/olposthog_admin/person/"
ODD_IDS = [
    "a/b",
    "a_2Fb",
    '"quoted" & <b>bold</b>',
    "Jürgen 雪 🫖",
    "add",
    "x/clear",
    "x/change/",
    "50%",
    "line\nbreak",
    " spaced ",
    "?user=1#top",
    "long-" * 400,
]


def operator_with(*permissions: str) -> Client:
    """Somebody of the staff with these permissions, at a browser."""
    user = get_user_model().objects.create_user("operator", is_staff=True)
    for name in permissions:
        app, _, codename = name.partition(".")
        user.user_permissions.add(
            Permission.objects.get(content_type__app_label=app, codename=codename)
        )
    client = Client()
    client.force_login(user)
    return client


VIEW = "olposthog_admin.view_person"
CLEAR = "olposthog_admin.clear_flags"
VIEW_USERS = "auth.view_user"


@pytest.fixture
def operator(db) -> Client:
    """Whoever may do all that there is to do."""
    return operator_with(VIEW, CLEAR, VIEW_USERS)


@pytest.fixture
def ada(db):
    return get_user_model().objects.create_user("ada", email="ada@example.com")


def with_email(request: Any) -> Identity:
    identity = default_identity(request)
    return replace(identity, person_properties={"email": request.user.email})


def needs_a_header(request: Any) -> Identity:
    return Identity(request.headers["X-Tenant"])


def with_tenant(request: Any) -> Identity:
    return Identity(f"tenant/{request.user.get_username()}")


def page_of(distinct_id: str, page: str = "change") -> str:
    return f"{PEOPLE}{quote(distinct_id)}/{page}/"


def rows(response: Any) -> dict[str, list[str]]:
    """The tables' rows by their first cells."""
    assert response.status_code == 200, response
    cells = (
        [
            " ".join(html.unescape(re.sub(r"<[^>]+>", " ", cell)).split())
            for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)
        ]
        for row in re.findall(r"<tr>(.*?)</tr>", response.text, re.DOTALL)
    )
    return {first: rest for first, *rest in cells}


def links(response: Any) -> dict[str, str]:
    """Where the search leads, by what the links say."""
    table = response.text.partition('id="result_list"')[2].partition("</table>")[0]
    return {
        html.unescape(text): html.unescape(target)
        for target, text in re.findall(r'<a href="([^"]+)">([^<]*)</a>', table)
    }


def messages(response: Any) -> list[str]:
    return [str(message) for message in response.context["messages"]]


# ---- the person's page


def test_person_page_shows_flags(enabled, settings, operator):
    """Key, value, payload, source, reason and who gets it; and where the answer is from."""
    settings.FEATURES = {"only-features": True}
    settings.POSTHOG_API_FLAGS = ["checkout", "for-browsers"]
    enabled.flags = {
        "checkout": Variant("test", payload={"colour": "green"}),
        "off": False,
        "for-servers": Flag(runtime="server"),
        "for-browsers": Flag(runtime="client"),
    }

    shown = rows(operator.get(page_of("u1")))

    both, server = "Python and browsers", "Python"
    assert shown["checkout"] == ["test", '{"colour": "green"}', "posthog", "Condition match", both]
    assert shown["off"] == ["off", "-", "posthog", "No condition match", server]
    assert shown["for-servers"] == ["on", "-", "posthog", "Condition match", server]
    assert shown["for-browsers"] == ["on", "-", "posthog", "Condition match", "browsers"]
    assert shown["only-features"] == ["on", "-", "fallback", "-", server]
    assert shown["Source"] == ["posthog"]
    assert re.search(r"the answer took \d+\.\d ms$", shown["Evaluated"][0])
    assert shown["Health"] == ["ok"]
    assert shown["Circuit"] == ["closed"]
    assert shown["Shared cache"] == ["'durable' answers"]


def test_undecided_flags_say_why(enabled, settings, operator, tmp_path):
    """A flag that a definitions file cannot decide has a row, with reason and fix, escaped."""
    file = tmp_path / "flags.json"
    odd = flag("<b>odd</b>", where({**COHORT, "value": "<i>12</i>"}))
    file.write_text(json.dumps({"flags": [SOUND, CONTINUOUS, odd]}))
    settings.POSTHOG_FLAG_DEFINITIONS_FILE = file
    settings.FEATURES = {"continuous": "classic"}

    response = operator.get(page_of("u1"))
    shown = rows(response)

    fix = FIXES[UndecidedReason.EXPERIENCE_CONTINUITY]
    reason = f"Undecided locally: {REASONS['continuous']}. {fix}"
    both = "Python and browsers"
    assert shown["Source"][0].startswith("fallback: flags that nobody decided have their value")
    assert shown["sound"] == ["on", "-", "local", "Evaluated locally", both]
    assert shown["continuous"] == ["classic", "-", "fallback", reason, both]
    assert shown["<b>odd</b>"][:3] == ["-", "-", "fallback"]
    assert "the cohort <i>12</i>" in shown["<b>odd</b>"][3]
    assert "<b>odd" not in response.text
    assert "<i>12" not in response.text


def test_reason_of_posthog_stands_above_the_local_one(enabled, settings, operator):
    """Where PostHog decided what the definitions could not, the page has both reasons."""
    settings.POSTHOG_PERSONAL_API_KEY = enabled.secret
    enabled.definitions = {"flags": [CONTINUOUS]}
    enabled.flags = {"continuous": True}
    poll = engine.current().poller
    assert poll
    poll.look()

    value, _, source, reason, _ = rows(operator.get(page_of("u1")))["continuous"]

    assert (value, source) == ("on", "posthog")
    assert reason.startswith(f"Condition match Undecided locally: {REASONS['continuous']}. ")


def test_looking_is_no_exposure(enabled, operator):
    """An operator who looks is counted in no experiment."""
    enabled.flags = {"checkout": Variant("test")}

    operator.get(page_of("u1"))

    assert delivered(enabled) == []


def test_user_is_evaluated_with_his_properties(enabled, settings, operator, ada):
    """Whoever is found as a user gets the flags that depend on what the site knows of users."""
    settings.POSTHOG_API_IDENTITY = f"{__name__}.with_email"
    enabled.flags = {
        "hers": Flag(only_for=lambda body: body["person_properties"].get("email") == ada.email)
    }

    by_key = rows(operator.get(page_of(str(ada.pk)), {"user": ada.pk}))
    by_id = rows(operator.get(page_of(str(ada.pk))))
    stranger = rows(operator.get(page_of("stranger")))

    assert by_key["hers"][0] == by_id["hers"][0] == "on"
    assert by_key["Evaluated for"][0].startswith("the user ada")
    assert stranger["hers"][0] == "off"
    assert stranger["Evaluated for"][0].startswith("the distinct id alone")


def test_identity_of_the_site_leads_to_the_user(enabled, settings, operator, ada):
    """Where a distinct id is no primary key, the link from the search still knows the user."""
    settings.POSTHOG_API_IDENTITY = f"{__name__}.with_tenant"

    url = links(operator.get(PEOPLE, {"q": "ada"}))["ada"]
    shown = rows(operator.get(url))

    assert url == f"{page_of('tenant/ada')}?user={ada.pk}"
    assert shown["Evaluated for"][0].startswith("the user ada")
    assert {call["distinct_id"] for call in enabled.flag_calls} == {"tenant/ada"}


@pytest.mark.parametrize("key", ["{other}", "nobody", "", "99999999999999999999999", "\0"])
def test_a_user_with_another_id_is_not_taken(enabled, operator, ada, key):
    """A `user` that is not this person changes nothing: the id in the address counts."""
    key = key.format(other=ada.pk)

    shown = rows(operator.get(page_of("somebody"), {"user": key}))

    assert shown["Evaluated for"][0].startswith("the distinct id alone")
    assert {call["distinct_id"] for call in enabled.flag_calls} == {"somebody"}


@pytest.mark.parametrize("identity", ["with_email", "needs_a_header"])
def test_operator_who_may_not_view_users_sees_no_name(enabled, settings, ada, identity):
    """They are the flags of the distinct id alone, and that it is a user's is not told."""
    settings.POSTHOG_API_IDENTITY = f"{__name__}.{identity}"
    operator = operator_with(VIEW)

    for query in ({}, {"user": ada.pk}):
        response = operator.get(page_of(str(ada.pk)), query)

        assert rows(response)["Evaluated for"][0].startswith("the distinct id alone")
        assert "ada" not in response.text
        assert "POSTHOG_API_IDENTITY" not in response.text
    assert all("email" not in call["person_properties"] for call in enabled.flag_calls)


def test_identity_that_needs_a_request_is_told(enabled, settings, operator, ada):
    """Where the site cannot say who a bare user is, the page says why, and shows the id's flags."""
    settings.POSTHOG_API_IDENTITY = f"{__name__}.needs_a_header"
    enabled.flags = {"on": True}

    search = operator.get(PEOPLE, {"q": "ada"})
    person = operator.get(page_of(str(ada.pk)))

    assert "POSTHOG_API_IDENTITY cannot say who ada is" in search.text
    assert "ada" not in links(search)
    assert "POSTHOG_API_IDENTITY cannot say who ada is" in person.text
    assert rows(person)["on"][0] == "on"


@pytest.mark.parametrize("distinct_id", ODD_IDS)
def test_any_id_is_a_person(enabled, operator, distinct_id):
    """Whatever text an id is, the search leads to its page, and its flags can be cleared."""
    term = {"q": distinct_id}
    url = links(operator.get(PEOPLE, term))["Whoever has this distinct id"]

    response = operator.get(url)
    calls = len(enabled.flag_calls)
    cleared = operator.post(f"{url.removesuffix('change/')}clear/", follow=True)

    assert len(enabled.flag_calls) == 2 * calls
    assert response.context["original"] == Person(distinct_id)
    assert {call["distinct_id"] for call in enabled.flag_calls} == {distinct_id[:200]}
    assert cleared.redirect_chain == [(url, 302)]
    assert LogEntry.objects.get().object_id == distinct_id
    assert CLEARED in operator.get(f"{url.removesuffix('change/')}history/").text


def test_everything_is_escaped(enabled, operator):
    """Ids, keys, variants and payloads are text, whatever is in them."""
    enabled.flags = {"<i>key</i>": Variant("<u>v</u>", payload={"<s>": "</code><script>"})}
    get_user_model().objects.create_user("<em>eve</em>")

    for response in (
        operator.get(page_of("<b>me</b>")),
        operator.get(PEOPLE, {"q": "<em>"}),
        operator.get(PEOPLE, {"q": '"><b>'}),
    ):
        assert response.status_code == 200
        content = response.text.partition('<div id="content')[2]
        assert not re.search(r"<(i|u|s|b|em)>|</code><script>", content)
    assert "&lt;em&gt;eve&lt;/em&gt;" in operator.get(PEOPLE, {"q": "<em>"}).text


@pytest.mark.parametrize("distinct_id", ["\0", "a\0b"])
def test_no_person_has_a_nul(enabled, operator, distinct_id):
    """What no database can hold is nobody's id: there is no such page."""
    assert operator.get(page_of(distinct_id).replace("\0", "%00")).status_code == 404
    assert operator.get(PEOPLE, {"q": distinct_id}).status_code == 200
    assert enabled.flag_calls == []


# ---- in an outage


def test_outage_shows_fallback_values(enabled, settings, operator):
    """PostHog is gone: the page shows FEATURES, says so, and since when the circuit is open."""
    settings.POSTHOG_CIRCUIT_BREAKER_FAILURE_THRESHOLD = 1
    settings.POSTHOG_MAX_RETRIES = 0
    settings.FEATURES = {"checkout": "classic"}
    enabled.fault = Refuse()

    shown = rows(operator.get(page_of("u1")))

    assert shown["checkout"][:3] == ["classic", "-", "fallback"]
    assert shown["Source"][0] == (
        "fallback: flags that nobody decided have their value from settings.FEATURES, else the "
        "caller's default"
    )
    assert shown["Circuit"][0].startswith("open since ")
    assert shown["Health"][0].startswith("degraded: the circuit is open since ")


def test_posthog_that_hangs_holds_the_page_once(enabled, settings, operator):
    """A hang is waited for up to the bound, once; then the page is there, with fallback values."""
    settings.POSTHOG_CIRCUIT_BREAKER_TRIP_THRESHOLD_SECONDS = 1
    enabled.fault = Hang()

    shown = rows(operator.get(page_of("u1")))

    assert shown["Source"][0].startswith("fallback")
    assert len(enabled.flag_calls) == 1


def test_stale_values_say_so(enabled, settings, operator):
    """Last known values are called that."""
    briefly = {**settings.CACHES["durable"], "TIMEOUT": 0.001}
    settings.CACHES = {**settings.CACHES, "durable": briefly}
    settings.POSTHOG_STALE_IF_ERROR_SECONDS = 1000
    settings.POSTHOG_LOCAL_CACHE_SECONDS = 0
    settings.POSTHOG_MAX_RETRIES = 0
    enabled.flags = {"checkout": Variant("test")}
    operator.get(page_of("u1"))
    enabled.fault = Refuse()

    shown = rows(operator.get(page_of("u1")))

    assert shown["Source"] == ["stale: the last known values, because PostHog cannot be asked"]
    assert shown["checkout"][0] == "test"


def test_disabled_site_says_so(settings, operator):
    """With POSTHOG_ENABLED off, the page shows FEATURES and why."""
    settings.POSTHOG_ENABLED = False
    settings.FEATURES = {"checkout": "classic"}

    shown = rows(operator.get(page_of("u1")))

    assert shown["Source"] == ["disabled: settings.FEATURES, because POSTHOG_ENABLED is off"]
    assert shown["checkout"][:3] == ["classic", "-", "disabled"]
    assert shown["Health"] == ["disabled"]
    assert shown["Circuit"] == ["none: PostHog is not asked"]
    assert shown["Shared cache"] == ["none is used"]


@pytest.mark.parametrize(
    "change", [{"POSTHOG_ENABLED": False}, {"POSTHOG_MAX_RETRIES": -1}], ids=str
)
def test_nothing_is_cached_where_posthog_is_not_asked(enabled, settings, operator, change):
    """Where FEATURES alone answers there is nothing to clear, and so no button."""
    assert "/clear/" in operator.get(page_of("u1")).text
    for name, value in change.items():
        setattr(settings, name, value)

    assert "/clear/" not in operator.get(page_of("u1")).text


# ---- the search


def test_search_finds_users_and_ids(enabled, operator, ada):
    """Whatever the admin of users searches finds users; the text itself may be a distinct id."""
    found = operator.get(PEOPLE, {"q": "ada@example"})

    assert links(found) == {
        "ada": f"{page_of(str(ada.pk))}?user={ada.pk}",
        "Whoever has this distinct id": page_of("ada@example"),
    }
    assert "Distinct ids alone" not in found.text
    assert enabled.flag_calls == []


@pytest.mark.parametrize("term", ["", "   "])
def test_search_for_nothing_finds_nothing(operator, ada, term):
    """Without a word to look for, the page lists nobody."""
    assert "ada" not in operator.get(PEOPLE, {"q": term}).text


def test_search_shows_twenty_users_and_says_that_there_are_more(operator):
    """A search for half the world shows some, and asks for more words."""
    users = get_user_model().objects
    users.bulk_create(users.model(username=f"tea-{number:02}") for number in range(20))
    exactly = operator.get(PEOPLE, {"q": "tea"})
    users.create_user("tea-20")

    more = operator.get(PEOPLE, {"q": "tea"})

    assert len(links(exactly)) == len(links(more)) == 21  # and the distinct id itself
    assert "first 20 users" not in exactly.text
    assert "first 20 users" in more.text


def test_operator_who_may_not_view_users_finds_none(enabled, ada):
    """Only distinct ids can be looked up by somebody who may not see users."""
    found = operator_with(VIEW).get(PEOPLE, {"q": "ada"})

    assert list(links(found)) == ["Whoever has this distinct id"]
    assert "Distinct ids alone" in found.text


def test_users_without_search_are_not_listed(enabled, operator, ada, monkeypatch):
    """An admin of users that searches no field would find everybody, and so finds nobody."""
    monkeypatch.setattr(UserAdmin, "search_fields", ())

    found = operator.get(PEOPLE, {"q": "x"})

    assert list(links(found)) == ["Whoever has this distinct id"]
    assert "Distinct ids alone" in found.text


# ---- clearing


def test_clearing_forgets_and_is_logged(enabled, operator):
    """The button makes the next question go to PostHog, and the log names operator and person."""
    enabled.flags = {"checkout": Variant("old")}
    evaluate("u1")
    enabled.flags = {"checkout": Variant("new")}
    assert evaluate("u1").flags["checkout"] == "old"

    response = operator.post(page_of("u1", "clear"), follow=True)

    assert response.redirect_chain == [(page_of("u1"), 302)]
    assert messages(response)[0].startswith(CLEARED)
    assert rows(response)["checkout"][0] == "new"
    entry = LogEntry.objects.get()
    assert (entry.user.get_username(), entry.object_id) == ("operator", "u1")
    assert entry.get_change_message() == CLEARED
    assert entry.is_change()
    assert entry.get_admin_url() == page_of("u1")


def test_clearing_reaches_other_processes(enabled, operator, another_process):
    """What the shared cache had of the person is no longer taken from it."""
    evaluate("u1")
    operator.post(page_of("u1", "clear"))
    another_process()

    evaluate("u1")

    assert len(enabled.flag_calls) == 2


def test_clearing_keeps_the_user_in_sight(enabled, operator, ada):
    """Who was found as a user is one after clearing, too."""
    page = operator.get(page_of(str(ada.pk)), {"user": ada.pk})
    action = re.search(r'<form method="post" action="([^"]+/clear/[^"]*)"', page.text)
    assert action

    response = operator.post(html.unescape(action[1]))

    assert response["Location"] == f"{page_of(str(ada.pk))}?user={ada.pk}"


def test_history_shows_who_cleared(enabled, operator):
    """The admin's own history page of the person lists it."""
    operator.post(page_of("u1", "clear"))

    history = operator.get(page_of("u1", "history"))
    index = operator.get("/admin/")

    assert history.status_code == 200
    assert CLEARED in history.text
    assert "operator" in history.text
    assert page_of("u1", "history") in operator.get(page_of("u1")).text
    assert page_of("u1") in index.text


@pytest.fixture
def _dead_cache(settings) -> Iterator[None]:
    settings.CACHES = {
        **settings.CACHES,
        "durable": {"BACKEND": "tests.test_polling.Moody", "LOCATION": "moody"},
    }
    Moody.refuses = True
    yield
    Moody.refuses = False
    caches["durable"].clear()


@pytest.mark.usefixtures("_dead_cache")
def test_unconfirmed_clearing_is_a_warning(enabled, operator):
    """A shared cache that is away cannot forget: the operator is told, and so is the log."""
    response = operator.post(page_of("u1", "clear"), follow=True)

    (message,) = response.context["messages"]
    assert message.level_tag == "warning"
    assert str(message).startswith(UNCONFIRMED)
    assert LogEntry.objects.get().get_change_message() == UNCONFIRMED


def clear_under_atomic_requests() -> dict[str, Any]:
    """In a process of its own: what becomes of a post to the button."""
    call_command("migrate", verbosity=0)
    call_command("createcachetable", verbosity=0)
    client = Client()
    client.force_login(get_user_model().objects.create_superuser("root"))
    response = client.post(page_of("u1", "clear"))
    return {
        "status": response.status_code,
        "log": [entry.get_change_message() for entry in LogEntry.objects.all()],
    }


def test_clearing_under_atomic_requests(enabled, tmp_path):
    """With one SQLite file for data and cache, no transaction of the request is in the way."""
    site = Site(tmp_path, atomic_requests=True)
    site.use(enabled)
    site.settings["ROOT_URLCONF"] = __name__

    found = site.run(clear_under_atomic_requests)

    assert found == {"status": 302, "log": [CLEARED]}


def test_clearing_needs_its_permission(enabled):
    """Whoever may only look is refused, sees no button, and nothing is logged."""
    operator = operator_with(VIEW, VIEW_USERS)
    evaluate("u1")

    assert "/clear/" not in operator.get(page_of("u1")).text
    assert operator.post(page_of("u1", "clear")).status_code == 403
    assert not LogEntry.objects.exists()
    evaluate("u1")
    assert [call["distinct_id"] for call in enabled.flag_calls].count("u1") == 2  # one per runtime


def test_clearing_takes_a_post(enabled, operator):
    """Following a link clears nothing."""
    assert operator.get(page_of("u1", "clear")).status_code == 405
    assert not LogEntry.objects.exists()


def test_clearing_takes_the_token_of_the_page(enabled, operator):
    """A form of another site clears nothing."""
    strict = Client(enforce_csrf_checks=True)
    strict.cookies = operator.cookies
    page = strict.get(page_of("u1"))

    assert strict.post(page_of("u1", "clear")).status_code == 403
    form = page.text.partition('/clear/">')[2]
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', form)
    assert token
    granted = strict.post(page_of("u1", "clear"), {"csrfmiddlewaretoken": token[1]})
    assert granted.status_code == 302


# ---- who may do what


@pytest.mark.parametrize("url", [PEOPLE, page_of("u1"), page_of("u1", "history")])
def test_looking_needs_its_permission(enabled, url):
    """Staff without the permission sees no flags."""
    assert operator_with(VIEW_USERS).get(url).status_code == 403
    assert enabled.flag_calls == []


@pytest.mark.parametrize("url", [PEOPLE, page_of("u1"), page_of("u1", "clear")])
def test_others_are_sent_to_the_login(enabled, client, db, url):
    """Who is not of the staff gets no further than the log-in."""
    assert client.post(url)["Location"].startswith("/admin/login/")
    assert client.get(url)["Location"].startswith("/admin/login/")


def test_nothing_can_be_added_changed_or_deleted(enabled, db):
    """Not even a superuser changes a person here."""
    client = Client()
    client.force_login(get_user_model().objects.create_superuser("root"))

    assert client.get(f"{PEOPLE}add/").status_code == 403
    assert client.post(f"{PEOPLE}add/", {"distinct_id": "u1"}).status_code == 403
    assert client.post(page_of("u1"), {"distinct_id": "u2"}).status_code == 405
    assert client.post(PEOPLE, {"action": "delete_selected"}).status_code == 405
    assert client.get(page_of("u1", "delete")).status_code == 403


def test_another_admin_site_can_have_the_pages(enabled, operator):
    """Links and redirects stay on the site that the page is on; there, users have no admin."""
    people = PEOPLE.replace("/admin/", "/backstage/", 1)

    (url,) = links(operator.get(people, {"q": "u1"})).values()
    person = operator.get(url)
    cleared = operator.post(f"{people}u1/clear/")

    assert url == f"{people}u1/change/"
    assert f'action="{people}u1/clear/"' in person.text
    assert cleared["Location"] == url


def test_admin_lists_the_page(operator):
    """The admin's index leads to the search."""
    index = operator.get("/admin/")

    assert "PostHog feature flags" in index.text
    assert f'href="{PEOPLE}"' in index.text


# ---- the app


def test_migrations_are_complete():
    """A site that adds the app has nothing to migrate that the app does not bring along."""
    call_command("makemigrations", "olposthog_admin", check=True, dry_run=True, verbosity=0)


@override_settings(DEFAULT_AUTO_FIELD="django.db.models.UUIDField")
def test_migrations_are_complete_whatever_the_sites_keys():
    """Also where the site's models have other keys by default."""
    call_command("makemigrations", "olposthog_admin", check=True, dry_run=True, verbosity=0)


def test_site_can_be_dumped(db, capsys):
    """There is no table of people, and whoever dumps all tables does without it."""
    call_command("dumpdata", "auth.permission", "olposthog_admin", all=True)
    call_command("dumpdata", "olposthog_admin")

    assert "olposthog_admin.person" not in capsys.readouterr().out


def test_no_person_is_anywhere_else_on_the_site(operator):
    """The admin's link to an object's own page finds none of a person."""
    type_ = ContentType.objects.get_for_model(Person)

    assert operator.get(f"/admin/r/{type_.pk}/7/").status_code == 404


def test_permissions_are_two():
    """There is what can be granted, and nothing that cannot be done."""
    names = Permission.objects.filter(content_type__app_label="olposthog_admin")

    assert set(names.values_list("codename", flat=True)) == {"view_person", "clear_flags"}


def test_checks_are_silent():
    """Django finds nothing wrong with the app."""
    call_command("check", "olposthog_admin", fail_level="DEBUG")
