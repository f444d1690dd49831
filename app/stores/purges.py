"""Purges: what is past its window, or asked to go at once, is erased in bounded batches."""

from collections.abc import Iterator
from itertools import groupby
from uuid import UUID

from msgspec import Struct

from app.headers import Expected
from app.queries import BULK_SECONDS, Conn, NoRow, Query
from app.stores.conversations import lock_conversation
from app.stores.rollups import purge_days

BATCH_SIZE = 5000
"""The most rows that one statement erases."""


class _Conversation(Struct, frozen=True):
    owner_id: UUID
    id: UUID


class _Message(Struct, frozen=True):
    owner_id: UUID
    conversation_id: UUID
    seq: int


_EXPIRE = Query("expire_conversation", NoRow)
_PURGE_CONVERSATION = Query("purge_conversation", NoRow, BULK_SECONDS)
_PURGE_CONVERSATION_MESSAGES = Query("purge_conversation_messages", NoRow, BULK_SECONDS)
_PURGE_MESSAGES = Query("purge_messages", NoRow)
_LIST_CONVERSATIONS = Query("list_expired_conversations", _Conversation)
_LIST_MESSAGES = Query("list_expired_messages", _Message)


async def purge_conversation(
    connection: Conn, owner_id: UUID, conversation_id: UUID, expected: Expected | None
) -> None:
    """Erases a conversation, deleted before or not. Raises NotFound and PreconditionFailed.

    It vanishes at once and for good; what an interruption leaves is erased by the next purge.
    """
    async with lock_conversation(connection, owner_id, conversation_id, expected, is_deleted=True):
        await _EXPIRE.execute(connection, owner_id=owner_id, id=conversation_id)
    await _erase(connection, owner_id, conversation_id, 0)


async def purge(connection: Conn, restore_days: int) -> tuple[int, int]:
    """Erases all that was deleted longer ago than `restore_days`; how many conversations and single messages.

    And what is kept of each day for its statistics, when it is old.
    """
    conversation_count = message_count = 0
    while conversations := await _LIST_CONVERSATIONS.fetch(
        connection, restore_days=restore_days, batch_size=BATCH_SIZE
    ):
        for conversation in conversations:
            await _erase(connection, conversation.owner_id, conversation.id, restore_days)
        conversation_count += len(conversations)
    while messages := await _LIST_MESSAGES.fetch(connection, restore_days=restore_days, batch_size=BATCH_SIZE):
        for first, last in _runs(messages):
            message_count += await _PURGE_MESSAGES.execute(
                connection,
                owner_id=first.owner_id,
                conversation_id=first.conversation_id,
                from_seq=first.seq,
                through_seq=last.seq,
                restore_days=restore_days,
            )
    await purge_days(connection)
    return conversation_count, message_count


def _runs(messages: list[_Message]) -> Iterator[tuple[_Message, _Message]]:
    """First and last of each run of messages that follow each other in their conversation."""
    messages.sort(key=lambda message: (message.owner_id, message.conversation_id, message.seq))
    runs = groupby(enumerate(messages), lambda item: (item[1].owner_id, item[1].conversation_id, item[1].seq - item[0]))
    for _, run in runs:
        members = [message for _, message in run]
        yield members[0], members[-1]


async def _erase(connection: Conn, owner_id: UUID, conversation_id: UUID, restore_days: int) -> None:
    erased = BATCH_SIZE
    while erased == BATCH_SIZE:
        erased = await _PURGE_CONVERSATION_MESSAGES.execute(
            connection,
            owner_id=owner_id,
            conversation_id=conversation_id,
            restore_days=restore_days,
            batch_size=BATCH_SIZE,
        )
    await _PURGE_CONVERSATION.execute(connection, owner_id=owner_id, id=conversation_id, restore_days=restore_days)
