"""One HTTP exchange: the parts of a request as the handlers need them, and the answers they give."""

from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Generic, TypeAlias, TypeVar
from uuid import UUID

import msgspec
from litestar import Request, Response
from litestar.datastructures import State
from litestar.response import Stream
from litestar.types import Receive, Scope, Send
from litestar.types.asgi_types import HTTPResponseStartEvent
from msgspec import Struct

from app import sse
from app.auth import Administrator, Caller
from app.errors import InvalidInput, NotFound, UnsupportedMediaType
from app.headers import Expected, header_values, parse_idempotency_key, parse_if_match, raw_header_values
from app.identifiers import parse_uuid
from app.parameters import parse_query
from app.payloads import read

T = TypeVar("T")
UserT = TypeVar("UserT")

Respond: TypeAlias = Callable[[int, list[tuple[bytes, bytes]], bytes], bool]
"""Sends status, headers and body at once, past ASGI's messages; False: they are to go by those."""

_NO_CONTENT = {204, 304}
_encode = msgspec.json.Encoder().encode


class OurRequest(Request[UserT, object, State], Generic[UserT]):
    """A request, whose body is bounded where it is received."""

    _whole_body: bytes | None = None

    async def body(self) -> bytes:
        """The body. Raises InvalidInput when the client left before its end."""
        if self._whole_body is None:
            pieces = []
            message = await self.receive()
            while message["type"] == "http.request" and message["more_body"]:
                pieces.append(message["body"])
                message = await self.receive()
            if message["type"] != "http.request":
                raise InvalidInput(detail="the body ended before its length")
            self._whole_body = b"".join([*pieces, message["body"]])
        return self._whole_body


ApiRequest: TypeAlias = OurRequest[Caller]
AdminRequest: TypeAlias = OurRequest[Administrator]


class BytesResponse(Response[bytes]):
    """An answer that goes out as it is."""

    def __init__(self, content: bytes, status: int, media_type: str | None, headers: Mapping[str, str] | None) -> None:
        self.content, self.status_code, self.media_type = content, status, media_type
        self.status = status
        self.headers = dict(headers or {})

    def to_asgi_response(self, **_options: object) -> "BytesResponse":  # type: ignore[override]  # any ASGI application will do
        """Itself."""
        return self

    def raw_headers(self) -> list[tuple[bytes, bytes]]:
        """All its headers, as they go out."""
        headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in self.headers.items()]
        if self.status not in _NO_CONTENT:
            if self.media_type is not None:
                headers.append((b"content-type", self.media_type.encode()))
            headers.append((b"content-length", b"%d" % len(self.content)))
        return headers

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Sends it."""
        start: HTTPResponseStartEvent = {
            "type": "http.response.start",
            "status": self.status,
            "headers": self.raw_headers(),
        }
        await send(start)
        await send({"type": "http.response.body", "body": self.content, "more_body": False})


async def read_body(request: ApiRequest, parse: Callable[[bytes], T]) -> T:
    """What `parse` makes of the JSON body. Raises UnsupportedMediaType, TooLarge, InvalidInput."""
    content_types = raw_header_values(request.scope, b"content-type")
    if len(content_types) != 1 or content_types[0].partition(b";")[0].strip().lower() != b"application/json":
        raise UnsupportedMediaType
    return await read(await request.body(), parse)


async def read_optional_body(request: ApiRequest, parse: Callable[[bytes], T]) -> T:
    """As `read_body`; no body is an empty object."""
    return await read_body(request, parse) if await request.body() else parse(b"{}")


def read_query(request: ApiRequest | AdminRequest, struct: type[T]) -> T:
    """The query parameters. Raises InvalidInput."""
    return parse_query(request.scope["query_string"], struct)


def read_conversation_id(text: str) -> UUID:
    """The conversation id of a path. Raises NotFound for anything but a canonical UUID."""
    conversation_id = parse_uuid(text)
    if conversation_id is None:
        raise NotFound
    return conversation_id


def read_idempotency_key(request: ApiRequest) -> str | None:
    """The Idempotency-Key, if there is one. Raises InvalidInput."""
    return parse_idempotency_key(header_values(request.scope, b"idempotency-key"))


def read_if_match(request: ApiRequest) -> Expected | None:
    """The version that If-Match names, if it is there. Raises InvalidInput."""
    return parse_if_match(header_values(request.scope, b"if-match"))


def read_wants_events(request: ApiRequest) -> bool:
    """Whether the client asks for an event stream."""
    accepted = [
        part.partition(";")[0] for value in header_values(request.scope, b"accept") for part in value.split(",")
    ]
    return sse.MEDIA_TYPE in (media_type.strip().lower() for media_type in accepted)


def answer(content: Struct, status: int = 200, headers: Mapping[str, str] | None = None) -> Response[bytes]:
    """A JSON answer."""
    return BytesResponse(_encode(content), status, "application/json", headers)


def answer_json(body: bytes) -> Response[bytes]:
    """A JSON answer that is written already."""
    return BytesResponse(body, 200, "application/json", None)


def answer_nothing(status: int, headers: Mapping[str, str] | None = None) -> Response[bytes]:
    """An answer without a body."""
    return BytesResponse(b"", status, None, headers)


def answer_events(
    events: AsyncGenerator[bytes, None], status: int = 200, headers: Mapping[str, str] | None = None
) -> Stream:
    """An event stream."""
    return Stream(events, status_code=status, media_type=sse.MEDIA_TYPE, headers={**sse.HEADERS, **(headers or {})})
