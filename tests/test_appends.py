from asyncio import gather, timeout
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
from httpx import AsyncClient, Response

from app.queries import Conn
from tests.conftest import append, contents, new_conversation, problem

pytestmark = pytest.mark.shares_app

KEY = {"Idempotency-Key": "turn-1"}


def user(content: str, client_id: str | None = None) -> dict[str, str | None]:
    return {"role": "user", "content": content, "client_id": client_id}


async def repeated(ask: Callable[[], Awaitable[Response]]) -> Response:
    """The answer to a request that is made again, as a client would, where it waited too long for the conversation."""
    async with timeout(60):
        while (answer := await ask()).status_code == 503:
            assert problem(answer) == "unavailable"
    return answer


def batch(*messages: dict[str, str | None]) -> dict[str, object]:
    return {"messages": list(messages)}


async def test_an_append_says_where_its_messages_stand(alice: AsyncClient) -> None:
    path = await new_conversation(alice, ["a"])
    answer = await alice.post(f"{path}/messages", json=batch(user("b", "c1"), user("c")))
    body = answer.json()
    assert (answer.status_code, answer.headers["ETag"]) == (201, '"3.0"')
    assert (body["last_seq"], body["revision"]) == (3, 0)
    assert [(message["seq"], message["client_id"]) for message in body["messages"]] == [(2, "c1"), (3, None)]
    listed = (await alice.get(f"{path}/messages", params={"after": 1})).json()["data"]
    assert [(message["id"], message["created_at"]) for message in listed] == [
        (message["id"], message["created_at"]) for message in body["messages"]
    ]


async def test_a_batch_is_kept_whole_or_not_at_all(alice: AsyncClient) -> None:
    path = await new_conversation(alice)
    answer = await alice.post(f"{path}/messages", json=batch(user("a"), {"role": "user", "content": None}))
    assert (problem(answer), answer.json()["errors"][0]["pointer"]) == ("invalid-input", "/messages/1/content")
    assert await contents(alice, path) == []


@pytest.mark.parametrize("texts", [["x"], ["x", "y", "z"]])
async def test_the_same_request_again_answers_the_same(alice: AsyncClient, texts: list[str]) -> None:
    path = await new_conversation(alice)
    first = await append(alice, path, *texts, **KEY)
    again = await append(alice, path, *texts, **{"Idempotency-Key": '"turn-1"'})
    assert (again.status_code, again.headers["Idempotent-Replay"], again.content) == (200, "true", first.content)
    assert "Idempotent-Replay" not in first.headers
    assert await contents(alice, path) == texts


async def test_a_replay_tells_the_version_of_now(alice: AsyncClient) -> None:
    path = await new_conversation(alice)
    first = (await append(alice, path, "x", "y", **KEY)).json()
    await append(alice, path, "z")
    await alice.request("DELETE", f"{path}/messages?from_seq=2")
    again = await append(alice, path, "x", "y", **KEY)
    assert (again.status_code, again.json()["messages"]) == (200, first["messages"])
    assert (again.json()["last_seq"], again.json()["revision"], again.headers["ETag"]) == (3, 1, '"3.1"')


async def test_a_key_with_another_body_is_refused(alice: AsyncClient) -> None:
    path = await new_conversation(alice)
    await append(alice, path, "x", **KEY)
    for texts in (["y"], ["x", "y"]):
        answer = await append(alice, path, *texts, **KEY)
        assert (answer.status_code, problem(answer)) == (422, "idempotency-key-reused")
    assert await contents(alice, path) == ["x"]


async def test_a_key_belongs_to_one_conversation(alice: AsyncClient) -> None:
    paths = [await new_conversation(alice) for _ in range(2)]
    assert [(await append(alice, path, "x", **KEY)).status_code for path in paths] == [201, 201]


async def test_a_key_lives_as_long_as_its_message(alice: AsyncClient, connection: Conn) -> None:
    path = await new_conversation(alice)
    await append(alice, path, "x", **KEY)
    await connection.execute("DELETE FROM messages")
    assert (await append(alice, path, "x", **KEY)).json()["messages"][0]["seq"] == 2


async def test_known_client_ids_are_a_replay(alice: AsyncClient) -> None:
    path = await new_conversation(alice)
    body = batch(user("a", "c1"), user("b", "c2"))
    first = await alice.post(f"{path}/messages", json=body)
    again = await alice.post(f"{path}/messages", json=body)
    assert (again.status_code, again.headers["Idempotent-Replay"], again.content) == (200, "true", first.content)


async def test_client_ids_replay_however_they_are_grouped(alice: AsyncClient) -> None:
    path = await new_conversation(alice)
    singles = [await alice.post(f"{path}/messages", json=user(text, text)) for text in ("a", "b")]
    again = await alice.post(f"{path}/messages", json=batch(user("b", "b"), user("a", "a")))
    assert again.status_code == 200
    assert again.json()["messages"] == [singles[1].json()["messages"][0], singles[0].json()["messages"][0]]


@pytest.mark.parametrize("others", [[None, "c2"], ["c1", None]])
async def test_messages_without_client_id_follow_those_with_one(alice: AsyncClient, others: list[str | None]) -> None:
    path = await new_conversation(alice, ["before"])
    body = batch(user("a", others[0]), user("b", others[1]))
    first = await alice.post(f"{path}/messages", json=body)
    again = await alice.post(f"{path}/messages", json=body)
    assert (again.status_code, again.content) == (200, first.content)
    changed = batch(
        *({**message, "content": "z"} if not message["client_id"] else message for message in body["messages"])
    )
    assert problem(await alice.post(f"{path}/messages", json=changed)) == "client-id-reused"


