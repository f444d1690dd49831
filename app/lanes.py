"""Lanes: what contends for one thing waits for its turn here, not with a connection in its hands."""

import asyncio
from collections.abc import Hashable

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

    def enter(self, name: Hashable) -> "Stay":
        """A place in the lane while a block runs. Raises Unavailable: too many wait, or for too long."""
        return Stay(self, name)

    async def take(self, name: Hashable) -> None:
        """A place, until it is given back. Raises Unavailable as `enter`."""
        lane = self._lanes.setdefault(name, _Lane(self._width))
        if lane.users >= self._width + self._length:
            raise Unavailable
        lane.users += 1
        try:
            if lane.free.locked():
                await self._wait(lane)
            else:
                await lane.free.acquire()  # at once, and without a timer
        except BaseException:
            self._leave(name, lane)
            raise

    def give_back(self, name: Hashable) -> None:
        """Lets the next one in."""
        lane = self._lanes[name]
        lane.free.release()
        self._leave(name, lane)

    def _leave(self, name: Hashable, lane: _Lane) -> None:
        lane.users -= 1
        if not lane.users:
            del self._lanes[name]

    async def _wait(self, lane: _Lane) -> None:
        try:
            async with asyncio.timeout(self._seconds):
                await lane.free.acquire()
        except TimeoutError:
            raise Unavailable from None


class Stay:
    """A place in a lane, for a block."""

    __slots__ = ("_lanes", "_name")

    def __init__(self, lanes: Lanes, name: Hashable) -> None:
        self._lanes, self._name = lanes, name

    async def __aenter__(self) -> None:
        """Takes it."""
        await self._lanes.take(self._name)

    async def __aexit__(self, *_error: object) -> None:
        """Gives it back."""
        self._lanes.give_back(self._name)
