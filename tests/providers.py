"""What providers refuse, from their public rules: judges of windows that share nothing with the service.

OpenAI: the reference of Chat Completions, and the messages of its 400s. Anthropic: the reference of the Messages API,
and those of its 400s. Each judge lists what is wrong, in words near the provider's own.
"""

import re
from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]

TOOL_NAME = r"[a-zA-Z0-9_-]{1,64}"


def fits(pattern: str, text: object) -> bool:
    return isinstance(text, str) and re.fullmatch(pattern, text) is not None


# Native


def judge_native(messages: list[Json]) -> list[str]:
    """Each result stands behind the message that called it, in the order of its calls, and at most once."""
    faults = []
    expected: list[str] = []
    for place, message in enumerate(messages):
        if message["role"] != "tool":
            expected = [call_id for call in calls_of(message) if (call_id := id_of(call))]
            if message["status"] == "in_progress":
                faults.append(f"{place}: not finished")
        elif message["tool_call_id"] not in expected:
            faults.append(f"{place}: a result of {message['tool_call_id']} where {expected} are expected")
        else:
            del expected[: expected.index(message["tool_call_id"]) + 1]
        if message["is_synthetic"] != (message["id"] is None) or message["is_synthetic"] != (message["seq"] is None):
            faults.append(f"{place}: a synthetic message is not marked")
    return faults


def calls_of(message: Json) -> list[Any]:
    calls = message["tool_calls"] if message["role"] == "assistant" else None
    return [calls] if isinstance(calls, dict) else calls or []


def id_of(call: Any) -> str | None:
    found = call.get("call_id") or call.get("id") if isinstance(call, dict) else None
    return found if isinstance(found, str) else None


# OpenAI

OPENAI_MEMBERS = {
    "developer": {"role", "content", "name"},
    "system": {"role", "content", "name"},
    "user": {"role", "content", "name"},
    "assistant": {"role", "content", "name", "tool_calls", "refusal", "audio"},
    "tool": {"role", "content", "tool_call_id"},
}
OPENAI_PARTS = {"user": {"text", "image_url", "input_audio", "file"}, "assistant": {"text", "refusal"}}


def judge_openai(messages: list[Json]) -> list[str]:
    return list(find_openai_faults(messages))


def find_openai_faults(messages: list[Json]) -> Iterator[str]:
    waiting: list[str] = []
    for place, message in enumerate(messages):
        role = message["role"]
        if unknown := message.keys() - OPENAI_MEMBERS[role]:
            yield f"{place}: unknown {unknown}"
        if "name" in message and not fits(r"[^\s<|\\/>]{1,64}", message["name"]):
            yield f"{place}: name does not match the pattern"
        if role == "tool":
            if message["tool_call_id"] not in waiting:
                yield f"{place}: 'tool' must be a response to a preceding message with 'tool_calls'"
            else:
                waiting.remove(message["tool_call_id"])
        elif waiting:
            yield f"{place}: the following tool_call_ids did not have response messages: {waiting}"
        if role == "assistant":
            waiting = [call["id"] for call in message.get("tool_calls", [])]
            yield from (f"{place}: {fault}" for fault in find_openai_call_faults(message))
        if message.get("content") is None and not message.get("tool_calls"):
            yield f"{place}: expected a string or an array of parts, got null"
        yield from (f"{place}: {fault}" for fault in find_openai_part_faults(role, message.get("content")))
    if waiting:
        yield f"at the end: the following tool_call_ids did not have response messages: {waiting}"


def find_openai_call_faults(message: Json) -> Iterator[str]:
    calls = message.get("tool_calls")
    if calls == []:
        yield "[] is too short - 'tool_calls'"
    ids = [call["id"] for call in calls or []]
    if len(set(ids)) < len(ids):
        yield "duplicate ids of tool_calls"
    for call in calls or []:
        if call.keys() != {"id", "type", "function"} or call["type"] != "function" or not 1 <= len(call["id"]) <= 40:
            yield f"bad call {call}"
        function = call["function"]
        if function.keys() != {"name", "arguments"} or not fits(TOOL_NAME, function["name"]):
            yield f"bad function {function}"
        if not isinstance(function["arguments"], str):
            yield "arguments: expected a string"


