"""Events: what happens in a conversation, and in all of an owner's, told as it happens and after a gap."""

import asyncio
import sys
from asyncio import gather
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext
from types import FrameType
from typing import Any

import httpx
import pytest
from asyncpg.pool import PoolConnectionProxy
from jsonschema import Draft202012Validator
from msgspec.structs import replace

from app import auth, heads
from app.auth import Token
from app.clock import Clock
from app.database_url import DatabaseUrl
from app.errors import Unavailable
from app.heads import Follower, Heads
from app.queries import Conn
from app.settings import Settings
from app.stores import heads as stores_heads
from app.stores import service_keys
from app.streams import stream_events
from tests.conftest import NewKey, append, new_conversation, problem
from tests.live import Event, Replica, events_of, replica
from tests.model_server import Hang, ModelServer, Send, chunk, model_server
from tests.test_openapi import DOCUMENT

HOME = "/v1/conversations"
DATA = {
    name: schema
    for path in (f"{HOME}/{{conversation_id}}/events", "/v1/events")
    for name, schema in DOCUMENT["paths"][path]["get"]["responses"]["200"]["content"]["text/event-stream"][
        "x-events"
    ].items()
}


@pytest.fixture(autouse=True)
def model() -> Iterator[ModelServer]:
    with model_server() as server:
        yield server


@pytest.fixture
def settings(settings: Settings, model: ModelServer) -> Settings:
    return replace(settings, follow_seconds=0.1, model_base_url=model.url, model_name="m", reply_flush_seconds=0.02)


@pytest.fixture
async def here(settings: Settings, url: DatabaseUrl) -> AsyncIterator[Replica]:
    async with replica(settings, url) as made:
        yield made


@pytest.fixture
async def key(new_key: NewKey) -> str:
    return await new_key(user="alice")


@pytest.fixture
async def alice(here: Replica, key: str) -> AsyncIterator[httpx.AsyncClient]:
    async with here.client(key) as client:
        yield client


@pytest.fixture
async def bob(here: Replica, new_key: NewKey) -> AsyncIterator[httpx.AsyncClient]:
    async with here.client(await new_key(user="bob")) as client:
        yield client


@pytest.fixture(params=["here", "there"])
async def follower(
    request: pytest.FixtureRequest, key: str, alice: httpx.AsyncClient, settings: Settings, url: DatabaseUrl
) -> AsyncIterator[httpx.AsyncClient]:
    """Alice, who follows at the replica where things happen, or at another."""
    if request.param == "here":
        yield alice
        return
    async with replica(settings, url) as there, there.client(key) as client:
        yield client


@asynccontextmanager
async def following(client: httpx.AsyncClient, path: str, last_id: str | None = None) -> AsyncIterator["Stream"]:
    headers = {"Last-Event-ID": last_id} if last_id is not None else {}
    async with client.stream("GET", f"{path}/events", headers=headers) as answer:
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        yield Stream(answer)


class Stream:
    def __init__(self, answer: httpx.Response) -> None:
        self._events = events_of(answer)

    async def next(self) -> Event:
        async with asyncio.timeout(5):
            event = await anext(self._events)
        schema = {**DATA[event.name], "components": DOCUMENT["components"]}
        assert [error.message for error in Draft202012Validator(schema).iter_errors(event.data)] == []
        return event

    async def until(self, name: str) -> list[Event]:
        events = [await self.next()]
        while events[-1].name != name:
            events.append(await self.next())
        return events

    async def end(self) -> list[Event]:
        async with asyncio.timeout(5):
            return [event async for event in self._events]


async def version(client: httpx.AsyncClient, path: str) -> str:
    return (await client.get(path)).headers["ETag"].strip('"')


def told(events: list[Event]) -> list[tuple[str, Any]]:
    """What each event names: the content of a message, else what says which."""

    def what(data: dict[str, Any]) -> Any:
        return data.get("content") or data.get("text") or data.get("from_seq") or data.get("id")

    return [(event.name, what(event.data)) for event in events]


def state_after(events: list[Event]) -> dict[int, Any]:
    """The messages as one knows them who has heard these events."""
    messages: dict[int, Any] = {}
    for event in events:
        if event.name == "messages.deleted":
            deleted = range(event.data["from_seq"], event.data["through_seq"] + 1)
            messages = {seq: message for seq, message in messages.items() if seq not in deleted}
        else:
            messages[event.data["seq"]] = event.data
    return messages


