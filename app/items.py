"""Items, as OpenAI's Conversations API speaks of them, and the messages that they are here. No I/O.

========================== ============ ============================================================ ==================
item                       role         columns of the message                                       hole in its source
========================== ============ ============================================================ ==================
``message``                its own      ``content`` as it came, a string or parts                    ``content``
``function_call``          assistant    ``tool_calls``: one, in the shape of Chat Completions         ``arguments``
``function_call_output``   tool         ``tool_call_id``; ``content``: its ``output``                 ``output``
``custom_tool_call``       assistant    ``tool_calls``: the item itself, alone                       all of it
``custom_tool_call_output`` tool        ``tool_call_id``; ``content``: its ``output``                 ``output``
any other ``..._output``   tool         ``tool_call_id``; ``content``: the item itself, as one part  all of it
any other                  its own, or  ``content``: the item itself, as one part                    all of it
                           assistant
========================== ============ ============================================================ ==================

One item is one message. Where the columns alone do not give the item back as it came, in the order of its members, the
message has a ``source``: the item with null in the place of its id and of what stands in a column, so that nothing is
kept twice; ``{}`` where the whole item stands in a column. An item's own id is the message's ``client_id``.

The other way, a message without a source is a ``message`` (or, by role ``tool``, a ``function_call_output``), and
behind it one ``function_call`` for each of its tool calls. Without text and with calls it is only its calls. Parts that
Chat Completions names otherwise get their names here; those that neither knows stay as they came.

An item without an id of its own has one computed: a prefix for its type, the 32 hex digits of the message's id and 4
of its place in the message, where the content is first if it is not null. No change of the others moves it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import get_args
from uuid import UUID

import msgspec
from msgspec import Raw, Struct
from msgspec.json import Decoder

from app.context import Entry, call_of, elements_of, is_a, members_of, text_of
from app.errors import Flaw, InvalidInput
from app.identifiers import MessageIds
from app.payloads import IncomingMessage, check_payload, depth_of, fingerprint_of, measure_payloads, parse_object
from app.wire.messages import DEFAULT_STATUS, DEPTH_LIMIT, AppendedMessage, Message, Role, Status

_PREFIXES = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "reasoning": "rs",
    "file_search_call": "fs",
    "web_search_call": "ws",
    "code_interpreter_call": "ci",
    "computer_call": "cu",
    "image_generation_call": "ig",
    "local_shell_call": "lsh",
    "mcp_call": "mcp",
    "mcp_list_tools": "mcpl",
    "mcp_approval_request": "mcpr",
    "tool_search_call": "tsc",
    "compaction": "cmp",
}
_ANY_PREFIX = "item"
_HOLES = {
    "message": "content",
    "function_call": "arguments",
    "function_call_output": "output",
    "custom_tool_call_output": "output",
}
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
_COMPLETED = {"status": b'"completed"'}
_DEFAULTS = {
    "message": _COMPLETED,
    "function_call": _COMPLETED,
    "function_call_output": _COMPLETED,
    "computer_call": _COMPLETED,
    "computer_call_output": _COMPLETED,
    "file_search_call": _COMPLETED,
    "web_search_call": _COMPLETED,
    "code_interpreter_call": _COMPLETED,
    "image_generation_call": _COMPLETED,
    "local_shell_call": _COMPLETED,
    "shell_call": _COMPLETED,
    "shell_call_output": _COMPLETED,
    "apply_patch_call": _COMPLETED,
    "apply_patch_call_output": _COMPLETED,
    "program_output": _COMPLETED,
    "tool_search_call": {"execution": b'"server"', **_COMPLETED},
    "tool_search_output": {"execution": b'"server"', **_COMPLETED},
}
"""What typed clients demand of each type that comes back, though it may be left out of what is sent."""

_PART_DEFAULTS = {
    "output_text": {"annotations": b"[]", "logprobs": b"[]"},
    "input_image": {"detail": b'"auto"'},
}
_PART_TEXTS = {"input_text": "text", "output_text": "text", "refusal": "refusal"}
_OUR_PARTS = frozenset({"text", "image_url", "file"})
_SPEAKERS = frozenset({"user", "assistant", "system", "developer"})
_STATUSES: dict[Status, bytes] = {"completed": b'"completed"', "in_progress": b'"in_progress"'}
_MESSAGE_STATUSES: dict[str, Status] = {
    "completed": "completed",
    "incomplete": "incomplete",
    "in_progress": "incomplete",  # nobody here goes on with it
}
_INCOMPLETE = b'"incomplete"'
_NULL, _NOTHING, _EMPTY_TEXT = b"null", b"[]", b'""'

_OWN_ID = re.compile(r"(?!/+\Z)[!-~]{1,128}")  # slashes alone end no path
_COMPUTED_ID = re.compile(r"[a-z]+_([0-9a-f]{32})([0-9a-f]{4,8})")
_MEMBERS = Decoder(dict[str, Raw])
_encode = msgspec.json.Encoder().encode

Members = list[tuple[str, bytes]]


class Item(Struct, frozen=True):
    """An item of a conversation."""

    id: str
    type: str
    index: int
    """Its place in its message."""
    body: Raw
    """The item as it goes out."""


class ItemPlace(Struct, frozen=True):
    """Where an item is: in which message, at which place of it."""

    seq: int
    index: int


class _Columns(Struct, frozen=True):
    """What of a message makes its items."""

    role: Role
    status: Status = DEFAULT_STATUS
    content: Raw | None = None
    tool_calls: Raw | None = None
    tool_call_id: str | None = None


# In


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
    payloads = {name: None if value is None else bytes(value) for name, value in _payloads_of(columns).items()}
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
    known: set[str] = set()
    for message in messages:
        if message.client_id in known:
            raise InvalidInput(Flaw(pointer=f"{message.pointer}/id", message="comes twice in the request"))
        if message.client_id is not None:
            known.add(message.client_id)
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
        message = "must be 1-128 visible ASCII characters, as ids are; it has characters or a form that is not allowed"
        raise InvalidInput(Flaw(pointer=f"{pointer}/id", message=message))
    return own_id


def _columns_of(kind: str, members: dict[str, bytes], raw: bytes, pointer: str) -> _Columns:
    match kind:
        case "message":
            return _message_columns(members, pointer)
        case "function_call":
            function = b'{"name":%b,"arguments":%b}' % (members["name"], members["arguments"])
            call = b'{"id":%b,"type":"function","function":%b}' % (members["call_id"], function)
            return _Columns("assistant", _status_of(members), tool_calls=Raw(b"[%b]" % call))
        case "custom_tool_call":
            return _Columns("assistant", _status_of(members), tool_calls=Raw(b"[%b]" % raw))
        case "function_call_output" | "custom_tool_call_output":
            output = Raw(_check_text_or_parts(members, "output", pointer))
            call_id = _call_id_of(members, pointer)
            return _Columns("tool", _status_of(members), content=output, tool_call_id=call_id)
        case _:
            whole = Raw(b"[%b]" % raw)
            if kind.endswith("_output"):
                call_id = _call_id_of(members, pointer)
                return _Columns("tool", _status_of(members), content=whole, tool_call_id=call_id)
            return _Columns(_role_of(members), _status_of(members), content=whole)


def _message_columns(members: dict[str, bytes], pointer: str) -> _Columns:
    role = _string_of(members, "role", pointer)
    if role not in _SPEAKERS:
        raise InvalidInput(Flaw(pointer=f"{pointer}/role", message="is none of the allowed values"))
    status = None if members.get("status", _NULL) == _NULL else _string_of(members, "status", pointer)
    if status is not None and status not in _MESSAGE_STATUSES:
        raise InvalidInput(Flaw(pointer=f"{pointer}/status", message="is none of the allowed values"))
    if role != "assistant" and "phase" in members:
        raise InvalidInput(Flaw(pointer=f"{pointer}/phase", message="is unknown"))
    content = Raw(_check_text_or_parts(members, "content", pointer))
    return _Columns(_role_of(members), _MESSAGE_STATUSES[status or "completed"], content=content)


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


def _payloads_of(columns: _Columns) -> dict[str, Raw | None]:
    return {"content": columns.content, "tool_calls": columns.tool_calls}


def _source_of(kind: str, members: dict[str, bytes], columns: _Columns) -> bytes | None:
    """What to keep beside the columns; None where they rebuild the item."""
    if kind not in _HOLES:
        return b"{}"
    if _is_rebuilt(kind, members, columns):
        return None
    hollow = {"id": _NULL, _HOLES[kind]: _NULL}
    return _object((name, hollow.get(name, value)) for name, value in members.items())


def _is_rebuilt(kind: str, members: dict[str, bytes], columns: _Columns) -> bool:
    """Whether what the columns make has all members that came, in their order."""
    if kind == "message" and any(_kind_of_part(part) in _OUR_PARTS for part in _parts_of(columns.content)):
        return False
    made = list(_make(columns))
    if [made_kind for _, made_kind, _ in made] != [kind]:
        return False
    rest = iter([("id", b""), ("type", _encode(kind)), *made[0][2]])
    given = {"id", _HOLES[kind]}
    return all(
        any(name == known and (name in given or value == raw) for known, value in rest) for name, raw in members.items()
    )


# Out


def items_of(entry: Entry) -> list[Item]:
    """The items that a message is, in order; never none."""
    message = entry.message
    columns = _Columns(
        role=message.role,
        status=message.status,
        content=message.content,
        tool_calls=message.tool_calls,
        tool_call_id=message.tool_call_id,
    )
    if entry.source is not None:
        return [_item(message, 0, *_fill(columns, _MEMBERS.decode(entry.source)))]
    return [_item(message, index, kind, members) for index, kind, members in _make(columns)]


def entry_of(conversation_id: UUID, message: IncomingMessage, appended: AppendedMessage) -> Entry:
    """A message of an append, as it is kept."""
    kept = Message(
        id=appended.id,
        client_id=appended.client_id,
        conversation_id=str(conversation_id),
        seq=appended.seq,
        role=msgspec.convert(message.role, Role),
        content=_raw(message.content),
        tool_calls=_raw(message.tool_calls),
        tool_call_id=message.tool_call_id,
        name=message.name,
        audio_files=_raw(message.audio_files),
        function_calls=_raw(message.function_calls),
        model=message.model,
        usage=_raw(message.usage),
        status=msgspec.convert(message.status, Status),
        metadata=_raw(message.metadata),
        revision=0,
        created_at=appended.created_at,
        updated_at=appended.created_at,
    )
    return Entry(kept, message.body_bytes, _raw(message.source))


def _raw(payload: bytes | None) -> Raw | None:
    return None if payload is None else Raw(payload)


def parse_computed_id(item_id: str, conversation_id: UUID) -> ItemPlace | None:
    """The place that an id was computed from; None for an id that is none of this conversation's."""
    found = _COMPUTED_ID.fullmatch(item_id)
    seq = MessageIds(conversation_id).seq(str(UUID(found[1]))) if found else None
    return ItemPlace(seq, int(found[2], 16)) if found and seq is not None else None


