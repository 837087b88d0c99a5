"""What the admin has pages and permissions for: a person, of whom there is no table."""

from __future__ import annotations

from django.db import models


class Person(models.Model):
    """Whoever has flags: a user, a visitor, or any other distinct id."""

    distinct_id = models.TextField(primary_key=True)

    class Meta:
        managed = False
        verbose_name = "person"
        verbose_name_plural = "people"
        default_permissions = ("view",)
        permissions = (("clear_flags", "Can clear a person's cached flags"),)

    def __str__(self) -> str:
        return self.distinct_id
