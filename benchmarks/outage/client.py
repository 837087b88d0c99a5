"""The visitors' browsers.

Each request has a connection of its own, as behind an nginx that proxies with its defaults: kept
connections would stay with the worker that took them, and the busiest would get the most.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import aiohttp

from .results import NO_ANSWER

CONNECTIONS = 1000
"""At most so many at once; whoever comes later waits for one, and that counts."""


@asynccontextmanager
async def browsers(
    url: str, cookies: Sequence[str | None], give_up_seconds: float
) -> AsyncIterator[Callable[[int], Awaitable[int]]]:
    """A function that sends the request of a number and returns its status."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=CONNECTIONS, force_close=True),
        timeout=aiohttp.ClientTimeout(total=give_up_seconds),
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as session:

        async def send(number: int) -> int:
            cookie = cookies[number]
            headers = {} if cookie is None else {"Cookie": cookie}
            try:
                async with session.get(url, headers=headers) as response:
                    await response.read()
                    return response.status
            except (aiohttp.ClientError, TimeoutError):
                return NO_ANSWER

        yield send
