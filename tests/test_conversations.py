from asyncio import gather
from uuid import UUID, uuid4

import pytest
from httpx import AsyncClient

from app.queries import Conn
from app.stores import purges
from tests.conftest import append, contents, new_conversation, problem

pytestmark = pytest.mark.shares_app

HOME = "/v1/conversations"


async def test_a_new_conversation_has_every_member(alice: AsyncClient) -> None:
    answer = await alice.post(HOME, json={})
    assert answer.status_code == 201
    assert answer.headers["ETag"] == '"0.0"'
    body = answer.json()
    assert answer.headers["Location"] == f"{HOME}/{body['id']}"
    empty = ("key", "title", "pinned_at", "archived_at", "forked_from")
    assert {name: body.pop(name) for name in empty} == dict.fromkeys(empty)
    assert (body.pop("metadata"), body.pop("tags"), body.pop("user_id")) == ({}, [], "alice")
    assert (body.pop("last_seq"), body.pop("revision"), body.pop("message_count")) == (0, 0, 0)
    assert body.pop("created_at") == body.pop("updated_at")
    assert UUID(body.pop("id")).version == 7
    assert body == {}


async def test_a_conversation_needs_no_body(alice: AsyncClient) -> None:
    assert (await alice.post(HOME)).status_code == 201


async def test_a_conversation_is_read_as_it_was_answered(alice: AsyncClient) -> None:
    made = await alice.post(
        HOME, json={"key": "k", "title": "", "tags": ["a", "a"], "messages": [{"role": "user", "content": "x"}]}
    )
    assert (await alice.get(made.headers["Location"])).content == made.content


async def test_first_messages_come_with_the_conversation(alice: AsyncClient) -> None:
    path = await new_conversation(alice, ["one", "two"])
    assert await contents(alice, path) == ["one", "two"]
    body = (await alice.get(path)).json()
    assert (body["last_seq"], body["message_count"]) == (2, 2)


async def test_a_bad_first_message_makes_no_conversation(alice: AsyncClient) -> None:
    answer = await alice.post(HOME, json={"messages": [{"role": "user", "content": "x"}, {"role": "king"}]})
    assert problem(answer) == "invalid-input"
    assert answer.json()["errors"][0]["pointer"] == "/messages/1/role"
    assert (await alice.get(HOME)).json()["data"] == []


async def test_a_brought_id_is_kept(alice: AsyncClient) -> None:
    brought = str(uuid4())
    assert (await alice.post(HOME, json={"id": brought})).json()["id"] == brought


@pytest.mark.parametrize("taken", ["id", "key"])
async def test_a_taken_id_or_key_is_a_conflict_that_names_the_conversation(alice: AsyncClient, taken: str) -> None:
    members = {"id": str(uuid4()), "key": "k"}
    await new_conversation(alice, **members)
    answer = await alice.post(HOME, json={taken: members[taken]})
    assert (answer.status_code, problem(answer)) == (409, "conversation-exists")
    assert answer.json()["conversation_id"] == members["id"]


async def test_two_owners_may_have_the_same_id_and_key(alice: AsyncClient, bob: AsyncClient) -> None:
    members = {"id": str(uuid4()), "key": "k"}
    path = await new_conversation(alice, ["hers"], **members)
    assert await new_conversation(bob, ["his"], **members) == path
    assert (await contents(alice, path), await contents(bob, path)) == (["hers"], ["his"])


async def test_creating_with_a_deleted_id_is_a_conflict(alice: AsyncClient) -> None:
    brought = str(uuid4())
    await alice.delete(await new_conversation(alice, id=brought))
    answer = await alice.post(HOME, json={"id": brought})
    assert (answer.status_code, problem(answer)) == (409, "conversation-deleted")


async def test_creating_again_with_the_same_key_answers_the_same_conversation(alice: AsyncClient) -> None:
    headers = {"Idempotency-Key": "create-1"}
    body = {"title": "t", "messages": [{"role": "user", "content": "x"}]}
    made = await alice.post(HOME, json=body, headers=headers)
    await append(alice, made.headers["Location"], "later")
    again = await alice.post(HOME, json=body, headers={"Idempotency-Key": '"create-1"'})
    assert (again.status_code, again.headers["Idempotent-Replay"]) == (200, "true")
    assert (again.json()["id"], again.json()["last_seq"]) == (made.json()["id"], 2)


