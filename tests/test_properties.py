"""What holds whatever the order of events."""

import asyncio
import random
from asyncio import gather

import pytest
from httpx import AsyncClient
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from msgspec import structs

from tests.conftest import PATIENT, new_conversation

HOME = "/v1/conversations"
CONVERSATIONS, WRITERS = 4, 16

few = hypothesis_settings(
    max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), derandomize=False, print_blob=True
)

appends = st.tuples(
    st.integers(0, CONVERSATIONS - 1),  # where
    st.just(1) | st.integers(1, 6),  # how many messages
    st.integers(1, 3),  # how often the request is sent
    st.sampled_from(["key", "client ids", "nothing"]),  # what marks it
    st.booleans(),  # whether its repeats go out at once
)
scripts = st.lists(st.lists(appends, max_size=4), min_size=WRITERS, max_size=WRITERS)


# With and without statements that requests share: both hold to the same.
pytestmark = [
    pytest.mark.usefixtures("settings"),
    pytest.mark.parametrize(
        "settings", [PATIENT, structs.replace(PATIENT, shared_statements=False)], ids=["shared", "alone"]
    ),
]


async def write(
    client: AsyncClient, paths: list[str], writer: int, script: list[tuple[int, int, int, str, bool]]
) -> list[list[str]]:
    """Says what the script wants; the ids that each request was answered with."""
    made = []
    for turn, (where, size, times, mark, at_once) in enumerate(script):
        name = f"{writer}-{turn}"
        messages = [
            {
                "role": "user",
                "content": f"{name}-{place}",
                "client_id": f"{name}-{place}" if mark == "client ids" else None,
            }
            for place in range(size)
        ]
        headers = {"Idempotency-Key": name} if mark == "key" else {}
        sent = 1 if mark == "nothing" else times
        send = [
            client.post(f"{paths[where]}/messages", json={"messages": messages}, headers=headers) for _ in range(sent)
        ]
        answers = await gather(*send) if at_once else [await request for request in send]
        assert sorted(answer.status_code for answer in answers) == [200] * (sent - 1) + [201]
        ids = [[message["id"] for message in answer.json()["messages"]] for answer in answers]
        assert ids.count(ids[0]) == sent
        made.append(ids[0])
    return made


async def follow(client: AsyncClient, path: str, done: asyncio.Event) -> list[dict[str, object]]:
    """All that a reader sees who goes on from where the last page ended."""
    seen: list[dict[str, object]] = []
    while True:
        is_last = done.is_set()
        after = seen[-1]["seq"] if seen else 0
        page = (await client.get(f"{path}/messages", params={"after": after, "limit": random.randint(1, 7)})).json()
        seen += page["data"]
        if is_last and not page["data"]:
            return seen


@few
@given(script=scripts)
async def test_any_interleaving_of_appends_is_gap_free_exactly_once_and_never_skipped(
    alice: AsyncClient, script: list[list[tuple[int, int, int, str, bool]]]
) -> None:
    paths = [await new_conversation(alice) for _ in range(CONVERSATIONS)]
    done = asyncio.Event()
    readers = [asyncio.create_task(follow(alice, path, done)) for path in paths]
    made = await gather(*(write(alice, paths, writer, lines) for writer, lines in enumerate(script)))
    done.set()
    seen = await gather(*readers)
    for messages in seen:
        assert [message["seq"] for message in messages] == list(range(1, len(messages) + 1))
    kept = [message["id"] for messages in seen for message in messages]
    assert sorted(kept) == sorted(message_id for requests in made for ids in requests for message_id in ids)
    place = {message_id: number for number, message_id in enumerate(kept)}
    for requests in made:
        for ids in requests:
            assert [place[message_id] for message_id in ids] == list(range(place[ids[0]], place[ids[0]] + len(ids)))


@few
@given(
    count=st.integers(0, 30),
    limit=st.integers(1, 12),
    after=st.none() | st.integers(0, 35),
    before=st.none() | st.integers(0, 35),
    order=st.sampled_from(["asc", "desc"]),
    hidden=st.sets(st.integers(1, 30), max_size=5),
)
async def test_pages_are_the_slices_of_the_whole(
    alice: AsyncClient, count: int, limit: int, after: int | None, before: int | None, order: str, hidden: set[int]
) -> None:
    path = await new_conversation(alice, [str(number) for number in range(1, count + 1)])
    ids = {m["seq"]: m["id"] for m in (await alice.get(f"{path}/messages", params={"limit": 1000})).json()["data"]}
    for seq in hidden & set(ids):
        await alice.delete(f"{path}/messages/{ids[seq]}")
    wanted = [seq for seq in ids if seq not in hidden and (after or 0) < seq < (before if before is not None else 99)]
    bounds = {name: value for name, value in (("after", after), ("before", before)) if value is not None}
    seen: list[int] = []
    while True:
        page = (await alice.get(f"{path}/messages", params={"order": order, "limit": limit, **bounds})).json()
        assert len(page["data"]) <= limit
        seen += [message["seq"] for message in page["data"]]
        if not page["has_more"]:
            break
        bounds["after" if order == "asc" else "before"] = int(page["next_cursor"])
    assert seen == (wanted if order == "asc" else wanted[::-1])


@few
@given(touched=st.lists(st.integers(0, 11), max_size=10), limit=st.integers(1, 5))
async def test_each_untouched_conversation_is_listed_once_while_others_move(
    alice: AsyncClient, touched: list[int], limit: int
) -> None:
    tag = f"t{random.getrandbits(60)}"
    paths = [await new_conversation(alice, tags=[tag]) for _ in range(12)]
    moves = iter(touched)
    seen: list[str] = []
    params: dict[str, object] = {"limit": limit, "tag": tag}
    while True:
        page = (await alice.get(HOME, params=params)).json()
        seen += [conversation["id"] for conversation in page["data"]]
        if not page["has_more"]:
            break
        params["after"] = page["next_cursor"]
        if (move := next(moves, None)) is not None:
            await alice.post(f"{paths[move]}/messages", json={"role": "user", "content": "x"})
    for number, path in enumerate(paths):
        if number not in touched:
            assert seen.count(path.rpartition("/")[2]) == 1
