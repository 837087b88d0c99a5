"""Who flags are evaluated for, as the server derives it from a request."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from types import NoneType
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import unquote

from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured
from django.core.serializers.json import DjangoJSONEncoder
from django.db import models
from django.utils import timezone
from django.utils.cache import patch_vary_headers

from . import conf
from ._http import page_caching
from ._http.visitor_cookie import (
    ANONYMOUS_COOKIE_SALT,
    ANONYMOUS_COOKIE_SECONDS,
    remember_visitor,
    start_visitor,
    visitor_id,
)
from .conf.validators import SERVERS_OWN

if TYPE_CHECKING:
    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

__all__ = [
    "ANONYMOUS_COOKIE_SALT",
    "ANONYMOUS_COOKIE_SECONDS",
    "BROWSER_ID_HEADER",
    "MAX_DISTINCT_ID_LENGTH",
    "SESSION_ID_HEADER",
    "SHARED_VISITOR_ID",
    "Identity",
    "UniqueId",
    "browser_session_id",
    "cut_distinct_id",
    "default_identity",
    "device_id_of",
    "distinct_id_of",
    "identify",
    "plain",
    "remember_identity",
    "user_ids_may_be_uuids",
    "vary_on_identity",
]

BROWSER_ID_HEADER = "X-POSTHOG-DISTINCT-ID"
SESSION_ID_HEADER = "X-POSTHOG-SESSION-ID"
MAX_DISTINCT_ID_LENGTH = 200
"""In code points. PostHog cuts longer distinct ids before hashing them, and cuts no device ids."""

SHARED_VISITOR_ID = "$anonymous"
"""The distinct id of all anonymous visitors with POSTHOG_API_ANONYMOUS_COOKIE = None."""

UniqueId: TypeAlias = str | int | uuid.UUID | None
"""What callers may pass as a distinct id; None means the server itself."""

_IS_ASKED = "olposthog.identity_is_asked"
_IS_TIMED_OUT = "olposthog.identity_is_timed_out"
_IS_STREAMED = "olposthog.is_streamed"
# Kept in `request.META`, the one dictionary that Django's request and DRF's wrapper of it share.
# A client cannot write there: its headers arrive as `HTTP_...`.


@dataclass(frozen=True, slots=True)
class Identity:
    """A person, with what flags may depend on.

    `person_properties` are merged over the default ones; `groups` maps a group type to a group
    key, and `group_properties` a group type to that group's properties. All must be JSON values,
    dates or UUIDs; a naive datetime is in Django's current time zone. `anonymous` says that no one
    logged in: PostHog then keeps no person profile. `device_id` is the id that device-bucketed
    flags are hashed by. None means unknown: a request's identity then gets `device_id_of(request)`.
    Empty text means that there is no device id. `properties_complete` says that PostHog has no
    other properties of the person: local evaluation then takes a property that is not passed for
    absent. None, the default, is True for visitors without a profile, and else False.

    An empty distinct id means an unidentified person: nothing is evaluated or reported, and the
    flags are `settings.FEATURES`. With `anonymous=True` an identity callable may return it.

    A distinct id is cut to MAX_DISTINCT_ID_LENGTH. Raise TypeError for an id that is not text.
    """

    distinct_id: str
    person_properties: Mapping[str, Any] | None = None
    groups: Mapping[str, str | int] | None = None
    group_properties: Mapping[str, Mapping[str, Any]] | None = None
    anonymous: bool = False
    device_id: str | None = None
    properties_complete: bool | None = None

    def __post_init__(self) -> None:
        """Validate the types of the ids, and cut the distinct id."""
        distinct_id: Any = self.distinct_id
        device_id: Any = self.device_id
        if not isinstance(distinct_id, str):
            raise TypeError(
                f"distinct_id must be text, not {type(distinct_id).__name__}. "
                "Pass for example str(user.pk)."
            )
        if device_id is not None and not isinstance(device_id, str):
            raise TypeError(
                f"device_id must be text or None, not {type(device_id).__name__}. "
                "Pass for example str(device.pk)."
            )
        object.__setattr__(self, "distinct_id", cut_distinct_id(distinct_id))

    @property
    def context(self) -> str:
        """Properties and groups as canonical text; empty when there are none.

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
        properties, groups, group_properties = context.split("\n")
        return Identity(  # `replace` takes three times as long
            self.distinct_id,
            _fixed(self.person_properties, properties),
            _fixed(self.groups, groups),
            _fixed(self.group_properties, group_properties),
            self.anonymous,
            self.device_id,
            self.properties_complete,
        )


def _fixed(value: Mapping[str, Any] | None, text: str) -> dict[str, Any]:
    """Return a copy in JSON's types of a mapping whose canonical text is given."""
    if not value:
        return {}
    if all(type(one) in _IMMUTABLE_TYPES for one in value.values()) and all(
        type(key) is str for key in value
    ):
        return dict(value)
    fixed: dict[str, Any] = json.loads(text)
    return fixed


_IMMUTABLE_TYPES = frozenset({str, int, float, bool, NoneType})
"""The types of values that are their own copies in JSON's types."""


