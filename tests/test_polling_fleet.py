"""A fleet that polls, simulated: machines, clocks, crashes and losses in thousands of orders.

The processes are real `DefinitionsPoller`s without their threads. Time, the shared cache and
PostHog are the simulator's. Amid a fetch the others go on, and whoever fetches may die.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest

from olposthog._local import Definitions
from olposthog._local.poller import FETCH_SECONDS, LOOK_SECONDS, DefinitionsPoller, Head
from olposthog._posthog import Call, Fetched
from olposthog._posthog.errors import PostHogError

NOON = 1_750_000_000.0
INTERVAL = 60.0
HEAD = "zz:definitions:head"


class Died(BaseException):
    """The process is no more; nothing of it runs on."""


class Store:
    """The shared cache: what stands in it, and when it goes."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._entries: dict[str, tuple[float, Any]] = {}

    def get(self, key: str) -> Any:
        expires, value = self._entries.get(key, (0.0, None))
        return value if expires > self._world.now else None

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        found = {key: self.get(key) for key in keys}
        return {key: value for key, value in found.items() if value is not None}

    def set(self, key: str, value: Any, seconds: float | None) -> None:
        if self._world.holds_texts or key == HEAD or ":fetch:" in key:
            self.write(key, value, seconds)

    def write(self, key: str, value: Any, seconds: float | None) -> None:
        lifetime = float("inf") if seconds is None else seconds
        self._entries[key] = (self._world.now + lifetime, value)

    def delete_many(self, keys: Iterable[str]) -> None:
        self.lose(keys)

    def texts(self) -> list[str]:
        """Return the keys of the parts that stand there."""
        return [key for key in self._entries if key != HEAD and ":fetch:" not in key]

    def lose(self, keys: Iterable[str] | None = None) -> None:
        for key in list(self._entries) if keys is None else keys:
            self._entries.pop(key, None)


class Line:
    """One process's way to the store, which may be cut, or lose what is written."""

    alias = "durable"

    def __init__(self, world: World) -> None:
        self._world = world
        self.cut = False

    def get_many(self, keys: Iterable[str], seconds: float) -> dict[str, Any] | None:
        if self.cut:
            return None
        return self._world.store.get_many(keys)

    def claim(self, key: str, lifetime_seconds: float) -> bool | None:
        if self.cut:
            return None
        if self._world.store.get(key) is not None:
            return False
        self._world.store.set(key, 1, lifetime_seconds)
        self._world.claimed.append(key)
        return True

    def later(self, job: Callable[[Any], object]) -> bool:
        world = self._world
        if not self.cut and world.chance.random() >= world.odds.dropped_write:
            job(world.store)
        return not self.cut


@dataclass
class Member:
    """A process of the fleet."""

    poll: DefinitionsPoller[Definitions]
    line: Line
    looks_at: float
    version: int = -1
    fetching: bool = False
    fetched: bool = False
    """Whether it fetched in its last look: what others fetched, it then sees in the next one."""
    doomed: bool = False
    fetches: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Odds:
    """How likely mishaps are: each at one look, or at one fetch or write."""

    death: float = 0.0
    death_amid_fetch: float = 0.0
    loss: float = 0.0
    lost_part: float = 0.0
    cut: float = 0.0
    outage: float = 0.0
    dropped_write: float = 0.0
    slow_fetch: float = 0.3
    news: float = 0.02


