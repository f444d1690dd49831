"""Contexts: as much of a conversation as fits, read from both of its ends."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import takewhile
from uuid import UUID

from msgspec.structs import replace

from app.context import Entry, Window
from app.errors import NotFound
from app.formats import write_context
from app.queries import Conn, Query
from app.stores.messages import list_entries
from app.wire.context import Context, ContextQuery
from app.wire.messages import MessageListing, Version

_FIRST_LEADING, _FIRST_TURNS, _MOST = 4, 32, 1000
"""How many messages are read at once: little at first, then ever more."""

_Read = Callable[[MessageListing, Callable[[Entry], bool]], Awaitable[bool]]
"""Gives the messages of a listing one by one, as long as they are taken; whether all were."""

_GET_VERSION = Query("get_version", Version)


async def get_context(
    connection: Conn,
    owner_id: UUID,
    conversation_id: UUID,
    query: ContextQuery,
    before_seq: int | None = None,
    newest: Sequence[Entry] = (),
) -> Context:
    """The leading messages and the newest whole turns that fit, of the messages before a seq, then of the `newest`.

    Reads about as much as it answers, at most 8 MB and one page more. Raises NotFound.
    """
    version = await _GET_VERSION.fetch_one(connection, owner_id=owner_id, id=conversation_id)
    if version is None:
        raise NotFound
    end = version.last_seq + 1 if before_seq is None else min(before_seq, version.last_seq + 1)

    async def read(listing: MessageListing, take: Callable[[Entry], bool]) -> bool:
        has_more = True
        while has_more:
            entries, has_more = await list_entries(connection, owner_id, conversation_id, listing)
            for entry in entries:
                if not take(entry):
                    return False
            listing = _next(listing, entries[-1].message.seq) if entries else listing
        return True

    return await _fill(Window(query, end), version, read, newest)


async def make_context(entries: Sequence[Entry], query: ContextQuery) -> Context:
    """The context of messages that are kept nowhere."""

    async def read(_listing: MessageListing, _take: Callable[[Entry], bool]) -> bool:
        return True

    end = entries[-1].message.seq + 1 if entries else 1
    return await _fill(Window(query, end), Version(end - 1, 0), read, entries)


async def _fill(window: Window, version: Version, read: _Read, newest: Sequence[Entry]) -> Context:
    end = window.before_seq
    is_leading = await read(MessageListing(limit=_FIRST_LEADING, before=end), window.take_leading)
    leading = list(takewhile(window.take_leading, newest if is_leading else ()))
    newest_first = MessageListing(order="desc", limit=_FIRST_TURNS, after=window.after_seq, before=end)
    if window.cut is None and all(map(window.take, reversed(newest[len(leading) :]))):
        await read(newest_first, window.take)
    window.finish()
    if window.is_large:
        return await asyncio.to_thread(write_context, window, version)
    return write_context(window, version)


def _next(listing: MessageListing, seq: int) -> MessageListing:
    """The page behind a message, which is larger."""
    limit = min(_MOST, 4 * listing.limit)
    if listing.order == "asc":
        return replace(listing, limit=limit, after=seq)
    return replace(listing, limit=limit, before=seq)
