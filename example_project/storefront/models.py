"""Who buys tea."""

from django.contrib.auth.models import AbstractUser
from django.db import models


class Plan(models.TextChoices):
    FREE = "free"
    PRO = "pro"


class Customer(AbstractUser):
    plan = models.CharField(max_length=10, choices=Plan, default=Plan.FREE)
