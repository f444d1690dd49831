"""Appends as requests ask for them: together with others that arrive at the same time, or alone."""

from uuid import UUID

import asyncpg
from msgspec import Struct

from app.batches import Batches
from app.database import Database, is_passing
from app.settings import Settings
from app.stores import appends
from app.stores.appends import Append, Place
from app.wire.messages import Appended

SHARED_BODY_BYTES = 64 * 2**10
"""Of a message that is large its statement is the smaller part; alone it keeps nobody waiting."""

_WORKERS = 4  # with 64 clients 1.5 times what one does; more make the batches smaller
_MOST_WORKERS = 8
_BATCH_SIZE = 64  # 256 are no faster
_ATTEMPTS = 3
_NO_MARKS: frozenset[object] = frozenset()


class _Job(Struct, frozen=True):
    place: Place
    append: Append

    @property
    def marks(self) -> frozenset[object]:
        """What no two requests of a statement may have in common: a unique violation would fail them all."""
        key, client_id = self.append.key, self.append.messages[0].client_id
        if key is None and client_id is None:
            return _NO_MARKS
        ids = ((self.place, "key", key), (self.place, "client id", client_id))
        return frozenset(mark for mark in ids if mark[2] is not None)


class Appender:
    """Appends; single messages without an expected version share statements, where the settings allow it."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._is_sharing = settings.shared_statements
        self._lone_count = 0
        self._batches: Batches[_Job, tuple[Appended, bool] | None] = Batches(
            self._run, width=_WORKERS, most=_MOST_WORKERS, size=_BATCH_SIZE, length=settings.queue_limit
        )

    async def append(self, owner_id: UUID, conversation_id: UUID, append: Append) -> tuple[Appended, bool]:
        """As `appends.append_messages`; Unavailable for what may pass."""
        job = _Job(Place(owner_id, conversation_id), append)
        if self._is_sharing and _can_share(append) and not self._is_alone():
            made = await self._batches.do(job, job.place, job.marks)
            if made is not None:
                return made
            return await self._append_alone(job, is_tried=True)
        return await self._append_alone(job)

    async def close(self) -> None:
        """Waits for what is being written."""
        await self._batches.close()

    async def _append_alone(self, job: _Job, *, is_tried: bool = False) -> tuple[Appended, bool]:
        self._lone_count += 1
        try:
            async with self._database.connection(lane=job.place) as connection:
                return await appends.append_messages(connection, *job.place, job.append, is_tried=is_tried)
        finally:
            self._lone_count -= 1

    def _is_alone(self) -> bool:
        """Whether nothing is being written: then there is nothing to share."""
        return self._lone_count == 0 and self._batches.is_idle

    async def _run(self, jobs: list[_Job]) -> list[tuple[Appended, bool] | None]:
        if len(jobs) == 1:  # the shared statement takes more than twice as long
            return [await self._append_alone(jobs[0])]
        appended = await self._append_together([(job.place, job.append) for job in jobs])
        for job, made in zip(jobs, appended, strict=True):
            if made is not None:
                self._database.tell(job.place)
        return [None if made is None else (made, False) for made in appended]

    async def _append_together(self, requests: list[tuple[Place, Append]]) -> list[Appended | None]:
        """What each has made; None for those that are to go on alone, which are all of them where one is bad."""
        async with self._database.connection() as connection:
            for _ in range(_ATTEMPTS):
                try:
                    return await appends.append_shared(connection, requests)
                except asyncpg.UniqueViolationError:
                    continue  # a key or client id came in between: by now it is known
                except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                    if is_passing(error):
                        raise
                    break
        return [None] * len(requests)


def _can_share(append: Append) -> bool:
    is_single = len(append.messages) == 1 and append.messages[0].body_bytes <= SHARED_BODY_BYTES
    return is_single and (append.expected is None or append.expected.is_any)
