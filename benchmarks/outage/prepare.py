"""`python -m benchmarks.outage.prepare`: fill a new database, and print the people's cookies.

Reads from stdin, as JSON, the ids of those who do not log in; as many others do.
"""

from __future__ import annotations

import json
import sys

import django
from django.conf import settings
from django.core.management import call_command
from django.http import HttpResponse


def main() -> None:
    django.setup()
    call_command("migrate", verbosity=0)
    call_command("createcachetable", verbosity=0)
    ids: list[str] = json.load(sys.stdin)
    json.dump(
        [_visitor(id_) for id_ in ids] + [_user(number) for number in range(len(ids))], sys.stdout
    )


def _visitor(id_: str) -> str:
    from .view import COOKIE, SALT

    response = HttpResponse()
    response.set_signed_cookie(COOKIE, id_, salt=SALT)
    return f"{COOKIE}={response.cookies[COOKIE].value}"


def _user(number: int) -> str:
    from django.contrib.auth import get_user_model
    from django.test import Client

    user = get_user_model().objects.create(username=f"user-{number}")
    client = Client()
    client.force_login(user)
    name = settings.SESSION_COOKIE_NAME
    return f"{name}={client.cookies[name].value}"


if __name__ == "__main__":
    main()
