"""Items and the messages that they are here: there and back nothing is lost, nor moved."""

import json
import random
from datetime import UTC, datetime
from itertools import count
from time import process_time
from typing import Any
from uuid import UUID

import msgspec
import pytest
from msgspec import Raw

from app.context import Entry, Window
from app.errors import InvalidInput
from app.formats import write_context
from app.identifiers import MessageIds
from app.items import entry_of, items_of, parse_computed_id
from app.new_items import parse_item
from app.wire.context import ContextQuery
from app.wire.messages import AppendedMessage, Version
from tests.corpus import NUMBERS, STRINGS
from tests.providers import judge_openai
from tests.test_context import Historian, entry, words_of

CONVERSATION = UUID("0192a4c8-7c1e-7d3a-9f00-3f1c5a2b7e10")
IDS = MessageIds(CONVERSATION)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
LIMIT = 10_000_000

Pairs = list[tuple[str, Any]]


class Number(str):
    """A number as it is written."""

    __slots__ = ()


def ordered(raw: bytes | Raw) -> Any:
    """A JSON value with its objects as lists of members in order, and its numbers as they are written."""
    return json.loads(bytes(raw), object_pairs_hook=list, parse_float=Number, parse_int=Number, parse_constant=Number)


def kept(raw: bytes, seq: int = 1) -> Entry:
    """An item as a message that is kept."""
    message = parse_item(raw, LIMIT, "/items/0")
    return entry_of(
        CONVERSATION,
        message,
        AppendedMessage(id=IDS.of(seq), client_id=message.client_id, seq=seq, created_at=NOW),
    )


def back(raw: bytes, seq: int = 1) -> bytes:
    (item,) = items_of(kept(raw, seq))
    return bytes(item.body)


def members_lost(sent: Pairs, found: Pairs) -> list[str]:
    """The members that are not there as they were sent, or not in their order."""
    rest = iter(found)
    return [name for name, value in sent if not any(name == known and is_kept(value, made) for known, made in rest)]


def is_kept(sent: Any, found: Any) -> bool:
    """Whether a value came back; a part may have more members, or one filled in for null, and a text be a part."""
    if sent == found or (sent is None and found in ([], "auto")):
        return True
    if isinstance(sent, str) and isinstance(found, list) and len(found) == 1 and isinstance(found[0], list):
        return ("text", sent) in [tuple(pair) for pair in found[0]]
    if isinstance(sent, list) and isinstance(found, list) and len(sent) == len(found):
        return all(
            one == other or (is_object(one) and is_object(other) and not members_lost(one, other))
            for one, other in zip(sent, found, strict=True)
        )
    return False


def is_object(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(pair, tuple) for pair in value)


# Random items

MESSAGE_ROLES = ["user", "assistant", "system", "developer"]
STATUSES = ["completed", "incomplete", "in_progress"]
TEXTS = [text.decode() for text in STRINGS.values() if len(text) < 300]
DIGITS = [number.decode() for number in NUMBERS.values() if len(number) < 300]
LITERALS = ["null", "true", "false", "[]", "{}", '""']
TYPES = {
    "message": ("role", "content"),
    "function_call": ("call_id", "name", "arguments"),
    "function_call_output": ("call_id", "output"),
    "custom_tool_call": ("call_id", "name", "input"),
    "custom_tool_call_output": ("call_id", "output"),
    "reasoning": ("summary",),
    "compaction": ("encrypted_content",),
    "file_search_call": ("queries",),
    "web_search_call": ("action",),
    "computer_call": ("call_id", "pending_safety_checks"),
    "computer_call_output": ("call_id", "output"),
    "code_interpreter_call": ("container_id", "code", "outputs"),
    "image_generation_call": ("result",),
    "local_shell_call": ("call_id", "action"),
    "local_shell_call_output": ("output",),
    "shell_call": ("call_id", "action"),
    "shell_call_output": ("call_id", "output"),
    "apply_patch_call": ("call_id", "operation"),
    "apply_patch_call_output": ("call_id",),
    "mcp_list_tools": ("server_label", "tools"),
    "mcp_approval_request": ("server_label", "name", "arguments"),
    "mcp_approval_response": ("approval_request_id", "approve"),
    "mcp_call": ("server_label", "name", "arguments"),
    "tool_search_call": ("arguments",),
    "tool_search_output": ("tools",),
    "additional_tools": ("role", "tools"),
    "configuration_update": (),
    "program": ("call_id", "code", "fingerprint"),
    "program_output": ("call_id", "result"),
    "agent_message": (),
    "never_heard_of": (),
}
TEXT_MEMBERS = {"call_id", "name", "input", "role"}


