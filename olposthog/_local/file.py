"""Flag definitions in a file, read again when the file changes."""

from __future__ import annotations

import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from olposthog._utils.log_lines import get_logger

from .definitions import Definitions, DefinitionsError, parse, parse_strictly
from .source import DefinitionsSource

log = get_logger(__name__)

T = TypeVar("T")

RECHECK_SECONDS = 1.0
"""How often the file's modification time is checked, at most."""


def read(path: str) -> Definitions:
    """Return the definitions in the file at `path`.

    Raise `DefinitionsError` if the file cannot be read, or none of its flags.
    """
    return parse(_content(path), path)


def read_strictly(path: str) -> Definitions:
    """Return the definitions in the file at `path`. Raise `DefinitionsError` for any fault."""
    return parse_strictly(_content(path), path)


def _content(path: str) -> bytes:
    try:
        return _regular(Path(path)).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DefinitionsError(f"{path} cannot be read: {reason}.") from error


def _regular(file: Path) -> Path:
    mode = file.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # reading a pipe might never end
        raise ValueError("it is no regular file")
    return file


class DefinitionsFile(DefinitionsSource[T]):
    """The definitions in a file, and what `make` returns for them.

    While the file cannot be read, the last good version stays in use. Each fault is logged once.
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
        self._checked_at = -float("inf")
        self._stamp: tuple[int, ...] | None = None
        self._failure = ""
        self._loaded: T | None = None

    def current(self) -> T | None:
        """Return what was made of the newest good version; None while there has been none."""
        if self._clock() - self._checked_at < RECHECK_SECONDS:
            return self._loaded
        with self._lock:
            if self._clock() - self._checked_at >= RECHECK_SECONDS:
                self._check()
                self._checked_at = self._clock()
        return self._loaded

    def _check(self) -> None:
        try:
            status = Path(self._path).stat()
        except OSError as error:
            self._stamp = None
            self._log_failure(str(error))
            return
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            definitions = read(self._path)
        except DefinitionsError as error:
            self._log_failure(str(error))
            return
        if self._failure:
            log.warning("POSTHOG_FLAG_DEFINITIONS_FILE can be used again.")
        self._failure = ""
        if definitions.faults:
            log.warning(
                "POSTHOG_FLAG_DEFINITIONS_FILE has malformed parts. The flags concerned are "
                "undecided, the others take effect: %s, %s",
                self._path,
                definitions.summary_of_faults,
            )
        self._loaded = self._make(definitions)

    def _log_failure(self, failure: str) -> None:
        if failure == self._failure:
            return
        self._failure = failure
        outcome = (
            "the last good version stays in use" if self._loaded else "settings.FEATURES is used"
        )
        log.warning("POSTHOG_FLAG_DEFINITIONS_FILE cannot be used; %s: %s", outcome, failure)
