"""What comes in by the door of OpenAI's clients: its ids, bodies and queries."""

import re
from typing import TypeVar
from urllib.parse import parse_qsl, urlencode
from uuid import UUID

import msgspec
from msgspec import Raw
from msgspec.json import Decoder

from app.context import text_of
from app.errors import Flaw, InvalidInput
from app.identifiers import parse_uuid
from app.json_objects import parse_object
from app.new_items import parse_items
from app.parameters import parse_query
from app.payloads import IncomingMessage
from app.wire.openai import (
    METADATA_NAME_CHARACTERS,
    METADATA_PAIRS,
    METADATA_VALUE_CHARACTERS,
    Include,
    IncludeQuery,
    NewItems,
    NewOpenaiConversation,
    OpenaiConversationChange,
)

T = TypeVar("T")

_ID = re.compile(r"conv_([0-9a-f]{32})")
_INCLUDE = re.compile(r"include(\[\d{0,4}\])?")
_METADATA = Decoder(dict[str, Raw])
_NEW_CONVERSATION = Decoder(NewOpenaiConversation)
_CONVERSATION_CHANGE = Decoder(OpenaiConversationChange)
_NEW_ITEMS = Decoder(NewItems)
_SHOWN_CHARACTERS = 64


def openai_id(conversation_id: UUID) -> str:
    """A conversation's id as this door writes it."""
    return f"conv_{conversation_id.hex}"


def parse_openai_id(text: str) -> UUID | None:
    """The conversation that an id names, also one as the native API writes it; None for any other text."""
    found = _ID.fullmatch(text)
    return UUID(found[1]) if found else parse_uuid(text)


def parse_new_openai_conversation(body: bytes, limit_bytes: int) -> tuple[bytes, list[IncomingMessage]]:
    """The metadata and the first items of a conversation. Raises InvalidInput and TooLarge."""
    new = parse_object(body, _NEW_CONVERSATION)
    return parse_metadata(new.metadata), parse_items(new.items or [], limit_bytes)


def parse_openai_conversation_change(body: bytes) -> bytes:
    """The metadata that replaces what was there. Raises InvalidInput."""
    return parse_metadata(parse_object(body, _CONVERSATION_CHANGE).metadata)


def parse_new_items(body: bytes, limit_bytes: int) -> list[IncomingMessage]:
    """The messages that the items of a request are. Raises InvalidInput and TooLarge."""
    return parse_items(parse_object(body, _NEW_ITEMS).items, limit_bytes)


def parse_metadata(raw: Raw) -> bytes:
    """Metadata as it came, `{}` where there is none. Raises InvalidInput."""
    payload = bytes(raw)
    if payload in {b"", b"null"}:
        return b"{}"
    members = parse_object(payload, _METADATA, "/metadata")
    if len(members) > METADATA_PAIRS:
        raise InvalidInput(Flaw(pointer="/metadata", message=f"has more than {METADATA_PAIRS} members"))
    for name, value in members.items():
        _check_pair(name, value)
    return payload


def _check_pair(name: str, value: Raw) -> None:
    shown = name if len(name) <= _SHOWN_CHARACTERS else f"{name[:_SHOWN_CHARACTERS]}..."
    pointer = f"/metadata/{shown.replace('~', '~0').replace('/', '~1')}"
    text = text_of(value)
    if text is None:
        raise InvalidInput(Flaw(pointer=pointer, message="expected `string`"))
    if len(name) > METADATA_NAME_CHARACTERS:
        message = f"has a name of more than {METADATA_NAME_CHARACTERS} characters"
    elif len(text) > METADATA_VALUE_CHARACTERS:
        message = f"is longer than {METADATA_VALUE_CHARACTERS} characters"
    elif "\0" in name or "\0" in text:
        message = "has characters that are not allowed"
    else:
        return
    raise InvalidInput(Flaw(pointer=pointer, message=message))


def parse_openai_query(query: bytes, struct: type[T]) -> T:
    """A query whose `include`, if it has one, may come many times, with brackets or without. Raises InvalidInput."""
    if not issubclass(struct, IncludeQuery):
        return parse_query(query, struct)
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=64)
        included = [value for name, value in pairs if _INCLUDE.fullmatch(name)]
        msgspec.convert(included, list[Include])
    except msgspec.ValidationError:
        raise InvalidInput(Flaw(parameter="include", message="is none of the allowed values")) from None
    except ValueError:
        return parse_query(query, struct)  # which says what is wrong
    rest = [(name, value) for name, value in pairs if not included or not _INCLUDE.fullmatch(name)]
    return parse_query(urlencode(rest).encode(), struct)