async def test_a_creation_key_with_another_body_is_refused(alice: AsyncClient) -> None:
    headers = {"Idempotency-Key": "create-1"}
    await alice.post(HOME, json={"title": "t"}, headers=headers)
    answer = await alice.post(HOME, json={"title": "u"}, headers=headers)
    assert (answer.status_code, problem(answer)) == (422, "idempotency-key-reused")


async def test_a_creation_key_after_the_delete_is_a_conflict(alice: AsyncClient) -> None:
    headers = {"Idempotency-Key": "create-1"}
    await alice.delete((await alice.post(HOME, headers=headers)).headers["Location"])
    assert problem(await alice.post(HOME, headers=headers)) == "conversation-deleted"


async def test_a_creation_key_excludes_an_id(alice: AsyncClient) -> None:
    answer = await alice.post(HOME, json={"id": str(uuid4())}, headers={"Idempotency-Key": "k"})
    assert (problem(answer), answer.json()["errors"][0]["pointer"]) == ("invalid-input", "/id")


async def test_one_creation_key_is_two_conversations_for_two_owners(alice: AsyncClient, bob: AsyncClient) -> None:
    answers = [await client.post(HOME, headers={"Idempotency-Key": "k"}) for client in (alice, bob)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json()["id"] != answers[1].json()["id"]


async def test_many_who_get_or_create_at_once_get_one_conversation(alice: AsyncClient) -> None:
    answers = await gather(*(alice.put(f"{HOME}/by-key/default") for _ in range(16)))
    assert sorted(answer.status_code for answer in answers) == [200] * 15 + [201]
    assert len({answer.json()["id"] for answer in answers}) == 1


async def test_get_or_create_takes_its_body_only_to_create(alice: AsyncClient) -> None:
    made = await alice.put(f"{HOME}/by-key/k", json={"title": "first", "messages": [{"role": "user", "content": "x"}]})
    again = await alice.put(f"{HOME}/by-key/k", json={"title": "second"})
    assert (again.status_code, again.json()["title"], again.json()["id"]) == (200, "first", made.json()["id"])
    assert await contents(alice, made.headers["Location"]) == ["x"]


async def test_get_or_create_refuses_another_key_in_the_body(alice: AsyncClient) -> None:
    answer = await alice.put(f"{HOME}/by-key/k", json={"key": "l"})
    assert answer.json()["errors"][0]["pointer"] == "/key"
    assert (await alice.put(f"{HOME}/by-key/k", json={"key": "k"})).status_code == 201


async def test_get_or_create_with_a_taken_id_is_a_conflict(alice: AsyncClient) -> None:
    path = await new_conversation(alice)
    answer = await alice.put(f"{HOME}/by-key/k", json={"id": path.rpartition("/")[2]})
    assert problem(answer) == "conversation-exists"


async def test_get_or_create_after_a_delete_makes_a_new_conversation(alice: AsyncClient) -> None:
    old = await alice.put(f"{HOME}/by-key/k")
    await alice.delete(old.headers["Location"])
    new = await alice.put(f"{HOME}/by-key/k")
    assert (new.status_code, new.json()["id"] != old.json()["id"]) == (201, True)
    answer = await alice.post(f"{old.headers['Location']}/restore")
    assert (answer.status_code, problem(answer)) == (409, "key-taken")
    assert answer.json()["conversation_id"] == new.json()["id"]


async def test_a_held_version_is_not_sent_again(alice: AsyncClient) -> None:
    path = await new_conversation(alice)
    answer = await alice.get(path, headers={"If-None-Match": 'W/"0.0", "9.9"'})
    assert (answer.status_code, answer.content, answer.headers["ETag"]) == (304, b"", '"0.0"')
    await append(alice, path, "x")
    assert (await alice.get(path, headers={"If-None-Match": '"0.0"'})).status_code == 200


async def test_a_change_leaves_what_it_does_not_name(alice: AsyncClient) -> None:
    path = await new_conversation(alice, title="t", tags=["a"], metadata={"a": 1})
    body = (await alice.patch(path, json={"title": "u"})).json()
    assert (body["title"], body["tags"], body["metadata"], body["revision"]) == ("u", ["a"], {"a": 1}, 1)


async def test_null_clears(alice: AsyncClient) -> None:
    path = await new_conversation(alice, title="t", tags=["a"], metadata={"a": 1})
    await alice.patch(path, json={"archived": True, "pinned": True})
    nulls = dict.fromkeys(("title", "tags", "metadata", "archived", "pinned"))
    body = (await alice.patch(path, json=nulls)).json()
    assert [body[name] for name in ("title", "tags", "metadata", "archived_at", "pinned_at")] == [
        None,
        [],
        {},
        None,
        None,
    ]


async def test_a_pin_keeps_its_first_time(alice: AsyncClient) -> None:
    path = await new_conversation(alice)
    first = (await alice.patch(path, json={"pinned": True})).json()["pinned_at"]
    assert first is not None
    assert (await alice.patch(path, json={"pinned": True})).json()["pinned_at"] == first


async def test_a_change_of_nothing_is_no_revision(alice: AsyncClient) -> None:
    path = await new_conversation(alice)
    assert (await alice.patch(path, json={})).json()["revision"] == 0


async def test_title_metadata_tags_pin_and_archive_do_not_move_updated_at(alice: AsyncClient) -> None:
    path = await new_conversation(alice)
    before = (await alice.get(path)).json()["updated_at"]
    change = {"title": "t", "metadata": {"a": 1}, "tags": ["x"], "pinned": True, "archived": True}
    assert (await alice.patch(path, json=change)).json()["updated_at"] == before


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
@pytest.mark.parametrize(
    ("version", "status"), [('"0"', 412), ('"1"', 200), ('"1.0"', 200), ('"1.1"', 412), ("*", 200)]
)
async def test_changes_wait_for_their_version(alice: AsyncClient, method: str, version: str, status: int) -> None:
    path = await new_conversation(alice, ["x"])
    body = {"json": {"title": "t"}} if method == "PATCH" else {}
    answer = await alice.request(method, path, headers={"If-Match": version}, **body)
    assert answer.status_code in {status, 204 if status == 200 else status}
    if status == 412:
        assert (problem(answer), answer.json()["last_seq"], answer.json()["revision"]) == ("precondition-failed", 1, 0)


async def test_a_deleted_conversation_vanishes_from_every_read(alice: AsyncClient) -> None:
    path = await new_conversation(alice, ["x"], key="k")
    assert (await alice.delete(path)).status_code == 204
    reads = [path, f"{path}/messages", f"{path}/messages/x"]
    assert [(await alice.get(read)).status_code for read in reads] == [404] * 3
    assert (await alice.get(HOME)).json()["data"] == []
    assert [problem(await alice.delete(path)), problem(await append(alice, path, "y"))] == ["not-found"] * 2


async def test_a_deleted_conversation_is_restored_whole(alice: AsyncClient) -> None:
    path = await new_conversation(alice, ["x"], key="k", title="t")
    await alice.delete(path)
    restored = await alice.post(f"{path}/restore")
    assert (restored.status_code, restored.json()["revision"], restored.json()["title"]) == (200, 2, "t")
    assert await contents(alice, path) == ["x"]


async def test_restoring_what_is_there_changes_nothing(alice: AsyncClient) -> None:
    path = await new_conversation(alice)
    answer = await alice.post(f"{path}/restore")
    assert (answer.status_code, answer.json()["revision"]) == (200, 0)


async def test_past_its_window_nothing_is_restored(alice: AsyncClient, connection: Conn) -> None:
    path = await new_conversation(alice)
    await alice.delete(path)
    await connection.execute("UPDATE conversations SET deleted_at = now() - interval '30 days 1 second'")
    assert problem(await alice.post(f"{path}/restore")) == "not-found"


@pytest.mark.own_app
async def test_a_purge_erases_now(alice: AsyncClient, connection: Conn) -> None:
    path = await new_conversation(alice, ["x", "y"])
    assert (await alice.delete(path, params={"purge": "true"})).status_code == 204
    assert await connection.fetchval("SELECT count(*) FROM conversations") == 0
    assert await connection.fetchval("SELECT count(*) FROM messages") == 0
    assert problem(await alice.post(f"{path}/restore")) == "not-found"


@pytest.mark.own_app
async def test_a_purge_finds_the_deleted_too(alice: AsyncClient, connection: Conn) -> None:
    path = await new_conversation(alice, ["x"])
    await alice.delete(path)
    assert (await alice.delete(path, params={"purge": "true"})).status_code == 204
    assert await connection.fetchval("SELECT count(*) FROM conversations") == 0
    assert problem(await alice.delete(path, params={"purge": "true"})) == "not-found"


async def test_a_purge_of_a_stale_list_spares_what_was_made_anew(alice: AsyncClient, connection: Conn) -> None:
    brought = str(uuid4())
    path = await new_conversation(alice, ["old"], id=brought)
    owner_id = await connection.fetchval("SELECT owner_id FROM conversations")
    await alice.delete(path, params={"purge": "true"})
    await new_conversation(alice, ["new"], id=brought)
    await purges._erase(connection, owner_id, UUID(brought), 0)
    assert await contents(alice, path) == ["new"]


@pytest.mark.own_app
async def test_purge_erases_only_what_is_past_its_window(alice: AsyncClient, connection: Conn) -> None:
    gone, kept = await new_conversation(alice, ["a"]), await new_conversation(alice, ["b", "c"])
    await alice.delete(gone)
    await connection.execute(
        "UPDATE conversations SET deleted_at = now() - interval '31 days' WHERE deleted_at IS NOT NULL"
    )
    await alice.request("DELETE", f"{kept}/messages?from_seq=2")
    assert await purges.purge(connection, 30) == (1, 0)
    await connection.execute("UPDATE messages SET deleted_at = now() - interval '31 days' WHERE deleted_at IS NOT NULL")
    assert await purges.purge(connection, 30) == (0, 1)
    assert await contents(alice, kept) == ["b"]


async def test_many_who_get_or_create_with_the_same_id_get_one_conversation(alice: AsyncClient) -> None:
    for number in range(5):
        body = {"id": str(uuid4())}
        answers = await gather(*(alice.put(f"{HOME}/by-key/k{number}", json=body) for _ in range(8)))
        assert sorted(answer.status_code for answer in answers) == [200] * 7 + [201]


async def test_tokens_of_a_fork_do_not_go_below_nothing(alice: AsyncClient, connection: Conn) -> None:
    path = await new_conversation(alice)
    message = {"role": "user", "content": "x", "usage": {"input_tokens": 100}, "client_id": "c"}
    await alice.post(f"{path}/messages", json=message)
    forked = (await alice.post(f"{path}/fork")).headers["Location"]
    assert (await alice.patch(f"{forked}/messages/c", json={"usage": None})).status_code == 200
    assert await connection.fetchval("SELECT min(input_tokens) FROM conversations") == 0


async def test_a_fork_copies_what_is_visible(alice: AsyncClient) -> None:
    path = await new_conversation(alice, title="t", tags=["a"], metadata={"a": 1}, key="k")
    for place, text in enumerate("abcd"):
        await alice.post(f"{path}/messages", json={"role": "user", "content": text, "client_id": f"c{place}"})
    await alice.delete(f"{path}/messages/c1")
    fork = await alice.post(f"{path}/fork", json={"through_seq": 3})
    assert fork.status_code == 201
    body, forked = fork.json(), fork.headers["Location"]
    assert body["forked_from"] == {"conversation_id": path.rpartition("/")[2], "seq": 3}
    assert (body["title"], body["tags"], body["metadata"], body["key"]) == ("t", ["a"], {"a": 1}, None)
    assert (body["last_seq"], body["revision"], body["message_count"]) == (2, 0, 2)
    old = (await alice.get(f"{path}/messages")).json()["data"]
    new = (await alice.get(f"{forked}/messages")).json()["data"]
    assert [(message["seq"], message["client_id"], message["content"]) for message in new] == [
        (1, "c0", "a"),
        (2, "c2", "c"),
    ]
    assert [message["created_at"] for message in new] == [old[0]["created_at"], old[1]["created_at"]]
    assert not {message["id"] for message in new} & {message["id"] for message in old}


async def test_a_fork_goes_its_own_way(alice: AsyncClient) -> None:
    path = await new_conversation(alice, ["a"])
    forked = (await alice.post(f"{path}/fork", json={"title": "other"})).headers["Location"]
    await append(alice, forked, "b")
    assert (await contents(alice, path), await contents(alice, forked)) == (["a"], ["a", "b"])


async def test_a_fork_does_not_take_the_keys_of_appends(alice: AsyncClient) -> None:
    path = await new_conversation(alice)
    await append(alice, path, "a", **{"Idempotency-Key": "k"})
    forked = (await alice.post(f"{path}/fork")).headers["Location"]
    assert (await append(alice, forked, "b", **{"Idempotency-Key": "k"})).status_code == 201


async def test_a_fork_past_the_head_is_refused(alice: AsyncClient) -> None:
    path = await new_conversation(alice, ["a"])
    answer = await alice.post(f"{path}/fork", json={"through_seq": 2})
    assert answer.json()["errors"][0]["pointer"] == "/through_seq"


async def test_the_list_is_ordered_by_last_use(alice: AsyncClient) -> None:
    paths = [await new_conversation(alice, title=str(number)) for number in range(3)]
    await append(alice, paths[0], "x")
    titles = [conversation["title"] for conversation in (await alice.get(HOME)).json()["data"]]
    assert titles == ["0", "2", "1"]


async def listed(client: AsyncClient, **params: object) -> list[str]:
    """The titles of all pages, having checked that each page but the last says that there is more."""
    titles: list[str] = []
    while True:
        page = (await client.get(HOME, params=params)).json()
        titles += [conversation["title"] for conversation in page["data"]]
        assert page["has_more"] == (page["next_cursor"] is not None)
        if not page["has_more"]:
            return titles
        params["after"] = page["next_cursor"]


@pytest.mark.own_app
async def test_pages_of_the_list_neither_repeat_nor_skip_within_and_over_minutes(
    alice: AsyncClient, connection: Conn
) -> None:
    for number in range(25):
        await new_conversation(alice, title=str(number))
    await connection.execute(
        """UPDATE conversations SET updated_at = moment, active_at = date_trunc('minute', moment)
        FROM (SELECT id, timestamptz '2026-01-01' + (title::int / 2) * interval '20 seconds' AS moment
              FROM conversations) AS moved WHERE moved.id = conversations.id"""
    )
    rows = await connection.fetch("SELECT title FROM conversations ORDER BY updated_at DESC, id DESC")
    assert await listed(alice, limit=4) == [row["title"] for row in rows]


async def test_archived_conversations_are_listed_apart(alice: AsyncClient) -> None:
    paths = [await new_conversation(alice, title=str(number)) for number in range(4)]
    await alice.patch(paths[1], json={"archived": True})
    assert await listed(alice) == ["3", "2", "0"]
    assert await listed(alice, archived="true") == ["1"]


async def test_the_list_is_filtered_by_pin_and_tag(alice: AsyncClient) -> None:
    for number in range(6):
        path = await new_conversation(alice, title=str(number), tags=["even"] if number % 2 == 0 else [])
        await alice.patch(path, json={"pinned": number < 3})
    assert await listed(alice, tag="even", limit=1) == ["4", "2", "0"]
    assert await listed(alice, pinned="true", limit=2) == ["2", "1", "0"]
    assert await listed(alice, pinned="false", tag="even") == ["4"]
    assert await listed(alice, tag="odd") == []


async def test_a_filtered_page_looks_at_a_thousand_conversations(alice: AsyncClient, connection: Conn) -> None:
    await new_conversation(alice, title="needle", tags=["needle"])
    await connection.execute(
        """INSERT INTO conversations (owner_id, id, created_at, updated_at, active_at, metadata)
        SELECT owner_id, gen_random_uuid(), moment, moment, date_trunc('minute', moment), '{}'
        FROM conversations, LATERAL (SELECT now() + number * interval '1 second' AS moment
                                     FROM generate_series(1, 1500) AS number) AS moments"""
    )
    first = (await alice.get(HOME, params={"tag": "needle"})).json()
    assert (first["data"], first["has_more"]) == ([], True)
    assert await listed(alice, tag="needle") == ["needle"]


async def test_active_at_is_always_the_minute_of_updated_at(alice: AsyncClient, connection: Conn) -> None:
    path = await new_conversation(alice, ["x"])
    await append(alice, path, "y", "z")
    await alice.patch(f"{path}/messages/{await _first_id(alice, path)}", json={"content": "w"})
    await alice.request("DELETE", f"{path}/messages?from_seq=2")
    await alice.delete(path)
    await alice.post(f"{path}/restore")
    assert await connection.fetchval("SELECT bool_and(active_at = date_trunc('minute', updated_at)) FROM conversations")


async def _first_id(client: AsyncClient, path: str) -> str:
    return str((await client.get(f"{path}/messages")).json()["data"][0]["id"])