# A conversation


async def test_a_new_message_is_told_as_it_is_listed(alice: httpx.AsyncClient, follower: httpx.AsyncClient) -> None:
    path = await new_conversation(alice, ["before"])
    async with following(follower, path) as stream:
        await append(alice, path, "one")
        await append(alice, path, "two", "three")
        events = [await stream.next() for _ in range(3)]
    assert [event.data for event in events] == (await alice.get(f"{path}/messages?after=1")).json()["data"]
    assert [(event.name, event.id) for event in events] == [("message.created", f"{seq}.0") for seq in (2, 3, 4)]


async def test_changes_are_told_in_their_order(alice: httpx.AsyncClient, follower: httpx.AsyncClient) -> None:
    path = await new_conversation(alice, ["one", "two", "three"])
    first = (await alice.get(f"{path}/messages?limit=1")).json()["data"][0]["id"]
    async with following(follower, path) as stream:
        await alice.patch(f"{path}/messages/{first}", json={"content": "ONE"})
        edited = await stream.next()
        await alice.delete(f"{path}/messages", params={"from_seq": 2})
        cut = await stream.next()
        await alice.post(f"{path}/messages/restore", json={"revision": 2})
        restored = [await stream.next(), await stream.next()]
        await alice.patch(path, json={"title": "Counting"})
        renamed = await stream.next()
        await alice.delete(path)
        gone = await stream.end()
    assert (told([edited]), edited.id) == ([("message.updated", "ONE")], "3.1")
    assert (cut.name, cut.id, cut.data) == ("messages.deleted", "3.2", {"from_seq": 2, "through_seq": 3, "revision": 2})
    assert told(restored) == [("message.updated", "two"), ("message.updated", "three")]
    assert [event.id for event in restored] == ["3.2", "3.3"]  # so that who is cut between them is told both again
    assert (renamed.name, renamed.id) == ("conversation.updated", "3.4")
    assert [event.name for event in gone] == ["conversation.deleted"]


async def test_who_comes_back_is_told_what_happened_meanwhile(
    alice: httpx.AsyncClient, follower: httpx.AsyncClient
) -> None:
    path = await new_conversation(alice, ["one", "two"])
    ids = [message["id"] for message in (await alice.get(f"{path}/messages")).json()["data"]]
    last_id = await version(alice, path)
    await append(alice, path, "three", "four", "five")
    await alice.patch(f"{path}/messages/{ids[0]}", json={"content": "ONE"})
    await alice.delete(f"{path}/messages/{ids[1]}")
    await append(alice, path, "six")
    await alice.delete(f"{path}/messages", params={"from_seq": 5})
    await alice.patch(path, json={"title": "x"})
    async with following(follower, path, last_id) as stream:
        events = await stream.until("conversation.updated")
    assert told(events) == [
        ("message.created", "three"),
        ("message.created", "four"),
        ("message.updated", "ONE"),
        ("messages.deleted", 2),
        ("messages.deleted", 5),
        ("conversation.updated", path.rpartition("/")[2]),
    ]
    assert events[-1].id == await version(alice, path) == "6.4"


async def test_each_event_is_a_place_to_go_on_from(alice: httpx.AsyncClient) -> None:
    path = await new_conversation(alice)
    await append(alice, path, *map(str, range(120)))
    for number in (3, 50, 119):
        client_id = (await alice.get(f"{path}/messages?after={number - 1}&limit=1")).json()["data"][0]["id"]
        await alice.patch(f"{path}/messages/{client_id}", json={"content": f"edited {number}"})
    await alice.delete(f"{path}/messages", params={"from_seq": 100})
    async with following(alice, path, "0.0") as stream:
        whole = await stream.until("messages.deleted")
    for place in (0, 1, 48, 49, 50, 97, 98):
        async with following(alice, path, whole[place].id) as stream:
            rest = await stream.until("messages.deleted")
        # An edit that its message was created with may be told again.
        assert [event for event in rest if event.name != "message.updated"] == whole[place + 1 :]
        assert state_after([*whole[: place + 1], *rest]) == state_after(whole)


async def test_a_created_message_is_not_told_again_for_an_earlier_edit(alice: httpx.AsyncClient) -> None:
    path = await new_conversation(alice, ["one"])
    first = (await alice.get(f"{path}/messages")).json()["data"][0]["id"]
    await alice.patch(f"{path}/messages/{first}", json={"content": "ONE"})
    async with following(alice, path, "0.0") as stream:
        await append(alice, path, "two")
        await asyncio.sleep(0.2)
        await append(alice, path, "three")
        assert told([await stream.next() for _ in range(3)]) == [
            ("message.created", each) for each in ("ONE", "two", "three")
        ]


