import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from app.database_url import DatabaseUrl
from app.embedded import EmbeddedServer
from app.queries import Conn
from tests.conftest import append, new_conversation, problem, run_sql
from tests.processes import Service, new_data_dir, run_verbatim, server_pids, serving, text_of

DEFAULT = "/v1/conversations/by-key/default"
BEGINNING = """
Verbatim serves on {address}  (API: {address}/docs)
  chat  {address}/#key={key}
  key   {key}  (in {data_dir}/key)
  data  {data_dir}/postgres
  try   curl -H "Authorization: Bearer $(cat '{data_dir}/key')" -X PUT {address}/v1/conversations/by-key/default
Ctrl-C stops it; the data stays.

"""


class Local:
    """A place for data and the service that runs on it."""

    def __init__(self, data_dir: Path, service: Service) -> None:
        self.data_dir = data_dir
        self.service = service
        self.address = service.wait_for_address()
        self.key = (data_dir / "key").read_text().strip()

    def client(self, key: str | None = None) -> httpx.Client:
        return httpx.Client(base_url=self.address, headers={"Authorization": f"Bearer {key or self.key}"})


@pytest.fixture(scope="module")
def local() -> Iterator[Local]:
    """`verbatim serve --local` in a directory whose name a shell would split."""
    with new_data_dir("verbatim test") as data_dir, serving("--local", VERBATIM_DATA_DIR=data_dir) as service:
        yield Local(data_dir, service)


@pytest.fixture(scope="module")
def stopped() -> Iterator[Path]:
    """A place for data with a cluster in it and no server."""
    with new_data_dir() as data_dir:
        with serving("--local", VERBATIM_DATA_DIR=data_dir) as service:
            assert service.stop() == 0
        yield data_dir


@pytest.fixture
def empty(server: EmbeddedServer) -> Iterator[DatabaseUrl]:
    """A database without our tables."""
    run_sql(server.url(), "CREATE DATABASE empty")
    yield server.url("empty")
    run_sql(server.url(), "DROP DATABASE empty WITH (FORCE)")


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """The one line in which a command says why it failed."""
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(r"verbatim: [^\n]+\n", done.stderr), done.stderr
    return done.stderr


def make_key(data_dir: Path, *options: str) -> str:
    done = run_verbatim("keys", "create", "--tenant", "acme", *options, VERBATIM_DATA_DIR=data_dir)
    assert re.fullmatch(r"vb_[0-9a-f]{12}_[\w-]{43}\n", done.stdout), done.stderr
    return done.stdout.strip()


def test_serve_local_says_how_to_begin(local: Local) -> None:
    expected = BEGINNING.format(address=local.address, key=local.key, data_dir=local.data_dir)
    assert local.service.output == expected
    assert local.service.errors == ""


def test_the_curl_line_works_as_it_is(local: Local) -> None:
    line = next(line for line in local.service.output.split("\n") if "curl" in line)
    done = subprocess.run(["bash", "-c", line.replace("try", "", 1)], capture_output=True, text=True, check=True)
    assert '"key":"default"' in done.stdout


def test_the_key_file_is_for_its_owner_alone(local: Local) -> None:
    assert (local.data_dir / "key").stat().st_mode & 0o777 == 0o600


def test_a_key_made_beside_a_running_service_is_let_in(local: Local) -> None:
    with local.client(make_key(local.data_dir, "--user", "alice")) as client:
        assert client.put(DEFAULT).json()["user_id"] == "alice"


def test_a_list_of_keys_shows_no_secret(local: Local) -> None:
    _, prefix, secret = local.key.split("_", 2)
    done = run_verbatim("keys", "list", VERBATIM_DATA_DIR=local.data_dir)
    assert done.stdout.startswith(f"{prefix}  tenant=default  user=local  created ")
    assert secret not in done.stdout
    assert done.stderr == ""


