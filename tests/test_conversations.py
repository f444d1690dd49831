from httpx import AsyncClient

from tests.conftest import append, contents, new_conversation, problem


async def test_a_new_conversation_has_every_member(alice: AsyncClient) -> None:
    answer = await alice.post("/v1/conversations", json={})
    assert answer.status_code == 201
    assert answer.headers["ETag"] == '"0.0"'
    body = answer.json()
    assert answer.headers["Location"] == f"/v1/conversations/{body['id']}"
    empty = ("key", "title", "pinned_at", "archived_at", "forked_from")
    assert {name: body.pop(name) for name in empty} == dict.fromkeys(empty)
    assert (body.pop("metadata"), body.pop("tags"), body.pop("user_id")) == ({}, [], "alice")
    assert (body.pop("last_seq"), body.pop("revision"), body.pop("message_count")) == (0, 0, 0)
    assert body.pop("created_at") == body.pop("updated_at")
    assert list(body) == ["id"]


async def test_first_messages_come_with_the_conversation(alice: AsyncClient) -> None:
    path = await new_conversation(alice, ["one", "two"])
    assert await contents(alice, path) == ["one", "two"]
    body = (await alice.get(path)).json()
    assert (body["last_seq"], body["message_count"]) == (2, 2)
