"""Items as they come in, each made a message (`items` has the table)."""

import re
from collections.abc import Iterable, Mapping
from typing import get_args

import msgspec
from msgspec import Raw
from msgspec.json import Decoder

from app.context import elements_of, members_of, text_of
from app.errors import Flaw, InvalidInput
from app.item_parts import OUR_PARTS, part_kinds, write_object
from app.items import HOLES, Columns, make_items
from app.json_objects import depth_of, parse_object
from app.payloads import (
    IncomingMessage,
    check_payload,
    fingerprint_of,
    measure_payloads,
    refuse_repeats,
)
from app.wire.messages import DEPTH_LIMIT, Role, Status

_REFUSED = frozenset({"item_reference", "compaction_trigger"})  # what no conversation holds
_REQUIRED = {
    "message": ("role", "content"),
    "function_call": ("call_id", "name", "arguments"),
    "function_call_output": ("output",),
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
    "program": ("call_id", "code", "fingerprint"),
    "program_output": ("call_id", "result"),
}
"""What each type must have (openai 3.54, its input types), but for ids and statuses, which we give."""

_STRINGS = {
    "function_call": ("call_id", "name", "arguments"),
    "function_call_output": ("call_id",),
    "custom_tool_call": ("call_id", "name", "input"),
    "custom_tool_call_output": ("call_id",),
}
_PART_TEXTS = {"input_text": "text", "output_text": "text", "refusal": "refusal"}
_SPEAKERS = frozenset({"user", "assistant", "system", "developer"})
_MESSAGE_STATUSES: dict[str, Status] = {
    "completed": "completed",
    "incomplete": "incomplete",
    "in_progress": "incomplete",  # nobody here goes on with it
}
_NULL = b"null"
_STEP = r"(?!\.{1,2}(?:/|\Z))[!-.0-~]+"  # of a path: an item is found by one in which its id stands
_OWN_ID = re.compile(rf"(?=.{{1,128}}\Z){_STEP}(?:/{_STEP})*")
_MEMBERS = Decoder(dict[str, Raw])
_encode = msgspec.json.Encoder().encode


def parse_item(raw: bytes, limit_bytes: int, pointer: str) -> IncomingMessage:
    """The message that an item is. Raises InvalidInput and TooLarge."""
    members = {name: bytes(value) for name, value in parse_object(raw, _MEMBERS, pointer).items()}
    kind = _kind_of(members, pointer)
    _check(kind, members, pointer)
    if len(raw) > 2 * DEPTH_LIMIT and depth_of(raw) > DEPTH_LIMIT:
        raise InvalidInput(Flaw(pointer=pointer, message=f"nested deeper than {DEPTH_LIMIT}"))
    own_id = _read_own_id(members, pointer)
    columns = _columns_of(kind, members, raw, pointer)
    source = _source_of(kind, members, columns)
    payloads = _payloads_of(columns)
    body_bytes = measure_payloads({**payloads, "source": source}, limit_bytes, pointer)
    return IncomingMessage(
        role=columns.role,
        status=columns.status,
        client_id=own_id,
        tool_call_id=columns.tool_call_id,
        name=None,
        model=None,
        content=payloads["content"],
        tool_calls=payloads["tool_calls"],
        audio_files=None,
        function_calls=None,
        usage=None,
        metadata=None,
        body_bytes=body_bytes,
        fingerprint=fingerprint_of(raw),
        pointer=pointer,
        source=source,
    )


def parse_items(raws: Iterable[Raw], limit_bytes: int, pointer: str = "/items") -> list[IncomingMessage]:
    """The messages that items are. Raises InvalidInput, also where an id comes twice; TooLarge."""
    messages = [parse_item(bytes(raw), limit_bytes, f"{pointer}/{place}") for place, raw in enumerate(raws)]
    refuse_repeats(messages, "id")
    return messages


def _kind_of(members: dict[str, bytes], pointer: str) -> str:
    raw = members.get("type", _NULL)
    if raw == _NULL:
        if "role" in members:
            return "message"
        raise InvalidInput(Flaw(pointer=f"{pointer}/type", message="is required"))
    kind = _string_of(members, "type", pointer)
    if not kind or kind in _REFUSED:
        raise InvalidInput(Flaw(pointer=f"{pointer}/type", message="is no type that a conversation can hold"))
    return kind


def _string_of(members: dict[str, bytes], name: str, pointer: str) -> str:
    text = text_of(Raw(members[name]))
    if text is None:
        raise InvalidInput(Flaw(pointer=f"{pointer}/{name}", message="expected `string`"))
    return text


def _check(kind: str, members: dict[str, bytes], pointer: str) -> None:
    for name in _REQUIRED.get(kind, ()):
        if name not in members:
            raise InvalidInput(Flaw(pointer=f"{pointer}/{name}", message="is required"))
    for name in _STRINGS.get(kind, ()):
        if members.get(name, _NULL) != _NULL or name in _REQUIRED[kind]:
            _string_of(members, name, pointer)


def _read_own_id(members: dict[str, bytes], pointer: str) -> str | None:
    if members.get("id", _NULL) == _NULL:
        return None
    own_id = _string_of(members, "id", pointer)
    if not _OWN_ID.fullmatch(own_id):
        message = "is no id of 1-128 visible ASCII characters, which may have slashes and dots only as steps of a path"
        raise InvalidInput(Flaw(pointer=f"{pointer}/id", message=message))
    return own_id


