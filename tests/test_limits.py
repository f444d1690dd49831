"""Every wait has a limit: what cannot be done now is said to be so in time, and the rest goes on."""

import asyncio
import time
from asyncio import gather
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import asyncpg
import pytest
from httpx import AsyncClient, Response

from app import database as database_module
from app.database import Database, is_passing
from app.database_url import DatabaseUrl
from app.errors import Unavailable
from app.lanes import Lanes
from app.queries import Conn
from app.settings import Settings
from tests.conftest import NewKey, append, client_of, contents, new_conversation, problem, running
from tests.fault_proxy import fault_proxy

HOME = "/v1/conversations"


@pytest.fixture
def settings() -> Settings:
    """As it is shipped, but for a database that is made to forget, and a conversation's share of a pooler of 3."""
    return Settings(allow_unsafe_database=True, conversation_limit=2)


def check_unavailable(answer: Response) -> None:
    assert (answer.status_code, problem(answer), answer.headers["Retry-After"]) == (503, "unavailable", "1")


@asynccontextmanager
async def locked(connection: Conn, path: str) -> AsyncIterator[None]:
    """The row of a conversation is in another's hands."""
    async with connection.transaction():
        await connection.execute("SELECT FROM conversations WHERE id = $1 FOR UPDATE", path.rpartition("/")[2])
        yield


async def ask(client: AsyncClient, method: str, path: str, body: object = None) -> tuple[Response, float]:
    begun_at = time.perf_counter()
    answer = await client.request(method, path, json=body)
    return answer, time.perf_counter() - begun_at


async def test_a_conversation_that_is_locked_keeps_nobody_else_waiting(
    alice: AsyncClient, bob: AsyncClient, connection: Conn
) -> None:
    hot, cold = await new_conversation(alice), await new_conversation(bob, ["x"])
    message = {"role": "user", "content": "x"}
    async with locked(connection, hot):
        writers = [asyncio.create_task(ask(alice, "POST", f"{hot}/messages", message)) for _ in range(200)]
        await asyncio.sleep(0.1)
        reads = [await ask(bob, "GET", f"{cold}/messages") for _ in range(50)]
        answers = await gather(*writers)
    for answer, _ in answers:
        check_unavailable(answer)
    assert max(seconds for _, seconds in answers) < 3.5
    assert {answer.status_code for answer, _ in reads} == {200}
    assert sorted(seconds for _, seconds in reads)[25] < 0.5
    assert (await append(alice, hot, "now")).status_code == 201
    assert await contents(alice, hot) == ["now"]


async def test_few_connections_wait_for_one_conversation(
    settings: Settings, alice: AsyncClient, connection: Conn
) -> None:
    hot = await new_conversation(alice)
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with locked(connection, hot):
        writers = [asyncio.create_task(append(alice, hot, "x")) for _ in range(40)]
        counts = []
        for _ in range(10):
            await asyncio.sleep(0.05)
            await connection.execute("SELECT pg_stat_clear_snapshot()")
            counts.append(await connection.fetchval(waiting))
        await gather(*writers)
    assert max(counts) == settings.conversation_limit


async def test_a_lane_is_an_owners_own(alice: AsyncClient, bob: AsyncClient, connection: Conn) -> None:
    path = await new_conversation(alice)
    his = (await bob.post(HOME, json={"id": path.rpartition("/")[2]})).headers["Location"]
    async with connection.transaction():
        hers = "owner_id = (SELECT id FROM owners WHERE user_id = 'alice')"
        await connection.execute(f"SELECT FROM conversations WHERE {hers} FOR UPDATE")
        writers = [asyncio.create_task(append(alice, path, "x")) for _ in range(20)]
        await asyncio.sleep(0.1)
        answer, seconds = await ask(bob, "POST", f"{his}/messages", {"role": "user", "content": "his"})
        assert (answer.status_code, seconds < 0.9) == (201, True)
        await gather(*writers)


async def test_a_full_queue_is_told_at_once(url: DatabaseUrl, alice: AsyncClient, connection: Conn) -> None:
    key = alice.headers["Authorization"].split()[1]
    small = Settings(pool_size=2, queue_limit=8, allow_unsafe_database=True)
    async with running(small, url) as app, client_of(app, key) as client:
        await client.get(HOME)
        async with connection.transaction():
            await connection.execute("LOCK TABLE conversations")
            answers = await gather(*(ask(client, "GET", HOME) for _ in range(50)))
    seconds = sorted(seconds for _, seconds in answers)
    for answer, _ in answers:
        check_unavailable(answer)
    assert seconds[39] < 0.5  # all but those with a connection or a place in the queue
    assert seconds[-1] < 3


