"""Event streams: each looks when it is woken, says what is new, and now and then that it is there."""

from asyncio import get_running_loop, timeout_at
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, asynccontextmanager

import msgspec

from app import sse
from app.auth import Caller
from app.clock import TICK_SECONDS
from app.database import Database
from app.errors import Unavailable
from app.heads import Follower, Heads
from app.settings import Settings
from app.stores.replies import ReplyId, get_reply, list_reply_chunks
from app.wire.messages import Message, Version
from app.wire.replies import FinishReason

_RETRY_SECONDS = 1.0

Look = Callable[[], Awaitable[tuple[list[bytes], bool]]]
"""What is new, and whether it is the last; asked again at once until nothing is."""


async def stream_events(
    following: AbstractContextManager[Follower], look: Callable[[Follower], Look], settings: Settings
) -> AsyncGenerator[bytes, None]:
    """The bytes of a stream, until its last event, or until it should be taken up again elsewhere."""
    time = get_running_loop().time
    with following as follower:
        look_now = look(follower)
        sent_at = time()
        ends_at = sent_at + settings.stream_seconds
        silent_seconds = max(0.0, settings.heartbeat_seconds - TICK_SECONDS)  # a wait ends late, a heartbeat does not
        is_moved = is_behind = True
        while not follower.is_over and (is_behind or time() < ends_at):
            events: list[bytes] = []
            is_away = is_last = False
            if is_moved:
                try:
                    async with _turn(follower, sent_at + silent_seconds):
                        events, is_last = await look_now()
                except Unavailable:
                    is_away = True
                for event in events:
                    yield event
                    sent_at = time()
                if is_last:
                    return
            wait_seconds = min(ends_at, sent_at + silent_seconds) - time()
            if is_away:
                await follower.wait(min(wait_seconds, _RETRY_SECONDS))
            elif not events:
                is_behind = False
                is_moved = await follower.wait(wait_seconds)
            if time() >= sent_at + silent_seconds:
                yield sse.HEARTBEAT
                sent_at = time()
        yield sse.RETRY


@asynccontextmanager
async def _turn(follower: Follower, until: float) -> AsyncIterator[None]:
    """A follower's turn to look. Raises Unavailable where others have it for so long."""
    try:
        async with timeout_at(until):
            await follower.turn.acquire()
    except TimeoutError:
        raise Unavailable from None
    try:
        yield
    finally:
        follower.turn.release()


class ReplyReader:
    """A reply behind the text that its reader has, wherever it is made."""

    def __init__(self, database: Database, reply_id: ReplyId, from_char: int = 0) -> None:
        self._database, self._reply_id = database, reply_id
        self.from_char = from_char
        """How many code points have been read."""

    async def read(self) -> tuple[str, tuple[Message, FinishReason, Version] | None]:
        """The text that is new, and the reply as it ended once all of it is read. Raises NotFound."""
        async with self._database.connection() as connection:
            chunks = await list_reply_chunks(connection, self._reply_id, self.from_char)
            found = None if chunks else await get_reply(connection, self._reply_id)
        text = "".join(chunk.text for chunk in chunks)
        ended = None
        if found is not None and found[1] is not None:
            ended = (found[0], found[1], found[2])
            content = bytes(found[0].content or b"")
            text = msgspec.json.decode(content, type=str)[self.from_char :] if content.startswith(b'"') else ""
        self.from_char += len(text)  # behind the connection, whose return may fail: what is counted is told
        return text, ended


def stream_reply(
    heads: Heads, caller: Caller, reply_id: ReplyId, look: Look, settings: Settings
) -> AsyncGenerator[bytes, None]:
    """The bytes of a stream that follows one reply."""

    def look_for(_follower: Follower) -> Look:
        return look

    return stream_events(heads.follow(caller, reply_id.conversation_id, is_eager=True), look_for, settings)
