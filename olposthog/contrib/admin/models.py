"""What the admin has pages and permissions for: a person, of whom there is no table."""

from __future__ import annotations

from django.db import models


class Nobody(models.Manager["Person"]):
    """Finds nobody, so that whatever goes through all models goes past the table there is not."""

    def get_queryset(self) -> models.QuerySet[Person]:
        """Return nobody."""
        return super().get_queryset().none()


class Person(models.Model):
    """Whoever has flags: a user, a visitor, or any other distinct id."""

    distinct_id = models.TextField(primary_key=True)

    objects = Nobody()

    class Meta:
        managed = False
        base_manager_name = "objects"
        verbose_name = "person"
        verbose_name_plural = "people"
        default_permissions = ("view",)
        permissions = (("clear_flags", "Can clear a person's cached flags"),)

    def __str__(self) -> str:
        return self.distinct_id
