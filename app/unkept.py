"""Replies that are kept nowhere, nor what was asked: one reader has them, and when it leaves they end."""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from uuid import UUID, uuid4

from msgspec import Raw, Struct
from msgspec.structs import replace

from app.asking import ending_of, listen
from app.context import Entry
from app.database import Database
from app.identifiers import LAST_SEQ_LIMIT
from app.items import entry_of
from app.model import Finish, Model, ModelRequest
from app.payloads import IncomingMessage
from app.settings import Settings
from app.stores.contexts import get_context, make_context
from app.stores.replies import content_of, placeholder_of
from app.wire.context import Context, ContextQuery
from app.wire.messages import AppendedMessage, Message
from app.wire.replies import FinishReason

_NO_CONVERSATION = UUID(int=0)


class Conversed(Struct, frozen=True):
    """What was said before: a conversation, whole or before a seq."""

    conversation_id: UUID
    before_seq: int | None = None


async def read_unkept_context(
    database: Database,
    owner_id: UUID,
    conversation: Conversed | None,
    messages: list[IncomingMessage],
    query: ContextQuery,
) -> Context:
    """As much as fits of a conversation with messages behind it that are not kept. Raises NotFound."""
    newest = [_entry(message, seq) for seq, message in enumerate(messages, LAST_SEQ_LIMIT)]  # behind all that are kept
    if conversation is None:
        return await make_context(newest, query)
    conversation_id, before_seq = conversation.conversation_id, conversation.before_seq
    async with database.connection() as connection:
        return await get_context(connection, owner_id, conversation_id, query, before_seq, newest)


class UnkeptReply:
    """A reply while it is made."""

    def __init__(self, model: Model, request: ModelRequest, settings: Settings) -> None:
        self._model, self._request, self._settings = model, request, settings
        self.message = _entry(placeholder_of(model.name), LAST_SEQ_LIMIT).message
        """As long as nothing is said."""
        self._texts: list[str] = []
        self._fresh: list[str] = []
        self._has_moved = asyncio.Event()
        self.task = asyncio.create_task(self._listen())
        self.task.add_done_callback(lambda _task: self._has_moved.set())

    def stop(self) -> None:
        """Listens to the model no more."""
        self.task.cancel()

    async def read(self, seconds: float) -> tuple[str, tuple[Message, FinishReason] | None]:
        """The text that is new, after so long at most, and the reply as it ended once all of it is read."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._has_moved.wait()
        if not self.task.done():
            self._has_moved.clear()
        text = "".join(self._fresh)
        self._fresh.clear()
        return text, await self.ended() if self.task.done() else None

    async def _listen(self) -> Finish:
        async with asyncio.timeout(self._settings.reply_timeout_seconds):
            return await listen(self._model, self._request, self._settings.message_limit_bytes, self._add)

    def _add(self, text: str) -> None:
        self._texts.append(text)
        self._fresh.append(text)
        self._has_moved.set()

    async def ended(self) -> tuple[Message, FinishReason]:
        """The reply, once it has ended."""
        ending = await ending_of(self.task, self._texts)
        made = content_of(ending, ending.text or "")
        message = replace(
            self.message,
            content=_raw(made.content),
            tool_calls=_raw(made.tool_calls),
            usage=_raw(made.usage),
            model=made.model or self.message.model,
            status=made.status,
            updated_at=datetime.now(UTC),
        )
        return message, ending.reason


def _entry(incoming: IncomingMessage, seq: int) -> Entry:
    place = AppendedMessage(id=str(uuid4()), client_id=incoming.client_id, seq=seq, created_at=datetime.now(UTC))
    return entry_of(_NO_CONVERSATION, incoming, place)


def _raw(payload: bytes | None) -> Raw | None:
    return None if payload is None else Raw(payload)
