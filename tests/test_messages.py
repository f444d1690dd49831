import pytest
from httpx import AsyncClient

from app.pages import PAGE_LIMIT_BYTES
from app.queries import Conn
from tests.conftest import append, contents, new_conversation, problem

pytestmark = pytest.mark.shares_app

MEMBERS = [
    "id", "client_id", "conversation_id", "seq", "role", "content", "tool_calls", "tool_call_id", "name",
    "audio_files", "function_calls", "model", "usage", "status", "metadata", "revision", "created_at", "updated_at",
]  # fmt: skip


async def ids(client: AsyncClient, path: str) -> list[str]:
    return [message["id"] for message in (await client.get(f"{path}/messages")).json()["data"]]


async def test_a_message_has_every_member(alice: AsyncClient) -> None:
    path = await new_conversation(alice, ["x"])
    (message,) = (await alice.get(f"{path}/messages")).json()["data"]
    assert list(message) == MEMBERS
    assert (message["seq"], message["status"], message["revision"], message["metadata"]) == (1, "completed", 0, None)
    assert message["created_at"] == message["updated_at"]


async def test_every_field_of_a_message_is_kept(alice: AsyncClient) -> None:
    path = await new_conversation(alice)
    sent = {
        "role": "assistant",
        "content": [{"type": "text", "text": "x"}],
        "tool_calls": [{"id": "1"}],
        "tool_call_id": "call",
        "name": "n",
        "audio_files": [],
        "function_calls": {"f": 1},
        "model": "m",
        "usage": {"prompt_tokens": 3, "completion_tokens": 4},
        "status": "incomplete",
        "metadata": {"a": None},
        "client_id": "c",
    }
    assert (await alice.post(f"{path}/messages", json=sent)).status_code == 201
    kept = (await alice.get(f"{path}/messages/c")).json()
    assert {name: kept[name] for name in sent} == sent


async def test_a_message_is_found_by_id_and_by_client_id(alice: AsyncClient) -> None:
    path = await new_conversation(alice)
    await alice.post(f"{path}/messages", json={"role": "user", "content": "x", "client_id": "a.b:c~d@e-f"})
    (message_id,) = await ids(alice, path)
    by_id, by_client_id = (
        await alice.get(f"{path}/messages/{message_id}"),
        await alice.get(f"{path}/messages/a.b:c~d@e-f"),
    )
    assert (by_id.status_code, by_id.content) == (200, by_client_id.content)


async def test_an_id_of_another_conversation_is_not_found(alice: AsyncClient) -> None:
    path, other = await new_conversation(alice, ["x"]), await new_conversation(alice, ["y"])
    (message_id,) = await ids(alice, other)
    wanted = [message_id, message_id.upper(), message_id[:-1] + "9", message_id[:-10] + "0" * 10, "nothing"]
    assert [problem(await alice.get(f"{path}/messages/{wish}")) for wish in wanted] == ["not-found"] * 5


async def read(client: AsyncClient, path: str, **params: object) -> list[int]:
    page = (await client.get(f"{path}/messages", params=params)).json()
    return [message["seq"] for message in page["data"]]


async def test_bounds_are_exclusive_and_combine(alice: AsyncClient) -> None:
    path = await new_conversation(alice, [str(number) for number in range(6)])
    assert await read(alice, path, after=2) == [3, 4, 5, 6]
    assert await read(alice, path, before=3, order="desc") == [2, 1]
    assert await read(alice, path, after=1, before=5, limit=2) == [2, 3]
    assert await read(alice, path, after=1, before=5, limit=2, order="desc") == [4, 3]
    assert await read(alice, path, after=6) == await read(alice, path, before=0) == []


@pytest.mark.parametrize(("order", "bound"), [("asc", "after"), ("desc", "before")])
async def test_pages_follow_the_cursor_to_the_end(alice: AsyncClient, order: str, bound: str) -> None:
    path = await new_conversation(alice, [str(number) for number in range(7)])
    params: dict[str, str] = {"order": order, "limit": "3"}
    seqs, sizes = [], []
    while True:
        page = (await alice.get(f"{path}/messages", params=params)).json()
        seqs += [message["seq"] for message in page["data"]]
        sizes.append(len(page["data"]))
        if page["next_cursor"] is None:
            break
        assert page["has_more"]
        params[bound] = page["next_cursor"]
    assert (seqs if order == "asc" else seqs[::-1], sizes) == ([1, 2, 3, 4, 5, 6, 7], [3, 3, 1])


