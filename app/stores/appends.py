"""Appends: atomic, in order, exactly once (contract 1)."""

from datetime import datetime
from typing import NamedTuple, TypeVar
from uuid import UUID

import asyncpg
from msgspec import Struct

from app.errors import ClientIdReused, Flaw, IdempotencyKeyReused, NotFound, PreconditionFailed, ReservedId, Unavailable
from app.headers import Expected
from app.identifiers import MessageIds
from app.payloads import IncomingMessage, count_tokens
from app.queries import Conn, Query
from app.wire.messages import Appended, AppendedMessage, Version

T = TypeVar("T")

_ATTEMPTS = 5
"""A lost race is decided by the next attempt; more than one loss needs deletes in between."""


class _Made(Struct, frozen=True):
    seq: int
    created_at: datetime
    last_seq: int
    revision: int


class _Shared(Struct, frozen=True):
    place: int
    seq: int
    created_at: datetime
    revision: int


class _Stored(Struct, frozen=True):
    """A message that the request's key or client ids name."""

    seq: int
    client_id: str | None
    append_key: str | None
    append_count: int | None
    fingerprint: bytes | None
    created_at: datetime


class _Fingerprint(Struct, frozen=True):
    seq: int
    fingerprint: bytes | None


_APPEND_ONE = Query("append_message", _Made)
_APPEND_MANY = Query("append_messages", _Made)
_APPEND_SHARED = Query("append_shared", _Shared)
_GET_VERSION = Query("get_version", Version)
_LIST_STORED = Query("list_stored", _Stored)
_LIST_FINGERPRINTS = Query("list_fingerprints", _Fingerprint)


class Append(Struct, frozen=True, kw_only=True):
    """A request to append: its messages, its key and the SHA-256 of its body, the version it expects."""

    messages: list[IncomingMessage]
    key: str | None
    fingerprint: bytes
    expected: Expected | None

    @property
    def client_ids(self) -> list[str] | None:
        """The client ids when they decide whether it is a replay: only without a key."""
        if self.key is not None:
            return None
        return [message.client_id for message in self.messages if message.client_id is not None] or None


class Place(NamedTuple):
    """Where to append."""

    owner_id: UUID
    conversation_id: UUID


def refuse_reserved_ids(messages: list[IncomingMessage], ids: MessageIds) -> None:
    """Raises ReservedId for a client id that has the form of a message id of this conversation."""
    for message in messages:
        if message.client_id is not None and ids.seq(message.client_id) is not None:
            pointer = f"{message.pointer}/client_id"
            raise ReservedId(Flaw(pointer=pointer, message="has the form of a message id of this conversation"))


def _column(values: list[T | None]) -> list[T | None] | None:
    """A column of messages; the driver takes its time over each NULL, and none over no array."""
    return None if values.count(None) == len(values) else values


def columns_of(messages: list[IncomingMessage]) -> dict[str, object]:
    """The messages as one array for each column, with the sums of their tokens."""
    tokens = [count_tokens(message.usage) for message in messages if message.usage is not None]
    return {
        "roles": [message.role for message in messages],
        "statuses": [message.status for message in messages],
        "message_client_ids": _column([message.client_id for message in messages]),
        "tool_call_ids": _column([message.tool_call_id for message in messages]),
        "names": _column([message.name for message in messages]),
        "models": _column([message.model for message in messages]),
        "contents": _column([message.content for message in messages]),
        "tool_calls": _column([message.tool_calls for message in messages]),
        "audio_files": _column([message.audio_files for message in messages]),
        "function_calls": _column([message.function_calls for message in messages]),
        "usages": _column([message.usage for message in messages]),
        "metadata": _column([message.metadata for message in messages]),
        "sources": _column([message.source for message in messages]),
        "body_bytes": [message.body_bytes for message in messages],
        "input_tokens": sum(count for count, _ in tokens),
        "output_tokens": sum(count for _, count in tokens),
    }