def _item(message: Message, index: int, kind: str, members: Members) -> Item:
    if message.client_id is not None and index == 0:
        item_id = message.client_id
    else:
        item_id = f"{_PREFIXES.get(kind, _ANY_PREFIX)}_{message.id.replace('-', '')}{index:04x}"
    return Item(item_id, kind, index, Raw(_object(_complete(item_id, kind, members))))


def _complete(item_id: str, kind: str, members: Members) -> Members:
    """With its id and type, and with what typed clients demand."""
    given = {"id": _encode(item_id), "type": _encode(kind)}
    defaults = _DEFAULTS.get(kind, {})
    names = {name for name, _ in members}
    whole = [(name, value) for name, value in given.items() if name not in names]
    for name, value in members:
        if name == "id" or value == _NULL:
            value = given.get(name) or defaults.get(name, value)  # noqa: PLW2901  # the member, filled in
        whole.append((name, value))
    return whole + [(name, value) for name, value in defaults.items() if name not in names]


def _object(members: Iterable[tuple[str, bytes]]) -> bytes:
    return b"{%b}" % b",".join(b"%b:%b" % (_encode(name), value) for name, value in members)


def _fill(columns: _Columns, source: dict[str, Raw]) -> tuple[str, Members]:
    """The type and the members of an item that came, from its source and what of it stands in a column."""
    if not source:
        source = _MEMBERS.decode(elements_of(columns.tool_calls or columns.content)[0])
        hole, payload = None, b""
    else:
        hole, payload = _payload_of(columns, source)
    kind = text_of(source.get("type")) or "message"
    members = [(name, payload if name == hole else bytes(value)) for name, value in source.items()]
    return kind, members


