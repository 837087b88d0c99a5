"""Gives the shared cache a database of its own."""

from __future__ import annotations

from typing import Any


class CacheRouter:
    """Everything of Django's database cache is in the database `cache`, the rest in `default`."""

    def db_for_read(self, model: Any, **_: Any) -> str | None:
        return "cache" if model._meta.app_label == "django_cache" else None

    db_for_write = db_for_read

    def allow_migrate(self, db: str, app_label: str, **_: Any) -> bool:
        return (db == "cache") is (app_label == "django_cache")
