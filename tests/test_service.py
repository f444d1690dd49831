"""What the service says of itself, and what stands on every answer."""

import json
import time

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from httpx import AsyncClient
from jwt.algorithms import ECAlgorithm
from litestar import Litestar
from msgspec.structs import replace

from app import health
from app.database_url import DatabaseUrl
from app.logs import JsonFormatter
from app.queries import Conn
from app.settings import Settings
from tests.conftest import client_of, problem, running


async def test_a_service_with_its_database_is_alive_and_ready(app: Litestar) -> None:
    async with client_of(app) as nobody:
        for path in ("/healthz", "/readyz"):
            assert (await nobody.get(path)).json() == {"status": "ok"}


async def test_without_its_tables_a_service_is_alive_and_not_ready(app: Litestar, connection: Conn) -> None:
    await connection.execute("DROP TABLE messages, conversations CASCADE")
    async with client_of(app) as nobody:
        assert (await nobody.get("/healthz")).status_code == 200
        answer = await nobody.get("/readyz")
    assert (answer.status_code, problem(answer), answer.headers["Retry-After"]) == (503, "unavailable", "1")


@pytest.mark.parametrize(("statement", "status"), [
    ("DELETE FROM _yoyo_migration WHERE migration_id LIKE '0003%'", 503),
    ("INSERT INTO _yoyo_migration VALUES ('hash', '9999_next', now())", 200),
])  # fmt: skip
async def test_a_missing_migration_is_not_ready(app: Litestar, connection: Conn, statement: str, status: int) -> None:
    await connection.execute(statement)
    async with client_of(app) as nobody:
        assert (await nobody.get("/readyz")).status_code == status


async def test_a_database_that_forgets_is_not_ready(settings: Settings, url: DatabaseUrl) -> None:
    strict = replace(settings, allow_unsafe_database=False)
    async with running(strict, url) as app, client_of(app) as nobody:
        assert (await nobody.get("/readyz")).status_code == 503


async def test_a_database_that_cannot_be_written_is_not_ready(
    settings: Settings, url: DatabaseUrl, connection: Conn
) -> None:
    await connection.execute(f"ALTER DATABASE {url.database} SET default_transaction_read_only = on")
    async with running(settings, url) as app, client_of(app) as nobody:
        assert (await nobody.get("/readyz")).status_code == 503


