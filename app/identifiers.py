"""Ids: what they are computed from, and how one is told from another.

A UUIDv8 (RFC 9562 section 5.8) leaves 122 bits to us: 48, then 12 behind the version, then 62 behind the variant.
The driver's UUIDs are UUIDs like any, made, hashed and written several times as fast as the standard library's.
"""

import re
import secrets
import time
from functools import lru_cache
from hashlib import sha256
from uuid import UUID

from asyncpg.pgproto import pgproto
from msgspec import Struct

LAST_SEQ_LIMIT = 2**40
"""Seqs are below it: a message id ends in 40 bits of seq."""

_CANONICAL_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_KEY = re.compile(r"[A-Za-z0-9._:~@-]{1,128}")
_RESPONSE_ID = re.compile(r"resp_([0-9a-f]{32})([0-9a-f]{10})")
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def _uuid8(number: int) -> UUID:
    """The UUIDv8 whose 122 free bits are those of `number` at their places."""
    return pgproto.UUID((number & ~(0xF << 76) & ~(0x3 << 62) | 0x8 << 76 | 0x2 << 62).to_bytes(16))


def _hashed_uuid(text: bytes) -> UUID:
    return _uuid8(int.from_bytes(sha256(text).digest()[:16]))


def parse_uuid(text: str) -> UUID | None:
    """The UUID of a canonical text: lower case, with hyphens. None for any other form."""
    return pgproto.UUID(text) if _CANONICAL_UUID.fullmatch(text) else None


def is_key(text: str) -> bool:
    """Whether a text has the form of a conversation's key, and of a client id."""
    return _KEY.fullmatch(text) is not None


def is_name(text: str) -> bool:
    """Whether a text can name a tenant or a user: 1 to 255 characters, none of them a control character."""
    return 0 < len(text) <= 255 and not _CONTROL_CHARACTER.search(text)  # noqa: PLR2004  # the limit is of this rule alone


def owner_id_of(tenant_id: str, user_id: str) -> UUID:
    """The id of an owner, the same on every replica; of invalid names (`is_name`) two pairs could share it."""
    return _hashed_uuid(b"verbatim.owner\0" + tenant_id.encode() + b"\x1f" + user_id.encode())


class Owner(Struct, frozen=True):
    """A user of a tenant, whose conversations these are."""

    tenant_id: str
    user_id: str
    id: UUID


@lru_cache(maxsize=10_000)
def owner_of(tenant_id: str, user_id: str) -> Owner:
    """The owner that a tenant and a user are together. Both names must be valid (`is_name`)."""
    return Owner(tenant_id, user_id, owner_id_of(tenant_id, user_id))


def new_conversation_id() -> UUID:
    """A UUIDv7 (RFC 9562 section 5.7): 48 bits of Unix milliseconds, then random bits."""
    milliseconds = time.time_ns() // 1_000_000
    return UUID(int=milliseconds << 80 | 0x7 << 76 | secrets.randbits(12) << 64 | 0x2 << 62 | secrets.randbits(62))


def keyed_conversation_id(owner_id: UUID, idempotency_key: str) -> UUID:
    """The id of the conversation that an Idempotency-Key creates."""
    return _hashed_uuid(b"verbatim.conversation\0" + owner_id.bytes + idempotency_key.encode())


def response_id(conversation_id: UUID, seq: int) -> str:
    """The id by which the reply at this seq is known as a response."""
    return f"resp_{conversation_id.hex}{seq:010x}"


def parse_response_id(text: str) -> tuple[UUID, int] | None:
    """The conversation and the seq of a response's reply; None for any other text."""
    found = _RESPONSE_ID.fullmatch(text)
    return (UUID(found[1]), int(found[2], 16)) if found else None


@lru_cache(maxsize=10_000)
def _message_prefix(conversation_id: UUID) -> str:
    head = int.from_bytes(sha256(b"verbatim.message\0" + conversation_id.bytes).digest()) >> (256 - 82)
    high, middle, low = head >> 34, head >> 22 & 0xFFF, head & 0x3FFFFF
    return str(_uuid8(high << 80 | middle << 64 | low << 40))[:26]


class MessageIds:
    """The ids of one conversation's messages: the first 82 bits of the conversation's hash, then 40 bits of seq."""

    __slots__ = ("_prefix",)

    def __init__(self, conversation_id: UUID) -> None:
        self._prefix = _message_prefix(conversation_id)

    def of(self, seq: int) -> str:
        """The id of the message with this seq."""
        return f"{self._prefix}{seq:010x}"

    def seq(self, message_id: str) -> int | None:
        """The seq in an id of this conversation's messages; None for any other text."""
        if message_id.startswith(self._prefix) and _CANONICAL_UUID.fullmatch(message_id):
            return int(message_id[26:], 16) or None
        return None
