"""A WSGI application that answers with a flag of the person in the query string."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import django

django.setup()

from olposthog.features import is_enabled  # noqa: E402  # Django comes first


def application(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    """Answer with whether the flag is on; reading it is an exposure."""
    value = is_enabled("new-nav", opt_unique_id=environ["QUERY_STRING"])
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(value).encode()]
