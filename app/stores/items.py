"""Items: messages as OpenAI's clients know them, appended, found, listed and deleted by their own ids."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Literal, TypeVar
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

from app.context import Entry, elements_of
from app.errors import ClientIdReused
from app.identifiers import LAST_SEQ_LIMIT, MessageIds
from app.items import Item, ItemPlace, items_of, parse_computed_id
from app.payloads import IncomingMessage
from app.queries import Conn, NoRow, Query
from app.stores.appends import Append, append_messages, refuse_reserved_ids
from app.stores.conversations import lock_conversation
from app.stores.deletions import delete_message
from app.stores.messages import MessagePatch, list_entries, update_message
from app.wire.messages import Appended, MessageChange, MessageListing, Version

T = TypeVar("T")

_THREAD_FROM_BYTES = 64 * 1024  # of calls or parts as small as they can be, half a second to a MB
_MESSAGE_LIMIT_BYTES = 2**31  # an item is taken away, nothing is added


class _Found(Struct, frozen=True):
    seq: int
    is_deleted: bool


class ItemListing(Struct, kw_only=True, frozen=True):
    """Which items to list: behind a place, in an order."""

    order: Literal["asc", "desc"]
    limit: int
    after: ItemPlace | None


_FIND = Query("find_item", _Found)
_GET_VERSION = Query("get_version", Version)
_RELEASE_ID = Query("release_item_id", NoRow)


async def append_items(
    connection: Conn, owner_id: UUID, conversation_id: UUID, append: Append
) -> tuple[Appended, bool]:
    """What the append made, and whether it repeats an earlier one by its Idempotency-Key.

    An id that a deleted item had is free. Raises what append_messages raises; ClientIdReused for an item that the
    conversation has, sent again without a key.
    """
    append = replace(append, messages=await settle_ids(connection, owner_id, conversation_id, append.messages))
    try:
        appended, is_replay = await append_messages(connection, owner_id, conversation_id, append)
    except ClientIdReused:
        is_replay = True
    else:
        if append.key is not None or not is_replay:
            return appended, is_replay
    async with lock_conversation(connection, owner_id, conversation_id):
        await _release_ids(connection, owner_id, conversation_id, append.messages)
        return await append_messages(connection, owner_id, conversation_id, append)


async def settle_ids(
    connection: Conn, owner_id: UUID, conversation_id: UUID, messages: list[IncomingMessage]
) -> list[IncomingMessage]:
    """An id computed for an item of this conversation stays that item's: if it is deleted, the new one gets another."""
    refuse_reserved_ids(messages, MessageIds(conversation_id))
    settled = []
    for message in messages:
        item_id = message.client_id
        if item_id is None or parse_computed_id(item_id, conversation_id) is None:
            settled.append(message)
        elif await find_item(connection, owner_id, conversation_id, item_id, only_finished=False) is not None:
            raise ClientIdReused
        else:
            settled.append(replace(message, client_id=None))
    return settled


async def release_ids(connection: Conn, owner_id: UUID, conversation_id: UUID, messages: list[IncomingMessage]) -> None:
    """Frees the ids that deleted items had, for these. Raises NotFound, and ClientIdReused for one that is not free."""
    async with lock_conversation(connection, owner_id, conversation_id):
        await _release_ids(connection, owner_id, conversation_id, messages)


async def _release_ids(
    connection: Conn, owner_id: UUID, conversation_id: UUID, messages: list[IncomingMessage]
) -> None:
    ids = [message.client_id for message in messages if message.client_id is not None]
    for client_id in ids:
        found = await _FIND.fetch_one(
            connection, owner_id=owner_id, conversation_id=conversation_id, client_id=client_id
        )
        if found is not None and not found.is_deleted:
            raise ClientIdReused
        if found is not None:
            await _RELEASE_ID.execute(connection, owner_id=owner_id, conversation_id=conversation_id, seq=found.seq)


async def find_place(connection: Conn, owner_id: UUID, conversation_id: UUID, item_id: str) -> ItemPlace | None:
    """Where an item is, or was before it was deleted; None for an id that none has had."""
    if (place := parse_computed_id(item_id, conversation_id)) is not None:
        version = await _GET_VERSION.fetch_one(connection, owner_id=owner_id, id=conversation_id)
        return place if version is not None and place.seq <= version.last_seq else None
    if not item_id or "\0" in item_id:
        return None
    found = await _FIND.fetch_one(connection, owner_id=owner_id, conversation_id=conversation_id, client_id=item_id)
    return ItemPlace(found.seq, 0) if found is not None else None


