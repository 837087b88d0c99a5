"""An open loop: requests leave on schedule, whatever becomes of those before them.

A client that waits for an answer before it sends the next request asks a slow server less, and so
overlooks what it came to measure. Here a request's time counts from when it was due.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from .results import Outcome


async def at_a_steady_rate(
    send: Callable[[int], Awaitable[int]],
    *,
    requests: int,
    rate: float,
    begins: float,
    zero: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> list[Outcome]:
    """Send `requests` by number from the moment `begins` on, `rate` a second; return them in order.

    `send` returns the status of an answer. Moments count from `zero`.
    """

    async def one(number: int, due: float) -> Outcome:
        late = clock() - due
        status = await send(number)
        return Outcome(due=due - zero, seconds=clock() - due, status=status, late=late)

    tasks = []
    for number in range(requests):
        due = begins + number / rate
        while (early := due - clock()) > 0:
            await sleep(early)
        tasks.append(asyncio.ensure_future(one(number, due)))
        await sleep(0)  # it leaves now, also when the next one is overdue
    return await asyncio.gather(*tasks)
