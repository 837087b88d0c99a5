"""Who comes when: the same sequence for both sides."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from uuid import UUID

from .scenario import Scenario


def cookie_ids(scenario: Scenario) -> list[str]:
    """Return the ids of those who come again without being logged in, the same in each run."""
    random = Random(scenario.seed)
    return [str(UUID(int=random.getrandbits(128), version=4)) for _ in range(scenario.people // 2)]


def visits(scenario: Scenario, cookies: Sequence[str]) -> list[str | None]:
    """Return the `Cookie` header of each request; None for somebody new."""
    random = Random(scenario.seed)
    return [
        None if random.random() < scenario.newcomers else random.choice(cookies)
        for _ in range(scenario.requests)
    ]
