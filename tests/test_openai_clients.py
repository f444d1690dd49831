"""The OpenAI door, as its unmodified clients find it; those for Python validate every answer strictly."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import islice
from typing import Any

import pytest
from agents import OpenAIConversationsSession
from openai import (
    APIStatusError,
    AsyncOpenAI,
    AuthenticationError,
    BadRequestError,
    NotFoundError,
    OpenAI,
)

from app.embedded import EmbeddedServer
from tests.corpus import EMOJI
from tests.node_clients import needs_npm_packages, run_node
from tests.openai_door import Door, asynchronous_client_of, client_of, open_door
from tests.openai_items import examples

Item = dict[str, Any]
ADDED = {"id", "type", "status", "execution", "annotations", "logprobs", "detail"}
"""What a stored item may have beside what was sent."""


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
async def bob(door: Door) -> OpenAI:
    return client_of(door, await door.new_key())


@pytest.fixture
async def asynchronous(door: Door, key: str) -> AsyncIterator[AsyncOpenAI]:
    async with asynchronous_client_of(door, key) as client:
        yield client


def said(text: str, role: str = "user") -> Item:
    return {"type": "message", "role": role, "content": text}


def new_conversation(client: OpenAI, *texts: str) -> str:
    """Its id."""
    made = client.conversations.create()
    add(client, made.id, *map(said, texts))
    return made.id


def add(client: OpenAI, conversation_id: str, *items: Item) -> list[str]:
    """In batches of 20; their ids."""
    batches = [items[start : start + 20] for start in range(0, len(items), 20)]
    return [
        item.id for batch in batches for item in client.conversations.items.create(conversation_id, items=batch).data
    ]


def listed(client: OpenAI, conversation_id: str) -> list[Item]:
    """All items, oldest first, as they came over the wire; the client has parsed them, too."""
    answer = client.conversations.items.with_raw_response.list(conversation_id, order="asc", limit=100)
    page = json.loads(answer.text)
    assert [item.id for item in answer.parse().data] == [item["id"] for item in page["data"]]
    assert not page["has_more"]
    return page["data"]


def texts(items: list[Any]) -> list[str]:
    """What messages say: models of them, or objects."""
    return [item["content"][0]["text"] if isinstance(item, dict) else item.content[0].text for item in items]


def test_a_conversation_is_made_read_changed_and_deleted(alice: OpenAI) -> None:
    made = alice.conversations.create(metadata={"topic": "monads"}, items=[said("Hi.")])
    assert (made.object, made.metadata) == ("conversation", {"topic": "monads"})
    assert alice.conversations.retrieve(made.id).to_dict() == made.to_dict()
    changed = alice.conversations.update(made.id, metadata={"about": "burritos"})
    assert changed.to_dict() == made.to_dict() | {"metadata": {"about": "burritos"}}
    assert texts(listed(alice, made.id)) == ["Hi."]
    gone = alice.conversations.delete(made.id)
    assert gone.to_dict() == {"id": made.id, "object": "conversation.deleted", "deleted": True}
    for ask in (alice.conversations.retrieve, alice.conversations.delete):
        with pytest.raises(NotFoundError):
            ask(made.id)


def test_a_conversation_may_begin_with_nothing(alice: OpenAI) -> None:
    for members in ({}, {"items": []}, {"items": None, "metadata": None}):
        made = alice.conversations.create(**members)
        assert made.metadata == {}
        page = alice.conversations.items.list(made.id)
        assert page.to_dict() == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


def test_items_are_added_read_and_deleted(alice: OpenAI) -> None:
    conversation_id = new_conversation(alice, "before")
    added = alice.conversations.items.create(conversation_id, items=[said("one"), said("two", "assistant")])
    assert texts(added.data) == ["one", "two"]
    assert (added.first_id, added.last_id, added.has_more) == (added.data[0].id, added.data[1].id, False)
    one, two = added.data
    assert alice.conversations.items.retrieve(two.id, conversation_id=conversation_id) == two
    parent = alice.conversations.items.delete(one.id, conversation_id=conversation_id)
    assert parent.to_dict() == alice.conversations.retrieve(conversation_id).to_dict()
    assert texts(listed(alice, conversation_id)) == ["before", "two"]
    for ask in (alice.conversations.items.retrieve, alice.conversations.items.delete):
        with pytest.raises(NotFoundError):
            ask(one.id, conversation_id=conversation_id)


def assert_kept(sent: Any, found: Any) -> None:
    """Everything is there, its members in the order sent, and nothing beside but what typed clients demand."""
    if isinstance(sent, dict):
        assert [name for name in found if name in sent] == list(sent), f"{sent} came back as {found}"
        assert found.keys() - sent.keys() <= ADDED
        for name, value in sent.items():
            assert_kept(value, found[name])
    elif isinstance(sent, list):
        assert len(found) == len(sent)
        for before, after in zip(sent, found, strict=True):
            assert_kept(before, after)
    else:
        assert repr(found) == repr(sent)


def in_full(item: Item) -> Item:
    """A message as the door keeps it: with a type, and its text as a part."""
    if "role" not in item or item.get("type", "message") != "message":
        return item
    kind = "output_text" if item["role"] == "assistant" else "input_text"
    content = item["content"]
    return item | {"content": [{"type": kind, "text": content}] if isinstance(content, str) else content}


@pytest.mark.parametrize("kind", dict.fromkeys(item.get("type") for item in examples()), ids=str)
def test_items_of_any_type_come_back_whole(alice: OpenAI, kind: str | None) -> None:
    sent = [item for item in examples() if item.get("type") == kind]
    conversation_id = new_conversation(alice)
    ids = add(alice, conversation_id, *sent)
    found = listed(alice, conversation_id)
    for item, item_id, back in zip(sent, ids, found, strict=True):
        assert back["id"] == item_id == item.get("id", item_id)
        assert_kept(in_full(item), back)
    one = alice.conversations.items.retrieve(ids[-1], conversation_id=conversation_id)
    assert one.to_dict(mode="json") == found[-1]


def test_all_items_together_come_back_in_order(alice: OpenAI) -> None:
    conversation_id = new_conversation(alice)
    added = add(alice, conversation_id, *examples())
    found = listed(alice, conversation_id)
    assert [item["id"] for item in found] == added
    for before, after in zip(examples(), found, strict=True):
        assert_kept(in_full(before), after)


def test_a_history_is_copied_with_the_ids_of_its_items(alice: OpenAI) -> None:
    first, second = new_conversation(alice), new_conversation(alice)
    add(alice, first, *examples())
    found = listed(alice, first)
    add(alice, second, *found)
    assert listed(alice, second) == found == listed(alice, first)


def test_a_request_is_no_item(alice: OpenAI) -> None:
    conversation_id = new_conversation(alice, "one")
    (item,) = listed(alice, conversation_id)
    reference = {"id": item["id"]}
    for refused in (reference, reference | {"type": "item_reference"}, {"type": "compaction_trigger"}):
        with pytest.raises(BadRequestError):
            alice.conversations.items.create(conversation_id, items=[said("two"), refused])
    assert listed(alice, conversation_id) == [item]


@pytest.fixture(scope="module")
async def long(door: Door) -> tuple[str, str, list[str]]:
    """A key, a conversation of 250 items, and what they say."""
    key, said = await door.new_key(), [f"line {number}" for number in range(250)]
    return key, await asyncio.to_thread(new_conversation, client_of(door, key), *said), said


@pytest.mark.parametrize("limit", [None, 1, 100])
def test_all_pages_follow_by_themselves_both_ways(
    door: Door, long: tuple[str, str, list[str]], limit: int | None
) -> None:
    key, conversation_id, said = long
    wanted = 300 if limit != 1 else 10
    members = {} if limit is None else {"limit": limit}
    for order, expected in (("asc", said), ("desc", said[::-1])):
        items = client_of(door, key).conversations.items.list(conversation_id, order=order, **members)
        assert texts(list(islice(items, wanted))) == expected[:wanted]


def test_a_page_says_exactly_whether_more_follows(door: Door, long: tuple[str, str, list[str]]) -> None:
    key, conversation_id, said = long
    items = client_of(door, key).conversations.items
    newest = items.list(conversation_id)
    assert (texts(newest.data), newest.has_more) == (said[:-21:-1], True)
    tenth = newest.data[9].id
    rest = items.list(conversation_id, after=tenth, order="asc", limit=9)
    assert (texts(rest.data), rest.has_more) == (said[-9:], False)
    assert items.list(conversation_id, after=tenth, order="asc", limit=8).has_more


INCLUDE = [
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "reasoning.encrypted_content",
    "message.output_text.logprobs",
]


def test_everything_is_included_whatever_is_asked_for(alice: OpenAI) -> None:
    conversation_id = new_conversation(alice)
    items = alice.conversations.items.create(conversation_id, items=examples()[:20], include=INCLUDE).data
    assert alice.conversations.items.list(conversation_id, order="asc", include=INCLUDE).data == items
    one = alice.conversations.items.retrieve(items[0].id, conversation_id=conversation_id, include=INCLUDE)
    assert one == items[0]


THOUGHT = {"type": "reasoning", "id": "rs_0", "summary": []}
Call = Callable[[OpenAI, str], object]
REFUSED: dict[str, tuple[Call, type[APIStatusError], str | None, str | None]] = {
    "an unknown item": (
        lambda client, home: client.conversations.items.retrieve("msg_" + "0" * 48, conversation_id=home),
        NotFoundError, None, None,
    ),
    "an unknown item, deleted": (
        lambda client, home: client.conversations.items.delete("msg_" + "0" * 48, conversation_id=home),
        NotFoundError, None, None,
    ),
    "an item with a strange id": (
        lambda client, home: client.conversations.items.retrieve("a/b c?\u00e9#%00", conversation_id=home),
        NotFoundError, None, None,
    ),
    "an unknown cursor": (
        lambda client, home: client.conversations.items.list(home, after="msg_" + "0" * 48),
        NotFoundError, None, "after",
    ),
    "a limit above 100": (
        lambda client, home: client.conversations.items.list(home, limit=101),
        BadRequestError, "integer_above_max_value", "limit",
    ),
    "21 items": (
        lambda client, home: client.conversations.items.create(home, items=[said("x")] * 21),
        BadRequestError, "array_above_max_length", "items",
    ),
    "21 items at first": (
        lambda client, _: client.conversations.create(items=[said("x")] * 21),
        BadRequestError, "array_above_max_length", "items",
    ),
    "no items": (
        lambda client, home: client.conversations.items.create(home, items=[]),
        BadRequestError, "empty_array", "items",
    ),
    "no member of items": (
        lambda client, home: client.post(f"/conversations/{home}/items", body={}, cast_to=object),
        BadRequestError, "missing_required_parameter", "items",
    ),
    "no member of metadata": (
        lambda client, home: client.post(f"/conversations/{home}", body={}, cast_to=object),
        BadRequestError, "missing_required_parameter", "metadata",
    ),
    "an id that is there": (
        lambda client, home: client.conversations.items.create(home, items=[THOUGHT]),
        BadRequestError, "item_already_in_conversation", "items",
    ),
    "17 pairs of metadata": (
        lambda client, home: client.conversations.update(home, metadata={str(n): "" for n in range(17)}),
        BadRequestError, "object_above_max_properties", "metadata",
    ),
    "a key of 65 characters": (
        lambda client, home: client.conversations.update(home, metadata={"k" * 65: ""}),
        BadRequestError, "property_name_above_max_length", ...,  # the name, perhaps cut
    ),
    "a value of 513 characters": (
        lambda client, home: client.conversations.update(home, metadata={"k": "v" * 513}),
        BadRequestError, "string_above_max_length", "metadata.k",
    ),
    "a number for a value": (
        lambda client, home: client.conversations.update(home, metadata={"k": 1}),
        BadRequestError, "invalid_type", "metadata.k",
    ),
    "a role that nobody has": (
        lambda client, home: client.conversations.items.create(home, items=[said("x", "king")]),
        BadRequestError, "invalid_value", ...,
    ),
    "an item that is a text": (
        lambda client, home: client.conversations.items.create(home, items=["x"]),
        BadRequestError, ..., ...,
    ),
    "an unknown route": (
        lambda client, home: client.post(f"/conversations/{home}/messages", body={}, cast_to=object),
        NotFoundError, ..., ...,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_the_error_that_its_client_knows(alice: OpenAI, case: str) -> None:
    call, kind, code, param = REFUSED[case]
    conversation_id = new_conversation(alice)
    add(alice, conversation_id, THOUGHT, said("one"))
    before = listed(alice, conversation_id)
    with pytest.raises(kind) as caught:
        call(alice, conversation_id)
    error = caught.value
    assert isinstance(error.body, dict)
    assert error.body.keys() == {"message", "type", "param", "code"}
    assert (error.type, error.request_id is None) == ("invalid_request_error", False)
    assert code in {error.code, ...}
    assert param in {error.param, ...}
    assert listed(alice, conversation_id) == before
    assert alice.conversations.retrieve(conversation_id).metadata == {}


def test_a_wrong_key_is_an_authentication_error(door: Door) -> None:
    for key in ("sk-nobody", "vb_0123456789ab_" + "0" * 43):
        with pytest.raises(AuthenticationError) as caught:
            client_of(door, key).conversations.create()
        assert (caught.value.code, caught.value.type) == ("invalid_api_key", "invalid_request_error")
        assert caught.value.request_id


def test_every_answer_names_its_request(alice: OpenAI) -> None:
    made = alice.conversations.create(items=[said("one")])
    answers = [
        made,
        alice.conversations.retrieve(made.id),
        alice.conversations.update(made.id, metadata={}),
        alice.conversations.items.list(made.id),
        alice.conversations.items.create(made.id, items=[said("two")]),
        alice.conversations.delete(made.id),
    ]
    assert len({answer._request_id for answer in answers} - {None}) == len(answers)


def test_two_keys_never_see_each_others(alice: OpenAI, bob: OpenAI) -> None:
    hers = new_conversation(alice, "secret")
    (item,) = listed(alice, hers)
    his = new_conversation(bob, "his")
    unknown = alice.conversations.create().id
    alice.conversations.delete(unknown)

    def asked(home: str) -> list[Call]:
        return [
            lambda client, _: client.conversations.retrieve(home),
            lambda client, _: client.conversations.update(home, metadata={"a": "b"}),
            lambda client, _: client.conversations.items.list(home),
            lambda client, _: client.conversations.items.create(home, items=[said("mine")]),
            lambda client, _: client.conversations.items.retrieve(item["id"], conversation_id=home),
            lambda client, _: client.conversations.items.delete(item["id"], conversation_id=home),
            lambda client, _: client.conversations.delete(home),
        ]

    for of_hers, of_nobody in zip(asked(hers), asked(unknown), strict=True):
        answers = []
        for call, home in ((of_hers, hers), (of_nobody, unknown)):
            with pytest.raises(NotFoundError) as caught:
                call(bob, home)
            answers.append(json.dumps(caught.value.body).replace(home, "X"))
        assert answers[0] == answers[1]
    with pytest.raises(NotFoundError):
        bob.conversations.items.retrieve(item["id"], conversation_id=his)
    assert listed(alice, hers) == [item]


def test_the_same_id_of_an_item_is_anyones(alice: OpenAI, bob: OpenAI) -> None:
    thought = {"type": "reasoning", "id": "rs_same", "summary": []}
    hers, his = new_conversation(alice), new_conversation(bob)
    add(alice, hers, thought | {"encrypted_content": "hers"})
    add(bob, his, thought | {"encrypted_content": "his"})
    assert [listed(client, home)[0]["encrypted_content"] for client, home in ((alice, hers), (bob, his))] == [
        "hers",
        "his",
    ]


async def test_a_key_of_a_tenant_names_its_user(door: Door) -> None:
    key = await door.new_key(is_bound=False)
    with pytest.raises(BadRequestError):
        client_of(door, key).conversations.create()
    carol, dave = (client_of(door, key, **{"X-User-Id": name}) for name in ("carol", "dave"))
    made = carol.conversations.create()
    assert carol.conversations.retrieve(made.id) == made
    with pytest.raises(NotFoundError):
        dave.conversations.retrieve(made.id)


TEXTS = {
    "nothing": "",
    "U+0000": "a\0b\0",
    "what looks like U+0000": "\\u0000",
    "a million characters": "\u20ac" * 1_000_000,
    "ends of lines": "\r\n\r\u2028\u2029\x85 ",
    "both forms": "\u00e9e\u0301",
    **EMOJI,
}


@pytest.mark.parametrize("case", TEXTS)
def test_a_text_comes_back_as_it_is(alice: OpenAI, case: str) -> None:
    conversation_id = new_conversation(alice)
    output = {"type": "function_call_output", "call_id": "call_1", "output": TEXTS[case]}
    add(alice, conversation_id, said(TEXTS[case]), output)
    message, result = listed(alice, conversation_id)
    assert message["content"][0]["text"] == result["output"] == TEXTS[case]


def test_what_fits_is_taken(alice: OpenAI) -> None:
    metadata = {f"{number:\U0001f600>64}": "\U0001f600" * 512 for number in range(16)}
    made = alice.conversations.create(metadata=metadata, items=[said(str(number)) for number in range(20)])
    assert made.metadata == metadata
    assert alice.conversations.items.list(made.id).has_more is False


def test_a_caller_may_mark_a_request(alice: OpenAI) -> None:
    mark = {"Idempotency-Key": "turn-1"}
    conversation_id = new_conversation(alice)
    first, second = (
        alice.conversations.items.create(conversation_id, items=[said("once"), said("only")], extra_headers=mark)
        for _ in range(2)
    )
    assert first == second
    assert texts(listed(alice, conversation_id)) == ["once", "only"]
    with pytest.raises(APIStatusError) as caught:
        alice.conversations.items.create(conversation_id, items=[said("other")], extra_headers=mark)
    assert caught.value.status_code in {400, 422}


async def test_the_asynchronous_client_does_the_same(asynchronous: AsyncOpenAI) -> None:
    conversations, items = asynchronous.conversations, asynchronous.conversations.items
    made = await conversations.create(items=[said("zero")], metadata={"a": "b"})
    assert await conversations.retrieve(made.id) == made
    assert (await conversations.update(made.id, metadata={})).metadata == {}
    added = await items.create(made.id, items=[said("one"), said("two")])
    assert await items.retrieve(added.data[0].id, conversation_id=made.id) == added.data[0]
    assert (await items.delete(added.data[0].id, conversation_id=made.id)).id == made.id
    assert texts([item async for item in items.list(made.id, order="asc", limit=1)]) == ["zero", "two"]
    assert (await conversations.delete(made.id)).deleted
    with pytest.raises(NotFoundError):
        await conversations.retrieve(made.id)


async def test_batches_sent_at_once_are_all_kept_and_never_torn(asynchronous: AsyncOpenAI) -> None:
    made = await asynchronous.conversations.create()
    batches = [[f"{batch}.{number}" for number in range(5)] for batch in range(20)]
    await asyncio.gather(
        *(asynchronous.conversations.items.create(made.id, items=[*map(said, batch)]) for batch in batches)
    )
    found = texts([item async for item in asynchronous.conversations.items.list(made.id, order="asc")])
    assert sorted(found[start : start + 5] for start in range(0, 100, 5)) == sorted(batches)


async def test_the_agents_session_remembers(asynchronous: AsyncOpenAI) -> None:
    session = OpenAIConversationsSession(openai_client=asynchronous)
    said_so_far = [f"line {number}" for number in range(45)]
    await session.add_items([{"role": "user", "content": text} for text in said_so_far])
    assert texts(await session.get_items()) == said_so_far
    assert texts(await session.get_items(limit=30)) == said_so_far[-30:]
    popped = await session.pop_item()
    assert popped is not None
    assert texts([popped]) == ["line 44"]
    assert texts(await session.get_items(limit=1)) == ["line 43"]
    home = session.session_id
    again = OpenAIConversationsSession(conversation_id=home, openai_client=asynchronous)
    assert texts(await again.get_items()) == said_so_far[:-1]
    await session.clear_session()
    assert await session.get_items() == []
    assert await session.pop_item() is None
    assert session.session_id != home


async def test_what_the_agents_session_gives_back_it_takes_again(asynchronous: AsyncOpenAI) -> None:
    first, second = (OpenAIConversationsSession(openai_client=asynchronous) for _ in range(2))
    renamed = {"async", "text"}  # it gives `async` and the `schema` of a text's format back with other names
    await first.add_items([item for item in examples() if not item.keys() & renamed])
    history = await first.get_items()
    await second.add_items(history)
    assert await second.get_items() == history


@needs_npm_packages
@pytest.mark.parametrize("script", ["conversations.mjs", "session.mjs"])
def test_the_client_for_node_finds_all_it_knows(door: Door, key: str, script: str) -> None:
    done = run_node(script, OPENAI_BASE_URL=door.base_url, OPENAI_API_KEY=key, OPENAI_AGENTS_DISABLE_TRACING="1")
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
