"""How long a request may take: our part of it, and its client's."""

import asyncio
from asyncio import get_running_loop

from litestar.enums import ScopeType
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Receive, Scope, Send
from litestar.types.asgi_types import ReceiveMessage

from app.errors import RequestTimeout, Unavailable
from app.queries import BULK_SECONDS
from app.settings import Settings


class Deadline(ASGIMiddleware):
    """Ends a request that takes us, or the client that sends its body, too long.

    A handler with `opt={"is_bulk": True}` has BULK_SECONDS more. The bodies held at once are bounded too.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._held_bytes = 0

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """Goes on. Raises Unavailable and RequestTimeout."""
        if scope["type"] != ScopeType.HTTP:
            await next_app(scope, receive, send)
            return
        is_bulk = scope["route_handler"].opt.get("is_bulk", False)
        seconds = self._settings.request_timeout_seconds + (BULK_SECONDS if is_bulk else 0)
        request = _Timed(self._settings.body_timeout_seconds)
        try:
            async with asyncio.timeout(seconds) as limit:
                await next_app(scope, self._timing(request, receive, limit), send)
        except TimeoutError:
            if request.is_receiving:
                raise RequestTimeout from None
            raise Unavailable from None
        finally:
            self._held_bytes -= request.held_bytes

    def _timing(self, request: "_Timed", receive: Receive, limit: asyncio.Timeout) -> Receive:
        """Receives, and stops our clock while the client's runs."""

        async def receive_in_time() -> ReceiveMessage:
            if request.is_complete:
                return await receive()
            begun_at = get_running_loop().time()
            left = (limit.when() or begun_at) - begun_at
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


class _Timed:
    """A request that arrives: what its client has left of its time, and what we hold of its body."""

    __slots__ = ("body_seconds", "held_bytes", "is_complete", "is_receiving")

    def __init__(self, body_seconds: float) -> None:
        self.body_seconds = body_seconds
        self.held_bytes = 0
        self.is_complete = False
        self.is_receiving = False
