"""Responses: OpenAI's Responses API on the replies of this service, as its own client and as HTTP sees it."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from itertools import count
from typing import Any

import httpx
import openai
import pytest
from msgspec.structs import replace
from openai import AsyncOpenAI
from openai.types.responses import Response

from app.database_url import DatabaseUrl
from app.embedded import EmbeddedServer
from app.identifiers import owner_id_of
from app.queries import Conn
from app.settings import Settings
from tests.conftest import TEMPLATE, NewKey, contents, new_conversation, run_sql
from tests.live import Event, Replica, events_of, read_events, replica
from tests.model_server import (
    Drop,
    Hang,
    ModelServer,
    Send,
    call_steps,
    chunk,
    model_server,
    status_steps,
    text_steps,
)

PATH = "/openai/v1/responses"
USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 5,
    "total_tokens": 14,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
ADD = {"type": "function", "name": "add", "description": "Adds.", "parameters": {"type": "object"}, "strict": False}


_numbers = count(1)


@pytest.fixture(scope="module")
def url(template: EmbeddedServer) -> Iterator[DatabaseUrl]:
    """One database for all: each test is a user of its own."""
    run_sql(template.url(), "CREATE DATABASE responses TEMPLATE {} STRATEGY FILE_COPY", TEMPLATE)
    yield template.url("responses")
    run_sql(template.url(), "DROP DATABASE responses WITH (FORCE)")


@pytest.fixture(scope="module")
def one_model() -> Iterator[ModelServer]:
    with model_server() as server:
        yield server


@pytest.fixture
def model(one_model: ModelServer) -> Iterator[ModelServer]:
    one_model.requests.clear()
    one_model._scripts.clear()
    one_model._loop.call_soon_threadsafe(one_model._released.clear)
    yield one_model
    one_model.release()


@pytest.fixture(scope="module")
def settings(one_model: ModelServer) -> Settings:
    return Settings(
        pool_size=20,
        acquire_timeout_seconds=20,
        allow_unsafe_database=True,
        model_base_url=one_model.url,
        model_name="scripted",
        model_timeout_seconds=5,
        reply_flush_seconds=0.02,
        reply_lease_seconds=1.5,
        follow_seconds=0.1,
    )


@pytest.fixture(scope="module")
async def here(settings: Settings, url: DatabaseUrl) -> AsyncIterator[Replica]:
    async with replica(settings, url) as made:
        yield made


@pytest.fixture
async def key(new_key: NewKey) -> str:
    return await new_key(user=f"alice-{next(_numbers)}")


@pytest.fixture
async def alice(here: Replica, key: str) -> AsyncIterator[httpx.AsyncClient]:
    async with here.client(key) as client:
        yield client


def official(here: Replica, key: str, **options: Any) -> AsyncOpenAI:
    """OpenAI's own client, which believes nothing."""
    options = {"max_retries": 0, "_strict_response_validation": True, **options}
    return AsyncOpenAI(base_url=f"{here.address}/openai/v1", api_key=key, **options)


@pytest.fixture
async def client(here: Replica, key: str) -> AsyncIterator[AsyncOpenAI]:
    async with official(here, key) as client:
        yield client


