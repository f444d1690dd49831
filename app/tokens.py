"""JSON Web Tokens of the gateway's issuer: who a token speaks for, judged by the issuer's published keys.

Only keys of the configured set verify: a token's own `jwk`, `jku`, `x5u` and `x5c` headers are ignored.
"""

import asyncio
import logging
import re
from collections import OrderedDict
from contextlib import suppress
from hashlib import sha256
from itertools import product
from pathlib import Path
from time import monotonic, time
from typing import Annotated, Literal
from weakref import ReferenceType, ref

import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from jwt import PyJWK, PyJWTError
from jwt.utils import base64url_decode
from msgspec import UNSET, Meta, Raw, Struct, UnsetType, convert
from msgspec.json import Decoder

from app.errors import InvalidCredentials, Unavailable

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
TOKEN_TYPES = ("jwt", "at+jwt", "application/at+jwt")
MAX_TOKEN_CHARS = 8_192
MAX_SET_BYTES = 1_000_000
TOKENS_REMEMBERED = 10_000
LEEWAY_SECONDS = 30
CHECK_SECONDS = 1  # between looks at a file, and between fetches while there are no keys at all
RETRY_SECONDS = 10
REFRESH_SECONDS = 300
MAX_AGE_SECONDS = 86_400
FETCH_TIMEOUT_SECONDS = 2

_COMPACT = re.compile(r"([\w-]++)\.[\w-]++\.[\w-]++", re.ASCII)
_MALFORMED = (ValueError, LookupError, RecursionError, PyJWTError, UnsupportedAlgorithm)
_Name = Annotated[str, Meta(min_length=1, max_length=255, pattern=r"\A[^\x00-\x1f\x7f-\x9f]+\Z")]
_logger = logging.getLogger(__name__)


class TokenRules(Struct, kw_only=True, frozen=True):
    """What a token must satisfy; exactly one of `jwks_file` and `jwks_url` holds the issuer's keys."""

    issuer: str
    audience: str
    algorithms: tuple[str, ...]
    tenant_claim: str
    jwks_file: Path | None = None
    jwks_url: str | None = None


class _Header(Struct, kw_only=True, frozen=True):
    alg: str
    kid: str | None = None
    typ: str = "JWT"
    crit: UnsetType = UNSET  # no extension is understood, so each is refused (RFC 7515 §4.1.11)


class _Claims(Struct, kw_only=True, frozen=True):
    iss: str
    aud: str | list[str]
    sub: _Name
    exp: float
    nbf: float = 0
    iat: float = 0


class _Proven(Struct, kw_only=True, frozen=True):
    """What a well signed token says, and what proved it: while that key is the one to ask, it need not again."""

    header: _Header
    key: ReferenceType[PyJWK]
    tenant: str
    claims: _Claims


class _Jwk(Struct, kw_only=True, frozen=True):
    kid: str | None = None
    alg: str | None = None
    use: Literal["sig"] = "sig"
    key_ops: tuple[str, ...] = ("verify",)
    d: UnsetType = UNSET  # a private key that is published proves nothing


class _JwkSet(Struct, kw_only=True, frozen=True):
    keys: list[Raw]


_header, _jwk_set, _jwk, _members = Decoder(_Header), Decoder(_JwkSet), Decoder(_Jwk), Decoder(dict[str, object])


class TokenVerifier:
    """Tells the tenant and the user of a token."""

    def __init__(self, rules: TokenRules) -> None:
        if not rules.algorithms or not set(rules.algorithms) <= set(ALGORITHMS):
            raise ValueError(f"Token algorithms must be among {', '.join(ALGORITHMS)}.")
        self._rules = rules
        self._remembered: OrderedDict[bytes, _Proven] = OrderedDict()
        self._keys: _FileKeys | _UrlKeys
        match rules.jwks_file, rules.jwks_url:
            case Path() as path, None:
                self._keys = _FileKeys(path, rules.algorithms)
            case None, str() as url:
                self._keys = _UrlKeys(url, rules.algorithms)
            case _:
                raise ValueError("Exactly one of jwks_file and jwks_url must be given.")

    async def verify(self, token: str) -> tuple[str, str]:
        """Give the tenant and the user of a valid token.

        Raises InvalidCredentials for every other token, and Unavailable when there are no keys to judge it by.
        """
        if len(token) > MAX_TOKEN_CHARS or not token.isascii():
            raise InvalidCredentials
        digest = sha256(token.encode()).digest()
        remembered = self._remembered.get(digest)
        if (header := self._read_header(token) if remembered is None else remembered.header) is None:
            raise InvalidCredentials
        keys = await self._keys.get(header.kid)
        proven = self._prove(token, header, keys, remembered)
        if proven is None or not self._admits(proven.claims):
            raise InvalidCredentials
        self._remember(digest, proven)
        return proven.tenant, proven.claims.sub

    async def close(self) -> None:
        """Abandon a running fetch and close its connection."""
        await self._keys.close()

    def _read_header(self, token: str) -> _Header | None:
        if (segments := _COMPACT.fullmatch(token)) is None:
            return None
        with suppress(*_MALFORMED):
            header = _header.decode(base64url_decode(segments[1]))
            if header.alg in self._rules.algorithms and header.typ.lower() in TOKEN_TYPES:
                return header
        return None

    def _prove(self, token: str, header: _Header, keys: list[PyJWK], remembered: _Proven | None) -> _Proven | None:
        # Errors end here instead of being chained: a message of msgspec can quote a claim.
        with suppress(*_MALFORMED):
            (key,) = (key for key in keys if key.algorithm_name == header.alg and header.kid in (None, key.key_id))
            if remembered is not None and remembered.key() is key:
                return remembered
            signed, _, signature = token.rpartition(".")
            # PyJWS.decode looks at each character in Python: 490 us for 1.5 KB with RS256, this 120 us.
            if key.Algorithm.verify(signed.encode(), key.key, base64url_decode(signature)):
                payload = _members.decode(base64url_decode(signed.partition(".")[2]))
                tenant = convert(payload[self._rules.tenant_claim], _Name)
                return _Proven(header=header, key=ref(key), tenant=tenant, claims=convert(payload, _Claims))
        return None

    def _remember(self, digest: bytes, proven: _Proven) -> None:
        self._remembered[digest] = proven
        self._remembered.move_to_end(digest)
        if len(self._remembered) > TOKENS_REMEMBERED:
            self._remembered.popitem(last=False)

    def _admits(self, claims: _Claims) -> bool:
        audiences = [claims.aud] if isinstance(claims.aud, str) else claims.aud
        begins_at, now = max(claims.nbf, claims.iat) - LEEWAY_SECONDS, time()
        is_current = begins_at <= now < claims.exp + LEEWAY_SECONDS
        return is_current and claims.iss == self._rules.issuer and self._rules.audience in audiences