async def test_readiness_is_asked_of_the_database_once_a_second(
    app: Litestar, connection: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with client_of(app) as nobody:
        now = health.monotonic()
        monkeypatch.setattr(health, "monotonic", lambda: now)
        assert (await nobody.get("/readyz")).status_code == 200
        await connection.execute("DROP TABLE messages, conversations CASCADE")
        assert (await nobody.get("/readyz")).status_code == 200
        monkeypatch.setattr(health, "monotonic", lambda: now + 1.1)
        assert (await nobody.get("/readyz")).status_code == 503


async def test_readiness_answers_in_time_whatever_the_database_does(app: Litestar, connection: Conn) -> None:
    async with connection.transaction():
        await connection.execute("LOCK TABLE conversations")
        async with client_of(app) as nobody:
            begun = time.monotonic()
            assert (await nobody.get("/readyz")).status_code == 503
            assert time.monotonic() - begun < 1.5


async def test_a_database_that_is_down_is_a_503(settings: Settings, url: DatabaseUrl, alice: AsyncClient) -> None:
    away = replace(url, hosts=(("127.0.0.1", 9),))
    async with running(settings, away) as app, client_of(app, alice.headers["Authorization"].split()[1]) as client:
        answer = await client.get("/v1/conversations")
    assert (answer.status_code, problem(answer), answer.headers["Retry-After"]) == (503, "unavailable", "1")


async def test_a_lock_that_is_held_is_a_503_in_time(alice: AsyncClient, connection: Conn) -> None:
    path = (await alice.post("/v1/conversations")).headers["Location"]
    async with connection.transaction():
        await connection.execute("SELECT FROM conversations FOR UPDATE")
        begun = time.monotonic()
        answer = await alice.post(f"{path}/messages", json={"role": "user", "content": "x"})
        assert (answer.status_code, time.monotonic() - begun < 5) == (503, True)
    assert (await alice.post(f"{path}/messages", json={"role": "user", "content": "x"})).json()["last_seq"] == 1


async def test_what_breaks_is_a_500_without_its_words(
    alice: AsyncClient, connection: Conn, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.handler.setFormatter(JsonFormatter())
    await connection.execute("ALTER TABLE conversations RENAME title TO caption")
    answer = await alice.post("/v1/conversations", json={"title": "CANARY"})
    assert (answer.status_code, problem(answer)) == (500, "internal-error")
    (line,) = [json.loads(line) for line in caplog.text.splitlines() if '"broken"' in line]
    assert (line["request_id"], line["sqlstate"]) == (answer.headers["x-request-id"], "42703")
    for words in (answer.text, caplog.text):
        assert "CANARY" not in words
        assert "caption" not in words


async def test_a_client_that_leaves_is_no_failure_of_ours(
    app: Litestar, alice: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    headers = [(b"authorization", alice.headers["Authorization"].encode()), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/v1/conversations", "raw_path": b"/v1/conversations"}
    scope |= {"query_string": b"", "headers": headers, "http_version": "1.1", "scheme": "http", "root_path": ""}
    events = iter([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}])
    sent: list[dict[str, object]] = []

    async def receive() -> dict[str, object]:
        return next(events)

    async def send(event: dict[str, object]) -> None:
        sent.append(event)

    await app(scope, receive, send)
    assert sent[0]["status"] == 400
    assert "verbatim" not in caplog.text


async def test_a_path_longer_than_any_of_ours_is_not_looked_up(app: Litestar, alice: AsyncClient) -> None:
    statuses = [
        (await client.get(f"/v1/conversations/by-key/{'x' * length}")).status_code
        for client in (alice, client_of(app))
        for length in (2000, 2100)
    ]
    assert statuses == [405, 404, 405, 404]


@pytest.mark.parametrize("path", ["/healthz", "/nowhere", "/v1/conversations"])
async def test_every_answer_has_a_request_id(app: Litestar, path: str) -> None:
    async with client_of(app) as nobody:
        made = [(await nobody.get(path)).headers["x-request-id"] for _ in range(2)]
        assert made[0] != made[1]
        kept = await nobody.get(path, headers={"x-request-id": "gateway:1.a-b~c_d"})
        assert kept.headers["x-request-id"] == "gateway:1.a-b~c_d"


@pytest.mark.parametrize("value", ["", "a b", "x" * 129, 'a"b', "a\tb"])
async def test_a_malformed_request_id_is_replaced(app: Litestar, value: str) -> None:
    async with client_of(app) as nobody:
        assert (await nobody.get("/healthz", headers={"x-request-id": value})).headers["x-request-id"] != value


async def test_the_docs_page_needs_nothing_from_elsewhere(app: Litestar) -> None:
    async with client_of(app) as nobody:
        answer = await nobody.get("/docs")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "appendMessages" in answer.text
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; ")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-store"
    assert not [word for word in ("http://", "https://", "<script", "src=", "@import", "url(") if word in answer.text]


async def test_a_jwt_of_the_issuer_acts_for_its_subject(
    settings: Settings, url: DatabaseUrl, tmp_path_factory: pytest.TempPathFactory
) -> None:
    private = generate_private_key(SECP256R1())
    jwks = tmp_path_factory.mktemp("jwks") / "jwks.json"
    jwks.write_text(json.dumps({"keys": [{**ECAlgorithm.to_jwk(private.public_key(), as_dict=True), "kid": "1"}]}))
    claims = {"iss": "https://issuer", "aud": "verbatim", "sub": "alice", "tenant": "acme", "exp": time.time() + 60}
    token = jwt.encode(claims, private, "ES256", {"kid": "1"})
    other = jwt.encode({**claims, "aud": "another"}, private, "ES256", {"kid": "1"})
    trusting = replace(settings, jwt_issuer="https://issuer", jwt_audience="verbatim", jwt_jwks_file=jwks)
    async with running(trusting, url) as app, client_of(app, token) as client:
        assert (await client.post("/v1/conversations")).json()["user_id"] == "alice"
        assert problem(await client.get("/v1/conversations", headers={"X-User-Id": "bob"})) == "user-mismatch"
        answer = await client.get("/v1/conversations", headers={"Authorization": f"Bearer {other}"})
        assert problem(answer) == "invalid-credentials"
