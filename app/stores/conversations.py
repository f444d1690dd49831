"""Conversations: made, found, listed, changed, deleted, restored, forked."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from uuid import UUID

import asyncpg
from msgspec import UNSET, Raw, Struct

from app.errors import (
    ConversationDeleted,
    ConversationExists,
    Flaw,
    IdempotencyKeyReused,
    InvalidInput,
    KeyTaken,
    NotFound,
    PreconditionFailed,
    Unavailable,
)
from app.headers import Expected
from app.identifiers import Owner, new_conversation_id
from app.pages import FRONT, Page, Position, decode_cursor, encode_cursor
from app.payloads import IncomingMessage
from app.queries import BULK_SECONDS, Conn, NoRow, Query
from app.stores.appends import Append, append_messages
from app.wire.conversations import Conversation, ConversationChange, ConversationFork, ConversationListing, ForkedFrom
from app.wire.messages import Version

EXAMINED_LIMIT = 1000
"""The most conversations that a filtered page looks at."""

_ATTEMPTS = 5
_NO_METADATA = b"{}"


class ConversationRow(Struct, frozen=True):
    """A conversation as its table has it."""

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


class _ListRow(ConversationRow, frozen=True):
    place: int
    is_match: bool


class _Created(Struct, frozen=True):
    created_at: datetime


class _Id(Struct, frozen=True):
    id: UUID


class _Conflict(Struct, frozen=True):
    id: UUID
    deleted_at: datetime | None
    fingerprint: bytes | None


class _Head(Struct, frozen=True):
    last_seq: int
    revision: int
    deleted_at: datetime | None


_CREATE = Query("create_conversation", _Created)
_FIND_CONFLICT = Query("find_conversation_conflict", _Conflict)
_GET = Query("get_conversation", ConversationRow)
_GET_BY_KEY = Query("get_conversation_by_key", ConversationRow)
_LIST = Query("list_conversations", _ListRow)
_LIST_ARCHIVED = Query("list_archived_conversations", _ListRow)
_LOCK = Query("lock_conversation", _Head)
_UPDATE = Query("update_conversation", _Id)
_DELETE = Query("delete_conversation", NoRow)
_RESTORE = Query("restore_conversation", _Id)
_FIND_KEY_HOLDER = Query("find_key_holder", _Id)
_FORK = Query("fork_conversation", _Id, BULK_SECONDS)


class ConversationPlan(Struct, kw_only=True, frozen=True):
    """A conversation to be made: what it is, and its first messages."""

    id: UUID
    key: str | None
    title: str | None
    metadata: bytes
    tags: list[str]
    messages: list[IncomingMessage]
    fingerprint: bytes | None
    """Of the request, when an Idempotency-Key made the id."""


def _conversation(row: ConversationRow, user_id: str) -> Conversation:
    forked_from = None
    if row.forked_from is not None and row.forked_from_seq is not None:
        forked_from = ForkedFrom(conversation_id=str(row.forked_from), seq=row.forked_from_seq)
    return Conversation(
        id=str(row.id),
        user_id=user_id,
        key=row.key,
        title=row.title,
        metadata=row.metadata,
        tags=row.tags,
        pinned_at=row.pinned_at,
        archived_at=row.archived_at,
        forked_from=forked_from,
        last_seq=row.last_seq,
        revision=row.revision,
        message_count=row.message_count,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


async def create_conversation(connection: Conn, owner: Owner, plan: ConversationPlan) -> tuple[Conversation, bool]:
    """The conversation, and whether an earlier request with the same Idempotency-Key made it.

    Raises ConversationExists, ConversationDeleted, IdempotencyKeyReused.
    """
    for _ in range(_ATTEMPTS):
        try:
            return await _create(connection, owner, plan), False
        except asyncpg.UniqueViolationError:
            conflict = await _FIND_CONFLICT.fetch_one(connection, owner_id=owner.id, id=plan.id, key=plan.key)
        if conflict is None:
            continue
        if conflict.deleted_at is not None:
            raise ConversationDeleted(str(conflict.id))
        if plan.fingerprint is None or conflict.id != plan.id:
            raise ConversationExists(str(conflict.id))
        if plan.fingerprint != conflict.fingerprint:
            raise IdempotencyKeyReused
        return await get_conversation(connection, owner, plan.id), True
    raise Unavailable


async def _create(connection: Conn, owner: Owner, plan: ConversationPlan) -> Conversation:
    async with connection.transaction():
        (created,) = await _CREATE.fetch(
            connection,
            owner_id=owner.id,
            tenant_id=owner.tenant_id,
            user_id=owner.user_id,
            id=plan.id,
            key=plan.key,
            title=plan.title,
            metadata=plan.metadata,
            tags=plan.tags,
            fingerprint=plan.fingerprint,
        )
        if plan.messages:
            append = Append(messages=plan.messages, key=None, fingerprint=b"", expected=None)
            await append_messages(connection, owner.id, plan.id, append)
    return Conversation(
        id=str(plan.id),
        user_id=owner.user_id,
        key=plan.key,
        title=plan.title,
        metadata=Raw(plan.metadata),
        tags=plan.tags,
        pinned_at=None,
        archived_at=None,
        forked_from=None,
        last_seq=len(plan.messages),
        revision=0,
        message_count=len(plan.messages),
        created_at=created.created_at,
        updated_at=created.created_at,
    )


async def get_or_create_conversation(
    connection: Conn, owner: Owner, plan: ConversationPlan
) -> tuple[Conversation, bool]:
    """The live conversation with the plan's key, and whether it was there; the plan serves only a creation.

    Raises ConversationExists and ConversationDeleted when the plan's id is taken.
    """
    taken: ConversationExists | None = None
    for _ in range(_ATTEMPTS):
        row = await _GET_BY_KEY.fetch_one(connection, owner_id=owner.id, key=plan.key)
        if row is not None:
            return _conversation(row, owner.user_id), True
        if taken is not None and taken.conversation_id == str(plan.id):
            raise taken
        try:
            return await create_conversation(connection, owner, plan)
        except ConversationExists as error:
            taken = error
    raise Unavailable


async def get_conversation(connection: Conn, owner: Owner, conversation_id: UUID) -> Conversation:
    """The conversation. Raises NotFound."""
    row = await _GET.fetch_one(connection, owner_id=owner.id, id=conversation_id)
    if row is None:
        raise NotFound
    return _conversation(row, owner.user_id)


async def list_conversations(connection: Conn, owner: Owner, listing: ConversationListing) -> Page[Conversation]:
    """A page, last used first; a filtered one looks at EXAMINED_LIMIT conversations. Raises InvalidInput."""
    position = decode_cursor(listing.after) if listing.after is not None else FRONT
    is_filtered = listing.pinned is not None or listing.tag is not None
    examined_size = EXAMINED_LIMIT if is_filtered else listing.limit + 1
    rows = await (_LIST_ARCHIVED if listing.archived else _LIST).fetch(
        connection,
        owner_id=owner.id,
        before_active_at=position.active_at,
        before_updated_at=position.updated_at,
        before_id=position.id,
        is_pinned=listing.pinned,
        tag=listing.tag,
        examined_size=examined_size,
        page_size=listing.limit + 1,
    )
    matches = [row for row in rows if row.is_match]
    page = matches[: listing.limit]
    last = None
    if len(matches) > listing.limit:
        last = page[-1]
    elif rows and rows[-1].place == examined_size:
        last = rows[-1]
    return Page(
        data=[_conversation(row, owner.user_id) for row in page],
        has_more=last is not None,
        next_cursor=encode_cursor(Position(last.updated_at, last.id)) if last is not None else None,
    )


@asynccontextmanager
async def lock_conversation(
    connection: Conn,
    owner_id: UUID,
    conversation_id: UUID,
    expected: Expected | None = None,
    *,
    is_deleted: bool = False,
) -> AsyncIterator[Version]:
    """A transaction in which the conversation's row is locked; its version before the change.

    With `is_deleted` a deleted one will do too. Raises NotFound and PreconditionFailed.
    """
    async with connection.transaction():
        head = await _LOCK.fetch_one(connection, owner_id=owner_id, id=conversation_id)
        if head is None or (head.deleted_at is not None and not is_deleted):
            raise NotFound
        expected = expected or Expected()
        if expected.seq not in {None, head.last_seq} or expected.revision not in {None, head.revision}:
            raise PreconditionFailed(head.last_seq, head.revision)
        yield Version(head.last_seq, head.revision)


async def update_conversation(
    connection: Conn, owner: Owner, conversation_id: UUID, change: ConversationChange, expected: Expected | None
) -> Conversation:
    """The changed conversation; a change of nothing makes no revision. Raises NotFound and PreconditionFailed."""
    metadata = bytes(change.metadata)
    sets = [change.title, change.tags, change.archived, change.pinned]
    async with lock_conversation(connection, owner.id, conversation_id, expected):
        if metadata or any(value is not UNSET for value in sets):
            await _UPDATE.execute(
                connection,
                owner_id=owner.id,
                id=conversation_id,
                sets_title=change.title is not UNSET,
                title=None if change.title is UNSET else change.title,
                sets_metadata=metadata != b"",
                metadata=_NO_METADATA if metadata in {b"", b"null"} else metadata,
                sets_tags=change.tags is not UNSET,
                tags=change.tags or [],
                archived=None if change.archived is UNSET else bool(change.archived),
                pinned=None if change.pinned is UNSET else bool(change.pinned),
            )
        return await get_conversation(connection, owner, conversation_id)


async def delete_conversation(
    connection: Conn, owner_id: UUID, conversation_id: UUID, expected: Expected | None
) -> None:
    """Hides the conversation. Raises NotFound and PreconditionFailed."""
    async with lock_conversation(connection, owner_id, conversation_id, expected):
        await _DELETE.execute(connection, owner_id=owner_id, id=conversation_id)


async def restore_conversation(
    connection: Conn, owner: Owner, conversation_id: UUID, restore_days: int
) -> Conversation:
    """The conversation, brought back if it was deleted. Raises NotFound, also past its window, and KeyTaken."""
    for _ in range(_ATTEMPTS):
        try:
            async with lock_conversation(connection, owner.id, conversation_id, is_deleted=True):
                await _RESTORE.execute(connection, owner_id=owner.id, id=conversation_id, restore_days=restore_days)
                return await get_conversation(connection, owner, conversation_id)
        except asyncpg.UniqueViolationError:
            holder = await _FIND_KEY_HOLDER.fetch_one(connection, owner_id=owner.id, id=conversation_id)
        if holder is not None:
            raise KeyTaken(str(holder.id))
    raise Unavailable


async def fork_conversation(
    connection: Conn,
    owner: Owner,
    conversation_id: UUID,
    fork: ConversationFork,
    fork_id: UUID | None = None,
    key: str | None = None,
) -> Conversation:
    """A new conversation with the visible messages up to a seq, renumbered from 1.

    Raises NotFound, InvalidInput, and ConversationExists where the id or the key is taken.
    """
    fork_id = fork_id or new_conversation_id()
    async with lock_conversation(connection, owner.id, conversation_id) as version:
        through_seq = version.last_seq if fork.through_seq is None else fork.through_seq
        if through_seq > version.last_seq:
            raise InvalidInput(Flaw(pointer="/through_seq", message=f"is past the head, which is {version.last_seq}"))
        try:
            await _FORK.execute(
                connection,
                owner_id=owner.id,
                id=fork_id,
                key=key,
                source_id=conversation_id,
                through_seq=through_seq,
                title=fork.title,
            )
        except asyncpg.UniqueViolationError:
            raise ConversationExists(str(fork_id)) from None
        return await get_conversation(connection, owner, fork_id)
