"""Pages: keyset cursors, and where a page is cut."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from typing import Annotated, Generic, TypeVar
from uuid import UUID

from msgspec import Meta, Struct

from app.errors import Flaw, InvalidInput

PAGE_LIMIT_BYTES = 8 * 1024 * 1024
"""A page of messages ends before the one whose payloads would carry it beyond; it has at least one."""

T = TypeVar("T")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Page(Struct, Generic[T], kw_only=True, frozen=True):
    """One page of a list."""

    data: list[T]
    has_more: Annotated[bool, Meta(description="Whether there is more behind this page, which may be short.")]
    next_cursor: Annotated[str, Meta(description="Names the place behind this page.")] | None


class Position(Struct, frozen=True):
    """A place in the list of conversations: behind the one that was last used at this time."""

    updated_at: datetime
    id: UUID

    @property
    def active_at(self) -> datetime:
        """The minute of the place, by which the list is indexed."""
        return self.updated_at.replace(second=0, microsecond=0)


FRONT = Position(datetime(9999, 12, 31, tzinfo=UTC), UUID(int=2**128 - 1))
"""Before every conversation."""


def encode_cursor(position: Position) -> str:
    """The opaque text of a place."""
    microseconds = (position.updated_at - _EPOCH) // _MICROSECOND
    return urlsafe_b64encode(microseconds.to_bytes(8) + position.id.bytes).decode()


def decode_cursor(text: str) -> Position:
    """The place that `encode_cursor` named. Raises InvalidInput for any other text."""
    try:
        raw = urlsafe_b64decode(text.encode("ascii"))
        position = Position(_EPOCH + int.from_bytes(raw[:8]) * _MICROSECOND, UUID(bytes=raw[8:]))
    except (ValueError, OverflowError):
        position = FRONT
    if position.updated_at >= FRONT.updated_at or encode_cursor(position) != text:
        raise InvalidInput(Flaw(parameter="after", message="is no cursor of this list"))
    return position
