"""Items, as OpenAI's Conversations API speaks of them, and the messages that they are here. No I/O.

======================= ===================== ============================================ ========================
type                    role                  columns of the message                       holes of its source
======================= ===================== ============================================ ========================
message                 its own               content: its own, a string or parts          content
function_call           assistant             tool_calls: one, as Chat Completions has it  call_id, name, arguments
function_call_output    tool                  tool_call_id; content: its output            call_id, output
custom_tool_call_output tool                  tool_call_id; content: its output            call_id, output
custom_tool_call        assistant             tool_calls: the item itself, alone           all of it
any other ..._output    tool                  tool_call_id; content: the item, as one part all of it
any other               assistant, or its own content: the item, as one part               all of it
======================= ===================== ============================================ ========================

One item is one message. Where the columns alone do not give the item back as it came, in the order of its members, the
message has a ``source``: the item with null in the place of its id and of what stands in a column, so that nothing is
kept twice; ``{}`` where the whole item stands in a column. An item's own id is the message's ``client_id``, unless the
native API gave it one that is computed here.

The other way, a message without a source is a ``message`` (or, by role ``tool``, a ``function_call_output``), and
behind it one ``function_call`` for each of its tool calls. Without text and with calls it is only its calls. Parts that
Chat Completions names otherwise get their names here; those that neither knows stay as they came.

An item without an id of its own has one computed: a prefix for its type, the 32 hex digits of the message's id and 4
of its place in the message, where the content is first if it is not null. No deletion of the others moves it; an edit
that gives the message a content, or takes it, does.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from uuid import UUID

import msgspec
from msgspec import Raw, Struct
from msgspec.json import Decoder

from app.context import Entry, call_of, elements_of, is_a, text_of
from app.identifiers import MessageIds
from app.item_parts import write_object, write_output, write_parts
from app.payloads import IncomingMessage
from app.wire.messages import DEFAULT_STATUS, AppendedMessage, Message, Role, Status

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
HOLES = {
    "message": frozenset({"id", "content"}),
    "function_call": frozenset({"id", "call_id", "name", "arguments"}),
    "function_call_output": frozenset({"id", "call_id", "output"}),
    "custom_tool_call_output": frozenset({"id", "call_id", "output"}),
}
"""Of each type whose parts stand in columns, the members that a source leaves to them; of any other only the id."""

_ONLY_ID = frozenset({"id"})
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

_STATUSES: dict[Status, Status] = {"completed": "completed", "in_progress": "in_progress"}
_NULL, _NO_PARTS, _EMPTY_TEXT = b"null", b"[]", b'""'
_TEMPLATE_BYTES = 512  # one that is larger than these is hardly met again

_CONVERSATION_DIGITS = 22  # of a message's id, which ends in its seq
_COMPUTED_ID = re.compile(r"[a-z]+_([0-9a-f]{32})([0-9a-f]{4,8})")
_MEMBERS = Decoder(dict[str, Raw])
_encode = msgspec.json.Encoder().encode


class _Function(Struct, frozen=True):
    name: Raw
    arguments: Raw


class _FunctionCall(Struct, frozen=True):
    id: Raw
    function: _Function


_FUNCTION_CALLS = Decoder(list[_FunctionCall])


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


class Columns(Struct, frozen=True):
    """What of a message makes its items."""

    role: Role
    status: Status = DEFAULT_STATUS
    content: Raw | None = None
    tool_calls: Raw | None = None
    tool_call_id: str | None = None


class MadeItem(Struct, frozen=True):
    """An item in the making: its source, and the values of the source's holes but for the id."""

    index: int
    kind: str
    source: bytes
    values: dict[str, bytes]


class _Template(Struct, frozen=True):
    """A source that is ready to be filled: what stands before its first hole, and each hole with what follows it."""

    kind: str
    head: bytes
    rest: tuple[tuple[str, bytes], ...]

    def fill(self, item_id: str, values: Mapping[str, bytes]) -> Raw:
        written = [self.head]
        for name, following in self.rest:
            written += (_encode(item_id) if name == "id" else values[name], following)
        return Raw(b"".join(written))


def items_of(entry: Entry) -> list[Item]:
    """The items that a message is, in order; never none."""
    message = entry.message
    columns = Columns(message.role, message.status, message.content, message.tool_calls, message.tool_call_id)
    if entry.source is None:
        return [_item(message, made) for made in make_items(columns)]
    return [_item(message, _take_up(columns, bytes(entry.source)))]


