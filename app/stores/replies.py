"""Replies: begun with what was asked, kept as they grow, ended once, whoever ends them."""

from datetime import datetime
from uuid import UUID

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from app.errors import ClientIdReused, Flaw, InvalidInput, NotFound, ReplyInProgress, Unavailable
from app.identifiers import MessageIds
from app.payloads import IncomingMessage, fingerprint_of
from app.queries import Conn, NoRow, Query
from app.stores.appends import Append, append_messages, find_replay
from app.stores.conversations import lock_conversation
from app.stores.messages import MessageContent, get_message_at, list_messages, replace_content
from app.wire.messages import Appended, Message, MessageListing, Status, Version
from app.wire.replies import FinishReason


class Begin(Struct, kw_only=True):
    """How a reply is begun: by which model and writer, and for how long it is taken for alive unseen."""

    model: str
    writer_id: UUID
    lease_seconds: float
    is_full: bool = False
    """Whether its process can make no more: then only a replay is answered."""
    is_written: bool = False
    """Set when all is written but for the commit."""


class ReplyId(Struct, frozen=True):
    """Which reply: its message's place."""

    owner_id: UUID
    conversation_id: UUID
    seq: int


class Ending(Struct, frozen=True):
    """How a reply ends; `text` None: with the text that was kept."""

    reason: FinishReason
    text: str | None = None
    tool_calls: bytes | None = None
    usage: bytes | None = None
    model: str | None = None


class Chunk(Struct, frozen=True):
    """A piece of a live reply's text."""

    from_char: int
    text: str


class _Live(Struct, frozen=True):
    seq: int
    writer_id: UUID
    is_lapsed: bool


class _Chunk(Struct, frozen=True):
    from_char: int
    text: Raw


class _Seq(Struct, frozen=True):
    seq: int


class _State(Struct, frozen=True):
    seq: int
    ended_at: datetime | None
    reason: FinishReason | None


_CREATE = Query("create_reply", NoRow)
_GET = Query("get_reply", _State)
_GET_LIVE = Query("get_live_reply", _Live)
_GET_VERSION = Query("get_version", Version)
_LIST_CHUNKS = Query("list_reply_chunks", _Chunk)
_RENEW = Query("renew_reply", _Seq)
_APPEND_CHUNK = Query("append_reply_chunk", _Seq)
_END = Query("end_reply", _Seq)
_DELETE_CHUNKS = Query("delete_reply_chunks", NoRow)
_LIST_LAPSED = Query("list_lapsed_replies", ReplyId)

_STATUSES: dict[FinishReason, Status] = {
    "stop": "completed",
    "tool_calls": "completed",
    "length": "incomplete",
    "filter": "incomplete",
    "timeout": "incomplete",
    "lost": "incomplete",
    "cancelled": "cancelled",
}
_EMPTY_TEXT = b'""'
_PLACEHOLDER_PRINT = fingerprint_of(b"reply")


def placeholder_of(model: str) -> IncomingMessage:
    """The reply as it is appended: a message that says nothing yet."""
    return IncomingMessage(
        role="assistant",
        status="in_progress",
        client_id=None,
        tool_call_id=None,
        name=None,
        model=model,
        content=_EMPTY_TEXT,
        tool_calls=None,
        audio_files=None,
        function_calls=None,
        usage=None,
        metadata=None,
        body_bytes=len(_EMPTY_TEXT),
        fingerprint=_PLACEHOLDER_PRINT,
        pointer="",
    )


async def begin_reply(
    connection: Conn, owner_id: UUID, conversation_id: UUID, asked: Append, begin: Begin
) -> tuple[Appended, bool]:
    """What was appended, the reply last, and whether it is a replay: then its reply was begun before.

    Raises what append_messages raises, ReplyInProgress, Unavailable when full, and InvalidInput: there is nothing to
    reply to.
    """
    append = replace(asked, messages=[*asked.messages, placeholder_of(begin.model)])
    async with lock_conversation(connection, owner_id, conversation_id):
        replayed = await find_replay(connection, owner_id, conversation_id, append)
        if replayed is not None:
            await _refuse_copies(connection, ReplyId(owner_id, conversation_id, replayed.messages[-1].seq))
            return replayed, True
        if begin.is_full:
            raise Unavailable
        await _end_dead_reply(connection, owner_id, conversation_id, begin.lease_seconds)
        if not asked.messages:
            await _refuse_silence(connection, owner_id, conversation_id)
        now = replace(append, expected=None)  # it has been compared; an end has moved it since
        appended, _ = await append_messages(connection, owner_id, conversation_id, now)
        seq = appended.messages[-1].seq
        await _CREATE.execute(
            connection,
            owner_id=owner_id,
            conversation_id=conversation_id,
            seq=seq,
            input_count=len(asked.messages),
            writer_id=begin.writer_id,
        )
        begin.is_written = True
        return appended, False


async def find_begun_reply(connection: Conn, owner_id: UUID, conversation_id: UUID, writer_id: UUID) -> ReplyId | None:
    """The live reply that this writer began, once it is certain whether there is one."""
    async with lock_conversation(connection, owner_id, conversation_id):  # behind a commit that may be on its way
        live = await _get_live(connection, owner_id, conversation_id)
    return ReplyId(owner_id, conversation_id, live.seq) if live and live.writer_id == writer_id else None


async def _refuse_copies(connection: Conn, reply_id: ReplyId) -> None:
    """Raises ClientIdReused: a fork copied what was asked, and of the reply only its message."""
    if await _GET.fetch_one(connection, **_key(reply_id)) is None:
        raise ClientIdReused