def find_openai_part_faults(role: str, content: Any) -> Iterator[str]:
    if content is None or isinstance(content, str):
        return
    if not isinstance(content, list) or not content:
        yield f"content is {content!r}"
        return
    for part in content:
        kind = part.get("type")
        if kind not in OPENAI_PARTS.get(role, {"text"}):
            yield f"a part of type {kind} in {role}"
            continue
        value = part.get(kind)
        if not {
            "text": lambda value: isinstance(value, str),
            "refusal": lambda value: isinstance(value, str),
            "image_url": lambda value: isinstance(value, dict) and isinstance(value.get("url"), str),
            "input_audio": lambda value: (
                isinstance(value, dict) and isinstance(value.get("data"), str) and value.get("format") in {"wav", "mp3"}
            ),
            "file": lambda value: isinstance(value, dict) and bool(value),
        }[kind](value):
            yield f"bad part {part}"


# Anthropic


def judge_anthropic(system: Any, messages: list[Json]) -> list[str]:
    return [*find_system_faults(system), *find_anthropic_faults(messages)]


def find_system_faults(system: Any) -> Iterator[str]:
    if system is not None and (not isinstance(system, list) or not system):
        yield f"system is {system!r}"
    for block in system or []:
        if block.keys() != {"type", "text"} or block["type"] != "text" or not block["text"].strip():
            yield f"system: {block}"


def find_anthropic_faults(messages: list[Json]) -> Iterator[str]:
    if messages and messages[0]["role"] != "user":
        yield "first message must use the user role"
    waiting: list[str] = []
    known: list[str] = []
    for place, message in enumerate(messages):
        content = message["content"]
        yield from find_message_faults(place, messages)
        results = [block["tool_use_id"] for block in content if block["type"] == "tool_result"]
        if sorted(results) != sorted(waiting):
            yield f"{place}: tool_use ids {waiting} before, tool_result blocks {results} here"
        if any(block["type"] != "tool_result" for block in content[: len(results)]):
            yield f"{place}: tool_result blocks must come first"
        waiting = [block["id"] for block in content if block["type"] == "tool_use"]
        known += waiting
    if waiting:
        yield f"`tool_use` ids were found without `tool_result` blocks immediately after: {waiting}"
    if len(set(known)) < len(known):
        yield "`tool_use` ids must be unique"


def find_message_faults(place: int, messages: list[Json]) -> Iterator[str]:
    message = messages[place]
    role, content = message["role"], message["content"]
    if message.keys() != {"role", "content"} or role not in {"user", "assistant"}:
        yield f"{place}: {message.keys()} of {role}"
    if place and messages[place - 1]["role"] == role:
        yield f"{place}: roles must alternate"
    if not isinstance(content, list) or not content:
        yield f"{place}: content must be non-empty"
    for block in content:
        yield from (f"{place}: {fault}" for fault in find_block_faults(role, block))


def find_block_faults(role: str, block: Json) -> Iterator[str]:
    match block:
        case {"type": "text", "text": str(text)} if block.keys() == {"type", "text"}:
            if not text.strip():
                yield "text content blocks must contain non-whitespace text"
        case {"type": "image", "source": source} if role == "user" and block.keys() == {"type", "source"}:
            yield from find_image_faults(source)
        case {"type": "tool_use", "id": call_id, "name": name, "input": dict()} if role == "assistant":
            if not fits("[a-zA-Z0-9_-]+", call_id) or not fits(TOOL_NAME, name):
                yield f"id {call_id} or name {name} does not match the pattern"
        case {"type": "tool_result", "tool_use_id": str()} if role == "user":
            yield from find_result_faults(block)
        case _:
            yield f"{block} in {role}"


def find_result_faults(block: Json) -> Iterator[str]:
    if block.keys() - {"type", "tool_use_id", "content", "is_error"}:
        yield f"{block.keys()} in a tool_result"
    content = block.get("content", [])
    for inner in content if isinstance(content, list) else [{"type": "text", "text": content}]:
        if inner["type"] not in {"text", "image"}:
            yield f"{inner['type']} in a tool_result"
        yield from find_block_faults("user", inner)


def find_image_faults(source: Json) -> Iterator[str]:
    match source:
        case {"type": "base64", "media_type": kind, "data": data}:
            if kind not in {"image/jpeg", "image/png", "image/gif", "image/webp"}:
                yield f"media_type {kind}"
            if not fits("[A-Za-z0-9+/]+={0,2}", data):
                yield "data is no base64"
        case {"type": "url", "url": str(url)}:
            if not url.startswith("https://"):
                yield "Only HTTPS URLs are supported"
        case _:
            yield f"source {source}"
