"""PostHog's answers that are known already: in the shared cache, and in this process.

One entry per question, written once per evaluation, as JSON text under a digest: ids and
properties appear in no key. Each names the generation it belongs to, two random tokens that stand
in the cache as well; clearing replaces a token, and a token that got lost counts as replaced.
"""

from __future__ import annotations

import hashlib
import json
import math
import secrets
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from . import portable
from .cache import ProcessCache, SharedCache
from .snapshot import Evaluation

if TYPE_CHECKING:
    from django.core.cache.backends.base import BaseCache

REFRESH_CLAIM_SECONDS = 120
"""How long the claim to refresh an entry is kept: longer than a refresh, and than clocks differ."""
OWN_BYTES = 1000
"""Estimate of the size of an entry in the process, without its evaluation."""
GENERATION_BUCKETS = 64
"""Clearing one person also clears the others of the same bucket, which spares a row for each."""


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of a question."""

    known: Evaluation | None
    """The newest evaluation that was not cleared, fresh or not; see `Entries.overdue`."""
    counterpart: Evaluation | None
    """The same for the other runtime."""
    state: object
    """The circuit breaker's state as the shared cache has it; None when it is missing there."""
    generation: tuple[str, str] | None
    """What an evaluation from now on belongs to; None when the shared cache could not be read."""
    epoch: object
    """The same, within this process."""


@dataclass(frozen=True, slots=True)
class _Own:
    """An evaluation that this process has seen, and the generation it belongs to."""

    evaluation: Evaluation
    generation: tuple[str, str] | None

    @property
    def size(self) -> int:
        """Estimated bytes in memory."""
        return OWN_BYTES + self.evaluation.size


class Entries:
    """The entries of one project."""

    def __init__(
        self,
        shared: SharedCache,
        project: str,
        state_key: str,
        *,
        stale_seconds: float = 0,
        max_own_entries: int = 1000,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._shared = shared
        self.stale_seconds = stale_seconds
        self._prefix = f"olposthog:{project}:entry:"
        self._generation_prefix = f"{control_prefix(project)}generation:"
        self._state_key = state_key
        self._wall = wall
        self._coming: dict[str, str] = {}  # tokens that were missing and are being written
        # Counts while the shared cache cannot be read, or has not got an entry yet.
        self._own: ProcessCache[_Own] = ProcessCache(
            math.inf, max_own_entries, size_of=attrgetter("size")
        )

    def read(self, question: str, counterpart: str, distinct_id: str, seconds: float) -> Found:
        """Return what is known, asking the shared cache for `seconds` at most.

        `counterpart` is the question about the same person in the other runtime.
        """
        epoch = self._own.generation
        keys = [self._key(question), self._key(counterpart)]
        tokens = [self._generation_key(None), self._generation_key(distinct_id)]
        found = self._shared.get_many([*keys, self._state_key, *tokens], seconds)
        if found is None:
            return Found(self.own(question), self.own(counterpart), None, None, epoch)
        everyone, bucket = (self._token(name, found.get(name)) for name in tokens)
        generation = (everyone, bucket)
        known, other = (
            self._newest(one, found.get(key), generation, epoch)
            for one, key in zip((question, counterpart), keys, strict=True)
        )
        return Found(known, other, found.get(self._state_key), generation, epoch)

    def _newest(
        self, question: str, stored: Any, generation: tuple[str, str], epoch: object
    ) -> Evaluation | None:
        """Return the newer one of what the shared cache has stored and this process has seen."""
        known = self._read(stored, generation)
        own = self._own.get(question)
        if own and own.generation == generation and not _is_newer(known, own.evaluation):
            return own.evaluation
        if known is not None:
            self._own.put(question, _Own(known, generation), epoch)
        return known

    def own(self, question: str) -> Evaluation | None:
        """Return the newest evaluation that this process has seen and not cleared."""
        own = self._own.get(question)
        return own.evaluation if own else None

    def keep(self, question: str, evaluation: Evaluation, found: Found) -> None:
        """Store an evaluation that was asked for when `found` was known, without waiting for it."""
        self._own.put(question, _Own(evaluation, found.generation), found.epoch)
        if found.generation is None:
            return
        fresh_seconds = self._shared.timeout_seconds
        lifetime = None if fresh_seconds is None else fresh_seconds + self.stale_seconds

        def write(cache: BaseCache) -> None:
            entry = {"generation": found.generation, "evaluation": evaluation.to_json()}
            cache.set(self._key(question), json.dumps(entry), lifetime)

        self._shared.later(write)

    def overdue(self, evaluated_at: float) -> float:
        """Return for how many seconds an evaluation has been stale; negative while it is fresh.

        It depends on when it was made, not on whether a cache still has it.
        """
        fresh_seconds = self._shared.timeout_seconds
        if fresh_seconds is None:
            return -math.inf
        return self._wall() - evaluated_at - fresh_seconds

    def claim_refresh(self, question: str, known: Evaluation, attempt: int) -> bool:
        """Return whether this process is the one in the fleet to replace an overdue evaluation."""
        name = f"{self._key(question)}:{known.evaluated_at}:{attempt}"
        return self._shared.claim(name, REFRESH_CLAIM_SECONDS) is not False

    def clear(self, distinct_id: str | None, seconds: float) -> bool:
        """Make a person's entries, or all, misses; return whether the fleet knows it in time."""
        self._own.clear()
        if self._shared.alias is None:
            return True
        key, token = self._generation_key(distinct_id), secrets.token_hex(8)
        self._coming.pop(key, None)

        def write(cache: BaseCache) -> bool:
            cache.set(key, token, None)
            # `DatabaseCache` drops a write in silence when SQLite is locked, by the caller perhaps.
            return bool(cache.get(key) == token)

        return self._shared.write(write, seconds)

    def _token(self, key: str, stored: Any) -> str:
        """Return the token under `key`; where there is none, write one without waiting for it.

        Entries of a token that another process outran are misses, which costs one evaluation.
        """
        if isinstance(stored, str):
            self._coming.pop(key, None)
            return stored
        token = self._coming.setdefault(key, secrets.token_hex(8))

        def write(cache: BaseCache) -> None:
            cache.add(key, token, None)
            self._coming.pop(key, None)

        self._shared.later(write)
        return token

    def _key(self, question: str) -> str:
        return self._prefix + hashlib.sha256(_encoded(question)).hexdigest()

    def _generation_key(self, distinct_id: str | None) -> str:
        if distinct_id is None:
            return f"{self._generation_prefix}all"
        return f"{self._generation_prefix}{zlib.crc32(_encoded(distinct_id)) % GENERATION_BUCKETS}"

    def _read(self, text: Any, generation: tuple[str, str]) -> Evaluation | None:
        try:
            entry = portable.read(text)
            if tuple(entry["generation"]) != generation:
                return None
            return Evaluation.from_json(entry["evaluation"])
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
            return None  # nothing there, or not as this version writes it


def _is_newer(one: Evaluation | None, other: Evaluation) -> bool:
    return one is not None and one.evaluated_at >= other.evaluated_at


def _encoded(text: str) -> bytes:
    return text.encode(errors="surrogatepass")  # an id may be any text that Python can hold


def control_prefix(project: str) -> str:
    """Return what the keys of control records begin with.

    They sort after all entries, because `DatabaseCache` culls the first keys.
    """
    return f"olposthog:{project}:zz:"
