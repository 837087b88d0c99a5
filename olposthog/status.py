"""What the site's flags stand on at this moment, as an operator or a probe wants to know it.

Looking asks the shared cache, for three seconds at most, and never PostHog; it writes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from django.conf import settings as django_settings

from . import conf
from ._core import engine
from ._core.engine import Engine
from ._evaluation.decision import JSON
from ._local import DefinitionsError, LocalEvaluator, read
from ._local.poller import FETCH_SECONDS, Head
from ._shared.breaker import Breaker, State
from ._utils.log_lines import printable

LATE_INTERVALS = 3
"""After so many intervals without a word from PostHog, definitions count as late."""


NOT_ASKED = "none: PostHog is not asked"
NO_CACHE = "none is used"


class Health(StrEnum):
    """How flags are, in one word."""

    OK = "ok"
    DEGRADED = "degraded"
    """Flags are answered, but not as they should be."""
    MISCONFIGURED = "misconfigured"
    """A setting cannot be used: `settings.FEATURES` answers."""
    DISABLED = "disabled"
    """POSTHOG_ENABLED is off, as is perfectly all right."""


@dataclass(frozen=True, slots=True)
class Circuit:
    """The fleet's circuit breaker."""

    state: State
    changed_at: datetime | None
    """When it opened or closed last; None if it never did."""

    @classmethod
    def of(cls, breaker: Breaker) -> Circuit:
        """Return it as this process knows it, without a look into the shared cache."""
        return cls(breaker.state, _moment(breaker.changed_at))

    def __str__(self) -> str:
        since = f" since {in_words(self.changed_at)}" if self.changed_at else ""
        return f"{self.state}{since}"


@dataclass(frozen=True, slots=True)
class CacheStatus:
    """The shared cache."""

    alias: str
    backend: str
    reachable: bool
    failure: str
    """Why it is not reachable; empty when it is."""
    seconds: float
    """How long it took to read from it, or to find that this is not possible."""


@dataclass(frozen=True, slots=True)
class DefinitionsStatus:
    """The flag definitions that local evaluation goes by."""

    file: str | None
    """The path of the file they come from; None for those of the fleet, fetched from PostHog."""
    changed_at: datetime | None
    """When this version came from PostHog, or the file was written; None while there are none."""
    confirmed_at: datetime | None
    """When PostHog last said that this is the newest version; None for a file."""
    flags: int | None
    """How many flags they define; None where that is not known."""
    failure: str
    """Why there are none, or none newer; empty when all is well."""
    faults: tuple[str, ...] | None = None
    """What is malformed in the file; None for the fleet, whose malformed flags PostHog decides."""


@dataclass(frozen=True, slots=True)
class SettingInForce:
    """A setting as the library uses it."""

    name: str
    value: JSON
    """The value in JSON's types; of a secret one whether it is set, of a callable its path."""
    is_default: bool
    """Whether the site's settings say nothing of it, or None."""


@dataclass(frozen=True, slots=True)
class Status:
    """All of it, at one moment."""

    health: Health
    reasons: tuple[str, ...]
    """Why health is not better, each in half a sentence, free of keys, ids and paths."""
    circuit: Circuit | None
    """None where nobody asks PostHog, or the shared state cannot be read."""
    shared_cache: CacheStatus | None
    """None where there is none, or none is needed."""
    definitions: DefinitionsStatus | None
    """None where there is no local evaluation, or no process has asked for definitions yet."""
    settings: tuple[SettingInForce, ...]
    problems: tuple[conf.Problem, ...]
    """The settings that cannot be used."""

    @property
    def headline(self) -> str:
        """As in `degraded: the circuit is open since 2026-01-31 09:00:00 UTC`."""
        return ": ".join(filter(None, [self.health, "; ".join(self.reasons)]))


def status() -> Status:
    """Look, and judge. Never raises, whatever is broken."""
    settings = conf.current()
    circuit = cache = definitions = None
    if settings.mode is conf.Mode.REMOTE:
        current = engine.current()
        cache, is_seen = _look_into_cache(current)
        if is_seen or current.breaker.state is not State.CLOSED:
            circuit = Circuit.of(current.breaker)
        definitions = _fleets_definitions(current)
    elif settings.enabled and settings.definitions_file:
        definitions = _file(settings.definitions_file)
    reasons = tuple(_reasons(settings, circuit, cache, definitions))
    return Status(
        health=_health(settings, reasons),
        reasons=reasons,
        circuit=circuit,
        shared_cache=cache,
        definitions=definitions,
        settings=tuple(_in_force(settings)),
        problems=settings.problems,
    )


