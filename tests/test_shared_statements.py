"""Requests that share a statement are answered as they would be alone."""

import asyncio
import json
import random
from asyncio import gather
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
import pytest
from httpx import AsyncClient
from msgspec import structs

from app.appender import SHARED_BODY_BYTES
from app.database import Database
from app.database_url import DatabaseUrl
from app.queries import Conn
from app.stores import appends, shared_pages
from tests.conftest import PATIENT, NewKey, append, client_of, contents, new_conversation, problem, running

pytestmark = pytest.mark.shares_app

KEY = "Idempotency-Key"


@pytest.fixture
async def alone(url: DatabaseUrl, new_key: NewKey) -> AsyncIterator[AsyncClient]:
    """Alice's, of a service over the same database that shares nothing."""
    key = await new_key(user="alice")
    async with (
        running(structs.replace(PATIENT, shared_statements=False), url) as app,
        client_of(app, key) as client,
    ):
        yield client


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many appends each shared statement was given, and then how many of them it made."""
    counts: list[int] = []
    inner = appends.append_shared

    async def counted(connection: Conn, requests: list[Any]) -> list[Any]:
        made = await inner(connection, requests)
        counts.extend((len(requests), sum(one is not None for one in made)))
        return made

    monkeypatch.setattr(appends, "append_shared", counted)
    return counts


def watch(monkeypatch: pytest.MonkeyPatch, name: str) -> list[bool]:
    """Of each page that was asked for, whether it was as it was known."""
    found: list[bool] = []
    inner = getattr(shared_pages, name)

    async def watched(connection: Conn, requests: list[Any]) -> list[Any]:
        pages: list[Any] = await inner(connection, requests)
        found.extend(page is request.known for page, request in zip(pages, requests, strict=True))
        return pages

    monkeypatch.setattr(shared_pages, name, watched)
    return found


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    return watch(monkeypatch, "list_messages")


@pytest.fixture
def unlisted(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    return watch(monkeypatch, "list_conversations")


async def page(client: AsyncClient, path: str, **params: object) -> httpx.Response:
    answer = await client.get(f"{path}/messages", params=params)
    assert answer.status_code == 200, answer.text
    return answer


async def test_appends_at_once_share_statements_and_are_gap_free(alice: AsyncClient, batches: list[int]) -> None:
    paths = [await new_conversation(alice) for _ in range(5)]
    answers = await gather(*(append(alice, path, f"{n}") for n in range(20) for path in paths))
    assert {answer.status_code for answer in answers} == {201}
    assert sum(batches[1::2]) > 80
    for place, path in enumerate(paths):
        mine = [answer.json() for answer in answers[place::5]]
        listed = (await page(alice, path, limit=100)).json()["data"]
        assert [message["seq"] for message in listed] == list(range(1, 21))
        said = {message["id"]: (message["content"], message["seq"], message["created_at"]) for message in listed}
        assert said == {
            made["messages"][0]["id"]: (str(n), made["messages"][0]["seq"], made["messages"][0]["created_at"])
            for n, made in enumerate(mine)
        }
        assert [made["last_seq"] for made in mine] == [made["messages"][0]["seq"] for made in mine]
        times = [message["created_at"] for message in listed]
        assert times == sorted(times)


MEMBERS: list[dict[str, object]] = [
    {"role": "user", "content": "plain"},
    {
        "role": "assistant",
        "content": [{"type": "text", "text": "é🙂\u0000"}],
        "model": "m",
        "usage": {"input_tokens": 3},
    },
    {"role": "assistant", "content": None, "tool_calls": [{"id": "c"}], "metadata": {"a": 1e2}, "status": "incomplete"},
    {"role": "tool", "content": "42", "tool_call_id": "c", "name": "sum"},
    {"role": "system", "content": "s", "audio_files": [], "function_calls": {}},
    {"role": "developer", "content": "d", "client_id": "mine"},
]


async def test_what_is_kept_together_is_what_is_kept_alone(
    alice: AsyncClient, alone: AsyncClient, batches: list[int], connection: Conn
) -> None:
    together, one_by_one = await new_conversation(alice), await new_conversation(alice)
    await gather(*(alice.post(f"{together}/messages", json=members) for members in MEMBERS))
    for members in MEMBERS:
        assert (await alone.post(f"{one_by_one}/messages", json=members)).status_code == 201
    assert sum(batches[1::2]) > 1
    own = "SELECT role, status, client_id, append_key, append_count, fingerprint, tool_call_id, name, model"
    own += ", content::text, tool_calls::text, audio_files::text, function_calls::text, usage::text"
    own += ", metadata::text, source::text, body_bytes, revision, updated_at, deleted_at"
    own += " FROM messages WHERE conversation_id = $1 ORDER BY role, seq"
    counted = "SELECT last_seq, revision, user_message_count, assistant_message_count, tool_message_count"
    counted += ", system_message_count, developer_message_count, input_tokens, output_tokens"
    counted += ", active_at = date_trunc('minute', updated_at) FROM conversations WHERE id = $1"
    for query in (own, counted):
        rows = [await connection.fetch(query, UUID(path.rpartition("/")[2])) for path in (together, one_by_one)]
        assert sorted(map(repr, rows[0])) == sorted(map(repr, rows[1]))


async def test_repeats_of_one_request_at_once_make_one_message(alice: AsyncClient, batches: list[int]) -> None:
    path = await new_conversation(alice)
    marked = [{KEY: f"k{n % 10}"} for n in range(80)]
    answers = await gather(*(append(alice, path, "x", **headers) for headers in marked))
    assert sorted(answer.status_code for answer in answers) == [200] * 70 + [201] * 10
    assert sum(batches[1::2]) > 0
    for n in range(10):
        assert len({json.dumps(answer.json()["messages"]) for answer in answers[n::10]}) == 1
    named = [{"role": "user", "content": "y", "client_id": f"c{n % 10}"} for n in range(40)]
    answers = list(await gather(*(alice.post(f"{path}/messages", json=body) for body in named)))
    assert sorted(answer.status_code for answer in answers) == [200] * 30 + [201] * 10
    assert len(await contents(alice, path)) == 20


async def test_each_of_a_batch_has_its_own_answer(alice: AsyncClient, bob: AsyncClient, batches: list[int]) -> None:
    path, foreign, deleted = await new_conversation(alice), await new_conversation(bob), await new_conversation(alice)
    await alice.delete(deleted)
    await append(alice, path, "first", **{KEY: "known"})
    await alice.post(f"{path}/messages", json={"role": "user", "content": "second", "client_id": "named"})
    batches.clear()
    message = {"role": "user", "content": "x"}
    requests: list[tuple[str, dict[str, str], dict[str, str], int]] = [
        (path, message, {}, 201),
        (foreign, message, {}, 404),
        (deleted, message, {}, 404),
        (path, {"role": "user", "content": "first"}, {KEY: "known"}, 200),
        (path, message, {KEY: "known"}, 422),
        (path, {"role": "user", "content": "second", "client_id": "named"}, {}, 200),
        (path, {**message, "client_id": "named"}, {}, 422),
        (path, {**message, "client_id": "named"}, {KEY: "new"}, 422),
        (path, message, {"If-Match": '"1"'}, 412),
        (path, message, {"If-Match": "*"}, 201),
    ]
    answers = await gather(
        *(alice.post(f"{where}/messages", json=body, headers=headers) for where, body, headers, _ in requests)
    )
    assert [answer.status_code for answer in answers] == [status for *_, status in requests]
    assert batches[0] > batches[1] > 0
    assert await contents(alice, path) == ["first", "second", "x", "x"]
    assert await contents(bob, foreign) == []


async def test_a_bad_row_fails_alone(alice: AsyncClient, connection: Conn, batches: list[int]) -> None:
    path, full = await new_conversation(alice), await new_conversation(alice)
    await connection.execute(
        "UPDATE conversations SET last_seq = 1099511627775 WHERE id = $1", UUID(full.rpartition("/")[2])
    )
    first = append(alice, path, "which is written alone while the others come")
    answers = await gather(first, append(alice, full, "too much"), *(append(alice, path, f"{n}") for n in range(4)))
    assert [answer.status_code for answer in answers] == [201, 500, 201, 201, 201, 201]
    assert batches == []  # none was made together
    assert len(await contents(alice, path)) == 5


async def test_locked_conversations_hold_up_no_other(
    alice: AsyncClient, connection: Conn, pytestconfig: pytest.Config
) -> None:
    if pytestconfig.getoption("pgbouncer"):
        pytest.skip("its three sessions are fewer than those of one locked conversation")
    locked, free = [await new_conversation(alice) for _ in range(2)], [await new_conversation(alice) for _ in range(3)]
    ids = [UUID(path.rpartition("/")[2]) for path in locked]
    loop = asyncio.get_running_loop()
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("SELECT FROM conversations WHERE id = any($1) FOR UPDATE", ids)
    waiting = [asyncio.create_task(append(alice, locked[0], f"{n}", **{KEY: f"{n}"})) for n in range(8)]
    await asyncio.sleep(0.02)
    begun_at = loop.time()
    waiting.append(asyncio.create_task(append(alice, locked[1], "among the others")))
    answers = await gather(*(append(alice, path, "x") for path in free for _ in range(8)))
    assert loop.time() - begun_at < PATIENT.lock_timeout_seconds * 0.8
    assert {answer.status_code for answer in answers} == {201}
    assert not any(task.done() for task in waiting)
    await transaction.rollback()
    assert {answer.status_code for answer in await gather(*waiting)} <= {201, 503}
    assert all([await contents(alice, path) == ["x"] * 8 for path in free])


async def test_who_follows_is_told_of_what_was_kept_together(
    alice: AsyncClient, monkeypatch: pytest.MonkeyPatch, batches: list[int]
) -> None:
    paths = [await new_conversation(alice) for _ in range(5)]
    told: list[Any] = []
    inner = Database.tell
    monkeypatch.setattr(Database, "tell", lambda self, lane: (told.append(lane), inner(self, lane)))
    await gather(*(append(alice, path, "x") for path in paths))
    assert sum(batches[1::2]) > 1
    assert sorted(str(conversation_id) for _, conversation_id in told) == sorted(path[-36:] for path in paths)


async def test_what_is_large_is_kept_alone(alice: AsyncClient, batches: list[int]) -> None:
    path = await new_conversation(alice)
    texts = ["x" * SHARED_BODY_BYTES, "small", "small"]
    answers = await gather(*(append(alice, path, text) for text in texts))
    assert {answer.status_code for answer in answers} == {201}
    assert sum(batches[::2]) <= 2


async def test_a_service_that_shares_nothing_answers_too(alone: AsyncClient, batches: list[int]) -> None:
    path = await new_conversation(alone)
    answers = await gather(*(append(alone, path, f"{n}") for n in range(10)))
    assert [answer.status_code for answer in answers] == [201] * 10
    assert sorted(map(str, await contents(alone, path))) == [str(n) for n in range(10)]
    assert batches == []


async def test_pages_read_together_are_those_read_alone(alice: AsyncClient, alone: AsyncClient) -> None:
    rng = random.Random(7)
    paths = [await new_conversation(alice, [f"{n}" for n in range(size)]) for size in (0, 1, 7, 30)]
    for members in MEMBERS:
        await alice.post(f"{paths[2]}/messages", json=members)
    first = (await page(alice, paths[3])).json()["data"]
    await alice.patch(f"{paths[3]}/messages/{first[4]['id']}", json={"content": "otherwise"})
    await alice.delete(f"{paths[3]}/messages/{first[6]['id']}")
    fork = await alice.post(f"{paths[3]}/fork", json={"through_seq": 12, "title": "fork"})
    await alice.patch(fork.headers["Location"], json={"pinned": True, "tags": ["a"], "metadata": {"x": 1e5}})
    asked: list[tuple[str, dict[str, object]]] = []
    for _ in range(60):
        bounds = {name: rng.randrange(35) for name in ("after", "before") if rng.random() < 0.5}
        params = {"order": rng.choice(["asc", "desc"]), "limit": rng.choice([1, 2, 5, 50, 100, 101, 1000]), **bounds}
        asked.append((f"{rng.choice([*paths, fork.headers['Location']])}/messages", params))
    listed = [{"limit": 2}, {}, {"limit": 1}, {"archived": "true"}, {"pinned": "true"}, {"tag": "a"}]
    asked += [("/v1/conversations", {**params}) for params in listed]
    cursor = (await alice.get("/v1/conversations", params={"limit": 2})).json()["next_cursor"]
    asked += [("/v1/conversations", {"after": cursor, "limit": limit}) for limit in (1, 2, 20)]
    asked += [("/v1/conversations/0192a4c8-7c1e-7d3a-9f00-3f1c5a2b7e10/messages", {})]
    together = await gather(*(alice.get(path, params=params) for path, params in asked))
    again = await gather(*(alice.get(path, params=params) for path, params in asked))
    for (path, params), one, other in zip(asked, together, again, strict=True):
        apart = await alone.get(path, params=params)
        if apart.status_code == 200:
            assert (one.content, other.content) == (apart.content, apart.content), (path, params)
        else:
            assert (problem(one), problem(other)) == (problem(apart), problem(apart))


async def test_a_page_is_read_again_only_when_something_has_changed(
    alice: AsyncClient, bob: AsyncClient, unread: list[bool]
) -> None:
    path = await new_conversation(alice, ["a", "b", "c"])
    first = await page(alice, path)
    assert (await page(alice, path)).content == first.content
    assert unread == [False, True]
    ids = [message["id"] for message in first.json()["data"]]
    changes = [
        lambda: append(alice, path, "d"),
        lambda: alice.patch(f"{path}/messages/{ids[0]}", json={"content": "A"}),
        lambda: alice.delete(f"{path}/messages/{ids[1]}"),
        lambda: alice.post(f"{path}/messages/restore", json={"revision": 2}),
        lambda: alice.delete(f"{path}/messages?from_seq=3"),
    ]
    wanted = [["a", "b", "c", "d"], ["A", "b", "c", "d"], ["A", "c", "d"], ["A", "b", "c", "d"], ["A", "b"]]
    for change, texts in zip(changes, wanted, strict=True):
        unread.clear()
        assert (await change()).status_code in {200, 201}
        pages = [await page(alice, path) for _ in range(2)]
        assert [[message["content"] for message in one.json()["data"]] for one in pages] == [texts] * 2
        assert unread == [False, True]
    assert problem(await bob.get(f"{path}/messages")) == "not-found"
    assert (await alice.delete(path)).status_code == 204
    assert problem(await alice.get(f"{path}/messages")) == "not-found"


async def test_a_list_is_read_again_only_when_something_has_changed(
    alice: AsyncClient, alone: AsyncClient, unlisted: list[bool]
) -> None:
    paths = [await new_conversation(alice, ["a"]) for _ in range(4)]
    message = f"{paths[1]}/messages/{(await page(alice, paths[1])).json()['data'][0]['id']}"
    fresh: dict[str, object] = {"id": "0192a4c8-7c1e-7d3a-9f00-3f1c5a2b7e12"}
    made_anew = f"/v1/conversations/{fresh['id']}"
    changes = [
        lambda: append(alice, paths[0], "b"),
        lambda: append(alone, paths[1], "of another replica"),
        lambda: alice.patch(message, json={"content": "A"}),
        lambda: alice.delete(message),
        lambda: alice.patch(paths[2], json={"title": "t"}),
        lambda: alice.patch(paths[2], json={"metadata": {"a": 1.0}, "tags": ["x"]}),
        lambda: alice.patch(paths[2], json={"pinned": True}),
        lambda: alice.patch(paths[3], json={"archived": True}),
        lambda: alice.patch(paths[3], json={"archived": False}),
        lambda: alice.post(f"{paths[0]}/fork", json={}),
        lambda: alice.post("/v1/conversations", json=fresh),
        lambda: alice.delete(made_anew),
        lambda: alice.post(f"{made_anew}/restore"),
        lambda: alice.delete(made_anew, params={"purge": "true"}),
        lambda: alice.post("/v1/conversations", json={**fresh, "title": "anew"}),
    ]
    for change in changes:
        for params in ({"limit": 2}, {}):
            unlisted.clear()
            first, again, whole = [
                await client.get("/v1/conversations", params=params) for client in (alice, alice, alone)
            ]
            assert first.content == again.content == whole.content
        assert unlisted == [False, True]
        assert (await change()).is_success


async def test_a_page_that_grows_is_the_one_that_is_read_whole(alice: AsyncClient, alone: AsyncClient) -> None:
    path = await new_conversation(alice)
    changes = random.Random(5)  # the same changes each time
    for step in range(60):
        texts = [f"{step}.{n}" * changes.randrange(1, 200) for n in range(changes.choice([0, 1, 1, 2, 6, 9]))]
        if texts:
            body = {"messages": [{"role": "user", "content": text} for text in texts]}
            assert (await alice.post(f"{path}/messages", json=body)).status_code == 201
        elif listed := (await page(alone, path, order="desc", limit=20)).json()["data"]:
            message = f"{path}/messages/{changes.choice(listed)['id']}"
            change = alice.delete(message) if step % 2 else alice.patch(message, json={"content": "changed"})
            assert (await change).is_success
        for limit in (1, 5, 8, 100):
            ours, whole = [await page(client, path, order="desc", limit=limit) for client in (alice, alone)]
            assert ours.content == whole.content


async def test_a_page_that_has_grown_too_large_is_read_alone(alice: AsyncClient, alone: AsyncClient) -> None:
    path = await new_conversation(alice)
    for _ in range(12):
        assert (await append(alice, path, "x" * 60_000)).status_code == 201
        ours, whole = [await page(client, path, order="desc") for client in (alice, alone)]
        assert ours.content == whole.content


async def test_a_page_that_is_large_is_read_alone(alice: AsyncClient, alone: AsyncClient, unread: list[bool]) -> None:
    large = "x" * shared_pages.SHARED_PAGE_BYTES
    for texts in ([large], ["a", large, "b"], [large[:-1000], "y" * 2000, "z"]):
        path = await new_conversation(alice, texts)
        for order in ("asc", "desc"):
            pages = [await page(client, path, order=order) for client in (alice, alice, alone)]
            assert len({one.content for one in pages}) == 1
            assert len(pages[0].json()["data"]) == len(texts)
    assert not any(unread)


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("later", [0, 1, 60])
async def test_what_a_lost_commit_said_is_not_shown_for_what_came_in_its_place(
    alice: AsyncClient, connection: Conn, order: str, later: int
) -> None:
    path = await new_conversation(alice, ["a", "lost"])
    await page(alice, path, order=order)
    own = UUID(path.rpartition("/")[2])
    await connection.execute("DELETE FROM messages WHERE conversation_id = $1 AND seq = 2", own)
    await connection.execute("UPDATE conversations SET last_seq = 1 WHERE id = $1", own)
    texts = ["a", "kept", *(f"{n}" for n in range(later))]
    for text in texts[1:]:
        await append(alice, path, text)
    shown = [message["content"] for message in (await page(alice, path, order=order)).json()["data"]]
    assert shown == (texts[:50] if order == "asc" else texts[::-1][:50])


@pytest.mark.parametrize(
    "change",
    [
        "created_at = created_at - interval '1 second'",
        "updated_at = updated_at + interval '1 second'",
        "changed_at = now(), title = 'otherwise'",
        "last_seq = last_seq + 1",
        "revision = revision + 1",
        "user_message_count = user_message_count + 1",
    ],
)
async def test_a_list_is_read_again_for_any_one_difference(
    alice: AsyncClient, alone: AsyncClient, connection: Conn, change: str
) -> None:
    path = await new_conversation(alice, ["a"])
    own = UUID(path.rpartition("/")[2])
    before = await alice.get("/v1/conversations")
    await connection.execute(f"UPDATE conversations SET {change} WHERE id = $1", own)
    ours, whole = [await client.get("/v1/conversations") for client in (alice, alone)]
    assert ours.content == whole.content != before.content


async def test_a_list_is_read_again_for_another_conversation(
    alice: AsyncClient, alone: AsyncClient, connection: Conn
) -> None:
    moment = datetime.now(UTC)
    for _ in range(2):
        path = await new_conversation(alice)
        own = UUID(path.rpartition("/")[2])
        await connection.execute("UPDATE conversations SET created_at = $1, updated_at = $1 WHERE id = $2", moment, own)
        ours, whole = [await client.get("/v1/conversations") for client in (alice, alone)]
        assert ours.content == whole.content
        assert (await alice.delete(path, params={"purge": "true"})).status_code == 204


@pytest.mark.parametrize("lost", ["an edit", "a title"])
async def test_what_a_lost_change_said_is_not_shown_beside_what_came_in_its_place(
    alice: AsyncClient, alone: AsyncClient, connection: Conn, lost: str
) -> None:
    path = await new_conversation(alice, ["a", "b", "c"])
    own = UUID(path.rpartition("/")[2])
    before = await connection.fetchrow("SELECT updated_at, title FROM conversations WHERE id = $1", own)
    message = f"{path}/messages/{(await page(alice, path)).json()['data'][0]['id']}"
    changed, change = (message, {"content": "lost"}) if lost == "an edit" else (path, {"title": "lost"})
    assert (await alice.patch(changed, json=change)).is_success
    await page(alice, path, order="desc")
    undone = "UPDATE messages SET content = '\"a\"', revision = 0, updated_at = NULL WHERE conversation_id = $1"
    await connection.execute(f"{undone} AND seq = 1", own)
    undone = "UPDATE conversations SET revision = 0, updated_at = $2, title = $3 WHERE id = $1"
    await connection.execute(undone, own, *before)
    second = f"{path}/messages/{(await page(alone, path)).json()['data'][1]['id']}"
    assert (await alice.delete(second)).is_success
    for text in ("d", "e", "f"):
        ours, whole = [await page(client, path, order="desc") for client in (alice, alone)]
        assert ours.content == whole.content
        await append(alice, path, text)


async def test_a_conversation_made_anew_shows_nothing_of_the_one_before(alice: AsyncClient) -> None:
    conversation = {"id": "0192a4c8-7c1e-7d3a-9f00-3f1c5a2b7e10"}
    for text in ("before", "after"):
        path = await new_conversation(alice, [text], **conversation)
        for _ in range(2):
            assert [message["content"] for message in (await page(alice, path)).json()["data"]] == [text]
        assert (await alice.delete(path, params={"purge": "true"})).status_code == 204


async def test_a_change_by_another_replica_is_seen_at_once(alice: AsyncClient, alone: AsyncClient) -> None:
    path = await new_conversation(alice, ["a"])
    for text in "bcd":
        await page(alice, path)
        await append(alone, path, text)
        assert (await page(alice, path)).json()["data"][-1]["content"] == text


async def test_no_page_of_another_is_ever_given(alice: AsyncClient, bob: AsyncClient) -> None:
    # Two owners may have conversations of one id.
    same = {"id": "0192a4c8-7c1e-7d3a-9f00-3f1c5a2b7e11"}
    paths = [await new_conversation(client, [name], **same) for client, name in ((alice, "alice"), (bob, "bob"))]
    assert paths[0] == paths[1]
    pages = await gather(*(page(client, paths[0]) for client in (alice, bob) * 10))
    assert [one.json()["data"][0]["content"] for one in pages] == ["alice", "bob"] * 10
