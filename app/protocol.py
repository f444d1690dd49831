"""HTTP on the socket: uvicorn's protocol, with limits on what comes before and after a handler.

A head has a size and a time, what is left of a refused request a time, and an answer a time to be read.
"""

import array
import fcntl
import logging
import socket
import struct
import termios
from asyncio import AbstractEventLoop, BaseTransport, TimerHandle, Transport
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from itertools import chain
from typing import cast

from httptools import HttpParserError
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from app.errors import DomainError, InvalidInput, RequestTimeout, Unavailable
from app.openai_errors import is_openai, render_openai_error
from app.problems import HeadTooLarge, new_request_id, render_problem
from app.settings import Settings

HEAD_SECONDS = 10.0
"""From the first byte of a request, or from the connection, to the end of the head."""

LINGER_SECONDS = 5.0
"""For the rest of a body after the answer."""

STALL_SECONDS = 15.0
"""Within which a client that has an answer to read must read some of it."""

_RESET = struct.pack("ii", 1, 0)  # struct linger (socket(7))
_FRAMING = {b"content-length", b"transfer-encoding"}
_logger = logging.getLogger("verbatim.protocol")


class _Transport:
    """A transport that does not hang up on who is still sending: that would throw the answer away (RFC 9112 §9.6).

    The head of an answer goes out with the first of its body: one system call, one packet.
    """

    def __init__(self, transport: Transport, protocol: "LimitedProtocol") -> None:
        self._transport = transport
        self._protocol = protocol
        self._head = b""
        self.is_lingering = False

    def write(self, data: bytes) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.writelines((head, data))
        elif data.startswith(b"HTTP/1.1 2"):
            self._head = data
            self._protocol.loop.call_soon(self._write_head)
        else:
            self._transport.write(data)

    def write_whole(self, data: bytes) -> None:
        """Writes what is a head and its body."""
        self._write_head()
        self._transport.write(data)

    def _write_head(self) -> None:
        """Alone, when nothing has followed it at once."""
        head, self._head = self._head, b""
        if head and not self._transport.is_closing():
            self._transport.write(head)

    def get_write_buffer_size(self) -> int:
        return len(self._head) + self._transport.get_write_buffer_size()

    def __getattr__(self, name: str) -> object:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self.is_lingering or self._transport.is_closing()

    def close(self) -> None:
        self._write_head()
        if self.is_closing() or not self._protocol.is_receiving:
            self._transport.close()
        else:
            self.is_lingering = True
            self._transport.write_eof()
            self._protocol.linger()