def native(conversation_id: str) -> str:
    """The path of the same conversation in the native API."""
    digits = conversation_id.removeprefix("conv_").removeprefix("resp_")[:32]
    parts = (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
    return f"/v1/conversations/{'-'.join(parts)}"


async def items(client: httpx.AsyncClient, conversation_id: str) -> list[dict[str, Any]]:
    answer = await client.get(f"/openai/v1/conversations/{conversation_id}/items", params={"order": "asc"})
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def texts(listed: list[dict[str, Any]]) -> list[str]:
    return [part["text"] for item in listed for part in item.get("content", ())]


def failure(answer: httpx.Response) -> tuple[int, str | None, str | None]:
    """The status, code and parameter of an error, having checked that it is an envelope."""
    assert answer.headers["content-type"] == "application/json", answer.text
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return answer.status_code, error["code"], error["param"]


async def ask(client: httpx.AsyncClient, **members: object) -> dict[str, Any]:
    answer = await client.post(PATH, json=members)
    assert answer.status_code == 200, answer.text
    Response.model_validate(answer.json())
    return answer.json()


async def stream(client: httpx.AsyncClient, **members: object) -> list[Event]:
    return await read_events(client, PATH, method="POST", json={"stream": True, **members})


async def wait_for_items(client: httpx.AsyncClient, conversation_id: str, count: int) -> list[dict[str, Any]]:
    async with asyncio.timeout(5):
        while len(listed := await items(client, conversation_id)) < count:  # noqa: ASYNC110  # there is no event for it
            await asyncio.sleep(0.02)
    return listed


async def begin(client: httpx.AsyncClient, **members: object) -> None:
    """A response has begun to say something, and its client has left."""
    async with client.stream("POST", PATH, json={"stream": True, **members}) as answer:
        async for line in answer.aiter_lines():
            if "output_text.delta" in line:
                return
    raise AssertionError("nothing was said")


def rows_of(model: ModelServer, place: int = -1) -> list[tuple[str, object]]:
    """What the model was told."""
    return [(message["role"], message["content"]) for message in model.requests[place].json["messages"]]


# What is answered


async def test_a_response_is_the_conversations_next_items(
    client: AsyncOpenAI, alice: httpx.AsyncClient, model: ModelServer
) -> None:
    conversation = await client.conversations.create(items=[{"role": "user", "content": "Hello."}])
    model.answers(text_steps("A mo", "nad is", " a monoid.", usage=USAGE))
    made = await client.responses.create(
        model="gpt-whatever", input="What is a monad?", conversation=conversation.id, instructions="Be brief."
    )
    assert (made.status, made.output_text, made.model) == ("completed", "A monad is a monoid.", "scripted-1")
    assert (made.conversation.id, made.instructions, made.store) == (conversation.id, "Be brief.", True)
    assert rows_of(model) == [("system", "Be brief."), ("user", "Hello."), ("user", "What is a monad?")]
    assert made.usage.model_dump(exclude_none=True) == {
        "input_tokens": 9,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 14,
    }
    listed = await items(alice, conversation.id)
    assert texts(listed) == ["Hello.", "What is a monad?", "A monad is a monoid."]
    assert listed[-1] == made.output[0].model_dump(exclude_none=True)
    assert await contents(alice, native(conversation.id)) == texts(listed)


async def test_what_is_asked_comes_back_and_goes_to_the_model(alice: httpx.AsyncClient, model: ModelServer) -> None:
    schema = '{"z":1.0,"a":{"const":1e400},"type":"object"}'
    body = (
        '{"input":"x","model":null,"temperature":0.50,"top_p":1.0,"max_output_tokens":7,"parallel_tool_calls":false,'
        '"tools":[{"strict":true,"type":"function","parameters":SCHEMA,"name":"f","description":null}],'
        '"tool_choice":{"name":"f","type":"function"},'
        '"text":{"format":{"type":"json_schema","name":"n","schema":SCHEMA,"strict":false},"verbosity":"low"},'
        '"reasoning":{"effort":"low","summary":null},"metadata":{"b":"1","a":"2"},"user":"u","safety_identifier":"s",'
        '"prompt_cache_key":"k","service_tier":"flex","truncation":"auto","top_logprobs":0,"background":false,'
        '"include":[],"stream":false,"stream_options":null,"prompt":null}'
    ).replace("SCHEMA", schema)
    answer = await alice.post(PATH, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200, answer.text
    for name in ("temperature", "tools", "tool_choice", "text", "reasoning", "metadata"):
        whole = body[body.index(f'"{name}":') :]
        assert whole[: whole.index(',"', len(name) + 5)] in answer.text
    made = answer.json()
    echoed = ("top_p", "max_output_tokens", "parallel_tool_calls", "user", "safety_identifier", "prompt_cache_key")
    for name in (*echoed, "service_tier", "truncation"):
        assert made[name] == json.loads(body)[name]
    (asked,) = model.requests
    said = asked.body.decode()
    tool = f'{{"type":"function","function":{{"strict":true,"parameters":{schema},"name":"f"}}}}'
    assert f'"tools":[{tool}]' in said
    assert '"tool_choice":{"type":"function","function":{"name":"f"}}' in said
    assert f'{{"type":"json_schema","json_schema":{{"name":"n","schema":{schema},"strict":false}}}}' in said
    assert '"temperature":0.50,"top_p":1.0,"parallel_tool_calls":false' in said
    assert (asked.json["reasoning_effort"], asked.json["verbosity"], asked.json["max_tokens"]) == ("low", "low", 7)


async def test_a_response_of_defaults_is_whole(client: AsyncOpenAI, model: ModelServer) -> None:
    model.answers(text_steps("Hi"))
    made = await client.responses.create(input="x")
    assert made.to_dict(exclude_unset=False).keys() >= {"error", "incomplete_details", "instructions", "temperature"}
    assert (made.tools, made.tool_choice, made.metadata, made.parallel_tool_calls) == ([], "auto", {}, True)
    assert (made.text.format.type, made.truncation, made.usage, made.conversation) == ("text", "disabled", None, None)
    assert model.requests[0].json.keys() == {"model", "messages", "stream", "stream_options"}


async def test_a_function_call_turn_is_two_requests(
    client: AsyncOpenAI, alice: httpx.AsyncClient, model: ModelServer
) -> None:
    conversation = await client.conversations.create()
    arguments = '{"a": 1e400,\n "b": "\\u0000"}'
    parts = [{"index": 0, "function": {"arguments": part}} for part in (arguments[:9], arguments[9:])]
    head = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "add", "arguments": ""}}
    model.answers(call_steps(head, *parts), text_steps("Three."))
    first = await client.responses.create(input="Add.", conversation=conversation.id, tools=[ADD])
    (call,) = first.output
    assert (first.status, call.type, call.call_id, call.arguments) == (
        "completed",
        "function_call",
        "call_1",
        arguments,
    )
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "3"}
    second = await client.responses.create(input=[result], conversation={"id": conversation.id}, tools=[ADD])
    assert second.output_text == "Three."
    _, said, told = model.requests[1].json["messages"]
    assert said["tool_calls"][0]["function"] == {"name": "add", "arguments": arguments}
    assert (told["role"], told["tool_call_id"], told["content"]) == ("tool", "call_1", "3")
    listed = await items(alice, conversation.id)
    assert [item["type"] for item in listed] == ["message", "function_call", "function_call_output", "message"]
    assert listed[1]["id"] == call.id


