"""Who flags are evaluated for, as the server derives it from a request."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import unquote

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core import signing
from django.core.exceptions import ImproperlyConfigured
from django.core.serializers.json import DjangoJSONEncoder
from django.db import models
from django.utils.cache import patch_cache_control, patch_vary_headers

from . import conf
from .rules import SERVERS_OWN

if TYPE_CHECKING:
    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

ANONYMOUS_COOKIE_SALT = "olposthog.anonymous"
ANONYMOUS_COOKIE_SECONDS = 365 * 24 * 3600
BROWSER_ID_HEADER = "X-POSTHOG-DISTINCT-ID"
SESSION_ID_HEADER = "X-POSTHOG-SESSION-ID"

UniqueId: TypeAlias = str | int | uuid.UUID | None
"""What callers may pass as a distinct id; None means the server itself."""

_NEW_ID = "olposthog.new_anonymous_id"
_ASKED = "olposthog.identity_asked"
# Kept in `request.META`, the one dictionary that Django's request and DRF's wrapper of it share.
# A client cannot write there: its headers arrive as `HTTP_...`.


@dataclass(frozen=True, slots=True)
class Identity:
    """A person, with what flags may depend on.

    `person_properties` are merged over the default ones; `groups` maps a group type to a group
    key, and `group_properties` a group type to that group's properties. All must be JSON values,
    dates or UUIDs. `anonymous` says that no one logged in: PostHog then keeps no person profile.
    `device_id` is the id that device-bucketed flags are decided by.
    """

    distinct_id: str
    person_properties: Mapping[str, Any] | None = None
    groups: Mapping[str, str | int] | None = None
    group_properties: Mapping[str, Mapping[str, Any]] | None = None
    anonymous: bool = False
    device_id: str | None = None

    @property
    def context(self) -> str:
        """What flags depend on beside the id, as canonical text; empty when there is nothing.

        Raises TypeError or ValueError that names the argument when a property is no JSON value.
        """
        if not (self.person_properties or self.groups or self.group_properties):
            return ""
        return "\n".join(
            [
                _canonical("person_properties", self.person_properties),
                _canonical("groups", self.groups),
                _canonical("group_properties", self.group_properties),
            ]
        )

    def claiming(self, properties: Mapping[str, Any]) -> Identity:
        """Return the identity with what its client claims, as far as it does not say so itself."""
        known = {name: value for name, value in properties.items() if name not in SERVERS_OWN}
        return replace(self, person_properties={**known, **(self.person_properties or {})})

    def fixed(self, context: str) -> Identity:
        """Return the identity that `context` describes, whatever becomes of the caller's dicts."""
        if not context:
            return self
        properties, groups, group_properties = map(json.loads, context.split("\n"))
        return replace(
            self,
            person_properties=properties,
            groups=groups,
            group_properties=group_properties,
        )


def _canonical(argument: str, value: Mapping[str, Any] | None) -> str:
    if value is not None and not isinstance(value, Mapping):
        raise TypeError(f"{argument} must be a dict, not {type(value).__name__}.")
    if argument == "group_properties" and not all(
        isinstance(properties, Mapping) for properties in (value or {}).values()
    ):
        raise TypeError(f"{argument} must hold a dict of properties for each group type.")
    try:
        return json.dumps(value or {}, cls=DjangoJSONEncoder, sort_keys=True, allow_nan=False)
    except RecursionError as error:
        raise ValueError(f"{argument} must not be nested so deeply.") from error
    except (TypeError, ValueError) as error:
        raise type(error)(f"{argument} must hold JSON values, dates or UUIDs: {error}") from error


