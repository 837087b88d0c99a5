"""`manage.py demo`: everything that the shop needs before it opens."""

import os
from pathlib import Path
from typing import Any

from django.contrib.auth.models import Permission
from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.db import connections

from olposthog import conf
from storefront.models import Customer, Plan

PASSWORD = "demo"
CUSTOMERS = {"ada": Plan.PRO, "grace": Plan.FREE}
OPERATOR = "operator"
MAY = ["view_customer", "view_person", "clear_flags"]  # look customers up, and what they get


class Command(BaseCommand):
    help = "Make the databases, two customers and an operator, as far as they are missing."

    def handle(self, *args: Any, **options: Any) -> None:
        self._say("Preparing the databases, ")
        for connection in connections.all():
            Path(connection.settings_dict["NAME"]).parent.mkdir(parents=True, exist_ok=True)
        call_command("migrate", verbosity=0)
        call_command("createcachetable", database="flags", verbosity=0)
        self._say("the customers... ")
        for username, plan in CUSTOMERS.items():
            if not Customer.objects.filter(username=username).exists():
                Customer.objects.create_user(username, password=PASSWORD, plan=plan)
        self._say("the operator... ")
        if not Customer.objects.filter(username=OPERATOR).exists():
            operator = Customer.objects.create_user(OPERATOR, password=PASSWORD, is_staff=True)
            operator.user_permissions.set(Permission.objects.filter(codename__in=MAY))
        address = f"http://127.0.0.1:{os.environ.get('PORT', '8000')}"
        self._say(
            f"done.\n"
            f"\n"
            f"  The shop      {address}/\n"
            f"  In React      {address}/live/\n"
            f"  Its flags     {address}/api/features/\n"
            f"  Swagger UI    {address}/api/docs/\n"
            f"  The admin     {address}/admin/olposthog_admin/person/\n"
            f"  Its health    {address}/health/\n"
            f"\n"
            f"Visit it, or log in as ada (plan pro) or grace (plan free), password {PASSWORD};\n"
            f"in the admin as {OPERATOR}, with the same password.\n"
            f"Flags come from {_origin()}.\n"
        )

    def _say(self, text: str) -> None:
        self.stdout.write(text, ending="")
        self.stdout.flush()


def _origin() -> str:
    settings = conf.current()
    if not settings.enabled:
        return "settings.FEATURES, because POSTHOG_ENABLED is off"
    if not settings.definitions_file:
        return settings.api_host
    return f"{settings.definitions_file}: edit it, and look again five seconds later"