@pytest.mark.parametrize(("reason", "details"), [("length", "max_output_tokens"), ("content_filter", "content_filter")])
async def test_a_response_that_is_cut_off_is_incomplete(
    client: AsyncOpenAI, model: ModelServer, reason: str, details: str
) -> None:
    model.answers(text_steps("Too lo", reason=reason))
    made = await client.responses.create(input="x")
    assert (made.status, made.incomplete_details.reason) == ("incomplete", details)
    assert (made.output_text, made.output[0].status) == ("Too lo", "incomplete")


async def test_without_a_model_the_built_in_responder_answers(settings: Settings, url: DatabaseUrl, key: str) -> None:
    alone = replace(settings, model_base_url=None, model_name=None)
    async with replica(alone, url) as here, official(here, key) as client:
        made = await client.responses.create(input="Hello?", model="gpt-5")
    assert (made.model, made.output_text) == ("echo", "No model is configured. You said: Hello?")


# Kept first, listed whole


async def test_the_turn_is_kept_at_once_and_listed_when_it_is_whole(
    alice: httpx.AsyncClient, client: AsyncOpenAI, model: ModelServer
) -> None:
    conversation = await client.conversations.create(items=[{"role": "user", "content": "Hello."}])
    model.answers([Send(chunk({"content": "Wait"})), Hang()])
    await begin(alice, input=[{"role": "user", "content": "One."}], conversation=conversation.id)
    assert (await contents(alice, native(conversation.id)))[:2] == ["Hello.", "One."]
    assert texts(await items(alice, conversation.id)) == ["Hello."]
    second = await alice.post(PATH, json={"input": "Two.", "conversation": conversation.id})
    assert failure(second) == (400, "conversation_locked", "conversation")
    model.release()
    await wait_for_items(alice, conversation.id, 3)
    assert texts(await items(alice, conversation.id)) == ["Hello.", "One.", "Wait"]


@pytest.mark.parametrize(
    ("script", "status", "code"),
    [
        (status_steps(429, "3000"), 503, "model_unavailable"),
        ([Send(chunk({"content": "Half"})), Drop()], 502, "model_failed"),
        (status_steps(400), 400, "model_refused"),
    ],
)
async def test_a_problem_of_the_model_leaves_what_was_said(
    alice: httpx.AsyncClient, here: Replica, key: str, model: ModelServer, script: list[Any], status: int, code: str
) -> None:
    model.answers(script)
    async with official(here, key, max_retries=2) as client:
        conversation = await client.conversations.create()
        with pytest.raises(openai.APIStatusError) as caught:
            await client.responses.create(input="Well?", conversation=conversation.id)
    assert (caught.value.status_code, caught.value.code) == (status, code)
    assert caught.value.response.headers["x-should-retry"] == "false"
    asked, replied = await items(alice, conversation.id)
    assert (texts([asked]), replied["role"], replied["status"]) == (["Well?"], "assistant", "incomplete")
    assert (await ask(alice, input="And now?", conversation=conversation.id))["status"] == "completed"


async def test_what_is_larger_than_the_context_is_refused(
    settings: Settings, url: DatabaseUrl, key: str, model: ModelServer
) -> None:
    async with replica(replace(settings, model_context_tokens=50), url) as small, small.client(key) as client:
        for store in (True, False):
            answer = await client.post(PATH, json={"input": "word " * 100, "store": store})
            assert failure(answer) == (400, "context_length_exceeded", "input")
    assert model.requests == []


