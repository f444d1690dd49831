"""Who is asking: every route demands credentials unless its handler says that it is open."""

import asyncio
import hmac
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from time import monotonic

from litestar.enums import ScopeType
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send
from msgspec import Struct

from app.database import Database
from app.errors import (
    AdminRequired,
    Flaw,
    InvalidCredentials,
    InvalidInput,
    Unavailable,
    UserMismatch,
    UserRequired,
)
from app.headers import raw_header_values
from app.identifiers import Owner, is_name, owner_of
from app.stores import service_keys
from app.tokens import TokenVerifier

REVOCATION_SECONDS = 4.0
"""How long a replica may go on trusting a key it has seen."""

_KEYS_REMEMBERED = 10_000
_KEY_LANE = "service_keys"  # who tries keys takes no connection from those who are let in
_TOUCH_AFTER = timedelta(hours=1)


class Token:
    """The text that proved who is asking; nothing shows it."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


class Caller(Struct, frozen=True):
    """Who is asking, as proven."""

    owner: Owner
    token: Token
    is_admin: bool = False


class Administrator(Struct, frozen=True):
    """Who is asking for a tenant as a whole, as proven."""

    tenant_id: str


class _Identity(Struct, frozen=True):
    """What the credentials alone say; no user: the key acts for whom it names."""

    tenant_id: str
    user_id: str | None
    is_admin: bool = False


class Authentication(ASGIMiddleware):
    """Lets a request in by a service key or a JWT, and says on whose behalf it acts (`scope["user"]`).

    That is a Caller, or an Administrator where the handler has `opt={"is_admin": True}`.
    """

    def __init__(self, database: Database, verifier: TokenVerifier | None) -> None:
        self._database = database
        self._verifier = verifier
        self._remembered: dict[bytes, tuple[float, _Identity]] = {}
        self._asking: dict[bytes, asyncio.Task[_Identity | None]] = {}

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """Goes on with `scope["user"]` set.

        Raises InvalidCredentials, AdminRequired, UserMismatch, UserRequired, InvalidInput.
        """
        if scope["type"] == ScopeType.HTTP and not scope["route_handler"].opt.get("is_open", False):
            if scope["route_handler"].opt.get("is_admin", False):
                scope["user"] = _administrator(await self._identify(_bearer_token(scope)))
            else:
                scope["user"] = await self.admit(scope)
        await next_app(scope, receive, send)

    async def admit(self, scope: HTTPScope) -> Caller:
        """Who is asking, by the headers. Raises what `handle` does."""
        token = _bearer_token(scope)
        identity = self._remember(service_keys.digest_of(token)) or await self._identify(token)
        return _caller(identity, Token(token), raw_header_values(scope, b"x-user-id"))

    async def is_good(self, token: Token) -> bool:
        """Whether a token that was let in still would be; while that cannot be asked, it is."""
        try:
            await self._identify(token.text)
        except InvalidCredentials:
            return False
        except Unavailable:
            return True
        return True

    async def _identify(self, token: str) -> _Identity:
        if token.startswith("vb_"):
            return await self._find_key(token)
        if self._verifier is None:
            raise InvalidCredentials
        return _Identity(*await self._verifier.verify(token))

    def _remember(self, digest: bytes) -> _Identity | None:
        known_until, identity = self._remembered.get(digest, (0.0, None))
        return identity if monotonic() < known_until else None

    async def _find_key(self, token: str) -> _Identity:
        """What a live key says; one that was found good is trusted again for REVOCATION_SECONDS without asking."""
        digest = service_keys.digest_of(token)
        if (identity := self._remember(digest)) is not None:
            return identity
        prefix = service_keys.prefix_of(token)
        if prefix is None:
            raise InvalidCredentials
        # However many come with one key at once, it is asked for once.
        asking = self._asking.get(digest)
        if asking is None:
            asking = self._asking[digest] = asyncio.create_task(self._ask(prefix, digest))
            asking.add_done_callback(partial(self._forget, digest))
        identity = await asyncio.shield(asking)
        if identity is None:
            raise InvalidCredentials
        return identity

    def _forget(self, digest: bytes, asked: "asyncio.Task[_Identity | None]") -> None:
        del self._asking[digest]
        if not asked.cancelled():
            asked.exception()  # all who wanted to know may be gone

    async def _ask(self, prefix: str, digest: bytes) -> _Identity | None:
        asked_at = monotonic()
        async with self._database.connection(lane=_KEY_LANE) as connection:
            key = await service_keys.get_service_key(connection, prefix)
            if key is None or key.revoked_at is not None or not hmac.compare_digest(key.sha256, digest):
                self._remembered.pop(digest, None)
                return None
            if key.last_used_at is None or key.last_used_at < datetime.now(UTC) - _TOUCH_AFTER:
                await service_keys.touch_service_key(connection, prefix)
        if len(self._remembered) >= _KEYS_REMEMBERED:
            self._remembered.clear()
        identity = _Identity(key.tenant_id, key.user_id, key.is_admin)
        self._remembered[digest] = (asked_at + REVOCATION_SECONDS, identity)
        return identity


def _bearer_token(scope: HTTPScope) -> str:
    values = raw_header_values(scope, b"authorization")
    if len(values) != 1:
        raise InvalidCredentials
    scheme, _, token = values[0].decode("latin-1").partition(" ")
    token = token.strip(" ")
    if scheme.lower() != "bearer" or not token.isascii():
        raise InvalidCredentials
    return token


def _administrator(identity: _Identity) -> Administrator:
    if not identity.is_admin:
        raise AdminRequired
    return Administrator(identity.tenant_id)


def _caller(identity: _Identity, token: Token, named_users: Sequence[bytes]) -> Caller:
    user_id = identity.user_id
    if named_users:
        named = _user_name(named_users)
        if user_id is not None and named != user_id:
            raise UserMismatch
        user_id = named
    if user_id is None:
        raise UserRequired(Flaw(header="X-User-Id", message="is required with this key"))
    return Caller(owner_of(identity.tenant_id, user_id), token, identity.is_admin)


def _user_name(values: Sequence[bytes]) -> str:
    try:
        name = values[0].decode()
    except UnicodeDecodeError:
        name = ""
    if len(values) > 1 or not is_name(name):
        message = "must be one name of 1-255 characters in UTF-8, none of them a control character"
        raise InvalidInput(Flaw(header="X-User-Id", message=message))
    return name
