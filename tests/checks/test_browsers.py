"""What browsers see, and as whom they are taken."""

import pytest
from django.contrib.auth.middleware import RemoteUserMiddleware
from django.core.checks import run_checks

from olposthog._http.page_caching import PAGE_CACHES
from olposthog.checks import browsers, ids
from tests.checks.project import ENABLED, Project, found, found_ids, warning


@pytest.mark.parametrize("patterns", [None, ["*"], ["new-nav", "*"]], ids=repr)
def test_every_flag_visible(production, patterns):
    """In production, browsers should see the flags that they use and no others."""
    production.POSTHOG_API_FLAGS = patterns

    assert warning().id == ids.EVERY_FLAG_VISIBLE
    assert "POSTHOG_API_FLAGS" in str(warning().hint)


def test_every_flag_visible_in_development(production):
    """With DEBUG on it is convenient."""
    production.POSTHOG_API_FLAGS = ["*"]
    production.DEBUG = True

    assert found() == []


@pytest.mark.parametrize("debug", [True, False])
def test_no_flag_visible(production, debug):
    """A REST API that shows nothing is not what it was installed for."""
    production.POSTHOG_API_FLAGS = []
    production.DEBUG = debug

    assert warning().id == ids.NO_FLAG_VISIBLE
    assert warning().msg.startswith("POSTHOG_API_FLAGS")
    assert '["web-*"]' in str(warning().hint)


def test_unreadable_flags_are_told_once(production):
    """A list that cannot be read shows nothing either, and needs no second message."""
    production.POSTHOG_API_FLAGS = "new-nav"

    assert found_ids() == [ids.ERRORS["POSTHOG_API_FLAGS"]]


def test_flags_without_the_rest_api(tmp_path):
    """Without the REST API, what it would show is nobody's concern."""
    for patterns in ([], ["*"]):
        project = Project(tmp_path, f"{ENABLED}POSTHOG_API_FLAGS = {patterns}\n")

        assert project.check() == []


def test_site_without_middleware(production):
    """MIDDLEWARE = None breaks no check of ours; of Django's own it does."""
    production.MIDDLEWARE = None
    production.POSTHOG_API_FLAGS = []

    assert [one.id for one in run_checks(tags=["olposthog"])] == [ids.NO_FLAG_VISIBLE]


@pytest.mark.parametrize("pattern", ["", " ", " web-*", "new-nav,checkout", "new nav", "web-*\n"])
def test_pattern_of_no_flag(production, pattern):
    """What a list made of text leaves behind hides a flag that was meant to be seen."""
    production.POSTHOG_API_FLAGS = ["checkout", pattern]

    assert warning().id == ids.PATTERN_OF_NO_FLAG
    assert f"POSTHOG_API_FLAGS has {pattern!r}" in warning().msg
    assert "one key or glob" in str(warning().hint)


def test_patterns_of_flags_to_come(production):
    """A key that FEATURES does not have may be PostHog's."""
    production.POSTHOG_API_FLAGS = ["of-posthog", "web-*", "v[12].?"]

    assert found() == []


# The anonymous visitor's cookie

DROPPED = pytest.mark.parametrize(
    ("same_site", "name"),
    [
        ("None", "olposthog_id"),
        ("none", "olposthog_id"),
        ("Lax", "__Secure-visitor"),
        (False, "__Host-visitor"),
    ],
)


@DROPPED
def test_cookie_that_browsers_drop(production, same_site, name):
    """A cookie that no browser keeps makes each visitor a new one, each time."""
    production.SESSION_COOKIE_SAMESITE = same_site
    production.POSTHOG_API_ANONYMOUS_COOKIE = name

    assert warning().id == ids.COOKIE_DROPPED
    assert "POSTHOG_API_ANONYMOUS_COOKIE" in warning().msg
    assert name in warning().msg
    assert "SESSION_COOKIE_SECURE = True" in str(warning().hint)

    production.SESSION_COOKIE_SECURE = True
    assert found() == []


def test_cookie_that_only_the_rest_api_sets(production):
    """Without the middleware it is the REST API that sets the cookie."""
    production.MIDDLEWARE = []
    production.SESSION_COOKIE_SAMESITE = "None"

    assert warning().id == ids.COOKIE_DROPPED


@pytest.mark.parametrize("same_site", ["Lax", "Strict", False, None], ids=repr)
def test_cookie_that_browsers_keep(production, same_site):
    """Without SameSite=None a cookie may do without Secure."""
    production.SESSION_COOKIE_SAMESITE = same_site

    assert found() == []


def test_cookie_that_is_not_set(production):
    """Where there is no cookie, none is dropped."""
    production.SESSION_COOKIE_SAMESITE = "None"
    production.POSTHOG_API_ANONYMOUS_COOKIE = None

    assert found() == []


MIDDLEWARE = f'MIDDLEWARE = ["{browsers.IDENTITY_MIDDLEWARE}"]\n'


@pytest.mark.parametrize(
    ("middleware", "expected"),
    [("", []), (MIDDLEWARE, [ids.COOKIE_DROPPED])],
    ids=["nobody", "middleware"],
)
def test_cookie_that_only_the_middleware_sets(tmp_path, middleware, expected):
    """Without the REST API it is the middleware that sets the cookie, where there is one."""
    site = f"{ENABLED}SESSION_COOKIE_SAMESITE = 'None'\n{middleware}"

    assert Project(tmp_path, site).ids() == expected


# Cached pages