async def test_a_statement_that_hangs_ends_in_time(alice: AsyncClient, connection: Conn) -> None:
    path = await new_conversation(alice, ["x"])
    await connection.execute("ALTER TABLE messages RENAME TO stored")
    await connection.execute(
        "CREATE VIEW messages AS SELECT stored.* FROM stored, LATERAL (SELECT pg_sleep(60 + seq * 0)) AS slept"
    )
    answer, seconds = await ask(alice, "GET", f"{path}/messages")
    check_unavailable(answer)
    assert seconds < 5


async def test_a_request_has_one_deadline_however_many_statements_it_runs(
    url: DatabaseUrl, alice: AsyncClient, connection: Conn
) -> None:
    """Each statement is within its limit, and all of them are not."""
    path = await new_conversation(alice, ["x"])
    slowly = "LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.7); RETURN NEW; END'"
    await connection.execute(f"CREATE FUNCTION slow() RETURNS trigger {slowly}")
    await connection.execute("CREATE TRIGGER slow BEFORE UPDATE ON conversations FOR EACH ROW EXECUTE FUNCTION slow()")
    key = alice.headers["Authorization"].split()[1]
    hurried = Settings(request_timeout_seconds=0.5, allow_unsafe_database=True)
    async with running(hurried, url) as app, client_of(app, key) as client:
        answer, seconds = await ask(client, "PATCH", path, {"title": "late"})
        check_unavailable(answer)
        assert seconds < 1.2
        assert (await client.get(path)).json()["title"] is None
    idle = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'"
    assert await connection.fetchval(idle) == 0


async def test_a_silent_database_keeps_nobody_waiting(url: DatabaseUrl, alice: AsyncClient) -> None:
    path = await new_conversation(alice)
    key = alice.headers["Authorization"].split()[1]
    with fault_proxy(url) as proxy:
        async with running(Settings(allow_unsafe_database=True), proxy.url()) as app, client_of(app, key) as client:
            message = {"role": "user", "content": "x"}
            await gather(*(client.get(HOME) for _ in range(16)))
            proxy.blackhole()
            asked = [ask(client, *request) for request in _requests(path, message) * 6]
            alive = asyncio.create_task(_watch_liveness(client))
            answers = await gather(*asked)
            for answer, seconds in answers:
                check_unavailable(answer)
                assert seconds < 5
            assert (await client.get("/readyz")).status_code == 503
            proxy.pass_all()
            slowest, statuses = await _stop(alive)
            assert statuses == {200}
            assert slowest < 0.5
            await _until(partial(_is_served, client), 2)
            answers = await gather(*(ask(client, "GET", HOME) for _ in range(64)))
            assert {answer.status_code for answer, _ in answers} == {200}
            await _until(partial(_is_served, client, "/readyz"), 2)


async def test_what_cleans_up_after_a_deadline_keeps_nobody_waiting(url: DatabaseUrl, alice: AsyncClient) -> None:
    """A ROLLBACK to a database that is silent."""
    path = await new_conversation(alice)
    key = alice.headers["Authorization"].split()[1]
    hurried = Settings(request_timeout_seconds=0.5, command_timeout_seconds=5, allow_unsafe_database=True)
    with fault_proxy(url) as proxy:
        async with running(hurried, proxy.url()) as app, client_of(app, key) as client:
            await client.get(HOME)
            proxy.blackhole()
            answer, seconds = await ask(client, "PATCH", path, {"title": "x"})
            check_unavailable(answer)
            assert seconds < 2
            proxy.pass_all()


def _requests(path: str, message: object) -> list[tuple[str, str, object]]:
    return [
        ("GET", HOME, None),
        ("GET", f"{path}/messages", None),
        ("POST", f"{path}/messages", message),
        ("POST", HOME, None),
        ("PATCH", path, {"title": "x"}),
        ("POST", f"{path}/fork", None),
        ("DELETE", f"{path}/messages?from_seq=1", None),
    ]


async def _watch_liveness(client: AsyncClient) -> tuple[float, set[int]]:
    slowest, statuses = 0.0, set()
    try:
        while True:
            answer, seconds = await ask(client, "GET", "/healthz")
            slowest, statuses = max(slowest, seconds), statuses | {answer.status_code}
            await asyncio.sleep(0.05)
    except asyncio.CancelledError:
        return slowest, statuses


