"""The outermost layer: what is true of every request, whatever route it takes or whether it finds one."""

import asyncio
import logging
from time import perf_counter
from typing import cast
from uuid import UUID

from litestar.types import ASGIApp, HTTPScope, Message, Receive, Send

from app.auth import Caller
from app.errors import NotFound, Unavailable
from app.exchanges import Respond
from app.logs import REQUEST_ID, LineLogger, log_broken
from app.openai_errors import render_of
from app.problems import Answer, InternalError, request_id_of

PATH_LIMIT_BYTES = 2048
"""No path of ours is longer. The router remembers paths, known or not, before it is known who asks."""

_logger = logging.getLogger("verbatim.requests")
_lines = LineLogger("verbatim.requests")


class Drain:
    """Whether this process is about to stop: then it is not ready, and every answer closes its connection."""

    def __init__(self) -> None:
        self.is_draining = False


class Edge:
    """Gives each request an id and a line in the log, and lets none in whose path is longer than ours are."""

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    async def __call__(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        """Answers; what breaks out of the application is logged here and nowhere else."""
        begun_at = perf_counter()
        request_id = request_id_of(scope)
        token = REQUEST_ID.set(request_id)
        respond = cast("Respond | None", scope["state"].pop("respond", None))
        answer = _Outgoing(send, self._drain, request_id, respond)
        scope["state"]["respond"] = answer.respond
        try:
            if len(scope["raw_path"]) > PATH_LIMIT_BYTES:
                await _send(render_of(scope)(NotFound(), request_id), answer.send)
            else:
                await self._app(scope, receive, answer.send)
        except asyncio.CancelledError:  # the server stops
            if answer.status:
                raise
            await _send(render_of(scope)(Unavailable(), request_id), answer.send)
        except Exception as error:  # noqa: BLE001  # whatever it was, its words stay here
            log_broken(_logger, error.__cause__ or error)
            if answer.status:
                raise RuntimeError("the answer broke off") from None  # so that the server closes the connection
            await _send(render_of(scope)(InternalError(), request_id), answer.send)
        finally:
            _log(scope, answer.status, answer.size, perf_counter() - begun_at)
            REQUEST_ID.reset(token)
            scope["state"].pop("respond", None)  # a cycle, which would wait for the garbage collector


class _Outgoing:
    """An answer on its way out: it gets what all answers have, and is measured."""

    __slots__ = ("_drain", "_request_id", "_respond", "_send", "size", "status")

    def __init__(self, send: Send, drain: Drain, request_id: str, respond: Respond | None) -> None:
        self._send, self._drain, self._request_id, self._respond = send, drain, request_id, respond
        self.status = self.size = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            marks = [(b"x-request-id", self._request_id.encode())]
            if self._drain.is_draining:
                marks.append((b"connection", b"close"))
            message["headers"] = [*message["headers"], *marks]
        elif message["type"] == "http.response.body":
            self.size += len(message["body"])
        await self._send(message)

    def respond(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> bool:
        if self._respond is None or self._drain.is_draining:
            return False
        headers.append((b"x-request-id", self._request_id.encode()))
        if not self._respond(status, headers, body):
            return False
        self.status, self.size = status, len(body)
        return True


async def _send(answer: Answer, send: Send) -> None:
    headers = [(name.lower().encode(), value.encode()) for name, value in answer.headers.items()]
    headers.append((b"content-length", str(len(answer.body)).encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body, "more_body": False})


def _log(scope: HTTPScope, status: int, size: int, seconds: float) -> None:
    caller = scope.get("user")
    owner_id: UUID | None = caller.owner.id if isinstance(caller, Caller) else None
    fields = {
        "method": scope["method"],
        "route": scope.get("path_template"),
        "status": status,
        "bytes": size,
        "duration_ms": round(seconds * 1000, 2),
        "owner": owner_id,
    }
    _lines.info("request", fields)