class LimitedProtocol(HttpToolsProtocol):
    """One connection of a client."""

    settings: Settings

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, object],
        _loop: AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.url = b""
        self._unparsed_bytes = self._chunk_bytes = self._received_bytes = 0
        self._flaw: DomainError = InvalidInput(detail="the request is malformed")
        self._is_between = True
        self._is_refused = False
        self._timer: TimerHandle | None = None
        self._stall_timer: TimerHandle | None = None

    def connection_made(self, transport: BaseTransport) -> None:
        """Lets a client in, unless too many are."""
        client = cast("Transport", transport)
        super().connection_made(client)
        self._lingering = _Transport(client, self)
        self.transport = cast("Transport", self._lingering)
        if len(self.connections) > self.settings.connection_limit:
            self._refuse(Unavailable())
        else:
            self._arm(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the client."""
        for timer in (self._timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    @property
    def is_receiving(self) -> bool:
        """Whether a request has begun to arrive and has not ended."""
        return not self._is_between or self._unparsed_bytes > 0

    @property
    def _path(self) -> str:
        """The path that is asked for, as far as it has arrived."""
        return self.url.partition(b"?")[0].decode("latin-1")

    @property
    def _head_bytes(self) -> int:
        return len(self.url) + sum(map(len, chain.from_iterable(self.headers)))

    def linger(self) -> None:
        """Takes the rest of a request in vain, for a time."""
        self.flow.resume_reading()
        self._arm(LINGER_SECONDS)

    def data_received(self, data: bytes) -> None:
        """Parses, and refuses a head, a trailer or a chunk's extension without end: all that is no piece of a body."""
        if self._is_refused:
            return
        self._unparsed_bytes += len(data)
        self._chunk_bytes = len(data)
        self._received_bytes += len(data)
        super().data_received(data)
        if self._unparsed_bytes > self.settings.head_limit_bytes:
            self._refuse(HeadTooLarge())
        elif self._is_between and self._unparsed_bytes and self._timer is None:
            self._arm(HEAD_SECONDS)

    def on_headers_complete(self) -> None:
        """Starts the request. Raises HttpParserError, which ends the parsing."""
        limit = self.settings.head_limit_bytes
        if self._received_bytes > limit and self._head_bytes > limit:
            self._flaw = HeadTooLarge()
            raise HttpParserError
        if self.parser.should_upgrade() and any(name in _FRAMING and value != b"0" for name, value in self.headers):
            self._flaw = InvalidInput(detail="there is nothing here to upgrade to")
            raise HttpParserError  # the parser would take the body for the next request
        super().on_headers_complete()
        self.headers = []  # for a trailer, which is none of the request's headers (RFC 9110 section 6.5.1)
        self._received_bytes = self._chunk_bytes  # of the head before at most, and all of the next one's
        self.scope["state"]["respond"] = partial(self._respond, self.cycle)
        self._unparsed_bytes = 0
        self._is_between = False
        self._disarm()

    def _respond(
        self, cycle: RequestResponseCycle, status: int, headers: list[tuple[bytes, bytes]], body: bytes
    ) -> bool:
        """Sends a whole answer with its content-length at once; False: it is to go the way of all others."""
        if cycle.disconnected or cycle.response_started or self.flow.write_paused or not cycle.keep_alive:
            return False
        headers = [*cycle.default_headers, *headers]
        head = STATUS_LINE[status] + b"".join([b"%b: %b\r\n" % header for header in headers])
        if head.count(b"\r") + head.count(b"\n") != 2 * (1 + len(headers)):
            return False  # where it is refused
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        self._lingering.write_whole(b"".join((head, b"\r\n", body)))
        cycle.message_event.set()
        cycle.on_response()
        return True

    def on_body(self, body: bytes) -> None:
        """Passes a piece of the body on."""
        self._unparsed_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Awaits the next request."""
        self._unparsed_bytes = 0
        self._is_between = True
        self._disarm()
        super().on_message_complete()
        if self._lingering.is_lingering:
            self._close()
        elif self.cycle.response_complete:
            self._arm(self.timeout_keep_alive)  # what came after the answer has stopped uvicorn's own clock

    def on_response_complete(self) -> None:
        """Gives the rest of a body that nobody wanted its time."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._watch()
        elif not self._is_between and self.cycle.response_complete:
            self._arm(LINGER_SECONDS)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  # uvicorn's signature
        """Refuses what is no HTTP."""
        self._refuse(self._flaw)

    def pause_writing(self) -> None:
        """Begins to watch how a client reads."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """Ends it."""
        super().resume_writing()
        if self._stall_timer is not None and not self.transport.is_closing():
            self._stall_timer.cancel()

    def timeout_keep_alive_handler(self) -> None:
        """Closes an idle connection, also one whose client reads no answer."""
        self._close()

    def _close(self) -> None:
        self.transport.close()
        self._watch()

    def _watch(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
        if unread_bytes := self._unread_bytes():
            self._stall_timer = self.loop.call_later(STALL_SECONDS, self._look, unread_bytes)

    def _unread_bytes(self) -> int:
        """With what the kernel holds: it takes more only when a third of that is gone, too rarely for a slow reader."""
        if not (size := self.transport.get_write_buffer_size()):
            return 0
        queued = array.array("i", [0])
        with suppress(OSError):
            fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, queued)
        return size + queued[0]

    def _look(self, unread_bytes: int) -> None:
        if self._unread_bytes() < unread_bytes:
            self._watch()
        else:  # with a reset, else the kernel would go on holding what nobody reads
            with suppress(OSError):
                client = self.transport.get_extra_info("socket")
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.transport.abort()

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._timer = self.loop.call_later(seconds, self._give_up)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        if self._is_between and self._unparsed_bytes and not self._lingering.is_lingering:
            self._refuse(RequestTimeout())
        else:
            self._close()

    def _refuse(self, problem: DomainError) -> None:
        """Answers what never became a request, unless another answer is on its way, and closes the connection."""
        if self.transport.is_closing():
            return
        self._is_refused = True
        if self._is_between and self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False  # its answer goes out first, and closes
            self._disarm()
            return
        render = render_openai_error if is_openai(self._path) else render_problem
        answer = render(problem, request_id := new_request_id())
        fields = {"status": answer.status, "request_id": request_id}
        _logger.info("refused", extra={"fields": fields})
        if self._is_between or not self.cycle.response_started:
            if not self._is_between:  # its body is what is wrong: its handler hears that the client left
                self.cycle.disconnected = True
                self.cycle.message_event.set()
            headers = answer.headers | {
                "Content-Length": str(len(answer.body)),
                "Connection": "close",
                "X-Request-Id": request_id,
            }
            lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}"]
            lines += [f"{name.lower()}: {value}" for name, value in headers.items()]
            self.transport.write("\r\n".join([*lines, "", ""]).encode() + answer.body)
        self._close()


def protocol_of(settings: Settings) -> type[HttpToolsProtocol]:
    """The protocol under these settings."""

    class Protocol(LimitedProtocol):
        pass

    Protocol.settings = settings
    return Protocol
