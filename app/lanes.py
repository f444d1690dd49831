"""Lanes: what contends for one thing waits for its turn here, not with a connection in its hands."""

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager

from app.errors import Unavailable


class _Lane:
    __slots__ = ("free", "users")

    def __init__(self, width: int) -> None:
        self.free = asyncio.Semaphore(width)
        self.users = 0


class Lanes:
    """At most `width` at once in each lane, at most `length` more that wait `seconds` for it."""

    def __init__(self, width: int, length: int, seconds: float) -> None:
        self._width, self._length, self._seconds = width, length, seconds
        self._lanes: dict[Hashable, _Lane] = {}

    @asynccontextmanager
    async def enter(self, name: Hashable) -> AsyncIterator[None]:
        """A place in the lane while the block runs. Raises Unavailable: too many wait, or for too long."""
        lane = self._lanes.setdefault(name, _Lane(self._width))
        if lane.users >= self._width + self._length:
            raise Unavailable
        lane.users += 1
        try:
            if lane.free.locked():
                await self._wait(lane)
            else:
                await lane.free.acquire()  # at once, and without a timer
            try:
                yield
            finally:
                lane.free.release()
        finally:
            lane.users -= 1
            if not lane.users:
                del self._lanes[name]

    async def _wait(self, lane: _Lane) -> None:
        try:
            async with asyncio.timeout(self._seconds):
                await lane.free.acquire()
        except TimeoutError:
            raise Unavailable from None
