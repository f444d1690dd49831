"""Pages for several requests by one statement, as the JSON that is sent.

A row becomes JSON by way of a struct that is filled by position, in half the time of naming its members.
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from uuid import UUID

import msgspec
from asyncpg import Record
from msgspec import Raw, Struct

from app.identifiers import LAST_SEQ_LIMIT, MessageIds, Owner
from app.pages import FRONT, Page, Position, decode_cursor, encode_cursor
from app.queries import Conn, Query
from app.wire.conversations import Conversation, ConversationListing, ForkedFrom
from app.wire.messages import Message, MessageListing

SHARED_PAGE_BYTES = 256 * 2**10
"""The payload of a page that is read with others: a larger one would hold them up, and sixteen the memory."""

_encode = msgspec.json.Encoder().encode


class PageVersion(Struct, frozen=True):
    """The state of a conversation: of the same id, no two are alike.

    One that is purged and made again is younger; what comes in place of a commit that a failover has lost is later.
    """

    created_at: datetime
    updated_at: datetime
    last_seq: int
    revision: int


class MessagePageRequest(Struct, frozen=True):
    """A page that is asked for, and the version at which it is known."""

    owner_id: UUID
    conversation_id: UUID
    listing: MessageListing
    known: PageVersion | None


class MessagePage(Struct, frozen=True):
    """A page and the version of its conversation; None: it is as it was known, or too large to be read with others."""

    body: bytes | None
    version: PageVersion
    is_known: bool = False


class ConversationPageRequest(Struct, frozen=True):
    """A page that is asked for."""

    owner: Owner
    limit: int
    position: Position


class _MessageRow(Struct, frozen=True):
    place: int
    version_created_at: datetime
    version_updated_at: datetime
    version_last_seq: int
    version_revision: int
    next_seq: int | None
    client_id: str | None
    seq: int | None
    role: str
    content: Raw | None
    tool_calls: Raw | None
    tool_call_id: str | None
    name: str | None
    audio_files: Raw | None
    function_calls: Raw | None
    model: str | None
    usage: Raw | None
    status: str
    metadata: Raw | None
    revision: int
    created_at: datetime
    updated_at: datetime


class _ConversationRow(Struct, frozen=True):
    place: int
    id: UUID
    key: str | None
    title: str | None
    metadata: Raw
    tags: list[str]
    pinned_at: datetime | None
    archived_at: datetime | None
    forked_from: UUID | None
    forked_from_seq: int | None
    last_seq: int
    revision: int
    message_count: int
    created_at: datetime
    updated_at: datetime


_LIST_MESSAGES = Query("list_message_pages", _MessageRow)
_LIST_MESSAGES_DESCENDING = Query("list_message_pages_descending", _MessageRow)
_LIST_CONVERSATIONS = Query("list_conversation_pages", _ConversationRow)


def _line_of(struct: type[Struct]) -> Callable[..., object]:
    """As the struct of the wire has what is always there, filled by position.

    It holds no cycle, so no garbage collector needs to see it.
    """
    fields = [(field.name, object) for field in msgspec.structs.fields(struct) if field.required]
    line: Callable[..., object] = msgspec.defstruct(f"{struct.__name__}Line", fields, frozen=True, gc=False)
    return line


_message_line = _line_of(Message)
_conversation_line = _line_of(Conversation)


async def list_messages(connection: Conn, requests: list[MessagePageRequest]) -> list[MessagePage | None]:
    """The pages, all in the same order, as `messages.list_messages` has them; None: there is no such conversation."""
    listings = [request.listing for request in requests]
    known = [request.known for request in requests]
    records = await (_LIST_MESSAGES if listings[0].order == "asc" else _LIST_MESSAGES_DESCENDING).fetch_records(
        connection,
        owner_ids=[request.owner_id for request in requests],
        conversation_ids=[request.conversation_id for request in requests],
        after_seqs=[listing.after or 0 for listing in listings],
        before_seqs=[LAST_SEQ_LIMIT if listing.before is None else listing.before for listing in listings],
        page_sizes=[listing.limit for listing in listings],
        known_created_ats=[version and version.created_at for version in known],
        known_updated_ats=[version and version.updated_at for version in known],
        known_last_seqs=[version and version.last_seq for version in known],
        known_revisions=[version and version.revision for version in known],
        page_bytes=SHARED_PAGE_BYTES,
    )
    return [
        _message_page(request, rows) if rows else None
        for request, rows in zip(requests, _by_place(records, len(requests)), strict=True)
    ]


def _message_page(request: MessagePageRequest, rows: list[Record]) -> MessagePage:
    version, listing = PageVersion(*rows[0][1:5]), request.listing
    if version == request.known:
        return MessagePage(None, version, is_known=True)
    if rows[0]["seq"] is None:
        if (listing.after or 0) < version.last_seq:
            return MessagePage(None, version)  # its first message may be too large
        rows = []
    rows.sort(key=lambda row: row["seq"], reverse=listing.order == "desc")
    has_more = bool(rows) and rows[-1]["next_seq"] is not None
    if has_more and len(rows) < listing.limit:
        return MessagePage(None, version)
    message_id = MessageIds(request.conversation_id).of
    conversation_id = str(request.conversation_id)
    data = [_message_line(message_id(row[7]), row[6], conversation_id, *row[7:]) for row in rows]
    page = Page(data=data, has_more=has_more, next_cursor=str(rows[-1]["seq"]) if has_more else None)
    return MessagePage(_encode(page), version)


async def list_conversations(connection: Conn, requests: list[ConversationPageRequest]) -> list[bytes]:
    """The pages, as `conversations.list_conversations` has them without a filter."""
    positions = [request.position for request in requests]
    records = await _LIST_CONVERSATIONS.fetch_records(
        connection,
        owner_ids=[request.owner.id for request in requests],
        before_active_ats=[position.active_at for position in positions],
        before_updated_ats=[position.updated_at for position in positions],
        before_ids=[position.id for position in positions],
        page_sizes=[request.limit + 1 for request in requests],
    )
    return [
        _conversation_page(request, rows)
        for request, rows in zip(requests, _by_place(records, len(requests)), strict=True)
    ]


def position_of(listing: ConversationListing) -> Position:
    """Where a page begins. Raises InvalidInput."""
    return decode_cursor(listing.after) if listing.after is not None else FRONT


def _conversation_page(request: ConversationPageRequest, rows: list[Record]) -> bytes:
    rows.sort(key=lambda row: (row["updated_at"], row["id"]), reverse=True)
    page = rows[: request.limit]
    user_id = request.owner.user_id
    data = [_conversation_line(str(row[1]), user_id, *row[2:8], _forked_from(row), *row[10:]) for row in page]
    cursor = encode_cursor(Position(page[-1]["updated_at"], page[-1]["id"])) if len(rows) > request.limit else None
    return _encode(Page(data=data, has_more=cursor is not None, next_cursor=cursor))


def _forked_from(row: Record) -> ForkedFrom | None:
    if row["forked_from"] is None:
        return None
    return ForkedFrom(conversation_id=str(row["forked_from"]), seq=row["forked_from_seq"])


def _by_place(records: Iterable[Record], count: int) -> list[list[Record]]:
    rows: list[list[Record]] = [[] for _ in range(count)]
    for record in records:
        rows[record[0] - 1].append(record)
    return rows
