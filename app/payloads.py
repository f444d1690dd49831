"""Request bodies, read into wire structs.

Payloads stay the bytes that came: they are checked (UTF-8, JSON, depth, shape) and never decoded.
"""

import asyncio
from collections.abc import Callable
from hashlib import sha256
from operator import attrgetter
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct
from msgspec.json import Decoder

from app.errors import Flaw, InvalidInput, TooLarge
from app.json_objects import decode, depth_of, flaw_of, join, parse_object, raw_members_of, refuse_repeated
from app.wire.conversations import ConversationChange, ConversationFork, NewConversation
from app.wire.messages import (
    ABSENT,
    DEFAULT_STATUS,
    DEPTH_LIMIT,
    METADATA_LIMIT_BYTES,
    PARTS_LIMIT,
    MessageChange,
    MessagesRestoration,
    NewMessage,
    NewMessages,
)
from app.wire.replies import NewReply
from app.wire.sessions import NewTurn

T = TypeVar("T")

_THREAD_FROM_BYTES = 256 * 1024


class _Part(Struct):
    type: str


class _Usage(Struct):
    """Either vendor's names of the two counts; what fits neither counts 0."""

    input_tokens: Annotated[int, Meta(ge=0, lt=2**31)] = 0
    output_tokens: Annotated[int, Meta(ge=0, lt=2**31)] = 0
    prompt_tokens: Annotated[int, Meta(ge=0, lt=2**31)] = 0
    completion_tokens: Annotated[int, Meta(ge=0, lt=2**31)] = 0


_PARTS = Decoder(Annotated[list[_Part], Meta(max_length=PARTS_LIMIT)])
_USAGE = Decoder(_Usage)
_NEW_MESSAGE = Decoder(NewMessage)
_NEW_MESSAGES = Decoder(NewMessages)
_MESSAGE_CHANGE = Decoder(MessageChange)
_NEW_CONVERSATION = Decoder(NewConversation)
_CONVERSATION_CHANGE = Decoder(ConversationChange)
_FORK = Decoder(ConversationFork)
_NEW_REPLY = Decoder(NewReply)
_NEW_TURN = Decoder(NewTurn)
_RESTORATION = Decoder(MessagesRestoration)

_PAYLOADS = {
    "content": b'"[',
    "tool_calls": b"[{",
    "audio_files": b"[{",
    "function_calls": b"[{",
    "usage": b"{",
    "metadata": b"{",
}
_TEXTS = ("role", "status", "client_id", "tool_call_id", "name", "model")
_texts_of, _payloads_of = attrgetter(*_TEXTS), attrgetter(*_PAYLOADS)
_AROUND_TEXTS = [len('"":"",') + len(name) for name in _TEXTS]
_AROUND_PAYLOADS = [len('"":,') + len(name) for name in _PAYLOADS]
_TURN_PAYLOADS = ("audio_files", "function_calls", "metadata")
_ASKED = {"tools": b"[", "tool_choice": b'"{'}
_SHAPES = {
    b'"[': "must be a string, an array of parts or null",
    b"[{": "must be an object or an array",
    b"{": "must be an object",
    b"[": "must be an array",
    b'"{': "must be a string or an object",
}


class IncomingMessage(Struct, frozen=True):
    """A message ready to be stored: payloads as bytes, None when absent."""

    role: str
    status: str
    client_id: str | None
    tool_call_id: str | None
    name: str | None
    model: str | None
    content: bytes | None
    tool_calls: bytes | None
    audio_files: bytes | None
    function_calls: bytes | None
    usage: bytes | None
    metadata: bytes | None
    body_bytes: int
    fingerprint: bytes
    """Empty where no client id tells a repeated message from another."""
    pointer: str
    """Where it stands in its request."""
    source: bytes | None = None
    """What the columns cannot rebuild of what came."""


async def read(body: bytes, parse: Callable[[bytes], T]) -> T:
    """What `parse` makes of a body; in a thread when the body is large.

    Raises InvalidInput when the body is no UTF-8, and what `parse` raises.
    """
    if len(body) < _THREAD_FROM_BYTES:
        return _read(body, parse)
    return await asyncio.to_thread(_read, body, parse)


def _read(body: bytes, parse: Callable[[bytes], T]) -> T:
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(Flaw(pointer="", message=f"invalid UTF-8 at byte {error.start}")) from None
    return parse(body)


def fingerprint_of(body: bytes) -> bytes:
    """The SHA-256 by which a repeated request is told from another one."""
    return sha256(body).digest()


