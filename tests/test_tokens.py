import asyncio
import gc
import hashlib
import hmac
import json
import os
import random
import weakref
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from time import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import OKPAlgorithm
from jwt.utils import base64url_decode

from app import tokens
from app.errors import InvalidCredentials, Unavailable
from app.tokens import TokenRules, TokenVerifier

RSA = rsa.generate_private_key(65537, 2048)
WEAK = rsa.generate_private_key(65537, 1024)
EC = ec.generate_private_key(ec.SECP256R1())
EC384 = ec.generate_private_key(ec.SECP384R1())
OLD, NEW, FOREIGN = (ed25519.Ed25519PrivateKey.generate() for _ in range(3))
PEM = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

ABSENT = object()
BODY = b'{"iss":"https://gate","aud":"verbatim","sub":"ada","org":"acme","exp":9999999999}'
ACME_ADA = ("acme", "ada")


def algorithm_of(key: Any) -> str:
    if isinstance(key, rsa.RSAPrivateKey):
        return "RS256"
    return "ES256" if isinstance(key, ec.EllipticCurvePrivateKey) else "EdDSA"


def jwk(key: Any, kid: str, **members: object) -> dict[str, object]:
    algorithm = jwt.get_algorithm_by_name(algorithm_of(key))
    return present({**algorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, "use": "sig", **members})


def present(members: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in members.items() if value is not ABSENT}


def base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def token(key: Any = RSA, kid: object = "rsa", header: dict[str, object] | None = None, **claims: object) -> str:
    """Sign a valid token with these changes; ABSENT leaves a member out."""
    head = {"typ": "JWT", "alg": algorithm_of(key), "kid": kid, **(header or {})}
    body = {"iss": "https://gate", "aud": "verbatim", "sub": "ada", "org": "acme", "exp": time() + 60, **claims}
    return signed(key, json.dumps(present(head)).encode(), json.dumps(present(body)).encode(), str(head["alg"]))


def signed(key: Any, head: bytes, body: bytes, alg: str, padding: str = "") -> str:
    text = f"{base64url(head)}.{base64url(body)}{padding}"
    if isinstance(key, bytes):
        signature = hmac.digest(key, text.encode(), hashlib.sha256)
    else:
        signature = jwt.get_algorithm_by_name(alg).sign(text.encode(), key)
    return f"{text}.{base64url(signature)}"


def spliced(text: str, head: str | None = None, body: str | None = None, signature: str | None = None) -> str:
    parts = zip(text.split("."), (head, body, signature), strict=True)
    return ".".join(own if other is None else other for own, other in parts)


def raw(head: str, body: str = '{"sub":"ada"}') -> str:
    return signed(RSA, head.encode(), body.encode(), "RS256")


ACCEPTED: dict[str, Callable[[], str]] = {
    "RS256": lambda: token(RSA, "rsa"),
    "ES256": lambda: token(EC, "ec"),
    "EdDSA": lambda: token(OLD, "old"),
    "a key that names no alg, with PS256": lambda: token(RSA, "any-rsa", {"alg": "PS256"}),
    "no kid, one key for the algorithm": lambda: token(EC, ABSENT),
    "aud is a list with ours": lambda: token(aud=["other", "verbatim"]),
    "expired 20 s ago": lambda: token(exp=time() - 20),
    "nbf 20 s ahead": lambda: token(nbf=time() + 20),
    "iat 20 s ahead": lambda: token(iat=int(time()) + 20),
    "no typ": lambda: token(header={"typ": ABSENT}),
    "typ at+jwt": lambda: token(header={"typ": "at+jwt"}),
    "typ in capitals": lambda: token(header={"typ": "Application/AT+JWT"}),
    "a jku of elsewhere is ignored": lambda: token(header={"jku": "http://127.0.0.1:1/keys"}),
    "x5u and x5c are ignored": lambda: token(header={"x5u": "http://127.0.0.1:1/", "x5c": ["AAAA"]}),
    "a header and claims written by another": lambda: signed(RSA, b'{"alg":"RS256","kid":"rsa"}', BODY, "RS256"),
    "sub of 255 characters": lambda: token(sub="é" * 255),
    "claims unknown to us": lambda: token(scope=["a", {"b": None}]),
}