async def _stop(watch: "asyncio.Task[tuple[float, set[int]]]") -> tuple[float, set[int]]:
    watch.cancel()
    return await watch


async def _until(is_so: Callable[[], Awaitable[bool]], seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while not await is_so():  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.05)


async def _is_served(client: AsyncClient, path: str = HOME) -> bool:
    return (await client.get(path)).status_code == 200


async def test_a_database_that_comes_late_is_awaited(settings: Settings, url: DatabaseUrl, new_key: NewKey) -> None:
    key = await new_key(user="alice")
    with fault_proxy(url) as proxy:
        proxy.blackhole()
        async with running(settings, proxy.url()) as app, client_of(app, key) as client:
            assert (await client.get("/healthz")).status_code == 200
            assert (await client.get("/readyz")).status_code == 503
            check_unavailable(await client.get(HOME))
            proxy.pass_all()
            await _until(partial(_is_served, client, "/readyz"), 5)
            assert (await client.get(HOME)).status_code == 200


@pytest.mark.parametrize("request_count", [300, pytest.param(2000, marks=pytest.mark.faults)])
async def test_requests_that_are_given_up_leave_nothing_behind(
    alice: AsyncClient, connection: Conn, request_count: int
) -> None:
    """As a server cancels them when it stops, at any point; an append is there once or not at all."""
    paths = [await new_conversation(alice) for _ in range(8)]
    before = await _sessions(connection)
    asked = []
    for number in range(request_count):
        path = paths[number % 8]
        key = f"k{number}"
        asked.append(
            asyncio.create_task(
                append(alice, path, str(number), **{"Idempotency-Key": key})
                if number % 2
                else alice.get(f"{path}/messages")
            )
        )
        asyncio.get_running_loop().call_later(number % 17 / 1000, asked[-1].cancel)
        await asyncio.sleep(0.001)
    outcomes = await gather(*asked, return_exceptions=True)
    statuses = Counter(outcome.status_code for outcome in outcomes if isinstance(outcome, Response))
    assert statuses.keys() <= {200, 201, 503}
    assert statuses[503] > 20
    await _until(partial(_is_settled, connection), 5)
    said = Counter(await _texts(alice, paths))
    assert set(said.values()) <= {1}
    for number in range(1, request_count, 2):
        answer = await append(alice, paths[number % 8], str(number), **{"Idempotency-Key": f"k{number}"})
        assert answer.status_code == (200 if str(number) in said else 201)
    assert sorted(map(int, await _texts(alice, paths))) == list(range(1, request_count, 2))
    answers = await gather(*(alice.get(HOME) for _ in range(40)))  # every place in the pool is free
    assert {answer.status_code for answer in answers} == {200}
    assert await _sessions(connection) <= max(before, Settings().pool_size)


async def _texts(client: AsyncClient, paths: list[str]) -> list[str]:
    return [str(text) for path in paths for text in await contents(client, path)]


async def _sessions(connection: Conn) -> int:
    count: int = await connection.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    return count


async def _is_settled(connection: Conn) -> bool:
    """Whether no session is in a transaction."""
    query = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND state <> 'idle' AND pid <> pg_backend_pid()"
    )
    return await connection.fetchval(query) == 0


