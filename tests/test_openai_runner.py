"""The OpenAI door answers: the clients' responses and the agents' runner, with the built-in responder for a model."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from agents import Agent, OpenAIConversationsSession, OpenAIResponsesModel, Runner
from openai import AsyncOpenAI, BadRequestError, NotFoundError, OpenAI

from app.embedded import EmbeddedServer
from tests.node_clients import needs_npm_packages, run_node
from tests.openai_door import Door, asynchronous_client_of, client_of, open_door


def echo(text: str) -> str:
    """What the built-in responder says to it."""
    return f"No model is configured. You said: {text}"


@pytest.fixture(scope="module")
def door(template: EmbeddedServer) -> Iterator[Door]:
    with open_door(template) as door:
        yield door


@pytest.fixture
async def key(door: Door) -> str:
    return await door.new_key()


@pytest.fixture
def alice(door: Door, key: str) -> OpenAI:
    return client_of(door, key)


@pytest.fixture
async def asynchronous(door: Door, key: str) -> AsyncIterator[AsyncOpenAI]:
    async with asynchronous_client_of(door, key) as client:
        yield client


@pytest.fixture
def agent(asynchronous: AsyncOpenAI) -> Agent[Any]:
    model = OpenAIResponsesModel(model="echo", openai_client=asynchronous)
    return Agent(name="parrot", instructions="Be brief.", model=model)


def said(client: OpenAI, conversation_id: str) -> list[tuple[str, str]]:
    """Who said what in it, oldest first."""
    items = client.conversations.items.list(conversation_id, order="asc")
    return [(item.role, item.content[0].text) for item in items]


TURN = [("user", "Hello"), ("assistant", echo("Hello"))]


def test_the_model_is_listed(alice: OpenAI) -> None:
    assert [model.id for model in alice.models.list()] == ["echo"]


def test_a_response_is_added_to_its_conversation(alice: OpenAI) -> None:
    home = alice.conversations.create()
    answer = alice.responses.create(model="echo", conversation=home.id, input="Hello", instructions="Be brief.")
    assert (answer.object, answer.status, answer.output_text) == ("response", "completed", echo("Hello"))
    assert answer.conversation is not None
    assert answer.conversation.id == home.id
    assert answer._request_id
    assert said(alice, home.id) == TURN
    (item,) = answer.output
    assert item.id == alice.conversations.items.list(home.id).data[0].id


def test_a_conversation_may_be_named_by_an_object_and_the_input_be_items(alice: OpenAI) -> None:
    home = alice.conversations.create(items=[{"role": "user", "content": "Before."}])
    asked = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    answer = alice.responses.create(model="echo", conversation={"id": home.id}, input=asked)
    assert answer.output_text == echo("Hello")
    assert said(alice, home.id) == [("user", "Before."), ("developer", "Be brief."), *TURN]


def test_a_streamed_response_grows_and_is_there_when_it_has_ended(alice: OpenAI) -> None:
    home = alice.conversations.create()
    grown, kinds = "", []
    with alice.responses.create(model="echo", conversation=home.id, input="Hello", stream=True) as events:
        for event in events:
            kinds.append(event.type)
            if event.type == "response.output_text.delta":
                grown += event.delta
            if event.type == "response.completed":
                assert event.response.output_text == echo("Hello")
                assert said(alice, home.id) == TURN
    assert grown == echo("Hello")
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    for kind in (
        "output_item.added",
        "content_part.added",
        "content_part.done",
        "output_text.done",
        "output_item.done",
    ):
        assert kinds.count(f"response.{kind}") == 1


def test_the_client_accumulates_a_stream(alice: OpenAI) -> None:
    with alice.responses.stream(model="echo", input="Hello") as stream:
        stream.until_done()
        assert stream.get_final_response().output_text == echo("Hello")


def test_what_is_not_to_be_stored_is_not(alice: OpenAI) -> None:
    home = alice.conversations.create(items=[{"role": "user", "content": "Before."}])
    answer = alice.responses.create(model="echo", conversation=home.id, input="Hello", store=False)
    assert answer.output_text == echo("Hello")
    assert said(alice, home.id) == [("user", "Before.")]


def test_a_response_goes_on_from_another_without_adding_to_its_conversation(alice: OpenAI) -> None:
    home = alice.conversations.create()
    first = alice.responses.create(model="echo", conversation=home.id, input="Hello")
    second = alice.responses.create(model="echo", previous_response_id=first.id, input="And now?")
    assert (second.output_text, second.previous_response_id) == (echo("And now?"), first.id)
    third = alice.responses.create(model="echo", previous_response_id=second.id, input="Still?")
    assert third.output_text == echo("Still?")
    assert said(alice, home.id) == TURN


def test_what_a_response_cannot_be_is_refused(alice: OpenAI) -> None:
    home = alice.conversations.create()
    gone = alice.conversations.create()
    alice.conversations.delete(gone.id)
    with pytest.raises(NotFoundError):
        alice.responses.create(model="echo", conversation=gone.id, input="Hello")
    unknown = "resp_" + "0" * 48
    for members, code in (
        ({"conversation": home.id, "previous_response_id": unknown}, "mutually_exclusive_parameters"),
        ({"previous_response_id": unknown}, "previous_response_not_found"),
        ({"conversation": home.id, "tools": [{"type": "web_search"}]}, None),
        ({"conversation": home.id, "input": [{"type": "item_reference", "id": "msg_1"}]}, None),
    ):
        with pytest.raises(BadRequestError) as caught:
            alice.responses.create(**{"model": "echo", "input": "Hello", **members})
        assert code in {None, caught.value.code}
    assert said(alice, home.id) == []


async def test_another_keys_response_cannot_be_gone_on_from(door: Door, alice: OpenAI) -> None:
    hers = alice.responses.create(model="echo", input="Hello")
    bob = client_of(door, await door.new_key())
    with pytest.raises(BadRequestError) as caught:
        bob.responses.create(model="echo", previous_response_id=hers.id, input="And?")
    assert caught.value.code == "previous_response_not_found"


async def test_the_runner_keeps_its_turns_in_a_conversation(agent: Agent[Any], alice: OpenAI) -> None:
    home = alice.conversations.create()
    first = await Runner.run(agent, "Hello", conversation_id=home.id)
    assert first.final_output == echo("Hello")
    second = Runner.run_streamed(agent, "And now?", conversation_id=home.id)
    deltas = [
        event.data.delta
        async for event in second.stream_events()
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ]
    assert "".join(deltas) == second.final_output == echo("And now?")
    assert said(alice, home.id) == [*TURN, ("user", "And now?"), ("assistant", echo("And now?"))]


async def test_the_runner_goes_on_from_its_last_response(agent: Agent[Any]) -> None:
    first = await Runner.run(agent, "Hello", auto_previous_response_id=True)
    second = await Runner.run(agent, "And now?", previous_response_id=first.last_response_id)
    assert second.final_output == echo("And now?")


async def test_the_runner_keeps_its_turns_in_a_session(
    agent: Agent[Any], asynchronous: AsyncOpenAI, alice: OpenAI
) -> None:
    session = OpenAIConversationsSession(openai_client=asynchronous)
    await Runner.run(agent, "Hello", session=session)
    await Runner.run(agent, "And now?", session=session)
    assert said(alice, session.session_id) == [*TURN, ("user", "And now?"), ("assistant", echo("And now?"))]


@needs_npm_packages
def test_the_runner_for_node_does_the_same(door: Door, key: str) -> None:
    done = run_node("runner.mjs", OPENAI_BASE_URL=door.base_url, OPENAI_API_KEY=key, OPENAI_AGENTS_DISABLE_TRACING="1")
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
