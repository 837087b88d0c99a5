"""The functions that a site calls. None raises, or waits long, because PostHog is down.

The value of a flag is PostHog's, fresh or cached, else `settings.FEATURES[name]`, else the caller's
default, else False. An explicit off from PostHog beats `settings.FEATURES`.

All functions evaluate for one person: the one with `opt_unique_id` (text, an int or a UUID; when
left out, the server itself), whom the keywords of `About` tell more of. They raise for a caller's
own mistakes only: TypeError for a name that is no string, an id of another type, or an id beside a
request; TypeError or ValueError for properties that are not JSON values.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, cast

from asgiref.sync import sync_to_async

from . import _posthog, conf
from ._core import engine, hooks
from ._core.context import EvaluationContext, Key, Keys, key_of_person
from ._evaluation.decision import JSON
from ._utils.log_lines import get_logger
from .identity import Identity, UniqueId, cut_distinct_id, distinct_id_of, identify, time_out
from .snapshot import FlagSnapshot, Runtime

if TYPE_CHECKING:
    from django.http import HttpRequest

    from ._core.engine import Engine

log = get_logger(__name__)


class About(TypedDict, total=False):
    """What flags may depend on beside the id. Values are JSON values, dates or UUIDs."""

    person_properties: Mapping[str, Any] | None
    """Merged over `{"environment": settings.ENVIRONMENT, "user_id": <the id>}`."""
    groups: Mapping[str, str | int] | None
    """The person's group key by group type, as in `{"company": "acme"}`."""
    group_properties: Mapping[str, Mapping[str, Any]] | None
    """Properties of those groups by group type."""
    device_id: str | None
    """The id that flags bucketed by device are hashed by; without one PostHog decides them."""
    request: HttpRequest | None
    """Instead of an id and all of the above: the person whom the REST API would see."""


ARGUMENTS = frozenset(About.__annotations__)


def configure() -> None:
    """Make ready what the settings ask for. Idempotent; `AppConfig.ready()` calls it.

    With POSTHOG_ENABLED, `posthog.capture(…)` and the SDK's other functions work from now on. No
    client, thread or socket is made before the first use.
    """
    settings = conf.current()
    if settings.mode in (conf.Mode.REMOTE, conf.Mode.ISOLATED):
        _posthog.install_client()


def default_unique_id() -> str:
    """Return the id of the server itself: `settings.HOSTNAME`, else the machine's host name."""
    return conf.current().hostname


def is_enabled(
    name: str,
    default: bool | None = None,
    opt_unique_id: UniqueId = None,
    **about: Unpack[About],
) -> bool:
    """Return whether the flag is on; a variant counts as on. Reports the exposure."""
    return bool(_value("is_enabled", name, default, opt_unique_id, about))


def get_feature_flag(
    name: str,
    default: bool | str | None = None,
    opt_unique_id: UniqueId = None,
    **about: Unpack[About],
) -> bool | str:
    """Return the flag's variant, or whether it is on if it has none. Reports the exposure."""
    return _value("get_feature_flag", name, default, opt_unique_id, about)


def get_feature_flag_payload(
    name: str, opt_unique_id: UniqueId = None, **about: Unpack[About]
) -> JSON:
    """Return the flag's payload, decoded, or None if it has none. Reports no exposure."""
    keys = (_checked(name),)
    snapshot = _evaluate("get_feature_flag_payload", opt_unique_id, keys=keys, **about)
    value = snapshot.flags.get(name, False)
    if hooks.watcher:
        hooks.watcher.read(name, value, snapshot)
    return deepcopy(snapshot.payloads.get(name))  # the caller may change it


def get_all_feature_flags(
    opt_unique_id: UniqueId = None, **about: Unpack[About]
) -> dict[str, bool | str]:
    """Return all flags: `settings.FEATURES` overlaid with PostHog's. Reports no exposure."""
    return _copied(_evaluate("get_all_feature_flags", opt_unique_id, **about).flags)


def evaluate(
    opt_unique_id: UniqueId = None, *, runtime: Runtime = Runtime.SERVER, **about: Unpack[About]
) -> FlagSnapshot:
    """Return all flags of a runtime with payloads, reasons, source and time. No exposure."""
    return _evaluate("evaluate", opt_unique_id, runtime=runtime, **about)


def for_request(
    request: HttpRequest,
    *,
    runtime: Runtime = Runtime.SERVER,
    claims: Mapping[str, Any] | None = None,
    keys: Collection[str] | None = None,
) -> FlagSnapshot:
    """Return the flags of the person whom `request`, Django's or DRF's, is from.

    The snapshot stays with the request until another user logs in. `claims` are person properties
    that the client claims. They select no person, and what the server knows takes precedence.
    `keys` are the flags that the caller reads, all by default: PostHog is asked only if one of
    them is undecided. Other flags then have the value that the definitions or the fallback give.
    """
    if request is None:
        raise TypeError("for_request() needs a request.")
    return _evaluate(
        "for_request", None, keys=keys, runtime=runtime, claims=claims, request=request
    )


