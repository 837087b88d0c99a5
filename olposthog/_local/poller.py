"""Flag definitions from PostHog: one process of the fleet fetches them, the others read along.

PostHog bills each fetch as ten requests, so the fleet makes one in POSTHOG_POLL_INTERVAL. The
definitions stand in the shared cache without an expiry, and stay in use while PostHog has nothing
new, fails, or refuses. All work is done in background threads: one looks, and two fetch.

The shared cache holds a small head under one key, and the text of the definitions in parts. The
head is written last and names the parts. If the cache does not store the parts, the head says so,
and each process fetches the text for itself, at most once in POSTHOG_POLL_INTERVAL.
"""

from __future__ import annotations

import json
import math
import random
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Protocol, TypeVar

from olposthog._posthog import Call
from olposthog._posthog.errors import PostHogError
from olposthog._shared.clock_skew import CONTROL_SKEW_SECONDS
from olposthog._shared.large_text import MAX_PARTS, PackedText, part_keys, unpack
from olposthog._shared.shared_cache import READ_SECONDS, STARTUP_SECONDS, SharedCache
from olposthog._utils.jitter import jittered
from olposthog._utils.log_lines import get_logger
from olposthog._utils.workers import Saturated, Workers
from olposthog.counters import Tally

from .definitions import Definitions, DefinitionsError, parse
from .source import DefinitionsSource

if TYPE_CHECKING:
    from django.core.cache.backends.base import BaseCache

    from olposthog._posthog import Fetched

log = get_logger(__name__)

T = TypeVar("T")

FETCH_SECONDS = 10.0
"""How long a fetch may take; while the fleet has no definitions, also the pause between two."""
FETCHES = Tally("definition_fetches", ("new", "unchanged", "failed"))
"""How fetches of definitions ended."""
LOOK_SECONDS = 5.0
"""How often a process looks whether the fleet has newer definitions, at least."""
MAX_WRITES = 3
"""How often a process tries to store a text before it counts as too large for the shared cache.

SQLite drops single writes while it is locked, and each further one is made at a later look.
"""
CLAIM_SECONDS = 600.0
"""How long the claim of a turn outlives it: machines' clocks do not agree when that is."""


class Fetcher(Protocol):
    """Whoever can ask PostHog for definitions; raises `PostHogError`."""

    def fetch_definitions(
        self, etag: str | None, *, deadline: float, call: Call | None = None
    ) -> Fetched:
        """Return the definitions, or that they are still what `etag` names."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Head:
    """What the fleet knows of the definitions, without the definitions themselves."""

    token: str
    """Names this turn of the fleet, and is never used for another."""
    checked_at: float
    """When PostHog last said what they are; where it never has, when it was first asked."""
    digest: str = ""
    """Of the definitions' text; empty while the fleet has none."""
    etag: str | None = None
    fetched_at: float | None = None
    """When PostHog sent this version."""
    failure: str = ""
    """Why the last fetch failed; empty when it did not."""
    flags: int | None = None
    """How many flags they define; None where an earlier version wrote the head."""
    parts: int = 0
    """How many parts of the text the shared cache holds; 0 if it does not store the text."""

    @classmethod
    def from_text(cls, text: object) -> Head | None:
        """Read what `to_text` wrote; anything else is None."""
        try:
            stored = json.loads(text)  # type: ignore[arg-type]  # whatever the cache holds
            head = cls(**{one.name: stored[one.name] for one in fields(cls) if one.name in stored})
            texts = (head.token, head.digest, head.failure, head.etag or "")
            if not all(isinstance(one, str) for one in texts) or not math.isfinite(head.checked_at):
                return None
            if not math.isfinite(head.fetched_at or 0) or type(head.flags) not in (int, type(None)):
                return None
            if type(head.parts) is not int or not 0 <= head.parts <= MAX_PARTS:
                return None
        except (OverflowError, RecursionError, TypeError, ValueError):
            return None
        return head

    def to_text(self) -> str:
        """Return the head as the shared cache keeps it."""
        return json.dumps(asdict(self))

    @property
    def is_unstored(self) -> bool:
        """Whether there are definitions that the shared cache does not store."""
        return bool(self.digest) and not self.parts