async def test_a_client_that_hangs_up_loses_nothing(
    alice: httpx.AsyncClient, client: AsyncOpenAI, model: ModelServer
) -> None:
    conversation = await client.conversations.create()
    model.answers(text_steps(*"abcdefghij", delay_seconds=0.02))
    await begin(alice, input="Spell.", conversation=conversation.id)
    listed = await wait_for_items(alice, conversation.id, 2)
    assert texts(listed) == ["Spell.", "abcdefghij"]
    assert listed[-1]["status"] == "completed"


# Once


async def test_a_repeated_request_with_its_key_is_answered_with_the_first_response(
    alice: httpx.AsyncClient, model: ModelServer
) -> None:
    model.answers(text_steps("One", " two", delay_seconds=0.05))
    request = {"json": {"input": "Count."}, "headers": {"Idempotency-Key": "once"}}
    answers = await asyncio.gather(*(alice.post(PATH, **request) for _ in range(3)))
    assert [answer.status_code for answer in answers] == [200] * 3
    assert len({answer.text for answer in answers}) == 1
    assert sum("Idempotent-Replay" in answer.headers for answer in answers) == 2
    previous = answers[0].json()["id"]
    onward = {"json": {"input": "On.", "previous_response_id": previous}, "headers": {"Idempotency-Key": "on"}}
    branch = {"json": {"input": "Or.", "previous_response_id": previous}, "headers": {"Idempotency-Key": "or"}}
    for asked in (onward, branch):
        first, again = [await alice.post(PATH, **asked) for _ in range(2)]
        assert first.json()["id"] == again.json()["id"] != previous
    assert len(model.requests) == 3
    other = await alice.post(PATH, json={"input": "x"}, headers=request["headers"])
    assert failure(other)[:2] == (400, "idempotency_key_reused")


async def test_an_item_is_said_once(alice: httpx.AsyncClient, client: AsyncOpenAI, model: ModelServer) -> None:
    conversation = await client.conversations.create()
    said = {"id": "msg_own", "role": "user", "content": "x"}
    request = {"input": [said], "conversation": conversation.id}
    made = await ask(alice, **request)
    for known in (said, made["output"][0]):
        again = await alice.post(PATH, json={**request, "input": [known]})
        assert failure(again)[:2] == (400, "item_already_in_conversation")
    assert len(await items(alice, conversation.id)) == 2
    assert len(model.requests) == 1


# Going on


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "again"}])
async def test_the_id_of_a_deleted_item_is_free(
    client: AsyncOpenAI, alice: httpx.AsyncClient, model: ModelServer, headers: dict[str, str]
) -> None:
    item = {"id": "msg_mine", "type": "message", "role": "user", "content": "1"}
    conversation = await client.conversations.create(items=[item])  # type: ignore[list-item]  # a plain dict will do
    await client.conversations.items.delete("msg_mine", conversation_id=conversation.id)
    model.answers(text_steps("A"))
    answer = await alice.post(PATH, json={"input": [item], "conversation": conversation.id}, headers=headers)
    assert answer.status_code == 200, answer.text
    listed = await items(alice, conversation.id)
    assert (texts(listed), listed[0]["id"]) == (["1", "A"], "msg_mine")


async def test_a_chain_of_responses_is_one_conversation_and_a_branch_another(
    client: AsyncOpenAI, alice: httpx.AsyncClient, model: ModelServer
) -> None:
    model.answers(text_steps("A"), text_steps("B"), text_steps("C"), text_steps("D"))
    first = await client.responses.create(input="1", instructions="Once.")
    second = await client.responses.create(input="2", previous_response_id=first.id)
    assert rows_of(model) == [("user", "1"), ("assistant", "A"), ("user", "2")]
    assert (second.previous_response_id, second.conversation) == (first.id, None)
    branch = await client.responses.create(input="2'", previous_response_id=first.id)
    assert rows_of(model) == [("user", "1"), ("assistant", "A"), ("user", "2'")]
    onward = await client.responses.create(input="3'", previous_response_id=branch.id)
    assert rows_of(model)[-2:] == [("assistant", "C"), ("user", "3'")]
    assert first.id[:-10] == second.id[:-10] != branch.id[:-10] == onward.id[:-10]
    assert await contents(alice, native(first.id)) == ["1", "A", "2", "B"]
    assert await contents(alice, native(branch.id)) == ["1", "A", "2'", "C", "3'", "D"]
    assert len((await alice.get("/v1/conversations")).json()["data"]) == 2


async def test_a_response_of_a_conversation_is_gone_on_from_beside_it(
    client: AsyncOpenAI, alice: httpx.AsyncClient, model: ModelServer
) -> None:
    conversation = await client.conversations.create()
    model.answers(text_steps("A"), text_steps("B"))
    first = await client.responses.create(input="1", conversation=conversation.id)
    second = await client.responses.create(input="2", previous_response_id=first.id)
    assert rows_of(model) == [("user", "1"), ("assistant", "A"), ("user", "2")]
    assert texts(await items(alice, conversation.id)) == ["1", "A"]
    assert await contents(alice, native(second.id)) == ["1", "A", "2", "B"]