async def test_a_reply_is_told_as_it_grows(
    alice: httpx.AsyncClient, follower: httpx.AsyncClient, model: ModelServer
) -> None:
    path = await new_conversation(alice)
    model.answers([Send(chunk({"content": "Once upon"})), Hang(), Send(chunk({"content": " a time"}, "stop"))])
    async with following(follower, path) as stream:
        request = {"messages": [{"role": "user", "content": "Tell."}]}
        asked = asyncio.create_task(alice.post(f"{path}/replies", json=request))
        assert told(await stream.until("reply.delta"))[-1] == ("reply.delta", "Once upon")
        async with following(alice, path) as late:
            assert told([await late.next()]) == [("reply.delta", "Once upon")]
        model.release()
        ended = (await stream.until("message.updated"))[-1]
        assert ended.data == (await asked).json()["message"]
    assert ended.data["content"] == "Once upon a time"


async def test_a_place_that_is_none_is_refused(alice: httpx.AsyncClient, bob: httpx.AsyncClient) -> None:
    path = await new_conversation(alice, ["one"])
    for last_id in ("x", "1", "1.", "-1.0", "2.0", "1.1", "1.0.0"):
        answer = await alice.get(f"{path}/events", headers={"Last-Event-ID": last_id})
        assert (answer.status_code, problem(answer)) == (400, "invalid-input"), last_id
    answer = await bob.get(f"{path}/events")
    assert (answer.status_code, problem(answer)) == (404, "not-found")


# An owner's conversations