def _least_text_bytes(texts: tuple[str | None, ...]) -> int:
    """What a message of these texts takes at least, with no member twice; other scripts and escapes take more."""
    return 1 + sum([len(text) + around for text, around in zip(texts, _AROUND_TEXTS, strict=True) if text is not None])


def _incoming(
    raw: bytes, message: NewMessage, limit_bytes: int, pointer: str = "", *, has_client_ids: bool
) -> IncomingMessage:
    """One message. Raises InvalidInput, and TooLarge when its payloads exceed `limit_bytes`."""
    payloads: dict[str, bytes | None] = dict.fromkeys(_PAYLOADS)
    body_bytes, least_bytes = 0, _least_text_bytes(_texts_of(message))
    for name, came, bytes_around in zip(_PAYLOADS, _payloads_of(message), _AROUND_PAYLOADS, strict=True):
        if came is not ABSENT:
            payload = bytes(came)
            least_bytes += bytes_around + len(payload)
            if _check_payload(name, payload, pointer):
                payloads[name] = payload
                body_bytes += len(payload)
    if len(raw) != least_bytes:
        refuse_repeated(raw, raw_members_of(raw, pointer), pointer)
    check_content(payloads, pointer)
    _refuse_large(body_bytes, limit_bytes, pointer)
    fingerprint = fingerprint_of(raw) if has_client_ids else b""
    return IncomingMessage(
        message.role,
        message.status or DEFAULT_STATUS,
        message.client_id,
        message.tool_call_id,
        message.name,
        message.model,
        **payloads,
        body_bytes=body_bytes,
        fingerprint=fingerprint,
        pointer=pointer,
    )


def parse_messages(raws: list[Raw], body: bytes, limit_bytes: int) -> list[IncomingMessage]:
    """The messages of an envelope's `messages`. Raises InvalidInput, also where a client id comes twice; TooLarge."""
    has_client_ids = b'"client_id"' in body or b"\\u" in body  # or none, in escapes: a print too many is not used
    messages = []
    for place, raw in enumerate(map(bytes, raws)):
        pointer = f"/messages/{place}"
        message = decode(raw, _NEW_MESSAGE, pointer)
        messages.append(_incoming(raw, message, limit_bytes, pointer, has_client_ids=has_client_ids))
    if has_client_ids:
        refuse_repeats(messages, "client_id")
    return messages


def refuse_repeats(messages: list[IncomingMessage], name: str) -> None:
    """Raises InvalidInput for a client id that comes twice; `name` is the member in which they came."""
    known: set[str] = set()
    for message in messages:
        if message.client_id in known:
            raise InvalidInput(Flaw(pointer=f"{message.pointer}/{name}", message="comes twice in the request"))
        if message.client_id is not None:
            known.add(message.client_id)


def parse_append(body: bytes, limit_bytes: int) -> list[IncomingMessage]:
    """The messages of an append: a message object, or `{"messages": [...]}`. Raises InvalidInput and TooLarge."""
    try:
        message = _NEW_MESSAGE.decode(body)
    except (msgspec.DecodeError, RecursionError):
        if "messages" in raw_members_of(body):
            return parse_messages(parse_object(body, _NEW_MESSAGES).messages, body, limit_bytes)
        message = decode(body, _NEW_MESSAGE, "")
    return [_incoming(body, message, limit_bytes, has_client_ids=message.client_id is not None)]


def parse_message_change(body: bytes) -> tuple[MessageChange, dict[str, bytes | None]]:
    """The change, and the payloads it sets, None for those it clears. Raises InvalidInput."""
    change = parse_object(body, _MESSAGE_CHANGE)
    names = [name for name in _PAYLOADS if bytes(getattr(change, name, b""))]
    return change, {name: check_payload(name, getattr(change, name)) for name in names}


def check_payload(name: str, raw: Raw, pointer: str = "") -> bytes | None:
    """A payload's bytes, None when it is absent or null. Raises InvalidInput for a wrong shape or size."""
    payload = bytes(raw)
    return payload if _check_payload(name, payload, pointer) else None


def _check_payload(name: str, payload: bytes, pointer: str) -> bool:
    if not _check_shape(name, payload, _PAYLOADS[name], pointer):
        return False
    if name == "content" and payload[0] == ord("["):
        try:
            _PARTS.decode(payload)
        except msgspec.ValidationError as error:
            raise InvalidInput(flaw_of(str(error), join(pointer, name))) from None
    if name == "metadata" and len(payload) > METADATA_LIMIT_BYTES:
        raise InvalidInput(Flaw(pointer=join(pointer, name), message=f"is larger than {METADATA_LIMIT_BYTES} bytes"))
    return True