def _item(message: Message, made: MadeItem) -> Item:
    small = len(made.source) <= _TEMPLATE_BYTES
    template = _known_template(made.source) if small else _template(made.source)
    if message.client_id is not None and made.index == 0 and not _is_computed(message.client_id, message.id):
        item_id = message.client_id
    else:
        prefix = _PREFIXES.get(template.kind, _ANY_PREFIX)
        item_id = f"{prefix}_{message.id.replace('-', '')}{made.index:04x}"
    return Item(item_id, template.kind, made.index, template.fill(item_id, made.values))


def _is_computed(client_id: str, message_id: str) -> bool:
    """Whether a client id, which the native API lets be anything, is one that an item of ours has or may have."""
    found = _COMPUTED_ID.fullmatch(client_id)
    return found is not None and message_id.replace("-", "").startswith(found[1][:_CONVERSATION_DIGITS])


def _template(source: bytes) -> _Template:
    """The template of a source, with its type and what typed clients demand of that."""
    members = {name: bytes(value) for name, value in _MEMBERS.decode(source).items()}
    kind = text_of(Raw(members.get("type", _NULL))) or "message"
    given = {"type": _encode(kind), **_DEFAULTS.get(kind, {})}
    whole = {"id": _NULL} if "id" not in members else {}
    whole |= {"type": given["type"]} if "type" not in members else {}
    whole |= {name: given.get(name, value) if value == _NULL else value for name, value in members.items()}
    whole |= {name: value for name, value in given.items() if name not in whole}
    holes = HOLES.get(kind, _ONLY_ID)
    pieces: list[tuple[str, list[bytes]]] = [("", [b"{"])]
    for place, (name, value) in enumerate(whole.items()):
        pieces[-1][1].append(b"%b%b:" % (b"," if place else b"", _encode(name)))
        if name == "id" or (value == _NULL and name in holes):
            pieces.append((name, []))
        else:
            pieces[-1][1].append(value)
    pieces[-1][1].append(b"}")
    (_, head), *rest = [(name, b"".join(written)) for name, written in pieces]
    return _Template(kind, head, tuple(rest))


_known_template = lru_cache(maxsize=1024)(_template)


def _take_up(columns: Columns, source: bytes) -> MadeItem:
    """An item that came, from its source and what of it stands in columns."""
    if source == b"{}":
        return MadeItem(0, "", bytes(elements_of(columns.tool_calls or columns.content)[0]), {})
    if columns.role == "tool":
        values = {"call_id": _encode(columns.tool_call_id), "output": write_output(columns.content, is_ours=False)}
    elif columns.tool_calls is not None:
        (call,) = _FUNCTION_CALLS.decode(columns.tool_calls)
        called = {"call_id": call.id, "name": call.function.name, "arguments": call.function.arguments}
        values = {name: bytes(value) for name, value in called.items()}
    else:
        values = {"content": write_parts(columns.content, columns.role, is_ours=False)}
    return MadeItem(0, "", source, values)


def make_items(columns: Columns) -> Iterator[MadeItem]:
    """The items that the columns alone make."""
    status = _STATUSES.get(columns.status, "incomplete")
    if columns.role == "tool":
        kind = "function_call_output"
        values = {"call_id": _encode(columns.tool_call_id), "output": write_output(columns.content, is_ours=True)}
        yield MadeItem(0, kind, _plain_source(kind, "tool", status, has_call=columns.tool_call_id is not None), values)
        return
    calls = elements_of(columns.tool_calls) if columns.role == "assistant" else []
    made = list(_make_calls(calls, status, 0 if columns.content is None else 1))
    if not made or not (columns.content is None or bytes(columns.content) in {_EMPTY_TEXT, _NO_PARTS}):
        values = {"content": write_parts(columns.content, columns.role, is_ours=True)}
        yield MadeItem(0, "message", _plain_source("message", columns.role, status), values)
    yield from made


def _make_calls(calls: list[Raw], status: Status, first: int) -> Iterator[MadeItem]:
    for place, raw in enumerate(calls, first):
        call = call_of(raw)
        if call is None:
            continue
        arguments = b'"{}"' if call.arguments is None else bytes(call.arguments)
        if not is_a(Raw(arguments), b'"'):
            arguments = _encode(arguments.decode())
        values = {"call_id": _encode(call.id), "name": _encode(call.name), "arguments": arguments}
        yield MadeItem(place, "function_call", _plain_source("function_call", "assistant", status), values)


@cache
def _plain_source(kind: str, role: Role, status: Status, *, has_call: bool = True) -> bytes:
    """The source of an item of which nothing is special."""
    members = {
        "message": {"role": _encode(role), "content": _NULL},
        "function_call": {"call_id": _NULL, "name": _NULL, "arguments": _NULL},
        "function_call_output": {"call_id": _NULL, "output": _NULL} if has_call else {"output": _NULL},
    }[kind]
    whole = {"id": _NULL, "type": _encode(kind), **members, "status": _encode(status)}
    return write_object(whole.items())


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