async def test_all_that_happens_to_conversations_is_told(
    alice: httpx.AsyncClient, follower: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    async with following(follower, "/v1") as stream:
        path = await new_conversation(alice)
        await new_conversation(bob, ["nothing of Alice's"])
        versions = [(await stream.next()).data]
        for change in (
            append(alice, path, "one"),
            alice.patch(path, json={"title": "x"}),
            alice.patch(path, json={"archived": True}),
            append(alice, path, "two"),
            alice.delete(path),
            alice.post(f"{path}/restore"),
        ):
            await change
            versions.append((await stream.next()).data)
    name = path.rpartition("/")[2]
    assert versions == [
        {"id": name, "last_seq": last_seq, "revision": revision}
        for last_seq, revision in ((0, 0), (1, 0), (1, 1), (1, 2), (2, 2), (2, 3), (2, 4))
    ]


async def test_an_owner_who_comes_back_misses_nothing(alice: httpx.AsyncClient, connection: Conn) -> None:
    paths = [await new_conversation(alice, ["one"]) for _ in range(3)]
    async with following(alice, "/v1") as stream:
        seen = await stream.next()
    # Long ago; what happened since happened in between.
    await connection.execute(
        "UPDATE conversations SET updated_at = updated_at - interval '1 hour',"
        " active_at = date_trunc('minute', updated_at - interval '1 hour')"
    )
    await append(alice, paths[0], "two")
    await alice.patch(paths[1], json={"title": "x"})
    async with following(alice, "/v1", seen.id) as stream:
        ids = {(await stream.next()).data["id"], (await stream.next()).data["id"]}
    assert ids == {path.rpartition("/")[2] for path in paths[:2]}


async def test_an_owner_who_is_cut_off_while_being_told_is_told_the_rest(
    alice: httpx.AsyncClient, connection: Conn
) -> None:
    paths = [await new_conversation(alice, ["one"]) for _ in range(4)]
    before = await connection.fetchval("SELECT extract(epoch FROM now() - interval '1 day')")
    await connection.execute(
        "UPDATE conversations SET updated_at = updated_at - interval '1 hour',"
        " active_at = date_trunc('minute', updated_at - interval '1 hour')"
    )
    async with following(alice, "/v1", f"{before * 1_000_000:.0f}") as stream:
        events = [await stream.next() for _ in paths]
    assert sorted(event.data["id"] for event in events) == sorted(path.rpartition("/")[2] for path in paths)
    assert {event.id for event in events} == {None}  # who is cut off here comes again with the id of before


async def test_too_much_to_tell_is_said(alice: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("app.heads", "app.stores.heads", "app.controllers.events"):
        monkeypatch.setattr(f"{module}.TOLD_LIMIT", 2)
    for _ in range(4):
        await new_conversation(alice)
    async with following(alice, "/v1", "0") as stream:
        assert (await stream.next()).name == "conversations.missed"


# The stream itself


async def test_an_idle_stream_says_that_it_is_there(settings: Settings, url: DatabaseUrl, key: str) -> None:
    async with replica(replace(settings, heartbeat_seconds=0.05), url) as made, made.client(key) as client:
        path = await new_conversation(client)
        async with client.stream("GET", f"{path}/events") as answer:
            beats = 0
            async for line in answer.aiter_lines():
                beats += line == ":"
                if beats == 3:
                    break


async def test_a_stream_without_its_database_says_that_it_is_there_and_seldom_asks(
    settings: Settings, url: DatabaseUrl, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    async def get_head(*_: Any) -> Any:
        nonlocal looks
        looks += 1
        raise Unavailable

    async with replica(replace(settings, heartbeat_seconds=0.1), url) as made, made.client(key) as client:
        path = await new_conversation(client)
        async with client.stream("GET", f"{path}/events") as answer, asyncio.timeout(5):
            lines = answer.aiter_lines()
            assert (await anext(lines)).startswith("id: ")
            monkeypatch.setattr("app.controllers.events.get_head", get_head)
            await append(client, path, "one")
            for _ in range(5):
                while await anext(lines) != ":":
                    pass
    assert 1 <= looks <= 20


@pytest.mark.parametrize("path", ["/v1", HOME])
async def test_a_stream_ends_when_its_service_does_and_its_client_comes_again(
    here: Replica, alice: httpx.AsyncClient, path: str
) -> None:
    path = await new_conversation(alice) if path == HOME else path
    async with alice.stream("GET", f"{path}/events") as answer:
        here.drain.is_draining = True
        async with asyncio.timeout(2):
            assert [line async for line in answer.aiter_lines()][-2:] == ["retry: 1000", ""]


async def test_a_stream_ends_with_its_time(settings: Settings, url: DatabaseUrl, key: str) -> None:
    async with replica(replace(settings, stream_seconds=0.1), url) as made, made.client(key) as client:
        async with asyncio.timeout(2):
            lines = (await client.get("/v1/events")).text.splitlines()
    assert lines[-2:] == ["retry: 1000", ""]


async def test_a_revoked_key_follows_no_longer(
    alice: httpx.AsyncClient, key: str, connection: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "_CREDENTIAL_SECONDS", 0.1)
    monkeypatch.setattr(auth, "REVOCATION_SECONDS", 0.1)
    path = await new_conversation(alice)
    async with following(alice, path) as stream:
        await service_keys.revoke_service_key(connection, service_keys.prefix_of(key) or "")
        assert await stream.end() == []
    assert (await alice.get(path)).status_code == 401


async def test_of_many_followers_those_with_a_revoked_key_alone_are_ended(
    here: Replica, alice: httpx.AsyncClient, new_key: NewKey, connection: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "_CREDENTIAL_SECONDS", 0.1)
    other_key = await new_key(user="alice")
    path = await new_conversation(alice)
    async with (
        here.client(other_key) as other,
        following(alice, path) as stays,
        following(other, path) as goes,
        following(other, "/v1") as goes_too,
    ):
        await service_keys.revoke_service_key(connection, service_keys.prefix_of(other_key) or "")
        await goes.end()
        await goes_too.end()
        await append(alice, path, "one")
        assert told([await stays.next()]) == [("message.created", "one")]


async def test_followers_hold_no_connection(settings: Settings, url: DatabaseUrl, key: str, connection: Conn) -> None:
    async with replica(replace(settings, pool_size=2), url) as made, made.client(key) as client:
        paths = [await new_conversation(client) for _ in range(5)]
        streams = [following(client, path) for path in [*paths, *paths, "/v1"]]
        for stream in streams:
            await stream.__aenter__()
        for path in paths:
            assert (await append(client, path, "one")).status_code == 201
        sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state <> 'idle'"
        async with asyncio.timeout(5):
            while await connection.fetchval(sessions) > 1:  # noqa: ASYNC110  # the last of the looks, and of the poller's
                await asyncio.sleep(0.01)
        for stream in streams:
            await stream.__aexit__(None, None, None)


async def test_many_who_are_woken_at_once_leave_others_their_connections(
    settings: Settings, url: DatabaseUrl, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking = most = 0

    async def get_head(*arguments: Any) -> Any:
        nonlocal looking, most
        looking += 1
        most = max(most, looking)
        try:
            await asyncio.sleep(0.02)
        finally:
            looking -= 1
        return await stores_heads.get_head(*arguments)

    async with replica(replace(settings, pool_size=8), url) as made, made.client(key) as client:
        path = await new_conversation(client)
        async with AsyncExitStack() as stack:
            streams = [await stack.enter_async_context(following(client, path)) for _ in range(12)]
            monkeypatch.setattr("app.controllers.events.get_head", get_head)
            await append(client, path, "one")
            assert [told([await stream.next()]) for stream in streams] == [[("message.created", "one")]] * 12
    assert most == 2


async def test_an_owner_who_writes_much_is_looked_at_for_many_writes_at_once(
    settings: Settings, url: DatabaseUrl, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    async def list_changed_conversations(*arguments: Any) -> Any:
        nonlocal looks
        looks += 1
        return await stores_heads.list_changed_conversations(*arguments)

    async with replica(replace(settings, follow_seconds=60), url) as made, made.client(key) as client:
        path = await new_conversation(client)
        monkeypatch.setattr(heads, "list_changed_conversations", list_changed_conversations)
        async with following(client, "/v1") as stream:
            begun_at = asyncio.get_running_loop().time()
            for number in range(60):
                await append(client, path, str(number))
            most = (asyncio.get_running_loop().time() - begun_at) / heads.GATHER_SECONDS + 2
            while (await stream.next()).data["last_seq"] < 60:
                pass
    assert looks <= most


async def test_idle_followers_cost_one_statement_a_look(
    settings: Settings, url: DatabaseUrl, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    statements: list[str] = []

    async def list_moved_heads(connection: Conn, followed: stores_heads.Followed) -> Any:
        looks.append(len(followed.keys))
        return await stores_heads.list_moved_heads(connection, followed)

    async with replica(settings, url) as made, made.client(key) as client, AsyncExitStack() as stack:
        for _ in range(30):
            await stack.enter_async_context(following(client, await new_conversation(client)))
        await asyncio.sleep(0.3)
        monkeypatch.setattr(heads, "list_moved_heads", list_moved_heads)
        for method in ("fetch", "fetchrow"):
            inner = getattr(PoolConnectionProxy, method)

            async def counted(self: Any, query: str, *rest: Any, inner: Any = inner, **options: Any) -> Any:
                statements.append(query)
                return await inner(self, query, *rest, **options)

            monkeypatch.setattr(PoolConnectionProxy, method, counted)
        await asyncio.sleep(1)
    assert set(looks[:3]) == {30}
    assert len(statements) <= 1 / settings.follow_seconds + 2  # a look each time, and the sweep for replies


@asynccontextmanager
async def open_streams(made: Replica, key: str, *heads: str) -> AsyncIterator[list[asyncio.StreamReader]]:
    """Streams, by paths and further headers, of clients that take no time and no timer of the loop."""
    host, _, port = made.address.removeprefix("http://").partition(":")
    async with AsyncExitStack() as stack:
        streams = []
        for head in heads:
            path, _, header = head.partition(" ")
            reader, writer = await asyncio.open_connection(host, int(port))
            stack.callback(writer.close)
            lines = [f"GET {path}/events HTTP/1.1", "Host: x", f"Authorization: Bearer {key}", header or "Accept: */*"]
            writer.write("\r\n".join([*lines, "", ""]).encode())
            assert b" 200 " in await reader.readline()
            await reader.readuntil(b"\nid: ")
            streams.append(reader)
        yield streams


@contextmanager
def steps_of_looks(monkeypatch: pytest.MonkeyPatch) -> Iterator[asyncio.Queue[int]]:
    """How many Python functions begin in this thread from each look at the heads to the next."""
    found: asyncio.Queue[int] = asyncio.Queue()
    steps = 0

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal steps
        steps += event == "call"

    async def list_moved_heads(*arguments: Any) -> Any:
        nonlocal steps
        found.put_nowait(steps)
        steps = 0
        return await stores_heads.list_moved_heads(*arguments)

    monkeypatch.setattr(heads, "list_moved_heads", list_moved_heads)
    sys.setprofile(count)
    try:
        yield found
    finally:
        sys.setprofile(None)


async def test_looking_for_many_idle_followers_takes_no_more_steps_than_for_few(
    settings: Settings, url: DatabaseUrl, new_key: NewKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, user = await new_key(), "X-User-Id: alice"
    async with (
        replica(replace(settings, follow_seconds=0.5), url) as made,  # every other time only replies that grow
        made.client(key, **{"X-User-Id": "alice"}) as client,
    ):
        followed = [f"{await new_conversation(client)} {user}" for _ in range(100)]
        owners = [f"/v1 {user}-{number}" for number in range(100)]
        async with open_streams(made, key, *followed[:5], *owners[:5]):
            with steps_of_looks(monkeypatch) as steps:
                few = min([await steps.get() for _ in range(5)][1:])
            async with open_streams(made, key, *followed[5:], *owners[5:]):
                with steps_of_looks(monkeypatch) as steps:
                    async with asyncio.timeout(15):  # until all have found that there is nothing
                        while not 0 < await steps.get() < few + 50:
                            pass


async def test_heartbeats_share_their_timers_and_need_no_tasks(settings: Settings, url: DatabaseUrl, key: str) -> None:
    timers = tasks = 0
    loop = asyncio.get_running_loop()
    call_at = loop.call_at

    def counted_call_at(*arguments: Any, **options: Any) -> asyncio.TimerHandle:
        nonlocal timers
        timers += 1
        return call_at(*arguments, **options)

    def counted_task(_loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
        nonlocal tasks
        tasks += 1
        return asyncio.Task(work, loop=loop, **options)

    async with replica(replace(settings, heartbeat_seconds=0.5), url) as made, made.client(key) as client:
        path = await new_conversation(client)
        async with open_streams(made, key, *[path, "/v1"] * 50) as streams:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(loop, "call_at", counted_call_at)
                loop.set_task_factory(counted_task)
                for _ in range(3):
                    for stream in streams:
                        await stream.readuntil(b":\n\n")
                loop.set_task_factory(None)
    assert timers < 150  # of 300 heartbeats: the server's own, ten a second, and one for each look
    assert tasks < 10


@pytest.mark.parametrize("is_away", [False, True])
async def test_heartbeats_come_in_time_however_long_it_takes_to_look(settings: Settings, *, is_away: bool) -> None:
    often, turn, clock = replace(settings, heartbeat_seconds=1.0), asyncio.Semaphore(2), Clock()

    async def silence_seconds() -> float:
        follower = Follower(Token(""), turn, clock, set())
        looks = iter([0.0, *[0.3 if is_away else 0.8] * 99])

        async def look() -> tuple[list[bytes], bool]:
            await asyncio.sleep(seconds := next(looks))
            if is_away and seconds:
                raise Unavailable
            return [], False

        loop = asyncio.get_running_loop()
        loop.call_later(0.1, follower.wake)
        stream = stream_events(nullcontext(follower), lambda _: look, often)
        begun_at = loop.time()
        await anext(stream)
        await stream.aclose()
        return loop.time() - begun_at

    silences = await gather(*(silence_seconds() for _ in range(30 if is_away else 2)))
    assert max(silences) < 1.5  # one that is under way is waited for


async def test_owners_who_have_left_are_forgotten(
    settings: Settings, url: DatabaseUrl, new_key: NewKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Heads] = []
    monkeypatch.setattr("app.main.Heads", lambda *arguments: made.append(Heads(*arguments)) or made[-1])
    key = await new_key()
    async with replica(settings, url) as here:
        for number in range(8):
            user = {"X-User-Id": f"user-{number}"}
            async with here.client(key, **user) as client, client.stream("GET", "/v1/events") as stream:
                await new_conversation(client)
                await anext(events_of(stream))
        for _ in range(50):
            await asyncio.sleep(0.1)
            if not made[0]._owners and len(made[0]._told_owners) <= 1:
                break
        else:
            pytest.fail("some are remembered")


async def test_a_database_that_comes_back_is_followed_again(
    alice: httpx.AsyncClient, follower: httpx.AsyncClient, connection: Conn
) -> None:
    path = await new_conversation(alice)
    async with following(follower, path) as stream:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        # One session may be found dead only by using it: that is a 503, and the client's to repeat.
        answer = await append(alice, path, "one", **{"Idempotency-Key": "one"})
        while answer.status_code == 503:
            await asyncio.sleep(0.05)
            answer = await append(alice, path, "one", **{"Idempotency-Key": "one"})
        assert answer.status_code == 201
        assert told([await stream.next()]) == [("message.created", "one")]