def plain(value: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return `value` as plain JSON values: dates and UUIDs become text."""
    if not value:
        return {}
    plain_value: dict[str, Any] = json.loads(json.dumps(value, cls=DjangoJSONEncoder))
    return plain_value


def distinct_id_of(unique_id: UniqueId, argument: str = "opt_unique_id") -> str:
    """Return the id as PostHog has it; without one the server's own.

    Raises TypeError, which names the `argument`, for anything else.
    """
    if type(unique_id) is str and unique_id:
        return unique_id
    if unique_id is None or unique_id == "":
        return conf.current().hostname
    if isinstance(unique_id, bool) or not isinstance(unique_id, str | int | uuid.UUID):
        raise TypeError(
            f"{argument} must be text, an int or a UUID, not {type(unique_id).__name__}: "
            "pass for example str(user.pk)."
        )
    return str(unique_id)


def identify(request: HttpRequest) -> Identity:
    """Return whom `request` is from: `POSTHOG_API_IDENTITY`'s answer, else the default one.

    Accepts Django's request and DRF's. By default an authenticated user is `str(user.pk)`,
    whatever any header, cookie, query or body says; anybody else is the id in our signed cookie,
    or a new one that `remember_identity` puts there.
    """
    request.META[_ASKED] = True
    chosen = conf.current().identity or default_identity
    identity = chosen(request)
    if not isinstance(identity, Identity):
        raise TypeError(
            f"POSTHOG_API_IDENTITY returned {type(identity).__name__}; "
            "it must return an olposthog.identity.Identity."
        )
    distinct_id: Any = identity.distinct_id  # whatever the site's code put there
    if not isinstance(distinct_id, str) or not distinct_id:
        raise TypeError(
            f"POSTHOG_API_IDENTITY returned the distinct_id {distinct_id!r}; "
            "it must be text, for example str(user.pk)."
        )
    if conf.current().trust_browser_id and not identity.anonymous and _UUID.fullmatch(distinct_id):
        raise ImproperlyConfigured(
            "POSTHOG_API_IDENTITY gave a user a UUID as distinct_id, while "
            "POSTHOG_API_TRUST_BROWSER_ID lets a visitor claim any UUID and get that user's flags: "
            "set POSTHOG_API_TRUST_BROWSER_ID = False."
        )
    return identity


def default_identity(request: HttpRequest) -> Identity:
    """Return the authenticated user's identity, or the anonymous visitor's."""
    user = getattr(request, "user", None)
    if user is not None and user.is_authenticated:
        # A user without a primary key, as some authentications make up, is nobody in particular.
        key = getattr(user, "pk", None)
        if key is None:
            return Identity(conf.current().hostname, anonymous=True)
        return Identity(str(key))
    trusted = conf.current().trust_browser_id and not user_ids_may_be_uuids()
    browser_id = _browser_id(request) if trusted else None
    return Identity(browser_id or _anonymous_id(request), anonymous=True)


def user_ids_may_be_uuids() -> bool:
    """Return whether a browser's id could pass for a user's: users' primary keys are no numbers."""
    try:
        key: Any = get_user_model()._meta.pk  # noqa: SLF001  # Django documents `_meta`
    except ImproperlyConfigured:
        return False  # a project without users
    while key.remote_field:
        key = key.target_field
    return not isinstance(key, models.IntegerField)


def _anonymous_id(request: HttpRequest) -> str:
    name = conf.current().anonymous_cookie
    if name is None:
        return conf.current().hostname
    new: str | None = request.META.get(_NEW_ID)
    if new is not None:
        return new
    try:
        kept: str = request.get_signed_cookie(name, salt=ANONYMOUS_COOKIE_SALT)  # type: ignore[assignment]  # never None without a default
    except (KeyError, signing.BadSignature):
        # No cookie, or one that we did not write: a new visitor.
        kept = request.META[_NEW_ID] = str(uuid.uuid4())
    return kept


def _browser_id(request: HttpRequest) -> str | None:
    """Return posthog-js's id for this browser, if it is a UUID. A claim: never authentication."""
    token = conf.current().project_api_key
    for sign, letters in (("+", "PL"), ("/", "SL"), ("=", "EQ")):
        token = token.replace(sign, letters)
    claimed: Any = request.headers.get(BROWSER_ID_HEADER)
    try:
        stored = json.loads(unquote(request.COOKIES.get(f"ph_{token}_posthog", "")))
    except (RecursionError, ValueError):
        stored = None
    if isinstance(stored, dict) and "distinct_id" in stored:
        claimed = stored["distinct_id"]
    return _uuid(claimed)


def browser_session_id(request: HttpRequest) -> str | None:
    """Return posthog-js's id of the browser's session, if it is a UUID. A claim, like the above."""
    return _uuid(request.headers.get(SESSION_ID_HEADER))


def _uuid(claimed: Any) -> str | None:
    return claimed if isinstance(claimed, str) and _UUID.fullmatch(claimed) else None


_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def vary_on_identity(response: HttpResponseBase) -> None:
    """Name in `Vary` the request headers that an identity may come from."""
    headers = ["Cookie", "Authorization"]
    if conf.current().trust_browser_id:
        headers.append(BROWSER_ID_HEADER)
    if response.has_header("Vary"):
        patch_vary_headers(response, headers)
    else:
        response["Vary"] = ", ".join(headers)


def remember_identity(request: HttpRequest, response: HttpResponseBase) -> None:
    """Give a new anonymous visitor the cookie that makes the next answer the same.

    The cookie has the domain, path, SameSite and Secure of the session cookie, is HttpOnly and
    lives for a year; a response that sets it is `private`, for no cache may hand it to others. Does
    nothing when no identity was asked for.
    """
    if _ASKED not in request.META:
        return
    vary_on_identity(response)
    new = request.META.get(_NEW_ID)
    name = conf.current().anonymous_cookie
    if new is None or name is None:
        return
    response.set_signed_cookie(
        name,
        new,
        salt=ANONYMOUS_COOKIE_SALT,
        max_age=ANONYMOUS_COOKIE_SECONDS,
        domain=settings.SESSION_COOKIE_DOMAIN,
        path=settings.SESSION_COOKIE_PATH,
        secure=settings.SESSION_COOKIE_SECURE,
        httponly=True,
        samesite=settings.SESSION_COOKIE_SAMESITE,
    )
    patch_cache_control(response, private=True)