def _check_shape(name: str, payload: bytes, firsts: bytes, pointer: str) -> bool:
    """Whether there is a payload, which begins with one of some bytes. Raises InvalidInput for another, or too deep."""
    if not payload or payload == b"null":
        return False
    if payload[0] not in firsts:
        raise InvalidInput(Flaw(pointer=join(pointer, name), message=_SHAPES[firsts]))
    if len(payload) > 2 * DEPTH_LIMIT and payload[0] != ord('"') and depth_of(payload) > DEPTH_LIMIT:
        raise InvalidInput(Flaw(pointer=join(pointer, name), message=f"nested deeper than {DEPTH_LIMIT}"))
    return True


def check_content(payloads: dict[str, bytes | None], pointer: str = "") -> None:
    """A message says something: content, or calls in its place. Raises InvalidInput."""
    if not (payloads.get("content") or payloads.get("tool_calls") or payloads.get("function_calls")):
        message = "is required where neither tool_calls nor function_calls is there"
        raise InvalidInput(Flaw(pointer=join(pointer, "content"), message=message))


def measure_payloads(payloads: dict[str, bytes | None], limit_bytes: int, pointer: str = "") -> int:
    """The bytes of one message's payloads. Raises TooLarge."""
    body_bytes = sum(map(len, filter(None, payloads.values())))
    _refuse_large(body_bytes, limit_bytes, pointer)
    return body_bytes


def _refuse_large(body_bytes: int, limit_bytes: int, pointer: str) -> None:
    if body_bytes > limit_bytes:
        raise TooLarge(f"the message at '{pointer}' has {body_bytes} bytes of payload, more than {limit_bytes}")


def count_tokens(usage: bytes | None) -> tuple[int, int]:
    """The input and output tokens that a usage object reports; 0 where it says nothing we know."""
    try:
        counts = _USAGE.decode(usage or b"{}")
    except (msgspec.DecodeError, RecursionError):
        return 0, 0
    return counts.input_tokens or counts.prompt_tokens, counts.output_tokens or counts.completion_tokens


def parse_new_conversation(
    body: bytes, limit_bytes: int
) -> tuple[NewConversation, bytes | None, list[IncomingMessage]]:
    """The conversation, its metadata and its first messages. Raises InvalidInput and TooLarge."""
    conversation = parse_object(body, _NEW_CONVERSATION)
    metadata = check_payload("metadata", conversation.metadata)
    return conversation, metadata, parse_messages(conversation.messages or [], body, limit_bytes)


def parse_conversation_change(body: bytes) -> ConversationChange:
    """The change. Raises InvalidInput."""
    change = parse_object(body, _CONVERSATION_CHANGE)
    check_payload("metadata", change.metadata)
    return change


def parse_new_reply(body: bytes, limit_bytes: int) -> tuple[NewReply, list[IncomingMessage]]:
    """What the model is asked, and the messages that come with it. Raises InvalidInput and TooLarge."""
    reply = parse_object(body, _NEW_REPLY)
    for name, raw in (("tools", reply.tools), ("tool_choice", reply.tool_choice)):
        _check_shape(name, bytes(raw), _ASKED[name], "")
    return reply, parse_messages(reply.messages or [], body, limit_bytes)


def parse_turn(body: bytes, limit_bytes: int) -> tuple[NewTurn, IncomingMessage]:
    """A turn of a session, and the user's message that it is. Raises InvalidInput and TooLarge."""
    turn = parse_object(body, _NEW_TURN)
    query = bytes(turn.query)
    if query[:1] != b'"':
        raise InvalidInput(Flaw(pointer="/query", message="must be a string"))
    payloads = {name: check_payload(name, getattr(turn, name)) for name in _TURN_PAYLOADS}
    body_bytes = measure_payloads({"content": query, **payloads}, limit_bytes)
    message = IncomingMessage(
        role="user",
        status=DEFAULT_STATUS,
        client_id=None,
        tool_call_id=None,
        name=None,
        model=None,
        content=query,
        tool_calls=None,
        usage=None,
        **payloads,
        body_bytes=body_bytes,
        fingerprint=fingerprint_of(body),
        pointer="",
    )
    return turn, message


def parse_fork(body: bytes) -> ConversationFork:
    """How to fork. Raises InvalidInput."""
    return parse_object(body, _FORK)


def parse_restoration(body: bytes) -> MessagesRestoration:
    """Which messages to restore. Raises InvalidInput."""
    return parse_object(body, _RESTORATION)