async def append_shared(connection: Conn, requests: list[tuple[Place, Append]]) -> list[Appended | None]:
    """What each of the requests made, which are of one message without an expected version.

    None: nothing is known of it, `append_messages` decides. No two have the same key or client id in one conversation.
    """
    messages = [append.messages[0] for _, append in requests]
    tokens = [count_tokens(message.usage) if message.usage else (None, None) for message in messages]
    rows = await _APPEND_SHARED.fetch(
        connection,
        owner_ids=[place.owner_id for place, _ in requests],
        conversation_ids=[place.conversation_id for place, _ in requests],
        append_keys=_column([append.key for _, append in requests]),
        client_ids=_column([message.client_id for message in messages]),
        roles=[message.role for message in messages],
        statuses=[message.status for message in messages],
        tool_call_ids=_column([message.tool_call_id for message in messages]),
        names=_column([message.name for message in messages]),
        models=_column([message.model for message in messages]),
        contents=_column([message.content for message in messages]),
        tool_calls=_column([message.tool_calls for message in messages]),
        audio_files=_column([message.audio_files for message in messages]),
        function_calls=_column([message.function_calls for message in messages]),
        usages=_column([message.usage for message in messages]),
        metadata=_column([message.metadata for message in messages]),
        sources=_column([message.source for message in messages]),
        fingerprints=_column([_fingerprints(append)[0] for _, append in requests]),
        body_bytes=[message.body_bytes for message in messages],
        input_tokens=_column([count for count, _ in tokens]),
        output_tokens=_column([count for _, count in tokens]),
    )
    appended: list[Appended | None] = [None] * len(requests)
    for row in rows:
        place, append = requests[row.place - 1]
        made = _messages(append, MessageIds(place.conversation_id), row.seq, row.created_at)
        appended[row.place - 1] = Appended(messages=made, last_seq=row.seq, revision=row.revision)
    return appended


async def append_messages(
    connection: Conn, owner_id: UUID, conversation_id: UUID, append: Append, *, is_tried: bool = False
) -> tuple[Appended, bool]:
    """What the append made, and whether it is a replay of what an earlier one made.

    With `is_tried` it was written in vain already: it may be a replay, which is looked for first. Raises NotFound,
    PreconditionFailed, IdempotencyKeyReused, ClientIdReused; Unavailable after too many lost races.
    """
    ids = MessageIds(conversation_id)
    if is_tried and (replayed := await find_replay(connection, owner_id, conversation_id, append)):
        return replayed, True
    for _ in range(_ATTEMPTS):
        try:
            if made := await _write(connection, owner_id, conversation_id, append):
                messages = _messages(append, ids, made.seq, made.created_at)
                return Appended(messages=messages, last_seq=made.last_seq, revision=made.revision), False
        except asyncpg.UniqueViolationError:
            pass  # a key or client id came in between, or stands there under another key
        if replayed := await find_replay(connection, owner_id, conversation_id, append):
            return replayed, True
    raise Unavailable


async def find_replay(connection: Conn, owner_id: UUID, conversation_id: UUID, append: Append) -> Appended | None:
    """What an earlier append made of which this one is a replay; None: nothing of it is stored.

    Raises NotFound, PreconditionFailed, IdempotencyKeyReused, ClientIdReused.
    """
    stored = await _list_stored(connection, owner_id, conversation_id, append)
    # Read behind the messages, else it could be older than they are.
    version = await _version(connection, owner_id, conversation_id)
    if not stored and not _is_expected(version, append):
        stored = await _list_stored(connection, owner_id, conversation_id, append)
        if not stored:
            raise PreconditionFailed(version.last_seq, version.revision)
        version = await _version(connection, owner_id, conversation_id)  # this very append came in between
    if not stored:
        return None
    ids = MessageIds(conversation_id)
    if append.key is None:
        messages = await _replay_by_client_ids(connection, owner_id, conversation_id, append, ids, stored)
    else:
        messages = _replay_by_key(append, ids, stored)
    return Appended(messages=messages, last_seq=version.last_seq, revision=version.revision)


