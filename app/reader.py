"""Pages as requests ask for them: by one statement with others that are asked for at the same time, or alone."""

from functools import partial
from uuid import UUID

import msgspec

from app.batches import Batches
from app.database import Database
from app.errors import NotFound
from app.identifiers import Owner
from app.page_cache import PageCache
from app.settings import Settings
from app.stores import conversations, messages, shared_pages
from app.stores.shared_pages import (
    ConversationPage,
    ConversationPageRequest,
    MessagePage,
    MessagePageRequest,
    Unread,
    position_of,
)
from app.wire.conversations import ConversationListing
from app.wire.messages import MessageListing

SHARED_LIMIT = 100
"""Of a page of more messages the statement is the smaller part."""

_WORKERS = 4
_MOST_WORKERS = 8
_BATCH_SIZE = 16
_LISTS_PART = 16  # of the memory for pages: a list is as much smaller than a page of messages

_encode = msgspec.json.Encoder().encode


class Reader:
    """Lists, as JSON."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._is_sharing = settings.shared_statements
        lists_bytes = settings.page_cache_bytes // _LISTS_PART
        self._known_messages: PageCache[MessagePage] = PageCache(settings.page_cache_bytes - lists_bytes)
        self._known_conversations: PageCache[ConversationPage] = PageCache(lists_bytes)
        batches = partial(Batches, width=_WORKERS, most=_MOST_WORKERS, size=_BATCH_SIZE, length=settings.queue_limit)
        self._message_pages: dict[str, Batches[MessagePageRequest, MessagePage | Unread]] = {
            order: batches(self._list_messages) for order in ("asc", "desc")
        }
        self._conversation_pages: Batches[ConversationPageRequest, ConversationPage] = batches(self._list_conversations)

    async def list_messages(self, owner_id: UUID, conversation_id: UUID, listing: MessageListing) -> bytes:
        """As `messages.list_messages`. Raises NotFound, and Unavailable for what may pass."""
        if not self._is_sharing or listing.limit > SHARED_LIMIT:
            return await self._list_messages_alone(owner_id, conversation_id, listing)
        name = (owner_id, conversation_id, listing.order, listing.limit, listing.after, listing.before)
        known = self._known_messages.get(name)
        page = await self._message_pages[listing.order].do(
            MessagePageRequest(owner_id, conversation_id, listing, known)
        )
        if page is known and known is not None:
            return known.body
        if isinstance(page, MessagePage):
            self._known_messages.put(name, page, page.size)
            return page.body
        self._known_messages.drop(name)
        if page is Unread.ABSENT:
            raise NotFound
        return await self._list_messages_alone(owner_id, conversation_id, listing)

    async def _list_messages_alone(self, owner_id: UUID, conversation_id: UUID, listing: MessageListing) -> bytes:
        async with self._database.connection() as connection:
            return _encode(await messages.list_messages(connection, owner_id, conversation_id, listing))

    async def list_conversations(self, owner: Owner, listing: ConversationListing) -> bytes:
        """As `conversations.list_conversations`. Raises InvalidInput, and Unavailable for what may pass."""
        is_plain = not listing.archived and listing.pinned is None and listing.tag is None
        if not self._is_sharing or not is_plain:
            async with self._database.connection() as connection:
                return _encode(await conversations.list_conversations(connection, owner, listing))
        name = (owner.id, listing.limit, listing.after)
        known = self._known_conversations.get(name)
        page = await self._conversation_pages.do(
            ConversationPageRequest(owner, listing.limit, position_of(listing), known)
        )
        if page is not known:
            self._known_conversations.put(name, page, page.size)
        return page.body

    async def close(self) -> None:
        """Waits for what is being read."""
        for batches in self._message_pages.values():
            await batches.close()
        await self._conversation_pages.close()

    async def _list_messages(self, requests: list[MessagePageRequest]) -> list[MessagePage | Unread]:
        async with self._database.connection() as connection:
            return await shared_pages.list_messages(connection, requests)

    async def _list_conversations(self, requests: list[ConversationPageRequest]) -> list[ConversationPage]:
        async with self._database.connection() as connection:
            return await shared_pages.list_conversations(connection, requests)
