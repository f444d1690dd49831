"""How long a request may take: our part of it, and its client's."""

import asyncio
import math
from asyncio import get_running_loop
from time import monotonic
from types import TracebackType
from typing import Self, cast

from litestar.enums import ScopeType
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send
from litestar.types.asgi_types import ReceiveMessage

from app.errors import RequestTimeout, TooLarge, Unavailable
from app.headers import raw_header_values
from app.queries import BULK_SECONDS
from app.settings import Settings

TICK_SECONDS = 0.1
"""How late a limit may be seen."""

_TOO_LARGE = "the body is larger than the limit"


class _Clock:
    """Ends requests whose time is over: one timer for all, as one for each costs more than the rest of a deadline."""

    def __init__(self) -> None:
        self._requests: set[Timed] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, request: "Timed") -> None:
        self._requests.add(request)
        if self._timer is None:
            self._timer = get_running_loop().call_later(TICK_SECONDS, self._tick)

    def discard(self, request: "Timed") -> None:
        self._requests.discard(request)

    def _tick(self) -> None:
        now = monotonic()
        for request in [request for request in self._requests if request.ends_at <= now]:
            self._requests.discard(request)
            request.end()
        self._timer = get_running_loop().call_later(TICK_SECONDS, self._tick) if self._requests else None


class Deadline(ASGIMiddleware):
    """Ends a request that takes us, or the client that sends its body, too long.

    A handler with `opt={"is_bulk": True}` has BULK_SECONDS more, one with `awaits_reply` the time of a reply, one
    with `is_stream` no end once it has begun to answer. The bodies held at once are bounded too.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.held_bytes = 0
        self.clock = _Clock()

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """Goes on. Raises Unavailable, RequestTimeout and TooLarge."""
        if scope["type"] != ScopeType.HTTP:
            await next_app(scope, receive, send)
            return
        with self.timed(scope, receive) as timed:
            is_stream = scope["route_handler"].opt.get("is_stream", False)
            await next_app(scope, timed.receive, timed.until_start(send) if is_stream else send)

    def timed(self, scope: HTTPScope, receive: Receive) -> "Timed":
        """A request whose time runs while the block does."""
        opt = scope["route_handler"].opt
        seconds = self.settings.request_timeout_seconds
        if opt.get("is_bulk"):
            seconds += BULK_SECONDS
        if opt.get("awaits_reply"):
            seconds += self.settings.reply_timeout_seconds
        return Timed(self, scope, receive, seconds)


class Timed:
    """One request: its task's end, as asyncio.timeout has one; our clock stands while its client's runs."""

    __slots__ = (
        "_body_seconds",
        "_cancelling",
        "_deadline",
        "_held_bytes",
        "_is_complete",
        "_is_over",
        "_is_receiving",
        "_receive",
        "_scope",
        "_task",
        "ends_at",
    )

    def __init__(self, deadline: Deadline, scope: HTTPScope, receive: Receive, seconds: float) -> None:
        self._deadline, self._scope, self._receive = deadline, scope, receive
        self.ends_at = monotonic() + seconds
        self._body_seconds = deadline.settings.body_timeout_seconds
        self._held_bytes = 0
        self._is_complete = self._is_receiving = self._is_over = False

    def __enter__(self) -> Self:
        """Begins in the task that is to end. Raises Unavailable and RequestTimeout where the block does."""
        self._task = cast("asyncio.Task[object]", asyncio.current_task())
        self._cancelling = self._task.cancelling()
        self._deadline.clock.add(self)
        return self

    def end(self) -> None:
        """Ends the block."""
        self._is_over = True
        self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        """Lets go of the body."""
        self._deadline.clock.discard(self)
        self._deadline.held_bytes -= self._held_bytes
        is_ended = self._is_over and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError
        if is_ended or kind is TimeoutError:
            if self._is_receiving:
                raise RequestTimeout from None
            raise Unavailable from None

    async def receive(self) -> ReceiveMessage:
        """The next piece of the body. Raises TooLarge and Unavailable."""
        if self._is_complete or self.ends_at == math.inf:
            return await self._receive()
        if not self._held_bytes:
            self._refuse_announced()
        begun_at = monotonic()
        left = self.ends_at - begun_at
        self.ends_at = begun_at + self._body_seconds
        self._is_receiving = True
        message = await self._receive()
        self._is_receiving = False
        ended_at = monotonic()
        self._body_seconds -= ended_at - begun_at
        self.ends_at = ended_at + left
        if message["type"] == "http.request":
            self._hold(len(message["body"]))
            self._is_complete = not message["more_body"]
        return message

    def until_start(self, send: Send) -> Send:
        """Sends, and stops the clock where the answer begins."""

        async def send_in_time(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.ends_at = math.inf
                self._deadline.clock.discard(self)
            await send(message)

        return send_in_time

    def _refuse_announced(self) -> None:
        """Raises TooLarge before the client sends what it says it will."""
        for value in raw_header_values(self._scope, b"content-length"):
            if value.isdigit() and int(value) > self._deadline.settings.body_limit_bytes:
                raise TooLarge(_TOO_LARGE)

    def _hold(self, size: int) -> None:
        deadline = self._deadline
        self._held_bytes += size
        deadline.held_bytes += size
        if self._held_bytes > deadline.settings.body_limit_bytes:
            raise TooLarge(_TOO_LARGE)
        if size and deadline.held_bytes > deadline.settings.body_memory_bytes:
            raise Unavailable
