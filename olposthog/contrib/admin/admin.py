"""The pages: look a person up, see the flags, clear what is cached. Looking is no exposure."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

from django.contrib import admin, messages
from django.contrib.admin.utils import quote, unquote
from django.core.exceptions import PermissionDenied
from django.db import connections, transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.decorators import method_decorator
from django.views.decorators.http import require_POST, require_safe

from olposthog import conf
from olposthog._core import engine
from olposthog.identity import cut_distinct_id
from olposthog.inspection import inspect
from olposthog.status import as_known_here, status

from .models import Person
from .search import AT_MOST, SearchForm, find_user, find_users, identity_for, searches_users

CLEARED = "Cleared the cached flags."
UNCONFIRMED = (
    "Cleared the cached flags of one process; the shared cache did not confirm it in time."
)


@admin.register(Person)
class PersonAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # Django's class takes none
    """A search in place of the list, and a person's flags in place of the form."""

    def get_urls(self) -> list[URLPattern]:
        """Add the address that the button posts to."""
        view = self.admin_site.admin_view(self.clear_view)
        # The shared cache may wait for what the request's transaction would lock.
        for alias in connections:
            view = transaction.non_atomic_requests(alias)(view)
        clear = path("<path:object_id>/clear/", view, name="olposthog_admin_person_clear")
        return [clear, *super().get_urls()]

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Nobody may."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Person | None = None) -> bool:
        """Nobody may."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Person | None = None) -> bool:
        """Nobody may."""
        return False

    def has_clear_permission(self, request: HttpRequest) -> bool:
        """Whoever has the permission `olposthog_admin.clear_flags`."""
        return request.user.has_perm("olposthog_admin.clear_flags")  # pyright: ignore[reportAttributeAccessIssue]  # the admin needs such users

    def get_object(
        self, request: HttpRequest, object_id: str, from_field: str | None = None
    ) -> Person | None:
        """Return the person with this distinct id; whatever text it is, there may be one."""
        return Person(object_id) if object_id and "\0" not in object_id else None

    @method_decorator(require_safe)
    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Look a person up."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        form = SearchForm(request.GET)
        term = form.cleaned_data["q"] if form.is_valid() else ""
        hits = find_users(self.admin_site, request, term) if term.strip() else []
        context = {
            "title": "Feature flags of a person",
            "form": form,
            "term": term,
            "searches_users": searches_users(self.admin_site, request),
            "hits": hits[:AT_MOST],
            "has_more": len(hits) > AT_MOST,
            "at_most": AT_MOST,
        }
        return self._page(request, "olposthog_admin/search.html", context, extra_context)

    @method_decorator(require_safe)
    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Show a person's flags."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        person = self._person(request, object_id)
        key = request.GET.get("user")
        user = find_user(self.admin_site, request, key or person.distinct_id)
        identity, user, trouble = identity_for(person.distinct_id, user)
        inspection = inspect(identity)
        current = engine.current()
        circuit, shared_cache = as_known_here(current)
        context = {
            "title": f"Feature flags of {f'{user} ({person})' if user else person}",
            "original": person,
            "change": True,
            "inspection": inspection,
            "flags": [
                (flag, "" if flag.payload is None else json.dumps(flag.payload, ensure_ascii=False))
                for flag in inspection.flags
            ],
            "milliseconds": inspection.seconds * 1000,
            "user_shown": user,
            "trouble": trouble,
            "health": status().headline,
            "circuit": circuit,
            "shared_cache": shared_cache,
            "may_clear": self.has_clear_permission(request)
            and current.settings.mode is conf.Mode.REMOTE,
            "clear_url": self._url("clear", person, key),
        }
        return self._page(request, "olposthog_admin/person.html", context, extra_context)

    @method_decorator(require_POST)
    def clear_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Forget what is cached of a person, and note in the admin's log who asked for it."""
        if not self.has_clear_permission(request):
            raise PermissionDenied
        person = self._person(request, object_id)
        current = engine.current()
        confirmed = current.clear(cut_distinct_id(person.distinct_id))
        self.log_change(request, person, CLEARED if confirmed else UNCONFIRMED)
        if confirmed:
            seconds = current.settings.local_cache_seconds
            done = f"{CLEARED} Processes that hold some of them forget them within {seconds:g} s."
            self.message_user(request, done, messages.SUCCESS)
        else:
            self.message_user(request, f"{UNCONFIRMED} Try it again.", messages.WARNING)
        return HttpResponseRedirect(self._url("change", person, request.GET.get("user")))

    def _person(self, request: HttpRequest, object_id: str) -> Person:
        person = self.get_object(request, unquote(object_id))
        if person is None:
            raise Http404("There is no such distinct id.")
        return person

    def _url(self, page: str, person: Person, key: str | None) -> str:
        url = reverse(
            f"admin:olposthog_admin_person_{page}",
            args=[quote(person.distinct_id)],
            current_app=self.admin_site.name,
        )
        return f"{url}?{urlencode({'user': key})}" if key else url

    def _page(
        self,
        request: HttpRequest,
        template: str,
        context: dict[str, Any],
        extra_context: dict[str, Any] | None,
    ) -> HttpResponse:
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "media": self.media,
            "has_view_permission": self.has_view_permission(request),
            **context,
            **(extra_context or {}),
        }
        return TemplateResponse(request, template, context)