async def find_item(
    connection: Conn, owner_id: UUID, conversation_id: UUID, item_id: str, *, only_finished: bool = True
) -> tuple[Entry, Item] | None:
    """An item, by default of finished turns, and the message that it is in; None where there is none.

    Raises NotFound.
    """
    place = await find_place(connection, owner_id, conversation_id, item_id)
    seq = place.seq if place is not None else LAST_SEQ_LIMIT
    listing = MessageListing(limit=1, after=seq - 1, before=seq + 1)
    entries, _ = await list_entries(connection, owner_id, conversation_id, listing, only_finished=only_finished)
    items = await items_in(entries)
    return next(((entry, item) for entry in entries for item in items if item.id == item_id), None)


async def items_in(entries: list[Entry]) -> list[Item]:
    """The items that messages are, in order; those of large messages are made in a thread."""
    return await _make(entries, lambda: [item for entry in entries for item in items_of(entry)])


async def _make(entries: list[Entry], make: Callable[[], T]) -> T:
    is_small = sum(entry.body_bytes for entry in entries) < _THREAD_FROM_BYTES
    return make() if is_small else await asyncio.to_thread(make)


async def list_items(
    connection: Conn, owner_id: UUID, conversation_id: UUID, listing: ItemListing
) -> tuple[list[Item], bool]:
    """A page of the items of finished turns, and whether there is more.

    It has the payload of a page of messages at most, and at least one item if there is one. Raises NotFound.
    """
    after, bounds = listing.after, _bounds(listing.order, listing.after)
    limit = listing.limit + (1 if after is None else 2)  # what is left of the message at the place may be nothing
    while True:
        messages = MessageListing(order=listing.order, limit=limit, after=bounds[0], before=bounds[1])
        entries, has_more = await list_entries(connection, owner_id, conversation_id, messages, only_finished=True)
        items = await _make(entries, partial(_items_of_page, listing, entries))
        if items or not has_more:
            return items[: listing.limit], has_more or len(items) > listing.limit
        seq = entries[-1].message.seq
        bounds = (seq, None) if listing.order == "asc" else (None, seq)


def _bounds(order: Literal["asc", "desc"], after: ItemPlace | None) -> tuple[int | None, int | None]:
    """The messages to read, exclusive: from the one in which the place is."""
    if after is None:
        return None, None
    return (after.seq - 1, None) if order == "asc" else (None, after.seq + 1)


def _items_of_page(listing: ItemListing, entries: list[Entry]) -> list[Item]:
    """The items behind the place, and one more than the page has at least, if there are as many."""
    after, is_asc = listing.after, listing.order == "asc"
    found: list[Item] = []
    for entry in entries:
        items = items_of(entry)
        if after is not None and entry.message.seq == after.seq:
            items = [item for item in items if (item.index > after.index if is_asc else item.index < after.index)]
        found += items if is_asc else items[::-1]
        if len(found) > listing.limit:
            break
    return found


async def delete_item(connection: Conn, owner_id: UUID, conversation_id: UUID, item_id: str) -> bool:
    """Hides an item: its message, or of several in one only its part of it, for good. False: there is none.

    Raises NotFound.
    """
    async with lock_conversation(connection, owner_id, conversation_id):
        found = await find_item(connection, owner_id, conversation_id, item_id)
        if found is None:
            return False
        entry, item = found
        message_id = entry.message.id
        if len(await items_in([entry])) == 1:
            await delete_message(connection, owner_id, conversation_id, message_id, None)
            return True
        patch = MessagePatch(
            change=MessageChange(), payloads=_without(entry, item.index), limit_bytes=_MESSAGE_LIMIT_BYTES
        )
        await update_message(connection, owner_id, conversation_id, message_id, patch, None)
        return True


def _without(entry: Entry, index: int) -> dict[str, bytes | None]:
    """The payloads without one item; nothing moves, so that each other item keeps its id."""
    message = entry.message
    place = index if message.content is None else index - 1
    if place < 0:
        return {"content": b'""'}
    calls = [bytes(raw) for raw in elements_of(message.tool_calls)]
    calls[place] = b"null"
    while calls and calls[-1] == b"null":
        calls.pop()
    return {"tool_calls": b"[%b]" % b",".join(calls) if calls else None}
