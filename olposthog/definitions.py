"""Flag definitions: what local evaluation evaluates, and which runtime each flag is for."""

from __future__ import annotations

import logging
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from .protocol import loads
from .snapshot import Runtime

log = logging.getLogger(__name__)

T = TypeVar("T")

RUNTIMES = (None, "all", *(runtime.value for runtime in Runtime))
LOOK_AGAIN_SECONDS = 1.0
"""How often the file's modification time is looked at, at most."""


class DefinitionsError(ValueError):
    """A definitions file that cannot be used; the text says why and where."""


@dataclass(frozen=True, eq=False)
class Definitions:
    """One version of a project's flag definitions, as PostHog's definitions endpoint has them."""

    data: Mapping[str, Any]
    """`flags`, `group_type_mapping`, `cohorts`, and perhaps more: the SDK's own format."""
    runtimes: Mapping[str, str]
    """For each flag `all`, `server` or `client`."""
    versions: Mapping[str, tuple[int | None, int | None]]
    """For each flag its id and version."""

    def suits(self, key: str, runtime: Runtime) -> bool:
        """Return whether `key` may be used in `runtime`; an unknown key may."""
        return self.runtimes.get(key, "all") in ("all", runtime.value)


def parse(text: str | bytes, origin: str) -> Definitions:
    """Read definitions from JSON; raises `DefinitionsError` that names `origin` and the fault."""
    try:
        data = loads(text)
    except ValueError as error:
        raise DefinitionsError(f"{origin} is not JSON: {error}") from error
    if not isinstance(data, dict) or not isinstance(data.get("flags"), list):
        raise DefinitionsError(f'{origin} must be a JSON object with a list under "flags".')
    for name in ("group_type_mapping", "cohorts"):
        if not isinstance(data.setdefault(name, {}), dict):
            raise DefinitionsError(f'{origin} has no JSON object under "{name}".')
    for index, flag in enumerate(data["flags"]):
        fault = _fault(flag)
        if fault:
            raise DefinitionsError(f"{origin}, flags[{index}]: {fault}")
    return Definitions(
        data=data,
        runtimes={flag["key"]: flag.get("evaluation_runtime") or "all" for flag in data["flags"]},
        versions={flag["key"]: (flag.get("id"), flag.get("version")) for flag in data["flags"]},
    )


def _fault(flag: Any) -> str:
    """Return what the SDK would stumble over in a flag, each time that it evaluates it."""
    if not isinstance(flag, dict) or not isinstance(flag.get("key"), str) or not flag["key"]:
        return 'it has no "key".'
    return next(_faults_of_filters(flag["key"], flag.get("filters")), "")


def _faults_of_filters(key: str, filters: Any) -> Iterator[str]:
    if not isinstance(filters, dict):
        yield f'{key} has no JSON object "filters".'
        return
    multivariate = _or(filters.get("multivariate"), {})
    if not isinstance(multivariate, dict) or not isinstance(_or(filters.get("payloads"), {}), dict):
        yield f'"multivariate" and "payloads" of {key} must be JSON objects.'
        return
    groups = _or(filters.get("groups"), [])
    variants = _or(multivariate.get("variants"), [])
    if not _are_objects(groups) or not _are_objects(variants):
        yield f'"groups" and "variants" of {key} must be lists of JSON objects.'
        return
    properties = [_or(group.get("properties"), []) for group in groups]
    if not all(_are_objects(each) for each in properties):
        yield f'"properties" in the groups of {key} must be lists of JSON objects.'
        return
    if not all(isinstance(one.get("key"), str) for each in properties for one in each):
        yield f'a property in the groups of {key} has no "key".'
    if not all(isinstance(variant.get("key"), str) for variant in variants):
        yield f'a variant of {key} has no "key".'
    shares = [_or(group.get("rollout_percentage"), 100) for group in groups]
    shares += [variant.get("rollout_percentage") for variant in variants]
    if not all(isinstance(share, int | float) for share in shares):
        yield f'a "rollout_percentage" of {key} is not a number.'


def _or(value: Any, otherwise: Any) -> Any:
    return otherwise if value is None else value


def _are_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def read(path: str) -> Definitions:
    """Read the file at `path`; raises `DefinitionsError` if it is missing or malformed."""
    try:
        text = _content(Path(path))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DefinitionsError(f"{path} cannot be read: {reason}.") from error
    return parse_file(text, path)


def _content(file: Path) -> bytes:
    mode = file.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # a pipe would keep us waiting for ever
        raise ValueError("it is no regular file")
    return file.read_bytes()


def parse_file(text: str | bytes, origin: str) -> Definitions:
    """Read definitions as `parse` does, and judge them as the content of a file."""
    definitions = parse(text, origin)
    known: set[str] = set()
    for index, flag in enumerate(definitions.data["flags"]):
        if flag["key"] in known:
            raise DefinitionsError(f"{origin}, flags[{index}]: {flag['key']} was there before.")
        known.add(flag["key"])
        slip = _slip(flag)
        if slip:
            raise DefinitionsError(f"{origin}, flags[{index}]: {slip}")
    return definitions


def _slip(flag: Mapping[str, Any]) -> str:
    """Return what a hand writes wrong and PostHog never does."""
    if flag.get("evaluation_runtime") not in RUNTIMES:
        return f'"evaluation_runtime" of {flag["key"]} must be "all", "server", "client" or null.'
    if not isinstance(flag.get("active", True), bool):
        return f'"active" of {flag["key"]} must be true or false.'
    return ""


class DefinitionsFile(Generic[T]):
    """What is made of the definitions in a file, and made again when it changes.

    A file that breaks while the process runs costs one warning for each fault: the last good
    version stays.
    """

    def __init__(
        self,
        path: str,
        make: Callable[[Definitions], T],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._make = make
        self._clock = clock
        self._lock = threading.Lock()
        self._looked_at = -float("inf")
        self._stamp: tuple[int, ...] | None = None
        self._complaint = ""
        self._loaded: T | None = None

    def current(self) -> T | None:
        """Return the newest good version, or None while there has been none."""
        if self._clock() - self._looked_at < LOOK_AGAIN_SECONDS:
            return self._loaded
        with self._lock:
            if self._clock() - self._looked_at >= LOOK_AGAIN_SECONDS:
                self._look()
                self._looked_at = self._clock()
        return self._loaded

    def _look(self) -> None:
        try:
            status = Path(self._path).stat()
        except OSError as error:
            self._stamp = None
            self._complain(str(error))
            return
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._loaded = self._make(read(self._path))
        except DefinitionsError as error:
            self._complain(str(error))
        else:
            if self._complaint:
                log.warning("POSTHOG_FLAG_DEFINITIONS_FILE can be used again.")
            self._complaint = ""

    def _complain(self, complaint: str) -> None:
        if complaint == self._complaint:
            return
        self._complaint = complaint
        outcome = (
            "the last good version stays in use" if self._loaded else "settings.FEATURES answers"
        )
        log.warning("POSTHOG_FLAG_DEFINITIONS_FILE cannot be used; %s: %s", outcome, complaint)
