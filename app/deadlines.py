"""How long a request may take: our part of it, and its client's."""

import asyncio
import math
from asyncio import get_running_loop
from collections.abc import Mapping
from types import TracebackType
from typing import Self, cast

from litestar.enums import ScopeType
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send
from litestar.types.asgi_types import ReceiveMessage

from app.errors import RequestTimeout, TooLarge, Unavailable
from app.queries import BULK_SECONDS
from app.settings import Settings

TICK_SECONDS = 0.1
"""How late a limit may be seen."""


_TOO_LARGE = "the body is larger than the limit"


class _Limit:
    """As asyncio.timeout, for the task that enters it; `when` may be moved, to infinity too."""

    __slots__ = ("_cancelling", "_clock", "_is_over", "_task", "when")

    def __init__(self, clock: "_Clock", when: float) -> None:
        self._clock, self.when, self._is_over = clock, when, False

    def __enter__(self) -> Self:
        self._task = cast("asyncio.Task[object]", asyncio.current_task())
        self._cancelling = self._task.cancelling()
        self._clock.add(self)
        return self

    def end(self) -> None:
        self._is_over = True
        self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self._clock.discard(self)
        if self._is_over and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError


class _Clock:
    """Ends limits that are past: one timer for all, since one for each costs more than the rest of a deadline."""

    def __init__(self) -> None:
        self._limits: set[_Limit] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, limit: _Limit) -> None:
        self._limits.add(limit)
        if self._timer is None:
            self._timer = get_running_loop().call_later(TICK_SECONDS, self._tick)

    def discard(self, limit: _Limit) -> None:
        self._limits.discard(limit)

    def _tick(self) -> None:
        now = get_running_loop().time()
        for limit in [limit for limit in self._limits if limit.when <= now]:
            self._limits.discard(limit)
            limit.end()
        self._timer = get_running_loop().call_later(TICK_SECONDS, self._tick) if self._limits else None


class Deadline(ASGIMiddleware):
    """Ends a request that takes us, or the client that sends its body, too long.

    A handler with `opt={"is_bulk": True}` has BULK_SECONDS more, one with `awaits_reply` the time of a reply, one
    with `is_stream` no end once it has begun to answer. The bodies held at once are bounded too.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._held_bytes = 0
        self._clock = _Clock()

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """Goes on. Raises Unavailable, RequestTimeout and TooLarge."""
        if scope["type"] != ScopeType.HTTP:
            await next_app(scope, receive, send)
            return
        request = _Timed(self._settings.body_timeout_seconds)
        opt = scope["route_handler"].opt
        try:
            with _Limit(self._clock, get_running_loop().time() + self._seconds_of(opt)) as limit:
                until = _until_start(send, limit) if opt.get("is_stream") else send
                await next_app(scope, self._timing(request, scope, receive, limit), until)
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

    def _timing(self, request: "_Timed", scope: HTTPScope, receive: Receive, limit: _Limit) -> Receive:
        """Receives, and stops our clock while the client's runs."""

        async def receive_in_time() -> ReceiveMessage:
            if request.is_complete or limit.when == math.inf:
                return await receive()
            if not request.held_bytes:
                self._refuse_announced(scope)
            begun_at = get_running_loop().time()
            left = limit.when - begun_at
            limit.when = begun_at + request.body_seconds
            request.is_receiving = True
            message = await receive()
            request.is_receiving = False
            ended_at = get_running_loop().time()
            request.body_seconds -= ended_at - begun_at
            limit.when = ended_at + left
            if message["type"] == "http.request":
                self._hold(request, len(message["body"]))
                request.is_complete = not message["more_body"]
            return message

        return receive_in_time

    def _refuse_announced(self, scope: HTTPScope) -> None:
        """Raises TooLarge before the client sends what it says it will."""
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > self._settings.body_limit_bytes:
                raise TooLarge(_TOO_LARGE)

    def _hold(self, request: "_Timed", size: int) -> None:
        request.held_bytes += size
        self._held_bytes += size
        if request.held_bytes > self._settings.body_limit_bytes:
            raise TooLarge(_TOO_LARGE)
        if size and self._held_bytes > self._settings.body_memory_bytes:
            raise Unavailable


def _until_start(send: Send, limit: _Limit) -> Send:
    """Sends, and stops the clock where the answer begins."""

    async def send_in_time(message: Message) -> None:
        if message["type"] == "http.response.start":
            limit.when = math.inf
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