@pytest.mark.parametrize("caching", sorted(PAGE_CACHES))
def test_page_that_is_cached_before_it_says_whom_it_is_for(production, caching):
    """The cache must see what the middleware adds: it comes before it in MIDDLEWARE."""
    others = [one for one in production.MIDDLEWARE if one != browsers.IDENTITY_MIDDLEWARE]
    production.MIDDLEWARE = [browsers.IDENTITY_MIDDLEWARE, *others, caching]

    assert warning().id == ids.CACHED_BEFORE_IDENTITY
    assert "MIDDLEWARE" in warning().msg
    assert warning().hint == f"Put {browsers.IDENTITY_MIDDLEWARE} after {caching}."

    production.MIDDLEWARE = [caching, *others, browsers.IDENTITY_MIDDLEWARE]
    assert found() == []


def test_cached_pages_without_the_middleware(production):
    """Where pages have no flags by request, they are cached as they always were."""
    production.MIDDLEWARE = [*PAGE_CACHES]

    assert found() == []


# The headers that an identity comes from


class OfProxy(RemoteUserMiddleware):
    """Users that a proxy names in a header."""

    header = "HTTP_X_FORWARDED_USER"


OF_SERVER = "django.contrib.auth.middleware.PersistentRemoteUserMiddleware"
OF_PROXY = f"{__name__}.OfProxy"


@pytest.mark.parametrize(
    ("middleware", "headers", "fix"),
    [
        (OF_PROXY, ["Cookie"], 'Add "X-Forwarded-User" to POSTHOG_API_IDENTITY_HEADERS.'),
        (OF_PROXY, ["X-User"], 'Add "X-Forwarded-User" to POSTHOG_API_IDENTITY_HEADERS.'),
        (OF_SERVER, ["Remote-User"], "Unset POSTHOG_API_IDENTITY_HEADERS."),
    ],
)
def test_header_of_users_that_is_not_named(production, middleware, headers, fix):
    """A header that users are known by must be named, and what is no header cannot be."""
    production.MIDDLEWARE = [*production.MIDDLEWARE, middleware]
    production.POSTHOG_API_IDENTITY_HEADERS = headers

    assert warning().id == ids.IDENTITY_HEADER_MISSING
    assert "POSTHOG_API_IDENTITY_HEADERS" in warning().msg
    assert middleware in warning().msg
    assert warning().hint == fix


@pytest.mark.parametrize(
    ("middleware", "headers"),
    [
        (OF_PROXY, None),
        (OF_SERVER, None),
        (OF_PROXY, ["x-forwarded-user"]),
        (browsers.IDENTITY_MIDDLEWARE, ["Cookie"]),
        ("tests.nowhere.Middleware", ["Cookie"]),
    ],
)
def test_headers_that_are_named(production, middleware, headers):
    """Without the setting answers are private, and with every header named they need not be."""
    production.MIDDLEWARE = [middleware]
    production.POSTHOG_API_IDENTITY_HEADERS = headers

    assert [one.id for one in run_checks(tags=["olposthog"])] == []


# Users' ids


def test_trusting_browsers_is_fine_with_numbered_users(production):
    """A browser's UUID cannot pass for the number of a user."""
    production.POSTHOG_API_TRUST_BROWSER_ID = True

    assert found() == []


TRUSTING = f"{ENABLED}POSTHOG_API_TRUST_BROWSER_ID = True\n"
WITH_PEOPLE = f"""{TRUSTING}
INSTALLED_APPS = [
    "django.contrib.auth", "django.contrib.contenttypes", "people", "olposthog"
]
AUTH_USER_MODEL = "people.Person"
"""
PERSON = """
import uuid
from django.contrib.auth.models import AbstractBaseUser
from django.db import models

class Person(AbstractBaseUser):
    {}
    email = models.EmailField(unique=True)
    USERNAME_FIELD = "email"
"""
INHERITED = """
import uuid
from django.contrib.auth.models import AbstractBaseUser
from django.db import models

class Party(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)

class Person(AbstractBaseUser, Party):
    email = models.EmailField(unique=True)
    USERNAME_FIELD = "email"
"""


def with_people(folder, models):
    return Project(folder, WITH_PEOPLE, **{"people.__init__": "", "people.models": models})


def test_users_with_uuids_cannot_trust_browsers(tmp_path):
    """Where users' ids are UUIDs, a browser's UUID could be a user's: that is an error."""
    models = PERSON.format("id = models.UUIDField(primary_key=True, default=uuid.uuid4)")

    ((id_, message, hint),) = with_people(tmp_path, models).check()
    assert id_ == ids.FORGEABLE_USER_ID
    assert message.startswith("POSTHOG_API_TRUST_BROWSER_ID")
    assert hint == "Set POSTHOG_API_TRUST_BROWSER_ID = False."


def test_users_that_inherit_their_uuids_cannot_trust_browsers(tmp_path):
    """A primary key that leads to a parent's UUID is a UUID."""
    assert with_people(tmp_path, INHERITED).ids() == [ids.FORGEABLE_USER_ID]


def test_users_of_another_model_with_numbers_can_trust_browsers(tmp_path):
    """The model alone is no error: what counts is its primary key."""
    assert with_people(tmp_path, PERSON.format("")).check() == []


def test_a_project_without_users_can_trust_browsers(tmp_path):
    """Where nobody can log in, there is no user whose id could be claimed."""
    assert Project(tmp_path, TRUSTING).check() == []