async def test_two_who_go_on_from_one_response_do_not_meet(alice: httpx.AsyncClient, model: ModelServer) -> None:
    model.answers(text_steps("A"))
    first = await ask(alice, input="1")
    both = await asyncio.gather(*(ask(alice, input=f"2{name}", previous_response_id=first["id"]) for name in "ab"))
    assert len({made["id"][:-10] for made in both}) == 2
    for made, name in zip(both, "ab", strict=True):
        assert (await contents(alice, native(made["id"])))[:3] == ["1", "A", f"2{name}"]


async def test_only_ones_own_ended_response_can_be_gone_on_from(
    alice: httpx.AsyncClient, here: Replica, new_key: NewKey, model: ModelServer
) -> None:
    made = await ask(alice, input="1")
    model.answers([Send(chunk({"content": "Wait"})), Hang()])
    await begin(alice, input="2", previous_response_id=made["id"])
    path = native(made["id"])
    unfinished = f"{made['id'][:-10]}{4:010x}"
    asked = f"{made['id'][:-10]}{1:010x}"

    async def refused(client: httpx.AsyncClient, previous: str) -> tuple[int, str | None, str | None]:
        answers = [
            failure(await client.post(PATH, json={"input": "x", "previous_response_id": previous, "store": store}))
            for store in (True, False)
        ]
        assert answers[0] == answers[1]
        return answers[0]

    not_found = (400, "previous_response_not_found", "previous_response_id")
    async with here.client(await new_key(user="bob")) as bob:
        assert await refused(bob, made["id"]) == not_found
    for previous in (unfinished, asked, "resp_x", "", f"resp_{'0' * 42}"):
        assert await refused(alice, previous) == not_found
    model.release()
    message_id = (await alice.get(f"{path}/messages")).json()["data"][1]["id"]
    assert (await alice.delete(f"{path}/messages/{message_id}")).status_code == 200
    assert await refused(alice, made["id"]) == not_found


# Not kept