def report_exposure(snapshot: FlagSnapshot, name: str, *, session_id: str | None = None) -> None:
    """Report that the person of `snapshot` was shown its value of the flag, as reading it does.

    Each exposure once in the life of a process, and only what PostHog decided. `session_id` is
    posthog-js's, where a browser says that it showed the flag.
    """
    engine.current().exposures.report(snapshot, _checked(name), session_id)


def clear_cache(opt_unique_id: UniqueId = None) -> None:
    """Forget the flags of one person, or of everyone, in this process and in the shared cache.

    Other processes forget theirs within POSTHOG_LOCAL_CACHE_SECONDS.
    """
    if _in_event_loop():
        _warn_of_blocking("clear_cache")
    distinct_id = None if opt_unique_id is None else cut_distinct_id(distinct_id_of(opt_unique_id))
    engine.current().clear(distinct_id)


async def ais_enabled(
    name: str,
    default: bool | None = None,
    opt_unique_id: UniqueId = None,
    **about: Unpack[About],
) -> bool:
    """`is_enabled` for coroutines."""
    keys = (_checked(name),)
    snapshot = await _aevaluate("ais_enabled", opt_unique_id, keys=keys, **about)
    return bool(_read(snapshot, name, default))


async def aget_feature_flag(
    name: str,
    default: bool | str | None = None,
    opt_unique_id: UniqueId = None,
    **about: Unpack[About],
) -> bool | str:
    """`get_feature_flag` for coroutines."""
    keys = (_checked(name),)
    snapshot = await _aevaluate("aget_feature_flag", opt_unique_id, keys=keys, **about)
    return _read(snapshot, name, default)


async def aget_all_feature_flags(
    opt_unique_id: UniqueId = None, **about: Unpack[About]
) -> dict[str, bool | str]:
    """`get_all_feature_flags` for coroutines."""
    return _copied((await _aevaluate("aget_all_feature_flags", opt_unique_id, **about)).flags)


async def aevaluate(
    opt_unique_id: UniqueId = None, *, runtime: Runtime = Runtime.SERVER, **about: Unpack[About]
) -> FlagSnapshot:
    """`evaluate` for coroutines."""
    return await _aevaluate("aevaluate", opt_unique_id, runtime=runtime, **about)


async def afor_request(
    request: HttpRequest,
    *,
    runtime: Runtime = Runtime.SERVER,
    claims: Mapping[str, Any] | None = None,
    keys: Collection[str] | None = None,
) -> FlagSnapshot:
    """`for_request` for coroutines."""
    if request is None:
        raise TypeError("afor_request() needs a request.")
    return await _aevaluate(
        "afor_request", None, keys=keys, runtime=runtime, claims=claims, request=request
    )


@dataclass(slots=True)
class _Call:
    """One call of a function above: what its sync and its async form have in common."""

    caller: str
    keys: Keys
    about: About
    engine: Engine
    started: float
    context: EvaluationContext

    def remaining(self) -> float:
        """Return the seconds that the caller still waits."""
        return max(0.0, self.started + self.engine.wait_seconds - time.monotonic())

    def lookup(self) -> FlagSnapshot | None:
        """Return the snapshot that the request has already, or one that needs no I/O."""
        request = self.about.get("request")
        kept: _Kept = request.META.get(_KEPT, _NOTHING_KEPT) if request else _NOTHING_KEPT
        known = kept.get((self.engine, self.context.key))
        if known is not None and known.suffices(self.keys):
            return known
        return self.engine.lookup(self.context, self.keys)

    def start(self) -> Future[FlagSnapshot]:
        """Start the evaluation, or join the one under way."""
        return self.engine.start(self.context, self.keys)

    def checked(self, snapshot: FlagSnapshot) -> FlagSnapshot | None:
        """Return what an evaluation returned, unless it was for other keys and lacks these."""
        return snapshot if snapshot.suffices(self.keys) else self.lookup()

    def finish(self, snapshot: FlagSnapshot) -> FlagSnapshot:
        """Keep the snapshot with the request, and call the hook."""
        request = self.about.get("request")
        if request:
            kept = request.META.setdefault(_KEPT, _Kept())
            kept[self.engine, self.context.key] = snapshot
        if hooks.watcher:
            hooks.watcher.answered(self.caller, snapshot, time.monotonic() - self.started)
        return snapshot


def _evaluate(
    caller: str,
    opt_unique_id: UniqueId,
    *,
    keys: Keys = None,
    runtime: Runtime = Runtime.SERVER,
    claims: Mapping[str, Any] | None = None,
    **about: Unpack[About],
) -> FlagSnapshot:
    current = engine.current()
    if not about and runtime is Runtime.SERVER:
        # Nearly every call is this one. An id that is too long for PostHog is not found here.
        known = current.memory.get(key_of_person(distinct_id_of(opt_unique_id)))
        if known is not None and known.suffices(keys):
            if hooks.watcher:
                hooks.watcher.answered(caller, known, 0.0)
            return known
    started = time.monotonic()
    request = about.get("request")
    if request and _in_event_loop():
        _warn_of_blocking(caller)
        # Django refuses to read in an event loop who made a request: that takes another thread.
        identity = current.elsewhere(
            lambda: _identity(opt_unique_id, about), current.wait_seconds
        ) or time_out(request)
    else:
        identity = _identity(opt_unique_id, about)
    call = _Call(caller, keys, about, current, started, _context(identity, runtime, claims))
    snapshot = call.lookup()
    if snapshot is None and not request and _in_event_loop():
        _warn_of_blocking(caller)
    while snapshot is None:
        try:
            snapshot = call.checked(call.start().result(call.remaining()))
        except FutureTimeoutError:
            snapshot = current.give_up(call.context)
    return call.finish(snapshot)


