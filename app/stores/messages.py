"""Messages: found, listed, changed. How they come in is in `appends`, how they go in `deletions`."""

from datetime import datetime
from uuid import UUID

from msgspec import UNSET, Raw, Struct

from app.context import Entry
from app.errors import NotFound, ReplyInProgress
from app.headers import Expected
from app.identifiers import LAST_SEQ_LIMIT, MessageIds, is_key
from app.pages import PAGE_LIMIT_BYTES, Page
from app.payloads import check_content, count_tokens, measure_payloads
from app.queries import Conn, NoRow, Query
from app.stores.conversations import lock_conversation
from app.wire.messages import DEFAULT_STATUS, Message, MessageChange, MessageListing, Role, Status, Version


class _Row(Struct, frozen=True):
    client_id: str | None
    conversation_id: UUID
    seq: int
    role: Role
    content: Raw | None
    tool_calls: Raw | None
    tool_call_id: str | None
    name: str | None
    audio_files: Raw | None
    function_calls: Raw | None
    model: str | None
    usage: Raw | None
    status: Status
    metadata: Raw | None
    source: Raw | None
    revision: int
    created_at: datetime
    updated_at: datetime


class _ListRow(_Row, frozen=True):
    next_seq: int | None
    body_bytes: int


class _Seq(Struct, frozen=True):
    seq: int


class _LiveReply(Struct, frozen=True):
    is_live: bool


class MessageContent(Struct, kw_only=True, frozen=True):
    """What a model has made of a message."""

    content: bytes | None
    tool_calls: bytes | None
    usage: bytes | None
    model: str | None
    """None: as it was."""
    status: Status


_GET_VERSION = Query("get_version", Version)
_GET = Query("get_message", _Row)
_FIND_SEQ = Query("find_message_seq", _Seq)
_LIST = Query("list_messages", _ListRow)
_LIST_DESCENDING = Query("list_messages_descending", _ListRow)
_UPDATE = Query("update_message", NoRow)
_FIND_LIVE_REPLY = Query("find_live_reply", _LiveReply)