@pytest.mark.parametrize(
    "body",
    [user("other", "c1"), batch(user("a", "c1"), user("b", "c2")), batch(user("b", "c2"), user("a", "c1"))],
    ids=["differs", "some known", "some known, later"],
)
async def test_client_ids_that_are_known_otherwise_are_refused(alice: AsyncClient, body: object) -> None:
    path = await new_conversation(alice)
    await alice.post(f"{path}/messages", json=user("a", "c1"))
    answer = await alice.post(f"{path}/messages", json=body)
    assert (answer.status_code, problem(answer)) == (422, "client-id-reused")
    assert await contents(alice, path) == ["a"]


async def test_a_new_key_with_a_known_client_id_is_refused(alice: AsyncClient) -> None:
    path = await new_conversation(alice)
    await alice.post(f"{path}/messages", json=user("a", "c1"))
    answer = await alice.post(f"{path}/messages", json=user("a", "c1"), headers=KEY)
    assert (answer.status_code, problem(answer)) == (422, "client-id-reused")


async def test_no_key_with_a_client_id_stored_under_one_is_refused(alice: AsyncClient) -> None:
    path = await new_conversation(alice)
    await alice.post(f"{path}/messages", json=user("a", "c1"), headers=KEY)
    answer = await alice.post(f"{path}/messages", json=user("a", "c1"))
    assert (answer.status_code, problem(answer)) == (422, "client-id-reused")


async def test_a_client_id_comes_once_in_a_batch(alice: AsyncClient) -> None:
    path = await new_conversation(alice)
    answer = await alice.post(f"{path}/messages", json=batch(user("a", "c"), user("b", "c")))
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (400, "/messages/1/client_id")


async def test_a_client_id_in_the_form_of_our_ids_is_refused(alice: AsyncClient) -> None:
    path = await new_conversation(alice, ["x"])
    (message,) = (await alice.get(f"{path}/messages")).json()["data"]
    answer = await alice.post(f"{path}/messages", json=user("y", message["id"][:-1] + "7"))
    assert (answer.status_code, problem(answer)) == (400, "reserved-id")
    assert answer.json()["errors"][0]["pointer"] == "/client_id"
    other = await new_conversation(alice)
    assert (await alice.post(f"{other}/messages", json=user("y", message["id"]))).status_code == 201


@pytest.mark.parametrize(
    ("version", "status"), [('"1"', 201), ('"1.0"', 201), ("*", 201), ('"0"', 412), ('"1.1"', 412)]
)
async def test_an_append_waits_for_its_version(alice: AsyncClient, version: str, status: int) -> None:
    path = await new_conversation(alice, ["x"])
    answer = await append(alice, path, "y", **{"If-Match": version})
    assert answer.status_code == status
    if status == 412:
        assert (problem(answer), answer.json()["last_seq"], answer.json()["revision"]) == ("precondition-failed", 1, 0)


async def test_a_replay_comes_before_the_version(alice: AsyncClient) -> None:
    path = await new_conversation(alice)
    first = await append(alice, path, "x", **KEY, **{"If-Match": '"0"'})
    again = await append(alice, path, "x", **KEY, **{"If-Match": '"0"'})
    assert (first.status_code, again.status_code) == (201, 200)


async def test_a_known_client_id_comes_before_the_version(alice: AsyncClient) -> None:
    path = await new_conversation(alice)
    await alice.post(f"{path}/messages", json=user("a", "c1"))
    answer = await alice.post(f"{path}/messages", json=user("a", "c1"), headers={**KEY, "If-Match": '"9"'})
    assert problem(answer) == "client-id-reused"


async def test_a_missing_conversation_comes_before_the_version(alice: AsyncClient) -> None:
    path = await new_conversation(alice)
    await append(alice, path, "x", **KEY)
    await alice.delete(path)
    assert problem(await append(alice, path, "x", **KEY, **{"If-Match": '"7"'})) == "not-found"


async def test_one_of_many_who_expect_the_same_head_wins(alice: AsyncClient) -> None:
    path = await new_conversation(alice)
    answers = await gather(*(append(alice, path, str(number), **{"If-Match": '"0"'}) for number in range(32)))
    assert Counter(answer.status_code for answer in answers) == {201: 1, 412: 31}
    assert len(await contents(alice, path)) == 1


@pytest.mark.parametrize("size", [1, 3, 50])
async def test_duplicates_at_once_append_once(alice: AsyncClient, size: int) -> None:
    path = await new_conversation(alice)

    async def ask(key: int) -> Response:
        texts = [f"{key}-{place}" for place in range(size)]
        return await append(alice, path, *texts, **{"Idempotency-Key": str(key)})

    answers = await gather(*(repeated(partial(ask, key)) for key in range(20) for _ in range(8)))
    assert Counter(answer.status_code for answer in answers) == {201: 20, 200: 140}
    assert len({answer.json()["messages"][0]["id"] for answer in answers}) == 20
    texts = await contents(alice, path)
    assert len(texts) == len(set(map(str, texts))) == 20 * size
    assert (await alice.get(path)).json()["last_seq"] == 20 * size


async def test_duplicates_by_client_id_at_once_append_once(alice: AsyncClient) -> None:
    path = await new_conversation(alice)

    async def ask(client_id: int) -> Response:
        return await alice.post(f"{path}/messages", json=user("x", str(client_id)))

    answers = await gather(*(repeated(partial(ask, number % 20)) for number in range(160)))
    assert Counter(answer.status_code for answer in answers) == {201: 20, 200: 140}
    assert len(await contents(alice, path)) == 20