async def _aevaluate(
    caller: str,
    opt_unique_id: UniqueId,
    *,
    keys: Keys = None,
    runtime: Runtime = Runtime.SERVER,
    claims: Mapping[str, Any] | None = None,
    **about: Unpack[About],
) -> FlagSnapshot:
    current = engine.current()
    started = time.monotonic()
    request = about.get("request")
    if request:
        # Who made a request may have to be read from the database.
        identifying = sync_to_async(_identity)(opt_unique_id, about)
        try:
            identity = await asyncio.wait_for(identifying, current.wait_seconds)
        except TimeoutError:
            identity = time_out(request)
    else:
        identity = _identity(opt_unique_id, about)
    call = _Call(caller, keys, about, current, started, _context(identity, runtime, claims))
    snapshot = call.lookup()
    while snapshot is None:
        # Others may share the evaluation: a caller that is cancelled must not cancel it.
        evaluation = asyncio.shield(asyncio.wrap_future(call.start()))
        try:
            snapshot = call.checked(await asyncio.wait_for(evaluation, call.remaining()))
        except TimeoutError:
            snapshot = current.give_up(call.context)
    return call.finish(snapshot)


def _context(
    identity: Identity, runtime: Runtime, claims: Mapping[str, Any] | None
) -> EvaluationContext:
    if claims:
        identity = identity.claiming(claims)
    return EvaluationContext.of(identity, Runtime(runtime))


INSTEAD = {
    "is_enabled": "await ais_enabled()",
    "get_feature_flag": "await aget_feature_flag()",
    "get_all_feature_flags": "await aget_all_feature_flags()",
    "evaluate": "await aevaluate()",
    "for_request": "await afor_request()",
    "clear_cache": "call it through sync_to_async",
}
"""What a coroutine calls in place of a function that can block."""


def _warn_of_blocking(caller: str) -> None:
    if engine.current().log_throttle.allows(caller):
        instead = INSTEAD.get(caller, "await aevaluate() and read it")
        log.warning("%s() can block the event loop it runs in; %s.", caller, instead)


def _identity(opt_unique_id: UniqueId, about: About) -> Identity:
    if not ARGUMENTS.issuperset(about):
        raise TypeError(
            f"There is no argument {', '.join(sorted(about.keys() - ARGUMENTS))}; there are "
            f"opt_unique_id, {', '.join(About.__annotations__)}."
        )
    request = about.get("request")
    if request is None:
        return Identity(
            distinct_id_of(opt_unique_id),
            about.get("person_properties"),
            about.get("groups"),
            about.get("group_properties"),
            device_id=about.get("device_id"),
        )
    tells_more = len(about) > 1 and any(
        value is not None for name, value in about.items() if name != "request"
    )
    if opt_unique_id is not None or tells_more:
        raise TypeError("Give a request, or an id and what is known about it, but not both.")
    return identify(request)


class _Kept(dict[tuple["Engine", Key], FlagSnapshot]):
    """A request's snapshots, which stay here when it is pickled."""

    def __reduce__(self) -> tuple[type[_Kept], tuple[()]]:
        return _Kept, ()


_KEPT = "olposthog.snapshots"
_NOTHING_KEPT = _Kept()


def _value(
    caller: str,
    name: str,
    default: bool | str | None,
    opt_unique_id: UniqueId,
    about: About,
) -> bool | str:
    keys = (_checked(name),)
    return _read(_evaluate(caller, opt_unique_id, keys=keys, **about), name, default)


def _read(snapshot: FlagSnapshot, name: str, default: bool | str | None) -> bool | str:
    value = snapshot.reported.get(name)
    if value is not None and not hooks.watcher:
        return value
    value = snapshot.flags.get(name)
    if hooks.watcher:
        hooks.watcher.read(name, default or False if value is None else value, snapshot)
    if value is None:
        return default or False
    if name not in snapshot.reported:
        report_exposure(snapshot, name)
    if name in snapshot.reported:
        snapshot.reported[name] = value
    return value


def _copied(flags: Mapping[str, bool | str]) -> dict[str, bool | str]:
    # By their own means, and not by `dict`: a strict test's tell which of them may be read.
    return cast("dict[str, bool | str]", flags).copy()


def _checked(name: str) -> str:
    if not isinstance(name, str):
        raise TypeError(f"The name of a flag must be a str, not {type(name).__name__}.")
    return name


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
