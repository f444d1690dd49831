"""Statistics: what a conversation counts of itself, and what the roll-up makes of all of them."""

import asyncio
import logging
from asyncio import gather
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from litestar import Litestar
from msgspec.structs import replace

from app import rollups as job
from app.database import Database
from app.database_url import DatabaseUrl
from app.errors import Unavailable
from app.queries import Conn
from app.rollups import RollUp
from app.settings import Settings
from app.stores import purges, rollups
from app.stores.rollups import Activity, gains_of
from tests.conftest import NewKey, append, client_of, new_conversation, pooled, problem, running

ROLES = ("user", "assistant", "tool", "system", "developer")
SETTINGS = Settings(pool_size=2, acquire_timeout_seconds=20)
MIDNIGHT = datetime.combine(datetime.now(UTC).date(), datetime.min.time(), UTC)


async def roll_up(url: DatabaseUrl, batch_size: int = 1000) -> None:
    database = Database(pooled(url), SETTINGS)
    await database.open()
    try:
        await RollUp(database, batch_size).roll_up()
    finally:
        await database.close()


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "_PAUSE_SECONDS", 0)


@pytest.fixture
async def admin(app: Litestar, new_key: NewKey) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app, await new_key(is_admin=True)) as client:
        yield client


async def stats(client: httpx.AsyncClient, **days: date) -> dict[str, Any]:
    answer = await client.get("/v1/stats", params={name: day.isoformat() for name, day in days.items()})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def today(client: httpx.AsyncClient) -> dict[str, Any]:
    return (await stats(client))["days"][-1]


async def say(client: httpx.AsyncClient, path: str, *roles: str, **members: object) -> None:
    messages = [{"role": role, "content": "x", **members} for role in roles]
    answer = await client.post(f"{path}/messages", json={"messages": messages})
    assert answer.status_code == 201, answer.text


def by_role(*counts: int) -> dict[str, int]:
    return dict(zip(ROLES, counts, strict=True))


async def move(connection: Conn, path: str, time: datetime) -> None:
    """As if the last activity had been then."""
    await connection.execute(
        "UPDATE conversations SET updated_at = $2, active_at = date_trunc('minute', $2::timestamptz),"
        " created_at = least(created_at, $2) WHERE id = $1",
        UUID(path.rpartition("/")[2]),
        time,
    )


# Of a conversation


async def test_a_conversation_tells_what_is_in_it(alice: httpx.AsyncClient) -> None:
    path = await new_conversation(alice)
    await say(alice, path, *ROLES, "user", usage={"input_tokens": 3, "output_tokens": 5})
    await alice.delete(f"{path}/messages?from_seq=6")
    await alice.patch(path, json={"archived": True})
    told = (await alice.get(f"{path}/stats")).json()
    whole = (await alice.get(path)).json()
    times = [datetime.fromisoformat(whole[name]) for name in ("created_at", "updated_at")]
    assert told == {
        "id": whole["id"],
        "message_count": 5,
        "messages": by_role(1, 1, 1, 1, 1),
        "turn_count": 1,
        "input_tokens": 18,
        "output_tokens": 30,
        "last_seq": 6,
        "revision": 2,
        "is_archived": True,
        "created_at": whole["created_at"],
        "updated_at": whole["updated_at"],
        "duration_seconds": (times[1] - times[0]).total_seconds(),
    }
    assert told["duration_seconds"] > 0


async def test_a_deleted_conversation_tells_nothing(alice: httpx.AsyncClient) -> None:
    path = await new_conversation(alice, ["x"])
    await alice.delete(path)
    assert problem(await alice.get(f"{path}/stats")) == "not-found"
    assert problem(await alice.get("/v1/conversations/nowhere/stats")) == "not-found"


# Of a tenant