@dataclass
class World:
    """All there is: a clock, a fleet, a store and a PostHog."""

    seed: int
    odds: Odds = Odds()
    skews: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    now: float = 0.0
    version: int = 0
    is_down: bool = False
    holds_texts: bool = True
    deaths: int = 0
    losses: int = 0
    cuts: int = 0
    fetches: list[float] = field(default_factory=list)
    answered_at: float = 0.0
    claimed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.store = Store(self)
        self.fleet = [self.boot(skew) for skew in self.skews]

    def boot(self, skew: float) -> Member:
        line, booted_at = Line(self), self.now
        member = Member(None, line, self.now + self.chance.random())  # type: ignore[arg-type]  # in a moment

        def fetch(etag: str | None, *, deadline: float, call: Call) -> Fetched:
            return self.fetch(member, etag)

        fetcher: Any = type("Fetcher", (), {"fetch_definitions": staticmethod(fetch)})
        shared: Any = line
        member.poll = DefinitionsPoller(
            fetcher,
            shared,
            "zz:",
            lambda definitions: definitions,
            interval_seconds=INTERVAL,
            clock=lambda: self.now - booted_at,
            wall=lambda: NOON + self.now + skew,
        )
        return member

    def fetch(self, member: Member, etag: str | None) -> Fetched:
        """Ask PostHog; meanwhile the others go on."""
        member.fetched = True
        self.fetches.append(self.now)
        member.fetches.append(self.now)
        asked_for, is_down = self.version, self.is_down
        slow = self.chance.random() < self.odds.slow_fetch
        duration = self.chance.uniform(0, FETCH_SECONDS) if slow else 0.0
        member.fetching = True
        self.run_until(self.now + duration)
        member.fetching = False
        if member.doomed or self.chance.random() < self.odds.death_amid_fetch:
            raise Died
        if is_down:
            raise PostHogError("HTTP 500")
        self.answered_at = self.now
        new_etag = f'W/"{asked_for}"'
        if etag == new_etag:
            return Fetched(None, etag)
        return Fetched(json.dumps({"flags": [], "version": asked_for}), new_etag)

    def run_until(self, end: float) -> None:
        """Let everyone look at their times."""
        while True:
            ready = [one for one in self.fleet if not one.fetching and one.looks_at <= end]
            if not ready:
                break
            member = min(ready, key=lambda one: one.looks_at)
            self.now = max(self.now, member.looks_at)
            self.happen(member)
            if member in self.fleet:
                self.look(member)
        self.now = max(self.now, end)

    def look(self, member: Member) -> None:
        member.looks_at, member.fetched = self.now + LOOK_SECONDS, False
        try:
            member.poll.look()
        except Died:
            self.bury(member)
            return
        member.looks_at = max(member.looks_at, self.now)
        self.judge(member)

    def happen(self, member: Member) -> None:
        """Let a mishap befall somebody, perhaps."""
        chance, odds = self.chance.random, self.odds
        if chance() < odds.news:
            self.version += 1
        if chance() < odds.outage:
            self.is_down = not self.is_down
        if chance() < odds.loss:
            self.losses += 1
            self.store.lose()
        if chance() < odds.lost_part:
            self.losses += 1
            self.store.lose([HEAD] if self.chance.random() < 0.5 else self.store.texts())
        if chance() < odds.cut:
            self.cuts += not member.line.cut
            member.line.cut = not member.line.cut
        if chance() < odds.death:
            victim = self.chance.choice(self.fleet)
            if victim.fetching:
                victim.doomed = True
            else:
                self.bury(victim)

    def bury(self, member: Member) -> None:
        """Put a new process in the place of one that died."""
        self.deaths += 1
        position = self.fleet.index(member)
        self.fleet[position] = self.boot(self.skews[position])

    def judge(self, member: Member) -> None:
        """Look at a process that has just looked."""
        loaded = member.poll._loaded
        if member.version >= 0:
            assert loaded is not None, "good definitions were lost"
        if loaded is None:
            return
        version = loaded.document["version"]
        if not self.odds.dropped_write and not self.losses and not self.cuts:
            assert version >= member.version, "older definitions came back"
        member.version = version
        head = Head.from_text(self.store.get(HEAD))
        if not (member.line.cut or member.fetched or self.odds.dropped_write or self.losses):
            if not self.holds_texts:
                return  # it may have to wait for a fetch of its own
            assert head is not None
            assert head.digest == member.poll._loaded_digest, "the fleet has others"

    def settle(self) -> None:
        """Let all be well, and a turn and its looks pass; then everyone must have the newest."""
        self.odds = Odds(news=0)
        self.is_down = False
        for one in self.fleet:
            one.line.cut = False
        began, unfinished = self.now, INTERVAL  # a turn may have been claimed, and come to nothing
        self.run_until(began + unfinished + INTERVAL + FETCH_SECONDS + 2 * LOOK_SECONDS)
        assert {one.version for one in self.fleet} == {self.version}, "not everyone has the newest"
        assert self.answered_at > began


SKEWED = (0.0, 60.0, -60.0, 30.0)
SPREAD = max(SKEWED) - min(SKEWED)
INTERVALS = 6


def worlds(count: int, odds: Odds, skews: tuple[float, ...] = SKEWED) -> Iterable[World]:
    """Yield worlds that went their ways for some intervals, each in an order of its own.

    Mishaps begin when everyone has definitions, and are counted from then on.
    """
    for seed in range(count):
        world = World(seed, skews=skews)
        try:
            world.run_until(2 * INTERVAL)
            assert all(one.version >= 0 for one in world.fleet)
            world.fetches.clear()
            world.claimed.clear()
            world.odds = odds
            world.run_until(world.now + INTERVALS * INTERVAL)
            yield world
            world.settle()
        except AssertionError as error:
            error.add_note(f"in the world of seed {seed}, at {world.now:.1f} s")
            raise


