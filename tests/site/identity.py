"""Whose flags they are, and which process asks for them."""

from __future__ import annotations

import os
from dataclasses import replace

from django.http import HttpRequest

from olposthog.identity import Identity, default_identity


def of_worker(request: HttpRequest) -> Identity:
    """Return the identity that a visitor has by default, with the process as a property."""
    identity = default_identity(request)
    properties = {**(identity.person_properties or {}), "worker": os.getpid()}
    return replace(identity, person_properties=properties)
