"""What is asked of the Responses API, as the model is asked: tools and formats in the shapes of Chat Completions."""

from collections.abc import Mapping
from typing import TypeVar

import msgspec
from msgspec import Raw, Struct
from msgspec.json import Decoder

from app.asking import Asked
from app.context import elements_of, is_a, members_of, text_of
from app.errors import Flaw, InvalidInput
from app.items import parse_items
from app.openai_bodies import parse_metadata
from app.openai_errors import Refusal
from app.payloads import IncomingMessage, depth_of, parse_object
from app.wire.messages import DEPTH_LIMIT
from app.wire.responses import (
    ITEMS_LIMIT,
    ConversationChoice,
    FunctionChoice,
    FunctionTool,
    NewResponse,
    PlainFormat,
    ReasoningConfig,
    SchemaFormat,
    TextConfig,
)

T = TypeVar("T")

_NEW_RESPONSE = Decoder(NewResponse)
_TOOL, _TOOL_CHOICE, _CONVERSATION = Decoder(FunctionTool), Decoder(FunctionChoice), Decoder(ConversationChoice)
_TEXT, _PLAIN, _SCHEMA, _REASONING = (
    Decoder(TextConfig),
    Decoder(PlainFormat),
    Decoder(SchemaFormat),
    Decoder(ReasoningConfig),
)
_NUMBER = Decoder(float)
_IDLE = {"background": b"false", "include": b"[]", "top_logprobs": b"0"}
_UNSUPPORTED = (
    "background",
    "include",
    "prompt",
    "max_tool_calls",
    "top_logprobs",
    "context_management",
    "moderation",
)
_CHOICES = frozenset({"auto", "none", "required"})
_HIGHEST = {"temperature": 2, "top_p": 1}
_KINDS = {b'"': "string", b"[": "array", b"{": "object", b"t": "boolean", b"f": "boolean"}


class ResponseRequest(Struct, frozen=True):
    """A request that can be served."""

    new: NewResponse
    messages: list[IncomingMessage]
    asked: Asked
    conversation: str | None
    """The id of the conversation that it names."""

    @property
    def is_stored(self) -> bool:
        """Whether it is kept, and what comes of it."""
        return self.new.store is not False


def is_given(raw: Raw) -> bool:
    """Whether a member is there, and not null."""
    return bytes(raw) not in {b"", b"null"}


def parse_new_response(body: bytes, limit_bytes: int) -> ResponseRequest:
    """What is asked. Raises InvalidInput, TooLarge, and Refusal for what is not served here."""
    new = parse_object(body, _NEW_RESPONSE)
    for name in _UNSUPPORTED:
        raw = getattr(new, name)
        if is_given(raw) and bytes(raw) != _IDLE.get(name):
            raise _unsupported(f"/{name}")
    if is_given(new.conversation) and new.previous_response_id is not None:
        message = "Mutually exclusive parameters: 'conversation' and 'previous_response_id'. Send one of them."
        raise Refusal(message, code="mutually_exclusive_parameters")
    parse_metadata(new.metadata)
    messages = _read_input(new.input, limit_bytes)
    conversation = _read_conversation(new.conversation)
    if not messages and conversation is None and new.previous_response_id is None:
        raise InvalidInput(Flaw(pointer="/input", message="is required"))
    asked = Asked(
        instructions=new.instructions,
        tools=_chat_tools(new.tools),
        tool_choice=_chat_tool_choice(new.tool_choice),
        max_output_tokens=new.max_output_tokens,
        options=_options_of(new),
    )
    return ResponseRequest(new, messages, asked, conversation)


def _unsupported(pointer: str) -> InvalidInput:
    return InvalidInput(Flaw(pointer=pointer, message="is not supported"))


def _refuse_kind(raw: Raw, pointer: str, *kinds: str) -> InvalidInput:
    wanted = " or ".join(f"`{kind}`" for kind in kinds)
    got = _KINDS.get(bytes(raw)[:1], "number")
    return InvalidInput(Flaw(pointer=pointer, message=f"expected {wanted}, got `{got}`"))


def _read_input(raw: Raw, limit_bytes: int) -> list[IncomingMessage]:
    if not is_given(raw):
        return []
    if is_a(raw, b'"'):
        return parse_items([Raw(b'{"role":"user","content":%b}' % bytes(raw))], limit_bytes, "/input")
    if not is_a(raw, b"["):
        raise _refuse_kind(raw, "/input", "string", "array")
    items = elements_of(raw)
    if len(items) > ITEMS_LIMIT:
        raise InvalidInput(Flaw(pointer="/input", message=f"expected `array` of length <= {ITEMS_LIMIT}"))
    return parse_items(items, limit_bytes, "/input")