def no_turn_was_taken_twice(world: World) -> bool:
    """Whether every fetch had a turn, and no two had the same."""
    return len(set(world.claimed)) == len(world.claimed) == len(world.fetches)


@pytest.mark.parametrize("skews", [(0.0,), (0.0,) * 4, SKEWED, (5.0, 5.0, 5.0, 86_400.0)], ids=str)
def test_health(skews: tuple[float, ...]) -> None:
    """In health the fleet makes one fetch an interval, whatever its clocks say."""
    for world in worlds(60, Odds(), skews):
        assert no_turn_was_taken_twice(world)
        # A turn is an interval, the rest of the look in which it is noticed, and the fetch.
        slowest = INTERVAL + LOOK_SECONDS + FETCH_SECONDS
        assert INTERVALS * INTERVAL // slowest <= len(world.fetches) <= INTERVALS + 1


@pytest.mark.parametrize("skews", [(0.0,), (0.0,) * 4, SKEWED], ids=str)
def test_start(skews: tuple[float, ...]) -> None:
    """Processes that start together make one fetch, and one for each clock that differs."""
    for seed in range(100):
        world = World(seed, Odds(news=0), skews)
        world.run_until(FETCH_SECONDS)

        assert no_turn_was_taken_twice(world)
        assert 1 <= len(world.fetches) <= len(set(skews)) + 1
        world.settle()


def test_deaths() -> None:
    """A process that dies costs a fetch at most, wherever it was; its turn is not taken again."""
    for world in worlds(100, Odds(death=0.02, death_amid_fetch=0.2)):
        assert no_turn_was_taken_twice(world)
        assert len(world.fetches) <= INTERVALS + 1 + world.deaths


def test_losses() -> None:
    """A loss in the shared cache, of all or a part, costs a fetch at most, and no definitions."""
    for world in worlds(100, Odds(loss=0.01, lost_part=0.01)):
        assert len(world.claimed) - len(set(world.claimed)) <= world.losses
        assert len(world.fetches) <= INTERVALS + 1 + world.losses


def test_outages() -> None:
    """PostHog comes and goes: no more fetches than in health, once there are definitions."""
    for world in worlds(100, Odds(outage=0.03)):
        assert no_turn_was_taken_twice(world)
        assert len(world.fetches) <= INTERVALS + 1


def test_outage_from_the_beginning() -> None:
    """While nobody has definitions, the fleet tries once in a fetch's time.

    A clock that is ahead begins some turns early, which are then not due again.
    """
    tries, early = 10, int(SPREAD / FETCH_SECONDS)
    for seed in range(100):
        world = World(seed, Odds(death=0.01, death_amid_fetch=0.1), SKEWED, is_down=True)
        world.run_until(tries * FETCH_SECONDS)

        assert no_turn_was_taken_twice(world)
        assert tries / 2 <= len(world.fetches) <= tries + early + 2
        world.settle()


def test_cuts() -> None:
    """Who cannot reach the cache fetches for itself, once an interval, and then joins again."""
    for world in worlds(100, Odds(cut=0.03)):
        assert len(set(world.claimed)) == len(world.claimed)
        assert len(world.fetches) <= (INTERVALS + 1) * len(world.fleet)


def test_dropped_writes() -> None:
    """A cache that drops a third of all writes costs no definitions and no second fetch."""
    for world in worlds(100, Odds(dropped_write=0.3)):
        assert no_turn_was_taken_twice(world)
        assert len(world.fetches) <= INTERVALS + 1


def test_texts_that_are_not_stored() -> None:
    """A cache that stores heads only costs each process a fetch a version and interval at most."""
    for seed in range(60):
        world = World(seed, Odds(), SKEWED, holds_texts=False)
        world.run_until(8 * INTERVAL)
        for one in world.fleet:
            pauses = [later - earlier for earlier, later in pairwise(one.fetches)]
            # Before the cache counts as too small, a turn is as long as a fetch.
            assert all(pause >= INTERVAL for pause in pauses[1:]), pauses
        world.settle()


def test_everything_at_once() -> None:
    """Deaths, losses, cuts, outages and dropped writes together: all is well once it is over."""
    odds = Odds(
        death=0.01,
        death_amid_fetch=0.1,
        loss=0.005,
        lost_part=0.01,
        cut=0.01,
        outage=0.02,
        dropped_write=0.05,
    )
    for world in worlds(250, odds):
        assert len(world.claimed) <= len(world.fetches)
