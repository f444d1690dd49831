"""Replies: asked for, made, kept as they grow, followed and ended, on one replica or another."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from app.database_url import DatabaseUrl
from app.errors import Unavailable
from app.queries import Conn
from app.settings import Settings
from tests.conftest import NewKey, append, contents, new_conversation, problem
from tests.live import Replica, events_of, read_events, replica
from tests.model_server import (
    Drop,
    Hang,
    ModelServer,
    Send,
    Wait,
    call_steps,
    chunk,
    completion,
    json_steps,
    model_server,
    status_steps,
    text_steps,
)

EVENTS = {"Accept": "text/event-stream"}


@pytest.fixture
def model() -> Iterator[ModelServer]:
    with model_server() as server:
        yield server


@pytest.fixture
def settings(settings: Settings, model: ModelServer) -> Settings:
    return replace(
        settings,
        model_base_url=model.url,
        model_name="scripted",
        model_timeout_seconds=5,
        reply_flush_seconds=0.02,
        reply_lease_seconds=1.5,
        follow_seconds=0.1,
    )


@pytest.fixture
async def here(settings: Settings, url: DatabaseUrl) -> AsyncIterator[Replica]:
    async with replica(settings, url) as made:
        yield made


@pytest.fixture
async def there(settings: Settings, url: DatabaseUrl) -> AsyncIterator[Replica]:
    """Another replica on the same database."""
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
async def elsewhere(there: Replica, key: str) -> AsyncIterator[httpx.AsyncClient]:
    """Alice, at the other replica."""
    async with there.client(key) as client:
        yield client


def asking(*texts: str, **members: object) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text} for text in texts], **members}


async def ask(client: httpx.AsyncClient, path: str, *texts: str, **members: object) -> dict[str, Any]:
    answer = await client.post(f"{path}/replies", json=asking(*texts, **members))
    assert answer.status_code == 201, answer.text
    return answer.json()


async def begin(client: httpx.AsyncClient, path: str, *texts: str, **headers: str) -> str:
    """The path of a reply that has begun, whose first client has left."""
    request = {"json": asking(*texts), "headers": {**EVENTS, **headers}}
    async with client.stream("POST", f"{path}/replies", **request) as answer:
        async for event in events_of(answer):
            if event.name == "reply.delta":
                return f"{path}/replies/{event.data['message_id']}"
    raise AssertionError("nothing was said")


def joined(events: list[Any]) -> str:
    """The text of the deltas, each of which begins where the one before it ended."""
    text = ""
    for event in events:
        if event.name == "reply.delta":
            assert event.data["from_char"] == len(text)
            text += event.data["text"]
            assert event.id == str(len(text))
    return text


async def message(client: httpx.AsyncClient, reply: str) -> dict[str, Any]:
    conversation, _, message_id = reply.partition("/replies/")
    return (await client.get(f"{conversation}/messages/{message_id}")).json()


# What is asked, and what comes of it


async def test_a_reply_is_a_message_behind_what_was_asked(alice: httpx.AsyncClient, model: ModelServer) -> None:
    path = await new_conversation(alice, ["Hello."])
    model.answers(text_steps("A mo", "nad is", " a monoid.", usage={"prompt_tokens": 7, "completion_tokens": 5}))
    reply = await ask(alice, path, "What is a monad?")
    made = reply["message"]
    assert [item["seq"] for item in reply["messages"]] == [2]
    assert (made["seq"], made["role"], made["status"]) == (3, "assistant", "completed")
    assert (made["content"], made["model"]) == ("A monad is a monoid.", "scripted-1")
    assert made["usage"] == {"prompt_tokens": 7, "completion_tokens": 5}
    assert (reply["finish_reason"], reply["problem"]) == ("stop", None)
    assert made == await message(alice, f"{path}/replies/{made['id']}")
    stats = (await alice.get(f"{path}/stats")).json()
    assert (stats["input_tokens"], stats["output_tokens"], stats["message_count"]) == (7, 5, 3)


async def test_the_model_is_asked_with_the_conversation_as_its_context(
    alice: httpx.AsyncClient, model: ModelServer
) -> None:
    path = await new_conversation(alice, ["Hello."])
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    await ask(alice, path, "One?", "Two?", instructions="Be brief.", tools=tools, max_output_tokens=9)
    (request,) = model.requests
    assert [(item["role"], item["content"]) for item in request.json["messages"]] == [
        ("system", "Be brief."),
        ("user", "Hello."),
        ("user", "One?"),
        ("user", "Two?"),
    ]
    assert request.json["tools"] == tools
    assert (request.json["model"], request.json["max_tokens"]) == ("scripted", 9)
    assert request.path.endswith("/chat/completions")


async def test_tool_calls_are_kept_and_their_results_go_on(alice: httpx.AsyncClient, model: ModelServer) -> None:
    path = await new_conversation(alice)
    head = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "add", "arguments": ""}}
    arguments = '{"a": 1e400,\n "b": "\\u0000"}'
    parts = [{"index": 0, "function": {"arguments": part}} for part in (arguments[:9], arguments[9:])]
    model.answers(call_steps(head, *parts), text_steps("Three."))
    first = await ask(alice, path, "Add.")
    (call,) = first["message"]["tool_calls"]
    assert (call["id"], call["function"]) == ("call_1", {"name": "add", "arguments": arguments})
    assert (first["message"]["content"], first["finish_reason"]) == (None, "tool_calls")
    result = {"role": "tool", "tool_call_id": "call_1", "content": "3"}
    answer = await alice.post(f"{path}/replies", json={"messages": [result]})
    assert answer.json()["message"]["content"] == "Three."
    assert model.requests[1].json["messages"][1]["tool_calls"] == [call]
    assert model.requests[1].json["messages"][2]["content"] == "3"


@pytest.mark.parametrize(
    ("script", "status", "reason", "text"),
    [
        (text_steps("Too lo", reason="length"), "incomplete", "length", "Too lo"),
        (text_steps("I", reason="content_filter"), "incomplete", "filter", "I"),
        ([Send(chunk({"content": "Half"})), Drop()], "failed", "model-failed", "Half"),
        ([Send(chunk({"content": "Half"})), Send(b"data: {not json\n\n")], "failed", "model-failed", "Half"),
        (status_steps(429, "3000"), "failed", "model-unavailable", ""),
        (status_steps(400), "failed", "model-refused", ""),
        (json_steps(completion("Whole.")), "completed", "stop", "Whole."),
        (text_steps("\ud83d", "\ude00", "\u0000 e\u0301"), "completed", "stop", "\U0001f600\u0000 e\u0301"),
    ],
)  # fmt: skip
async def test_a_reply_ends_as_the_model_did(
    alice: httpx.AsyncClient, model: ModelServer, script: list[Any], status: str, reason: str, text: str
) -> None:
    path = await new_conversation(alice)
    model.answers(script)
    reply = await ask(alice, path, "Well?")
    assert (reply["message"]["status"], reply["finish_reason"]) == (status, reason)
    assert reply["message"]["content"] == text
    assert (reply["problem"] or {}).get("type", "").endswith(reason) == (status == "failed")
    assert await contents(alice, path) == ["Well?", text]
    assert (await ask(alice, path, "And now?"))["message"]["status"] == "completed"


async def test_what_is_larger_than_the_context_is_refused_by_the_reply(
    settings: Settings, url: DatabaseUrl, key: str, model: ModelServer
) -> None:
    async with replica(replace(settings, model_context_tokens=50), url) as small, small.client(key) as client:
        path = await new_conversation(client)
        reply = await ask(client, path, "word " * 100)
    assert (reply["message"]["status"], reply["finish_reason"]) == ("failed", "context-exceeded")
    assert model.requests == []


async def test_a_model_that_never_ends_is_ended(
    settings: Settings, url: DatabaseUrl, key: str, model: ModelServer
) -> None:
    model.answers([Send(chunk({"content": "Once"})), Hang()])
    async with replica(replace(settings, reply_timeout_seconds=0.3), url) as hasty, hasty.client(key) as client:
        reply = await ask(client, await new_conversation(client), "Tell.")
    assert (reply["message"]["status"], reply["finish_reason"]) == ("incomplete", "timeout")
    assert reply["message"]["content"] == "Once"


async def test_bad_input_begins_no_reply(alice: httpx.AsyncClient, model: ModelServer) -> None:
    path = await new_conversation(alice)
    bodies = [asking("x", unknown=1), {"messages": [{"role": "bard", "content": "x"}]}, {"tools": "x"}, []]
    bodies += [{"max_output_tokens": 0}, {"tools": {}}, {"tool_choice": []}, {"instructions": 1}, {}]
    bodies += [asking("x", tools=[json.loads("[" * 64 + "]" * 64)])]
    for body in bodies:
        answer = await alice.post(f"{path}/replies", json=body)
        assert (answer.status_code, problem(answer)) == (400, "invalid-input"), body
    assert await contents(alice, path) == []
    assert model.requests == []


# Once


async def test_a_repeated_request_joins_its_reply(alice: httpx.AsyncClient, model: ModelServer) -> None:
    path = await new_conversation(alice)
    model.answers(text_steps("One", " two", " three", delay_seconds=0.05))
    request = {"json": asking("Count."), "headers": {"Idempotency-Key": "once"}}
    answers = await asyncio.gather(*(alice.post(f"{path}/replies", **request) for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 200, 201]
    assert len({answer.text for answer in answers}) == 1
    later = await alice.post(f"{path}/replies", **request)
    assert (later.status_code, later.headers["Idempotent-Replay"], later.json()) == (200, "true", answers[0].json())
    assert len(model.requests) == 1
    assert await contents(alice, path) == ["Count.", "One two three"]


async def test_a_key_belongs_to_one_request(alice: httpx.AsyncClient) -> None:
    path = await new_conversation(alice)
    keyed = {"Idempotency-Key": "once"}
    first = await alice.post(f"{path}/replies", json=asking("One."), headers=keyed)
    for way, body in (("replies", asking("Two.")), ("messages", asking("One."))):
        again = await alice.post(f"{path}/{way}", json=body, headers=keyed)
        assert (again.status_code, problem(again)) == (422, "idempotency-key-reused")
    assert (await alice.get(path)).json()["last_seq"] == first.json()["message"]["seq"] == 2


async def test_one_reply_at_a_time(alice: httpx.AsyncClient, elsewhere: httpx.AsyncClient, model: ModelServer) -> None:
    path = await new_conversation(alice)
    model.answers([Send(chunk({"content": "Wait"})), Hang()])
    reply = await begin(alice, path, "Well?")
    for client in (alice, elsewhere):
        second = await client.post(f"{path}/replies", json=asking("Hello?"))
        assert (second.status_code, problem(second)) == (409, "reply-in-progress")
        assert second.json()["message_id"] == reply.rpartition("/")[2]
    edit = await alice.patch(reply.replace("/replies/", "/messages/"), json={"content": "mine"})
    assert (edit.status_code, problem(edit)) == (409, "reply-in-progress")
    assert (await append(alice, path, "Meanwhile.")).status_code == 201
    assert await contents(alice, path) == ["Well?", "", "Meanwhile."]
    model.release()


async def test_an_expected_head_holds_for_a_reply_too(alice: httpx.AsyncClient) -> None:
    path = await new_conversation(alice, ["Hello."])
    stale = await alice.post(f"{path}/replies", json=asking("x"), headers={"If-Match": '"0"'})
    assert (stale.status_code, problem(stale)) == (412, "precondition-failed")
    good = await alice.post(f"{path}/replies", json=asking("x"), headers={"If-Match": '"1.0"'})
    assert (good.status_code, good.headers["ETag"]) == (201, '"3.1"')


# Followed


async def test_the_events_of_a_reply_are_its_text(alice: httpx.AsyncClient, model: ModelServer) -> None:
    path = await new_conversation(alice)
    model.answers(text_steps(*("wörd \U0001f600 " for _ in range(20)), delay_seconds=0.01))
    events = await read_events(alice, f"{path}/replies", method="POST", json=asking("Go."))
    assert (events[0].name, events[0].data["message"]["status"]) == ("reply.created", "in_progress")
    assert (events[-1].name, events[-1].id, events[-1].data["finish_reason"]) == ("reply.ended", "end", "stop")
    assert len(events) > 4
    assert joined(events) == events[-1].data["message"]["content"] == "wörd \U0001f600 " * 20


@pytest.mark.parametrize("is_ended", [False, True])
async def test_a_reply_goes_on_from_any_character_on_any_replica(
    alice: httpx.AsyncClient, elsewhere: httpx.AsyncClient, model: ModelServer, *, is_ended: bool
) -> None:
    text = "".join(f"{number} \U0001f600 " for number in range(30))
    pieces = [text[place : place + 7] for place in range(0, len(text), 7)]
    model.answers(text_steps(*pieces, delay_seconds=0.0 if is_ended else 0.02))
    reply = await begin(alice, await new_conversation(alice), "Go.")
    if is_ended:
        await read_events(alice, f"{reply}/events")
    for place in (0, 1, 9, 50, len(text)):
        events = await read_events(elsewhere, f"{reply}/events", str(place))
        rest = "".join(event.data["text"] for event in events if event.name == "reply.delta")
        assert rest == text[place:]
        assert events[-1].data["message"]["content"] == text
    behind = await elsewhere.get(f"{reply}/events", headers={"Last-Event-ID": "end"})
    assert behind.status_code == 204


async def test_a_client_that_leaves_loses_nothing(
    alice: httpx.AsyncClient, elsewhere: httpx.AsyncClient, model: ModelServer
) -> None:
    path = await new_conversation(alice)
    model.answers(text_steps(*"abcdefghij", delay_seconds=0.02))
    reply = await begin(alice, path, "Spell.")
    assert joined(await read_events(elsewhere, f"{reply}/events")) == "abcdefghij"
    assert await contents(alice, path) == ["Spell.", "abcdefghij"]


async def test_what_is_shown_is_kept(alice: httpx.AsyncClient, model: ModelServer, connection: Conn) -> None:
    path = await new_conversation(alice)
    model.answers(text_steps(*"abcdefghijklmnop", delay_seconds=0.02))
    shown = ""
    async with alice.stream("POST", f"{path}/replies", json=asking("Go."), headers=EVENTS) as answer:
        async for event in events_of(answer):
            if event.name == "reply.delta":
                shown += event.data["text"]
                kept = await connection.fetch("SELECT text FROM reply_chunks ORDER BY from_char")
                whole = "".join(json.loads(bytes(row["text"])) for row in kept)
                assert whole.startswith(shown) or not kept
    assert shown == "abcdefghijklmnop"
    assert await connection.fetchval("SELECT count(*) FROM reply_chunks") == 0


async def test_no_event_has_this_id(alice: httpx.AsyncClient) -> None:
    path = await new_conversation(alice)
    reply = await ask(alice, path, "Hello.")
    for last_id in ("x", "-1", "1.0", "01", "9" * 13):
        answer = await alice.get(f"{path}/replies/{reply['message']['id']}/events", headers={"Last-Event-ID": last_id})
        assert (answer.status_code, problem(answer)) == (400, "invalid-input")
    asked = reply["messages"][0]["id"]
    answer = await alice.get(f"{path}/replies/{asked}/events")
    assert (answer.status_code, problem(answer)) == (404, "not-found")


# Ended


async def test_a_reply_is_cancelled_from_any_replica(
    alice: httpx.AsyncClient, elsewhere: httpx.AsyncClient, model: ModelServer
) -> None:
    path = await new_conversation(alice)
    model.answers([Send(chunk({"content": "I shall "})), Hang()])
    reply = await begin(alice, path, "Go.")
    following = asyncio.create_task(read_events(alice, f"{reply}/events"))
    cancelled = (await elsewhere.post(f"{reply}/cancel")).json()
    assert (cancelled["message"]["status"], cancelled["message"]["content"]) == ("cancelled", "I shall ")
    assert (await following)[-1].data["finish_reason"] == "cancelled"
    assert (await alice.post(f"{reply}/cancel")).json() == cancelled
    for _ in range(100):
        if model.open_count == 0:
            break
        await asyncio.sleep(0.05)
    assert model.open_count == 0
    assert (await ask(elsewhere, path, "Go on."))["message"]["status"] == "completed"


async def test_a_reply_that_is_not_renewed_is_ended_by_another_replica(
    alice: httpx.AsyncClient, elsewhere: httpx.AsyncClient, model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cut_off(*_: object) -> bool:
        raise Unavailable

    path = await new_conversation(alice)
    model.answers([Send(chunk({"content": "I shall "})), Hang()])
    reply = await begin(alice, path, "Go.")
    monkeypatch.setattr("app.writers.keep_reply", cut_off)
    async with asyncio.timeout(3):  # a lease of 1.5 s, and a look every 0.3 s
        events = await read_events(elsewhere, f"{reply}/events")
    assert (events[-1].data["finish_reason"], events[-1].data["message"]["status"]) == ("lost", "incomplete")
    assert joined(events) == events[-1].data["message"]["content"] == "I shall "
    model.release()


async def test_a_truncated_reply_comes_back_as_it_was_cut(alice: httpx.AsyncClient, model: ModelServer) -> None:
    path = await new_conversation(alice)
    model.answers([Send(chunk({"content": "I shall "})), Hang()])
    reply = await begin(alice, path, "Go.")
    cut = (await alice.delete(f"{path}/messages", params={"from_seq": 1})).json()
    assert cut["revision"] == 2  # the reply's end was a change of its own
    assert (await ask(alice, path, "Anew."))["message"]["status"] == "completed"
    gone = await alice.get(f"{reply}/events")
    assert (gone.status_code, problem(gone), gone.json()["detail"]) == (404, "not-found", "the reply is deleted")
    await alice.post(f"{path}/messages/restore", json={"revision": cut["revision"]})
    back = await message(alice, reply)
    assert (back["status"], back["content"]) == ("cancelled", "I shall ")


async def test_a_deleted_conversation_ends_its_reply(
    alice: httpx.AsyncClient, model: ModelServer, connection: Conn
) -> None:
    path = await new_conversation(alice)
    model.answers([Send(chunk({"content": "I shall "})), Hang()])
    reply = await begin(alice, path, "Go.")
    async with alice.stream("GET", f"{reply}/events") as answer:
        events = events_of(answer)
        assert (await anext(events)).name == "reply.delta"
        await alice.delete(path)
        assert [event.name async for event in events] == ["reply.deleted"]
    async with asyncio.timeout(5):
        while await connection.fetchval("SELECT ended_at FROM replies") is None:  # noqa: ASYNC110  # another process's doing
            await asyncio.sleep(0.05)
    await alice.post(f"{path}/restore")
    assert (await message(alice, reply))["content"] == "I shall "


async def test_a_purged_conversation_ends_its_reply(
    alice: httpx.AsyncClient, model: ModelServer, connection: Conn
) -> None:
    path = await new_conversation(alice)
    model.answers([Send(chunk({"content": "I shall "})), Hang()])
    await begin(alice, path, "Go.")
    await alice.delete(path, params={"purge": "true"})
    for table in ("replies", "reply_chunks", "messages"):
        assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0
    async with asyncio.timeout(5):
        while model.open_count:  # noqa: ASYNC110  # another thread's doing
            await asyncio.sleep(0.05)


async def test_a_fork_has_no_reply_in_progress(alice: httpx.AsyncClient, model: ModelServer) -> None:
    path = await new_conversation(alice)
    model.answers([Send(chunk({"content": "I shall "})), Hang()])
    await begin(alice, path, "Go.")
    fork = (await alice.post(f"{path}/fork")).headers["Location"]
    assert [item["status"] for item in (await alice.get(f"{fork}/messages")).json()["data"]] == [
        "completed",
        "incomplete",
    ]
    assert (await ask(alice, fork, "Go on."))["message"]["status"] == "completed"


async def test_what_a_fork_has_copied_is_no_reply_to_repeat(alice: httpx.AsyncClient) -> None:
    path = await new_conversation(alice)
    request = {"messages": [{"role": "user", "content": "Why?", "client_id": "why"}]}
    assert (await alice.post(f"{path}/replies", json=request)).status_code == 201
    fork = (await alice.post(f"{path}/fork", json={})).headers["Location"]
    answer = await alice.post(f"{fork}/replies", json=request)
    assert (answer.status_code, problem(answer)) == (422, "client-id-reused")


@pytest.mark.usefixtures("there")  # which would end it
async def test_a_lease_is_renewed_however_long_text_may_wait(
    settings: Settings, url: DatabaseUrl, key: str, model: ModelServer
) -> None:
    model.answers([Send(chunk({"content": "One"})), Wait(0.3), Send(chunk({"content": " two"})), Hang()])
    patient = replace(settings, reply_flush_seconds=60, reply_lease_seconds=1)
    async with replica(patient, url) as made, made.client(key) as alice:
        reply = await begin(alice, await new_conversation(alice), "Count.")
        await asyncio.sleep(2.5)
        assert (await message(alice, reply))["status"] == "in_progress"
        model.release()


async def test_a_service_that_stops_leaves_no_reply_in_progress(
    settings: Settings, url: DatabaseUrl, key: str, alice: httpx.AsyncClient, model: ModelServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("app.writers._CLOSE_SECONDS", 0.1)
    path = await new_conversation(alice)
    model.answers([Send(chunk({"content": "I shall "})), Hang()])
    async with replica(settings, url) as leaving, leaving.client(key) as client:
        reply = await begin(client, path, "Go.")
    left = await message(alice, reply)
    assert (left["status"], left["content"]) == ("incomplete", "I shall ")


async def test_so_many_replies_at_once(settings: Settings, url: DatabaseUrl, key: str, model: ModelServer) -> None:
    model.answers([Send(chunk({"content": "Wait"})), Hang()])
    async with replica(replace(settings, reply_limit=1), url) as busy, busy.client(key) as client:
        await begin(client, await new_conversation(client), "Go.")
        path = await new_conversation(client)
        refused = await client.post(f"{path}/replies", json=asking("Me too."))
        assert (refused.status_code, problem(refused)) == (503, "unavailable")
        assert await contents(client, path) == []
        model.release()


async def test_a_conversation_in_which_nothing_is_said_is_shown_to_no_model(
    alice: httpx.AsyncClient, model: ModelServer
) -> None:
    reply = await ask(alice, await new_conversation(alice), "")
    assert (reply["finish_reason"], reply["message"]["status"]) == ("model-refused", "failed")
    assert model.requests == []
