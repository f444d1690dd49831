"""One HTTP exchange: the parts of a request as the handlers need them, and the answers they give."""

from collections.abc import AsyncGenerator, Callable, Mapping
from typing import TypeAlias, TypeVar
from uuid import UUID

import msgspec
from litestar import Request, Response
from litestar.datastructures import State
from litestar.exceptions import InternalServerException
from litestar.response import Stream
from litestar.types import HTTPScope
from msgspec import Struct

from app import sse
from app.auth import Administrator, Caller
from app.errors import InvalidInput, NotFound, UnsupportedMediaType
from app.headers import Expected, parse_idempotency_key, parse_if_match
from app.identifiers import parse_uuid
from app.payloads import parse_query, read

T = TypeVar("T")
ApiRequest: TypeAlias = Request[Caller, object, State]
AdminRequest: TypeAlias = Request[Administrator, object, State]

_encode = msgspec.json.Encoder().encode


def header_values(scope: HTTPScope, name: bytes) -> list[str]:
    """All values of a header, which a proxy may have repeated."""
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


async def read_body(request: ApiRequest, parse: Callable[[bytes], T]) -> T:
    """What `parse` makes of the JSON body. Raises UnsupportedMediaType, TooLarge, InvalidInput."""
    content_types = header_values(request.scope, b"content-type")
    if len(content_types) != 1 or content_types[0].partition(";")[0].strip().lower() != "application/json":
        raise UnsupportedMediaType
    return await read(await _body(request), parse)


async def _body(request: ApiRequest) -> bytes:
    try:
        return await request.body()
    except InternalServerException:  # so Litestar calls a client that left
        raise InvalidInput(detail="the body ended before its length") from None


async def read_optional_body(request: ApiRequest, parse: Callable[[bytes], T]) -> T:
    """As `read_body`; no body is an empty object."""
    return await read_body(request, parse) if await _body(request) else parse(b"{}")


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
    return Response(_encode(content), status_code=status, media_type="application/json", headers=headers)


def answer_nothing(status: int, headers: Mapping[str, str] | None = None) -> Response[bytes]:
    """An answer without a body."""
    return Response(b"", status_code=status, headers=headers)


def answer_events(
    events: AsyncGenerator[bytes, None], status: int = 200, headers: Mapping[str, str] | None = None
) -> Stream:
    """An event stream."""
    return Stream(events, status_code=status, media_type=sse.MEDIA_TYPE, headers={**sse.HEADERS, **(headers or {})})
