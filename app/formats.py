"""A window, written as a client or a model's provider takes it. No I/O."""

import re
from collections.abc import Iterable

import msgspec
from msgspec import Raw
from msgspec.structs import asdict

from app.context import INSTRUCTING, NO_RESULT, Call, Step, Weight, Window, is_a, text_of
from app.drafts import Draft, Names, Part, SentCall, join, note, parts_of, sent_calls
from app.json_objects import depth_of
from app.wire.context import Context, ContextMessage
from app.wire.messages import DEPTH_LIMIT, Message, Version

_OPENAI_ID = re.compile(r".{1,40}", re.DOTALL)
_OPENAI_NAME = re.compile(r"[^\s<|\\/>]{1,64}")
_OPENAI_PARTS = {
    "user": frozenset({"text", "image", "input_audio", "file"}),
    "assistant": frozenset({"text", "refusal"}),
}
_ANTHROPIC_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_ANTHROPIC_IMAGE = re.compile(r"data:(image/(?:jpeg|png|gif|webp));base64,([A-Za-z0-9+/]+={0,2})")

_encode = msgspec.json.Encoder().encode


def write_context(window: Window, version: Version) -> Context:
    """The context that a window is, in the format that was asked for."""
    draft = Draft(window)
    query = window.query
    match query.format:
        case "native":
            _write_native(draft)
        case "openai":
            _write_openai(draft)
        case "anthropic":
            _write_anthropic(draft)
    weights = (step.weigh(is_completed=query.complete) for step in draft.spoken)
    weight = sum(weights, Weight())
    return Context(
        format=query.format,
        system=draft.system or None,
        messages=draft.messages,
        message_count=weight.message_count,
        token_count=weight.token_count,
        estimated_count=weight.estimated_count,
        is_over_budget=window.is_over_budget,
        first_seq=window.first_seq,
        through_seq=window.through_seq,
        last_seq=version.last_seq,
        revision=version.revision,
        cut=window.cut,
        left_out=sorted([*window.left_out, *draft.left_out], key=lambda report: (report.seq, report.reason)),
        open_calls=window.open_calls,
    )


# Native


def _write_native(draft: Draft) -> None:
    for step in draft.window.steps:
        draft.spoken.append(step)
        draft.messages.append(_as_it_is(step.entry.message))
        for call, result in zip(step.calls, step.results, strict=True):
            if result is not None:
                draft.messages.append(_as_it_is(result.message))
            elif draft.is_completed:
                draft.messages.append(_synthetic(step.entry.message, call))


def _as_it_is(message: Message) -> ContextMessage:
    members = asdict(message)
    del members["html"]
    return ContextMessage(**members, is_synthetic=False)


def _synthetic(message: Message, call: Call) -> ContextMessage:
    return ContextMessage(
        id=None,
        client_id=None,
        conversation_id=message.conversation_id,
        seq=None,
        role="tool",
        content=Raw(_encode(NO_RESULT)),
        tool_calls=None,
        tool_call_id=call.id,
        name=None,
        audio_files=None,
        function_calls=None,
        model=None,
        usage=None,
        status="completed",
        metadata=None,
        revision=0,
        created_at=message.created_at,
        updated_at=message.created_at,
        is_synthetic=True,
    )


# OpenAI: Chat Completions


def _write_openai(draft: Draft) -> None:
    names = Names(_OPENAI_ID)
    for steps in join(draft.window.steps):
        message = steps[0].entry.message
        sent = [sent_calls(step, names, is_completed=draft.is_completed) for step in steps]
        content = _openai_content(draft, message)
        note(draft, steps, sent, content=content is not None)
        calls = [call for each in sent for call in each]
        if content is None and not calls:
            continue
        written: dict[str, object] = {"role": message.role, "content": content}
        if message.name is not None and _OPENAI_NAME.fullmatch(message.name):
            written["name"] = message.name
        if calls:
            written["tool_calls"] = [_openai_call(call) for call in calls]
        draft.messages.append(Raw(_encode(written)))
        draft.messages += [_openai_result(draft, call) for call in calls]


def _openai_content(draft: Draft, message: Message) -> Raw | None:
    """The content that Chat Completions takes from the role: a string, or parts as they came."""
    parts = parts_of(message.content)
    if is_a(message.content, b'"'):
        return parts[0].value if parts else None
    allowed = _OPENAI_PARTS.get(message.role, frozenset({"text"}))
    kept = [bytes(_openai_part(part)) for part in parts if part.kind in allowed]
    if len(kept) < len(parts):
        draft.report(message, "unsupported_part")
    return Raw(b"[" + b",".join(kept) + b"]") if kept else None


