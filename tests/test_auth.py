"""Who is let in, and as whom; what they may reach then is in `test_authorization`."""

import asyncio
from asyncio import gather

import pytest
from httpx import AsyncClient
from litestar import Litestar

from app import auth
from app.database_url import DatabaseUrl
from app.queries import Conn
from app.settings import Settings
from app.stores import service_keys
from tests.conftest import NewKey, client_of, contents, new_conversation, problem, running

HOME = "/v1/conversations"


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
    app: Litestar, new_key: NewKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    ask = service_keys.get_service_key

    async def note(connection: Conn, prefix: str) -> service_keys.ServiceKey | None:
        asked.append(prefix)
        return await ask(connection, prefix)

    monkeypatch.setattr(service_keys, "get_service_key", note)
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
    await service_keys.touch_service_key(connection, await connection.fetchval("SELECT prefix FROM service_keys"))
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