def _payload_of(columns: _Columns, source: dict[str, Raw]) -> tuple[str, bytes]:
    hole = _HOLES[text_of(source.get("type")) or "message"]
    if hole == "arguments":
        function = members_of(members_of(elements_of(columns.tool_calls)[0])["function"])
        return hole, bytes(function["arguments"])
    if hole == "content":
        return hole, _list_parts(columns, is_ours=False)
    return hole, _output(columns, is_ours=False)


def _make(columns: _Columns) -> Iterator[tuple[int, str, Members]]:
    """The place, type and members of each item that the columns alone make."""
    status = ("status", _STATUSES.get(columns.status, _INCOMPLETE))
    if columns.role == "tool":
        call_id = [("call_id", _encode(columns.tool_call_id))] if columns.tool_call_id is not None else []
        yield 0, "function_call_output", [*call_id, ("output", _output(columns, is_ours=True)), status]
        return
    calls = elements_of(columns.tool_calls) if columns.role == "assistant" else []
    made = list(_make_calls(calls, status, 0 if columns.content is None else 1))
    if not made or not (columns.content is None or bytes(columns.content) in {_EMPTY_TEXT, _NOTHING}):
        parts = ("content", _list_parts(columns, is_ours=True))
        yield 0, "message", [("role", _encode(columns.role)), parts, status]
    yield from made