async def test_the_sums_are_what_was_said(
    url: DatabaseUrl, app: Litestar, alice: httpx.AsyncClient, bob: httpx.AsyncClient, new_key: NewKey
) -> None:
    for client, roles in ((alice, ROLES), (alice, ("user", "assistant") * 3), (bob, ("user",))):
        await say(client, await new_conversation(client), *roles, usage={"input_tokens": 2, "output_tokens": 1})
    await new_conversation(bob)
    async with client_of(app, await new_key(tenant="other", user="alice")) as stranger:
        await new_conversation(stranger, ["x"] * 7)
    await roll_up(url)
    async with client_of(app, await new_key(is_admin=True)) as admin:
        told = await stats(admin)
    day = told["days"][-1]
    sums = {"message_count": 12, "messages": by_role(5, 4, 1, 1, 1), "input_tokens": 24, "output_tokens": 12}
    assert told["totals"] == {"new_conversations": 4, "active_users": 2, **sums}
    assert (day.pop("median_duration_seconds") > 0, day) == (True, {
        "day": told["to_day"], "conversations": 3, "new_conversations": 4, "active_users": 2,
        "median_turns": 1.0, **sums,
    })  # fmt: skip
    async with client_of(app, await new_key(tenant="other", is_admin=True)) as other:
        assert (await today(other))["messages"] == by_role(7, 0, 0, 0, 0)


