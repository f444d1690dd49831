"""How long a request may take: our part of it, and its client's."""

import asyncio
from asyncio import get_running_loop
from collections.abc import Mapping

from litestar.enums import ScopeType
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from litestar.types.asgi_types import ReceiveMessage

from app.errors import RequestTimeout, Unavailable
from app.queries import BULK_SECONDS
from app.settings import Settings


class Deadline(ASGIMiddleware):
    """Ends a request that takes us, or the client that sends its body, too long.

    A handler with `opt={"is_bulk": True}` has BULK_SECONDS more, one with `awaits_reply` the time of a reply, one
    with `is_stream` no end once it has begun to answer. The bodies held at once are bounded too.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._held_bytes = 0

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """Goes on. Raises Unavailable and RequestTimeout."""
        if scope["type"] != ScopeType.HTTP:
            await next_app(scope, receive, send)
            return
        request = _Timed(self._settings.body_timeout_seconds)
        try:
            async with asyncio.timeout(self._seconds_of(scope["route_handler"].opt)) as limit:
                is_stream = scope["route_handler"].opt.get("is_stream", False)
                until = _until_start(send, limit) if is_stream else send
                await next_app(scope, self._timing(request, receive, limit), until)
        except TimeoutError:
            if request.is_receiving:
                raise RequestTimeout from None
            raise Unavailable from None
        finally:
            self._held_bytes -= request.held_bytes

    def _seconds_of(self, opt: Mapping[str, object]) -> float:
        seconds = self._settings.request_timeout_seconds
        if opt.get("is_bulk"):
            seconds += BULK_SECONDS
        if opt.get("awaits_reply"):
            seconds += self._settings.reply_timeout_seconds
        return seconds

    def _timing(self, request: "_Timed", receive: Receive, limit: asyncio.Timeout) -> Receive:
        """Receives, and stops our clock while the client's runs."""

        async def receive_in_time() -> ReceiveMessage:
            if request.is_complete:
                return await receive()
            begun_at = get_running_loop().time()
            when = limit.when()
            if when is None:  # a stream has begun
                return await receive()
            left = when - begun_at
            limit.reschedule(begun_at + request.body_seconds)
            request.is_receiving = True
            message = await receive()
            request.is_receiving = False
            ended_at = get_running_loop().time()
            request.body_seconds -= ended_at - begun_at
            limit.reschedule(ended_at + left)
            if message["type"] == "http.request":
                self._hold(request, len(message["body"]))
                request.is_complete = not message["more_body"]
            return message

        return receive_in_time

    def _hold(self, request: "_Timed", size: int) -> None:
        request.held_bytes += size
        self._held_bytes += size
        if size and self._held_bytes > self._settings.body_memory_bytes:
            raise Unavailable


def _until_start(send: Send, limit: asyncio.Timeout) -> Send:
    """Sends, and stops the clock where the answer begins."""

    async def send_in_time(message: Message) -> None:
        if message["type"] == "http.response.start":
            limit.reschedule(None)
        await send(message)

    return send_in_time


class _Timed:
    """A request that arrives: what its client has left of its time, and what we hold of its body."""

    __slots__ = ("body_seconds", "held_bytes", "is_complete", "is_receiving")

    def __init__(self, body_seconds: float) -> None:
        self.body_seconds = body_seconds
        self.held_bytes = 0
        self.is_complete = False
        self.is_receiving = False