def _make_calls(calls: list[Raw], status: tuple[str, bytes], first: int) -> Iterator[tuple[int, str, Members]]:
    for place, raw in enumerate(calls, first):
        call = call_of(raw)
        if call is None:
            continue
        arguments = b'"{}"' if call.arguments is None else bytes(call.arguments)
        if not is_a(Raw(arguments), b'"'):
            arguments = _encode(arguments.decode())
        named = [("call_id", _encode(call.id)), ("name", _encode(call.name))]
        yield place, "function_call", [*named, ("arguments", arguments), status]


def _output(columns: _Columns, *, is_ours: bool) -> bytes:
    if columns.content is None:
        return _EMPTY_TEXT
    if is_a(columns.content, b'"'):
        return bytes(columns.content)
    return _join(_part(raw, "input_text", is_ours=is_ours) for raw in elements_of(columns.content))


def _list_parts(columns: _Columns, *, is_ours: bool) -> bytes:
    kind = "output_text" if columns.role == "assistant" else "input_text"
    if columns.content is not None and is_a(columns.content, b'"'):
        return _join([_text_part(kind, bytes(columns.content))])
    return _join(_part(raw, kind, is_ours=is_ours) for raw in _parts_of(columns.content))


def _parts_of(content: Raw | None) -> list[Raw]:
    return elements_of(content) if content is not None and is_a(content, b"[") else []


def _join(parts: Iterable[bytes]) -> bytes:
    return b"[%b]" % b",".join(parts)


def _text_part(kind: str, text: bytes) -> bytes:
    return _object([("type", _encode(kind)), ("text", text), *_PART_DEFAULTS.get(kind, {}).items()])


def _kind_of_part(raw: Raw) -> str | None:
    return text_of(members_of(raw).get("type"))


def _part(raw: Raw, text_kind: str, *, is_ours: bool) -> bytes:
    """A part with what typed clients demand; one of Chat Completions as it is called here."""
    members, part = members_of(raw), bytes(raw)
    kind = text_of(members.get("type")) or ""
    if is_ours and kind in _OUR_PARTS:
        members = _rename(kind, members, text_kind)
        kind = text_of(members["type"]) or ""
        part = _object((name, bytes(value)) for name, value in members.items())
    missing = [(name, value) for name, value in _PART_DEFAULTS.get(kind, {}).items() if name not in members]
    return b"%b,%b" % (part[:-1], _object(missing)[1:]) if missing else part


def _rename(kind: str, members: Mapping[str, Raw], text_kind: str) -> Mapping[str, Raw]:
    if kind == "text" and is_a(members.get("text"), b'"'):
        return {**members, "type": Raw(_encode(text_kind))}
    if kind == "image_url":
        image = members_of(members.get("image_url"))
        url = image.get("url", members.get("image_url"))
        if url is not None and is_a(url, b'"'):
            detail = {"detail": image["detail"]} if "detail" in image else {}
            return {"type": Raw(b'"input_image"'), "image_url": url, **detail}
    if kind == "file" and (file := members_of(members.get("file"))):
        return {"type": Raw(b'"input_file"'), **file}
    return members
