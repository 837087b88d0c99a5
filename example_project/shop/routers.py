"""Which database holds what."""

from typing import Any

from django.db.models import Model

CACHE = "django_cache"
"""The app label under which Django's `DatabaseCache` asks for a database."""


class CacheRouter:
    """Keeps the cache's table, and nothing else, in the database `flags`."""

    def db_for_read(self, model: type[Model], **hints: Any) -> str | None:
        return "flags" if model._meta.app_label == CACHE else None  # noqa: SLF001  # documented by Django

    db_for_write = db_for_read

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool:
        return (db == "flags") == (app_label == CACHE)
