"""Batches: jobs that arrive while others are being done are done together, by one statement."""

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Hashable, Iterable
from contextvars import Context
from typing import Generic, TypeVar, cast

from app.errors import Unavailable

STUCK_SECONDS = 0.05
"""A worker that is busy for longer is joined by another: what it waits for is not to hold up the rest."""

JobT = TypeVar("JobT")
ResultT = TypeVar("ResultT")


class _Waiting(Generic[JobT, ResultT]):
    __slots__ = ("future", "job", "lane", "marks")

    def __init__(
        self, job: JobT, lane: Hashable, marks: frozenset[Hashable], future: "asyncio.Future[ResultT]"
    ) -> None:
        self.job, self.lane, self.marks, self.future = job, lane, marks, future


class Batches(Generic[JobT, ResultT]):
    """Workers that take what waits, at most `size` jobs at once; a job that finds one idle is done at once.

    `width` workers, and up to `most` while some are stuck; at most `length` jobs of one lane wait.
    """

    def __init__(
        self,
        run: Callable[[list[JobT]], Awaitable[Iterable[ResultT]]],
        *,
        width: int,
        most: int,
        size: int,
        length: int,
    ) -> None:
        self._run, self._width, self._most, self._size, self._length = run, width, most, size, length
        self._waiting: deque[_Waiting[JobT, ResultT]] = deque()
        self._lengths: Counter[Hashable] = Counter()
        self._busy: set[Hashable] = set()
        self._workers: set[asyncio.Task[None]] = set()
        self._stuck_count = 0
        self._is_called = False

    async def do(self, job: JobT, lane: Hashable = None, marks: frozenset[Hashable] = frozenset()) -> ResultT:
        """The job's result. Raises Unavailable, and what `run` raises.

        Jobs of a lane are never in two batches at once, jobs that share a mark never in one.
        """
        if self._lengths[lane] >= self._length:
            raise Unavailable
        future: asyncio.Future[ResultT] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(job, lane, marks, future))
        self._lengths[lane] += 1
        self._call_worker()
        return await future

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing is being done."""
        return not self._workers and not self._waiting

    async def close(self) -> None:
        """Waits for what is being done."""
        while self._workers:
            await asyncio.wait(self._workers)

    def _call_worker(self) -> None:
        """One more, unless one is on its way already or there are enough."""
        is_enough = len(self._workers) - self._stuck_count >= self._width or len(self._workers) >= self._most
        if self._waiting and not self._is_called and not is_enough:
            self._is_called = True
            worker = asyncio.create_task(self._work(), context=Context())  # of no request
            self._workers.add(worker)

    async def _work(self) -> None:
        self._is_called = False
        try:
            while batch := self._take():
                self._call_worker()
                await self._do_in_time(batch)
                if len(self._workers) - self._stuck_count > self._width:
                    break  # those who joined are enough
        finally:
            # Here and not when the task is done: a job that arrives in between would wait for a worker that has left.
            self._workers.discard(cast("asyncio.Task[None]", asyncio.current_task()))

    async def _do_in_time(self, batch: list[_Waiting[JobT, ResultT]]) -> None:
        is_stuck = False

        def be_joined() -> None:
            nonlocal is_stuck
            is_stuck = True
            self._stuck_count += 1
            self._call_worker()

        timer = asyncio.get_running_loop().call_later(STUCK_SECONDS, be_joined)
        try:
            await self._do(batch)
        finally:
            timer.cancel()
            self._stuck_count -= is_stuck
            self._busy.difference_update(waiting.lane for waiting in batch)

    async def _do(self, batch: list[_Waiting[JobT, ResultT]]) -> None:
        try:
            results = await self._run([waiting.job for waiting in batch])
        except Exception as error:  # noqa: BLE001  # raised where each job is awaited
            for waiting in batch:
                if not waiting.future.done():
                    waiting.future.set_exception(error)
            return
        except asyncio.CancelledError:
            for waiting in batch:
                waiting.future.cancel()
            raise
        for waiting, result in zip(batch, results, strict=True):
            if not waiting.future.done():
                waiting.future.set_result(result)

    def _take(self) -> list[_Waiting[JobT, ResultT]]:
        """What can be done now, in order; what cannot stays where it is."""
        batch: list[_Waiting[JobT, ResultT]] = []
        left: list[_Waiting[JobT, ResultT]] = []
        marks: set[Hashable] = set()
        while self._waiting and len(batch) < self._size:
            waiting = self._waiting.popleft()
            if waiting.future.done():  # nobody waits for it any more
                self._forget(waiting.lane)
                continue
            if (waiting.lane is not None and waiting.lane in self._busy) or not marks.isdisjoint(waiting.marks):
                left.append(waiting)
                continue
            batch.append(waiting)
            self._forget(waiting.lane)
            marks |= waiting.marks
        self._waiting.extendleft(reversed(left))
        self._busy.update(waiting.lane for waiting in batch)
        return batch

    def _forget(self, lane: Hashable) -> None:
        self._lengths[lane] -= 1
        if not self._lengths[lane]:
            del self._lengths[lane]
