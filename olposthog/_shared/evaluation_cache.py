"""PostHog's answers that are known already: in the shared cache, and in this process.

One entry per question, written once per evaluation, as JSON text under a digest: ids and
properties appear in no key. Each names the generation it belongs to, two random tokens that stand
in the cache as well; clearing replaces a token, and a token that got lost counts as replaced.

A time in the future comes from a wrong clock. It counts as now: the first process that reads it
replaces it in the shared cache.
"""

from __future__ import annotations

import hashlib
import json
import math
import secrets
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum, auto
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from olposthog._evaluation.evaluation import Evaluation
from olposthog._utils import portable_json
from olposthog._utils.memory_cache import MemoryCache

from .clock_skew import ENTRY_SKEW_SECONDS
from .shared_cache import SharedCache

if TYPE_CHECKING:
    from django.core.cache.backends.base import BaseCache

REFRESH_CLAIM_SECONDS = 120
"""How long the claim to refresh an entry is kept: longer than a refresh, and than clocks differ."""
OWN_BYTES = 1000
"""Estimate of the size of an entry in the process, without its evaluation."""
COMING_SECONDS = 2.0
"""How long a new token may wait for its write. Until then, a culled clearing could be undone."""
GENERATION_BUCKETS = 64
"""Clearing one person also clears the others of the same bucket, which spares a row for each."""