def _canonical(argument: str, value: Mapping[str, Any] | None) -> str:
    if value is not None and not isinstance(value, Mapping):
        raise TypeError(f"{argument} must be a dict, not {type(value).__name__}.")
    if argument == "group_properties" and not all(
        isinstance(properties, Mapping) for properties in (value or {}).values()
    ):
        raise TypeError(f"{argument} must hold a dict of properties for each group type.")
    try:
        return _encode_canonically(value) if value else "{}"
    except RecursionError as error:
        raise ValueError(f"{argument} must not be nested so deeply.") from error
    except (TypeError, ValueError) as error:
        raise type(error)(f"{argument} must hold JSON values, dates or UUIDs: {error}") from error


class _PropertyEncoder(DjangoJSONEncoder):
    """Encodes property values. A naive datetime gets Django's current time zone."""

    def default(self, o: Any) -> Any:
        """Return text for a date, a time, a decimal or a UUID."""
        if isinstance(o, datetime) and timezone.is_naive(o):
            o = timezone.make_aware(o)
        return super().default(o)


_encode_canonically = _PropertyEncoder(sort_keys=True, allow_nan=False).encode


def plain(value: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return `value` as plain JSON values: dates and UUIDs become text."""
    if not value:
        return {}
    plain_value: dict[str, Any] = json.loads(json.dumps(value, cls=_PropertyEncoder))
    return plain_value


def distinct_id_of(unique_id: UniqueId, argument: str = "opt_unique_id") -> str:
    """Return the id as text of any length. None and empty text mean the server itself.

    Raise TypeError, which names the `argument`, for anything else.
    """
    if type(unique_id) is str and unique_id:
        return unique_id
    if unique_id is None or unique_id == "":
        return conf.current().hostname
    if isinstance(unique_id, bool) or not isinstance(unique_id, str | int | uuid.UUID):
        raise TypeError(
            f"{argument} must be text, an int or a UUID, not {type(unique_id).__name__}. "
            f"{_suggestion(unique_id)}"
        )
    return str(unique_id)


def cut_distinct_id(distinct_id: str) -> str:
    """Return the part of an id that PostHog keeps: MAX_DISTINCT_ID_LENGTH code points."""
    return distinct_id[:MAX_DISTINCT_ID_LENGTH]


def _suggestion(unique_id: Any) -> str:
    if isinstance(unique_id, tuple):
        return 'Pass a composite key as one text, for example ":".join(map(str, user.pk)).'
    if isinstance(unique_id, models.Model) and _key_text(unique_id.pk) is None:
        return "Save the object first: it has no primary key yet."
    return "Pass for example str(user.pk)."


def _key_text(key: Any) -> str | None:
    """Return a primary key as text; None for that of an unsaved object.

    The parts of a composite key are joined by colons. A colon within a part is escaped, so that no
    two keys have the same text.
    """
    if not isinstance(key, tuple):
        return None if key is None else str(key)
    if None in key:
        return None
    return ":".join(str(part).replace("%", "%25").replace(":", "%3A") for part in key)


def identify(request: HttpRequest) -> Identity:
    """Return whom `request` is from: `POSTHOG_API_IDENTITY`'s answer, else the default one.

    Accepts Django's request and DRF's. By default an authenticated user is `str(user.pk)`,
    whatever any header, cookie, query or body says; anybody else is the id in our signed cookie,
    or a new one that `remember_identity` puts there. An identity without a device id gets
    `device_id_of(request)`.
    """
    _ask(request)
    chosen = conf.current().identity or default_identity
    identity = chosen(request)
    if not isinstance(identity, Identity):
        raise TypeError(
            f"POSTHOG_API_IDENTITY returned {type(identity).__name__}; "
            "it must return an olposthog.identity.Identity."
        )
    distinct_id = identity.distinct_id
    if not distinct_id and not identity.anonymous:
        raise TypeError(
            "POSTHOG_API_IDENTITY returned an empty distinct_id. Return for example str(user.pk)."
        )
    if conf.current().trust_browser_id and not identity.anonymous and _UUID.fullmatch(distinct_id):
        raise ImproperlyConfigured(
            "POSTHOG_API_IDENTITY gave a user a UUID as distinct_id, while "
            "POSTHOG_API_TRUST_BROWSER_ID lets a visitor claim any UUID and get that user's flags: "
            "set POSTHOG_API_TRUST_BROWSER_ID = False."
        )
    if identity.device_id is None:
        identity = replace(identity, device_id=device_id_of(request))
    return identity


def default_identity(request: HttpRequest) -> Identity:
    """Return the authenticated user's identity, or the anonymous visitor's.

    A user whose authentication gives no primary key is unidentified. A composite key is joined by
    colons.
    """
    _ask(request)
    user = getattr(request, "user", None)
    if user is not None and user.is_authenticated:
        key = _key_text(getattr(user, "pk", None))
        if key is None:
            return unidentified()
        return Identity(key, device_id=device_id_of(request))
    claimed_id = _uuid(_browser_claims(request).get("distinct_id"))
    return Identity(
        claimed_id or _anonymous_id(request),
        anonymous=True,
        device_id=device_id_of(request),
        # Events of our visitors keep no profile. posthog-js may have made one for its own id.
        properties_complete=claimed_id is None,
    )


def device_id_of(request: HttpRequest) -> str | None:
    """Return the id of the browser that `request` is from, the same before and after a log-in.

    It is the id in the anonymous visitor's cookie, or the one that this request's response puts
    there. With POSTHOG_API_TRUST_BROWSER_ID, posthog-js's `$device_id` takes precedence if it is a
    UUID. Return None if there is neither. A claim like that selects no person.
    """
    _ask(request)
    return _uuid(_browser_claims(request).get("$device_id")) or visitor_id(request)


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
    """Return the visitor's id, a new one for a new visitor; without a cookie the shared one."""
    if conf.current().anonymous_cookie is None:
        return SHARED_VISITOR_ID
    return visitor_id(request) or start_visitor(request)


def _browser_claims(request: HttpRequest) -> dict[str, Any]:
    """Return the ids that posthog-js claims for this browser; none unless they are trusted.

    They come from its cookie, the distinct id also from its header. Never authentication.
    """
    if not conf.current().trust_browser_id or user_ids_may_be_uuids():
        return {}
    token = conf.current().project_api_key
    for sign, letters in (("+", "PL"), ("/", "SL"), ("=", "EQ")):
        token = token.replace(sign, letters)
    claims: dict[str, Any] = {"distinct_id": request.headers.get(BROWSER_ID_HEADER)}
    try:
        stored = json.loads(unquote(request.COOKIES.get(f"ph_{token}_posthog", "")))
    except (RecursionError, ValueError):
        stored = None
    return claims | stored if isinstance(stored, dict) else claims


def browser_session_id(request: HttpRequest) -> str | None:
    """Return posthog-js's id of the browser's session, if it is a UUID. A claim, like the above."""
    return _uuid(request.headers.get(SESSION_ID_HEADER))


def _uuid(claimed: Any) -> str | None:
    return claimed if isinstance(claimed, str) and _UUID.fullmatch(claimed) else None


_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def unidentified() -> Identity:
    """Return the identity of a request whose person the server cannot tell, or not in time."""
    return Identity("", anonymous=True, device_id="")


def is_one_person(distinct_id: str) -> bool:
    """Return whether a distinct id is of one person: not empty, and not shared by visitors."""
    return distinct_id not in {"", SHARED_VISITOR_ID}


def time_out(request: HttpRequest) -> Identity:
    """Return the identity for a request that was not identified in time.

    Nothing is evaluated for it, and no cache stores the response.
    """
    _ask(request)
    request.META[_IS_TIMED_OUT] = True
    return unidentified()


def _ask(request: HttpRequest) -> None:
    """Record that the response depends on who asks. Raise RuntimeError if its headers are sent."""
    if _IS_STREAMED in request.META:
        raise RuntimeError(
            "A streaming response asked for flags by request after its headers were sent, without "
            "Vary and the visitor's cookie. Read request.features.snapshot, or call "
            "olposthog.identity.identify(request), in the view before streaming begins."
        )
    request.META[_IS_ASKED] = True
    page_caching.hold(request)


def vary_on_identity(response: HttpResponseBase) -> None:
    """Name in `Vary` the request headers that an identity may come from."""
    settings = conf.current()
    headers = ["Cookie", "Authorization"]
    headers += [one for one in settings.identity_headers if one.title() not in headers]
    if settings.trust_browser_id:
        headers.append(BROWSER_ID_HEADER)
    if response.has_header("Vary"):
        patch_vary_headers(response, headers)
    else:
        response["Vary"] = ", ".join(headers)


def remember_identity(
    request: HttpRequest, response: HttpResponseBase, *, is_read_only: bool = False
) -> None:
    """Name in the response what it depends on, and set the anonymous visitor's cookie.

    The cookie has the domain, path, SameSite and Secure of the session cookie, is HttpOnly and
    lives for a year, which begins anew as it is used. A new one is set for requests from the site
    itself whose method is safe, or which are `is_read_only`.

    The response is `private` unless POSTHOG_API_IDENTITY_HEADERS is set, and in any case where it
    is about a new visitor or sets a cookie. Does nothing when no identity was asked for.
    """
    if _IS_ASKED not in request.META:
        return
    vary_on_identity(response)
    is_about_cookie = remember_visitor(request, response, is_read_only=is_read_only)
    is_shareable = bool(conf.current().identity_headers) and _IS_TIMED_OUT not in request.META
    if is_about_cookie or not is_shareable:
        page_caching.make_private(response)
    else:
        page_caching.release(request)


def finish_response(request: HttpRequest, response: HttpResponseBase) -> None:
    """Call `remember_identity`, and have `identify` raise from now on if the headers are sent."""
    remember_identity(request, response)
    if response.streaming and _IS_ASKED not in request.META:
        request.META[_IS_STREAMED] = True
