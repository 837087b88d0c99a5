"""The flags of one person as an operator sees them: for commands, the admin and whoever debugs.

Looking is no exposure. It costs what any evaluation costs, once for each runtime.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from django.contrib.sessions.backends.base import SessionBase
from django.http import HttpRequest

from .features import evaluate
from .identity import Identity, identify
from .snapshot import JSON, LOCAL_REASON, Decision, FlagSnapshot, Runtime, Source
from .visibility import is_internal, visible_flags

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractBaseUser


@dataclass(frozen=True, slots=True)
class InspectedFlag:
    """One flag of a person."""

    key: str
    value: bool | str
    """On, off, or the name of a variant."""
    payload: JSON
    reason: str
    """Why PostHog decided so, in its words; empty where `settings.FEATURES` answers."""
    source: Source
    """Where this value came from, which for a flag that PostHog lacks is `fallback`."""
    server: bool
    """Whether Python code gets it; PostHog lets a flag be for browsers only."""
    browsers: bool
    """Whether the REST API shows it."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """The flags of one person at one moment."""

    distinct_id: str
    source: Source
    """Where the answers came from; the less good one where Python code and browsers differ."""
    evaluated_at: datetime
    seconds: float
    """How long the answer took: both evaluations, or a look into a cache."""
    flags: tuple[InspectedFlag, ...]
    """By key, without those that PostHog makes for its own use.

    A flag has two rows where browsers get another value than Python code, as when it is for
    browsers only and `settings.FEATURES` has it too.
    """


def inspect(identity: Identity) -> Inspection:
    """Return what the person gets, in Python code and in browsers."""
    started = time.monotonic()
    server, client = (
        evaluate(
            identity.distinct_id,
            runtime=runtime,
            person_properties=identity.person_properties,
            groups=identity.groups,
            group_properties=identity.group_properties,
            device_id=identity.device_id,
        )
        for runtime in (Runtime.SERVER, Runtime.CLIENT)
    )
    return Inspection(
        server.distinct_id,
        max(server.source, client.source, key=list(Source).index),  # they stand in that order
        server.evaluated_at,
        time.monotonic() - started,
        tuple(_flags(server, client)),
    )


def _flags(server: FlagSnapshot, client: FlagSnapshot) -> Iterator[InspectedFlag]:
    visible = visible_flags(client)
    for key in sorted({*server.flags, *client.flags}):
        if is_internal(key):
            continue
        if key not in server.flags:
            yield _flag(key, client, server=False, browsers=key in visible)
        elif key not in visible or _answer(key, server) == _answer(key, client):
            yield _flag(key, server, server=True, browsers=key in visible)
        else:
            yield _flag(key, server, server=True, browsers=False)
            yield _flag(key, client, server=False, browsers=True)


def _answer(key: str, snapshot: FlagSnapshot) -> tuple[bool | str, JSON]:
    return snapshot.flags[key], snapshot.payloads.get(key)


def _flag(key: str, snapshot: FlagSnapshot, *, server: bool, browsers: bool) -> InspectedFlag:
    return InspectedFlag(
        key=key,
        value=snapshot.flags[key],
        payload=snapshot.payloads.get(key),
        reason=reason_of(snapshot, key),
        source=source_of(snapshot, key),
        server=server,
        browsers=browsers,
    )


def reason_of(snapshot: FlagSnapshot, key: str) -> str:
    """Return why PostHog decided so, in its words; empty where it decided nothing."""
    decision = _decision(snapshot, key)
    return (decision.description or decision.reason) if decision else ""


def source_of(snapshot: FlagSnapshot, key: str) -> Source:
    """Return where the value of one flag came from, which need not be the whole answer's source.

    What definitions decide stays `local`, whatever else is wanting; a flag that PostHog lacks is a
    `fallback`.
    """
    decision = _decision(snapshot, key)
    if snapshot.evaluation is None or decision is None:
        return Source.DISABLED if snapshot.source is Source.DISABLED else Source.FALLBACK
    if decision.reason == LOCAL_REASON:
        return Source.LOCAL
    return Source.STALE if snapshot.evaluation.is_earlier(key) else snapshot.source


def _decision(snapshot: FlagSnapshot, key: str) -> Decision | None:
    return snapshot.evaluation.decisions.get(key) if snapshot.evaluation else None


def identity_of(user: AbstractBaseUser) -> Identity:
    """Return whom flags are evaluated for while `user` is logged in, outside of any request.

    Raises LookupError where POSTHOG_API_IDENTITY needs more of a request than its user.
    """
    request = HttpRequest()
    request.method = "GET"
    request.META.update(SERVER_NAME="localhost", SERVER_PORT="80", REMOTE_ADDR="127.0.0.1")
    request.user = user  # type: ignore[assignment]  # whatever user model the site has
    request.session = SessionBase()
    try:
        identity = identify(request)
    except Exception as error:  # the callable is the site's, and may raise anything
        raise LookupError(
            f"POSTHOG_API_IDENTITY cannot say who {user} is without a real request: {error!r}. "
            "Look the person up by distinct id instead."
        ) from error
    if not identity.distinct_id:
        raise LookupError(
            f"POSTHOG_API_IDENTITY gives {user} no distinct id: nothing is evaluated, and "
            "the flags are settings.FEATURES."
        )
    return identity
