import asyncio
from asyncio import gather

import pytest

from app.batches import STUCK_SECONDS, Batches
from app.errors import Unavailable
from app.logs import REQUEST_ID


class Worker:
    """Doubles numbers, when it is let."""

    def __init__(self, *, length: int = 100) -> None:
        self.batches: list[list[int]] = []
        self.gates: list[asyncio.Event] = []
        self.failure: Exception | None = None
        self.shared = Batches[int, int](self.run, width=1, most=3, size=4, length=length)

    async def run(self, numbers: list[int]) -> list[int]:
        self.batches.append(numbers)
        self.gates.append(asyncio.Event())
        await self.gates[-1].wait()
        if self.failure is not None:
            raise self.failure
        return [2 * number for number in numbers]

    def begin(self, *numbers: int, lane: str | None = None, mark: str | None = None) -> list["asyncio.Task[int]"]:
        marks = frozenset({mark} if mark else ())
        return [asyncio.create_task(self.shared.do(number, lane, marks)) for number in numbers]

    async def let(self, *places: int) -> None:
        """Lets the batches at these places go on, each when it has begun."""
        for place in places:
            async with asyncio.timeout(5):
                while len(self.gates) <= place:  # noqa: ASYNC110  # the worker has no event for it
                    await asyncio.sleep(0)
            self.gates[place].set()
            await asyncio.sleep(0)


async def test_a_lone_job_is_done_at_once_and_what_arrives_meanwhile_together() -> None:
    worker = Worker()
    first = worker.begin(1)
    await asyncio.sleep(0.001)
    assert worker.batches == [[1]]
    others = worker.begin(2, 3, 4, 5, 6, 7)
    await worker.let(0, 1, 2)
    assert await gather(*first, *others) == [2, 4, 6, 8, 10, 12, 14]
    assert worker.batches == [[1], [2, 3, 4, 5], [6, 7]]


async def test_a_job_that_follows_another_at_once_is_done_too() -> None:
    worker = Worker()

    async def follow() -> list[int]:
        return [await worker.shared.do(number) for number in range(5)]

    jobs = asyncio.create_task(follow())
    await worker.let(*range(5))
    assert await asyncio.wait_for(jobs, 1) == [0, 2, 4, 6, 8]


async def test_what_arrives_in_one_moment_is_done_together() -> None:
    worker = Worker()
    jobs = worker.begin(1, 2, 3)
    await worker.let(0)
    assert await gather(*jobs) == [2, 4, 6]
    assert worker.batches == [[1, 2, 3]]


async def test_what_must_not_stand_together_waits_its_turn() -> None:
    worker = Worker()
    jobs = [*worker.begin(1, 2, mark="key"), *worker.begin(3)]
    await worker.let(0, 1)
    assert await gather(*jobs) == [2, 4, 6]
    assert worker.batches == [[1, 3], [2]]


async def test_a_stuck_worker_is_joined_by_others_which_leave_its_lane_alone() -> None:
    worker = Worker()
    stuck = worker.begin(1, lane="a")
    await asyncio.sleep(2 * STUCK_SECONDS)
    others = [*worker.begin(2, lane="a"), *worker.begin(3, lane="b")]
    await worker.let(1)
    assert await others[1] == 6
    assert worker.batches == [[1], [3]]
    await worker.let(0, 2)
    assert await gather(*stuck, others[0]) == [2, 4]
    assert worker.batches == [[1], [3], [2]]


async def test_there_are_never_more_workers_than_may_be() -> None:
    worker = Worker()
    jobs = []
    for number in range(5):
        jobs += worker.begin(number)
        await asyncio.sleep(2 * STUCK_SECONDS)
    assert worker.batches == [[0], [1], [2]]
    await worker.let(1, 3)
    assert await gather(jobs[1], *jobs[3:]) == [2, 6, 8]
    await worker.let(0, 2)
    assert await gather(jobs[0], jobs[2]) == [0, 4]
    again = worker.begin(9)
    await worker.let(4)
    assert await gather(*again) == [18]
    await worker.shared.close()


async def test_an_error_is_told_to_all_who_share_it_and_to_no_one_after() -> None:
    worker = Worker()
    jobs = worker.begin(1, 2)
    await asyncio.sleep(0.001)
    worker.failure = Unavailable()
    await worker.let(0)
    outcomes = await gather(*jobs, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Unavailable, Unavailable]
    worker.failure = None
    after = worker.begin(3)
    await worker.let(1)
    assert await gather(*after) == [6]


async def test_who_has_gone_is_left_out_and_holds_up_nobody() -> None:
    worker = Worker()
    first = worker.begin(1)
    await asyncio.sleep(0.001)
    gone, stays = worker.begin(2, 3)
    await asyncio.sleep(0.001)
    gone.cancel()
    await asyncio.sleep(0)
    await worker.let(0, 1)
    assert await gather(*first, stays) == [2, 6]
    assert worker.batches == [[1], [3]]


async def test_only_so_many_of_a_lane_wait_and_keep_no_other_out() -> None:
    worker = Worker(length=2)
    first = worker.begin(1, lane="a")
    await asyncio.sleep(0.001)
    waiting = worker.begin(2, 3, lane="a")
    await asyncio.sleep(0.001)
    with pytest.raises(Unavailable):
        await worker.shared.do(4, "a")
    other = worker.begin(5, lane="b")
    await worker.let(0, 1)
    assert await gather(*first, *waiting, *other) == [2, 4, 6, 10]
    again = worker.begin(6, 7, lane="a")
    await worker.let(2)
    assert await gather(*again) == [12, 14]


async def test_what_is_done_for_several_is_done_in_the_name_of_none() -> None:
    worker = Worker()
    REQUEST_ID.set("of a request")
    seen: list[str | None] = []
    inner = worker.run

    async def run(numbers: list[int]) -> list[int]:
        seen.append(REQUEST_ID.get())
        return await inner(numbers)

    worker.shared = Batches[int, int](run, width=1, most=3, size=4, length=100)
    jobs = worker.begin(1)
    await worker.let(0)
    assert await gather(*jobs) == [2]
    assert seen == [None]


async def test_the_end_waits_for_what_is_being_done() -> None:
    worker = Worker()
    jobs = worker.begin(1)
    await asyncio.sleep(0.001)
    end = asyncio.create_task(worker.shared.close())
    await asyncio.sleep(0.01)
    assert not end.done()
    await worker.let(0)
    await end
    assert await gather(*jobs) == [2]