def _columns_of(kind: str, members: dict[str, bytes], raw: bytes, pointer: str) -> Columns:
    match kind:
        case "message":
            return _message_columns(members, pointer)
        case "function_call":
            function = b'{"name":%b,"arguments":%b}' % (members["name"], members["arguments"])
            call = b'{"id":%b,"type":"function","function":%b}' % (members["call_id"], function)
            return Columns("assistant", _status_of(members), tool_calls=Raw(b"[%b]" % call))
        case "custom_tool_call":
            return Columns("assistant", _status_of(members), tool_calls=Raw(b"[%b]" % raw))
        case "function_call_output" | "custom_tool_call_output":
            output = Raw(_check_text_or_parts(members, "output", pointer))
            call_id = _call_id_of(members, pointer)
            return Columns("tool", _status_of(members), content=output, tool_call_id=call_id)
        case _:
            whole = Raw(b"[%b]" % raw)
            if kind.endswith("_output"):
                call_id = _call_id_of(members, pointer)
                return Columns("tool", _status_of(members), content=whole, tool_call_id=call_id)
            return Columns(_role_of(members), _status_of(members), content=whole)


def _message_columns(members: dict[str, bytes], pointer: str) -> Columns:
    role = _string_of(members, "role", pointer)
    if role not in _SPEAKERS:
        raise InvalidInput(Flaw(pointer=f"{pointer}/role", message="is none of the allowed values"))
    status = None if members.get("status", _NULL) == _NULL else _string_of(members, "status", pointer)
    if status is not None and status not in _MESSAGE_STATUSES:
        raise InvalidInput(Flaw(pointer=f"{pointer}/status", message="is none of the allowed values"))
    if role != "assistant" and members.get("phase", _NULL) != _NULL:
        raise InvalidInput(Flaw(pointer=f"{pointer}/phase", message="is unknown"))
    content = Raw(_check_text_or_parts(members, "content", pointer))
    return Columns(_role_of(members), _MESSAGE_STATUSES[status or "completed"], content=content)


def _check_text_or_parts(members: dict[str, bytes], name: str, pointer: str) -> bytes:
    payload = members[name]
    if payload[:1] not in {b'"', b"["}:
        raise InvalidInput(Flaw(pointer=f"{pointer}/{name}", message="expected `string` or `array`"))
    try:
        check_payload("content", Raw(payload))
    except InvalidInput as error:
        (flaw,) = error.flaws
        place = (flaw.pointer or "").removeprefix("/content")
        raise InvalidInput(Flaw(pointer=f"{pointer}/{name}{place}", message=flaw.message)) from None
    if payload[:1] == b"[":
        for number, part in enumerate(elements_of(Raw(payload))):
            _check_part(members_of(part), f"{pointer}/{name}/{number}")
    return payload


def _check_part(part: Mapping[str, Raw], pointer: str) -> None:
    members = {name: bytes(value) for name, value in part.items()}
    name = _PART_TEXTS.get(_string_of(members, "type", pointer))
    if name is not None and name not in members:
        raise InvalidInput(Flaw(pointer=f"{pointer}/{name}", message="is required"))
    if name is not None:
        _string_of(members, name, pointer)


def _role_of(members: dict[str, bytes]) -> Role:
    role = text_of(Raw(members["role"])) if "role" in members else None
    return next((known for known in get_args(Role) if known == role), "assistant")


def _status_of(members: dict[str, bytes]) -> Status:
    """The item's own status where it says that it came to nothing; it stands in the item as it came."""
    match members.get("status"):
        case b'"incomplete"' | b'"in_progress"':
            return "incomplete"
        case b'"failed"':
            return "failed"
        case _:
            return "completed"


def _call_id_of(members: dict[str, bytes], pointer: str) -> str | None:
    call_id = text_of(Raw(members["call_id"])) if "call_id" in members else None
    if call_id is not None and "\0" in call_id:
        raise InvalidInput(Flaw(pointer=f"{pointer}/call_id", message="has characters or a form that is not allowed"))
    return call_id


def _payloads_of(columns: Columns) -> dict[str, bytes | None]:
    payloads = {"content": columns.content, "tool_calls": columns.tool_calls}
    return {name: None if value is None else bytes(value) for name, value in payloads.items()}


def _source_of(kind: str, members: dict[str, bytes], columns: Columns) -> bytes | None:
    """What to keep beside the columns; None where they rebuild the item."""
    if kind not in HOLES:
        return b"{}"
    held = {name for name, value in members.items() if _is_held(kind, name, value, columns)}
    if _is_rebuilt(kind, members, held, columns):
        return None
    return write_object((name, _NULL if name in held else value) for name, value in members.items())


def _is_held(kind: str, name: str, value: bytes, columns: Columns) -> bool:
    """Whether a column has a member as it came."""
    if name == "call_id" and columns.role == "tool":
        return value == _encode(columns.tool_call_id)
    return name in HOLES[kind]


def _is_rebuilt(kind: str, members: dict[str, bytes], held: set[str], columns: Columns) -> bool:
    """Whether what the columns make has all members that came, in their order."""
    made = list(make_items(columns))
    if [each.kind for each in made] != [kind] or any(
        part_kind in OUR_PARTS for part_kind in part_kinds(columns.content)
    ):
        return False
    rest = iter(_MEMBERS.decode(made[0].source).items())
    return all(
        any(name == known and (name in held or value == bytes(raw)) for known, raw in rest)
        for name, value in members.items()
    )