def definitions_in_use() -> LocalEvaluator | None:
    """Return the definitions that local evaluation uses, compiled; None if there are none.

    They are those of the file, or of the fleet. Reads the shared cache for two seconds at most,
    never asks PostHog and never raises.
    """
    settings = conf.current()
    try:
        if settings.mode is conf.Mode.REMOTE:
            poller = engine.current().poller
            return poller.peek_definitions() if poller else None
        if settings.enabled and settings.definitions_file:
            return LocalEvaluator(read(settings.definitions_file))
    except DefinitionsError:
        pass
    return None


def as_known_here(current: Engine) -> tuple[str, str]:
    """Return circuit and shared cache in words, as this process knows them, without a look."""
    if current.settings.mode is not conf.Mode.REMOTE:
        return NOT_ASKED, NO_CACHE
    return str(Circuit.of(current.breaker)), str(current.shared)


def _look_into_cache(current: Engine) -> tuple[CacheStatus | None, bool]:
    """Return how the shared cache is, and whether the breaker has seen the fleet's state in it."""
    shared = current.shared
    if shared.alias is None:
        return None, False
    started = time.monotonic()
    is_seen = current.observe_breaker()
    seconds = time.monotonic() - started
    backend = str(django_settings.CACHES[shared.alias].get("BACKEND"))
    failure = "" if is_seen else shared.failure or "no answer in time"
    return CacheStatus(shared.alias, backend, is_seen, failure, seconds), is_seen


def _fleets_definitions(current: Engine) -> DefinitionsStatus | None:
    head: Head | None = current.poller.peek() if current.poller else None
    if head is None:
        return None
    confirmed_at = _moment(head.checked_at) if head.digest else None
    failure = printable(head.failure)  # any text that the shared cache holds
    late = LATE_INTERVALS * current.settings.poll_interval_seconds + FETCH_SECONDS
    age = time.time() - head.checked_at
    if not failure and age > late:
        failure = f"not confirmed for {how_long(age)}"
    return DefinitionsStatus(None, _moment(head.fetched_at), confirmed_at, head.flags, failure)


def _file(path: str) -> DefinitionsStatus:
    changed_at = None
    try:
        changed_at = _moment(Path(path).stat().st_mtime)
        found = read(path)
    except DefinitionsError as error:
        failure = str(error)
    except OSError as error:
        failure = printable(f"{path} cannot be read: {error.strerror}.")
    else:
        return DefinitionsStatus(path, changed_at, None, len(found.flags), "", found.faults)
    return DefinitionsStatus(path, changed_at, None, None, failure)


def _moment(seconds: float | None) -> datetime | None:
    try:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return None  # somebody else wrote it


def in_words(moment: datetime) -> str:
    """Return a moment in UTC as people read it, to the second."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def how_long(seconds: float) -> str:
    """Return a duration as people read it, in a unit that there are at least two of."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _reasons(
    settings: conf.Settings,
    circuit: Circuit | None,
    cache: CacheStatus | None,
    definitions: DefinitionsStatus | None,
) -> Iterator[str]:
    for problem in settings.problems:
        yield f"{problem.setting} cannot be used"
    if circuit and circuit.state is not State.CLOSED:
        yield f"the circuit is {circuit}"
    if cache and not cache.reachable:
        yield f"the shared cache {cache.alias!r} cannot be read ({cache.failure})"
    if definitions and definitions.failure:
        if definitions.file:
            yield "POSTHOG_FLAG_DEFINITIONS_FILE cannot be used"
        else:
            yield f"flag definitions are not renewed ({definitions.failure})"
    if definitions and definitions.faults:
        yield "POSTHOG_FLAG_DEFINITIONS_FILE has malformed parts"


def _health(settings: conf.Settings, reasons: tuple[str, ...]) -> Health:
    if settings.problems:
        return Health.MISCONFIGURED
    if not settings.enabled:
        return Health.DISABLED
    return Health.DEGRADED if reasons else Health.OK


def _in_force(settings: conf.Settings) -> Iterator[SettingInForce]:
    for spec in fields(conf.Settings):
        if spec.metadata:
            name, value = spec.metadata["name"], getattr(settings, spec.name)
            is_unset = getattr(django_settings, name, None) is None and value == _default(spec)
            is_default = is_unset or not hasattr(django_settings, name)
            yield SettingInForce(name, _shown(spec, value), is_default)


def _default(spec: Field[Any]) -> Any:
    return spec.default if spec.default_factory is MISSING else spec.default_factory()


def _shown(spec: Field[Any], value: Any) -> JSON:
    if spec.metadata["secret"]:
        return "set" if value else "not set"
    if callable(value):
        return str(getattr(django_settings, spec.metadata["name"]))
    if spec.name == "api_host":
        return conf.without_credentials(value)
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if spec.name == "features" else value