def _openai_part(part: Part) -> Raw:
    if part.original is not None:
        return part.original
    if part.kind == "image":
        return Raw(_encode({"type": "image_url", "image_url": {"url": part.value}}))
    return Raw(_encode({"type": "text", "text": part.value}))


def _openai_call(call: SentCall) -> dict[str, object]:
    arguments: Raw | str = "{}" if call.arguments is None else call.arguments
    if isinstance(arguments, Raw) and is_a(arguments, b"{"):
        arguments = bytes(arguments).decode()
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _openai_result(draft: Draft, call: SentCall) -> Raw:
    content = NO_RESULT if call.result is None else _openai_content(draft, call.result.message)
    return Raw(_encode({"role": "tool", "tool_call_id": call.id, "content": "" if content is None else content}))


# Anthropic: the Messages API


def _write_anthropic(draft: Draft) -> None:
    names = Names(_ANTHROPIC_ID)
    turns: list[tuple[str, list[Raw]]] = []

    def add(role: str, blocks: list[Raw]) -> None:
        if turns and turns[-1][0] == role:
            turns[-1][1].extend(blocks)
        elif blocks:
            turns.append((role, blocks))

    for steps in join(draft.window.steps):
        message = steps[0].entry.message
        if message.role == "assistant" and not turns:
            _report_too_early(draft, steps)
            continue
        sent = [sent_calls(step, names, is_completed=draft.is_completed) for step in steps]
        blocks = _anthropic_blocks(draft, message)
        note(draft, steps, sent, content=bool(blocks))
        if message.role in INSTRUCTING:
            draft.system += blocks
            continue
        calls = [call for each in sent for call in each]
        add(message.role, blocks + [_anthropic_call(call) for call in calls])
        add("user", [_anthropic_result(draft, call) for call in calls])
    draft.messages += [Raw(_encode({"role": role, "content": blocks})) for role, blocks in turns]


def _report_too_early(draft: Draft, steps: Iterable[Step]) -> None:
    for step in steps:
        for entry in (step.entry, *step.results):
            if entry is not None:
                draft.report(entry.message, "before_first_user")


def _anthropic_blocks(draft: Draft, message: Message) -> list[Raw]:
    """The texts and images that the role may show; a text must not be blank."""
    parts = parts_of(message.content)
    blocks = []
    for part in parts:
        block = _anthropic_block(part, has_images=message.role in {"user", "tool"})
        if block is None:
            draft.report(message, "unsupported_part")
        elif block:
            blocks.append(Raw(_encode(block)))
    return blocks


def _anthropic_block(part: Part, *, has_images: bool) -> dict[str, object] | None:
    """A part as a block, an empty one where it says nothing; None where there is no such block."""
    if part.kind in {"text", "refusal"}:
        return {"type": "text", "text": part.value} if (text_of(part.value) or "").strip() else {}
    if part.kind != "image" or not has_images:
        return None
    url = text_of(part.value) or ""
    if url.startswith("https://"):
        return {"type": "image", "source": {"type": "url", "url": part.value}}
    if image := _ANTHROPIC_IMAGE.fullmatch(url):
        return {"type": "image", "source": {"type": "base64", "media_type": image[1], "data": image[2]}}
    return None


def _anthropic_call(call: SentCall) -> Raw:
    return Raw(_encode({"type": "tool_use", "id": call.id, "name": call.name, "input": _input_of(call.arguments)}))


def _input_of(arguments: Raw | None) -> object:
    """An object: the arguments themselves where they are one, else what holds their text."""
    if arguments is None or is_a(arguments, b"{"):
        return {} if arguments is None else arguments
    data = (text_of(arguments) or "").strip().encode()
    if not data:
        return {}
    if not data.startswith(b"{") or depth_of(data) > DEPTH_LIMIT:
        return {"arguments": arguments}
    try:
        msgspec.json.decode(data)
    except msgspec.DecodeError:
        return {"arguments": arguments}
    return Raw(data)


def _anthropic_result(draft: Draft, call: SentCall) -> Raw:
    block: dict[str, object] = {"type": "tool_result", "tool_use_id": call.id}
    if call.result is None:
        return Raw(_encode(block | {"content": NO_RESULT, "is_error": True}))
    if content := _anthropic_blocks(draft, call.result.message):
        block["content"] = content
    if call.result.message.status == "failed":
        block["is_error"] = True
    return Raw(_encode(block))