async def test_what_is_not_stored_leaves_not_a_row(
    here: Replica, new_key: NewKey, model: ModelServer, connection: Conn
) -> None:
    user = f"carol-{next(_numbers)}"
    key = await new_key(user=user)
    client, alice = official(here, key), here.client(key)
    conversation = await client.conversations.create(
        items=[{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hello."}]
    )
    model.answers(text_steps("A"))
    first = await client.responses.create(input="1")

    async def rows() -> dict[str, list[Any]]:
        columns = "SELECT table_name FROM information_schema.columns WHERE column_name = 'owner_id'"
        names = ["owners", *(row["table_name"] for row in await connection.fetch(columns))]
        return {
            name: await connection.fetch(
                f"SELECT * FROM {name} AS t WHERE {'id' if name == 'owners' else 'owner_id'} = $1 ORDER BY t::text",
                owner_id_of("acme", user),
            )
            for name in names
        }

    before = await rows()
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    model.answers(text_steps("B", usage=USAGE), text_steps("C"), text_steps("D"), text_steps("E"), call_steps(call))
    made = await client.responses.create(input="2", store=False)
    assert (made.output_text, made.store, made.usage.total_tokens) == ("B", False, 14)
    assert rows_of(model) == [("user", "2")]
    made = await client.responses.create(input="3", store=False, conversation=conversation.id)
    assert (made.output_text, made.conversation.id) == ("C", conversation.id)
    assert rows_of(model) == [("developer", "Be brief."), ("user", "Hello."), ("user", "3")]
    await client.responses.create(input="4", store=False, previous_response_id=first.id)
    assert rows_of(model) == [("user", "1"), ("assistant", "A"), ("user", "4")]
    history = [{"role": "system", "content": "Calm."}, {"role": "user", "content": "5"}]
    events = await stream(alice, input=history, store=False)
    assert rows_of(model) == [("system", "Calm."), ("user", "5")]
    assert events[-1].data["response"]["output"][0]["content"][0]["text"] == "E"
    called = await client.responses.create(input="6", store=False, tools=[ADD])
    assert called.output[0].type == "function_call"
    assert await rows() == before
    assert all(before[name] for name in ("owners", "conversations", "messages", "replies"))
    again = await alice.post(PATH, json={"input": "x", "previous_response_id": made.id})
    assert failure(again)[1] == "previous_response_not_found"
    await client.close()
    await alice.aclose()


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_who_leaves_ends_a_response_that_is_not_stored(
    settings: Settings, url: DatabaseUrl, key: str, model: ModelServer, *, is_streamed: bool
) -> None:
    model.answers([Send(chunk({"content": "Wait"})), Hang()])
    before = model.open_count
    async with replica(settings, url) as own, own.client(key) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.post(PATH, json={"input": "x", "store": False, "stream": is_streamed}, timeout=0.5)
        async with asyncio.timeout(3):
            while model.open_count > before:  # noqa: ASYNC110  # the model server is in another thread
                await asyncio.sleep(0.02)


async def test_a_problem_of_the_model_ends_a_response_that_is_not_stored(
    alice: httpx.AsyncClient, model: ModelServer
) -> None:
    model.answers(status_steps(400), [Send(chunk({"content": "Half"})), Drop()])
    refused = await alice.post(PATH, json={"input": "x", "store": False})
    assert failure(refused)[:2] == (400, "model_refused")
    events = await stream(alice, input="x", store=False)
    assert (events[-1].name, events[-1].data["response"]["error"]["code"]) == ("response.failed", "server_error")


# Streams


async def test_the_events_of_a_response_are_its_text(
    client: AsyncOpenAI, alice: httpx.AsyncClient, model: ModelServer
) -> None:
    conversation = await client.conversations.create()
    words = ["wörd \U0001f600 "] * 20
    model.answers(text_steps(*words, delay_seconds=0.01, usage=USAGE))
    events = [
        event async for event in await client.responses.create(input="Go.", conversation=conversation.id, stream=True)
    ]
    names = [event.type for event in events]
    head = ["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"]
    tail = ["response.output_text.done", "response.content_part.done", "response.output_item.done"]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert names == [*head, *["response.output_text.delta"] * len(deltas), *tail, "response.completed"]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert len(deltas) > 2
    assert "".join(deltas) == events[-4].text == events[-1].response.output_text == "".join(words)
    assert events[0].response.status == "in_progress"
    made = events[-1].response
    assert {event.item_id for event in events if hasattr(event, "item_id")} == {made.output[0].id}
    assert events[-2].item == made.output[0]
    assert (await items(alice, conversation.id))[-1]["id"] == made.output[0].id
    whole = await client.responses.create(input="x", previous_response_id=made.id)
    assert whole.status == "completed"


async def test_the_events_of_a_call_are_its_arguments(client: AsyncOpenAI, model: ModelServer) -> None:
    function = {"name": "add", "arguments": '{"a":'}
    calls = [
        [{"index": 0, "id": "call_1", "type": "function", "function": function}],
        [{"index": 0, "function": {"arguments": "1}"}}],
        [{"index": 1, "id": "call_2", "type": "function", "function": {"name": "add", "arguments": "{}"}}],
    ]
    model.answers([Send(chunk({"content": "Let me add."})), *call_steps(*calls)])
    async with client.responses.stream(input="x", tools=[ADD], model="m") as told:
        events = [event async for event in told]
        final = await told.get_final_response()
    assert [item.type for item in final.output] == ["message", "function_call", "function_call"]
    assert [item.arguments for item in final.output[1:]] == ['{"a":1}', "{}"]
    done = [event for event in events if event.type == "response.output_item.done"]
    assert [(event.output_index, event.item.id) for event in done] == [
        (place, item.id) for place, item in enumerate(final.output)
    ]
    added = [event.item for event in events if event.type == "response.output_item.added"]
    assert [item.status for item in added] == ["in_progress"] * 3
    assert added[1].arguments == ""


async def test_a_problem_of_the_model_is_the_last_event(alice: httpx.AsyncClient, model: ModelServer) -> None:
    model.answers([Send(chunk({"content": "Half"})), Drop()], text_steps("Too lo", reason="length"))
    failed = await stream(alice, input="x")
    made = failed[-1].data["response"]
    assert (failed[-1].name, made["status"], made["error"]["code"]) == ("response.failed", "failed", "server_error")
    assert made["output"][0]["status"] == "incomplete"
    assert texts(made["output"]) == ["Half"]
    cut = await stream(alice, input="x")
    assert (cut[-1].name, cut[-1].data["response"]["status"]) == ("response.incomplete", "incomplete")


async def test_a_silent_stream_says_that_it_is_there(
    settings: Settings, url: DatabaseUrl, key: str, model: ModelServer
) -> None:
    hasty = replace(settings, heartbeat_seconds=1, stream_seconds=1)
    async with replica(hasty, url) as here, here.client(key) as client:
        for store in (True, False):
            model.answers([Send(chunk({"content": "Wait"})), Hang()])
            body = {"input": "x", "stream": True, "store": store}
            async with client.stream("POST", PATH, json=body) as answer, asyncio.timeout(5):
                async for line in answer.aiter_lines():
                    if line == ":":
                        break
                else:
                    raise AssertionError("the stream ended")
        model.release()


async def test_a_stream_that_must_end_before_its_response_says_so(
    settings: Settings, url: DatabaseUrl, key: str, model: ModelServer
) -> None:
    model.answers([Send(chunk({"content": "Wait"})), Hang()])
    async with replica(settings, url) as going, official(going, key) as client:
        async for event in await client.responses.create(input="x", stream=True):
            if event.type == "response.output_text.delta":
                going.drain.is_draining = True
        model.release()
    assert (event.type, event.code) == ("error", "server_error")


async def test_a_process_makes_only_so_many_responses(
    settings: Settings, url: DatabaseUrl, key: str, model: ModelServer
) -> None:
    before = model.open_count
    async with replica(replace(settings, reply_limit=1), url) as small, small.client(key) as client:
        for store in (False, True):
            model.answers([Send(chunk({"content": "Wait"})), Hang()])
            async with client.stream("POST", PATH, json={"input": "x", "stream": True, "store": store}) as answer:
                assert answer.status_code == 200
                for other in (True, False):
                    full = await client.post(PATH, json={"input": "x", "store": other})
                    assert failure(full)[0] == 503
            async with asyncio.timeout(5):
                while model.open_count > before and not store:  # noqa: ASYNC110  # the model server is in another thread
                    await asyncio.sleep(0.02)
        model.release()


async def test_a_response_that_is_not_begun_leaves_no_conversation(
    settings: Settings, url: DatabaseUrl, key: str, model: ModelServer
) -> None:
    async with replica(replace(settings, reply_limit=1), url) as small, small.client(key) as client:

        async def count_conversations() -> int:
            return len((await client.get("/v1/conversations")).json()["data"])

        held = (await client.post("/openai/v1/conversations", json={})).json()["id"]
        item = {"id": "msg_mine", "type": "message", "role": "user", "content": "x"}
        first = await ask(client, input=[item], conversation=held)
        known = await client.post(PATH, json={"input": [item], "previous_response_id": first["id"]})
        assert failure(known)[1] == "item_already_in_conversation"
        assert await count_conversations() == 1
        model.answers([Send(chunk({"content": "Wait"})), Hang()])
        async with client.stream("POST", PATH, json={"input": "x", "stream": True, "conversation": held}):
            for members in ({}, {"previous_response_id": first["id"]}):
                full = await client.post(PATH, json={"input": "x", **members}, headers={"Idempotency-Key": "once"})
                assert failure(full)[0] == 503
        assert await count_conversations() == 1
        model.release()


async def test_a_service_that_stops_lets_no_client_repeat_what_is_kept(
    settings: Settings, url: DatabaseUrl, key: str, model: ModelServer
) -> None:
    model.answers([Send(chunk({"content": "Wait"})), Hang()])
    async with replica(settings, url) as going, going.client(key) as client:
        asking = asyncio.create_task(client.post(PATH, json={"input": "x"}))
        async with asyncio.timeout(5):
            while not model.requests:  # noqa: ASYNC110  # the model server is in another thread
                await asyncio.sleep(0.02)
        going.server.should_exit = True
        answer = await asking
    assert (failure(answer)[0], answer.headers["x-should-retry"]) == (503, "false")


async def test_a_response_that_is_cancelled_or_deleted_ends_its_stream(
    alice: httpx.AsyncClient, client: AsyncOpenAI, model: ModelServer
) -> None:
    for way in ("cancel", "delete"):
        conversation = await client.conversations.create()
        model.answers([Send(chunk({"content": "Wait"})), Hang()])
        path = native(conversation.id)

        body = {"stream": True, "input": "x", "conversation": conversation.id}
        async with alice.stream("POST", PATH, json=body) as answer:
            told = events_of(answer)
            events = [await anext(told)]
            reply = (await alice.get(f"{path}/messages")).json()["data"][1]["id"]
            interfering = alice.post(f"{path}/replies/{reply}/cancel") if way == "cancel" else alice.delete(path)
            assert (await interfering).is_success
            events += [event async for event in told]
        if way == "cancel":
            last = events[-1].data
            assert (last["type"], last["response"]["status"]) == ("response.incomplete", "cancelled")
        else:
            assert events[-1].name == "error"


# What is refused


BOTH = {"conversation": "conv_1", "previous_response_id": "resp_1"}
REFUSED: list[tuple[dict[str, object], str, str | None]] = [
    ({}, "missing_required_parameter", "input"),
    ({"input": []}, "missing_required_parameter", "input"),
    ({"input": 1}, "invalid_type", "input"),
    ({"input": [{"role": "bard", "content": "x"}]}, "invalid_value", "input[0].role"),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "invalid_value", "input[0].type"),
    ({"input": [{"role": "user", "content": "x"}] * 1000}, "array_above_max_length", "input"),
    ({"input": "x", "seed": 1}, "unknown_parameter", "seed"),
    ({"input": "x", "background": True}, "unsupported_parameter", "background"),
    ({"input": "x", "include": ["reasoning.encrypted_content"]}, "unsupported_parameter", "include"),
    ({"input": "x", "prompt": {"id": "p"}}, "unsupported_parameter", "prompt"),
    ({"input": "x", "max_tool_calls": 1}, "unsupported_parameter", "max_tool_calls"),
    ({"input": "x", "top_logprobs": 5}, "unsupported_parameter", "top_logprobs"),
    ({"input": "x", "instructions": [{"role": "user", "content": "x"}]}, "invalid_type", "instructions"),
    ({"input": "x", "tools": {}}, "invalid_type", "tools"),
    ({"input": "x", "tools": [{"type": "web_search"}]}, "unsupported_parameter", "tools[0].type"),
    ({"input": "x", "tools": [{"type": "custom", "name": "f"}]}, "unsupported_parameter", "tools[0].type"),
    ({"input": "x", "tools": [{"type": "function"}]}, "missing_required_parameter", "tools[0].name"),
    ({"input": "x", "tools": [1]}, "invalid_type", "tools[0]"),
    ({"input": "x", "tool_choice": "some"}, "invalid_value", "tool_choice"),
    ({"input": "x", "tool_choice": {"type": "file_search"}}, "unsupported_parameter", "tool_choice.type"),
    ({"input": "x", "temperature": 3}, "decimal_above_max_value", "temperature"),
    ({"input": "x", "top_p": "1"}, "invalid_type", "top_p"),
    ({"input": "x", "max_output_tokens": 0}, "integer_below_min_value", "max_output_tokens"),
    ({"input": "x", "text": {"format": {"type": "grammar"}}}, "invalid_value", "text.format.type"),
    ({"input": "x", "reasoning": {"effort": "heroic"}}, "invalid_value", "reasoning.effort"),
    ({"input": "x", "metadata": {"a": 1}}, "invalid_type", "metadata.a"),
    ({"input": "x", "metadata": {str(n): "x" for n in range(17)}}, "object_above_max_properties", "metadata"),
    ({"input": "x", "conversation": "thread_1"}, "invalid_value", "conversation"),
    ({"input": "x", "conversation": 1}, "invalid_type", "conversation"),
    ({"input": "x", "conversation": {"id": "conv_1", "x": 1}}, "unknown_parameter", "conversation.x"),
    ({"input": "x", "tools": [{"type": "function", "name": "f", "x": 1}]}, "unknown_parameter", "tools[0].x"),
    ({"input": "x", "tools": [{**ADD, "parameters": [1]}]}, "invalid_type", "tools[0].parameters"),
    (
        {"input": "x", "text": {"format": {"type": "json_schema", "name": "f", "schema": None}}},
        "invalid_type",
        "text.format.schema",
    ),
    ({"input": "x", "conversation": {}}, "missing_required_parameter", "conversation.id"),
    ({"input": "x", **BOTH}, "mutually_exclusive_parameters", None),
]


async def test_what_cannot_be_served_is_refused_and_begins_nothing(
    alice: httpx.AsyncClient, model: ModelServer
) -> None:
    for members, code, param in REFUSED:
        answer = await alice.post(PATH, json=members)
        assert failure(answer) == (400, code, param), answer.text
    assert (await alice.get("/v1/conversations")).json()["data"] == []
    assert model.requests == []


async def test_a_conversation_that_is_not_there_is_not_found(
    alice: httpx.AsyncClient, client: AsyncOpenAI, here: Replica, new_key: NewKey
) -> None:
    conversation = await client.conversations.create()
    async with here.client(await new_key(user="bob")) as bob:
        for name in (conversation.id, f"conv_{'0' * 32}", "conv_x"):
            for store in (True, False):
                answer = await bob.post(PATH, json={"input": "x", "conversation": name, "store": store})
                assert failure(answer) == (404, None, None)
                assert answer.json()["error"]["message"] == f"Conversation with id '{name}' not found."
    assert await items(alice, conversation.id) == []


async def test_without_input_the_conversation_is_answered(
    alice: httpx.AsyncClient, client: AsyncOpenAI, model: ModelServer
) -> None:
    silent = await client.conversations.create()
    answer = await alice.post(PATH, json={"conversation": silent.id})
    assert failure(answer) == (400, "missing_required_parameter", "input")
    path = await new_conversation(alice, ["Hello."])
    model.answers(text_steps("Hi."))
    conversation = f"conv_{path.rpartition('/')[2].replace('-', '')}"
    assert texts((await ask(alice, input=[], conversation=conversation))["output"]) == ["Hi."]
    assert await contents(alice, path) == ["Hello.", "Hi."]
