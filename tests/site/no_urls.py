"""The routes of a site that has none."""

from typing import Any

urlpatterns: list[Any] = []
