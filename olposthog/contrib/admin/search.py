"""Whom an operator looks for: users, as far as the operator may see them, or any distinct id."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib.admin import AdminSite, ModelAdmin
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractBaseUser

from olposthog.identity import Identity
from olposthog.inspection import identity_of

if TYPE_CHECKING:
    from django.http import HttpRequest

AT_MOST = 20
"""So many users are shown; a search with more wants to be narrowed."""


class SearchForm(forms.Form):
    """What the operator typed."""

    q = forms.CharField(
        label="User or distinct id",
        required=False,
        strip=False,  # an id may begin with a space
        widget=forms.TextInput(attrs={"size": 40, "id": "searchbar"}),
    )


@dataclass(frozen=True, slots=True)
class Hit:
    """A user whom the operator may look at."""

    user: AbstractBaseUser
    distinct_id: str
    """Empty where it takes a real request to know it."""
    trouble: str = ""
    """Why it is not known."""


def find_users(site: AdminSite, request: HttpRequest, term: str) -> list[Hit]:
    """Return whom the site's own admin of users finds: AT_MOST, and one more if there are more.

    None where users have no admin, it searches nothing, or the operator may not view them.
    """
    users = _users(site, request)
    if users is None or not users.get_search_fields(request):
        return []
    found, has_duplicates = users.get_search_results(request, users.get_queryset(request), term)
    if has_duplicates:
        found = found.distinct()
    return list(map(_hit, found[: AT_MOST + 1]))


def _hit(user: AbstractBaseUser) -> Hit:
    try:
        return Hit(user, identity_of(user).distinct_id)
    except LookupError as error:
        return Hit(user, "", str(error))


def find_user(site: AdminSite, request: HttpRequest, key: str) -> AbstractBaseUser | None:
    """Return the user with the primary key `key`, if the operator may view that user."""
    users = _users(site, request)
    return users.get_object(request, key) if users else None


def searches_users(site: AdminSite, request: HttpRequest) -> bool:
    """Return whether a search by this operator can find users."""
    users = _users(site, request)
    return users is not None and bool(users.get_search_fields(request))


def identity_for(
    distinct_id: str, user: AbstractBaseUser | None
) -> tuple[Identity, AbstractBaseUser | None, str]:
    """Return who has this distinct id, as which user, and why that could not be found out.

    It is `user`, where that is the user's distinct id; else somebody of whom no more is known than
    the id.
    """
    try:
        identity = identity_of(user) if user else None
    except LookupError as error:
        return Identity(distinct_id), None, str(error)
    if identity is None or identity.distinct_id != distinct_id:
        return Identity(distinct_id), None, ""
    return identity, user, ""


def _users(site: AdminSite, request: HttpRequest) -> ModelAdmin[Any] | None:
    if not site.is_registered(get_user_model()):
        return None
    users = site.get_model_admin(get_user_model())
    return users if users.has_view_or_change_permission(request) else None
