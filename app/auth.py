"""Who is asking: every route demands credentials unless its handler says that it is open."""

import asyncio
import hmac
from collections.abc import Collection, Sequence
from contextlib import suppress
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
from app.stores.service_keys import LiveKey
from app.tokens import TokenVerifier

REVOCATION_SECONDS = 4.0
"""How long a replica may go on trusting a key it has seen."""

_KEYS_REMEMBERED = 10_000
_KEY_LANE = "service_keys"  # who tries keys takes no connection from those who are let in
_KEYS_ASKED = 250  # by one statement: what it tells takes 2 ms of one turn of the loop
_TURN_SECONDS = 0.002  # of which one signature takes up to 0.3 ms


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
        identity = (_is_key(token) and self._remember(service_keys.digest_of(token))) or await self._identify(token)
        return _caller(identity, Token(token), raw_header_values(scope, b"x-user-id"))

    async def find_bad(self, tokens: Collection[Token]) -> set[Token]:
        """Those of tokens that were let in that would be no more; while that cannot be asked, none."""
        texts = {token.text for token in tokens}
        keys = [text for text in texts if _is_key(text)]
        bad = await self._find_bad_keys(keys) | await self._find_bad_jwts(texts.difference(keys))
        return {token for token in tokens if token.text in bad}

    async def _find_bad_keys(self, tokens: Sequence[str]) -> set[str]:
        bad: set[str] = set()
        due: list[str] = []
        with suppress(Unavailable):
            for start in range(0, len(tokens), _KEYS_ASKED):
                prefix_of = {token: service_keys.prefix_of(token) or "" for token in tokens[start:][:_KEYS_ASKED]}
                asked_at = monotonic()
                # In no lane: whoever tries keys cannot keep a revoked one alive.
                async with self._database.connection() as connection:
                    keys = await service_keys.find_live_keys(connection, list(prefix_of.values()))
                for token, prefix in prefix_of.items():
                    if self._judge(keys.get(prefix), service_keys.digest_of(token), asked_at) is None:
                        bad.add(token)
                    elif keys[prefix].is_due:
                        due.append(prefix)
            if due:
                async with self._database.connection() as connection:
                    await service_keys.touch_service_keys(connection, due)
        return bad

    async def _find_bad_jwts(self, tokens: Collection[str]) -> set[str]:
        bad: set[str] = set()
        turn_ends_at = 0.0
        with suppress(Unavailable):
            for token in tokens:
                if monotonic() >= turn_ends_at:
                    await asyncio.sleep(0)
                    turn_ends_at = monotonic() + _TURN_SECONDS
                try:
                    await self._identify(token)
                except InvalidCredentials:
                    bad.add(token)
        return bad

    async def _identify(self, token: str) -> _Identity:
        if _is_key(token):
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
            key = (await service_keys.find_live_keys(connection, [prefix])).get(prefix)
            identity = self._judge(key, digest, asked_at)
            if identity is not None and key is not None and key.is_due:
                await service_keys.touch_service_keys(connection, [prefix])
        return identity

    def _judge(self, key: LiveKey | None, digest: bytes, asked_at: float) -> _Identity | None:
        """Whom a key speaks for, which is remembered; None: it lets nobody in."""
        if key is None or not hmac.compare_digest(key.sha256, digest):
            self._remembered.pop(digest, None)
            return None
        if len(self._remembered) >= _KEYS_REMEMBERED:
            self._remembered.clear()
        identity = _Identity(key.tenant_id, key.user_id, key.is_admin)
        self._remembered[digest] = (asked_at + REVOCATION_SECONDS, identity)
        return identity


def _is_key(token: str) -> bool:
    return token.startswith("vb_")


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