def _message(row: _Row, ids: MessageIds) -> Message:
    return Message(
        id=ids.of(row.seq),
        client_id=row.client_id,
        conversation_id=str(row.conversation_id),
        seq=row.seq,
        role=row.role,
        content=row.content,
        tool_calls=row.tool_calls,
        tool_call_id=row.tool_call_id,
        name=row.name,
        audio_files=row.audio_files,
        function_calls=row.function_calls,
        model=row.model,
        usage=row.usage,
        status=row.status,
        metadata=row.metadata,
        revision=row.revision,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


async def list_messages(
    connection: Conn, owner_id: UUID, conversation_id: UUID, listing: MessageListing
) -> Page[Message]:
    """A page of at most PAGE_LIMIT_BYTES of payload, or of one message. Raises NotFound."""
    entries, has_more = await list_entries(connection, owner_id, conversation_id, listing)
    data = [entry.message for entry in entries]
    return Page(data=data, has_more=has_more, next_cursor=str(data[-1].seq) if has_more else None)


async def list_entries(
    connection: Conn, owner_id: UUID, conversation_id: UUID, listing: MessageListing, *, only_finished: bool = False
) -> tuple[list[Entry], bool]:
    """A page as of `list_messages`, as it is kept, and whether there is more; NotFound is raised.

    With `only_finished` it ends before what was asked together with a reply that is being made.
    """
    rows = await (_LIST if listing.order == "asc" else _LIST_DESCENDING).fetch(
        connection,
        owner_id=owner_id,
        conversation_id=conversation_id,
        after_seq=listing.after or 0,
        before_seq=LAST_SEQ_LIMIT if listing.before is None else listing.before,
        only_finished=only_finished,
        page_size=listing.limit,
        page_bytes=PAGE_LIMIT_BYTES,
    )
    if not rows and await _GET_VERSION.fetch_one(connection, owner_id=owner_id, id=conversation_id) is None:
        raise NotFound
    ids = MessageIds(conversation_id)
    entries = [Entry(_message(row, ids), row.body_bytes, row.source) for row in rows]
    return entries, bool(rows) and rows[-1].next_seq is not None


async def get_message(connection: Conn, owner_id: UUID, conversation_id: UUID, message_id: str) -> Message:
    """The message with this id or client id. Raises NotFound."""
    ids = MessageIds(conversation_id)
    seq = await find_seq(connection, owner_id, conversation_id, message_id)
    return _message(await _get(connection, owner_id, conversation_id, seq), ids)


async def get_message_at(connection: Conn, owner_id: UUID, conversation_id: UUID, seq: int) -> Message:
    """The message with this seq. Raises NotFound."""
    return _message(await _get(connection, owner_id, conversation_id, seq), MessageIds(conversation_id))


async def find_seq(connection: Conn, owner_id: UUID, conversation_id: UUID, message_id: str) -> int:
    """The seq of a message by its id or client id; whether it is there is not looked at. Raises NotFound."""
    seq = MessageIds(conversation_id).seq(message_id)
    if seq is not None:
        return seq
    if not is_key(message_id):
        raise NotFound
    found = await _FIND_SEQ.fetch_one(
        connection, owner_id=owner_id, conversation_id=conversation_id, client_id=message_id
    )
    if found is None:
        raise NotFound
    return found.seq


async def _get(connection: Conn, owner_id: UUID, conversation_id: UUID, seq: int) -> _Row:
    row = await _GET.fetch_one(connection, owner_id=owner_id, conversation_id=conversation_id, seq=seq)
    if row is None:
        raise NotFound
    return row


class MessagePatch(Struct, kw_only=True, frozen=True):
    """A change, the payloads it sets (None: cleared), and the most payload the message may have."""

    change: MessageChange
    payloads: dict[str, bytes | None]
    limit_bytes: int


async def update_message(
    connection: Conn,
    owner_id: UUID,
    conversation_id: UUID,
    message_id: str,
    patch: MessagePatch,
    expected: Expected | None,
) -> tuple[Message, Version]:
    """The changed message and the conversation's version; a change of nothing makes no revision.

    Raises NotFound, PreconditionFailed, InvalidInput when nothing would be said, TooLarge.
    """
    change, ids = patch.change, MessageIds(conversation_id)
    async with lock_conversation(connection, owner_id, conversation_id, expected) as version:
        seq = await find_seq(connection, owner_id, conversation_id, message_id)
        row = await _get(connection, owner_id, conversation_id, seq)
        if not patch.payloads and change.tool_call_id is UNSET and change.status is UNSET:
            return _message(row, ids), version
        names = ("content", "tool_calls", "audio_files", "function_calls", "usage", "metadata")
        stored = {name: None if getattr(row, name) is None else bytes(getattr(row, name)) for name in names}
        payloads = stored | patch.payloads
        check_content(payloads)
        tool_call_id = row.tool_call_id if change.tool_call_id is UNSET else change.tool_call_id
        status = row.status if change.status is UNSET else change.status or DEFAULT_STATUS
        is_said_otherwise = any(payloads[name] != stored[name] for name in ("content", "tool_calls", "function_calls"))
        is_another = is_said_otherwise or tool_call_id != row.tool_call_id
        source = None if is_another else _source_with(row, status)
        body_bytes = measure_payloads({**payloads, "source": source}, patch.limit_bytes)
        if row.status == "in_progress":
            await _refuse_live_reply(connection, owner_id, conversation_id, seq)
        await _UPDATE.execute(
            connection,
            owner_id=owner_id,
            conversation_id=conversation_id,
            seq=seq,
            content=payloads["content"],
            tool_calls=payloads["tool_calls"],
            tool_call_id=tool_call_id,
            function_calls=payloads["function_calls"],
            metadata=payloads["metadata"],
            source=source,
            model=row.model,
            usage=payloads["usage"],
            status=status,
            body_bytes=body_bytes,
            **_tokens_gained(stored["usage"], payloads["usage"]),
        )
        changed = await _get(connection, owner_id, conversation_id, seq)
        return _message(changed, ids), Version(version.last_seq, changed.revision)


def _source_with(row: _Row, status: Status) -> bytes | None:
    """What is kept of a foreign object whose message has this status now: one that stands whole has its own."""
    source = None if row.source is None else bytes(row.source)
    return source if status == row.status or source == b"{}" else None


async def _refuse_live_reply(connection: Conn, owner_id: UUID, conversation_id: UUID, seq: int) -> None:
    if await _FIND_LIVE_REPLY.fetch_one(connection, owner_id=owner_id, conversation_id=conversation_id, seq=seq):
        raise ReplyInProgress(str(conversation_id), MessageIds(conversation_id).of(seq))


def _tokens_gained(old_usage: bytes | None, new_usage: bytes | None) -> dict[str, int]:
    old_tokens, new_tokens = count_tokens(old_usage), count_tokens(new_usage)
    return {"input_tokens": new_tokens[0] - old_tokens[0], "output_tokens": new_tokens[1] - old_tokens[1]}


async def replace_content(
    connection: Conn, owner_id: UUID, conversation_id: UUID, seq: int, made: MessageContent
) -> None:
    """Gives a reply what the model has made. The conversation is locked; the message may be deleted."""
    await _UPDATE.execute(
        connection,
        owner_id=owner_id,
        conversation_id=conversation_id,
        seq=seq,
        content=made.content,
        tool_calls=made.tool_calls,
        tool_call_id=None,
        function_calls=None,
        metadata=None,
        source=None,
        model=made.model,
        usage=made.usage,
        status=made.status,
        body_bytes=sum(len(payload) for payload in (made.content, made.tool_calls, made.usage) if payload),
        **_tokens_gained(None, made.usage),
    )