def test_revoked_keys_are_refused_within_five_seconds(local: Local) -> None:
    """One is revoked by its prefix, one by the whole of it."""
    keys = [make_key(local.data_dir) for _ in range(2)]
    with local.client() as client:

        def use(key: str) -> httpx.Response:
            return client.put(DEFAULT, headers={"Authorization": f"Bearer {key}", "X-User-Id": "bob"})

        for key, named in zip(keys, [keys[0].split("_")[1], keys[1]], strict=True):
            assert use(key).is_success
            assert run_verbatim("keys", "revoke", named, VERBATIM_DATA_DIR=local.data_dir).returncode == 0
        deadline = time.monotonic() + 5
        while (left := [key for key in keys if use(key).is_success]) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert left == []
        assert [problem(use(key)) for key in keys] == ["invalid-credentials"] * 2


def test_a_key_that_is_not_there_cannot_be_revoked(local: Local) -> None:
    done = run_verbatim("keys", "revoke", "nothing", VERBATIM_DATA_DIR=local.data_dir)
    assert complaint(done) == "verbatim: there is no such key\n"


def test_an_admin_key_is_bound_to_no_user(local: Local) -> None:
    options = ("--tenant", "acme", "--admin", "--user", "alice")
    assert "--admin and --user" in complaint(run_verbatim("keys", "create", *options, VERBATIM_DATA_DIR=local.data_dir))


def test_a_taken_port_is_named_in_one_line(local: Local) -> None:
    done = run_verbatim("serve", "--local", VERBATIM_PORT=local.address.rsplit(":")[-1], VERBATIM_DATA_DIR="/nowhere")
    assert "VERBATIM_PORT" in complaint(done)


def test_an_unknown_setting_is_named_in_one_line() -> None:
    assert complaint(run_verbatim("serve", VERBATIM_PROT=1)) == "verbatim: unknown settings: VERBATIM_PROT\n"


def test_a_key_is_made_while_no_service_runs(stopped: Path) -> None:
    make_key(stopped)
    assert server_pids(stopped) == []


def test_ctrl_c_stops_all_and_the_next_run_finds_all(stopped: Path) -> None:
    with serving("--local", VERBATIM_DATA_DIR=stopped) as service:
        first = Local(stopped, service)
        with first.client() as client:
            made = client.put(DEFAULT).json()
        assert service.stop(signal.SIGINT) == 0
        assert server_pids(stopped) == []
    with serving("--local", VERBATIM_DATA_DIR=stopped) as service, Local(stopped, service).client() as client:
        assert first.key in service.output
        assert client.put(DEFAULT).json() == made
        assert service.stop(signal.SIGTERM) == 0
        assert server_pids(stopped) == []


def test_ctrl_c_while_the_cluster_is_made_leaves_nothing_of_it() -> None:
    with new_data_dir() as data_dir, closing(Service("--local", VERBATIM_DATA_DIR=data_dir)) as service:
        deadline = time.monotonic() + 30
        while not list(data_dir.glob(".new-*")) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert service.stop(signal.SIGINT) == 0
        assert service.errors == ""
        assert sorted(path.name for path in data_dir.iterdir()) == ["start.lock", "users.lock"]
        assert server_pids(data_dir) == []


@pytest.mark.faults
def test_the_postgresql_of_a_killed_service_is_adopted_by_the_next(stopped: Path) -> None:
    with serving("--local", VERBATIM_DATA_DIR=stopped) as service:
        service.stop(signal.SIGKILL)
    left = (stopped / "postgres/postmaster.pid").read_text()
    with serving("--local", VERBATIM_DATA_DIR=stopped) as service, Local(stopped, service).client() as client:
        assert (stopped / "postgres/postmaster.pid").read_text() == left
        assert client.get("/readyz").status_code == 200
        assert service.stop() == 0
    assert server_pids(stopped) == []


def test_migrations_are_applied_once(empty: DatabaseUrl) -> None:
    first, second = (run_verbatim("migrate", DATABASE_URL=text_of(empty)) for _ in range(2))
    assert first.stdout.startswith("applied 0001_create_owners, 0002_create_conversations")
    assert second.stdout == "nothing to apply\n"
    assert (first.returncode, second.returncode) == (0, 0)


