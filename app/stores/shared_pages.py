"""Pages for several requests by one statement, as the JSON that is sent.

A row becomes JSON by way of a struct that is filled by position, in half the time of naming its members.
"""

from array import array
from collections.abc import Callable, Iterable
from datetime import datetime
from enum import Enum
from itertools import accumulate
from operator import itemgetter
from uuid import UUID

import msgspec
from asyncpg import Record
from msgspec import Raw, Struct

from app.identifiers import LAST_SEQ_LIMIT, MessageIds, Owner
from app.pages import FRONT, Page, Position, decode_cursor, encode_cursor
from app.queries import Conn, Query
from app.stores.conversations import ConversationRow
from app.wire.conversations import Conversation, ConversationListing, ForkedFrom
from app.wire.messages import Message, MessageListing

SHARED_PAGE_BYTES = 256 * 2**10
"""The payload of a page that is read with others: a larger one would hold them up, and sixteen the memory."""

_LONGEST_BYTES = 2 * SHARED_PAGE_BYTES  # of a page that has grown append by append
_OPENING = b'{"data":['
_NOTHING: list[Message] = []
_VERSION = slice(1, 5)
_CLIENT_ID, _SEQ = 6, 7
_ID, _UPDATED_AT, _PLACE, _PAGE_VERSION = 0, -3, -2, -1
_encode = msgspec.json.Encoder().encode


class PageVersion(Struct, frozen=True):
    """The state of a conversation: of the same id, no two are alike.

    One that is purged and made again is younger; what comes in place of a commit that a failover has lost is later,
    unless the clock of the new primary is behind by more than that took.
    """

    created_at: datetime
    updated_at: datetime
    last_seq: int
    revision: int


class MessagePage(Struct, frozen=True):
    """A page as it is sent, the version of its conversation, and where its messages stand in it."""

    version: PageVersion
    body: bytes
    seqs: "array[int]"
    ends: "array[int]"
    """Behind each message, in bytes from the beginning of the page."""
    has_more: bool
    begun_at: datetime | None
    """When its first message was made; None: it has none."""

    @property
    def size(self) -> int:
        """The bytes that it takes to keep."""
        return len(self.body) + 2 * self.seqs.itemsize * len(self.seqs)


class Unread(Enum):
    """Why there is no page."""

    ABSENT = "the conversation is absent, foreign or deleted"
    ALONE = "the page is not one to be read with others"


class MessagePageRequest(Struct, frozen=True):
    """A page that is asked for, and as it is known."""

    owner_id: UUID
    conversation_id: UUID
    listing: MessageListing
    known: MessagePage | None

    @property
    def newest_seq(self) -> int | None:
        """Of the known page, where appends alone make it longer in front.

        Only of a conversation that was never changed otherwise: the revision of a change that a failover has lost is
        given to another one.
        """
        known, listing = self.known, self.listing
        if known is None or known.version.revision > 0 or not known.seqs:
            return None
        is_front = listing.order == "desc" and listing.after is None and listing.before is None
        return known.seqs[0] if is_front else None


class ConversationPage(Struct, frozen=True):
    """A page as it is sent."""

    version: bytes | None
    """The SHA-256 of where its conversations, and the one behind it, stand; None: there are none."""
    body: bytes

    @property
    def size(self) -> int:
        """The bytes that it takes to keep."""
        return len(self.body) + len(self.version or b"")


class ConversationPageRequest(Struct, frozen=True):
    """A page that is asked for, and as it is known."""

    owner: Owner
    limit: int
    position: Position
    known: ConversationPage | None


class _MessageRow(Struct, frozen=True):
    place: int
    version_created_at: datetime | None
    version_updated_at: datetime | None
    version_last_seq: int | None
    version_revision: int | None
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
    updated_at: datetime | None


class _ConversationRow(ConversationRow, frozen=True):
    place: int
    version: bytes | None


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


async def list_messages(connection: Conn, requests: list[MessagePageRequest]) -> list[MessagePage | Unread]:
    """The pages, all in the same order, as `messages.list_messages` has them."""
    listings = [request.listing for request in requests]
    known = [request.known and request.known.version for request in requests]
    is_descending = listings[0].order == "desc"
    newest_seqs = {"newest_seqs": [request.newest_seq for request in requests]} if is_descending else {}
    records = await (_LIST_MESSAGES_DESCENDING if is_descending else _LIST_MESSAGES).fetch_records(
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
        **newest_seqs,
        page_bytes=SHARED_PAGE_BYTES,
    )
    return [
        _message_page(request, rows) if rows else Unread.ABSENT
        for request, rows in zip(requests, _by_place(records, len(requests)), strict=True)
    ]