async def test_a_page_ends_before_its_bytes_do(alice: AsyncClient) -> None:
    path = await new_conversation(alice)
    third = "x" * (PAGE_LIMIT_BYTES // 3 - 100)
    for _ in range(4):
        await append(alice, path, third)
    page = (await alice.get(f"{path}/messages")).json()
    assert ([message["seq"] for message in page["data"]], page["has_more"], page["next_cursor"]) == (
        [1, 2, 3],
        True,
        "3",
    )
    assert await read(alice, path, after=3) == [4]


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_a_page_has_one_message_however_large(alice: AsyncClient, order: str) -> None:
    path = await new_conversation(alice)
    for _ in range(2):
        await append(alice, path, "x" * (PAGE_LIMIT_BYTES + 1))
    first = (await alice.get(f"{path}/messages", params={"order": order})).json()
    assert (len(first["data"]), first["has_more"]) == (1, True)
    bound = {"after" if order == "asc" else "before": first["next_cursor"]}
    last = (await alice.get(f"{path}/messages", params={"order": order, **bound})).json()
    assert (len(last["data"]), last["has_more"]) == (1, False)


async def test_an_edit_changes_what_it_names(alice: AsyncClient) -> None:
    path = await new_conversation(alice, ["x", "y"])
    first, _ = await ids(alice, path)
    answer = await alice.patch(
        f"{path}/messages/{first}", json={"content": "z", "metadata": {"a": 1}, "status": "failed"}
    )
    body = answer.json()
    assert (body["content"], body["metadata"], body["status"], body["revision"], body["role"]) == (
        "z", {"a": 1}, "failed", 1, "user",
    )  # fmt: skip
    assert (answer.headers["ETag"], body["updated_at"] > body["created_at"]) == ('"2.1"', True)
    assert await contents(alice, path) == ["z", "y"]


async def test_an_edit_moves_the_conversation(alice: AsyncClient) -> None:
    path = await new_conversation(alice, ["x"])
    before = (await alice.get(path)).json()["updated_at"]
    edited = (await alice.patch(f"{path}/messages/{(await ids(alice, path))[0]}", json={"content": "y"})).json()
    assert (await alice.get(path)).json()["updated_at"] == edited["updated_at"] > before


async def test_null_clears_a_field_of_a_message(alice: AsyncClient) -> None:
    path = await new_conversation(alice)
    sent = {
        "role": "tool",
        "content": "x",
        "tool_calls": [],
        "tool_call_id": "t",
        "usage": {},
        "status": "failed",
        "metadata": {},
    }
    await alice.post(f"{path}/messages", json={**sent, "client_id": "c"})
    cleared = ("content", "tool_call_id", "usage", "status", "metadata")
    body = (await alice.patch(f"{path}/messages/c", json=dict.fromkeys(cleared))).json()
    assert [body[name] for name in cleared] == [None, None, None, "completed", None]
    assert body["tool_calls"] == []


async def test_an_edit_may_not_leave_nothing_said(alice: AsyncClient) -> None:
    path = await new_conversation(alice, ["x"])
    answer = await alice.patch(f"{path}/messages/{(await ids(alice, path))[0]}", json={"content": None})
    assert (problem(answer), answer.json()["errors"][0]["pointer"]) == ("invalid-input", "/content")
    assert await contents(alice, path) == ["x"]


async def test_an_edit_of_nothing_is_no_revision(alice: AsyncClient) -> None:
    path = await new_conversation(alice, ["x"])
    answer = await alice.patch(f"{path}/messages/{(await ids(alice, path))[0]}", json={})
    assert (answer.status_code, answer.headers["ETag"]) == (200, '"1.0"')


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
@pytest.mark.parametrize("extent", ["one", "all"])
async def test_changes_of_messages_wait_for_the_conversations_version(
    alice: AsyncClient, method: str, extent: str
) -> None:
    path = await new_conversation(alice, ["x"])
    target = (
        f"{path}/messages?from_seq=1"
        if extent == "all" and method == "DELETE"
        else f"{path}/messages/{(await ids(alice, path))[0]}"
    )
    body = {"json": {"content": "y"}} if method == "PATCH" else {}
    answer = await alice.request(method, target, headers={"If-Match": '"1.1"'}, **body)
    assert (answer.status_code, answer.json()["last_seq"], answer.json()["revision"]) == (412, 1, 0)
    assert await contents(alice, path) == ["x"]
    assert (await alice.request(method, target, headers={"If-Match": '"1.0"'}, **body)).status_code == 200


async def test_a_deleted_message_is_not_read(alice: AsyncClient) -> None:
    path = await new_conversation(alice, ["x", "y", "z"])
    target = f"{path}/messages/{(await ids(alice, path))[1]}"
    answer = await alice.delete(target)
    assert (answer.status_code, answer.json(), answer.headers["ETag"]) == (200, {"last_seq": 3, "revision": 1}, '"3.1"')
    assert await contents(alice, path) == ["x", "z"]
    assert [problem(await alice.request(method, target, **body)) for method, body in
            (("GET", {}), ("DELETE", {}), ("PATCH", {"json": {"content": "w"}}))] == ["not-found"] * 3  # fmt: skip
    assert (await alice.get(path)).json()["message_count"] == 2


async def test_a_truncation_hides_from_a_seq_on_and_numbers_on(alice: AsyncClient) -> None:
    path = await new_conversation(alice, ["a", "b", "c"])
    answer = await alice.request("DELETE", f"{path}/messages?from_seq=2")
    assert answer.json() == {"last_seq": 3, "revision": 1}
    appended = await append(alice, path, "d")
    assert appended.json()["messages"][0]["seq"] == 4
    assert await contents(alice, path) == ["a", "d"]


async def test_repeating_a_truncation_answers_the_revision_that_restores(alice: AsyncClient) -> None:
    path = await new_conversation(alice, ["a", "b"])
    first = await alice.request("DELETE", f"{path}/messages?from_seq=1")
    assert (await alice.request("DELETE", f"{path}/messages?from_seq=1")).json() == first.json()


async def test_what_one_call_hid_comes_back(alice: AsyncClient) -> None:
    path = await new_conversation(alice, ["a", "b", "c", "d"])
    first = (await alice.delete(f"{path}/messages/{(await ids(alice, path))[1]}")).json()["revision"]
    second = (await alice.request("DELETE", f"{path}/messages?from_seq=3")).json()["revision"]
    await append(alice, path, "e")
    answer = await alice.post(f"{path}/messages/restore", json={"revision": second})
    assert (answer.status_code, answer.json()) == (200, {"last_seq": 5, "revision": 3})
    assert await contents(alice, path) == ["a", "c", "d", "e"]
    await alice.post(f"{path}/messages/restore", json={"revision": first})
    assert await contents(alice, path) == ["a", "b", "c", "d", "e"]
    assert (await alice.get(path)).json()["message_count"] == 5


async def test_a_restored_message_is_not_younger_than_its_last_edit(alice: AsyncClient, connection: Conn) -> None:
    path = await new_conversation(alice, ["a"])
    await connection.execute("UPDATE messages SET updated_at = now() + interval '1 hour'")
    revision = (await alice.request("DELETE", f"{path}/messages?from_seq=1")).json()["revision"]
    await alice.post(f"{path}/messages/restore", json={"revision": revision})
    assert await connection.fetchval("SELECT updated_at > now() + interval '59 minutes' FROM messages")


async def test_an_unknown_revision_restores_nothing(alice: AsyncClient) -> None:
    path = await new_conversation(alice, ["a"])
    assert problem(await alice.post(f"{path}/messages/restore", json={"revision": 1})) == "not-found"


async def test_messages_past_their_window_are_not_restored(alice: AsyncClient, connection: Conn) -> None:
    path = await new_conversation(alice, ["a"])
    revision = (await alice.request("DELETE", f"{path}/messages?from_seq=1")).json()["revision"]
    await connection.execute("UPDATE messages SET deleted_at = now() - interval '31 days'")
    assert problem(await alice.post(f"{path}/messages/restore", json={"revision": revision})) == "not-found"


async def test_times_never_go_backwards_against_seq(alice: AsyncClient, connection: Conn) -> None:
    path = await new_conversation(alice, ["a"])
    await connection.execute("UPDATE conversations SET updated_at = now() + interval '1 hour'")
    await append(alice, path, "b")
    times = [message["created_at"] for message in (await alice.get(f"{path}/messages")).json()["data"]]
    assert times == sorted(times)
    assert (await alice.get(path)).json()["updated_at"] == times[-1]


@pytest.mark.own_app
async def test_counters_count_visible_messages_by_role(alice: AsyncClient, connection: Conn) -> None:
    path = await new_conversation(alice)
    roles = ["user", "assistant", "tool", "system", "developer", "user"]
    await alice.post(f"{path}/messages", json={"messages": [{"role": role, "content": "x"} for role in roles]})
    await alice.post(f"{path}/messages", json={"role": "tool", "content": "x"})
    await alice.delete(f"{path}/messages/{(await ids(alice, path))[0]}")
    row = await connection.fetchrow(
        """SELECT user_message_count, assistant_message_count, tool_message_count, system_message_count,
        developer_message_count FROM conversations"""
    )
    assert row is not None
    assert list(row) == [1, 1, 2, 1, 1]


@pytest.mark.own_app
async def test_reported_tokens_are_summed(alice: AsyncClient, connection: Conn) -> None:
    path = await new_conversation(alice)
    usages = [
        {"prompt_tokens": 3, "completion_tokens": 4},
        {"input_tokens": 10, "output_tokens": 20},
        {"input_tokens": "x"},
    ]
    await alice.post(
        f"{path}/messages", json={"messages": [{"role": "user", "content": "x", "usage": usage} for usage in usages]}
    )
    await alice.post(f"{path}/messages", json={"role": "user", "content": "x", "usage": usages[0], "client_id": "c"})
    await alice.patch(f"{path}/messages/c", json={"usage": {"input_tokens": 1}})
    assert tuple(await connection.fetchrow("SELECT input_tokens, output_tokens FROM conversations") or ()) == (14, 24)