async def test_the_server_ends_what_a_lost_service_left_behind(settings: Settings, url: DatabaseUrl) -> None:
    database = Database(url, settings)
    await database.open()
    async with database.connection() as connection:
        shown = {
            name: await connection.fetchval(f"SHOW {name}")
            for name in ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")
        }
    await database.close()
    assert shown == {"lock_timeout": "1s", "statement_timeout": "40s", "idle_in_transaction_session_timeout": "10s"}


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (ConnectionRefusedError(), True),
        (TimeoutError(), True),
        (asyncpg.InterfaceError("connection is closed"), True),
        (asyncpg.InternalClientError("cannot switch to state"), True),
        (asyncpg.ConnectionDoesNotExistError(), True),
        (asyncpg.CannotConnectNowError(), True),
        (asyncpg.AdminShutdownError(), True),
        (asyncpg.TooManyConnectionsError(), True),
        (asyncpg.DiskFullError(), True),
        (asyncpg.DeadlockDetectedError(), True),
        (asyncpg.SerializationError(), True),
        (asyncpg.LockNotAvailableError(), True),
        (asyncpg.QueryCanceledError(), True),
        (asyncpg.ReadOnlySQLTransactionError(), True),
        (asyncpg.IdleInTransactionSessionTimeoutError(), True),
        (asyncpg.DataError("invalid input for query argument $1"), False),
        (asyncpg.UniqueViolationError(), False),
        (asyncpg.CheckViolationError(), False),
        (asyncpg.UndefinedColumnError(), False),
        (asyncpg.InsufficientPrivilegeError(), False),
        (ValueError(), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_may_pass_is_told_from_what_is_broken(error: Exception, passes: bool) -> None:
    assert is_passing(error) is passes


async def test_a_lane_forgets_who_has_left() -> None:
    lanes = Lanes(width=2, length=3, seconds=0.1)
    inside = asyncio.Event()

    async def stay() -> str:
        try:
            async with lanes.enter("hot"):
                await inside.wait()
                return "in"
        except Unavailable:
            return "out"

    stays = [asyncio.create_task(stay()) for _ in range(8)]
    await asyncio.sleep(0)
    assert Counter(task.done() for task in stays) == {True: 3, False: 5}  # no place even to wait
    await asyncio.sleep(0.15)
    assert Counter(task.done() for task in stays) == {True: 6, False: 2}  # waited too long
    stays[0].cancel()
    await asyncio.sleep(0)
    async with lanes.enter("hot"), lanes.enter("cold"):
        inside.set()
    await gather(*stays, return_exceptions=True)
    assert lanes._lanes == {}


async def test_the_bodies_that_are_held_at_once_are_bounded(url: DatabaseUrl, alice: AsyncClient) -> None:
    key = alice.headers["Authorization"].split()[1]
    small = Settings(
        body_limit_bytes=4096, body_memory_bytes=8192, message_limit_bytes=4096, allow_unsafe_database=True
    )
    body = b'{"role": "user", "content": "%s"}' % (b"x" * 4000)
    release = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield body[:3000]
        await release.wait()
        yield body[3000:]

    async with running(small, url) as app, client_of(app, key) as client:
        path = await new_conversation(client)
        headers = {"Content-Type": "application/json"}
        held = [
            asyncio.create_task(client.post(f"{path}/messages", content=slowly(), headers=headers)) for _ in range(2)
        ]
        await asyncio.sleep(0.1)
        check_unavailable(await client.post(f"{path}/messages", content=body, headers=headers))
        release.set()
        assert [(await answer).status_code for answer in held] == [201, 201]
        assert (await client.post(f"{path}/messages", content=body, headers=headers)).status_code == 201


async def test_a_body_has_its_own_time(url: DatabaseUrl, alice: AsyncClient) -> None:
    """Which is not that of its request."""
    key = alice.headers["Authorization"].split()[1]
    hurried = Settings(request_timeout_seconds=0.5, body_timeout_seconds=1.5, allow_unsafe_database=True)

    async def within(seconds: float) -> AsyncIterator[bytes]:
        for piece in (b'{"role": "user",', b'"content": "x"}'):
            await asyncio.sleep(seconds / 2)
            yield piece

    async with running(hurried, url) as app, client_of(app, key) as client:
        path = await new_conversation(client)
        headers = {"Content-Type": "application/json"}
        answer = await client.post(f"{path}/messages", content=within(1), headers=headers)
        assert answer.status_code == 201
        begun_at = time.perf_counter()
        answer = await client.post(f"{path}/messages", content=within(6), headers=headers)
        assert (answer.status_code, problem(answer), time.perf_counter() - begun_at < 2.5) == (
            408,
            "request-timeout",
            True,
        )


async def session_of(database: Database) -> int:
    """The server's process behind the connection that is given just now."""
    async with database.connection() as connection:
        return int(await connection.fetchval("SELECT pg_backend_pid()"))


async def test_a_connection_is_used_again_until_it_is_lost_or_idle_for_long(
    url: DatabaseUrl, settings: Settings, connection: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    if url.pooled:
        pytest.skip("which session it is is the pooler's choice")
    monkeypatch.setattr(database_module, "_IDLE_SECONDS", 0.2)
    database = Database(url, settings)
    await database.open()
    first = await session_of(database)
    assert {await session_of(database) for _ in range(5)} == {first}
    await connection.execute("SELECT pg_terminate_backend($1, 5000)", first)
    await asyncio.sleep(0.1)
    second = await session_of(database)
    assert second != first
    alive = "SELECT FROM pg_stat_activity WHERE pid = $1"
    async with asyncio.timeout(10):
        while await connection.fetch(alive, second):  # noqa: ASYNC110  # the server tells nobody
            await asyncio.sleep(0.05)
    third = await session_of(database)
    await database.close()
    assert await connection.fetch(alive, third) == []