def _message_page(request: MessagePageRequest, rows: list[Record]) -> MessagePage | Unread:
    known, listing = request.known, request.listing
    if len(rows) > 1:
        rows.sort(key=itemgetter(_SEQ), reverse=listing.order == "desc")
    version = PageVersion(*rows[0][_VERSION])
    if known is not None and version == known.version:
        return known
    if rows[0][_SEQ] is None:
        if (listing.after or 0) < version.last_seq:
            return Unread.ALONE  # its first message may be too large
        rows = []
    has_more = bool(rows) and rows[-1]["next_seq"] is not None
    newest_seq = request.newest_seq
    if known is not None and newest_seq is not None and _has_only_grown(known.version, version):
        if rows and rows[-1][_SEQ] == newest_seq and rows[-1]["created_at"] == known.begun_at:
            return _longer_page(request, version, rows[:-1], known)
        if not has_more:
            return Unread.ALONE  # a failover has lost what is known
    if has_more and len(rows) < listing.limit:
        return Unread.ALONE
    return _new_page(request, version, rows, has_more=has_more)


def _has_only_grown(known: PageVersion, version: PageVersion) -> bool:
    """Whether nothing but appends has come: all else changes the revision."""
    return known.created_at == version.created_at and known.revision == version.revision


def _new_page(request: MessagePageRequest, version: PageVersion, rows: list[Record], *, has_more: bool) -> MessagePage:
    message_id, conversation_id = MessageIds(request.conversation_id).of, str(request.conversation_id)
    bodies = [
        _encode(
            _message_line(message_id(row[_SEQ]), row[_CLIENT_ID], conversation_id, *row[_SEQ:-1], row[-1] or row[-2])
        )
        for row in rows
    ]
    seqs = array("q", [row[_SEQ] for row in rows])
    ends = array("q", [end + place for place, end in enumerate(accumulate(map(len, bodies)), len(_OPENING))])
    begun_at = rows[0]["created_at"] if rows else None
    return MessagePage(version, _body(b",".join(bodies), seqs, has_more=has_more), seqs, ends, has_more, begun_at)


def _longer_page(
    request: MessagePageRequest, version: PageVersion, rows: list[Record], known: MessagePage
) -> MessagePage | Unread:
    """A page of new messages, and behind them as many of the known ones as it takes."""
    kept = min(request.listing.limit - len(rows), len(known.seqs))
    has_more = known.has_more or kept < len(known.seqs)
    new = _new_page(request, version, rows, has_more=has_more)
    shift = new.ends[-1] + 1 - len(_OPENING) if rows else 0
    seqs = new.seqs + known.seqs[:kept]
    data = [new.body[len(_OPENING) : new.ends[-1]]] if rows else []
    data.append(known.body[len(_OPENING) : known.ends[kept - 1]])
    body = _body(b",".join(data), seqs, has_more=has_more)
    if len(body) > _LONGEST_BYTES:
        return Unread.ALONE
    ends = new.ends + array("q", [end + shift for end in known.ends[:kept]])
    return MessagePage(version, body, seqs, ends, has_more, new.begun_at or known.begun_at)


def _body(data: bytes, seqs: "array[int]", *, has_more: bool) -> bytes:
    empty = _encode(Page(data=_NOTHING, has_more=has_more, next_cursor=str(seqs[-1]) if has_more else None))
    return _OPENING + data + empty[len(_OPENING) :]


async def list_conversations(connection: Conn, requests: list[ConversationPageRequest]) -> list[ConversationPage]:
    """The pages, as `conversations.list_conversations` has them without a filter."""
    positions = [request.position for request in requests]
    records = await _LIST_CONVERSATIONS.fetch_records(
        connection,
        owner_ids=[request.owner.id for request in requests],
        before_active_ats=[position.active_at for position in positions],
        before_updated_ats=[position.updated_at for position in positions],
        before_ids=[position.id for position in positions],
        page_sizes=[request.limit + 1 for request in requests],
        known_versions=[request.known and request.known.version for request in requests],
    )
    return [
        _conversation_page(request, rows)
        for request, rows in zip(requests, _by_place(records, len(requests), _PLACE), strict=True)
    ]


def position_of(listing: ConversationListing) -> Position:
    """Where a page begins. Raises InvalidInput."""
    return decode_cursor(listing.after) if listing.after is not None else FRONT


def _conversation_page(request: ConversationPageRequest, rows: list[Record]) -> ConversationPage:
    version = rows[0][_PAGE_VERSION]
    if request.known is not None and version == request.known.version:
        return request.known
    if version is None:
        rows = []
    rows.sort(key=itemgetter(_UPDATED_AT, _ID), reverse=True)
    page = rows[: request.limit]
    user_id = request.owner.user_id
    data = [_conversation_line(str(row[_ID]), user_id, *row[1:7], _forked_from(row), *row[9:_PLACE]) for row in page]
    cursor = encode_cursor(Position(page[-1]["updated_at"], page[-1]["id"])) if len(rows) > request.limit else None
    return ConversationPage(version, _encode(Page(data=data, has_more=cursor is not None, next_cursor=cursor)))


def _forked_from(row: Record) -> ForkedFrom | None:
    if row["forked_from"] is None:
        return None
    return ForkedFrom(conversation_id=str(row["forked_from"]), seq=row["forked_from_seq"])


def _by_place(records: Iterable[Record], count: int, column: int = 0) -> list[list[Record]]:
    rows: list[list[Record]] = [[] for _ in range(count)]
    for record in records:
        rows[record[column] - 1].append(record)
    return rows