async def test_counting_again_changes_nothing(
    url: DatabaseUrl, alice: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    path = await new_conversation(alice, ["a", "b"])
    await roll_up(url)
    first = await stats(admin)
    await roll_up(url)
    again = await stats(admin)
    assert again["rolled_up_at"] > first["rolled_up_at"]
    assert again | {"rolled_up_at": None} == first | {"rolled_up_at": None}
    await say(alice, path, "user", "assistant")
    await roll_up(url)
    assert (await today(admin))["messages"] == by_role(3, 1, 0, 0, 0)
    assert (await today(admin))["conversations"] == 1


async def test_appends_beside_many_jobs_are_counted_once(
    url: DatabaseUrl, alice: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    paths = [await new_conversation(alice) for _ in range(10)]

    async def talk(path: str) -> None:
        for _ in range(10):
            await say(alice, path, "user", "assistant")

    async def work() -> None:
        for _ in range(5):
            await roll_up(url, batch_size=3)

    await gather(*map(talk, paths), *(work() for _ in range(3)))
    await roll_up(url)
    told = await today(admin)
    assert (told["messages"], told["conversations"]) == (by_role(100, 100, 0, 0, 0), 10)
    assert (told["new_conversations"], told["active_users"], told["median_turns"]) == (10, 1, 10.0)


@pytest.mark.parametrize(
    ("query", "time"),
    [("_ADVANCE", 1), ("_UPDATE_TENANT_DAYS", 2), ("_CREATE_OWNER_DAYS", 2), ("_UPDATE_MEDIANS", 1), ("_FINISH", 1)],
)
async def test_a_crash_anywhere_loses_and_doubles_nothing(
    url: DatabaseUrl, alice: httpx.AsyncClient, admin: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch,
    query: str, time: int,
) -> None:  # fmt: skip
    for _ in range(6):
        await new_conversation(alice, ["a", "b"])
    right = getattr(rollups, query)
    calls = 0

    class Broken:
        async def call(self, *arguments: object, **values: object) -> object:
            nonlocal calls
            calls += 1
            if calls == time:
                raise OSError
            return await (right.fetch if query == "_CREATE_OWNER_DAYS" else right.execute)(*arguments, **values)

        execute = fetch = call

    with monkeypatch.context() as patch:
        patch.setattr(rollups, query, Broken())
        for _ in range(3):
            with suppress(Unavailable):
                await roll_up(url, batch_size=2)
    assert calls >= time
    await roll_up(url, batch_size=2)
    told = await today(admin)
    assert (told["messages"]["user"], told["conversations"], told["new_conversations"]) == (12, 6, 6)
    assert (told["active_users"], told["median_turns"]) == (1, 2.0)


async def test_what_is_committed_late_is_found(
    url: DatabaseUrl, alice: httpx.AsyncClient, admin: httpx.AsyncClient, connection: Conn
) -> None:
    """A transaction that began a minute ago ends behind the place to which the last run came."""
    await new_conversation(alice, ["x"])
    late = await new_conversation(alice, ["x"])
    async with connection.transaction():
        await move(connection, late, datetime.now(UTC) - timedelta(minutes=1))
        await connection.execute("UPDATE conversations SET last_seq = last_seq + 1, user_message_count = 2"
                                 " WHERE id = $1", UUID(late.rpartition("/")[2]))  # fmt: skip
        await roll_up(url, batch_size=1)
        assert (await today(admin))["messages"]["user"] == 2
    await roll_up(url)
    assert sum(day["messages"]["user"] for day in (await stats(admin))["days"]) == 3


async def test_a_run_that_ends_half_way_is_gone_on_with(
    url: DatabaseUrl, alice: httpx.AsyncClient, admin: httpx.AsyncClient, connection: Conn
) -> None:
    """What was active long ago is not read again; what was active lately is."""
    paths = [await new_conversation(alice, ["x"]) for _ in range(4)]
    for number, path in enumerate(paths):
        await move(connection, path, datetime.now(UTC) - timedelta(hours=4 - number))
    counting = await rollups.begin_counting(connection)
    assert counting
    await rollups.count_batch(connection, counting, 3)
    following = await rollups.begin_counting(connection)
    assert following
    assert following.place.conversation == UUID(paths[2].rpartition("/")[2])
    await roll_up(url)
    told = await stats(admin)
    assert (told["totals"]["messages"]["user"], told["totals"]["new_conversations"]) == (4, 4)
    assert (await connection.fetchval("SELECT after_active_at FROM rollups")) < datetime.now(UTC) - timedelta(minutes=2)


async def test_only_one_works_at_a_time(url: DatabaseUrl, alice: httpx.AsyncClient, connection: Conn) -> None:
    await new_conversation(alice, ["x"])
    counting = await rollups.begin_counting(connection)
    assert counting
    other = await asyncpg.connect(**url.for_asyncpg())
    async with other.transaction():
        await other.execute("SELECT FROM rollups FOR UPDATE")
        assert await rollups.begin_counting(connection) is None
        assert await rollups.count_batch(connection, counting) is None
    await other.close()
    await rollups.finish_counting(connection, counting)
    assert await rollups.begin_counting(connection, fresh_seconds=30) is None
    assert await rollups.begin_counting(connection) is not None


# What is taken back


async def test_what_is_deleted_and_restored_stays_counted_once(
    url: DatabaseUrl, alice: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    path = await new_conversation(alice)
    await say(alice, path, "user", "assistant", "user", "assistant", usage={"input_tokens": 1})
    await roll_up(url)
    first = await today(admin)
    cut = (await alice.delete(f"{path}/messages?from_seq=1")).json()
    await roll_up(url)
    await alice.post(f"{path}/messages/restore", json={"revision": cut["revision"]})
    await alice.delete(path)
    await roll_up(url)
    await alice.post(f"{path}/restore")
    await roll_up(url)
    again = await today(admin)
    assert (again["messages"], again["message_count"], again["input_tokens"]) == (by_role(2, 2, 0, 0, 0), 4, 4)
    assert (again["conversations"], again["new_conversations"]) == (first["conversations"], 1)


async def test_what_is_said_again_is_counted_again(
    url: DatabaseUrl, alice: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    """Edit and regenerate, between two looks: the counters are as before, the seqs are not."""
    path = await new_conversation(alice)
    await say(alice, path, "user", "assistant", "user", "assistant")
    await roll_up(url)
    await alice.delete(f"{path}/messages?from_seq=3")
    await say(alice, path, "user", "assistant")
    await roll_up(url)
    assert (await today(admin))["messages"] == by_role(3, 3, 0, 0, 0)


async def test_the_messages_of_a_fork_are_not_said_again(
    url: DatabaseUrl, alice: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    path = await new_conversation(alice)
    await say(alice, path, "user", "assistant", "user", usage={"input_tokens": 1})
    await alice.delete(f"{path}/messages?from_seq=3")
    quiet = (await alice.post(f"{path}/fork")).headers["Location"]
    busy = (await alice.post(f"{path}/fork")).headers["Location"]
    await say(alice, busy, "tool", usage={"input_tokens": 1})
    await roll_up(url)
    told = await today(admin)
    assert (told["message_count"], told["messages"]["tool"], told["input_tokens"]) == (4, 1, 4)
    assert (told["conversations"], told["new_conversations"]) == (2, 3)
    await say(alice, quiet, "tool")
    await roll_up(url)
    assert (await today(admin))["messages"]["tool"] == 2


async def test_what_is_purged_stays_in_the_sums_alone(
    url: DatabaseUrl, alice: httpx.AsyncClient, admin: httpx.AsyncClient, connection: Conn
) -> None:
    path = await new_conversation(alice, ["x", "y"])
    await roll_up(url)
    first = await stats(admin)
    assert (await alice.delete(f"{path}?purge=true")).status_code == 204
    await roll_up(url)
    assert (await stats(admin))["totals"] == first["totals"]
    for table in ("conversation_tallies", "conversation_days"):
        assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0
    await new_conversation(alice, ["x"])
    await roll_up(url)
    told = await today(admin)
    assert (told["active_users"], told["conversations"], told["messages"]["user"]) == (1, 2, 3)


async def test_a_purge_beside_the_job_stops_it_no_longer_than_once(
    url: DatabaseUrl, alice: httpx.AsyncClient, admin: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await new_conversation(alice, ["x"])
    gone = await new_conversation(alice, ["x"])
    count = rollups._count

    async def purge_first(connection: Conn, rows: list[Activity]) -> None:
        await alice.delete(f"{gone}?purge=true")
        await count(connection, rows)

    monkeypatch.setattr(rollups, "_count", purge_first)
    await roll_up(url)
    assert (await today(admin))["message_count"] == 1


async def test_old_days_are_purged_and_their_sums_stay(
    url: DatabaseUrl, alice: httpx.AsyncClient, admin: httpx.AsyncClient, connection: Conn
) -> None:
    for days in (500, 401, 399, 0):
        await move(connection, await new_conversation(alice, ["x"]), MIDNIGHT - timedelta(days=days))
    await roll_up(url)
    await purges.purge(connection, 30)
    for table in ("conversation_days", "owner_days"):
        kept = await connection.fetch(f"SELECT day FROM {table} ORDER BY day")
        assert [(MIDNIGHT.date() - row["day"]).days for row in kept] == [399, 0]
    old = MIDNIGHT.date() - timedelta(days=500)
    told = await stats(admin, from_day=old, to_day=old)
    assert (told["totals"]["active_users"], told["days"][0]["active_users"], told["days"][0]["median_turns"]) == (
        None, 1, 1.0
    )  # fmt: skip
    assert await connection.fetchval("SELECT count(*) FROM conversation_tallies") == 4


# Days


async def test_a_day_ends_at_midnight_utc(
    url: DatabaseUrl, alice: httpx.AsyncClient, admin: httpx.AsyncClient, connection: Conn
) -> None:
    path = await new_conversation(alice, ["a"])
    await move(connection, path, MIDNIGHT - timedelta(microseconds=1))
    await roll_up(url)
    await append(alice, path, "b", "c")
    await move(connection, path, max(MIDNIGHT, datetime.now(UTC) - timedelta(seconds=30)))
    await roll_up(url)
    before, after = (await stats(admin))["days"][-2:]
    assert (before["messages"]["user"], before["new_conversations"], before["median_turns"]) == (1, 1, 1.0)
    assert (after["messages"]["user"], after["new_conversations"], after["median_turns"]) == (2, 0, 3.0)
    assert (before["conversations"], after["conversations"], after["active_users"]) == (1, 1, 1)
    assert (await stats(admin))["totals"]["active_users"] == 1


async def test_a_tenant_without_anything_has_every_day(admin: httpx.AsyncClient) -> None:
    told = await stats(admin)
    days = [date.fromisoformat(day["day"]) for day in told["days"]]
    assert days == [days[-1] - timedelta(days=back) for back in reversed(range(30))]
    assert (told["from_day"], told["to_day"], told["rolled_up_at"]) == (str(days[0]), str(days[-1]), None)
    assert told["totals"]["active_users"] == 0
    assert {(day["message_count"], day["median_turns"]) for day in told["days"]} == {(0, None)}


async def test_a_range_has_its_days(admin: httpx.AsyncClient) -> None:
    for query, count in {
        "from_day=2024-01-01&to_day=2024-12-31": 366,
        "from_day=2024-03-01&to_day=2024-03-01": 1,
        "to_day=2024-01-30": 30,
        "to_day=0001-01-05": 5,
        "to_day=9999-12-31": 30,
    }.items():
        told = (await admin.get(f"/v1/stats?{query}")).json()
        assert (len(told["days"]), told["days"][-1]["day"]) == (count, told["to_day"])


async def test_a_range_that_is_none_is_refused(admin: httpx.AsyncClient) -> None:
    for query, parameter in {
        "from_day=2024-01-02&to_day=2024-01-01": "from_day",
        "from_day=2024-01-01&to_day=2025-01-01": "from_day",
        "from_day=9999-01-01": "from_day",
        "from_day=2001-01-01": "from_day",
        "to_day=2024-02-30": "to_day",
        "to_day=2024-02-03T00:00:00Z": "to_day",
        "to_day=null": "to_day",
        "day=2024-02-03": "day",
    }.items():
        answer = await admin.get(f"/v1/stats?{query}")
        assert (answer.status_code, problem(answer)) == (400, "invalid-input")
        assert answer.json()["errors"][0]["parameter"] == parameter


# The job


async def test_the_job_reads_no_messages(
    url: DatabaseUrl, alice: httpx.AsyncClient, admin: httpx.AsyncClient, connection: Conn
) -> None:
    """Nobody can, while it works."""
    await new_conversation(alice, ["x"] * 3)
    async with connection.transaction():
        await connection.execute("LOCK TABLE messages")
        await roll_up(url)
    assert (await today(admin))["message_count"] == 3


async def test_the_job_goes_on_whatever_happens(
    url: DatabaseUrl, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    connection: Conn, new_key: NewKey,
) -> None:  # fmt: skip
    """It logs what broke, once for each time, without words; then it does its work."""
    monkeypatch.setattr(job, "INTERVAL_SECONDS", 0.02)
    await connection.execute("ALTER TABLE rollups RENAME TO elsewhere")
    async with running(settings, url) as app, client_of(app, await new_key(user="alice")) as alice:
        await new_conversation(alice, ["x"])
        await asyncio.sleep(0.3)
        failures = [record for record in caplog.records if record.name == "verbatim.rollups"]
        assert failures
        assert {(record.levelno, record.fields["sqlstate"]) for record in failures} == {(logging.ERROR, "42P01")}
        await connection.execute("ALTER TABLE elsewhere RENAME TO rollups")
        async with asyncio.timeout(5):
            while not await connection.fetchval("SELECT count(*) FROM tenant_days WHERE NOT is_stale"):  # noqa: ASYNC110  # the job tells nobody
                await asyncio.sleep(0.02)


async def test_a_database_that_is_down_stops_neither_start_nor_end(
    url: DatabaseUrl, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(job, "INTERVAL_SECONDS", 0.02)
    async with running(settings, replace(url, hosts=(("127.0.0.1", 9),))) as app, client_of(app) as nobody:
        await asyncio.sleep(0.1)
        assert (await nobody.get("/healthz")).status_code == 200
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


# The gains


counts = st.lists(st.integers(0, 50), min_size=5, max_size=5)


@given(before=counts, now=counts, said=st.integers(0, 100), tokens=st.tuples(*[st.integers(0, 99)] * 4))
def test_a_gain_is_as_many_messages_as_were_said(
    before: list[int], now: list[int], said: int, tokens: tuple[int, int, int, int]
) -> None:
    time = datetime.now(UTC)
    row = Activity(
        UUID(int=1), UUID(int=2), time, "acme", time, time, 7 + said, 1, *now, *tokens[:2], 7, 0, *before, *tokens[2:],
        is_new=False, active_day=None,
    )  # fmt: skip
    gained = gains_of(row)
    shown = [max(0, new - old) for new, old in zip(now, before, strict=True)]
    messages = [gained[f"{role}_message_count"] for role in ROLES]
    assert sum(messages) == said
    assert min([*messages, *gained.values()]) >= 0
    assert messages == shown or sum(shown) != said
    assert gained["input_tokens"] == max(0, tokens[0] - tokens[2])
