"""What was said comes back byte for byte; what cannot be kept so is refused, and its place named."""

import re
from collections.abc import AsyncIterator
from itertools import count

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw, Struct, json

from app.database import connect
from app.embedded import EmbeddedServer
from app.queries import Conn
from app.settings import Settings
from app.stores import service_keys
from tests.conftest import TEMPLATE, client_of, problem, run_sql, running
from tests.corpus import CONTAINERS, DEEPEST, ESCAPED, KEPT, LONG, REFUSED, json_texts

HOME = "/v1/conversations"
JSON = {"Content-Type": "application/json"}
PAYLOADS = ("content", "tool_calls", "audio_files", "function_calls", "usage", "metadata")
CALLS = ("tool_calls", "audio_files", "function_calls")
LARGE = 16_000
NO_TEXTS = [name for name, value in KEPT.items() if len(value) < LARGE and value[:1] != b'"']

_numbers = count(1)


class KeptMessage(Struct):
    """A message as it is answered, its payloads as the bytes that came."""

    content: Raw
    tool_calls: Raw
    audio_files: Raw
    function_calls: Raw
    usage: Raw
    metadata: Raw

    @property
    def payloads(self) -> dict[str, bytes]:
        payloads = {name: bytes(getattr(self, name)) for name in PAYLOADS}
        return {name: payload for name, payload in payloads.items() if payload != b"null"}


class KeptPage(Struct):
    data: list[KeptMessage]
    next_cursor: str | None


class KeptConversation(Struct):
    metadata: Raw


class Place(Struct):
    id: str


class Places(Struct):
    messages: list[Place]


class World(Struct):
    """A service of this module's own: nothing is deleted from it between tests."""

    client: httpx.AsyncClient
    connection: Conn
    conversation: str

    async def send(self, method: str, path: str, body: bytes, **headers: str) -> httpx.Response:
        return await self.client.request(method, path, content=body, headers=JSON | headers)


@pytest.fixture(scope="module")
async def world(template: EmbeddedServer) -> AsyncIterator[World]:
    run_sql(template.url(), "CREATE DATABASE fidelity TEMPLATE {} STRATEGY FILE_COPY", TEMPLATE)
    connection = await connect(template.url("fidelity"), 5)
    key = service_keys.new_key()
    await service_keys.create_service_key(connection, key, "acme", "alice", is_admin=False)
    async with running(Settings(), template.url("fidelity")) as app, client_of(app, key) as client:
        made = await client.post(HOME, json={"messages": [{"role": "user", "content": "x", "client_id": "edited"}]})
        yield World(client, connection, made.headers["Location"])
    await connection.close()
    run_sql(template.url(), "DROP DATABASE fidelity WITH (FORCE)")


def payloads_of(value: bytes) -> dict[str, bytes]:
    """The value in every payload: as it is where it may stand so, else inside the least that may."""
    is_object, is_array, is_string = (value[:1] == mark for mark in (b"{", b"[", b'"'))
    payloads = {
        "content": value if is_string else parts_of(value),
        "tool_calls": value if is_object or is_array else b"[%b]" % value,
        "audio_files": b'{ "a" :\n%b}' % value,
        "function_calls": b"[%b ,\t%b]" % (value, value),
        "usage": value if is_object else b'{"\\u0076":%b}' % value,
        "metadata": value if is_object else b'{"v":0,"v":%b}' % value,
    }
    return payloads if len(value) < LARGE else {name: payloads[name] for name in ("content", "tool_calls")}


def parts_of(value: bytes) -> bytes:
    return b'[{"type":"text", "text":%b}]' % value


def members_of(payloads: dict[str, bytes]) -> bytes:
    return b",".join(b'"%b": %b' % (name.encode(), payload) for name, payload in payloads.items())


def message_of(payloads: dict[str, bytes]) -> bytes:
    return b'{"role":"assistant",%b}' % members_of(payloads)


async def page_through(world: World, path: str, order: str) -> list[KeptMessage]:
    """All messages in the order of their seqs, read in this order."""
    kept: list[KeptMessage] = []
    params = {"order": order, "limit": "200"}
    while True:
        answer = await world.client.get(f"{path}/messages", params=params)
        page = json.decode(answer.content, type=KeptPage)
        kept += page.data
        if page.next_cursor is None:
            return kept if order == "asc" else kept[::-1]
        params["after" if order == "asc" else "before"] = page.next_cursor


@pytest.mark.parametrize("name", KEPT)
async def test_a_message_comes_back_as_it_came(world: World, name: str) -> None:
    payloads = payloads_of(KEPT[name])
    body, key = message_of(payloads), f"message-{next(_numbers)}"
    path = f"{world.conversation}/messages"
    made = await world.send("POST", path, body, **{"Idempotency-Key": key})
    again = await world.send("POST", path, body, **{"Idempotency-Key": key})
    assert (made.status_code, again.status_code) == (201, 200), made.text[:300]
    assert again.content == made.content
    (place,) = json.decode(made.content, type=Places).messages
    kept = await world.client.get(f"{path}/{place.id}")
    assert json.decode(kept.content, type=KeptMessage).payloads == payloads


async def test_edited_messages_come_back_as_they_came(world: World) -> None:
    path = f"{world.conversation}/messages/edited"
    for name in [*NO_TEXTS, *(f"string: {name}" for name in ESCAPED | LONG)]:
        payloads = payloads_of(KEPT[name])
        payloads.pop("audio_files", None)  # they are not edited
        nulls = dict.fromkeys((name for name in PAYLOADS if name != "audio_files"), b"null")
        edited = await world.send("PATCH", path, b"{%b}" % members_of(nulls | payloads))
        assert (name, json.decode(edited.content, type=KeptMessage).payloads) == (name, payloads)