class Sender:
    """Sends items of every type, with members in any order and values of any form."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.ids = count(1)

    def one_in(self, number: int) -> bool:
        return self.random.randrange(number) == 0

    def text(self) -> str:
        return self.random.choice(TEXTS)

    def value(self, depth: int = 3) -> str:
        if depth and self.one_in(3):
            members = [f"{self.text()} : {self.value(depth - 1)}" for _ in range(self.random.randrange(3))]
            return "{" + " , ".join(members) + "}"
        if depth and self.one_in(3):
            return "[" + ",".join(self.value(depth - 1) for _ in range(self.random.randrange(3))) + "]"
        return self.random.choice([self.text(), self.random.choice(DIGITS), self.random.choice(LITERALS)])

    def object(self, members: dict[str, str]) -> str:
        pairs = list(members.items())
        if self.one_in(2):
            self.random.shuffle(pairs)
        gap = self.random.choice(["", " ", "\n\t"])
        return "{" + ",".join(f'"{name}"{gap}:{gap}{value}' for name, value in pairs) + "}"

    def part(self, role: str) -> str:
        kind = self.random.choice(["output_text", "refusal"] if role == "assistant" else ["input_text", "input_image"])
        if self.one_in(6):
            kind = self.random.choice(["input_file", "text", "image_url", "file", "never_heard_of"])
        members = {"type": f'"{kind}"'}
        if kind in {"input_text", "output_text", "text"}:
            members["text"] = self.text()
        if kind == "refusal":
            members["refusal"] = self.text()
        for name in ("annotations", "logprobs", "detail", "image_url", "file", "prompt_cache_breakpoint"):
            if self.one_in(5):
                members[name] = self.value()
        return self.object(members)

    def content(self, role: str) -> str:
        if self.one_in(2):
            return self.text()
        return "[" + ", ".join(self.part(role) for _ in range(self.random.randrange(4))) + "]"

    def item(self) -> tuple[str, bytes]:
        kind = self.random.choice(list(TYPES))
        role = self.random.choice(MESSAGE_ROLES) if kind == "message" else "developer"
        members = {name: self.text() if name in TEXT_MEMBERS else self.value() for name in TYPES[kind]}
        given = {"role": f'"{role}"', "call_id": f'"call_{self.random.randrange(9)}"'}
        members |= {name: value for name, value in given.items() if name in members} | self.payloads(kind, role)
        if not (kind == "message" and self.one_in(3)):
            members = {"type": f'"{kind}"', **members}
        return kind, self.object(members | self.extras(kind, role)).encode()

    def payloads(self, kind: str, role: str) -> dict[str, str]:
        match kind:
            case "message":
                return {"content": self.content(role)}
            case "function_call":
                return {"arguments": self.text()}
            case "function_call_output" | "custom_tool_call_output":
                return {"output": self.content("user")}
        return {}

    def extras(self, kind: str, role: str) -> dict[str, str]:
        extras = {"status": f'"{self.random.choice(STATUSES)}"'}
        extras["id"] = f'"{self.random.choice(["rs", "msg", "x:/+="])}_{next(self.ids)}"'
        if role == "assistant" and kind == "message":
            extras["phase"] = '"final_answer"'
        others = ("caller", "namespace", "encrypted_content", "never_heard_of")
        extras |= {name: self.value() for name in others if self.one_in(2)}
        return {name: value for name, value in extras.items() if self.one_in(3)}


def test_ten_thousand_random_items_come_back_member_by_member_in_order() -> None:
    sender, seen = Sender(1), set()
    for number in range(10_000):
        kind, raw = sender.item()
        seen.add(kind)
        found = back(raw, number + 1)
        assert members_lost(ordered(raw), ordered(found)) == [], (number, raw, found)
        assert dict(ordered(found))["type"] == kind
        assert number % 10 or back(found, number + 1) == found, "and again it is the same"
    assert seen == TYPES.keys()


def test_an_item_of_many_members_is_written_in_the_time_that_they_take() -> None:
    many = b'{"type":"x",%b}' % b",".join(b'"member-%d":0' % number for number in range(100_000))
    begun_at = process_time()
    assert len(back(many)) > len(many)
    assert process_time() - begun_at < 3  # seconds; with each member copying those before it, 15


def test_null_is_filled_in_where_clients_take_none() -> None:
    image = b'{"role":"user","content":[{"detail":null,"type":"input_image","x":null}],"phase":null,"status":null}'
    found = json.loads(back(image))
    assert found["content"] == [{"detail": "auto", "type": "input_image", "x": None}]
    assert (found["status"], found["phase"]) == ("completed", None)
    text = b'{"role":"assistant","content":[{"type":"output_text","text":"u","annotations":null}]}'
    assert json.loads(back(text))["content"] == [output_text("u")]


def test_what_columns_rebuild_is_kept_once() -> None:
    plain = [
        b'{"role": "user", "content": "hi"}',
        b'{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "hi"}]}',
        b'{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "status": "completed"}',
        b'{"type": "function_call_output", "call_id": "c", "output": "done"}',
    ]
    assert [kept(raw).source for raw in plain] == [None] * 4
    long = b'"' + b"x" * 1000 + b'"'
    for raw in (
        b'{"content": %b, "role": "user"}' % long,
        b'{"arguments": %b, "name": "f", "call_id": "c", "type": "function_call"}' % long,
        b'{"output": %b, "type": "function_call_output", "call_id": "c"}' % long,
        b'{"summary": %b, "type": "reasoning"}' % long,
    ):
        assert kept(raw).body_bytes < 1000 + 200
        assert ordered(raw)[0] in ordered(back(raw)) or b'"content"' in raw


@pytest.mark.parametrize(
    ("item", "place", "reason"),
    [
        ("[]", "", "expected `object`"),
        ("{}", "/type", "is required"),
        ('{"type": 5}', "/type", "expected `string`"),
        ('{"type": ""}', "/type", "is no type"),
        ('{"type": "item_reference", "id": "x"}', "/type", "is no type"),
        ('{"type": "compaction_trigger"}', "/type", "is no type"),
        ('{"type": "message", "role": "user"}', "/content", "is required"),
        ('{"role": "user"}', "/content", "is required"),
        ('{"role": "user", "content": null}', "/content", "expected `string` or `array`"),
        ('{"role": "user", "content": {}}', "/content", "expected `string` or `array`"),
        ('{"role": "user", "content": [5]}', "/content/0", "expected `object`"),
        ('{"role": "user", "content": [{}]}', "/content/0/type", "is required"),
        ('{"role": "user", "content": [{"type": "input_text"}]}', "/content/0/text", "is required"),
        ('{"role": "user", "content": [{"type": "input_text", "text": 5}]}', "/content/0/text", "expected `string`"),
        ('{"role": "tool", "content": "x"}', "/role", "is none of the allowed values"),
        ('{"role": 5, "content": "x"}', "/role", "expected `string`"),
        ('{"role": "user", "content": "x", "phase": "final_answer"}', "/phase", "is unknown"),
        ('{"role": "user", "content": "x", "status": "failed"}', "/status", "is none of the allowed values"),
        ('{"role": "user", "content": "x", "id": 5}', "/id", "expected `string`"),
        ('{"role": "user", "content": "x", "id": ""}', "/id", "is no id"),
        ('{"role": "user", "content": "x", "id": "a\\u0000b"}', "/id", "is no id"),
        *(
            (f'{{"role": "user", "content": "x", "id": "{own_id}"}}', "/id", "is no id")
            for own_id in ("/", "/a", "a/", "a//b", ".", "..", "a/..", "./a", "a/../b", "x" * 129, "a b", "é")
        ),
        ('{"role": "user", "content": "x", "role": "user"}', "/role", "the member is repeated"),
        ('{"type": "function_call", "call_id": "c", "name": "f"}', "/arguments", "is required"),
        ('{"type": "function_call", "call_id": "c", "name": "f", "arguments": {}}', "/arguments", "expected `string`"),
        ('{"type": "function_call_output", "call_id": "a\\u0000", "output": "x"}', "/call_id", "has characters"),
        ('{"type": "function_call_output", "call_id": "a"}', "/output", "is required"),
        ('{"type": "reasoning"}', "/summary", "is required"),
        ('{"type": "x", "y": ' + "[" * 65 + "]" * 65 + "}", "", "nested deeper than 64"),
    ],
)
def test_a_bad_item_is_refused_by_its_place(item: str, place: str, reason: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_item(item.encode(), LIMIT, "/items/3")
    (flaw,) = refused.value.flaws
    assert flaw.pointer == f"/items/3{place}"
    assert flaw.message.startswith(reason)


# Messages as items


def shown(**members: Any) -> list[Any]:
    """The items of a message: type, index, and what is not the same for all."""
    made = []
    for item in items_of(entry(7, **{"role": "assistant", "content": None} | members)):
        body = json.loads(bytes(item.body))
        assert body.pop("id") == item.id
        made.append((item.index, body))
    return made


CALLS = (
    '[{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}, null,'
    ' {"id": "b", "type": "function", "function": {"name": "g", "arguments": {"x": 1}}}]'
)


def function_call(call_id: str, name: str, arguments: str) -> dict[str, str]:
    called = {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}
    return called | {"status": "completed"}


def spoken(role: str, *parts: object, status: str = "completed") -> dict[str, object]:
    return {"type": "message", "role": role, "content": list(parts), "status": status}


def output_text(text: str) -> dict[str, object]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def test_a_message_with_calls_is_its_words_and_each_call_behind_them() -> None:
    calls = [function_call("a", "f", "{}"), function_call("b", "g", '{"x": 1}')]
    assert shown(content='"hi"', tool_calls=CALLS) == [
        (0, spoken("assistant", output_text("hi"))),
        (1, calls[0]),
        (3, calls[1]),
    ]
    assert shown(tool_calls=CALLS) == [(0, calls[0]), (2, calls[1])]
    assert shown(content='""', tool_calls=CALLS) == [(1, calls[0]), (3, calls[1])]


def test_a_message_that_says_nothing_is_an_item_all_the_same() -> None:
    assert shown(content='""') == [(0, spoken("assistant", output_text("")))]
    assert shown(tool_calls="[]") == [(0, spoken("assistant"))]
    assert shown(role="user", content="[]") == [(0, spoken("user"))]
    assert shown(role="tool", content=None) == [
        (0, {"type": "function_call_output", "output": "", "status": "completed"})
    ]


@pytest.mark.parametrize(
    ("status", "told"),
    [("failed", "incomplete"), ("cancelled", "incomplete"), ("incomplete", "incomplete"), ("completed", "completed")],
)
def test_a_status_is_one_that_clients_know(status: str, told: str) -> None:
    assert shown(content='"x"', status=status) == [(0, spoken("assistant", output_text("x"), status=told))]


def test_parts_of_chat_completions_are_called_as_they_are_here() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://x", "detail": "low"}}
    file = {"type": "file", "file": {"file_id": "f"}}
    unknown = {"type": "input_audio", "input_audio": {"data": "x", "format": "wav"}}
    content = json.dumps([{"type": "text", "text": "a"}, image, {**image, "image_url": "https://y"}, file, unknown])
    made = [
        {"type": "input_text", "text": "a"},
        {"type": "input_image", "image_url": "https://x", "detail": "low"},
        {"type": "input_image", "image_url": "https://y", "detail": "auto"},
        {"type": "input_file", "file_id": "f"},
        unknown,
    ]
    assert shown(role="user", content=content) == [(0, spoken("user", *made))]
    result = {"type": "function_call_output", "call_id": "c", "output": made, "status": "completed"}
    assert shown(role="tool", content=content, tool_call_id="c") == [(0, result)]


def context_of(history: list[Entry]) -> Any:
    window = Window(ContextQuery(format="openai", complete=True), len(history) + 1)
    for read in history:
        if not window.take_leading(read):
            break
    for read in reversed(history):
        if read.message.seq <= window.after_seq or not window.take(read):
            break
    window.finish()
    return json.loads(msgspec.json.encode(write_context(window, Version(99, 1))))


def test_histories_taken_over_as_items_are_valid_for_a_provider() -> None:
    """Messages to items, those to messages of another conversation, and these to Chat Completions."""
    for seed in range(250):
        history = [read for read in Historian(seed).history() if read.message.status != "in_progress"]
        bodies = [bytes(item.body) for read in history for item in items_of(read)]
        taken = [kept(body, seq) for seq, body in enumerate(bodies, 1)]
        answer = context_of(taken)
        assert judge_openai(answer["messages"]) == [], seed
        assert words_of(answer) == words_of(context_of(history)), seed


def test_a_computed_id_names_its_place_and_nothing_else_does() -> None:
    (item,) = items_of(kept(b'{"role": "user", "content": "x"}', 258))
    place = parse_computed_id(item.id, CONVERSATION)
    assert place is not None
    assert (place.seq, place.index) == (258, 0)
    assert item.id == f"msg_{IDS.of(258).replace('-', '')}0000"
    assert parse_computed_id(item.id, UUID(int=5)) is None
    assert parse_computed_id(f"{item.id}0000000", CONVERSATION) is None
    assert parse_computed_id(item.id.removeprefix("msg_"), CONVERSATION) is None
