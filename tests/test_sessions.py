"""The sessions door: as its clients see it, and as the other doors see what came in by it."""

import asyncio
import re
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any
from uuid import UUID

import httpx
import pytest
from litestar import Litestar
from msgspec import Raw, Struct
from msgspec import json as msgspec_json
from msgspec.structs import replace

from app.database import connect
from app.database_url import DatabaseUrl
from app.doors import sessions
from app.embedded import EmbeddedServer
from app.errors import Unavailable
from app.identifiers import owner_id_of
from app.migrations import migrate
from app.pages import PAGE_LIMIT_BYTES
from app.queries import Conn
from app.settings import Settings
from app.stores import messages as message_store
from app.stores import service_keys
from tests.conftest import TEMPLATE, NewKey, client_of, new_conversation, problem, run_sql, running
from tests.corpus import EMOJI, ESCAPED, LONG
from tests.live import replica
from tests.model_server import (
    DONE,
    Hang,
    ModelServer,
    Send,
    Step,
    call_steps,
    chunk,
    model_server,
    status_steps,
    text_steps,
)
from tests.postmasters import started_postmaster
from tests.processes import Service, serving, text_of

JSON = {"Content-Type": "application/json"}
_numbers = count(1)
UNKNOWN = "0192a4c8-7c1e-7d3a-9f00-3f1c5a2b7e11"


class KeptTurn(Struct):
    response: Raw
    query: Raw
    audio_files: Raw
    audio_provided: bool
    session_id: str


class KeptEntry(Struct):
    role: str
    content: Raw
    audio_files: Raw
    function_calls: Raw
    metadata: Raw


class KeptHistory(Struct):
    session_id: str
    history: list[KeptEntry]


class KeptMessage(Struct):
    content: Raw
    tool_calls: Raw
    audio_files: Raw
    function_calls: Raw
    metadata: Raw


class KeptPage(Struct):
    data: list[KeptMessage]


@pytest.fixture(scope="module")
def shared_model() -> Iterator[ModelServer]:
    with model_server() as server:
        yield server


@pytest.fixture
def model(shared_model: ModelServer) -> Iterator[ModelServer]:
    shared_model.requests.clear()
    yield shared_model
    assert not shared_model._scripts, "the test queued more than was asked for"
    shared_model.release()
    shared_model._released = asyncio.Event()


class World(Struct):
    """A service of this module's own, in which each test has users of its own."""

    app: Litestar
    connection: Conn

    @asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        key = service_keys.new_key()
        await service_keys.create_service_key(self.connection, key, "acme", f"user-{next(_numbers)}", is_admin=False)
        async with client_of(self.app, key) as client:
            yield client


@pytest.fixture(scope="module")
async def world(template: EmbeddedServer, shared_model: ModelServer) -> AsyncIterator[World]:
    run_sql(template.url(), "CREATE DATABASE sessions TEMPLATE {} STRATEGY FILE_COPY", TEMPLATE)
    connection = await connect(template.url("sessions"), 5)
    settings = Settings(
        model_base_url=shared_model.url,
        model_name="scripted",
        model_context_tokens=10_000_000,
        request_timeout_seconds=60,
        acquire_timeout_seconds=20,
        allow_unsafe_database=True,
    )
    async with running(settings, template.url("sessions")) as app:
        yield World(app, connection)
    await connection.close()
    run_sql(template.url(), "DROP DATABASE sessions WITH (FORCE)")


@pytest.fixture
async def alice(world: World, model: ModelServer) -> AsyncIterator[httpx.AsyncClient]:  # noqa: ARG001  # it answers her
    async with world.client() as client:
        yield client


@pytest.fixture
async def bob(world: World) -> AsyncIterator[httpx.AsyncClient]:
    async with world.client() as client:
        yield client


