"""Service keys: made once, shown once, kept as a hash."""

import secrets
from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256

from msgspec import Struct

from app.queries import Conn, NoRow, Query


class ServiceKey(Struct, frozen=True):
    """What is kept of a key."""

    prefix: str
    sha256: bytes
    tenant_id: str
    user_id: str | None
    is_admin: bool
    created_at: datetime
    revoked_at: datetime | None
    last_used_at: datetime | None


class LiveKey(Struct, frozen=True):
    """What a key that is not revoked says; `is_due`: its use has not been noted for an hour."""

    prefix: str
    sha256: bytes
    tenant_id: str
    user_id: str | None
    is_admin: bool
    is_due: bool


class _Prefix(Struct, frozen=True):
    prefix: str


_CREATE = Query("create_service_key", NoRow)
_GET = Query("get_service_key", ServiceKey)
_FIND = Query("find_live_keys", LiveKey)
_LIST = Query("list_service_keys", ServiceKey)
_REVOKE = Query("revoke_service_key", _Prefix)
_TOUCH = Query("touch_service_keys", NoRow)


def new_key() -> str:
    """A key of 256 random bits: `vb_<prefix>_<secret>`."""
    return f"vb_{secrets.token_hex(6)}_{secrets.token_urlsafe(32)}"


def prefix_of(key: str) -> str | None:
    """The public part of a key; None when the text is no key."""
    scheme, _, rest = key.partition("_")
    prefix, _, secret = rest.partition("_")
    return prefix if scheme == "vb" and prefix and secret else None


def digest_of(key: str) -> bytes:
    """What is kept of a key."""
    return sha256(key.encode()).digest()


async def create_service_key(
    connection: Conn, key: str, tenant_id: str, user_id: str | None, *, is_admin: bool = False
) -> None:
    """Lets a key in. The names must be valid; an admin key has no user."""
    await _CREATE.execute(
        connection,
        prefix=prefix_of(key),
        sha256=digest_of(key),
        tenant_id=tenant_id,
        user_id=user_id,
        is_admin=is_admin,
    )


async def get_service_key(connection: Conn, prefix: str) -> ServiceKey | None:
    """The key with this prefix, revoked or not."""
    return await _GET.fetch_one(connection, prefix=prefix)


async def find_live_keys(connection: Conn, prefixes: Sequence[str]) -> dict[str, LiveKey]:
    """The keys with these prefixes by prefix, without those that are revoked."""
    return {key.prefix: key for key in await _FIND.fetch(connection, prefixes=prefixes)}


async def list_service_keys(connection: Conn) -> list[ServiceKey]:
    """All keys, oldest first."""
    return await _LIST.fetch(connection)


async def revoke_service_key(connection: Conn, prefix: str) -> bool:
    """Whether there is such a key; it lets nobody in any more."""
    return await _REVOKE.fetch_one(connection, prefix=prefix) is not None


async def touch_service_keys(connection: Conn, prefixes: Sequence[str]) -> None:
    """Notes that the keys were used, at most once an hour."""
    await _TOUCH.execute(connection, prefixes=prefixes)
