"""The anonymous visitor's signed cookie: read, start, renew.

Other sites cannot replace a visitor's id. Browsers leave a SameSite cookie out of requests that
other sites cause, so a new cookie is set only where the browser would have sent the one it has.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from django.conf import settings
from django.core import signing
from django.core.exceptions import DisallowedHost
from django.http.request import split_domain_port
from django.utils.http import is_same_domain

from olposthog import conf

if TYPE_CHECKING:
    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

ANONYMOUS_COOKIE_SALT = "olposthog.anonymous"
ANONYMOUS_COOKIE_SECONDS = 365 * 24 * 3600
RENEWAL_SECONDS = 30 * 24 * 3600
"""The age from which a cookie is set again, for another year. Answers that do so are not cached."""

MAX_COOKIES = 8
"""Maximum cookies of our name per request whose signatures are verified."""

_VISITOR_ID = "olposthog.visitor_id"
_IS_NEW = "olposthog.visitor_is_new"
_IS_DUE = "olposthog.visitor_cookie_is_due"
# Kept in `request.META`, the one dictionary that Django's request and DRF's wrapper of it share.
# A client cannot write there: its headers arrive as `HTTP_...`.


def visitor_id(request: HttpRequest) -> str | None:
    """Return the id in our signed cookie, or the one that `start_visitor` made for the request."""
    name = conf.current().anonymous_cookie
    if name is None:
        return None
    known: str | None = request.META.get(_VISITOR_ID)
    if known is None:
        known = _read(request, name)
        if known is not None:
            request.META[_VISITOR_ID] = known
    return known


def start_visitor(request: HttpRequest) -> str:
    """Return a new random id, which belongs to the request's visitor from now on."""
    new_id = str(uuid.uuid4())
    request.META[_VISITOR_ID] = new_id
    request.META[_IS_NEW] = True
    return new_id


def remember_visitor(
    request: HttpRequest, response: HttpResponseBase, *, is_read_only: bool
) -> bool:
    """Set the cookie of a new visitor, or renew a known one's. Return whether there was reason to.

    A cookie is renewed if it is older than RENEWAL_SECONDS, or not signed as Django signs now: with
    a key in SECRET_KEY_FALLBACKS, or as an earlier version of Django did. A new one is set only
    where `_can_start_visitor` allows it.
    """
    name = conf.current().anonymous_cookie
    known = visitor_id(request)
    if name is None or known is None:
        return False
    if request.META.get(_IS_NEW):
        if _can_start_visitor(request, is_read_only=is_read_only):
            _set(response, name, known)
        return True
    if request.META.get(_IS_DUE):
        _set(response, name, known)
        return True
    return False


def _read(request: HttpRequest, name: str) -> str | None:
    """Return the id in the first cookie of this name that we signed; None without one."""
    for value in islice(_sent_values(request, name), MAX_COOKIES):
        signer = signing.get_cookie_signer(salt=_salt(name))
        signer.fallback_keys = []
        try:
            return str(signer.unsign(value, max_age=RENEWAL_SECONDS))
        except signing.BadSignature:
            known = _read_old(name, value)
        if known is not None:
            request.META[_IS_DUE] = True
            return known
    return None


def _sent_values(request: HttpRequest, name: str) -> Iterator[str]:
    """Yield the values of the cookies of one name, the value that Django chose first.

    A browser sends several if their domains or paths differ, and anyone who controls a sub-domain
    can add one. Web servers join the `Cookie` headers of a request by semicolons or by commas.
    """
    if name in request.COOKIES:
        yield request.COOKIES[name]
    header = request.META.get("HTTP_COOKIE", "")
    for found in re.finditer(rf"(?:^|[;,])\s*{re.escape(name)}\s*=([^;,]*)", header):
        yield found[1].strip()


def _read_old(name: str, value: str) -> str | None:
    """Return the id in a cookie of any age, signed with any key by any version of Django."""
    for salt in (_salt(name), name + ANONYMOUS_COOKIE_SALT):
        try:
            return str(signing.get_cookie_signer(salt=salt).unsign(value))
        except signing.BadSignature:
            pass
    return None


def _salt(name: str) -> str:
    """Return the salt that `set_signed_cookie` uses, which is another one since Django 6.1."""
    salt_of: Callable[[str, str], str] | None = getattr(signing, "_cookie_signer_salt", None)
    return salt_of(name, ANONYMOUS_COOKIE_SALT) if salt_of else name + ANONYMOUS_COOKIE_SALT


def _set(response: HttpResponseBase, name: str, value: str) -> None:
    response.set_signed_cookie(
        name,
        value,
        salt=ANONYMOUS_COOKIE_SALT,
        max_age=ANONYMOUS_COOKIE_SECONDS,
        domain=settings.SESSION_COOKIE_DOMAIN,
        path=settings.SESSION_COOKIE_PATH,
        secure=settings.SESSION_COOKIE_SECURE,
        httponly=True,
        samesite=settings.SESSION_COOKIE_SAMESITE,
    )


def _can_start_visitor(request: HttpRequest, *, is_read_only: bool) -> bool:
    """Return whether the browser would have sent the cookie of a visitor whom we know.

    If not, a new cookie could replace one. `is_read_only` admits a POST that changes nothing.
    """
    if request.method not in {"GET", "HEAD"} and not is_read_only:
        return False
    same_site = str(settings.SESSION_COOKIE_SAMESITE).lower()
    if settings.SESSION_COOKIE_SAMESITE and same_site == "none":
        return True  # sent with every request, also from other sites
    fetch_site = request.headers.get("Sec-Fetch-Site")
    if fetch_site is None:  # plain http, an old browser, or no browser
        origin = request.headers.get("Origin")
        return origin is None or _is_own_origin(request, origin)
    if fetch_site in {"same-origin", "same-site", "none"}:
        return True
    return same_site != "strict" and _is_top_level_navigation(request)


def _is_top_level_navigation(request: HttpRequest) -> bool:
    """Return whether a link or the like opens a page in a tab: Lax cookies are sent along."""
    return (
        request.method == "GET"
        and request.headers.get("Sec-Fetch-Mode") == "navigate"
        and request.headers.get("Sec-Fetch-Dest") == "document"
    )


def _is_own_origin(request: HttpRequest, origin: str) -> bool:
    """Return whether the site names an origin: by host, cookie domain or CSRF_TRUSTED_ORIGINS."""
    try:
        host = urlsplit(origin).hostname
        own_host = split_domain_port(request.get_host())[0]
    except (ValueError, DisallowedHost):
        return False
    if not host:  # "null": a sandboxed frame, a file, or a redirect from another site
        return False
    trusted = [urlsplit(one).hostname or "" for one in settings.CSRF_TRUSTED_ORIGINS]
    domains = [own_host, *(one.removeprefix("*") for one in trusted)]
    if settings.SESSION_COOKIE_DOMAIN:
        domains.append(f".{settings.SESSION_COOKIE_DOMAIN.lstrip('.')}")
    return any(is_same_domain(host, domain) for domain in domains)
