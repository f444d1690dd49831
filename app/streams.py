"""Event streams: each looks when it is woken, says what is new, and now and then that it is there."""

from asyncio import get_running_loop
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractContextManager

from app import sse
from app.errors import Unavailable
from app.heads import Follower
from app.settings import Settings

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
        is_moved = is_behind = True
        while not follower.is_over and (is_behind or time() < ends_at):
            events: list[bytes] = []
            is_away = False
            wait_seconds = min(ends_at, sent_at + settings.heartbeat_seconds) - time()
            if is_moved:
                try:
                    async with follower.turn:
                        events, is_last = await look_now()
                except Unavailable:
                    is_away, is_last = True, False
                for event in events:
                    yield event
                    sent_at = time()
                if is_last:
                    return
            if is_away:
                await follower.wait(min(wait_seconds, _RETRY_SECONDS))
            elif not events:
                is_behind = False
                is_moved = await follower.wait(wait_seconds)
            if time() >= sent_at + settings.heartbeat_seconds:
                yield sse.HEARTBEAT
                sent_at = time()
        yield sse.RETRY
