"""Windows: whole turns, newest first, in a form that the provider takes; whatever the conversation went through."""

import json
import random
import re
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from typing import Any
from uuid import UUID

import msgspec
import pytest
from httpx import AsyncClient
from msgspec import Raw

from app.context import NO_RESULT, WINDOW_LIMIT, Entry, Window
from app.formats import write_context
from app.identifiers import owner_id_of
from app.pages import PAGE_LIMIT_BYTES
from app.queries import Conn, Query
from app.stores import contexts
from app.wire.context import ContextQuery
from app.wire.messages import Message, Version
from tests.conftest import contents, new_conversation, problem
from tests.providers import Json, calls_of, id_of, judge_anthropic, judge_native, judge_openai

pytestmark = pytest.mark.shares_app

FORMATS = ("native", "openai", "anthropic")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
TIGHT = 10_000_000

# Random histories

IDS = ["a", "b", "functions.f:0", "call with spaces", "c" * 60]
NAMES = ["f", "get_weather", "get.weather", "n" * 80]
ARGUMENTS = [
    '"{\\"city\\": \\"Rome\\"}"', '"{\\"a\\": 1e400}"', '"{\\"a\\":1,\\"a\\":2}"', '"{\\"a\\":\\"\\\\u0000\\"}"',
    '"not json"', '""', '" "', '"[1]"', '"{} {}"', '"{\\"a\\":\\"\\\\ud800\\"}"', "null",
    '{"a": 1e400, "a": "\\u0000"}',
    json.dumps('{"a":' + "[" * 64 + "]" * 64 + "}"), json.dumps('{"a":' + "[" * 5000 + "]" * 5000 + "}"),
]  # fmt: skip
SHAPES = [
    '{"id": ID, "type": "function", "function": {"name": NAME, "arguments": ARGUMENTS}}',
    '{"type": "function_call", "id": "fc_1", "call_id": ID, "name": NAME, "arguments": ARGUMENTS}',
    '{"id": ID, "name": NAME, "input": ARGUMENTS}',
]
UNKNOWN_CALLS = ["1", "null", '"a"', "[]", "{}", '{"id": "a"}', '{"id": 1, "name": "f"}', '{"name": "f"}',
                 '{"id": "", "name": "f"}', '{"id": "a", "name": "f", "arguments": 1e400}',
                 '{"id": "a", "type": "custom", "custom": {"name": "f", "input": "x"}}',
                 '{"id": "a", "function": null}']  # fmt: skip
PARTS = [
    '{"type": "text", "text": "TEXT"}', '{"type": "input_text", "text": "TEXT"}',
    '{"type": "output_text", "text": "TEXT", "annotations": [1e400]}', '{"type": "refusal", "refusal": "TEXT"}',
    '{"type": "text", "text": ""}', '{"type": "text", "text": " \\n"}', '{"type": "text", "text": 1e400}',
    '{"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "low"}}',
    '{"type": "image_url", "image_url": {"url": "http://x/y.png"}}', '{"type": "image_url", "image_url": 1}',
    '{"type": "image_url", "image_url": {"url": "data:image\\/png;base64,AAAA"}}',
    '{"type": "input_image", "image_url": "data:image/tiff;base64,AAAA"}', '{"type": "image_url"}',
    '{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}',
    '{"type": "input_audio", "input_audio": {"data": "AAAA", "format": 1e400}}',
    '{"type": "file", "file": {"file_id": "file-1"}}', '{"type": "file", "file": {}}',
    '{"type": "thinking", "thinking": "hm", "x": 1e400}', '{"type": "text", "type": "odd", "text": "x"}',
]  # fmt: skip
USAGES = ['{"output_tokens": 40}', '{"completion_tokens": 7, "prompt_tokens": 900}', '{"output_tokens": 1e400}', "{}"]