class _FileKeys:
    def __init__(self, path: Path, algorithms: tuple[str, ...]) -> None:
        self._path, self._algorithms = path, algorithms
        self._keys: list[PyJWK] | None = None
        self._version: tuple[int, int, int] | None = None
        self._checked_at = float("-inf")

    async def get(self, _kid: str | None) -> list[PyJWK]:
        if monotonic() - self._checked_at >= CHECK_SECONDS:
            self._checked_at = monotonic()
            self._check()
        if self._keys is None:
            raise Unavailable
        return self._keys

    async def close(self) -> None:
        pass

    def _check(self) -> None:
        try:
            status = self._path.stat()
            version = status.st_mtime_ns, status.st_ino, status.st_size
            if version != self._version:
                self._keys = _read_keys(self._path.read_bytes(), self._algorithms)
                self._version = version
        except (OSError, *_MALFORMED) as error:
            _logger.warning("The key set was not read: %r", error)


class _UrlKeys:
    def __init__(self, url: str, algorithms: tuple[str, ...]) -> None:
        self._url, self._algorithms = httpx.URL(url), algorithms
        # Uncompressed, so that no small answer unpacks into a large one.
        self._client = httpx.AsyncClient(headers={"Accept-Encoding": "identity"}, follow_redirects=False)
        self._keys: list[PyJWK] = []
        self._loaded_at = self._tried_at = self._asked_at = float("-inf")
        self._fetch: asyncio.Task[None] | None = None

    async def get(self, kid: str | None) -> list[PyJWK]:
        now = monotonic()
        has_keys = now - self._loaded_at < MAX_AGE_SECONDS
        is_rested = now - self._tried_at >= (RETRY_SECONDS if has_keys else CHECK_SECONDS)
        is_idle = self._fetch is None or self._fetch.done()
        if is_idle and is_rested and now - self._loaded_at >= REFRESH_SECONDS:
            self._fetch = asyncio.create_task(self._refresh())
        if not has_keys and self._fetch is not None:
            await asyncio.wait({self._fetch})
        if monotonic() - self._loaded_at >= MAX_AGE_SECONDS:
            raise Unavailable
        # A running fetch may have begun before the key was published, so another may follow it.
        while kid is not None and all(key.key_id != kid for key in self._keys):
            if self._fetch is None or self._fetch.done():
                if monotonic() - self._asked_at < RETRY_SECONDS:
                    break
                self._asked_at = monotonic()
                self._fetch = asyncio.create_task(self._refresh())
            await asyncio.wait({self._fetch})
        return self._keys

    async def close(self) -> None:
        if self._fetch is not None:
            self._fetch.cancel()
            await asyncio.wait({self._fetch})
        await self._client.aclose()

    async def _refresh(self) -> None:
        self._tried_at = monotonic()
        try:
            async with asyncio.timeout(FETCH_TIMEOUT_SECONDS):
                self._keys = _read_keys(await self._download(), self._algorithms)
            self._loaded_at = self._tried_at
        except (httpx.HTTPError, TimeoutError, *_MALFORMED) as error:
            _logger.warning("The key set was not fetched: %r", error)

    async def _download(self) -> bytes:
        body = bytearray()
        async with self._client.stream("GET", self._url) as response:
            if response.status_code != httpx.codes.OK:
                raise ValueError(f"It answered {response.status_code}.")
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MAX_SET_BYTES:
                    raise ValueError(f"It is larger than {MAX_SET_BYTES} bytes.")
        return bytes(body)


def _read_keys(text: bytes, algorithms: tuple[str, ...]) -> list[PyJWK]:
    """Read a JWK set (RFC 7517 §5) into one key per member and algorithm that fit each other; others are skipped."""
    keys = []
    for algorithm, raw in product(algorithms, _jwk_set.decode(text).keys):
        with suppress(*_MALFORMED):
            jwk = _jwk.decode(raw)
            if jwk.alg in (None, algorithm) and "verify" in jwk.key_ops:
                key = PyJWK(_members.decode(raw), algorithm)  # refuses a kty that is not the algorithm's
                key.Algorithm.prepare_key(key.key)  # refuses a curve that is not
                if key.Algorithm.check_key_length(key.key) is None:
                    keys.append(key)
    return keys