def test_a_database_without_migrations_is_not_served(empty: DatabaseUrl) -> None:
    line = complaint(run_verbatim("serve", DATABASE_URL=text_of(empty), VERBATIM_PORT=0))
    assert "misses 0001_create_owners, 0002_create_conversations" in line
    assert line.endswith("run `verbatim migrate`\n")


def test_a_database_with_an_unknown_migration_is_not_served(url: DatabaseUrl) -> None:
    run_sql(url, "INSERT INTO _yoyo_migration (migration_hash, migration_id) VALUES ('', '9999_come_from_afar')")
    assert "has 9999_come_from_afar" in complaint(run_verbatim("serve", DATABASE_URL=text_of(url), VERBATIM_PORT=0))


@pytest.mark.faults
def test_a_database_that_forgets_is_not_served_unless_that_is_allowed(url: DatabaseUrl) -> None:
    refused = run_verbatim("serve", DATABASE_URL=text_of(url), VERBATIM_PORT=0, VERBATIM_ALLOW_UNSAFE_DATABASE="false")
    danger = "may lose what it acknowledged: fsync, full_page_writes, synchronous_commit off"
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert f"{danger}; turn it on, or set VERBATIM_ALLOW_UNSAFE_DATABASE" in refused.stderr
    with serving(DATABASE_URL=text_of(url), VERBATIM_ALLOW_UNSAFE_DATABASE="true") as service:
        (warning,) = [line for line in service.errors.splitlines() if danger in line]
        assert '"level":"warning"' in warning


def test_a_pooler_that_was_not_announced_is_told_at_the_start() -> None:
    """Else each request would be refused by it."""
    fields = b"SFATAL\0VFATAL\0C08P01\0Munsupported startup parameter: lock_timeout\0\0"
    with socket.create_server(("127.0.0.1", 0)) as pooler:

        def refuse() -> None:
            client, _ = pooler.accept()
            with client:
                client.recv(1024)
                client.sendall(b"E" + (len(fields) + 4).to_bytes(4, "big") + fields)

        answering = threading.Thread(target=refuse)
        answering.start()
        url = f"postgresql://verbatim@127.0.0.1:{pooler.getsockname()[1]}/verbatim?sslmode=disable"
        assert "set VERBATIM_POOLED_DATABASE" in complaint(run_verbatim("serve", DATABASE_URL=url, VERBATIM_PORT=0))
        answering.join()


def test_a_database_that_is_down_stops_no_start() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as deaf:
        down = f"postgresql://verbatim@127.0.0.1:{deaf.getsockname()[1]}/verbatim"
    with serving(DATABASE_URL=down) as service:
        address = service.wait_for_address()
        assert httpx.get(f"{address}/healthz").status_code == 200
        assert problem(httpx.get(f"{address}/readyz")) == "unavailable"
        assert service.stop() == 0


async def test_purge_erases_what_is_past_its_window_and_nothing_else(
    url: DatabaseUrl, alice: httpx.AsyncClient, connection: Conn
) -> None:
    paths = [await new_conversation(alice, ["one", "two", "three"]) for _ in range(3)]
    for path in paths[:2]:
        await alice.delete(path)
    second, third = (await append(alice, paths[2], "four", "five")).json()["messages"]
    for message in (second, third):
        await alice.delete(f"{paths[2]}/messages/{message['id']}")
    await connection.execute(
        "UPDATE conversations SET deleted_at = now() - interval '31 days' WHERE id = $1", paths[0][-36:]
    )
    await connection.execute("UPDATE messages SET deleted_at = now() - interval '31 days' WHERE seq = 4")
    done = run_verbatim("purge", DATABASE_URL=text_of(url))
    assert done.stdout == "purged 1 conversations and 1 single messages\n"
    assert await connection.fetchval("SELECT count(*) FROM conversations") == 2
    assert [row["seq"] for row in await connection.fetch("SELECT seq FROM messages ORDER BY seq")] == [
        1,
        1,
        2,
        2,
        3,
        3,
        5,
    ]