class DefinitionsPoller(DefinitionsSource[T]):
    """One process's share in keeping the fleet's definitions new, and what is made of them."""

    def __init__(
        self,
        fetcher: Fetcher,
        shared: SharedCache,
        prefix: str,
        make: Callable[[Definitions], T],
        *,
        interval_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._fetcher = fetcher
        self._shared = shared
        self._prefix = f"{prefix}definitions:"
        self._make = make
        self._interval = interval_seconds
        self._clock = clock
        self._wall = wall
        self._chance = chance
        self._head: Head | None = None
        self._seen = ""  # the token that stood in the shared cache when it was last read
        self._replaced = ""  # the token in whose place this process has put another
        self._looked_at = -math.inf
        self._begun_between = (-math.inf, math.inf)  # when the head became the fleet's
        self._packed = PackedText("", ())
        self._loaded: T | None = None
        self._loaded_digest = ""
        self._loaded_flags = 0
        self._last_turn = ""
        self._fetched_at = -math.inf
        self._failed_writes = 0
        self._is_unstored = False  # as far as this process knows, and has logged
        self._has_looked = threading.Event()
        self._rests = threading.Event()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._callers = Workers("olposthog-fetch", size=2, backlog=1)

    @property
    def head(self) -> Head | None:
        """What this process knows of the fleet's definitions; None while it knows nothing."""
        return self._head

    def peek(self) -> Head | None:
        """Return what the fleet knows of the definitions, else what this process does.

        Asks the shared cache alone: fetches nothing, claims no turn and starts no thread.
        """
        found = self._shared.get_many([self._key("head")], READ_SECONDS)
        return Head.from_text(found.get(self._key("head"))) if found else self._head

    def peek_definitions(self) -> T | None:
        """Return what is made of the definitions that `peek` is about; None if they cannot be read.

        Raise `DefinitionsError` if this version cannot use them.
        """
        head = self.peek()
        if head is None or head.digest == self._loaded_digest:
            return self._loaded
        text = unpack(self._read_parts(head) or [], head.digest)
        return None if text is None else self._make(parse(text, "PostHog's reply"))

    def current(self) -> T | None:
        """Return what was made of the newest definitions, or None while there are none.

        Never waits. The first call starts the background thread.
        """
        if self._thread is None:
            self._start()
        return self._loaded

    def wait(self, seconds: float) -> None:
        """Wait until this process has read the shared cache, for at most `seconds`."""
        self.current()
        self._has_looked.wait(max(0.0, seconds))

    def settle(self, seconds: float) -> None:
        """Wait for the look under way, which may be the fleet's fetch: a process may end after."""
        if self._thread is not None:
            self._rests.wait(seconds)

    def close(self) -> None:
        """End the thread as soon as it has nothing under way."""
        self._closed.set()
        self._callers.close()

    def look(self) -> None:
        """Take over what the fleet has; fetch if that is due and this process's turn."""
        found = self._shared.get_many([self._key("head")], STARTUP_SECONDS)
        if found is not None and self._take_over(Head.from_text(found.get(self._key("head")))):
            self._looked_at = self._clock()
        self._has_looked.set()
        if self._is_our_turn():
            self._fetch()

    def _start(self) -> None:
        with self._lock:
            if self._thread is not None or self._closed.is_set():
                return
            thread = threading.Thread(
                target=self._keep_looking, name="olposthog-definitions", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:  # the interpreter is going down, or the system is out of threads
                self._has_looked.set()
            else:
                self._thread = thread

    def _keep_looking(self) -> None:
        while not self._closed.is_set():
            self._rests.clear()
            try:
                self.look()
            except Exception:
                log.exception("Looking for flag definitions failed in an unforeseen way.")
            self._has_looked.set()
            self._rests.set()
            self._closed.wait(jittered(min(LOOK_SECONDS, self._interval / 4), self._chance))

    def _take_over(self, head: Head | None) -> bool:
        """Take over what the fleet has; return whether all of it could be read."""
        usable: bool | None = head is not None
        if head is not None and head.digest != self._loaded_digest:
            usable = self._load_shared(head)
        if usable is None:
            return False
        self._seen = head.token if head else ""
        if head is None or not usable or head.token == self._replaced:
            # Not there, not usable, or older. What this process has may be all that the fleet has.
            if self._loaded_digest and self._head:
                self._write(self._head, over=self._seen)
        else:
            dated = self._dated(head)
            self._adopt(dated, self._looked_at)
            if head.parts:
                self._failed_writes, self._is_unstored = 0, False
            if dated is not head:
                self._write(dated, over=head.token)
        return True

    def _dated(self, head: Head) -> Head:
        """Return a head whose times in the future are now; the same one if it has none.

        Processes that live shorter than a clock was ahead would otherwise never fetch.
        """
        now = self._wall()
        if max(head.checked_at, head.fetched_at or 0) <= now + CONTROL_SKEW_SECONDS:
            return head
        fetched_at = None if head.fetched_at is None else min(head.fetched_at, now)
        return replace(head, checked_at=min(head.checked_at, now), fetched_at=fetched_at)

    def _adopt(self, head: Head, not_before: float) -> None:
        if self._head is None or head.token != self._head.token:
            self._begun_between = (not_before, self._clock())
        self._head = head

    def _load_shared(self, head: Head) -> bool | None:
        """Return whether `head` and its text can be used; None if the cache was unreadable.

        The text is loaded, unless the shared cache does not store it: this process then fetches it.
        """
        if not head.digest:
            return not self._loaded_digest
        if head.token == self._replaced:
            return False
        if head.is_unstored:
            return True
        parts = self._read_parts(head)
        if parts is None:
            return None
        text = unpack(parts, head.digest)
        return text is not None and self._load(text)

    def _read_parts(self, head: Head) -> list[object] | None:
        """Return the parts of the text that `head` names; None if the cache was unreadable."""
        keys = part_keys(self._prefix, head.digest, head.parts)
        found = self._shared.get_many(keys, READ_SECONDS)
        return None if found is None else [found.get(key) for key in keys]

    def _load(self, text: str) -> bool:
        try:
            definitions = parse(text, "PostHog's reply")
        except DefinitionsError as error:
            log.debug("Flag definitions cannot be used.", exc_info=error)
            return False
        if definitions.faults:
            log.warning(
                "PostHog's flag definitions have malformed parts. The flags concerned are "
                "undecided, the others take effect: %s",
                definitions.summary_of_faults,
            )
        loaded, self._packed = self._make(definitions), PackedText.of(text)
        self._loaded_digest = self._packed.digest
        self._loaded_flags = len(definitions.flags)
        self._loaded = loaded
        return True

    def _is_our_turn(self) -> bool:
        """Return whether a fetch is due, and the fleet's only one is this process's.

        Turns are counted from the last answer, so a process that dies amid its own costs one.
        """
        head = self._head
        if head and head.is_unstored:
            if self._clock() - self._fetched_at < self._interval:
                return False
            if self._is_behind(head):
                return True
        window = self._interval if head and head.digest else FETCH_SECONDS
        if head is None:
            turn = f"first:{int(self._wall() // window)}"
        else:
            number = int(self._turning_for(head) // window)
            if number < 1:
                return False
            turn = f"{head.token}:{number}"
        if turn == self._last_turn:
            return False
        self._last_turn = turn
        # A cache that cannot say whose turn it is leaves each process to itself.
        lifetime = window + CLAIM_SECONDS
        return self._shared.claim(self._key(f"fetch:{turn}"), lifetime) is not False

    def _is_behind(self, head: Head) -> bool:
        """Return whether this process must fetch the text of `head` from PostHog itself."""
        return head.is_unstored and head.digest != self._loaded_digest

    def _turning_for(self, head: Head) -> float:
        """How long `head` has been the fleet's: the wall clock, held within what this process saw.

        Clocks of machines differ, and one that was wrong for a moment must not hold up the fleet.
        """
        now = self._clock()
        earliest, latest = self._begun_between
        return min(max(self._wall() - head.checked_at, now - latest), now - earliest)

    def _fetch(self) -> None:
        head = self._head
        self._fetched_at = self._clock()
        if head is None:
            head = Head(secrets.token_hex(8), self._wall())
            self._adopt(head, self._clock())
            self._write(head, over=head.token)
        etag = head.etag if head.digest == self._loaded_digest else None
        was_behind = self._is_behind(head)
        try:
            fetched = self._ask(etag)
            if fetched.text is not None and not self._load(fetched.text):
                raise PostHogError("a reply that is not flag definitions")  # noqa: TRY301  # one end
        except PostHogError as error:
            if not self._closed.is_set():
                self._fail(head, str(error))
            return
        FETCHES.count("unchanged" if fetched.text is None else "new")
        if was_behind and not self._is_behind(head):
            return
        now = self._wall()
        updated = replace(
            head,
            token=secrets.token_hex(8),
            checked_at=now,
            digest=self._loaded_digest,
            failure="",
            parts=len(self._packed.parts),
        )
        if fetched.text is not None:
            updated = replace(updated, etag=fetched.etag, fetched_at=now, flags=self._loaded_flags)
        if head.failure:
            log.warning("Flag definitions can be fetched again.")
        self._adopt(updated, self._clock())
        self._replaced = head.token
        self._write(updated, over=head.token)

    def _ask(self, etag: str | None) -> Fetched:
        """Fetch on a worker thread. Abort the fetch if trickled headers outlast its deadline."""
        deadline = self._clock() + FETCH_SECONDS
        call = Call()
        try:
            future = self._callers.submit(
                lambda: self._fetcher.fetch_definitions(etag, deadline=deadline, call=call)
            )
        except Saturated as error:
            raise PostHogError("earlier fetches hang") from error
        try:
            return future.result(FETCH_SECONDS)
        except FutureTimeoutError as error:
            future.cancel()
            call.abort()
            raise PostHogError("timeout") from error

    def _fail(self, head: Head, reason: str) -> None:
        FETCHES.count("failed")
        if not head.failure:
            outcome = (
                "the last good ones stay in use." if self._loaded_digest else "PostHog evaluates."
            )
            log.warning("Flag definitions cannot be fetched (%s); %s", reason, outcome)
        self._head = replace(head, failure=reason)
        self._write(self._head, over=head.token)

    def _write(self, head: Head, *, over: str) -> None:
        """Write without waiting, unless another process has written since this one looked.

        The text comes first, so that a head never names parts that were not written.
        """
        expected = {self._seen, over}
        packed = self._packed if head.digest == self._loaded_digest else None

        def write(cache: BaseCache) -> None:
            stored = Head.from_text(cache.get(self._key("head")))
            if stored is not None and stored.token not in expected:
                return
            parts: int | None = head.parts
            if packed and packed.digest:
                parts = self._store(cache, packed, stored)
            if parts is None:
                return
            cache.set(self._key("head"), replace(head, parts=parts).to_text(), None)
            if stored and stored.parts and head.digest not in ("", stored.digest):
                cache.delete_many(part_keys(self._prefix, stored.digest, stored.parts))

        self._shared.later(write)

    def _store(self, cache: BaseCache, packed: PackedText, stored: Head | None) -> int | None:
        """Return in how many parts the cache stores the text; 0 if it does not, None if unknown."""
        try:
            failure = "" if packed.store(cache, self._prefix) else "it cannot be read back"
        except Exception as error:  # noqa: BLE001  # a backend may raise anything for a large value
            failure = type(error).__name__
        was_unstored = self._is_unstored or (stored is not None and stored.is_unstored)
        if not failure:
            self._failed_writes, self._is_unstored = 0, False
            if was_unstored:
                log.warning("Shared cache %r stores flag definitions again.", self._shared.alias)
            return len(packed.parts)
        self._failed_writes += 1
        if not was_unstored and self._failed_writes < MAX_WRITES:
            return None  # the next look writes again
        if not was_unstored:
            log.warning(
                "Shared cache %r does not store the flag definitions (%s, %d bytes). Each process "
                "fetches them itself, once per POSTHOG_POLL_INTERVAL. Check the cache's limits.",
                self._shared.alias,
                failure,
                sum(map(len, packed.parts)),
            )
        self._is_unstored = True
        cache.delete_many(part_keys(self._prefix, packed.digest, len(packed.parts)))
        return 0

    def _key(self, name: str) -> str:
        return f"{self._prefix}{name}"
