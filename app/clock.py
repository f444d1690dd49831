"""Waits with an end: one timer for all, and those that end together do so in one turn of the loop."""

import math
from asyncio import Future, TimerHandle, get_running_loop

TICK_SECONDS = 0.25
"""How late a wait may end."""


class Clock:
    """The ends of waits, by the tick behind them."""

    def __init__(self) -> None:
        self._sleepers: dict[int, set[Sleeper]] = {}
        self._timer: TimerHandle | None = None
        self._next_tick: float = math.inf

    def add(self, sleeper: "Sleeper", seconds: float) -> int:
        """Rouses it when so long is over; the tick by which to discard it."""
        tick = math.floor((get_running_loop().time() + seconds) / TICK_SECONDS) + 1
        self._sleepers.setdefault(tick, set()).add(sleeper)
        if tick < self._next_tick:
            self._set(tick)
        return tick

    def discard(self, sleeper: "Sleeper", tick: int) -> None:
        """Rouses it no more."""
        if sleepers := self._sleepers.get(tick):
            sleepers.discard(sleeper)

    def _set(self, tick: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next_tick = tick
        self._timer = get_running_loop().call_at(tick * TICK_SECONDS, self._ring, tick)

    def _ring(self, now: int) -> None:
        self._timer, self._next_tick = None, math.inf
        for tick in [tick for tick in self._sleepers if tick <= now]:
            for sleeper in self._sleepers.pop(tick):
                sleeper.rouse()
        if self._sleepers:
            self._set(min(self._sleepers))


class Sleeper:
    """Waits to be woken; one at a time waits for it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._is_woken = False
        self._waiting: Future[None] | None = None

    def wake(self) -> None:
        """Ends its wait, or the next one."""
        self._is_woken = True
        self.rouse()

    def rouse(self) -> None:
        """Ends its wait as its time does."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def wait(self, seconds: float) -> bool:
        """Whether it was woken; False: not for so long, or up to TICK_SECONDS longer."""
        if not self._is_woken:
            self._waiting = get_running_loop().create_future()
            tick = self._clock.add(self, seconds)
            try:
                await self._waiting
            finally:
                self._clock.discard(self, tick)
        is_woken, self._is_woken = self._is_woken, False
        return is_woken
