"""Heads: where conversations stand, and what has moved them."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from msgspec import Struct

from app.errors import NotFound
from app.queries import Conn, Query

TOLD_LIMIT = 1000
"""The most conversations of an owner, of each kind, that are told as changed at once."""

LATE_SECONDS = 40.0
"""How long after its time a change may become visible: a statement over a whole conversation has 30 s."""

_REVISIONS_LIMIT = 100


class Head(Struct, frozen=True):
    """Where a conversation stands, and its live reply."""

    last_seq: int
    revision: int
    reply_seq: int | None
    reply_char_count: int | None


class FollowedHead(Struct, frozen=True):
    """Where a followed conversation stands."""

    owner_id: UUID
    conversation_id: UUID
    last_seq: int
    revision: int
    reply_char_count: int | None


class ChangedConversation(Struct, frozen=True):
    """A conversation that was changed, and when that was told."""

    owner_id: UUID
    id: UUID
    last_seq: int
    revision: int
    told_at: datetime


class ChangedRevision(Struct, frozen=True):
    """What one call has changed: messages from a seq through another, all edited or restored, or all deleted."""

    revision: int
    from_seq: int
    through_seq: int
    is_deleted: bool


class _Time(Struct, frozen=True):
    now: datetime


_GET = Query("get_head", Head)
_GET_TIME = Query("get_time", _Time)
_LIST = Query("list_heads", FollowedHead)
_LIST_CHANGED = Query("list_changed_conversations", ChangedConversation)
_LIST_REVISIONS = Query("list_changed_revisions", ChangedRevision)


async def get_head(connection: Conn, owner_id: UUID, conversation_id: UUID) -> Head:
    """Where the conversation stands. Raises NotFound."""
    head = await _GET.fetch_one(connection, owner_id=owner_id, conversation_id=conversation_id)
    if head is None:
        raise NotFound
    return head


async def get_time(connection: Conn) -> datetime:
    """The database's time."""
    (row,) = await _GET_TIME.fetch(connection)
    return row.now


async def list_heads(connection: Conn, conversations: Sequence[tuple[UUID, UUID]]) -> list[FollowedHead]:
    """The heads of those conversations (owner and id) that are there."""
    return await _LIST.fetch(
        connection,
        owner_ids=[owner_id for owner_id, _ in conversations],
        conversation_ids=[conversation_id for _, conversation_id in conversations],
    )


async def list_changed_conversations(
    connection: Conn, owner_ids: Sequence[UUID], told_at: datetime | None = None
) -> list[ChangedConversation]:
    """What changed of these owners' since LATE_SECONDS before a time, by default now: some of it told before."""
    return await _LIST_CHANGED.fetch(
        connection,
        owner_ids=list(owner_ids),
        told_at=told_at,
        late_seconds=LATE_SECONDS,
        page_size=TOLD_LIMIT,
    )


async def list_changed_revisions(
    connection: Conn, owner_id: UUID, conversation_id: UUID, after_revision: int, through_revision: int
) -> list[ChangedRevision]:
    """The next changes of messages behind a revision, in order; an empty list is the end."""
    return await _LIST_REVISIONS.fetch(
        connection,
        owner_id=owner_id,
        conversation_id=conversation_id,
        after_revision=after_revision,
        through_revision=through_revision,
        page_size=_REVISIONS_LIMIT,
    )
