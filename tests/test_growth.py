"""A table that is written over and over stays as large as what is in it."""

import asyncio
from asyncio import gather
from uuid import UUID

import pytest

from app.database import connect
from app.database_url import DatabaseUrl
from app.identifiers import Owner, new_conversation_id, owner_of
from app.payloads import parse_append
from app.queries import Conn
from app.stores import appends, conversations, purges
from app.stores.appends import Append
from app.stores.conversations import ConversationPlan

OWNER = owner_of("acme", "alice")
MEGABYTE = 2**20


async def create(connection: Conn, owner: Owner) -> UUID:
    conversation_id = new_conversation_id()
    plan = ConversationPlan(
        id=conversation_id, key=None, title="x", metadata=b"{}", tags=[], messages=[], fingerprint=None
    )
    await conversations.create_conversation(connection, owner, plan)
    return conversation_id


async def append(url: DatabaseUrl, ids: list[UUID], count: int, size: int) -> None:
    """Over eight connections, each to conversations of its own."""
    body = b'{"role": "user", "content": "%s"}' % (b"x" * size)
    message = Append(messages=parse_append(body, MEGABYTE), key=None, fingerprint=b"", expected=None)

    async def work(mine: list[UUID]) -> None:
        connection = await connect(url, 5)
        for number in range(count // 8):
            await appends.append_messages(connection, OWNER.id, mine[number % len(mine)], message)
        await connection.close()

    await gather(*(work(ids[place::8]) for place in range(8)))


async def size_of(connection: Conn, table: str) -> int:
    await connection.execute(f"VACUUM {table}")
    size: int = await connection.fetchval(f"SELECT pg_total_relation_size('{table}')")
    return size


@pytest.mark.faults
async def test_conversations_do_not_grow_by_being_written_to(url: DatabaseUrl, connection: Conn) -> None:
    """A hundred thousand appends to two hundred conversations, with autovacuum as it is."""
    ids = [await create(connection, OWNER) for _ in range(200)]
    await append(url, ids, 100_000, 10)
    assert await connection.fetchval("SELECT sum(last_seq) FROM conversations") == 100_000
    assert await connection.fetchval("SELECT pg_total_relation_size('conversations')") < 10 * MEGABYTE
    await connection.execute("SELECT pg_stat_force_next_flush()")
    hot, all_of_them = await connection.fetchrow(
        "SELECT n_tup_hot_upd, n_tup_upd FROM pg_stat_user_tables WHERE relname = 'conversations'"
    ) or (0, 1)
    assert hot > 0.8 * all_of_them


@pytest.mark.parametrize("count", [800, pytest.param(16_000, marks=pytest.mark.faults)])
async def test_what_is_purged_makes_room(url: DatabaseUrl, connection: Conn, count: int) -> None:
    """The space of half of the messages is used by those that come next."""
    ids = [await create(connection, OWNER) for _ in range(16)]
    await append(url, ids, count, 1000)
    before = await size_of(connection, "messages")
    for conversation_id in ids[:8]:
        await purges.purge_conversation(connection, OWNER.id, conversation_id, None)
    assert await connection.fetchval("SELECT count(*) FROM messages") == count // 2
    await size_of(connection, "messages")
    await asyncio.sleep(0)
    await append(url, ids[8:], count // 2, 1000)
    after = await size_of(connection, "messages")
    assert after < 1.1 * before + 16 * 8192