async def _refuse_silence(connection: Conn, owner_id: UUID, conversation_id: UUID) -> None:
    newest = await list_messages(connection, owner_id, conversation_id, MessageListing(order="desc", limit=1))
    if not newest.data:
        raise InvalidInput(Flaw(pointer="/messages", message="is required where the conversation says nothing yet"))


async def _end_dead_reply(connection: Conn, owner_id: UUID, conversation_id: UUID, lease_seconds: float) -> None:
    """Makes way for another reply where the replica of the last one is gone. Raises ReplyInProgress."""
    live = await _get_live(connection, owner_id, conversation_id, lease_seconds)
    if live is None:
        return
    if not live.is_lapsed:
        raise ReplyInProgress(str(conversation_id), MessageIds(conversation_id).of(live.seq))
    await _end(connection, ReplyId(owner_id, conversation_id, live.seq), Ending("lost"), None)


async def _get_live(connection: Conn, owner_id: UUID, conversation_id: UUID, lease_seconds: float = 0) -> _Live | None:
    return await _GET_LIVE.fetch_one(
        connection, owner_id=owner_id, conversation_id=conversation_id, lease_seconds=lease_seconds
    )


async def end_live_reply(
    connection: Conn, owner_id: UUID, conversation_id: UUID, from_seq: int, through_seq: int
) -> Version | None:
    """Cancels the live reply if it is one of these messages; the version then. The conversation is locked."""
    live = await _get_live(connection, owner_id, conversation_id)
    if live is None or not from_seq <= live.seq <= through_seq:
        return None
    await _end(connection, ReplyId(owner_id, conversation_id, live.seq), Ending("cancelled"), None)
    return await _GET_VERSION.fetch_one(connection, owner_id=owner_id, id=conversation_id)


async def get_reply(connection: Conn, reply_id: ReplyId) -> tuple[Message, FinishReason | None, Version]:
    """The reply's message, why it ended (None: it is being made), and the conversation's version. Raises NotFound."""
    state = await _GET.fetch_one(connection, **_key(reply_id))
    if state is None:
        raise NotFound
    version = await _GET_VERSION.fetch_one(connection, owner_id=reply_id.owner_id, id=reply_id.conversation_id)
    if version is None:
        raise NotFound
    # Behind its state: what has ended has its content.
    try:
        message = await get_message_at(connection, reply_id.owner_id, reply_id.conversation_id, reply_id.seq)
    except NotFound:
        raise NotFound("the reply is deleted") from None
    return message, state.reason, version


async def list_reply_chunks(connection: Conn, reply_id: ReplyId, from_char: int) -> list[Chunk]:
    """The text that is kept behind so many code points of it."""
    rows = await _LIST_CHUNKS.fetch(connection, **_key(reply_id), from_char=from_char)
    chunks = [Chunk(row.from_char, msgspec.json.decode(row.text, type=str)) for row in rows]
    return [
        Chunk(max(chunk.from_char, from_char), chunk.text[max(0, from_char - chunk.from_char) :])
        for chunk in chunks
        if chunk.from_char + len(chunk.text) > from_char
    ]


async def keep_reply(connection: Conn, reply_id: ReplyId, chunk: Chunk | None) -> bool:
    """Keeps a chunk, or only the lease; False: the reply has ended, or nobody wants it any more."""
    if chunk is None:
        return await _RENEW.fetch_one(connection, **_key(reply_id)) is not None
    kept = await _APPEND_CHUNK.fetch_one(
        connection,
        **_key(reply_id),
        from_char=chunk.from_char,
        through_char=chunk.from_char + len(chunk.text),
        text=msgspec.json.encode(chunk.text),
    )
    return kept is not None


async def end_reply(connection: Conn, reply_id: ReplyId, ending: Ending, lapsed_seconds: float | None = None) -> bool:
    """Ends a live reply: its text becomes the message's content. False: it had ended before.

    With `lapsed_seconds` only one that was not renewed for so long.
    """
    try:
        async with lock_conversation(connection, reply_id.owner_id, reply_id.conversation_id, is_deleted=True):
            return await _end(connection, reply_id, ending, lapsed_seconds)
    except NotFound:
        return False  # purged


async def _end(connection: Conn, reply_id: ReplyId, ending: Ending, lapsed_seconds: float | None) -> bool:
    ended = await _END.fetch_one(connection, **_key(reply_id), reason=ending.reason, lease_seconds=lapsed_seconds)
    if ended is None:
        return False
    text = ending.text
    if text is None:
        text = "".join(chunk.text for chunk in await list_reply_chunks(connection, reply_id, 0))
    owner_id, conversation_id, seq = msgspec.structs.astuple(reply_id)
    await replace_content(connection, owner_id, conversation_id, seq, content_of(ending, text))
    await _DELETE_CHUNKS.execute(connection, **_key(reply_id))
    return True


def content_of(ending: Ending, text: str) -> MessageContent:
    """What a reply that ended so has made of its message."""
    return MessageContent(
        content=msgspec.json.encode(text) if text or not ending.tool_calls else None,
        tool_calls=ending.tool_calls,
        usage=ending.usage,
        model=ending.model,
        status=_STATUSES.get(ending.reason, "failed"),
    )


async def list_lapsed_replies(connection: Conn, lease_seconds: float, batch_size: int) -> list[ReplyId]:
    """The live replies that no replica has renewed within the lease, oldest first."""
    return await _LIST_LAPSED.fetch(connection, lease_seconds=lease_seconds, batch_size=batch_size)


def _key(reply_id: ReplyId) -> dict[str, object]:
    return {
        "owner_id": reply_id.owner_id,
        "conversation_id": reply_id.conversation_id,
        "seq": reply_id.seq,
    }