REFUSED: dict[str, Callable[[], str]] = {
    "alg none": lambda: spliced(token(), base64url(b'{"alg":"none","kid":"rsa"}'), signature=""),
    "alg none with a signature": lambda: raw('{"alg":"none","kid":"rsa"}'),
    "HS256 with the public key as secret": lambda: token(PEM, "rsa", {"alg": "HS256"}),
    "HS256 with the secret of an oct key": lambda: token(b"secret", "oct", {"alg": "HS256"}),
    "alg absent": lambda: raw('{"kid":"rsa"}'),
    "alg a number": lambda: raw('{"alg":1,"kid":"rsa"}'),
    "alg a list": lambda: raw('{"alg":["RS256"],"kid":"rsa"}'),
    "alg allowed nowhere though the key fits": lambda: token(RSA, "any-rsa", {"alg": "RS512"}),
    "alg allowed, but the key names another": lambda: token(RSA, "rsa", {"alg": "PS256"}),
    "alg of another key type": lambda: token(EC, "rsa"),
    "alg of another curve": lambda: token(EC384, "p384"),
    "signed by another key": lambda: token(FOREIGN, "old"),
    "unknown kid": lambda: token(FOREIGN, "foreign"),
    "kid a number": lambda: token(kid=7),
    "no kid, two keys for the algorithm": lambda: token(kid=ABSENT),
    "two keys under one kid": lambda: token(RSA, "twin"),
    "key for encryption": lambda: token(RSA, "enc"),
    "key whose key_ops lack verify": lambda: token(RSA, "ops"),
    "key of 1024 bits": lambda: token(WEAK, "weak"),
    "key published with its private half": lambda: token(NEW, "private"),
    "jwk of the attacker": lambda: token(FOREIGN, "old", {"jwk": jwk(FOREIGN, "old")}),
    "jku of the attacker": lambda: token(FOREIGN, "x", {"jku": "http://127.0.0.1:1/keys"}),
    "typ id+jwt": lambda: token(header={"typ": "id+jwt"}),
    "typ empty": lambda: token(header={"typ": ""}),
    "typ null": lambda: token(header={"typ": None}),
    "crit unknown": lambda: token(header={"crit": ["x"], "x": 1}),
    "crit b64": lambda: token(header={"crit": ["b64"], "b64": True}),
    "crit empty": lambda: token(header={"crit": []}),
    "crit null": lambda: token(header={"crit": None}),
    "iss absent": lambda: token(iss=ABSENT),
    "iss foreign": lambda: token(iss="https://evil"),
    "iss with a slash more": lambda: token(iss="https://gate/"),
    "iss a list": lambda: token(iss=["https://gate"]),
    "aud absent": lambda: token(aud=ABSENT),
    "aud foreign": lambda: token(aud="verbatim2"),
    "aud a list without ours": lambda: token(aud=["a", "b"]),
    "aud an empty list": lambda: token(aud=[]),
    "aud a number": lambda: token(aud=5),
    "aud an object": lambda: token(aud={"verbatim": 1}),
    "exp absent": lambda: token(exp=ABSENT),
    "exp null": lambda: token(exp=None),
    "expired 40 s ago": lambda: token(exp=time() - 40),
    "exp a string": lambda: token(exp=str(int(time()) + 60)),
    "exp true": lambda: token(exp=True),
    "exp too large to be a number": lambda: token(exp=10**400),
    "nbf 40 s ahead": lambda: token(nbf=time() + 40),
    "nbf a string": lambda: token(nbf="0"),
    "iat 40 s ahead": lambda: token(iat=time() + 40),
    "iat an object": lambda: token(iat={}),
    "sub absent": lambda: token(sub=ABSENT),
    "sub empty": lambda: token(sub=""),
    "sub a number": lambda: token(sub=7),
    "sub of 256 characters": lambda: token(sub="a" * 256),
    "sub with NUL": lambda: token(sub="a\0b"),
    "sub ending in a newline": lambda: token(sub="ada\n"),
    "sub with a C1 control": lambda: token(sub="a\x85b"),
    "sub half a surrogate pair": lambda: token(sub="\ud800"),
    "tenant absent": lambda: token(org=ABSENT),
    "tenant null": lambda: token(org=None),
    "tenant a list": lambda: token(org=["acme"]),
    "tenant with a tab": lambda: token(org="a\tb"),
    "payload a list": lambda: raw('{"alg":"RS256","kid":"rsa"}', "[]"),
    "payload no JSON": lambda: raw('{"alg":"RS256","kid":"rsa"}', "ada"),
    "payload nested deeply": lambda: raw('{"alg":"RS256","kid":"rsa"}', '{"a":' + "[" * 4_000),
    "header nested deeply": lambda: raw('{"alg":"RS256","a":' + "[" * 4_000),
    "header a list": lambda: raw("[]"),
    "header no UTF-8": lambda: signed(RSA, b'{"alg":"RS256","kid":"\xff"}', b"{}", "RS256"),
    "empty": lambda: "",
    "dots only": lambda: "..",
    "no JWT": lambda: "vb_0123_secret",
    "four parts": lambda: token() + ".e30",
    "an empty part more": lambda: token() + ".",
    "two parts": lambda: token().rpartition(".")[0],
    "signature empty": lambda: spliced(token(), signature=""),
    "signature cut": lambda: token()[:-8],
    "signature of one character": lambda: spliced(token(), signature="A"),
    "ECDSA signature of zeros": lambda: spliced(token(EC, "ec"), signature="A" * 86),
    "payload of another token": lambda: spliced(token(), body=token(sub="eve").split(".")[1]),
    "header of another token": lambda: spliced(token(), token(header={"typ": "at+jwt"}).split(".")[0]),
    "payload with padding, well signed": lambda: signed(RSA, b'{"alg":"RS256","kid":"rsa"}', BODY, "RS256", "=="),
    "signature with padding": lambda: token() + "==",
    "signature with junk that a lax decoder skips": lambda: token() + "!!!!",
    "newline at the end": lambda: token() + "\n",
    "space in front": lambda: " " + token(),
    "not ASCII": lambda: token() + "é",
    "half a surrogate pair": lambda: token() + "\ud800",
    "100 KB": lambda: token(pad="a" * 100_000),
    "9 KB, well signed": lambda: token(pad="a" * 6_500),
}