async def _write(connection: Conn, owner_id: UUID, conversation_id: UUID, append: Append) -> _Made | None:
    expected = append.expected or Expected()
    key_values: dict[str, object] = {
        "owner_id": owner_id,
        "conversation_id": conversation_id,
        "append_key": append.key,
        "client_ids": append.client_ids,
        "expected_seq": expected.seq,
        "expected_revision": expected.revision,
    }
    fingerprints = _fingerprints(append)
    if len(append.messages) > 1:
        columns = columns_of(append.messages)
        return await _APPEND_MANY.fetch_one(connection, **key_values, **columns, fingerprints=_column(fingerprints))
    message = append.messages[0]
    input_tokens, output_tokens = count_tokens(message.usage)
    return await _APPEND_ONE.fetch_one(
        connection,
        **key_values,
        role=message.role,
        status=message.status,
        client_id=message.client_id,
        tool_call_id=message.tool_call_id,
        name=message.name,
        model=message.model,
        content=message.content,
        tool_calls=message.tool_calls,
        audio_files=message.audio_files,
        function_calls=message.function_calls,
        usage=message.usage,
        metadata=message.metadata,
        source=message.source,
        fingerprint=fingerprints[0],
        body_bytes=message.body_bytes,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
    )


def _fingerprints(append: Append) -> list[bytes | None]:
    """With a key, the request's on the first row; else each message's own, where client ids decide."""
    if append.key is not None:
        return [append.fingerprint, *[None] * (len(append.messages) - 1)]
    if append.client_ids is None:
        return [None] * len(append.messages)
    return [message.fingerprint for message in append.messages]


def _messages(append: Append, ids: MessageIds, first_seq: int, created_at: datetime) -> list[AppendedMessage]:
    return [
        AppendedMessage(id=ids.of(seq), client_id=message.client_id, seq=seq, created_at=created_at)
        for seq, message in enumerate(append.messages, first_seq)
    ]


async def _version(connection: Conn, owner_id: UUID, conversation_id: UUID) -> Version:
    version = await _GET_VERSION.fetch_one(connection, owner_id=owner_id, id=conversation_id)
    if version is None:
        raise NotFound
    return version


async def _list_stored(connection: Conn, owner_id: UUID, conversation_id: UUID, append: Append) -> list[_Stored]:
    return await _LIST_STORED.fetch(
        connection,
        owner_id=owner_id,
        conversation_id=conversation_id,
        append_key=append.key,
        client_ids=[message.client_id for message in append.messages if message.client_id is not None],
    )


def _is_expected(version: Version, append: Append) -> bool:
    expected = append.expected or Expected()
    return expected.seq in {None, version.last_seq} and expected.revision in {None, version.revision}


def _replay_by_key(append: Append, ids: MessageIds, stored: list[_Stored]) -> list[AppendedMessage]:
    for row in stored:
        if row.append_key == append.key:
            if row.fingerprint != append.fingerprint:
                raise IdempotencyKeyReused
            return _messages(append, ids, row.seq, row.created_at)
    raise ClientIdReused


async def _replay_by_client_ids(
    connection: Conn, owner_id: UUID, conversation_id: UUID, append: Append, ids: MessageIds, stored: list[_Stored]
) -> list[AppendedMessage]:
    """All client ids must be stored without a key, each with the same message; others follow by their place."""
    by_client_id = {row.client_id: row for row in stored}
    found = [by_client_id.get(message.client_id) if message.client_id else None for message in append.messages]
    for message, row in zip(append.messages, found, strict=True):
        if message.client_id and (row is None or row.append_key or row.fingerprint != message.fingerprint):
            raise ClientIdReused
    first_seq, created_at = next((row.seq - place, row.created_at) for place, row in enumerate(found) if row)
    if None in found:
        await _refuse_other_messages(connection, owner_id, conversation_id, append, first_seq)
    return [
        AppendedMessage(
            id=ids.of(row.seq if row else seq),
            client_id=message.client_id,
            seq=row.seq if row else seq,
            created_at=row.created_at if row else created_at,
        )
        for seq, (message, row) in enumerate(zip(append.messages, found, strict=True), first_seq)
    ]


async def _refuse_other_messages(
    connection: Conn, owner_id: UUID, conversation_id: UUID, append: Append, first_seq: int
) -> None:
    """A batch in which some messages have no client id is the same only where it stands whole."""
    rows = await _LIST_FINGERPRINTS.fetch(
        connection,
        owner_id=owner_id,
        conversation_id=conversation_id,
        from_seq=first_seq,
        through_seq=first_seq + len(append.messages) - 1,
    )
    if [row.fingerprint for row in rows] != [message.fingerprint for message in append.messages]:
        raise ClientIdReused
