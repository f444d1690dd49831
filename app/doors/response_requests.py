"""What is asked of the Responses API, as the model is asked: tools and formats in the shapes of Chat Completions."""

from collections.abc import Mapping

import msgspec
from msgspec import Raw, Struct
from msgspec.json import Decoder

from app.asking import Asked
from app.context import elements_of, is_a, members_of, text_of
from app.errors import Flaw, InvalidInput
from app.json_objects import depth_of, parse_object
from app.new_items import parse_items
from app.openai_bodies import parse_metadata
from app.openai_errors import Refusal
from app.payloads import IncomingMessage
from app.wire.messages import DEPTH_LIMIT
from app.wire.responses import ConversationChoice, FunctionChoice, NewResponse, ObjectFormat, SchemaFormat

_NEW_RESPONSE, _MEMBERS = Decoder(NewResponse), Decoder(dict[str, Raw])
_UNSUPPORTED = (
    "background",
    "include",
    "prompt",
    "max_tool_calls",
    "top_logprobs",
    "context_management",
    "moderation",
)
_IDLE = {"background": b"false", "include": b"[]", "top_logprobs": b"0"}
_OPTIONS = ("temperature", "top_p", "parallel_tool_calls")


class ResponseRequest(Struct, frozen=True):
    """A request that can be served."""

    new: NewResponse
    members: Mapping[str, Raw]
    """What it is made of that is not null, as it came."""
    messages: list[IncomingMessage]
    asked: Asked

    @property
    def is_stored(self) -> bool:
        """Whether it is kept, and what comes of it."""
        return self.new.store is not False

    @property
    def conversation(self) -> str | None:
        """The id of the conversation that it names."""
        named = self.new.conversation
        return named.id if isinstance(named, ConversationChoice) else named


def parse_new_response(body: bytes, limit_bytes: int) -> ResponseRequest:
    """What is asked. Raises InvalidInput, TooLarge, and Refusal for what is not served here."""
    came = parse_object(body, _MEMBERS)
    members = _given(came)
    _refuse_unsupported(members)
    new = parse_object(body, _NEW_RESPONSE)
    _refuse_other_schemas(new)
    if new.conversation is not None and new.previous_response_id is not None:
        message = "Mutually exclusive parameters: 'conversation' and 'previous_response_id'. Send one of them."
        raise Refusal(message, code="mutually_exclusive_parameters")
    parse_metadata(new.metadata)
    messages = _read_input(members.get("input"), limit_bytes)
    if not messages and new.conversation is None and new.previous_response_id is None:
        raise InvalidInput(Flaw(pointer="/input", message="is required"))
    asked = Asked(
        instructions=new.instructions,
        tools=_chat_tools(members.get("tools")),
        tool_choice=_chat_tool_choice(new, members),
        max_output_tokens=new.max_output_tokens,
        options=_options_of(new, members),
    )
    return ResponseRequest(new, members, messages, asked)


def _given(members: Mapping[str, Raw]) -> dict[str, Raw]:
    return {name: value for name, value in members.items() if bytes(value) != b"null"}


def _refuse_unsupported(members: Mapping[str, Raw]) -> None:
    """What is OpenAI's alone: such members, and tools that it hosts, or that are no functions."""
    pointers = [f"/{name}" for name in _UNSUPPORTED if bytes(members.get(name, b"")) not in {b"", _IDLE.get(name)}]
    tools = {f"/tools/{place}": tool for place, tool in enumerate(elements_of(members.get("tools")))}
    for pointer, tool in {**tools, "/tool_choice": members.get("tool_choice")}.items():
        if text_of(members_of(tool).get("type")) not in {None, "function"}:
            pointers.append(f"{pointer}/type")
    if pointers:
        raise InvalidInput(Flaw(pointer=pointers[0], message="is not supported"))
    for name in ("tools", "text"):
        if depth_of(bytes(members.get(name, b""))) > DEPTH_LIMIT:
            raise InvalidInput(Flaw(pointer=f"/{name}", message=f"nested deeper than {DEPTH_LIMIT}"))


def _refuse_other_schemas(new: NewResponse) -> None:
    """JSON schemas are objects."""
    schemas = {f"/tools/{place}/parameters": tool.parameters for place, tool in enumerate(new.tools or ())}
    given = {pointer: raw for pointer, raw in schemas.items() if bytes(raw) not in {b"", b"null"}}
    if new.text is not None and isinstance(new.text.format, SchemaFormat):
        given["/text/format/schema"] = new.text.format.schema
    for pointer, raw in given.items():
        if not is_a(raw, b"{"):
            raise InvalidInput(Flaw(pointer=pointer, message="must be an object"))


def _read_input(raw: Raw | None, limit_bytes: int) -> list[IncomingMessage]:
    if raw is not None and text_of(raw) is not None:
        raw = Raw(b'{"role":"user","content":%b}' % bytes(raw))
    return parse_items(elements_of(raw), limit_bytes, "/input")


def _options_of(new: NewResponse, members: Mapping[str, Raw]) -> Mapping[str, Raw]:
    """Further members of a request of Chat Completions."""
    options = {name: members[name] for name in _OPTIONS if name in members}
    text, reasoning = members_of(members.get("text")), members_of(members.get("reasoning"))
    if new.text is not None and isinstance(new.text.format, SchemaFormat):
        options["response_format"] = Raw(b'{"type":"json_schema","json_schema":%b}' % _without_type(text["format"]))
    if new.text is not None and isinstance(new.text.format, ObjectFormat):
        options["response_format"] = text["format"]
    if new.text is not None and new.text.verbosity is not None:
        options["verbosity"] = text["verbosity"]
    if new.reasoning is not None and new.reasoning.effort is not None:
        options["reasoning_effort"] = reasoning["effort"]
    return options


def _chat_tools(raw: Raw | None) -> Raw | None:
    tools = [_chat_function(tool) for tool in elements_of(raw)]
    return Raw(b"[%b]" % b",".join(tools)) if tools else None


def _chat_tool_choice(new: NewResponse, members: Mapping[str, Raw]) -> Raw | None:
    raw = members.get("tool_choice")
    return Raw(_chat_function(raw)) if raw and isinstance(new.tool_choice, FunctionChoice) else raw


def _chat_function(raw: Raw) -> bytes:
    return b'{"type":"function","function":%b}' % _without_type(raw)


def _without_type(raw: Raw) -> bytes:
    """An object as its members came, without its type and what is null."""
    members = [(name, value) for name, value in _given(members_of(raw)).items() if name != "type"]
    return b"{%b}" % b",".join(b"%b:%b" % (msgspec.json.encode(name), bytes(value)) for name, value in members)
