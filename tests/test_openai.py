"""The door of OpenAI's clients, as they see it, and as the other doors see what came in by it."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID

import httpx
import pytest
from litestar import Litestar
from msgspec.structs import replace

from app.context import Entry
from app.database_url import DatabaseUrl
from app.identifiers import MessageIds
from app.items import Item, items_of
from app.queries import Conn
from app.settings import Settings
from tests.conftest import NewKey, client_of, new_conversation
from tests.live import events_of, replica
from tests.model_server import DONE, Hang, ModelServer, Send, chunk, model_server

pytestmark = pytest.mark.shares_app

HOME = "/openai/v1/conversations"
Json = dict[str, Any]


def said(text: str, role: str = "user", **members: object) -> Json:
    return {"role": role, "content": text, **members}


def texts(items: list[Json]) -> list[str]:
    return [part["text"] for item in items for part in item.get("content", [])]


async def made(client: httpx.AsyncClient, *items: Json) -> str:
    """The path of a new conversation."""
    answer = await client.post(HOME, json={"items": list(items)})
    assert answer.status_code == 200, answer.text
    return f"{HOME}/{answer.json()['id']}"


async def add(client: httpx.AsyncClient, path: str, *items: Json, **headers: str) -> list[Json]:
    answer = await client.post(f"{path}/items", json={"items": list(items)}, headers=headers)
    assert answer.status_code == 200, answer.text
    found: list[Json] = answer.json()["data"]
    return found


async def listed(client: httpx.AsyncClient, path: str, limit: int = 100, **query: str) -> list[Json]:
    """All items, page by page."""
    found: list[Json] = []
    while True:
        page = (await client.get(f"{path}/items", params={"limit": limit, **query})).json()
        ids = [item["id"] for item in page["data"]]
        assert (page["object"], len(ids) <= limit) == ("list", True)
        assert (page["first_id"], page["last_id"]) == ((ids[0], ids[-1]) if ids else (None, None))
        found += page["data"]
        if not page["has_more"]:
            return found
        query["after"] = page["last_id"]


def native(path: str) -> str:
    """The path of the same conversation in the native API."""
    return f"/v1/conversations/{UUID(path.rpartition('_')[2])}"


def door(path: str) -> str:
    """The path of a native conversation at this door."""
    return f"{HOME}/conv_{UUID(path.rpartition('/')[2]).hex}"


def refusal(answer: httpx.Response) -> tuple[int, str | None, str | None]:
    """The status, code and parameter of an error in its envelope."""
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"]
    return answer.status_code, error["code"], error["param"]


# Conversations


async def test_a_conversation_is_made_found_changed_and_deleted(alice: httpx.AsyncClient) -> None:
    created = (await alice.post(HOME, json={"metadata": {"topic": "monads"}})).json()
    assert created == {
        "id": created["id"],
        "object": "conversation",
        "created_at": created["created_at"],
        "metadata": {"topic": "monads"},
    }
    assert isinstance(created["created_at"], int)
    path = f"{HOME}/{created['id']}"
    assert (await alice.get(path)).json() == created
    changed = await alice.post(path, json={"metadata": {"a": "b"}})
    assert changed.json() == created | {"metadata": {"a": "b"}}
    assert (await alice.post(path, json={"metadata": None})).json()["metadata"] == {}
    gone = await alice.delete(path, headers={"Content-Type": "application/json"})
    assert gone.json() == {"id": created["id"], "object": "conversation.deleted", "deleted": True}
    for method in ("GET", "DELETE"):
        assert refusal(await alice.request(method, path)) == (404, None, None)


@pytest.mark.parametrize("body", [b"", b"{}", b'{"items":[],"metadata":null}', b'{"items":null}'])
async def test_an_empty_conversation_has_empty_metadata(alice: httpx.AsyncClient, body: bytes) -> None:
    headers = {"Content-Type": "application/json"} if body else {}
    created = await alice.post(HOME, content=body, headers=headers)
    assert (created.status_code, created.json()["metadata"]) == (200, {})
    page = (await alice.get(f"{HOME}/{created.json()['id']}/items")).json()
    assert page == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


async def test_a_slash_at_the_end_changes_nothing(alice: httpx.AsyncClient) -> None:
    path = await made(alice, said("hi"))
    assert (await alice.get(f"{path}/")).json() == (await alice.get(path)).json()
    assert (await alice.get(f"{path}/items/")).json() == (await alice.get(f"{path}/items")).json()


async def test_a_repeated_request_with_a_key_makes_one_conversation(alice: httpx.AsyncClient) -> None:
    keyed = {"Idempotency-Key": "once"}
    first, again = [await alice.post(HOME, json={"items": [said("hi")]}, headers=keyed) for _ in range(2)]
    assert first.json() == again.json()
    assert again.headers["Idempotent-Replay"] == "true"
    assert refusal(await alice.post(HOME, json={}, headers=keyed))[:2] == (400, "idempotency_key_reused")


async def test_conversations_are_listed_newest_first_past_those_that_move(alice: httpx.AsyncClient) -> None:
    paths = [await made(alice, said(str(number))) for number in range(5)]
    ids = [path.rpartition("/")[2] for path in paths]
    first = (await alice.get(HOME, params={"limit": 2})).json()
    assert [entry["id"] for entry in first["data"]] == [ids[4], ids[3]]
    assert (first["first_id"], first["last_id"], first["has_more"]) == (ids[4], ids[3], True)
    by_id = (await alice.get(HOME, params={"limit": 2, "after": first["last_id"]})).json()
    assert [entry["id"] for entry in by_id["data"]] == [ids[2], ids[1]]
    await add(alice, paths[3], said("again"))
    by_cursor = (await alice.get(HOME, params={"limit": 5, "after": first["next_cursor"]})).json()
    assert [entry["id"] for entry in by_cursor["data"]] == ids[2::-1]
    assert by_cursor["next_cursor"] is None
    assert refusal(await alice.get(HOME, params={"after": "nonsense"})) == (400, "invalid_value", "after")


# Items


async def test_only_the_new_items_are_answered_in_their_order(alice: httpx.AsyncClient) -> None:
    path = await made(alice, said("first"))
    answer = (await alice.post(f"{path}/items", json={"items": [said("b"), said("a")]})).json()
    assert texts(answer["data"]) == ["b", "a"]
    assert answer["has_more"] is False
    assert (answer["first_id"], answer["last_id"]) == (answer["data"][0]["id"], answer["data"][1]["id"])
    assert texts(await listed(alice, path)) == ["a", "b", "first"]
    assert texts(await listed(alice, path, order="asc")) == ["first", "b", "a"]


async def test_an_item_keeps_its_id_and_is_there_once(alice: httpx.AsyncClient) -> None:
    path, other = await made(alice), await made(alice)
    item = {"type": "reasoning", "id": "rs_1/2+3=", "summary": [], "encrypted_content": "x"}
    assert await add(alice, path, item) == [item]
    again = await alice.post(f"{path}/items", json={"items": [said("not kept"), item]})
    assert refusal(again) == (400, "item_already_in_conversation", "items")
    assert await listed(alice, path) == [item]
    assert await add(alice, other, item) == [item]
    assert (await alice.get(f"{path}/items/rs_1%2F2%2B3=")).json() == item
    twice = await alice.post(f"{path}/items", json={"items": [item | {"id": "x"}, item | {"id": "x"}]})
    assert refusal(twice) == (400, "invalid_value", "items[1].id")


async def test_a_deleted_item_may_come_again(alice: httpx.AsyncClient) -> None:
    path = await made(alice, said("first"))
    item = said("x", id="mine")
    await add(alice, path, item)
    (computed,) = await add(alice, path, said("y"))
    for item_id in ("mine", computed["id"]):
        deleted = await alice.delete(f"{path}/items/{item_id}", headers={"Content-Type": "application/json"})
        assert deleted.json() == (await alice.get(path)).json()
        assert refusal(await alice.delete(f"{path}/items/{item_id}")) == (404, None, None)
    assert (await add(alice, path, item, said("z")))[0]["id"] == "mine"
    (renamed,) = await add(alice, path, computed)
    assert renamed["id"] != computed["id"]
    assert texts(await listed(alice, path, order="asc")) == ["first", "x", "z", "y"]
    again = await alice.post(f"{path}/items", json={"items": [renamed]})
    assert refusal(again) == (400, "item_already_in_conversation", "items")


async def test_a_repeated_request_with_a_key_adds_its_items_once(alice: httpx.AsyncClient) -> None:
    path = await made(alice)
    first, again = [await add(alice, path, said("x"), said("y"), **{"Idempotency-Key": "k"}) for _ in range(2)]
    assert first == again
    assert len(await listed(alice, path)) == 2
    other = await alice.post(f"{path}/items", json={"items": [said("z")]}, headers={"Idempotency-Key": "k"})
    assert refusal(other)[:2] == (400, "idempotency_key_reused")


async def test_parallel_requests_lose_nothing_and_keep_each_batch_together(alice: httpx.AsyncClient) -> None:
    path = await made(alice)
    batches = [[said(f"{number}-{place}") for place in range(5)] for number in range(12)]

    async def keep_on(batch: list[Json]) -> None:
        while (await alice.post(f"{path}/items", json={"items": batch})).status_code == 503:  # noqa: ASYNC110  # until it has room
            await asyncio.sleep(0.1)

    await asyncio.gather(*map(keep_on, batches))
    found = texts(await listed(alice, path, order="asc"))
    assert sorted(found[::5]) == sorted(f"{number}-0" for number in range(12))
    assert found == [f"{first.partition('-')[0]}-{place}" for first in found[::5] for place in range(5)]


# Pages

CALLS = [{"id": f"call_{n}", "type": "function", "function": {"name": "f", "arguments": "{}"}} for n in range(3)]


@pytest.fixture
async def mixed(alice: httpx.AsyncClient) -> str:
    """A native conversation in which messages are one item, or several."""
    path = await new_conversation(alice)
    turn = [
        {"role": "user", "content": "What is the weather?", "client_id": "mine"},
        {"role": "assistant", "content": "I look.", "tool_calls": CALLS},
        *({"role": "tool", "tool_call_id": call["id"], "content": "sunny"} for call in CALLS),
        {"role": "assistant", "content": None, "tool_calls": CALLS[:2]},
        {"role": "user", "content": [{"type": "text", "text": "Thanks"}]},
        {"role": "assistant", "content": "Bye", "tool_calls": CALLS},
    ]
    answer = await alice.post(f"{path}/messages", json={"messages": turn})
    assert answer.status_code == 201, answer.text
    return path


async def test_pages_of_any_size_hold_each_item_once_in_both_orders(alice: httpx.AsyncClient, mixed: str) -> None:
    whole = await listed(alice, door(mixed), order="asc")
    kinds = [item["type"] for item in whole]
    calls = ["function_call"] * 3
    assert kinds == ["message", "message", *calls, *["function_call_output"] * 3, *calls[:2], *["message"] * 2, *calls]
    assert len({item["id"] for item in whole}) == len(whole)
    assert whole[0]["id"] == "mine"
    for limit in (1, 2, 3, 5, 14, 15, 16):
        assert await listed(alice, door(mixed), limit, order="asc") == whole, limit
        assert await listed(alice, door(mixed), limit, order="desc") == whole[::-1], limit
    for place, item in enumerate(whole):
        assert (await alice.get(f"{door(mixed)}/items/{item['id']}")).json() == item
        behind = await listed(alice, door(mixed), order="asc", after=item["id"])
        before = await listed(alice, door(mixed), order="desc", after=item["id"])
        assert [behind, before[::-1]] == [whole[place + 1 :], whole[:place]]


async def test_a_page_of_large_items_is_short_and_goes_on(alice: httpx.AsyncClient) -> None:
    path = await made(alice)
    for number in range(5):
        await add(alice, path, said(f"{number}" + "x" * 3_000_000))
    for order in ("asc", "desc"):
        page = (await alice.get(f"{path}/items", params={"order": order, "limit": 100})).json()
        assert (len(page["data"]), page["has_more"]) == (2, True)
        found = texts(await listed(alice, path, order=order))
        assert [text[0] for text in found] == list("01234" if order == "asc" else "43210")


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[threading.Thread]:
    """In which thread each message was made into items."""
    found = []

    def watched(entry: Entry) -> list[Item]:
        found.append(threading.current_thread())
        return items_of(entry)

    monkeypatch.setattr("app.stores.items.items_of", watched)
    return found


async def test_large_messages_are_made_items_beside_the_loop(
    alice: httpx.AsyncClient, threads: list[threading.Thread]
) -> None:
    path = await made(alice)
    (large,) = await add(alice, path, said("x" * 100_000, id="large"))
    assert (await alice.get(f"{path}/items/large")).json() == large
    assert await listed(alice, path) == [large]
    await alice.delete(f"{path}/items/large")
    assert len(threads) == 5
    assert threading.main_thread() not in threads


async def test_a_page_makes_no_more_items_than_it_has_of_messages_of_many(
    alice: httpx.AsyncClient, threads: list[threading.Thread]
) -> None:
    path = await new_conversation(alice)
    for _ in range(3):
        calls = [{"id": f"call-{number}", "name": "look"} for number in range(10)]
        await alice.post(f"{path}/messages", json={"role": "assistant", "tool_calls": calls})
    for order in ("asc", "desc"):
        page = (await alice.get(f"{door(path)}/items", params={"limit": 5, "order": order})).json()
        assert (len(page["data"]), page["has_more"]) == (5, True)
    assert len(threads) == 2


async def test_a_place_is_passed_whose_message_and_the_next_fill_more_than_a_page(alice: httpx.AsyncClient) -> None:
    path = await made(alice)
    ids = [(await add(alice, path, said(f"{number}" + "x" * 5_000_000)))[0]["id"] for number in range(2)]
    assert [item["id"] for item in await listed(alice, path, order="asc", after=ids[0])] == ids[1:]
    assert [item["id"] for item in await listed(alice, path, after=ids[1])] == ids[:1]


async def test_a_refusal_says_whole_sentences_in_the_words_of_items(
    app: Litestar, alice: httpx.AsyncClient, new_key: NewKey
) -> None:
    path = await made(alice, said("x", id="known"))
    of_a_message = MessageIds(UUID(path.rpartition("_")[2])).of(1)
    for own_id, code in (("known", "item_already_in_conversation"), (of_a_message, "invalid_value")):
        answer = await alice.post(f"{path}/items", json={"items": [said("y", id=own_id)]})
        assert refusal(answer) == (400, code, "items")
        assert answer.json()["error"]["message"].startswith("An item brings an id ")
    keyed = await alice.post(HOME, headers={"Idempotency-Key": "a b"})
    assert refusal(keyed)[2] == "Idempotency-Key"
    async with client_of(app, await new_key()) as nobody:
        message = (await nobody.get(HOME)).json()["error"]["message"]
    assert message == "The key acts for no user of its own: name one in X-User-Id."


@pytest.mark.parametrize("own_id", ["a/b", "...", "a/.b/c.", "%2F", "a?b#c", "a%", 'a"\\;+&', "items", "x" * 128])
async def test_an_item_is_found_by_whatever_id_it_may_bring(alice: httpx.AsyncClient, own_id: str) -> None:
    path = await made(alice, said("x", id=own_id))
    encoded = "".join(f"%{byte:02X}" for byte in own_id.encode())
    (item,) = await listed(alice, path)
    assert (await alice.get(f"{path}/items/{encoded}")).json() == item
    assert await listed(alice, path, after=own_id) == []
    assert (await alice.delete(f"{path}/items/{encoded}")).status_code == 200


async def test_an_edit_that_changes_nothing_of_an_item_leaves_it_as_it_came(alice: httpx.AsyncClient) -> None:
    item = {"role": "assistant", "content": "x", "phase": "final_answer"}
    path = await made(alice, {"type": "reasoning", "summary": []}, item)
    before = await listed(alice, path)
    for message in (await alice.get(f"{native(path)}/messages")).json()["data"]:
        same = {name: message[name] for name in ("content", "tool_call_id", "status")} | {"metadata": {"a": 1}}
        assert (await alice.patch(f"{native(path)}/messages/{message['id']}", json=same)).status_code == 200
    assert await listed(alice, path) == before


async def test_a_client_id_is_never_taken_for_the_computed_id_of_another_item(alice: httpx.AsyncClient) -> None:
    path = await made(alice, said("a"), said("b"))
    (first, second) = await listed(alice, path, order="asc")
    body = {"role": "user", "content": "c", "client_id": first["id"]}
    assert (await alice.post(f"{native(path)}/messages", json=body)).status_code == 201
    *others, third = await listed(alice, path, order="asc", limit=1)
    assert (others, texts([third])) == ([first, second], ["c"])
    for item in (first, second, third):
        assert (await alice.get(f"{path}/items/{item['id']}")).json() == item


async def test_a_deleted_place_is_gone_on_from(alice: httpx.AsyncClient) -> None:
    path = await made(alice, *(said(str(number), id=f"id-{number}") for number in range(4)))
    (computed,) = await add(alice, path, said("4"))
    await add(alice, path, said("5"))
    for item_id in ("id-2", computed["id"]):
        await alice.delete(f"{path}/items/{item_id}")
    assert texts(await listed(alice, path, order="asc", after="id-2")) == ["3", "5"]
    assert texts(await listed(alice, path, order="asc", after=computed["id"])) == ["5"]
    assert texts(await listed(alice, path, after=computed["id"])) == ["3", "1", "0"]


async def test_an_unknown_place_is_not_found(alice: httpx.AsyncClient) -> None:
    path = await made(alice, said("x"))
    ahead = MessageIds(UUID(path.rpartition("_")[2])).of(2).replace("-", "")
    for after in ("msg_1", "", "a\0b", f"msg_{ahead}0000"):
        assert refusal(await alice.get(f"{path}/items", params={"after": after})) == (404, None, "after")
    missing = f"{HOME}/conv_{'0' * 32}/items"
    answer = await alice.get(missing, params={"after": "msg_1"})
    assert refusal(answer) == (404, None, None)
    assert answer.json()["error"]["message"] == f"Conversation with id 'conv_{'0' * 32}' not found."


async def test_an_item_among_several_of_a_message_is_deleted_alone(alice: httpx.AsyncClient, mixed: str) -> None:
    whole = await listed(alice, door(mixed), order="asc")
    left = list(whole)
    for place in (3, 1, 13, 14, 12, 2, 4, 11):  # calls in the middle, words, the last ones, whole messages
        item = whole[place]
        assert (await alice.delete(f"{door(mixed)}/items/{item['id']}")).status_code == 200
        left.remove(item)
        assert await listed(alice, door(mixed), order="asc") == left, place
        assert refusal(await alice.delete(f"{door(mixed)}/items/{item['id']}")) == (404, None, None)
    messages = (await alice.get(f"{mixed}/messages")).json()["data"]
    assert [message["seq"] for message in messages] == [1, 3, 4, 5, 6, 7]


# One store


async def test_what_came_as_items_reads_sensibly_elsewhere(alice: httpx.AsyncClient) -> None:
    call = {"type": "function_call", "call_id": "c", "name": "weather", "arguments": '{"city":"Rome"}'}
    path = await made(alice, said("Be brief.", "system"), said("What is the weather?"))
    other = call | {"call_id": "d", "phase": "x"}
    result = {"type": "function_call_output", "output": "sunny"}
    reasoning = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}]}
    results = [result | {"call_id": "d"}, result | {"call_id": "c"}]
    await add(alice, path, reasoning, call, other, *results, said("Sunny.", "assistant"))
    messages = (await alice.get(f"{native(path)}/messages")).json()["data"]
    functions = [
        {"id": name, "type": "function", "function": {"name": "weather", "arguments": call["arguments"]}}
        for name in ("c", "d")
    ]
    told = [(message["role"], message["content"], message["tool_calls"]) for message in messages]
    assert told == [
        ("system", "Be brief.", None),
        ("user", "What is the weather?", None),
        ("assistant", [reasoning], None),
        ("assistant", None, [functions[0]]),
        ("assistant", None, [functions[1]]),
        ("tool", "sunny", None),
        ("tool", "sunny", None),
        ("assistant", "Sunny.", None),
    ]
    context = (await alice.get(f"{native(path)}/context", params={"format": "openai"})).json()
    assert context["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is the weather?"},
        {"role": "assistant", "content": None, "tool_calls": functions},
        {"role": "tool", "tool_call_id": "c", "content": "sunny"},
        {"role": "tool", "tool_call_id": "d", "content": "sunny"},
        {"role": "assistant", "content": "Sunny."},
    ]
    history = (await alice.get(f"/chat/history/{native(path).rpartition('/')[2]}")).json()["history"]
    assert [(entry["role"], entry["content"]) for entry in history if entry["content"]] == [
        ("system", "Be brief."),
        ("user", "What is the weather?"),
        ("tool", "sunny"),
        ("tool", "sunny"),
        ("assistant", "Sunny."),
    ]


async def test_an_edit_elsewhere_shows_in_the_item(alice: httpx.AsyncClient) -> None:
    path = await made(alice)
    kept = said("x", "assistant", phase="final_answer", id="mine")
    reasoning = {"type": "reasoning", "id": "rs_1", "summary": []}
    await add(alice, path, kept, reasoning)
    await alice.patch(f"{native(path)}/messages/rs_1", json={"metadata": {"a": 1}})
    assert (await alice.get(f"{path}/items/rs_1")).json() == reasoning
    await alice.patch(f"{native(path)}/messages/mine", json={"content": "edited"})
    await alice.patch(f"{native(path)}/messages/rs_1", json={"status": "incomplete"})
    assert (await alice.get(f"{path}/items/rs_1")).json() == reasoning
    item = (await alice.get(f"{path}/items/mine")).json()
    assert (item["content"][0]["text"], item["id"]) == ("edited", "mine")
    await alice.patch(f"{native(path)}/messages/rs_1", json={"content": "edited"})
    assert (await alice.get(f"{path}/items/rs_1")).json()["type"] == "message"


async def test_a_fork_has_the_same_items(alice: httpx.AsyncClient) -> None:
    path = await made(alice, {"content": "x", "role": "user", "never": [1e2]}, {"type": "reasoning", "summary": []})
    fork = (await alice.post(f"{native(path)}/fork")).json()
    copies = await listed(alice, door(f"/{fork['id']}"))
    assert [item | {"id": ""} for item in copies] == [item | {"id": ""} for item in await listed(alice, path)]


async def test_bytes_come_back_as_they_came(alice: httpx.AsyncClient) -> None:
    path = await made(alice)
    item = rb'{"type":"tool_search_call","arguments":{"b":1e2,"a":1E400,"\u0061":"\u0000","c":-0},"execution":"client"}'
    body = b'{"items":[%b]}' % item
    answer = await alice.post(f"{path}/items", content=body, headers={"Content-Type": "application/json"})
    assert item[1:-1] in answer.content
    assert item[1:-1] in (await alice.get(f"{path}/items")).content


async def test_items_are_counted_against_the_limits(alice: httpx.AsyncClient) -> None:
    path = await made(alice, *(said(str(number)) for number in range(20)))
    too_many = [said(str(number)) for number in range(21)]
    assert refusal(await alice.post(HOME, json={"items": too_many})) == (400, "array_above_max_length", "items")
    refused = await alice.post(f"{path}/items", json={"items": too_many})
    assert refusal(refused) == (400, "array_above_max_length", "items")
    long = "x" * 1_000_000
    (item,) = await add(alice, path, said(long))
    assert texts([item]) == [long]
    large = await alice.post(f"{path}/items", json={"items": [said("x" * 10_500_000)]})
    assert refusal(large) == (413, "request_too_large", None)
    assert len(await listed(alice, path)) == 21


METADATA = [
    ({str(n): "x" for n in range(17)}, "object_above_max_properties", "metadata"),
    ({"é" * 65: "x"}, "property_name_above_max_length", f"metadata.{'é' * 64}..."),
    ({"a/b": "é" * 513}, "string_above_max_length", "metadata.a/b"),
    ({"a": 5}, "invalid_type", "metadata.a"),
    ({"a": "\0"}, "invalid_value", "metadata.a"),
    ([], "invalid_type", "metadata"),
]


@pytest.mark.parametrize(("metadata", "code", "param"), METADATA)
async def test_metadata_has_its_limits(alice: httpx.AsyncClient, metadata: object, code: str, param: str) -> None:
    path = await made(alice)
    for target in (HOME, path):
        assert refusal(await alice.post(target, json={"metadata": metadata})) == (400, code, param)


async def test_metadata_at_its_limits_is_kept(alice: httpx.AsyncClient) -> None:
    metadata = {f"{n:02}" + "🎉" * 62: "🎉" * 512 for n in range(16)}
    created = await alice.post(
        HOME, content=json.dumps({"metadata": metadata}).encode(), headers={"Content-Type": "application/json"}
    )
    assert created.json()["metadata"] == metadata


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"{", "invalid_json", None),
        (b"\xff", "invalid_json", None),
        (b'{"items": [{"role": "user", "content": "\\ud800"}]}', "invalid_json", None),
        (b"[]", "invalid_type", None),
        (b"{}", "missing_required_parameter", "items"),
        (b'{"items": []}', "empty_array", "items"),
        (b'{"items": {}}', "invalid_type", "items"),
        (
            b'{"items": [{"role": "user", "content": "x"}], "items": [{"role": "user", "content": "x"}]}',
            "invalid_value",
            "items",
        ),
        (b'{"items": [{"role": "user", "content": "x"}], "x": 1}', "unknown_parameter", "x"),
        (b'{"items": [{"role": "user", "content": "x"}, 5]}', "invalid_type", "items[1]"),
        (b'{"items": [{"role": "nobody", "content": "x"}]}', "invalid_value", "items[0].role"),
        (b'{"items": [{"role": "user", "content": [{}]}]}', "missing_required_parameter", "items[0].content[0].type"),
        (b'{"items": [{"type": "item_reference", "id": "x"}]}', "invalid_value", "items[0].type"),
    ],
)
async def test_a_bad_body_is_refused_in_the_envelope(
    alice: httpx.AsyncClient, body: bytes, code: str, param: str | None
) -> None:
    path = await made(alice)
    answer = await alice.post(f"{path}/items", content=body, headers={"Content-Type": "application/json"})
    assert refusal(answer) == (400, code, param)
    assert await listed(alice, path) == []


@pytest.mark.parametrize(
    ("query", "code", "param"),
    [
        ("limit=101", "integer_above_max_value", "limit"),
        ("limit=9999999999999999999999", "integer_above_max_value", "limit"),
        ("limit=0", "integer_below_min_value", "limit"),
        ("limit=x", "invalid_type", "limit"),
        ("order=up", "invalid_value", "order"),
        ("include[]=nothing", "invalid_value", "include"),
        ("before=x", "unknown_parameter", "before"),
        ("limit=1&limit=2", "invalid_value", "limit"),
    ],
)
async def test_a_bad_query_is_refused_in_the_envelope(
    alice: httpx.AsyncClient, query: str, code: str, param: str
) -> None:
    path = await made(alice)
    assert refusal(await alice.get(f"{path}/items?{query}")) == (400, code, param)


async def test_whatever_is_to_be_included_all_is(alice: httpx.AsyncClient) -> None:
    path = await made(alice, {"type": "reasoning", "summary": [], "encrypted_content": "x"})
    asked = (
        "include%5B%5D=reasoning.encrypted_content&include[]=code_interpreter_call.outputs&include[0]="
        "web_search_call.results&include=message.output_text.logprobs"
    )
    assert (await alice.get(f"{path}/items?{asked}&limit=5")).json()["data"] == await listed(alice, path)


async def test_unknown_routes_methods_and_keys_are_refused_in_the_envelope(alice: httpx.AsyncClient) -> None:
    path = await made(alice)
    assert refusal(await alice.get("/openai/v1/nothing")) == (404, None, None)
    assert refusal(await alice.post(f"{path}/messages")) == (404, None, None)
    assert refusal(await alice.get(f"{HOME}/{'x' * 9000}")) == (404, None, None)
    assert refusal(await alice.get(f"{HOME}/a%00b")) == (404, None, None)
    assert refusal(await alice.get(f"{path}/items/a%00b")) == (404, None, None)
    assert refusal(await alice.patch(path))[:2] == (405, "method_not_allowed")
    nobody = await alice.get(path, headers={"Authorization": "Bearer nonsense"})
    assert refusal(nobody) == (401, "invalid_api_key", None)
    assert nobody.headers["WWW-Authenticate"] == "Bearer"


async def test_the_headers_that_clients_send_are_no_reason_to_refuse(alice: httpx.AsyncClient) -> None:
    headers = {"OpenAI-Organization": "o", "OpenAI-Project": "p", "X-Stainless-Lang": "x", "OpenAI-Beta": "y"}
    assert (await alice.post(HOME, json={}, headers=headers)).status_code == 200


async def test_two_owners_share_nothing(alice: httpx.AsyncClient, bob: httpx.AsyncClient) -> None:
    hers, his = await made(alice, said("hers", id="same")), await made(bob, said("his", id="same"))
    absent = f"{HOME}/conv_{'0' * 32}"
    for suffix in ("", "/items", "/items/same", "/items?after=same"):
        foreign, unknown = await bob.get(f"{hers}{suffix}"), await bob.get(f"{absent}{suffix}")
        assert foreign.status_code == 404
        assert foreign.text.replace(hers, absent).replace(hers[-32:], "0" * 32) == unknown.text
    for method in ("POST", "DELETE"):
        body = {"metadata": {"a": "b"}} if method == "POST" else None
        assert (await bob.request(method, hers, json=body)).status_code == 404
    assert (await bob.post(f"{hers}/items", json={"items": [said("x")]})).status_code == 404
    assert (await bob.delete(f"{hers}/items/same")).status_code == 404
    assert texts(await listed(alice, hers)) == ["hers"]
    assert texts(await listed(bob, his)) == ["his"]
    assert [entry["id"] for entry in (await bob.get(HOME)).json()["data"]] == [his.rpartition("/")[2]]


async def test_a_key_that_is_bound_to_no_user_must_name_one(app: Litestar, new_key: NewKey) -> None:
    key = await new_key()
    async with client_of(app, key) as nobody, client_of(app, key, **{"X-User-Id": "carol"}) as carol:
        assert refusal(await nobody.post(HOME, json={}))[:2] == (400, "user_required")
        assert (await carol.post(HOME, json={})).status_code == 200


async def test_the_model_is_named(alice: httpx.AsyncClient) -> None:
    model = {"id": "echo", "object": "model", "created": 0, "owned_by": "verbatim"}
    assert (await alice.get("/openai/v1/models")).json() == {"object": "list", "data": [model]}


# Turns that are not finished


@pytest.fixture
def model() -> Iterator[ModelServer]:
    """It says one word, and then nothing until it is released."""
    with model_server() as server:
        server.answers([Send(chunk({"content": "Hello"})), Hang(), Send(chunk(finish_reason="stop") + DONE)])
        yield server


@pytest.fixture
async def carol(
    settings: Settings, url: DatabaseUrl, model: ModelServer, new_key: NewKey
) -> AsyncIterator[httpx.AsyncClient]:
    asking = replace(settings, model_base_url=model.url, model_name="slow", reply_flush_seconds=0.02)
    async with replica(asking, url) as service, service.client(await new_key(user="carol")) as client:
        yield client


async def test_a_turn_is_listed_when_its_reply_is_finished(carol: httpx.AsyncClient, model: ModelServer) -> None:
    path = await made(carol, said("before"))
    asked = {"messages": [{"role": "user", "content": "one"}, {"role": "user", "content": "two"}]}
    async with carol.stream(
        "POST", f"{native(path)}/replies", json=asked, headers={"Accept": "text/event-stream"}
    ) as stream:
        async for event in events_of(stream):
            if event.name == "reply.delta":
                break
    (behind,) = await add(carol, path, said("behind"))
    hidden = (await carol.get(f"{native(path)}/messages")).json()["data"][1:4]
    for order in ("asc", "desc"):
        page = (await carol.get(f"{path}/items", params={"order": order})).json()
        assert (texts(page["data"]), page["has_more"]) == (["before"], False)
    for message in hidden:
        item_id = f"msg_{message['id'].replace('-', '')}0000"
        assert (await carol.get(f"{path}/items/{item_id}")).status_code == 404
        assert (await carol.delete(f"{path}/items/{item_id}")).status_code == 404
    model.release()
    async with asyncio.timeout(10):
        while len(found := await listed(carol, path, order="asc")) == 1:  # noqa: ASYNC110  # it ends elsewhere
            await asyncio.sleep(0.02)
    assert texts(found) == ["before", "one", "two", "Hello", "behind"]
    assert found[-1] == behind


@pytest.mark.own_app
async def test_items_added_while_one_is_deleted_are_kept(alice: httpx.AsyncClient, connection: Conn) -> None:
    path = await made(alice, said("first", id="first"))
    adding = [alice.post(f"{path}/items", json={"items": [said(str(n)), said("x")]}) for n in range(6)]
    answers = await asyncio.gather(*adding, alice.delete(f"{path}/items/first"))
    assert {answer.status_code for answer in answers} == {200}
    assert len(await listed(alice, path)) == 12
    assert await connection.fetchval("SELECT count(*) FROM messages") == 13