class Historian:
    """Writes conversations in which everything happens that can."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.said = 0

    def one_in(self, number: int) -> bool:
        return self.random.random() * number < 1

    def text(self) -> str:
        self.said += 1
        return f"word-{self.said}"

    def content(self) -> str | None:
        if self.one_in(3):
            parts = [self.random.choice(PARTS).replace("TEXT", self.text()) for _ in range(self.random.randrange(4))]
            return f"[{', '.join(parts)}]"
        return self.random.choice(['""', '"  "', "null"]) if self.one_in(10) else f'"{self.text()}\\u0000"'

    def calls(self, ids: list[str]) -> str:
        calls = [
            self.random.choice(SHAPES)
            .replace("NAME", json.dumps(self.random.choice(NAMES)))
            .replace("ID", json.dumps(call_id))
            .replace("ARGUMENTS", self.random.choice(ARGUMENTS))
            for call_id in ids
        ]
        if self.one_in(6):
            calls.insert(self.random.randrange(len(calls) + 1), self.random.choice(UNKNOWN_CALLS))
        return calls[0] if len(calls) == 1 and calls[0][0] == "{" and self.one_in(3) else f"[{', '.join(calls)}]"

    def work(self) -> list[Json]:
        """The assistant calls tools, in one message or several, and what comes back is in any state."""
        ids = [self.random.choice(IDS) for _ in range(self.random.randrange(1, 4))]
        said = '"' + self.text() + '"' if self.one_in(2) else self.random.choice(["null", '""'])
        if self.one_in(3):
            messages = [{"role": "assistant", "content": "null", "tool_calls": self.calls([call])} for call in ids]
            messages[0]["content"] = said
        else:
            messages = [{"role": "assistant", "content": said, "tool_calls": self.calls(ids)}]
        results = [self.result(call) for call in ids if not self.one_in(6)]
        results += [self.result(self.random.choice([*IDS, "unknown", None])) for _ in range(3) if self.one_in(6)]
        if self.one_in(2):
            self.random.shuffle(results)
        messages += results
        if self.one_in(8):
            self.random.shuffle(messages)
        return messages

    def result(self, call_id: str | None) -> Json:
        return {"role": "tool", "tool_call_id": call_id, "content": self.content()}

    def turn(self) -> list[Json]:
        messages = [{"role": "user", "content": self.content()}] * (not self.one_in(9))
        while not self.one_in(3):
            messages += self.work() if self.one_in(2) else [{"role": "assistant", "content": self.content()}]
        if self.one_in(6):
            instruction = {"role": self.random.choice(["system", "developer"]), "content": self.content()}
            messages.insert(self.random.randrange(len(messages) + 1), instruction)
        return messages

    def history(self) -> list[Entry]:
        messages = [{"role": "system", "content": self.content()} for _ in range(self.random.choice([0, 0, 1, 2]))]
        if self.one_in(4):
            messages.append({"role": "assistant", "content": '"Hello!"'})
        for _ in range(self.random.randrange(5)):
            messages += self.turn()
        seqs = sorted(self.random.sample(range(1, 2 * len(messages) + 1), len(messages)))
        return [self.entry(seq, **message) for seq, message in zip(seqs, messages, strict=True)]

    def entry(self, seq: int, role: Any, content: str | None, **members: Any) -> Entry:
        members["content"] = None if content == "null" else content
        if role == "assistant" and self.one_in(3):
            members["usage"] = self.random.choice(USAGES)
        status = self.random.choice(["in_progress", "incomplete", "failed"]) if self.one_in(12) else "completed"
        return entry(seq, role, status=status, **members)


def entry(seq: int, role: Any, tool_call_id: str | None = None, status: Any = "completed", **payloads: Any) -> Entry:
    names = ("content", "tool_calls", "audio_files", "function_calls", "usage", "metadata")
    raws: Any = {name: Raw(text.encode()) if (text := payloads.get(name)) is not None else None for name in names}
    message = Message(
        id=f"id-{seq}",
        client_id=None,
        conversation_id="c",
        seq=seq,
        role=role,
        tool_call_id=tool_call_id,
        name=payloads.get("name"),
        model=None,
        status=status,
        revision=0,
        created_at=NOW,
        updated_at=NOW,
        **raws,
    )
    return Entry(message, sum(len(raw) for raw in raws.values() if raw is not None))


def window_of(history: list[Entry], query: ContextQuery) -> bytes:
    """The answer, when nothing but the history is there to be read."""
    window = Window(query, history[-1].message.seq + 1 if history else 1)
    for read in history:
        if not window.take_leading(read):
            break
    for read in reversed(history):
        if window.cut is not None or read.message.seq <= window.after_seq or not window.take(read):
            break
    window.finish()
    return msgspec.json.encode(write_context(window, Version(99, 1)))


def judge(answer: Json) -> list[str]:
    match answer["format"]:
        case "native":
            return judge_native(answer["messages"])
        case "openai":
            return judge_openai(answer["messages"])
    return judge_anthropic(answer["system"], answer["messages"])


def tokens_of(read: Message | None) -> int:
    """The rule of the documentation, said again; None is a synthetic result."""
    if read is None:
        return 4 + -(-len("No result of this tool call was recorded.") // 4)
    usage = json.loads(bytes(read.usage or b"{}"))
    reported = usage.get("output_tokens", usage.get("completion_tokens", 0))
    if read.role == "assistant" and 0 < reported < 2**31:
        return int(reported)
    told = [read.content, read.tool_calls, read.audio_files, read.function_calls]
    return 4 + -(-sum(len(payload) for payload in told if payload is not None) // 4)


def turns_of(history: list[Entry]) -> list[list[Message]]:
    """The leading messages, then each turn."""
    turns: list[list[Message]] = [[]]
    for message in (read.message for read in history):
        is_leading = len(turns) == 1 and message.role in {"system", "developer"}
        if not is_leading and (message.role == "user" or len(turns) == 1):
            turns.append([])
        turns[-1].append(message)
    return turns


def check_whole(history: list[Entry], answer: Json) -> None:
    """Each message of the leading ones and of the turns from `first_seq` on is there once, or left out for a reason."""
    leading, *turns = turns_of(history)
    kept = [turn for turn in turns if answer["first_seq"] is not None and turn[0].seq >= answer["first_seq"]]
    assert answer["first_seq"] == (kept[0][0].seq if kept else None)
    assert answer["through_seq"] == (kept[-1][-1].seq if kept else None)
    assert kept == turns[len(turns) - len(kept) :]
    missing = {"in_progress", "empty", "orphan_result", "duplicate_result"}
    left_out = [report["seq"] for report in answer["left_out"] if report["reason"] in missing]
    shown = [message["seq"] for message in answer["messages"] if not message["is_synthetic"]]
    assert sorted(left_out + shown) == [message.seq for turn in (leading, *kept) for message in turn]
    others = [message["seq"] for message in answer["messages"] if message["role"] != "tool"]
    assert others == sorted(others)


def known_id_of(call: Any) -> str | None:
    """The id of a call that has all that a call needs."""
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        return None
    arguments = function.get("arguments", function.get("input"))
    return id_of(call) if arguments is None or isinstance(arguments, (str, dict)) else None


def check_left_out(history: list[Entry], answer: Json) -> None:
    """Only for the reason that is told."""
    told = {message.seq: (message, turn) for turn in turns_of(history) for message in turn}
    for report in answer["left_out"]:
        message, turn = told[report["seq"]]
        called = message.tool_call_id in {
            call_id
            for other in turn
            if other.seq < message.seq and other.status != "in_progress" and other.tool_calls is not None
            for call in calls_of({"role": other.role, "tool_calls": json.loads(bytes(other.tool_calls))})
            if (call_id := known_id_of(call))
        }
        assert {
            "in_progress": message.status == "in_progress",
            "empty": message.role != "tool" and (message.content is None or len(message.content) == 2),
            "orphan_result": message.role == "tool" and not called,
            "duplicate_result": message.role == "tool" and called,
        }[report["reason"]], report


def check_newest(history: list[Entry], answer: Json, query: ContextQuery) -> None:
    """Within the budgets, and the next older turn would not be."""
    by_seq = {read.message.seq: read.message for read in history}

    def weigh(messages: list[Json]) -> tuple[int, int]:
        return len(messages), sum(tokens_of(by_seq.get(message["seq"])) for message in messages)

    count, tokens = weigh(answer["messages"])
    assert (answer["message_count"], answer["token_count"]) == (count, tokens)
    budgets = (query.max_messages or TIGHT, query.max_tokens or TIGHT)
    assert answer["is_over_budget"] == (count > budgets[0] or tokens > budgets[1])
    assert not answer["is_over_budget"] or answer["first_seq"] is None
    leading, *turns = turns_of(history)
    older = [turn for turn in turns if answer["first_seq"] is None or turn[0].seq < answer["first_seq"]]
    assert (answer["cut"] is None) == (not older)
    if older:
        first_left, last_left = older[-1][0].seq, older[-1][-1].seq
        until = [read for read in history if read.message.seq <= last_left]
        alone = json.loads(window_of(until, ContextQuery(complete=query.complete)))["messages"]
        places = [place for place, message in enumerate(alone) if (message["seq"] or 0) >= first_left]
        turn = weigh(alone[places[0] :] if places else [])
        limit = answer["cut"]["limit"]
        assert {"max_messages": count + turn[0] > budgets[0], "max_tokens": tokens + turn[1] > budgets[1]}[limit]
        assert answer["cut"]["after_seq"] == (leading[-1].seq if leading else 0)
        assert answer["cut"]["before_seq"] == (answer["first_seq"] or history[-1].message.seq + 1)


def words_of(answer: Json) -> list[str]:
    """What people and the model said, in order."""
    said = [message["content"] for message in answer["messages"] if message["role"] in {"user", "assistant"}]
    blocks = [block for content in said for block in (content if isinstance(content, list) else [content])]
    spoken = [block for block in blocks if not isinstance(block, dict) or block["type"] != "tool_result"]
    return re.findall(r"word-\d+", json.dumps(spoken))


def try_history(seed: int) -> None:
    history = Historian(seed).history()
    chance = random.Random(seed)
    complete = chance.random() < 0.5
    cut = {"max_messages": chance.randrange(1, len(history) + 2), "max_tokens": chance.randrange(1, 200)}
    for name in chance.sample(sorted(cut), chance.randrange(3)):
        cut.pop(name)
    for style in FORMATS:
        query = ContextQuery(format=style, complete=complete, **cut)  # type: ignore[arg-type]
        raw = window_of(history, query)
        answer = json.loads(raw)
        assert judge(answer) == [], (seed, query)
        assert complete or NO_RESULT.encode() not in raw
        assert seed % 8 or window_of(history, query) == raw
        if style == "native":
            native = answer
            check_whole(history, answer)
            check_left_out(history, answer)
            check_newest(history, answer, query)
        else:
            assert (answer["first_seq"], answer["cut"]) == (native["first_seq"], native["cut"])
            assert answer["token_count"] <= native["token_count"]
            assert answer["open_calls"] == native["open_calls"]
            if not {report["reason"] for report in answer["left_out"]} & {"unsupported_part", "before_first_user"}:
                assert words_of(answer) == words_of(native)


def test_any_window_of_any_history_is_valid() -> None:
    for seed in range(1500):
        try_history(seed)


def try_histories(first: int, end: int) -> int:
    for seed in range(first, end):
        try:
            try_history(seed)
        except AssertionError as error:
            error.add_note(f"the history of seed {seed}")
            raise
    return end - first


@pytest.mark.faults
def test_any_window_of_a_hundred_thousand_histories_is_valid() -> None:
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as workers:
        tried = workers.map(try_histories, range(1_000_000, 1_100_000, 500), range(1_000_500, 1_100_500, 500))
        assert sum(tried) == 100_000


# Where a window ends


def said(seq: int, role: str = "user", body_bytes: int = 4, **members: Any) -> Entry:
    return Entry(entry(seq, role, content='"hi"', **members).message, body_bytes)


def read(history: list[Entry], **query: Any) -> Json:
    answer: Json = json.loads(window_of(history, ContextQuery(**query)))
    assert judge(answer) == []
    return answer


def test_no_window_holds_more_payload_than_a_page() -> None:
    third = PAGE_LIMIT_BYTES // 3
    answer = read([said(seq, body_bytes=third) for seq in range(1, 6)])
    assert (answer["first_seq"], answer["cut"]) == (3, {"limit": "size", "after_seq": 0, "before_seq": 3})


def test_no_window_holds_more_than_ten_thousand_messages() -> None:
    answer = read([said(seq) for seq in range(1, WINDOW_LIMIT + 3)])
    assert (answer["message_count"], answer["first_seq"], answer["cut"]["limit"]) == (WINDOW_LIMIT, 3, "size")


def test_no_window_holds_more_than_ten_thousand_tool_calls() -> None:
    calls = "[" + ",".join(['{"id":"a","name":"f"}'] * WINDOW_LIMIT) + "]"
    answer = read([said(1), said(2, "assistant", tool_calls=calls), said(3)], complete=True)
    assert (answer["first_seq"], answer["open_calls"], answer["cut"]["limit"]) == (3, [], "size")


def test_a_turn_that_has_no_end_is_not_read_to_its_beginning() -> None:
    window = Window(ContextQuery(max_messages=5), 100_001)
    taken = next(number for number in range(1, 100_001) if not window.take(said(100_001 - number, "assistant")))
    assert (taken, window.cut and window.cut.limit) == (6, "max_messages")


def test_leading_messages_over_the_budget_stand_alone() -> None:
    history = [said(1, "system"), said(2, "developer"), said(3)]
    answer = read(history, max_messages=1)
    assert [message["seq"] for message in answer["messages"]] == [1, 2]
    assert (answer["is_over_budget"], answer["first_seq"]) == (True, None)
    assert answer["cut"] == {"limit": "max_messages", "after_seq": 2, "before_seq": 4}


def test_leading_messages_end_where_a_window_must() -> None:
    answer = read([said(seq, "system", PAGE_LIMIT_BYTES // 2) for seq in range(1, 4)] + [said(4)])
    assert [message["seq"] for message in answer["messages"]] == [1, 2]
    assert (answer["is_over_budget"], answer["cut"]) == (True, {"limit": "size", "after_seq": 2, "before_seq": 5})


def test_a_result_belongs_to_the_latest_call_of_its_id() -> None:
    call = '[{"id": "a", "name": "f"}]'
    history = [said(1), said(2, "assistant", tool_calls=call), said(3, "tool", tool_call_id="a")]
    history += [said(4, "assistant", tool_calls=call), said(5, "tool", tool_call_id="a")]
    answer = read(history, format="anthropic")
    assert (answer["message_count"], answer["left_out"], answer["open_calls"]) == (5, [], [])
    assert [message["role"] for message in answer["messages"]] == ["user", "assistant", "user", "assistant", "user"]


# Over HTTP

CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello?"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "assistant", "content": None, "tool_calls": [{**CALL, "id": "c2"}]},
    {"role": "tool", "tool_call_id": "c2", "content": "rain"},
    {"role": "tool", "tool_call_id": "c1", "content": "sun"},
    {"role": "assistant", "content": "Mixed.", "usage": {"output_tokens": 3}},
]


async def get(client: AsyncClient, path: str, **params: Any) -> Json:
    answer = await client.get(f"{path}/context", params=params)
    assert answer.status_code == 200, answer.text
    body: Json = answer.json()
    assert answer.headers["ETag"] == f'"{body["last_seq"]}.{body["revision"]}"'
    assert judge(body) == []
    return body


def seqs(answer: Json) -> list[int | None]:
    return [message["seq"] for message in answer["messages"]]


async def test_a_context_is_the_whole_of_a_short_conversation(alice: AsyncClient) -> None:
    path = await new_conversation(alice, messages=TALK)
    answer = await get(alice, path)
    assert seqs(answer) == [1, 2, 3, 4, 5, 8, 6, 7, 9]
    kept = (await alice.get(f"{path}/messages/{answer['messages'][3]['id']}")).json()
    assert answer["messages"][3] == {**kept, "is_synthetic": False}
    names = ("system", "message_count", "estimated_count", "first_seq", "through_seq", "last_seq", "revision", "cut")
    assert [answer[name] for name in names] == [None, 9, 8, 2, 9, 9, 0, None]
    assert (answer["left_out"], answer["open_calls"], answer["is_over_budget"]) == ([], [], False)


async def test_openai_gets_parallel_calls_in_one_message(alice: AsyncClient) -> None:
    path = await new_conversation(alice, messages=TALK)
    answer = await get(alice, path, format="openai")
    assert answer["messages"] == [
        *TALK[:4],
        {"role": "assistant", "content": None, "tool_calls": [CALL, {**CALL, "id": "c2"}]},
        {"role": "tool", "tool_call_id": "c1", "content": "sun"},
        {"role": "tool", "tool_call_id": "c2", "content": "rain"},
        {"role": "assistant", "content": "Mixed."},
    ]


async def test_anthropic_gets_blocks_of_alternating_roles(alice: AsyncClient) -> None:
    path = await new_conversation(alice, messages=TALK)
    answer = await get(alice, path, format="anthropic")
    arguments = {"type": "tool_use", "name": "weather", "input": {"city": "Rome"}}
    assert answer["system"] == [text("Be brief.")]
    assert [(message["role"], message["content"]) for message in answer["messages"]] == [
        ("user", [text("Hello?")]),
        ("assistant", [text("Hello.")]),
        ("user", [text("Weather?")]),
        ("assistant", [{**arguments, "id": "c1"}, {**arguments, "id": "c2"}]),
        (
            "user",
            [
                {"type": "tool_result", "tool_use_id": "c1", "content": [text("sun")]},
                {"type": "tool_result", "tool_use_id": "c2", "content": [text("rain")]},
            ],
        ),
        ("assistant", [text("Mixed.")]),
    ]


def text(words: str) -> Json:
    return {"type": "text", "text": words}


CUTS: list[tuple[Json, list[int], str | None]] = [
    ({"max_messages": 7}, [1, 4, 5, 8, 6, 7, 9], "max_messages"),
    ({"max_messages": 8}, [1, 4, 5, 8, 6, 7, 9], "max_messages"),
    ({"max_messages": 6}, [1], "max_messages"),
    ({"max_tokens": 20}, [1], "max_tokens"),
    ({"max_tokens": 10_000_000, "max_messages": 9}, [1, 2, 3, 4, 5, 8, 6, 7, 9], None),
]


async def test_a_turn_is_whole_or_not_there(alice: AsyncClient) -> None:
    path = await new_conversation(alice, messages=TALK)
    for budget, expected, limit in CUTS:
        answer = await get(alice, path, **budget)
        assert seqs(answer) == expected
        assert (answer["cut"] and answer["cut"]["limit"]) == limit


async def test_a_cut_names_what_listing_the_messages_shows(alice: AsyncClient) -> None:
    path = await new_conversation(alice, messages=TALK)
    cut = (await get(alice, path, max_messages=8))["cut"]
    page = await alice.get(f"{path}/messages", params={"after": cut["after_seq"], "before": cut["before_seq"]})
    assert [message["seq"] for message in page.json()["data"]] == [2, 3]


async def test_an_open_call_is_told_and_closed_only_on_demand(alice: AsyncClient) -> None:
    path = await new_conversation(alice, messages=[TALK[3], {**TALK[4], "content": "Let me see."}])
    for style in FORMATS:
        is_, closed = await get(alice, path, format=style), await get(alice, path, format=style, complete=True)
        (told,) = is_["open_calls"]
        assert (told["seq"], told["call_id"], told["name"]) == (2, "c1", "weather")
        assert closed["open_calls"] == [told]
        assert "No result of this tool call" not in json.dumps(is_)
        assert json.dumps(closed).count("No result of this tool call") == 1
        assert (is_["message_count"], closed["message_count"]) == (2, 3)
    assert len(await contents(alice, path)) == 2


async def test_what_is_left_out_is_told(alice: AsyncClient) -> None:
    path = await new_conversation(
        alice,
        messages=[
            {"role": "assistant", "content": "Welcome!"},
            {"role": "user", "content": [{"type": "hologram"}, text("Weather?")]},
            {"role": "assistant", "content": "", "tool_calls": [CALL, {"id": 5}]},
            {"role": "tool", "tool_call_id": "c1", "content": "sun"},
            {"role": "tool", "tool_call_id": "c1", "content": "rain"},
            {"role": "tool", "content": "snow"},
            {"role": "assistant", "content": ""},
            {"role": "assistant", "content": "It is", "status": "in_progress"},
        ],
    )
    native = [(5, "duplicate_result"), (6, "orphan_result"), (7, "empty"), (8, "in_progress")]
    openai = [(2, "unsupported_part"), (3, "unsupported_call"), *native]
    expected = {"native": native, "openai": openai, "anthropic": [(1, "before_first_user"), *openai]}
    for style in FORMATS:
        answer = await get(alice, path, format=style)
        assert [(report["seq"], report["reason"]) for report in answer["left_out"]] == expected[style]
    assert answer["message_count"] == 3


async def test_an_image_is_written_for_each_provider(alice: AsyncClient) -> None:
    url = "data:image/png;base64,AAAA"
    image = {"type": "image_url", "image_url": {"url": url, "detail": "low"}}
    path = await new_conversation(alice, messages=[{"role": "user", "content": [image]}])
    assert (await get(alice, path, format="openai"))["messages"][0]["content"] == [image]
    source = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    blocks = (await get(alice, path, format="anthropic"))["messages"][0]["content"]
    assert blocks == [{"type": "image", "source": source}]


INPUTS = {
    '{"a": 1e400, "a": [1]}': '{"arguments":"{\\"a\\": 1e400, \\"a\\": [1]}"}',
    ' {"a": 1.0, "a": [1]} ': '{"a": 1.0, "a": [1]}',
    "sunny": '{"arguments":"sunny"}',
    "": "{}",
}
"""Arguments as the model wrote them, and as Anthropic gets them."""


async def test_arguments_stay_the_bytes_that_came(alice: AsyncClient) -> None:
    for written, expected in INPUTS.items():
        call = {"id": "c1", "function": {"name": "f", "arguments": written}}
        path = await new_conversation(alice, messages=[TALK[1], {**TALK[4], "tool_calls": [call]}])
        answer = await alice.get(f"{path}/context", params={"format": "anthropic", "complete": "true"})
        assert f'"input":{expected}}}' in answer.text
        (sent,) = (await get(alice, path, format="openai", complete=True))["messages"][1]["tool_calls"]
        assert sent["function"]["arguments"] == written


async def test_parts_stay_the_bytes_that_came(alice: AsyncClient) -> None:
    path = await new_conversation(alice)
    part = '{"text":  "\\u0000 caf\\u00e9", "type":"text", "x": 1e400, "x": {"b": 1, "a": 2}}'
    body = f'{{"role": "user", "content": [{part}]}}'
    await alice.post(f"{path}/messages", content=body, headers={"Content-Type": "application/json"})
    assert part in (await alice.get(f"{path}/context", params={"format": "openai"})).text


async def test_a_deleted_message_is_in_no_context(alice: AsyncClient) -> None:
    path = await new_conversation(alice, messages=TALK)
    await alice.delete(f"{path}/messages", params={"from_seq": 4})
    answer = await get(alice, path)
    assert (seqs(answer), answer["last_seq"], answer["revision"]) == ([1, 2, 3], 9, 1)


async def test_an_empty_conversation_has_an_empty_context(alice: AsyncClient) -> None:
    path = await new_conversation(alice)
    for style in FORMATS:
        answer = await get(alice, path, format=style, max_tokens=1)
        assert (answer["messages"], answer["first_seq"], answer["cut"], answer["system"]) == ([], None, None, None)


@pytest.mark.own_app
async def test_a_context_before_a_seq_knows_nothing_of_what_follows(alice: AsyncClient, connection: Conn) -> None:
    path = await new_conversation(alice, messages=TALK)
    owner_id, conversation_id = owner_id_of("acme", "alice"), UUID(path.rpartition("/")[2])
    context = await contexts.get_context(connection, owner_id, conversation_id, ContextQuery(), before_seq=4)
    assert [getattr(message, "seq", None) for message in context.messages] == [1, 2, 3]
    assert (context.through_seq, context.last_seq) == (3, 9)


async def test_little_is_read_for_a_small_budget(alice: AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    path = await new_conversation(alice, ["x"] * 1000)
    pages: list[int] = []

    async def fetch(query: Query[Any], *args: Any, **values: Any) -> list[Any]:
        rows = await original(query, *args, **values)
        pages.append(len(rows))
        return rows

    original = Query.fetch
    monkeypatch.setattr(Query, "fetch", fetch)
    assert seqs(await get(alice, path, max_messages=3)) == [998, 999, 1000]
    assert sum(pages) < 50
    pages.clear()
    assert len(seqs(await get(alice, path))) == 1000
    assert len(pages) < 6


async def test_a_conversation_that_is_not_there_has_no_context(alice: AsyncClient, bob: AsyncClient) -> None:
    path = await new_conversation(alice, ["x"])
    for client, asked in [(bob, path), (alice, path[:-1] + "z"), (alice, path.replace(path[-12:], "0" * 12))]:
        answer = await client.get(f"{asked}/context")
        assert (answer.status_code, problem(answer)) == (404, "not-found")


BAD_QUERIES = [
    "max_tokens=0", "max_tokens=10000001", "max_messages=0", "max_messages=10001", "max_messages=1e2", "max_tokens=",
    "format=xml", "format=", "complete=1", "complete=null", "limit=5", "max_tokens=1&max_tokens=1",
]  # fmt: skip


async def test_a_query_out_of_range_is_refused(alice: AsyncClient) -> None:
    path = await new_conversation(alice, ["x"])
    for query in BAD_QUERIES:
        answer = await alice.get(f"{path}/context?{query}")
        assert (answer.status_code, problem(answer)) == (400, "invalid-input"), query
        assert answer.json()["errors"][0]["parameter"] == query.partition("=")[0]
