"""Who is let in, and as whom; what they may reach then is in `test_authorization`."""

import asyncio
from asyncio import gather
from collections.abc import AsyncIterator, Sequence
from time import thread_time
from typing import Any

import pytest
from httpx import AsyncClient
from litestar import Litestar

from app import auth
from app.auth import Authentication, Token
from app.database import Database
from app.database_url import DatabaseUrl
from app.errors import InvalidCredentials, Unavailable
from app.queries import Conn
from app.settings import Settings
from app.stores import service_keys
from tests.conftest import NewKey, client_of, contents, new_conversation, problem, running
from tests.poolers import pooled

HOME = "/v1/conversations"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of how many keys at a time it is asked whether they are good, from here on."""
    asked = []
    ask = service_keys.find_live_keys

    async def note(connection: Conn, prefixes: Sequence[str]) -> dict[str, service_keys.LiveKey]:
        asked.append(len(prefixes))
        return await ask(connection, prefixes)

    monkeypatch.setattr(service_keys, "find_live_keys", note)
    return asked


@pytest.mark.parametrize(
    "value",
    ["", "Bearer", "Bearer ", "Bearer x", "Bearer vb_", "Bearer vb_a_b", "Basic {key}", "{key}", "Bearer {key}x",
     "Bearer {key} x", "Token {key}", "Bearer é", "Bearer a.b.c"],
)  # fmt: skip
async def test_bad_credentials_are_all_the_same(app: Litestar, new_key: NewKey, value: str) -> None:
    header = value.format(key=await new_key(user="alice")).encode("latin-1")
    async with client_of(app) as nobody:
        answer = await nobody.get(HOME, headers=[(b"authorization", header)])
    assert (answer.status_code, problem(answer), answer.headers["WWW-Authenticate"]) == (
        401,
        "invalid-credentials",
        "Bearer",
    )
    assert "detail" not in answer.json()


async def test_two_credentials_are_none(app: Litestar, new_key: NewKey) -> None:
    header = (b"authorization", f"Bearer {await new_key(user='alice')}".encode())
    async with client_of(app) as nobody:
        assert (await nobody.get(HOME, headers=[header, header])).status_code == 401


async def test_the_scheme_is_bearer_in_any_case(app: Litestar, new_key: NewKey) -> None:
    key = await new_key(user="alice")
    async with client_of(app, Authorization=f"bEARER {key}") as client:
        assert (await client.get(HOME)).status_code == 200


async def test_a_wrong_secret_with_a_known_prefix_is_refused(app: Litestar, new_key: NewKey) -> None:
    key = await new_key(user="alice")
    async with client_of(app, key[:-1] + ("A" if key[-1] != "A" else "B")) as client:
        assert (await client.get(HOME)).status_code == 401


async def test_a_revoked_key_is_refused_within_five_seconds(
    app: Litestar, new_key: NewKey, connection: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await new_key(user="alice")
    async with client_of(app, key) as client:
        assert (await client.get(HOME)).status_code == 200
        await service_keys.revoke_service_key(connection, service_keys.prefix_of(key) or "")
        now = auth.monotonic()
        monkeypatch.setattr(auth, "monotonic", lambda: now + 4.99)
        assert (await client.get(HOME)).status_code == 401


async def test_a_revoked_key_is_refused_by_every_replica_within_five_seconds(
    app: Litestar,
    settings: Settings,
    url: DatabaseUrl,
    new_key: NewKey,
    connection: Conn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key = await new_key(user="alice")
    async with running(settings, url) as replica, client_of(app, key) as one, client_of(replica, key) as two:
        assert [(await client.get(HOME)).status_code for client in (one, two)] == [200, 200]
        await service_keys.revoke_service_key(connection, service_keys.prefix_of(key) or "")
        now = auth.monotonic()
        monkeypatch.setattr(auth, "monotonic", lambda: now + 4.99)
        assert [(await client.get(HOME)).status_code for client in (one, two)] == [401, 401]


async def test_a_key_with_which_many_come_at_once_is_asked_for_once(
    app: Litestar, new_key: NewKey, asked: list[int]
) -> None:
    async with client_of(app, await new_key(user="alice")) as client:
        answers = await gather(*(client.get(HOME) for _ in range(100)))
    assert ({answer.status_code for answer in answers}, len(asked)) == ({200}, 1)


async def test_a_key_is_asked_for_once_in_its_time(app: Litestar, new_key: NewKey, connection: Conn) -> None:
    async with client_of(app, await new_key(user="alice")) as client:
        await client.get(HOME)
        await connection.execute("DELETE FROM service_keys")
        assert (await client.get(HOME)).status_code == 200


async def test_the_use_of_a_key_is_noted_coarsely(alice: AsyncClient, connection: Conn) -> None:
    await alice.get(HOME)
    used = "SELECT last_used_at FROM service_keys"
    first = await connection.fetchval(used)
    assert first is not None
    await service_keys.touch_service_keys(connection, [await connection.fetchval("SELECT prefix FROM service_keys")])
    assert await connection.fetchval(used) == first


async def test_only_the_hash_of_a_key_is_kept(new_key: NewKey, connection: Conn) -> None:
    key = await new_key()
    row = await connection.fetchrow("SELECT service_keys::text AS row FROM service_keys")
    assert row is not None
    assert key.split("_", 2)[2] not in row["row"]


async def test_a_key_without_user_names_one(app: Litestar, new_key: NewKey) -> None:
    key = await new_key()
    async with client_of(app, key) as client:
        answer = await client.get(HOME)
        assert (answer.status_code, problem(answer)) == (400, "user-required")
        assert answer.json()["errors"][0]["header"] == "X-User-Id"
        path = await new_conversation(client_of(app, key, **{"X-User-Id": "alice"}), ["x"])
        assert (await client.get(path, headers={"X-User-Id": "alice"})).json()["user_id"] == "alice"
        assert problem(await client.get(path, headers={"X-User-Id": "bob"})) == "not-found"


async def test_a_bound_key_may_name_its_own_user_only(alice: AsyncClient) -> None:
    assert (await alice.get(HOME, headers={"X-User-Id": "alice"})).status_code == 200
    answer = await alice.get(HOME, headers={"X-User-Id": "bob"})
    assert (answer.status_code, problem(answer)) == (403, "user-mismatch")


async def test_a_user_may_be_named_in_any_script(app: Litestar, new_key: NewKey) -> None:
    async with client_of(app, await new_key()) as client:
        name = "Zoë 🦊 " + "ж" * 200
        made = await client.post(HOME, headers=[(b"x-user-id", name.encode())])
    assert made.json()["user_id"] == name


@pytest.mark.parametrize("value", [b"", b"\xff", "é".encode("latin-1"), b"x" * 256, b"a\x1fb", b"a\x7f"])
async def test_a_bad_user_name_is_refused(app: Litestar, new_key: NewKey, value: bytes) -> None:
    async with client_of(app, await new_key()) as client:
        answer = await client.get(HOME, headers=[(b"x-user-id", value)])
    assert (answer.status_code, problem(answer)) == (400, "invalid-input")


async def test_a_user_is_named_once(app: Litestar, new_key: NewKey) -> None:
    async with client_of(app, await new_key()) as client:
        answer = await client.get(HOME, headers=[(b"x-user-id", b"a"), (b"x-user-id", b"a")])
    assert (answer.status_code, problem(answer)) == (400, "invalid-input")


async def test_tenant_and_user_cannot_be_shifted_into_each_other(app: Litestar, new_key: NewKey) -> None:
    one = client_of(app, await new_key(tenant="ab", user="c"))
    path = await new_conversation(one, ["x"])
    assert problem(await client_of(app, await new_key(tenant="a", user="bc")).get(path)) == "not-found"


async def test_requests_of_many_owners_at_once_stay_apart(app: Litestar, new_key: NewKey) -> None:
    clients = [client_of(app, await new_key(tenant=f"t{number % 5}", user=f"u{number}")) for number in range(20)]

    async def live(client: AsyncClient, name: str) -> list[object]:
        made = (await client.put(f"{HOME}/by-key/default")).json()["id"]
        for turn in range(5):
            await client.post(f"{HOME}/{made}/messages", json={"role": "user", "content": f"{name}-{turn}"})
            await asyncio.sleep(0)
        return await contents(client, f"{HOME}/{made}")

    said = await gather(*(live(client, str(number)) for number, client in enumerate(clients)))
    assert said == [[f"{number}-{turn}" for turn in range(5)] for number in range(20)]


# Those who were let in, and stay


@pytest.fixture
async def database(url: DatabaseUrl, settings: Settings) -> AsyncIterator[Database]:
    database = Database(pooled(url), settings)
    await database.open()
    yield database
    await database.close()


@pytest.fixture
def authentication(database: Database) -> Authentication:
    return Authentication(database, None)


async def revoke(connection: Conn, token: Token) -> None:
    await service_keys.revoke_service_key(connection, service_keys.prefix_of(token.text) or "")


async def is_admitted(authentication: Authentication, token: Token) -> bool:
    scope: Any = {"headers": [(b"authorization", f"Bearer {token.text}".encode())]}
    try:
        await authentication.admit(scope)
    except InvalidCredentials:
        return False
    return True


async def test_of_many_keys_those_that_are_bad_are_found_by_few_statements(
    authentication: Authentication,
    new_key: NewKey,
    connection: Conn,
    asked: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(auth, "_KEYS_ASKED", 5)
    good = [Token(await new_key(user=f"user-{number}")) for number in range(8)]
    again = Token(good[0].text)
    assert await authentication.find_bad([*good, again]) == set()
    wrong, unknown = Token(good[1].text + "A"), Token(service_keys.new_key())
    await revoke(connection, good[0])
    bad = await authentication.find_bad([*good, again, wrong, unknown])
    assert (bad, asked) == ({good[0], again, wrong, unknown}, [5, 3, 5, 5])


async def test_what_is_found_of_a_key_that_stays_counts_for_requests(
    authentication: Authentication, new_key: NewKey, connection: Conn, asked: list[int]
) -> None:
    token = Token(await new_key(user="alice"))
    assert await authentication.find_bad([token]) == set()
    assert await is_admitted(authentication, token)
    assert asked == [1]
    await revoke(connection, token)
    assert await authentication.find_bad([token]) == {token}
    assert not await is_admitted(authentication, token)


async def test_no_key_is_bad_while_the_database_cannot_be_asked(
    authentication: Authentication, new_key: NewKey, connection: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = Token(await new_key(user="alice"))
    await revoke(connection, token)

    async def fail(*_: object) -> dict[str, service_keys.LiveKey]:
        raise Unavailable

    with monkeypatch.context() as patch:
        patch.setattr(service_keys, "find_live_keys", fail)
        assert await authentication.find_bad([token]) == set()
    assert await authentication.find_bad([token]) == {token}


async def test_a_revoked_key_is_found_though_no_use_can_be_noted(
    authentication: Authentication, new_key: NewKey, connection: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    revoked, unused = Token(await new_key()), Token(await new_key())
    await revoke(connection, revoked)

    async def fail(*_: object) -> None:
        raise Unavailable

    monkeypatch.setattr(service_keys, "touch_service_keys", fail)
    assert await authentication.find_bad([revoked, unused]) == {revoked}


async def test_the_use_of_keys_that_stay_is_noted_hourly_without_waiting_for_others(
    authentication: Authentication, new_key: NewKey, connection: Conn
) -> None:
    tokens = [Token(await new_key(user=user)) for user in ("never", "long-ago", "lately", "being-noted")]
    set_use = "UPDATE service_keys SET last_used_at = now() - $1 * interval '1 minute' WHERE user_id = $2"
    for minutes, user in ((61, "long-ago"), (59, "lately"), (61, "being-noted")):
        await connection.execute(set_use, minutes, user)
    async with connection.transaction(), asyncio.timeout(1):
        await connection.execute("SELECT FROM service_keys WHERE user_id = 'being-noted' FOR UPDATE")
        assert await authentication.find_bad(tokens) == set()
    rows = await connection.fetch(
        "SELECT user_id, last_used_at > now() - interval '1 minute' AS is_noted FROM service_keys"
    )
    assert dict(rows) == {"never": True, "long-ago": True, "lately": False, "being-noted": False}


async def test_tokens_that_stay_are_looked_at_in_many_turns(database: Database) -> None:
    class Slow:
        """Takes as long as a signature does."""

        async def verify(self, token: str) -> tuple[str, str]:
            end = thread_time() + 0.0003
            while thread_time() < end:
                pass
            if token == "bad":
                raise InvalidCredentials
            return token, token

    slow: Any = Slow()
    tokens = [Token(text) for text in ("bad", *map(str, range(100)))]
    looking = asyncio.create_task(Authentication(database, slow).find_bad(tokens))
    turns = 0
    while not looking.done():
        await asyncio.sleep(0)
        turns += 1
    assert looking.result() == {tokens[0]}
    assert turns > 10