PUBLISHED: list[object] = [
    "no key",
    {"kty": "RSA", "kid": "broken", "n": "AQAB"},
    {"kty": "EC", "kid": "off-curve", "crv": "P-256", "x": base64url(b"\1" * 32), "y": base64url(b"\1" * 32)},
    {"kty": "oct", "kid": "oct", "k": base64url(b"secret")},
    jwk(RSA, "rsa", alg="RS256"),
    jwk(RSA, "any-rsa", use=ABSENT, key_ops=ABSENT),
    jwk(RSA, "enc", use="enc"),
    jwk(RSA, "ops", key_ops=["encrypt"]),
    jwk(RSA, "twin"),
    jwk(RSA, "twin"),
    jwk(WEAK, "weak"),
    jwk(EC, "ec"),
    jwk(EC384, "p384"),
    jwk(OLD, "old"),
    {**jwt.get_algorithm_by_name("EdDSA").to_jwk(NEW, as_dict=True), "kid": "private"},
]


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Issuer:
    """Serve a JWK set over HTTP and count how often it is fetched."""

    def __init__(self) -> None:
        self.keys: list[object] = [jwk(OLD, "old")]
        self.head = "200 OK"
        self.padding = ""
        self.fetches = 0
        self.url = ""
        self.request = b""
        self.was_asked = asyncio.Event()
        self.answers = asyncio.Event()
        self.answers.set()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.request = (await reader.readuntil(b"\r\n\r\n")).lower()
        self.fetches += 1
        self.was_asked.set()
        body = json.dumps({"keys": self.keys, "padding": self.padding})
        await self.answers.wait()
        writer.write(f"HTTP/1.1 {self.head}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode())
        writer.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(tokens, "monotonic", clock)
    return clock


@pytest.fixture
def jwks(tmp_path: Path) -> Path:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": PUBLISHED}))
    return path


@pytest.fixture
async def by_file(jwks: Path) -> AsyncIterator[TokenVerifier]:
    verifier = TokenVerifier(rules(jwks_file=jwks))
    yield verifier
    await verifier.close()


@pytest.fixture
async def issuer(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Issuer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    issuer = Issuer()
    async with await asyncio.start_server(issuer.answer, "127.0.0.1", 0) as server:
        issuer.url = "http://127.0.0.1:{1}/jwks".format(*server.sockets[0].getsockname())
        yield issuer
        issuer.answers.set()


@pytest.fixture
async def by_url(issuer: Issuer) -> AsyncIterator[TokenVerifier]:
    verifier = TokenVerifier(rules(jwks_url=issuer.url))
    yield verifier
    await verifier.close()


def rules(**changes: Any) -> TokenRules:
    algorithms = ("RS256", "PS256", "ES256", "EdDSA")
    defaults = {"issuer": "https://gate", "audience": "verbatim", "algorithms": algorithms, "tenant_claim": "org"}
    return TokenRules(**{**defaults, **changes})


async def is_refused(verifier: TokenVerifier, text: str) -> bool:
    try:
        await verifier.verify(text)
    except InvalidCredentials:
        return True
    return False


def replace(path: Path, text: str | None) -> None:
    if text is None:
        path.unlink()
    else:
        path.with_suffix(".next").write_text(text)
        os.utime(path.with_suffix(".next"), (0, 0))
        path.with_suffix(".next").rename(path)


async def fetch_ends(verifier: TokenVerifier) -> None:
    if verifier._keys._fetch is not None:
        await asyncio.wait({verifier._keys._fetch}, timeout=5)


def old_token() -> str:
    return token(OLD, "old")


def new_token() -> str:
    return token(NEW, "new")


@pytest.mark.parametrize("make", ACCEPTED.values(), ids=ACCEPTED)
async def test_a_valid_token_tells_tenant_and_user(by_file: TokenVerifier, make: Callable[[], str]) -> None:
    tenant, user = await by_file.verify(make())
    assert (tenant, user[:3]) in {ACME_ADA, ("acme", "ééé")}


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED)
async def test_another_token_is_refused_without_a_reason(
    by_file: TokenVerifier, make: Callable[[], str], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InvalidCredentials) as refused:
        await by_file.verify(make())
    error = refused.value
    assert (error.args, error.__context__, error.__cause__, caplog.text) == ((None,), None, None, "")


async def test_a_token_changed_anywhere_tells_the_same_or_is_refused(by_file: TokenVerifier) -> None:
    rng, told = random.Random(7), set()
    for text in [old_token()] * 1_000 + [token(EC, "ec")] * 1_000:
        at = rng.randrange(len(text))
        changed = text[:at] + rng.choice("AZaz09-_.={é\0") + text[at + rng.randrange(2) :]
        if not await is_refused(by_file, changed):
            told.add(await by_file.verify(changed))
    assert told <= {ACME_ADA}


@pytest.fixture
def verifications(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The signatures of Ed25519 that are computed from here on."""
    computed = []
    verify = OKPAlgorithm.verify

    def note(self: Any, signed: Any, key: Any, signature: Any) -> bool:
        computed.append(signature)
        return verify(self, signed, key, signature)

    monkeypatch.setattr(OKPAlgorithm, "verify", note)
    return computed


async def test_the_signature_of_a_good_token_is_computed_once(
    by_file: TokenVerifier, verifications: list[bytes]
) -> None:
    text = old_token()
    assert [await by_file.verify(text) for _ in range(3)] == [ACME_ADA] * 3
    assert len(verifications) == 1


async def test_the_tokens_that_came_last_are_remembered_and_no_text_of_them(
    by_file: TokenVerifier, verifications: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "TOKENS_REMEMBERED", 3)
    one, *others = [token(OLD, "old", sub=name, jti="a" * 40) for name in ("ada", "bob", "cyd", "dan", "eve")]
    for other in others:
        await by_file.verify(one)
        await by_file.verify(other)
    assert len(verifications) == 5
    assert len(by_file._remembered) == 3
    held = repr(by_file._remembered)
    assert [part for text in (one, *others) for part in text.split(".")[1:] if part in held] == []
    await by_file.verify(others[0])
    assert len(verifications) == 6


@pytest.mark.parametrize(("claims", "seconds"), [({"exp": 1_000}, 1_030), ({"nbf": 1_000}, 900), ({"iat": 1_000}, 900)])
async def test_a_remembered_token_is_refused_out_of_its_time(
    by_file: TokenVerifier, monkeypatch: pytest.MonkeyPatch, claims: dict[str, object], seconds: float
) -> None:
    text = token(OLD, "old", **{"exp": 2_000, **claims})
    monkeypatch.setattr(tokens, "time", lambda: 980.0)
    assert await by_file.verify(text) == ACME_ADA
    monkeypatch.setattr(tokens, "time", lambda: seconds)
    assert await is_refused(by_file, text)
    monkeypatch.setattr(tokens, "time", lambda: 980.0)
    assert await by_file.verify(text) == ACME_ADA


@pytest.mark.parametrize("change", [{"issuer": "https://other"}, {"audience": "other"}])
async def test_a_remembered_token_is_judged_by_the_settings(by_file: TokenVerifier, change: dict[str, str]) -> None:
    text = old_token()
    await by_file.verify(text)
    by_file._rules = rules(jwks_file=Path("jwks.json"), **change)
    assert await is_refused(by_file, text)


async def test_a_remembered_token_with_another_signature_is_refused_and_not_remembered(by_file: TokenVerifier) -> None:
    text = old_token()
    await by_file.verify(text)
    remembered = dict(by_file._remembered)
    signature = bytearray(base64url_decode(text.rpartition(".")[2]))
    for bit in range(len(signature) * 8):
        signature[bit // 8] ^= 1 << bit % 8
        assert await is_refused(by_file, spliced(text, signature=base64url(bytes(signature))))
        signature[bit // 8] ^= 1 << bit % 8
    assert by_file._remembered == remembered


async def test_a_remembered_token_is_refused_when_its_key_is_removed_or_replaced(
    by_file: TokenVerifier, jwks: Path, clock: Clock
) -> None:
    text = old_token()
    for keys in ([], [jwk(FOREIGN, "old")], [jwk(OLD, "old", alg="ES256")]):
        replace(jwks, json.dumps({"keys": [jwk(OLD, "old")], "round": len(json.dumps(keys))}))
        clock.now += 1
        assert await by_file.verify(text) == ACME_ADA
        replace(jwks, json.dumps({"keys": keys}))
        clock.now += 1
        assert await is_refused(by_file, text)


async def test_a_key_that_is_gone_is_not_kept_for_its_tokens(by_file: TokenVerifier, jwks: Path, clock: Clock) -> None:
    await by_file.verify(old_token())
    (key,) = [weakref.ref(key) for key in by_file._keys._keys or [] if key.key_id == "old"]
    replace(jwks, json.dumps({"keys": [jwk(NEW, "new")]}))
    clock.now += 1
    await by_file.verify(new_token())
    gc.collect()
    assert key() is None


async def test_garbage_is_refused_quickly(by_file: TokenVerifier) -> None:
    began = time()
    for text in ("a" * 8_000, "a." * 4_000, "." * 8_000, "e" * 10_000_000, f"{'a' * 2_000}.{'a' * 2_000}."):
        assert await is_refused(by_file, text)
    assert time() - began < 0.1


@pytest.mark.parametrize(
    "changes",
    [
        {"algorithms": ()},
        {"algorithms": ("RS256", "HS256")},
        {"algorithms": ("none",)},
        {"algorithms": ("rs256",)},
        {"jwks_url": "http://127.0.0.1/jwks"},
        {"jwks_file": None},
    ],
)
def test_rules_that_cannot_be_safe_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        TokenVerifier(rules(**{"jwks_file": Path("jwks.json"), **changes}))


async def test_without_a_file_of_keys_the_service_is_unavailable(tmp_path: Path, clock: Clock) -> None:
    verifier = TokenVerifier(rules(jwks_file=tmp_path / "later.json"))
    with pytest.raises(Unavailable):
        await verifier.verify(old_token())
    replace(tmp_path / "later.json", json.dumps({"keys": PUBLISHED}))
    clock.now += 1
    assert await verifier.verify(old_token()) == ACME_ADA


async def test_a_file_replaced_atomically_is_picked_up(by_file: TokenVerifier, jwks: Path, clock: Clock) -> None:
    replace(jwks, json.dumps({"keys": [jwk(OLD, "old")]}))
    await by_file.verify(old_token())
    replace(jwks, json.dumps({"keys": [jwk(NEW, "new")]}))
    clock.now += 0.9
    assert await by_file.verify(old_token()) == ACME_ADA
    clock.now += 0.2
    assert await by_file.verify(new_token()) == ACME_ADA
    assert await is_refused(by_file, old_token())


@pytest.mark.parametrize("text", ["", '{"keys": [', '{"keys": {}}', "[]", "[" * 9_000, None])
async def test_a_broken_file_leaves_the_keys_as_they_were(
    by_file: TokenVerifier, jwks: Path, clock: Clock, text: str | None
) -> None:
    await by_file.verify(old_token())
    replace(jwks, text)
    clock.now += 1
    assert await by_file.verify(old_token()) == ACME_ADA


async def test_an_unchanged_file_is_not_read_again(
    by_file: TokenVerifier, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await by_file.verify(old_token())
    monkeypatch.setattr(Path, "read_bytes", None)
    clock.now += 60
    assert await by_file.verify(old_token()) == ACME_ADA


async def test_keys_rotate_under_load_without_a_wrong_refusal(
    by_url: TokenVerifier, issuer: Issuer, clock: Clock
) -> None:
    live, wrong, verified = [old_token()], [], 0

    def publish_new() -> None:
        issuer.keys = [jwk(OLD, "old"), jwk(NEW, "new")]
        live.append(new_token())

    def withdraw_old() -> None:
        live.pop(0)
        issuer.keys = [jwk(NEW, "new")]
        clock.now += 301

    changes = {1_000: publish_new, 2_000: withdraw_old}

    async def verify_in_a_loop() -> None:
        nonlocal verified
        while verified < 3_000:
            if await is_refused(by_url, text := random.choice(live)):
                wrong.append(text)
            verified += 1
            changes.pop(verified, lambda: None)()
            await asyncio.sleep(0)

    await asyncio.gather(*(verify_in_a_loop() for _ in range(20)))
    await fetch_ends(by_url)
    assert await is_refused(by_url, old_token())
    assert (wrong, changes, issuer.fetches) == ([], {}, 4)


async def test_concurrent_verifications_share_one_fetch(by_url: TokenVerifier, issuer: Issuer) -> None:
    assert await asyncio.gather(*(by_url.verify(old_token()) for _ in range(50))) == [ACME_ADA] * 50
    assert issuer.fetches == 1


async def test_a_flood_of_unknown_kids_causes_one_fetch_in_10_seconds(
    by_url: TokenVerifier, issuer: Issuer, clock: Clock
) -> None:
    await by_url.verify(old_token())
    for fetches in (2, 2, 3):
        flood = (is_refused(by_url, token(FOREIGN, f"kid-{n}")) for n in range(100))
        assert all(await asyncio.gather(*flood))
        assert issuer.fetches == fetches
        clock.now += 6


async def test_only_an_unknown_kid_causes_a_fetch(by_url: TokenVerifier, issuer: Issuer) -> None:
    await by_url.verify(old_token())
    for text in (token(FOREIGN, "old"), token(RSA, "old"), token(RSA, ABSENT), raw('{"alg":"HS256","kid":"x"}')):
        assert await is_refused(by_url, text)
    assert issuer.fetches == 1


async def test_a_key_published_while_a_fetch_runs_is_found_by_a_second_one(
    by_url: TokenVerifier, issuer: Issuer, clock: Clock
) -> None:
    await by_url.verify(old_token())
    issuer.answers.clear()
    issuer.was_asked.clear()
    clock.now += 300
    await by_url.verify(old_token())
    await issuer.was_asked.wait()
    issuer.keys.append(jwk(NEW, "new"))
    verifications = asyncio.gather(*(by_url.verify(new_token()) for _ in range(20)))
    await asyncio.sleep(0)
    issuer.answers.set()
    assert await verifications == [ACME_ADA] * 20
    assert issuer.fetches == 3


async def test_a_refresh_keeps_nobody_waiting(by_url: TokenVerifier, issuer: Issuer, clock: Clock) -> None:
    await by_url.verify(old_token())
    issuer.answers.clear()
    clock.now += 300
    async with asyncio.timeout(1):
        assert await by_url.verify(old_token()) == ACME_ADA


async def test_a_removed_key_stops_working_at_the_next_refresh(
    by_url: TokenVerifier, issuer: Issuer, clock: Clock
) -> None:
    await by_url.verify(old_token())
    issuer.keys = []
    clock.now += 300
    await by_url.verify(old_token())
    await fetch_ends(by_url)
    assert await is_refused(by_url, old_token())


async def test_keys_outlive_their_issuer_by_a_day(by_url: TokenVerifier, issuer: Issuer, clock: Clock) -> None:
    await by_url.verify(old_token())
    issuer.head = "500 Broken"
    for _ in range(23):
        clock.now += 3_600
        assert await by_url.verify(old_token()) == ACME_ADA
        await fetch_ends(by_url)
    clock.now += 3_600
    with pytest.raises(Unavailable):
        await by_url.verify(old_token())
    assert issuer.fetches == 25


async def test_a_failed_refresh_is_tried_again_after_10_seconds(
    by_url: TokenVerifier, issuer: Issuer, clock: Clock
) -> None:
    await by_url.verify(old_token())
    issuer.head, issuer.keys = "500 Broken", []
    clock.now += 300
    for _ in range(30):
        assert await by_url.verify(old_token()) == ACME_ADA
        await fetch_ends(by_url)
        clock.now += 1
    assert issuer.fetches == 4


async def test_without_any_keys_the_service_is_unavailable_until_it_gets_them(
    by_url: TokenVerifier, issuer: Issuer, clock: Clock
) -> None:
    issuer.head = "503 Not yet"
    for _ in range(10):
        with pytest.raises(Unavailable):
            await by_url.verify(old_token())
    assert issuer.fetches == 1
    issuer.head = "200 OK"
    clock.now += 1
    assert await by_url.verify(old_token()) == ACME_ADA


async def test_a_redirect_is_not_followed(by_url: TokenVerifier, issuer: Issuer) -> None:
    issuer.head = f"302 Found\r\nLocation: {issuer.url}"
    with pytest.raises(Unavailable):
        await by_url.verify(old_token())
    assert issuer.fetches == 1


async def test_a_huge_set_is_not_read(by_url: TokenVerifier, issuer: Issuer) -> None:
    issuer.padding = "a" * 1_000_001
    with pytest.raises(Unavailable):
        await by_url.verify(old_token())


async def test_the_set_is_asked_for_uncompressed(by_url: TokenVerifier, issuer: Issuer) -> None:
    await by_url.verify(old_token())
    assert b"\r\naccept-encoding: identity\r\n" in issuer.request


async def test_a_silent_issuer_is_given_up(
    by_url: TokenVerifier, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "FETCH_TIMEOUT_SECONDS", 0.05)
    issuer.answers.clear()
    with pytest.raises(Unavailable):
        await asyncio.wait_for(by_url.verify(old_token()), 1)


async def test_an_issuer_that_cannot_be_reached_is_unavailable() -> None:
    verifier = TokenVerifier(rules(jwks_url="http://127.0.0.1:1/jwks"))
    with pytest.raises(Unavailable):
        await verifier.verify(old_token())
    await verifier.close()


async def test_a_client_that_leaves_does_not_end_the_fetch_of_others(by_url: TokenVerifier, issuer: Issuer) -> None:
    issuer.answers.clear()
    leaver, stayer = (asyncio.create_task(by_url.verify(old_token())) for _ in range(2))
    await asyncio.sleep(0.01)
    leaver.cancel()
    issuer.answers.set()
    assert await stayer == ACME_ADA
    assert issuer.fetches == 1


async def test_closing_abandons_a_running_fetch(by_url: TokenVerifier, issuer: Issuer) -> None:
    issuer.answers.clear()
    waiting = asyncio.create_task(by_url.verify(old_token()))
    await asyncio.sleep(0.01)
    async with asyncio.timeout(1):
        await by_url.close()
    with pytest.raises(Unavailable):
        await waiting


async def test_closing_ends_a_fetch_that_has_not_begun(by_url: TokenVerifier) -> None:
    await by_url.verify(old_token())
    waiting = asyncio.create_task(is_refused(by_url, token(FOREIGN, "x")))
    await asyncio.sleep(0)
    await by_url.close()
    assert await waiting