async def test_metadata_of_conversations_comes_back_as_it_came(world: World) -> None:
    for name in NO_TEXTS:
        metadata = payloads_of(KEPT[name])["metadata"]
        changed = await world.send("PATCH", world.conversation, b'{"metadata":%b}' % metadata)
        assert (name, bytes(json.decode(changed.content, type=KeptConversation).metadata)) == (name, metadata)


async def test_metadata_is_the_same_in_every_answer(world: World) -> None:
    metadata = CONTAINERS["three duplicates and one between"]
    made = await world.send("POST", HOME, b'{"metadata" : %b }' % metadata)
    path = made.headers["Location"]
    reads = [made, await world.client.get(path), await world.client.post(f"{path}/fork")]
    found = [bytes(json.decode(answer.content, type=KeptConversation).metadata) for answer in reads]
    assert found == [metadata] * 3
    assert (await world.client.get(HOME, params={"limit": 1})).content.count(metadata) == 1


async def test_a_conversation_and_its_fork_come_back_as_they_came(world: World) -> None:
    sent = [{"content": parts_of(value)} for value in KEPT.values()]
    sent += [payloads_of(value) for value in KEPT.values() if len(value) < LARGE]
    made = await world.send("POST", HOME, b'{"messages":[%b]}' % b" ,\n".join(map(message_of, sent)))
    assert made.status_code == 201, made.text[:300]
    fork = await world.client.post(f"{made.headers['Location']}/fork")
    for path in (made.headers["Location"], fork.headers["Location"]):
        for order in ("asc", "desc"):
            assert [message.payloads for message in await page_through(world, path, order)] == sent


async def test_a_batch_is_replayed_as_it_came(world: World) -> None:
    path = (await world.client.post(HOME)).headers["Location"]
    sent = [payloads_of(value) for value in KEPT.values() if len(value) < LARGE]
    body = b'{"messages":[%b]}' % b",".join(map(message_of, sent))
    answers = [await world.send("POST", f"{path}/messages", body, **{"Idempotency-Key": "batch"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 200]
    assert answers[0].content == answers[1].content
    assert [message.payloads for message in await page_through(world, path, "asc")] == sent


@pytest.mark.parametrize("name", DEEPEST)
@pytest.mark.parametrize("member", CALLS)
async def test_a_payload_may_be_64_deep(world: World, member: str, name: str) -> None:
    payloads = {"content": b'""', member: DEEPEST[name]}
    path = (await world.client.post(HOME)).headers["Location"]
    body = b'{"messages":[%b,%b]}' % (message_of(payloads), message_of(payloads))
    assert (await world.send("POST", f"{path}/messages", body)).status_code == 201
    assert [message.payloads for message in await page_through(world, path, "asc")] == [payloads] * 2


@given(texts=st.lists(json_texts, min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
async def test_any_json_comes_back_as_it_came(world: World, texts: list[str]) -> None:
    sent = [payloads_of(text.encode()) for text in texts]
    path = (await world.client.post(HOME)).headers["Location"]
    made = await world.send("POST", f"{path}/messages", b'{"messages":[%b]}' % b",".join(map(message_of, sent)))
    assert made.status_code == 201, made.text
    assert [message.payloads for message in await page_through(world, path, "asc")] == sent


REFUSING = [
    ("POST", "/messages", b'{"role":"user","content":<>}'),
    ("POST", "/messages", b'{"role":"user","content":[{"type":"text","text":<>}]}'),
    ("POST", "/messages", b'{"role":"user","content":[{"type":"text"},{"type":"text","more":[null,<>]}]}'),
    *(("POST", "/messages", b'{"role":"user","content":"x","%b":{"v":<>}}' % name.encode()) for name in PAYLOADS[1:]),
    ("POST", "/messages", b'{"messages":[{"role":"user","content":"x"},{"role":"user","content":<>}]}'),
    ("PATCH", "/messages/edited", b'{"tool_calls":[{"v":<>}]}'),
    ("PATCH", "", b'{"metadata":{"v":<>}}'),
    ("POST", HOME, b'{"metadata":{"v":<>}}'),
    ("POST", HOME, b'{"messages":[{"role":"user","content":"x"},{"role":"tool","function_calls":{"v":<>}}]}'),
    ("PUT", f"{HOME}/by-key/k", b'{"title":"x","metadata":{"v":<>}}'),
]


async def stored(world: World) -> object:
    """What changes with every write."""
    return await world.connection.fetchrow(
        "SELECT count(*), sum(last_seq), sum(revision), max(updated_at) FROM conversations"
    )


@pytest.mark.parametrize("name", REFUSED)
async def test_what_cannot_be_kept_is_refused_where_it_stands(world: World, name: str) -> None:
    before, text = await stored(world), REFUSED[name]
    for method, path, template in REFUSING:
        start, body = template.index(b"<>"), template.replace(b"<>", text)
        answer = await world.send(method, path if path.startswith(HOME) else world.conversation + path, body)
        assert (answer.status_code, problem(answer)) == (400, "invalid-input"), body[:300]
        (flaw,) = answer.json()["errors"]
        place = re.search(r"byte (\d+)", flaw["message"])
        end = len(body) if name.startswith("malformed") else start + len(text)
        assert start <= int(place[1]) <= end if place else flaw["pointer"] and name.startswith("too deep"), flaw
    assert await stored(world) == before
