"""Messages deleted and restored."""

from uuid import UUID

from app.errors import NotFound
from app.headers import Expected
from app.queries import BULK_SECONDS, Conn, Query
from app.stores.conversations import lock_conversation
from app.stores.messages import find_seq
from app.stores.replies import end_live_reply
from app.wire.messages import Version

_DELETE = Query("delete_messages", Version, BULK_SECONDS)
_RESTORE = Query("restore_messages", Version, BULK_SECONDS)


async def delete_message(
    connection: Conn, owner_id: UUID, conversation_id: UUID, message_id: str, expected: Expected | None
) -> Version:
    """Hides one message; the version after. Raises NotFound and PreconditionFailed."""
    async with lock_conversation(connection, owner_id, conversation_id, expected) as version:
        seq = await find_seq(connection, owner_id, conversation_id, message_id)
        deleted = await _delete(connection, owner_id, conversation_id, seq, seq, version)
        if deleted is None:
            raise NotFound
        return deleted


async def truncate_messages(
    connection: Conn, owner_id: UUID, conversation_id: UUID, from_seq: int, expected: Expected | None
) -> Version:
    """Hides the messages from a seq on; the version after, the same as before where there was nothing to hide.

    Raises NotFound and PreconditionFailed.
    """
    async with lock_conversation(connection, owner_id, conversation_id, expected) as version:
        through_seq = version.last_seq
        return await _delete(connection, owner_id, conversation_id, from_seq, through_seq, version) or version


async def _delete(
    connection: Conn, owner_id: UUID, conversation_id: UUID, from_seq: int, through_seq: int, version: Version
) -> Version | None:
    ended = await end_live_reply(connection, owner_id, conversation_id, from_seq, through_seq)
    return await _DELETE.fetch_one(
        connection,
        owner_id=owner_id,
        conversation_id=conversation_id,
        from_seq=from_seq,
        through_seq=through_seq,
        revision=(ended or version).revision + 1,
    )


async def restore_messages(
    connection: Conn, owner_id: UUID, conversation_id: UUID, revision: int, restore_days: int
) -> Version:
    """Brings back what the call hid that answered this revision; the version after.

    Raises NotFound: no such conversation, nothing hidden by such a call, or past the window.
    """
    async with lock_conversation(connection, owner_id, conversation_id) as version:
        restored = await _RESTORE.fetch_one(
            connection,
            owner_id=owner_id,
            conversation_id=conversation_id,
            deleted_revision=revision,
            revision=version.revision + 1,
            restore_days=restore_days,
        )
        if restored is None:
            raise NotFound
        return restored