def _read_conversation(raw: Raw) -> str | None:
    if not is_given(raw):
        return None
    if is_a(raw, b"{"):
        return parse_object(bytes(raw), _CONVERSATION, "/conversation").id
    conversation = text_of(raw)
    if conversation is None:
        raise _refuse_kind(raw, "/conversation", "string", "object")
    return conversation


def _options_of(new: NewResponse) -> Mapping[str, Raw]:
    """Further members of a request of Chat Completions."""
    options = {name: getattr(new, name) for name in _HIGHEST if _check_number(name, getattr(new, name))}
    if new.parallel_tool_calls is not None:
        options["parallel_tool_calls"] = _raw(new.parallel_tool_calls)
    if is_given(new.text):
        text = _read_object(new.text, _TEXT, "/text")
        if (response_format := _chat_format(text.format)) is not None:
            options["response_format"] = response_format
        if text.verbosity is not None:
            options["verbosity"] = _raw(text.verbosity)
    if is_given(new.reasoning):
        reasoning = _read_object(new.reasoning, _REASONING, "/reasoning")
        if reasoning.effort is not None:
            options["reasoning_effort"] = _raw(reasoning.effort)
    return options


def _raw(value: object) -> Raw:
    return Raw(msgspec.json.encode(value))


def _check_number(name: str, raw: Raw) -> bool:
    """Whether it is there."""
    if not is_given(raw):
        return False
    try:
        number = _NUMBER.decode(raw)
    except msgspec.DecodeError:
        raise _refuse_kind(raw, f"/{name}", "number") from None
    if not 0 <= number <= _HIGHEST[name]:
        raise InvalidInput(Flaw(pointer=f"/{name}", message=f"is not between 0 and {_HIGHEST[name]}"))
    return True


def _read_object(raw: Raw, decoder: Decoder[T], pointer: str) -> T:
    if not is_a(raw, b"{"):
        raise _refuse_kind(raw, pointer, "object")
    if len(raw) > 2 * DEPTH_LIMIT and depth_of(bytes(raw)) > DEPTH_LIMIT:
        raise InvalidInput(Flaw(pointer=pointer, message=f"nested deeper than {DEPTH_LIMIT}"))
    return parse_object(bytes(raw), decoder, pointer)


def _chat_tools(raw: Raw) -> Raw | None:
    if not is_given(raw):
        return None
    if not is_a(raw, b"["):
        raise _refuse_kind(raw, "/tools", "array")
    tools = [_chat_tool(tool, f"/tools/{place}") for place, tool in enumerate(elements_of(raw))]
    return Raw(b"[%b]" % b",".join(tools)) if tools else None


def _chat_tool(raw: Raw, pointer: str) -> bytes:
    _refuse_other_types(raw, pointer)
    _read_object(raw, _TOOL, pointer)
    return b'{"type":"function","function":%b}' % _without_type(raw)


def _refuse_other_types(raw: Raw, pointer: str) -> None:
    """Tools that somebody hosts, and all but functions."""
    if "type" in members_of(raw) and text_of(members_of(raw)["type"]) != "function":
        raise _unsupported(f"{pointer}/type")


def _without_type(raw: Raw) -> bytes:
    """An object as its members came, without its type and what is null."""
    members = [(name, value) for name, value in members_of(raw).items() if name != "type" and is_given(value)]
    return b"{%b}" % b",".join(b"%b:%b" % (msgspec.json.encode(name), bytes(value)) for name, value in members)


def _chat_tool_choice(raw: Raw) -> Raw | None:
    if not is_given(raw):
        return None
    if is_a(raw, b'"'):
        if text_of(raw) not in _CHOICES:
            raise InvalidInput(Flaw(pointer="/tool_choice", message="is none of the allowed values"))
        return raw
    if not is_a(raw, b"{"):
        raise _refuse_kind(raw, "/tool_choice", "string", "object")
    _refuse_other_types(raw, "/tool_choice")
    _read_object(raw, _TOOL_CHOICE, "/tool_choice")
    return Raw(b'{"type":"function","function":%b}' % _without_type(raw))


def _chat_format(raw: Raw) -> Raw | None:
    """The `response_format` that a text's format is."""
    if not is_given(raw):
        return None
    if text_of(members_of(raw).get("type")) == "json_schema":
        _read_object(raw, _SCHEMA, "/text/format")
        return Raw(b'{"type":"json_schema","json_schema":%b}' % _without_type(raw))
    plain = _read_object(raw, _PLAIN, "/text/format")
    return None if plain.type == "text" else raw
