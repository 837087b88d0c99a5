"""The flags of one person as an operator sees them: for commands, the admin and whoever debugs.

Looking is no exposure. It costs what any evaluation costs, once for each runtime.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from django.contrib.sessions.backends.base import SessionBase
from django.http import HttpRequest

from ._core import engine
from ._core.visibility import is_internal, is_visible
from ._evaluation.decision import JSON, LOCAL_REASON, Decision
from ._utils.log_lines import printable
from .features import evaluate
from .identity import Identity, identify
from .snapshot import FlagSnapshot, Runtime, Source
from .undecided import Undecided

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractBaseUser

FAILED = "PostHog failed to compute it"


@dataclass(frozen=True, slots=True)
class InspectedFlag:
    """One flag of a person."""

    key: str
    value: bool | str | None
    """On, off, or the name of a variant; None for a flag without a value: callers' defaults apply.

    That is a flag which nobody decided, and which `settings.FEATURES` does not have.
    """
    payload: JSON
    reason: str
    """Why PostHog decided so, in its words, or that it failed to; else empty."""
    source: Source
    """Where this value came from. `fallback` stands for `settings.FEATURES` and for no value."""
    undecided: Undecided | None
    """Why the definitions cannot decide the flag for this person; None if they can, or lack it."""
    server: bool
    """Whether Python code gets it; PostHog lets a flag be for browsers only."""
    browsers: bool
    """Whether browsers may see it."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """The flags of one person at one moment."""

    distinct_id: str
    source: Source
    """Where the flags came from; the less good one where Python code and browsers differ.

    `fallback` where definitions alone are used and leave a flag undecided.
    """
    evaluated_at: datetime
    seconds: float
    """How long the answer took: both evaluations, or a look into a cache."""
    flags: tuple[InspectedFlag, ...]
    """By key: all that are known, without those that PostHog makes for its own use.

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
        max(_source(server), _source(client), key=list(Source).index),  # they stand in that order
        server.evaluated_at,
        time.monotonic() - started,
        tuple(_flags(server, client)),
    )


def known_keys(snapshot: FlagSnapshot) -> set[str]:
    """Return the keys of all flags that are known, also of those without a value."""
    failed = snapshot.evaluation.failed if snapshot.evaluation else ()
    return {*snapshot.flags, *failed, *engine.current().defined_keys(snapshot.runtime)}


def _flags(server: FlagSnapshot, client: FlagSnapshot) -> Iterator[InspectedFlag]:
    for_server, for_client = _rows(server), _rows(client)
    for key in sorted({*for_server, *for_client}):
        of_server, of_client = for_server.get(key), for_client.get(key)
        is_shown = of_client is not None and is_visible(key)
        if of_server and of_client and is_shown and _answer(of_server) != _answer(of_client):
            yield replace(of_server, server=True)
            yield replace(of_client, browsers=True)
        elif of_server:
            yield replace(of_server, server=True, browsers=is_shown)
        elif of_client:
            yield replace(of_client, browsers=is_shown)


def _rows(snapshot: FlagSnapshot) -> dict[str, InspectedFlag]:
    """Return the flags of one runtime by key, as if nobody could see them."""
    values = {**dict.fromkeys(known_keys(snapshot)), **snapshot.flags}
    payloads = {**snapshot.payloads}
    return {
        key: InspectedFlag(
            key=key,
            value=value,
            payload=payloads.get(key),
            reason=reason_of(snapshot, key),
            source=source_of(snapshot, key),
            undecided=snapshot.undecided.get(key),
            server=False,
            browsers=False,
        )
        for key, value in values.items()
        if not is_internal(key)
    }


def _answer(flag: InspectedFlag) -> tuple[bool | str | None, JSON]:
    return flag.value, flag.payload


def _source(snapshot: FlagSnapshot) -> Source:
    """Return the source of a snapshot; `local` only if the definitions decided all their flags."""
    if snapshot.source is Source.LOCAL and any(
        _decision(snapshot, key) is None and not is_internal(key) for key in snapshot.undecided
    ):
        return Source.FALLBACK
    return snapshot.source


def reason_of(snapshot: FlagSnapshot, key: str) -> str:
    """Return why PostHog decided so, in its words, or that it failed to; else nothing."""
    decision = _decision(snapshot, key)
    if decision:
        return decision.description or decision.reason
    return FAILED if snapshot.evaluation and key in snapshot.evaluation.failed else ""


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
            f"POSTHOG_API_IDENTITY cannot say who {printable(str(user))} is without a real "
            f"request: {error!r}. Look the person up by distinct id instead."
        ) from error
    if not identity.distinct_id:
        raise LookupError(
            f"POSTHOG_API_IDENTITY gives {printable(str(user))} no distinct id: nothing is "
            "evaluated, and the flags are settings.FEATURES."
        )
    return identity