class Freshness(Enum):
    """How an evaluation may be used, by its age."""

    FRESH = auto()
    """In place of PostHog."""
    REVALIDATE = auto()
    """In place of PostHog, while another one is requested."""
    STALE = auto()
    """While PostHog cannot be asked."""
    EXPIRED = auto()
    """Not at all."""


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of a question."""

    known: Evaluation | None
    """The newest evaluation that was not cleared, fresh or not; see `EvaluationCache.overdue`."""
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
    stored_at: float
    """The time of the evaluation as the shared cache has it, which may be in the future."""

    @property
    def size(self) -> int:
        """Estimated bytes in memory."""
        return OWN_BYTES + self.evaluation.size


@dataclass(frozen=True, slots=True)
class _Coming:
    """A token that this process is about to write, and until when it may."""

    token: str
    expires_at: float


class EvaluationCache:
    """The entries of one project."""

    def __init__(
        self,
        shared: SharedCache,
        project: str,
        state_key: str,
        *,
        stale_seconds: float = 0,
        revalidate_seconds: float = 0,
        max_own_entries: int = 1000,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shared = shared
        self._clock = clock
        self.stale_seconds = max(stale_seconds, revalidate_seconds)
        self._revalidate_seconds = revalidate_seconds
        self._prefix = f"olposthog:{project}:entry:"
        self._generation_prefix = f"{control_prefix(project)}generation:"
        self._state_key = state_key
        self._wall = wall
        self._coming: dict[str, _Coming] = {}  # tokens that were missing and are being written
        # Counts while the shared cache cannot be read, or has not got an entry yet.
        self._own: MemoryCache[_Own] = MemoryCache(
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
        read = self._read(stored, generation)
        own = self._get_own(question)
        known = read and self._dated(read)
        if own and own.generation == generation and not _is_newer(read, known, own):
            return own.evaluation
        if read is None or known is None:
            return None
        if known is not read:
            self._replace(question, stored, known, generation)
        self._own.put(question, _Own(known, generation, read.evaluated_at), epoch)
        return known

    def own(self, question: str) -> Evaluation | None:
        """Return the newest evaluation that this process has seen and not cleared."""
        own = self._get_own(question)
        return own.evaluation if own else None

    def _get_own(self, question: str) -> _Own | None:
        """Return the same with its generation; this machine's clock may have been set back."""
        epoch = self._own.generation
        own = self._own.get(question)
        if own is None:
            return None
        dated = self._dated(own.evaluation)
        if dated is not own.evaluation:
            own = replace(own, evaluation=dated)
            self._own.put(question, own, epoch)
        return own

    def _dated(self, evaluation: Evaluation) -> Evaluation:
        """Return an evaluation whose times in the future are now; the same one if it has none."""
        now = self._wall()
        if evaluation.newest_time <= now + ENTRY_SKEW_SECONDS:
            return evaluation
        return evaluation.no_later_than(now)

    def keep(self, question: str, evaluation: Evaluation, found: Found) -> None:
        """Store an evaluation that was asked for when `found` was known, without waiting for it."""
        own = _Own(evaluation, found.generation, evaluation.evaluated_at)
        self._own.put(question, own, found.epoch)
        generation = found.generation
        if generation is not None:
            self._shared.later(lambda cache: self._write(cache, question, evaluation, generation))

    def _replace(
        self, question: str, stored: Any, evaluation: Evaluation, generation: tuple[str, str]
    ) -> None:
        """Write an evaluation in place of the text `stored`, without waiting for it.

        Django's caches have no atomic compare-and-set: an entry that another process writes between
        the comparison and the write is lost, as if that process had been the faster one.
        """

        def write(cache: BaseCache) -> None:
            if cache.get(self._key(question)) == stored:
                self._write(cache, question, evaluation, generation)

        self._shared.later(write)

    def _write(
        self, cache: BaseCache, question: str, evaluation: Evaluation, generation: tuple[str, str]
    ) -> None:
        fresh_seconds = self._shared.timeout_seconds
        lifetime = None if fresh_seconds is None else fresh_seconds + self.stale_seconds
        entry = {"generation": generation, "evaluation": evaluation.to_json()}
        cache.set(self._key(question), json.dumps(entry), lifetime)

    def overdue(self, evaluated_at: float) -> float:
        """Return for how many seconds an evaluation has been stale; negative while it is fresh.

        It depends on when it was made, not on whether a cache still has it. A time in the future
        counts as now.
        """
        fresh_seconds = self._shared.timeout_seconds
        if fresh_seconds is None:
            return -math.inf
        return max(0.0, self._wall() - evaluated_at) - fresh_seconds

    def freshness(self, evaluated_at: float) -> Freshness:
        """Return how an evaluation made at a time, in epoch seconds, may be used now."""
        overdue = self.overdue(evaluated_at)
        if overdue < 0:
            return Freshness.FRESH
        if overdue < self._revalidate_seconds:
            return Freshness.REVALIDATE
        return Freshness.STALE if overdue < self.stale_seconds else Freshness.EXPIRED

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
        A token is written once, and soon or not at all: another process may clear meanwhile, and if
        its token gets lost, an older one would make what was cleared valid again.
        """
        if isinstance(stored, str):
            self._coming.pop(key, None)
            return stored
        coming = self._coming.get(key)
        # While the cache refuses writes, the token serves what this process keeps for itself.
        if coming and (self._clock() < coming.expires_at or self._shared.refusal):
            return coming.token
        coming = _Coming(secrets.token_hex(8), self._clock() + COMING_SECONDS)
        self._coming[key] = coming

        def write(cache: BaseCache) -> None:
            if self._clock() < coming.expires_at:
                cache.add(key, coming.token, None)
            if self._coming.get(key) is coming:
                del self._coming[key]

        self._shared.later(write)
        return coming.token

    def _key(self, question: str) -> str:
        return self._prefix + hashlib.sha256(_encoded(question)).hexdigest()

    def _generation_key(self, distinct_id: str | None) -> str:
        if distinct_id is None:
            return f"{self._generation_prefix}all"
        return f"{self._generation_prefix}{zlib.crc32(_encoded(distinct_id)) % GENERATION_BUCKETS}"

    def _read(self, text: Any, generation: tuple[str, str]) -> Evaluation | None:
        try:
            entry = portable_json.read(text)
            if tuple(entry["generation"]) != generation:
                return None
            return Evaluation.from_json(entry["evaluation"])
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
            return None  # nothing there, or not as this version writes it


def _is_newer(stored: Evaluation | None, dated: Evaluation | None, own: _Own) -> bool:
    """Return whether the stored evaluation replaces `own`; its time counts as that of `dated`."""
    if stored is None or dated is None:
        return False
    is_same = dated is not stored and stored.evaluated_at == own.stored_at
    return not is_same and dated.evaluated_at >= own.evaluation.evaluated_at


def _encoded(text: str) -> bytes:
    return text.encode(errors="surrogatepass")  # an id may be any text that Python can hold


def control_prefix(project: str) -> str:
    """Return what the keys of control records begin with.

    They sort after all entries, because `DatabaseCache` culls the first keys.
    """
    return f"olposthog:{project}:zz:"