async def say(client: httpx.AsyncClient, query: str, session_id: str | None = None, **headers: str) -> Any:
    body = {"query": query} if session_id is None else {"query": query, "session_id": session_id}
    answer = await client.post("/chat", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def history(client: httpx.AsyncClient, session_id: str) -> list[dict[str, Any]]:
    answer = await client.get(f"/chat/history/{session_id}")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["session_id"] == session_id
    return answer.json()["history"]


async def texts(client: httpx.AsyncClient, session_id: str) -> list[str]:
    return [entry["content"] for entry in await history(client, session_id)]


async def native(client: httpx.AsyncClient, session_id: str) -> list[dict[str, Any]]:
    answer = await client.get(f"/v1/conversations/{session_id}/messages", params={"limit": 1000})
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


async def asked(model: ModelServer, count: int) -> None:
    """Returns when the model has been asked so often."""
    while len(model.requests) < count:  # noqa: ASYNC110  # it lives in another thread
        await asyncio.sleep(0.01)


async def counted(client: httpx.AsyncClient, session_id: str) -> dict[str, Any]:
    answer = await client.get("/chat/status", params={"session_id": session_id})
    assert answer.status_code == 200, answer.text
    return answer.json()


# Turns


async def test_a_turn_without_a_session_begins_one(alice: httpx.AsyncClient, model: ModelServer) -> None:
    model.answers(text_steps("A ", "burrito."))
    told = await say(alice, "What is a monad?")
    session_id = told.pop("session_id")
    assert UUID(session_id).version == 7
    assert told == {
        "response": "A burrito.",
        "query": "What is a monad?",
        "audio_files": [],
        "audio_provided": False,
        "conversation_length": 2,
    }
    assert await texts(alice, session_id) == ["What is a monad?", "A burrito."]


async def test_a_session_goes_on_where_it_was(alice: httpx.AsyncClient, model: ModelServer) -> None:
    model.answers(text_steps("one"), text_steps("two"))
    session_id = (await say(alice, "1"))["session_id"]
    told = await say(alice, "2", session_id)
    assert (told["session_id"], told["response"], told["conversation_length"]) == (session_id, "two", 4)
    shown = [(message["role"], message["content"]) for message in model.requests[-1].json["messages"]]
    assert shown == [("user", "1"), ("assistant", "one"), ("user", "2")]


async def test_a_null_session_begins_one(alice: httpx.AsyncClient) -> None:
    answer = await alice.post("/chat", json={"query": "1", "session_id": None, "audio_files": None, "metadata": None})
    assert answer.json()["audio_files"] == []
    ((user, _),) = [await history(alice, answer.json()["session_id"])]
    assert (user["audio_files"], user["function_calls"], user["metadata"]) == ([], [], {})
    assert (await native(alice, answer.json()["session_id"]))[0]["metadata"] is None


async def test_members_that_the_door_does_not_know_are_ignored(alice: httpx.AsyncClient) -> None:
    body = b'{"temperature":0.7,"a \\"quoted\\" name":{"x":[1e400]},"query":"1","user":{"id":1}}'
    answer = await alice.post("/chat", content=body, headers=JSON)
    assert answer.status_code == 200, answer.text


async def test_what_comes_along_is_kept_on_the_message_as_it_came(alice: httpx.AsyncClient) -> None:
    payloads = {
        "audio_files": b'[{"url": "a.ogg", "url":1e400}]',
        "function_calls": b'{"name" : "f"}',
        "metadata": b'{"b":1,"a":[ ]}',
    }
    members = ",".join(f'"{name}": {payload.decode()}' for name, payload in payloads.items())
    answer = await alice.post("/chat", content=f'{{"query":"1",{members}}}'.encode(), headers=JSON)
    turn = msgspec_json.decode(answer.content, type=KeptTurn)
    assert (bytes(turn.audio_files), turn.audio_provided) == (payloads["audio_files"], True)
    told = await alice.get(f"/chat/history/{turn.session_id}")
    page = await alice.get(f"/v1/conversations/{turn.session_id}/messages")
    entry = msgspec_json.decode(told.content, type=KeptHistory).history[0]
    message = msgspec_json.decode(page.content, type=KeptPage).data[0]
    assert {name: bytes(getattr(entry, name)) for name in payloads} == payloads
    assert {name: bytes(getattr(message, name)) for name in payloads} == payloads


@pytest.mark.parametrize("audio_files", ["[]", "[ ]", "{}"])
async def test_an_empty_list_of_audio_files_is_none(alice: httpx.AsyncClient, audio_files: str) -> None:
    body = f'{{"query":"1","audio_files":{audio_files}}}'.encode()
    assert (await alice.post("/chat", content=body, headers=JSON)).json()["audio_provided"] is False


SAID = {"short ones": [EMOJI["a family"], *ESCAPED.values()]} | {name: [text] for name, text in LONG.items()}
SAID["a megabyte of escapes"] = ["é😀\\u0000\\ud83d\\ude00/" * 50_000]


@pytest.mark.parametrize("name", SAID)
async def test_queries_come_back_as_the_bytes_that_came(alice: httpx.AsyncClient, name: str) -> None:
    said = [f'"{text}"'.encode() for text in SAID[name]]
    session = b""
    for query in said:
        answer = await alice.post("/chat", content=b'{"query": %b%b}' % (query, session), headers=JSON)
        assert answer.status_code == 200, answer.text[:200]
        turn = msgspec_json.decode(answer.content, type=KeptTurn)
        assert bytes(turn.query) == query
        session = b',"session_id":"%b"' % turn.session_id.encode()
    told = await alice.get(f"/chat/history/{turn.session_id}")
    page = await alice.get(f"/v1/conversations/{turn.session_id}/messages?limit=1000")
    entries = msgspec_json.decode(told.content, type=KeptHistory).history
    messages = msgspec_json.decode(page.content, type=KeptPage).data
    assert [bytes(entry.content) for entry in entries[::2]] == said
    assert [bytes(message.content) for message in messages[::2]] == said


async def test_a_turn_that_the_model_cuts_off_is_answered_as_usual(
    alice: httpx.AsyncClient, model: ModelServer
) -> None:
    model.answers(text_steps("A mo", reason="length"))
    told = await say(alice, "1")
    assert told["response"] == "A mo"
    assert (await native(alice, told["session_id"]))[1]["status"] == "incomplete"


async def test_the_model_s_tool_calls_are_shown_as_function_calls(alice: httpx.AsyncClient, model: ModelServer) -> None:
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    model.answers(call_steps(call))
    told = await say(alice, "1")
    assert told["response"] == ""
    _, entry = await history(alice, told["session_id"])
    assert entry["content"] == ""
    assert entry["function_calls"] == (await native(alice, told["session_id"]))[1]["tool_calls"]
    assert entry["function_calls"][0]["function"] == {"name": "f", "arguments": '{"x": 1}'}


FAILURES: dict[str, tuple[int, list[Step]]] = {
    "model-refused": (422, status_steps(400)),
    "model-failed": (502, [Send(chunk({"content": "A mo"})), Send(b"data: nonsense\n\n" + DONE)]),
    "model-unavailable": (503, status_steps(429, 3600)),
}


@pytest.mark.parametrize("name", FAILURES)
async def test_a_failed_reply_is_a_problem_and_both_messages_stay(
    alice: httpx.AsyncClient, model: ModelServer, name: str
) -> None:
    session_id = (await say(alice, "1"))["session_id"]
    status, script = FAILURES[name]
    model.answers(script)
    answer = await alice.post("/chat", json={"query": "2", "session_id": session_id})
    assert (answer.status_code, problem(answer)) == (status, name)
    assert "is kept" in answer.json()["detail"]
    assert [message["status"] for message in await native(alice, session_id)][2:] == ["completed", "failed"]
    assert (await texts(alice, session_id))[2] == "2"
    assert (await say(alice, "3", session_id))["conversation_length"] == 6


async def test_a_second_turn_at_once_is_a_conflict(alice: httpx.AsyncClient, model: ModelServer) -> None:
    session_id = (await say(alice, "1"))["session_id"]
    model.answers([Send(chunk({"content": "two"})), Hang(), Send(chunk(finish_reason="stop") + DONE)])
    first = asyncio.create_task(say(alice, "2", session_id))
    await asked(model, 2)
    answer = await alice.post("/chat", json={"query": "3", "session_id": session_id})
    assert (answer.status_code, problem(answer)) == (409, "reply-in-progress")
    assert answer.json()["detail"]
    loaded = (await alice.post("/chat/load-session", params={"session_id": session_id})).json()
    assert await texts(alice, session_id) == [entry["content"] for entry in loaded["history"]]
    assert [entry["content"] for entry in loaded["history"]][::2] == ["1", "2"]
    assert len(loaded["history"]) == 3
    model.release()
    assert (await first)["response"] == "two"
    assert (await texts(alice, session_id))[2:] == ["2", "two"]


# Which session


@pytest.mark.parametrize("ask", ["turn", "history", "load", "status", "reset"])
async def test_a_session_that_is_not_the_caller_s_is_none(
    alice: httpx.AsyncClient, bob: httpx.AsyncClient, ask: str
) -> None:
    foreign = (await say(bob, "1"))["session_id"]
    before = await native(bob, foreign)

    async def answer(session_id: str) -> httpx.Response:
        headers, query = {"x-request-id": "the-same"}, {"session_id": session_id}
        match ask:
            case "turn":
                return await alice.post("/chat", json={"query": "x", **query}, headers=headers)
            case "history":
                return await alice.get(f"/chat/history/{session_id}", headers=headers)
            case "load":
                return await alice.post("/chat/load-session", params=query, headers=headers)
            case "status":
                return await alice.get("/chat/status", params=query, headers=headers)
        return await alice.post("/chat/reset", params=query, headers=headers)

    answers = [await answer(session_id) for session_id in (UNKNOWN, foreign, foreign.upper(), "nonsense")]
    assert {(each.status_code, problem(each)) for each in answers} == {(404, "not-found")}
    assert answers[0].json()["detail"] == "There is no such session."
    assert len({each.content for each in answers}) == 1
    assert await native(bob, foreign) == before
    assert (await alice.get("/v1/conversations")).json()["data"] == []


@pytest.mark.parametrize(("method", "path"), [("GET", "status"), ("POST", "load-session"), ("POST", "reset")])
async def test_a_session_must_be_named(alice: httpx.AsyncClient, method: str, path: str) -> None:
    answer = await alice.request(method, f"/chat/{path}")
    assert (answer.status_code, problem(answer)) == (400, "invalid-input")
    assert answer.json()["errors"] == [{"parameter": "session_id", "message": "is required"}]


async def test_every_problem_has_a_detail_to_show(alice: httpx.AsyncClient) -> None:
    answer = await alice.get("/chat/status", headers={"Authorization": "Bearer nonsense"})
    assert problem(answer) == "invalid-credentials"
    assert answer.json()["detail"] == "The request carries no valid credentials."


# Repeated requests


@pytest.mark.parametrize("is_new", [True, False])
async def test_a_turn_sent_twice_with_one_key_is_made_once(
    alice: httpx.AsyncClient, model: ModelServer, *, is_new: bool
) -> None:
    session = {} if is_new else {"session_id": (await say(alice, "before"))["session_id"]}
    asked_before, key = len(model.requests), {"Idempotency-Key": "turn-1"}
    first, again = [await alice.post("/chat", json={"query": "1", **session}, headers=key) for _ in range(2)]
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.content == again.content
    assert "idempotent-replay" not in first.headers
    assert again.headers["idempotent-replay"] == "true"
    assert len(model.requests) == asked_before + 1
    assert (await counted(alice, first.json()["session_id"]))["message_count"] == (2 if is_new else 4)
    assert len((await alice.get("/v1/conversations")).json()["data"]) == 1
    other = await alice.post("/chat", json={"query": "2", **session}, headers=key)
    assert (other.status_code, problem(other)) == (422, "idempotency-key-reused")
    assert other.json()["detail"]


async def test_a_repeated_turn_joins_the_reply_that_is_being_made(alice: httpx.AsyncClient, model: ModelServer) -> None:
    model.answers([Send(chunk({"content": "one"})), Hang(), Send(chunk(finish_reason="stop") + DONE)])
    turns = [asyncio.create_task(say(alice, "1", **{"Idempotency-Key": "k"})) for _ in range(4)]
    await asked(model, 1)
    await asyncio.sleep(0.05)
    model.release()
    told = await asyncio.gather(*turns)
    assert told == [told[0]] * 4
    assert len(model.requests) == 1
    assert await texts(alice, told[0]["session_id"]) == ["1", "one"]


async def test_a_key_of_the_door_is_not_one_of_another_operation(alice: httpx.AsyncClient) -> None:
    key = {"Idempotency-Key": "k"}
    made = (await alice.post("/v1/conversations", json={"title": "x"}, headers=key)).json()
    told = await say(alice, "1", **key)
    assert told["session_id"] != made["id"]
    body = b'{"query": "1"}'
    home = f"/v1/conversations/{told['session_id']}/replies"
    answer = await alice.post(home, content=body.replace(b'"query": "1"', b""), headers=JSON | key)
    assert problem(answer) == "idempotency-key-reused"


async def test_each_turn_without_a_key_is_one_of_its_own(alice: httpx.AsyncClient) -> None:
    sessions = {(await say(alice, "1"))["session_id"] for _ in range(2)}
    assert len(sessions) == 2


# History


CONTENTS: dict[str, tuple[dict[str, object], str, object]] = {
    "text": ({"content": "a"}, "a", []),
    "parts": (
        {"content": [{"type": "text", "text": "a\0"}, {"type": "image_url"}, {"type": "output_text", "text": '"b'}]},
        'a\0"b',
        [],
    ),
    "no text": ({"content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "", []),
    "no parts": ({"content": [], "function_calls": []}, "", []),
    "calls": ({"content": None, "tool_calls": [{"id": "c"}]}, "", [{"id": "c"}]),
    "both calls": ({"tool_calls": [{"id": "c"}], "function_calls": {"name": "f"}}, "", {"name": "f"}),
}


@pytest.mark.parametrize("name", CONTENTS)
async def test_messages_of_other_doors_read_sensibly(alice: httpx.AsyncClient, name: str) -> None:
    members, text, calls = CONTENTS[name]
    message = {"role": "assistant", "audio_files": [1], "metadata": {"m": 1}, **members}
    home = await new_conversation(alice, messages=[message])
    session_id = home.rpartition("/")[2]
    (kept,) = await native(alice, session_id)
    assert await history(alice, session_id) == [
        {
            "message_id": kept["id"],
            "role": "assistant",
            "content": text,
            "timestamp": kept["created_at"],
            "audio_files": [1],
            "function_calls": calls,
            "metadata": {"m": 1},
        }
    ]


async def test_a_conversation_is_one_through_every_door(alice: httpx.AsyncClient, model: ModelServer) -> None:
    home = await new_conversation(alice, ["native"])
    session_id = home.rpartition("/")[2]
    model.answers(text_steps("by the door"), text_steps("natively"))
    await say(alice, "session", session_id)
    await alice.post(f"{home}/replies", json={"messages": [{"role": "user", "content": "native again"}]})
    said = ["native", "session", "by the door", "native again", "natively"]
    assert await texts(alice, session_id) == said
    assert [message["content"] for message in await native(alice, session_id)] == said
    context = (await alice.get(f"{home}/context", params={"format": "openai"})).json()
    roles = ("user", "user", "assistant", "user", "assistant")
    assert [(each["role"], each["content"]) for each in context["messages"]] == [*zip(roles, said, strict=True)]


async def test_a_history_of_many_pages_is_whole(alice: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "_PAGE_SIZE", 3)
    home = await new_conversation(alice, [f"{number}" for number in range(20)])
    unfinished = [{"role": "assistant", "content": "no", "status": "in_progress"}] * 4
    await alice.post(f"{home}/messages", json={"messages": [*unfinished, {"role": "user", "content": "last"}]})
    for seq in (1, 5, 6, 7, 20):
        await alice.delete(f"{home}/messages/{(await native(alice, home.rpartition('/')[2]))[0]['id'][:-10]}{seq:010x}")
    kept = [message for message in await native(alice, home.rpartition("/")[2]) if message["content"] != "no"]
    assert len(kept) == 16
    told = await history(alice, home.rpartition("/")[2])
    assert [(each["message_id"], each["content"]) for each in told] == [(each["id"], each["content"]) for each in kept]


async def test_a_session_without_messages_has_an_empty_history(alice: httpx.AsyncClient) -> None:
    session_id = (await new_conversation(alice)).rpartition("/")[2]
    assert await history(alice, session_id) == []
    loaded = (await alice.post("/chat/load-session", params={"session_id": session_id})).json()
    assert (loaded["history"], loaded["has_more"], loaded["message_count"]) == ([], False, 0)


@pytest.mark.parametrize("failure", ["the database", "the conversation"])
async def test_a_history_that_ends_too_early_breaks_its_connection(
    settings: Settings, url: DatabaseUrl, new_key: NewKey, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    monkeypatch.setattr(sessions, "_PAGE_SIZE", 3)
    async with replica(settings, url) as service, service.client(await new_key(user="alice")) as client:
        home = await new_conversation(client, [f"{number}" for number in range(10)])

        async def fail(*arguments: Any) -> Any:
            if arguments[-1].after:
                if failure == "the database":
                    raise Unavailable
                await client.delete(home)
            return await message_store.list_messages(*arguments)

        monkeypatch.setattr(sessions, "list_messages", fail)
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(f"/chat/history/{home.rpartition('/')[2]}")


async def test_a_history_that_nobody_reads_holds_no_connection(
    settings: Settings, url: DatabaseUrl, new_key: NewKey
) -> None:
    one = replace(settings, pool_size=1, acquire_timeout_seconds=3)
    async with replica(one, url) as service, service.client(await new_key(user="alice")) as client:
        home = await new_conversation(client)
        session_id = home.rpartition("/")[2]
        for _ in range(3):
            batch = [{"role": "user", "content": "x" * PAGE_LIMIT_BYTES}]
            await client.post(f"{home}/messages", json={"messages": batch})
        async with client.stream("GET", f"/chat/history/{session_id}") as slow:
            assert slow.status_code == 200
            await asyncio.sleep(0.3)
            for _ in range(3):
                assert (await counted(client, session_id))["message_count"] == 3
            size = sum([len(piece) async for piece in slow.aiter_bytes()])
        assert size > 3 * PAGE_LIMIT_BYTES


# Load, status, reset


async def test_a_loaded_session_shows_its_newest_messages(alice: httpx.AsyncClient) -> None:
    home = await new_conversation(alice, [f"{number}" for number in range(60)])
    session_id = home.rpartition("/")[2]
    loaded = (await alice.post("/chat/load-session", params={"session_id": session_id})).json()
    assert loaded["history"] == (await history(alice, session_id))[10:]
    assert loaded["has_more"]
    status = await counted(alice, session_id)
    assert status.items() <= loaded.items()
    await alice.delete(f"{home}/messages?from_seq=51")
    loaded = (await alice.post("/chat/load-session", params={"session_id": session_id})).json()
    assert (len(loaded["history"]), loaded["has_more"]) == (50, False)


async def test_a_status_counts_what_is_in_a_session(alice: httpx.AsyncClient) -> None:
    roles = ["system", "user", "assistant", "tool", "tool", "assistant", "user"]
    home = await new_conversation(alice, messages=[{"role": role, "content": role} for role in roles])
    await alice.delete(f"{home}/messages?from_seq=7")
    conversation = (await alice.get(home)).json()
    status = await counted(alice, conversation["id"])
    assert status.pop("duration_seconds") >= 0
    assert status == {
        "session_id": conversation["id"],
        "is_active": True,
        "created_at": conversation["created_at"],
        "updated_at": conversation["updated_at"],
        "message_count": 6,
        "user_messages": 1,
        "assistant_messages": 2,
        "tool_messages": 2,
        "last_seq": 7,
        "revision": 1,
    }
    await alice.patch(home, json={"archived": True})
    assert (await counted(alice, conversation["id"]))["is_active"] is False


@pytest.mark.parametrize("is_active", [True, False])
async def test_a_reset_takes_the_messages_out_and_can_be_undone(alice: httpx.AsyncClient, *, is_active: bool) -> None:
    session_id = (await say(alice, "1"))["session_id"]
    home = f"/v1/conversations/{session_id}"
    await alice.patch(home, json={"archived": not is_active})
    before = await history(alice, session_id)
    reset = (await alice.post("/chat/reset", params={"session_id": session_id})).json()
    revision = reset.pop("revision")
    assert reset == {"session_id": session_id, "is_active": is_active, "message_count": 0, "last_seq": 2}
    assert await history(alice, session_id) == []
    told = await say(alice, "2", session_id)
    assert (told["conversation_length"], (await native(alice, session_id))[0]["seq"]) == (2, 3)
    await alice.post(f"{home}/messages/restore", json={"revision": revision})
    assert (await history(alice, session_id))[:2] == before
    assert (await counted(alice, session_id))["message_count"] == 4


# As a whole


class ChatClient:
    """A client of a session-style backend: it knows a URL and, since it is let in here, a header."""

    def __init__(self, url: str, key: str) -> None:
        self.url, self.headers = url, {"Authorization": f"Bearer {key}"}
        self.session_id: str | None = None

    def chat(self, query: str) -> str:
        body = {"query": query, "session_id": self.session_id}
        answer = self._ask("POST", "/chat", json=body)
        self.session_id = answer["session_id"]
        return answer["response"]

    def load(self, session_id: str) -> list[dict[str, Any]]:
        answer = self._ask("POST", "/chat/load-session", params={"session_id": session_id})
        self.session_id = answer["session_id"]
        return answer["history"]

    def history(self) -> list[dict[str, Any]]:
        return self._ask("GET", f"/chat/history/{self.session_id}")["history"]

    def status(self) -> dict[str, Any]:
        return self._ask("GET", "/chat/status", params={"session_id": self.session_id})

    def reset(self) -> dict[str, Any]:
        return self._ask("POST", "/chat/reset", params={"session_id": self.session_id})

    def _ask(self, method: str, path: str, **request: Any) -> Any:
        answer = httpx.request(method, f"{self.url}{path}", headers=self.headers, timeout=30, **request)
        if answer.status_code != 200:
            raise RuntimeError(answer.json()["detail"])
        return answer.json()


def contents(entries: list[dict[str, Any]]) -> list[str]:
    return [entry["content"] for entry in entries]


async def prepared(url: DatabaseUrl) -> str:
    """A key to a database, which is migrated."""
    migrate(url)
    connection, key = await connect(url, 5), service_keys.new_key()
    await service_keys.create_service_key(connection, key, "acme", "alice", is_admin=False)
    await connection.close()
    return key


@pytest.mark.faults
async def test_a_user_returns_after_everything_was_killed(model: ModelServer) -> None:
    model.answers(*(text_steps(f"answer {number}") for number in range(1, 6)))
    first_turns = [text for number in (1, 2, 3) for text in (f"question {number}", f"answer {number}")]
    with started_postmaster(fsync="off") as postmaster:
        place = {"DATABASE_URL": text_of(postmaster.url())}
        place |= {"VERBATIM_MODEL_BASE_URL": model.url, "VERBATIM_MODEL_NAME": "scripted"}
        key = await prepared(postmaster.url())
        with serving(**place) as service:
            client = ChatClient(service.wait_for_address(), key)
            assert [client.chat(question) for question in first_turns[::2]] == first_turns[1::2]
            session_id = client.session_id or ""
            service.stop(signal.SIGKILL)
        postmaster.kill()
        postmaster.start()
        with serving(**place) as service:
            client = ChatClient(service.wait_for_address(), key)
            with pytest.raises(RuntimeError, match=r"^There is no such session\.$"):
                client.load(UNKNOWN)
            assert contents(client.load(session_id)) == first_turns
            assert client.chat("question 4") == "answer 4"
            status = client.status()
            assert (status["message_count"], status["user_messages"], status["is_active"]) == (8, 4, True)
            before = client.history()
            reset = client.reset()
            assert client.history() == []
            assert client.chat("question 5") == "answer 5"
            assert contents(client.history()) == ["question 5", "answer 5"]
            check_natively(service, key, session_id, contents(before), reset["revision"])
            service.stop()


def check_natively(service: Service, key: str, session_id: str, said_before: list[str], revision: int) -> None:
    """The conversation as the native API has it: after the reset, and with what it took out."""
    home = f"{service.wait_for_address()}/v1/conversations/{session_id}"
    with httpx.Client(headers={"Authorization": f"Bearer {key}"}) as client:
        now = client.get(f"{home}/messages").json()["data"]
        assert [(each["seq"], each["role"], each["content"]) for each in now] == [
            (9, "user", "question 5"),
            (10, "assistant", "answer 5"),
        ]
        assert client.post(f"{home}/messages/restore", json={"revision": revision}).status_code == 200
        everything = client.get(f"{home}/messages").json()["data"]
        assert [each["content"] for each in everything] == [*said_before, "question 5", "answer 5"]


@pytest.mark.faults
async def test_a_history_of_100_000_messages_takes_no_more_memory_than_a_page(
    url: DatabaseUrl, connection: Conn, new_key: NewKey
) -> None:
    key = await new_key(user="alice")
    with serving(DATABASE_URL=text_of(url), VERBATIM_ALLOW_UNSAFE_DATABASE=1) as service:
        headers = {"Authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(base_url=service.wait_for_address(), headers=headers, timeout=60) as client:
            home = await new_conversation(client, ["x"])
            session_id = home.rpartition("/")[2]
            await history(client, session_id)
            await connection.execute(FILL, owner_id_of("acme", "alice"), UUID(session_id), 100_000)
            peak_before = peak_kilobytes(service)
            begun_at, sizes, last = perf_counter(), [], b""
            async for piece in pieces(client, session_id):
                sizes.append(len(piece))
                last = piece
            assert last.endswith(b"]}")
            assert sum(sizes) > 20_000_000
            grown = peak_kilobytes(service) - peak_before
            print(f"grew by {grown} kB over {sum(sizes)} bytes in {perf_counter() - begun_at:.1f} s")
            assert grown < 20_000


FILL = """INSERT INTO messages (owner_id, conversation_id, seq, role, status, content, body_bytes, created_at)
SELECT $1, $2, n, 'user', 'completed', to_json('message ' || n || repeat(' and so on', 5)), 70, now()
FROM generate_series(2, $3) AS n"""


async def pieces(client: httpx.AsyncClient, session_id: str) -> AsyncIterator[bytes]:
    async with client.stream("GET", f"/chat/history/{session_id}") as answer:
        async for piece in answer.aiter_bytes():
            yield piece


def peak_kilobytes(service: Service) -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{service.process.pid}/status").read_text())
    assert found
    return int(found[1])
