"""Replies in the making: each belongs to this process, and to no request.

What a reader is given of a growing text is committed before: a reader and the database never disagree.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from functools import partial
from uuid import UUID, uuid4

import msgspec

from app.asking import Asked, ending_of, listen, request_of
from app.auth import Caller
from app.database import Database
from app.errors import NotFound, Unavailable
from app.heads import Heads
from app.logs import log_broken
from app.model import Finish, Model
from app.payloads import IncomingMessage
from app.queries import Conn
from app.settings import Settings
from app.stores.appends import Append
from app.stores.contexts import get_context
from app.stores.replies import (
    Begin,
    Chunk,
    Ending,
    ReplyId,
    begin_reply,
    end_reply,
    find_begun_reply,
    get_reply,
    keep_reply,
    list_lapsed_replies,
)
from app.unkept import Conversed, UnkeptReply, read_unkept_context
from app.wire.context import Context, ContextQuery
from app.wire.messages import Appended, Message, Version
from app.wire.replies import FinishReason

Make = Callable[[Conn], Awaitable[object]]
"""Makes what a reply is begun in."""

_RENEWALS = 5
"""How often a lease is renewed in its time."""

_BATCH_SIZE = 100
_RETRY_SECONDS = 0.5
_CLOSE_SECONDS = 5.0
_logger = logging.getLogger("verbatim.writers")


class Writers:
    """The replies that this process makes, and its share in ending those that nobody makes any more."""

    def __init__(self, database: Database, model: Model, heads: Heads, settings: Settings) -> None:
        self._database, self._model, self._heads, self._settings = database, model, heads, settings
        self._writers: dict[ReplyId, _Writer] = {}
        self._unkept: set[UnkeptReply] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweep: asyncio.Task[None] | None = None

    @property
    def model_name(self) -> str:
        """What the model calls itself, or is called."""
        return self._model.name

    def open(self) -> None:
        """Begins to look for replies that were left."""
        self._sweep = asyncio.create_task(self._end_lapsed())

    async def close(self) -> None:
        """Gives the replies a moment to end, then ends them as they are."""
        if self._sweep is not None:
            self._tasks.add(self._sweep)
        for task in self._tasks:
            task.cancel()
        for unkept in self._unkept:
            unkept.stop()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for seconds in (_CLOSE_SECONDS, _CLOSE_SECONDS):
            if tasks := {writer.task for writer in self._writers.values()}:
                await asyncio.wait(tasks, timeout=seconds)
            for writer in self._writers.values():
                writer.stop()
        if left := {writer.task for writer in self._writers.values()}:
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=_CLOSE_SECONDS)

    async def begin(
        self, owner_id: UUID, conversation_id: UUID, append: Append, asked: Asked, make: Make | None = None
    ) -> tuple[Appended, ReplyId, bool]:
        """What was appended, the reply, and whether it is a replay; goes on when the request does not.

        With `make` the conversation is made first, unless no reply is begun in it. Raises what begin_reply and `make`
        raise.
        """
        return await asyncio.shield(asyncio.create_task(self._begin(owner_id, conversation_id, append, asked, make)))

    async def _begin(
        self, owner_id: UUID, conversation_id: UUID, append: Append, asked: Asked, make: Make | None
    ) -> tuple[Appended, ReplyId, bool]:
        begin = Begin(
            model=self._model.name,
            writer_id=uuid4(),
            lease_seconds=self._settings.reply_lease_seconds,
            is_full=self._is_full,
        )
        try:
            async with (
                self._database.connection(lane=(owner_id, conversation_id)) as connection,
                _made(connection, make),
            ):
                appended, is_replay = await begin_reply(connection, owner_id, conversation_id, append, begin)
        except Unavailable:
            if begin.is_written:
                self._go_on(self._adopt(owner_id, conversation_id, begin.writer_id, asked))
            raise
        reply_id = ReplyId(owner_id, conversation_id, appended.messages[-1].seq)
        if not is_replay:
            self._write(reply_id, asked)
        return appended, reply_id, is_replay

    @property
    def _is_full(self) -> bool:
        return len(self._writers) + len(self._unkept) >= self._settings.reply_limit

    async def answer_unkept(
        self, owner_id: UUID, conversation: Conversed | None, messages: list[IncomingMessage], asked: Asked
    ) -> UnkeptReply:
        """The reply to these messages behind a conversation, for its reader alone: nothing of either is kept.

        Raises NotFound, ContextExceeded, and Unavailable when full.
        """
        if self._is_full:
            raise Unavailable
        read_context = partial(read_unkept_context, self._database, owner_id, conversation, messages)
        request = await request_of(self._settings, asked, read_context)
        unkept = UnkeptReply(self._model, request, self._settings)
        self._unkept.add(unkept)
        unkept.task.add_done_callback(lambda _task: self._unkept.discard(unkept))
        return unkept

    async def _adopt(self, owner_id: UUID, conversation_id: UUID, writer_id: UUID, asked: Asked) -> None:
        """Makes the reply after all where only the answer to its commit was lost."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + self._settings.reply_lease_seconds
        while loop.time() < ends_at:
            try:
                async with self._database.connection(lane=(owner_id, conversation_id)) as connection:
                    reply_id = await find_begun_reply(connection, owner_id, conversation_id, writer_id)
            except (Unavailable, NotFound):  # a conversation that is made with its reply comes with the same commit
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            if reply_id is not None:
                self._write(reply_id, asked)
            return

    def _write(self, reply_id: ReplyId, asked: Asked) -> None:
        writer = _Writer(self._database, self._model, self._settings, reply_id, asked)
        self._writers[reply_id] = writer
        writer.task.add_done_callback(lambda _task: self._writers.pop(reply_id, None))

    def _go_on(self, work: Coroutine[None, None, None]) -> None:
        """Behind the answer."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def wait(self, caller: Caller, reply_id: ReplyId) -> tuple[Message, FinishReason | None, Version]:
        """The reply as it has ended, wherever it is made. Raises NotFound: it was deleted meanwhile."""
        with self._heads.follow(caller, reply_id.conversation_id) as follower:
            while True:
                if writer := self._writers.get(reply_id):
                    await asyncio.wait({writer.task})
                with suppress(Unavailable):
                    async with self._database.connection() as connection:
                        message, reason, version = await get_reply(connection, reply_id)
                    if reason is not None:
                        return message, reason, version
                await follower.wait(self._settings.follow_seconds)

    def stop(self, reply_id: ReplyId) -> None:
        """Stops asking the model, when it is this process that does."""
        if writer := self._writers.get(reply_id):
            writer.stop()

    async def _end_lapsed(self) -> None:
        pause_seconds = self._settings.reply_lease_seconds / _RENEWALS
        was_away = False
        while True:
            await asyncio.sleep(pause_seconds)
            try:
                async with self._database.connection() as connection:
                    lapsed = await list_lapsed_replies(connection, self._settings.reply_lease_seconds, _BATCH_SIZE)
            except Unavailable:
                was_away = True
                continue
            except Exception as error:  # noqa: BLE001  # it goes on for the others
                log_broken(_logger, error)
                continue
            if was_away:  # nobody could renew: who lives does so now
                was_away = False
                await asyncio.sleep(self._settings.reply_lease_seconds)
                continue
            for reply_id in lapsed:
                await self._end_lapsed_reply(reply_id)

    async def _end_lapsed_reply(self, reply_id: ReplyId) -> None:
        """Ends one unless it is renewed, or its conversation is locked: then it is listed again."""
        try:
            async with self._database.connection(lane=(reply_id.owner_id, reply_id.conversation_id)) as connection:
                await end_reply(connection, reply_id, Ending("lost"), self._settings.reply_lease_seconds)
        except Unavailable:
            pass
        except Exception as error:  # noqa: BLE001  # it goes on for the others
            log_broken(_logger, error)


@asynccontextmanager
async def _made(connection: Conn, make: Make | None) -> AsyncIterator[None]:
    if make is None:
        yield
        return
    async with connection.transaction():
        await make(connection)
        yield


class _Writer:
    """Makes one reply: asks the model, and keeps what it says while it says it."""

    def __init__(self, database: Database, model: Model, settings: Settings, reply_id: ReplyId, asked: Asked) -> None:
        self._database, self._model, self._settings = database, model, settings
        self._reply_id, self._asked = reply_id, asked
        self._text: list[str] = []
        self._fresh: list[str] = []
        self._fresh_bytes = self._kept_chars = 0
        self._chunk: Chunk | None = None  # on its way; the very same is sent until it is known to have arrived
        self._has_fresh, self._is_full = asyncio.Event(), asyncio.Event()
        self._reading = asyncio.create_task(self._read())
        self.task = asyncio.create_task(self._run())

    def stop(self) -> None:
        """Listens to the model no more."""
        self._reading.cancel()

    async def _run(self) -> None:
        try:
            ending = await ending_of(self._reading, self._text) if await self._keep() else Ending("cancelled")
        except Exception as error:  # noqa: BLE001  # nobody else would stop the model
            log_broken(_logger, error)
            ending = Ending("internal-error", "".join(self._text))
        self._reading.cancel()
        await asyncio.wait({self._reading})
        await self._end(ending)

    async def _read(self) -> Finish:
        async with asyncio.timeout(self._settings.reply_timeout_seconds):
            request = await request_of(self._settings, self._asked, self._context)
            return await listen(self._model, request, self._settings.message_limit_bytes, self._add)

    def _add(self, text: str) -> None:
        is_first = not self._text
        self._text.append(text)
        self._fresh.append(text)
        self._fresh_bytes += len(text.encode())
        self._has_fresh.set()
        if is_first or self._fresh_bytes >= self._settings.reply_flush_bytes:
            self._is_full.set()

    async def _context(self, query: ContextQuery) -> Context:
        """As much of the conversation before the reply as fits; however long the database takes to come back."""
        owner_id, conversation_id, seq = msgspec.structs.astuple(self._reply_id)
        while True:
            try:
                async with self._database.connection() as connection:
                    return await get_context(connection, owner_id, conversation_id, query, before_seq=seq)
            except Unavailable:
                await asyncio.sleep(_RETRY_SECONDS)

    async def _keep(self) -> bool:
        """Keeps the text while it grows; False: nobody wants it any more."""
        loop = asyncio.get_running_loop()
        renewal_seconds = self._settings.reply_lease_seconds / _RENEWALS
        flush_seconds = min(self._settings.reply_flush_seconds, renewal_seconds)
        kept_at = loop.time()
        while not self._reading.done():
            if self._chunk is None:
                await self._wait(self._has_fresh, kept_at + renewal_seconds)
            if self._has_fresh.is_set():
                await self._wait(self._is_full, kept_at + flush_seconds)
            if self._reading.done():
                break
            kept_at = loop.time()
            try:
                if not await self._keep_chunk():
                    return False
            except Unavailable:
                await asyncio.sleep(_RETRY_SECONDS)  # the text waits here; the lease runs
        return True

    async def _wait(self, event: asyncio.Event, until: float) -> None:
        """Until the event, the time, or the end of the reading."""
        waiting = asyncio.create_task(event.wait())
        try:
            seconds = max(0.0, until - asyncio.get_running_loop().time())
            await asyncio.wait({waiting, self._reading}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()

    async def _keep_chunk(self) -> bool:
        if self._chunk is None and self._fresh:
            self._chunk = Chunk(self._kept_chars, "".join(self._fresh))
            self._fresh.clear()
            self._fresh_bytes = 0
            self._has_fresh.clear()
            self._is_full.clear()
        lane = (self._reply_id.owner_id, self._reply_id.conversation_id)
        async with self._database.connection(lane=lane if self._chunk else None) as connection:
            is_wanted = await keep_reply(connection, self._reply_id, self._chunk)
        if self._chunk is not None:
            self._kept_chars += len(self._chunk.text)
            self._chunk = None
        return is_wanted

    async def _end(self, ending: Ending) -> None:
        """Ends the reply, however long the database takes to come back: another replica may do so meanwhile."""
        lane = (self._reply_id.owner_id, self._reply_id.conversation_id)
        while True:
            try:
                async with self._database.connection(lane=lane) as connection:
                    await end_reply(connection, self._reply_id, ending)
            except Unavailable:
                await asyncio.sleep(_RETRY_SECONDS)
            except Exception as error:  # noqa: BLE001  # the lease runs out, and the text that is kept stays
                log_broken(_logger, error)
                return
            else:
                return
