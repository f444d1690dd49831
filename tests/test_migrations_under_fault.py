"""Migrations at war: many at once, killed at any point, without rights, behind locks, on large tables under load."""

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from random import Random
from subprocess import Popen
from threading import Event

import httpx
import psycopg
import pytest
from msgspec.structs import replace

from app import migrations
from app.database_url import DatabaseUrl
from app.embedded import EmbeddedServer
from app.migrations import MIGRATIONS_DIR, migration_ids
from tests import processes
from tests.conftest import run_sql
from tests.processes import serving, text_of
from tests.test_migrations import INVALID, add, dump, fetch

READY_SECONDS = 30
LONG_SECONDS = 20
LOCKED_SECONDS = 1.0
ROWS = 1_000_000

# `verbatim` of another release.
COMMAND = """#!{python}
import sys
from pathlib import Path
from app import cli, migrations

migrations.MIGRATIONS_DIR = Path({directory!r})
sys.exit(cli.main())
"""
# What `verbatim migrate` does, without what else the command knows. It notes its statements, and kills itself so long
# after one of them began.
MIGRATOR = """
import os, signal, sys, threading
from pathlib import Path
import psycopg
from app import migrations
from app.database_url import parse_database_url

url, directory, notes, kill_at, kill_after = sys.argv[1:]
execute, count = psycopg.Cursor.execute, 0

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def noted(cursor, query, *arguments, **options):
    global count
    count += 1
    with open(notes, "a") as file:
        print(*str(query).split(), file=file)
    if count == int(kill_at):
        threading.Timer(float(kill_after), die).start() if float(kill_after) else die()
    return execute(cursor, query, *arguments, **options)

psycopg.Cursor.execute = noted
migrations.MIGRATIONS_DIR = Path(directory)
migrations.migrate(parse_database_url(url))
"""


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of a release without a migration, which is what the test's processes run."""
    directory, command = tmp_path / "migrations", tmp_path / "verbatim"
    directory.mkdir()
    command.write_text(COMMAND.format(python=sys.executable, directory=str(directory)))
    command.chmod(0o755)
    monkeypatch.setattr(processes, "VERBATIM", command)
    monkeypatch.setattr(migrations, "MIGRATIONS_DIR", directory)
    return directory


def add_ours(release: Path) -> None:
    shutil.copytree(MIGRATIONS_DIR, release, dirs_exist_ok=True)


def migrate(url: DatabaseUrl) -> tuple[int, str]:
    """`verbatim migrate`: its exit code, and all that it said."""
    environment = processes._environment({"DATABASE_URL": text_of(url)})
    command = [processes.VERBATIM, "migrate"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout + done.stderr


def begin_migrator(url: DatabaseUrl, release: Path, at: int = 0, after: float = 0) -> Popen[bytes]:
    """A process that migrates, and dies so long after its n-th statement began."""
    words = [text_of(url), release, release.with_name("notes"), at, after]
    return Popen([sys.executable, "-c", MIGRATOR, *map(str, words)])


def marks(url: DatabaseUrl) -> list[object]:
    """The migrations that were marked, once for each time."""
    return [name for (name,) in fetch(url, "SELECT migration_id FROM _yoyo_log ORDER BY created_at_utc, migration_id")]


def wait_for(url: DatabaseUrl, query: str, process: Popen[bytes]) -> None:
    """Until the query has a row."""
    deadline = time.monotonic() + 30
    while not fetch(url, query):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


# Replicas


def seconds_to_ready(url: DatabaseUrl) -> float:
    """How long a replica takes that migrates, as every replica does, and then serves."""
    begun_at = time.monotonic()
    code, told = migrate(url)
    assert code == 0, told
    with serving(DATABASE_URL=text_of(url)) as service, httpx.Client(base_url=service.wait_for_address()) as client:
        while client.get("/readyz").status_code != 200:
            assert time.monotonic() < begun_at + 120
            time.sleep(0.05)
        seconds = time.monotonic() - begun_at
        assert service.stop() == 0
    return seconds


def start_four(url: DatabaseUrl) -> list[float]:
    with ThreadPoolExecutor(4) as threads:
        return list(threads.map(seconds_to_ready, [url] * 4))


@pytest.mark.faults
def test_four_replicas_on_an_empty_database_are_ready_in_time(blank: DatabaseUrl) -> None:
    assert max(start_four(blank)) < READY_SECONDS
    assert marks(blank) == migration_ids()


@pytest.mark.faults
def test_four_replicas_outlast_a_long_migration(blank: DatabaseUrl, release: Path) -> None:
    add_ours(release)
    *_, last = migration_ids()
    add(release, "9999_wait_long", f"SELECT pg_sleep({LONG_SECONDS});", depends=last)
    seconds = start_four(blank)
    assert LONG_SECONDS < min(seconds) <= max(seconds) < LONG_SECONDS + READY_SECONDS
    assert marks(blank) == migration_ids()


# Killed at any point


def add_much(release: Path) -> None:
    """A release that does what migrations do, each statement of which takes a while."""
    add(release, "0001_create_ones", "CREATE TABLE ones (one bigint);\nSELECT pg_sleep(0.02);")
    fill = "INSERT INTO ones SELECT generate_series(1, 50000);\nCREATE TABLE twos (two bigint);"
    add(release, "0002_fill_ones", fill, depends="0001_create_ones")
    build = "-- transactional: false\nCREATE INDEX CONCURRENTLY IF NOT EXISTS ones_one_idx ON ones (one);"
    add(release, "0003_create_index", build, depends="0002_fill_ones")
    alter = "ALTER TABLE ones ADD COLUMN two bigint;\nUPDATE ones SET two = 1;\nSELECT pg_sleep(0.02);"
    add(release, "0004_alter_ones", alter, depends="0003_create_index")


def check_healed(url: DatabaseUrl, reference: str) -> None:
    """The next start, without anybody's help, brings everything where it belongs."""
    migrations.migrate(url)
    assert fetch(url, INVALID) == []
    assert marks(url) == migration_ids()
    assert dump(url) == reference
    assert fetch(url, "SELECT count(*) FROM ones") == [(50_000,)]
    assert migrations.migrate(url) == []


def note_statements(url: DatabaseUrl, release: Path) -> list[str]:
    """What a migrator says to the database from beginning to end."""
    assert begin_migrator(url, release).wait(60) == 0
    return release.with_name("notes").read_text().splitlines()


@pytest.fixture
def seed() -> int:
    seed = int(os.environ.get("TEST_SEED") or secrets.randbelow(2**32))
    print(f"TEST_SEED={seed}")
    return seed


@pytest.fixture
def databases(server: EmbeddedServer) -> Iterator[Iterator[DatabaseUrl]]:
    """As many empty databases as are asked for."""
    with ExitStack() as stack:

        def make(number: int) -> DatabaseUrl:
            name = f"killed_{number}"
            run_sql(server.url(), "CREATE DATABASE {}", name)
            stack.callback(run_sql, server.url(), "DROP DATABASE {} WITH (FORCE)", name)
            return server.url(name)

        yield map(make, count(1))


def find_all(statements: list[str], beginning: str) -> list[int]:
    """The numbers of the statements that begin so, from 1."""
    return [number for number, statement in enumerate(statements, 1) if statement.startswith(beginning)]


def kill_and_heal(url: DatabaseUrl, release: Path, reference: str, at: int, after: float = 0) -> None:
    assert begin_migrator(url, release, at, after).wait(60) == -signal.SIGKILL, f"{after} s after statement {at}"
    check_healed(url, reference)


MARK = 'INSERT INTO "_yoyo_migration" ('


@pytest.mark.faults
def test_a_migrator_killed_at_any_point_is_healed_by_the_next_start(
    databases: Iterator[DatabaseUrl], release: Path, seed: int
) -> None:
    add_much(release)
    url = next(databases)
    statements, random = note_statements(url, release), Random(seed)
    reference = dump(url)
    points = [(at, 0.0) for at in random.sample(range(2, len(statements) + 1), 4)]  # between two statements
    points += [(at, random.uniform(0.0005, 0.02)) for at in random.sample(range(2, len(statements)), 3)]  # in one
    (build,) = find_all(statements, "CREATE INDEX CONCURRENTLY")
    points += [(build, random.uniform(0.0005, 0.02))]
    points += [(random.choice(find_all(statements, MARK)), 0.0)]  # between migration and mark
    points += [(random.choice(find_all(statements, "COMMIT")), 0.0)]  # and between mark and commit
    assert len(points) == 10
    for at, after in points:
        print(f"killed {after:.4f} s after {at}: {statements[at - 1]}")
        kill_and_heal(next(databases), release, reference, at, after)


@pytest.mark.faults
@pytest.mark.parametrize("migration", ["0001_create_ones", "0003_create_index"])
def test_a_migrator_killed_between_migration_and_mark_is_healed(
    databases: Iterator[DatabaseUrl], release: Path, migration: str
) -> None:
    add_much(release)
    url = next(databases)
    statements = note_statements(url, release)
    mark = find_all(statements, MARK)[migration_ids().index(migration)]
    kill_and_heal(next(databases), release, dump(url), mark)


BUILDING = "SELECT FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting%' AND datname = current_database()"


@pytest.mark.faults
@pytest.mark.parametrize("ends", ["before the next start", "after it"])
def test_a_build_killed_half_way_is_healed_by_the_next_start(
    databases: Iterator[DatabaseUrl], release: Path, ends: str
) -> None:
    add_much(release)
    reference_url, url = next(databases), next(databases)
    migrations.migrate(reference_url)
    run_sql(url, "CREATE TABLE ones (one bigint)")
    (release / "0001_create_ones.sql").write_text("-- depends:\nSELECT FROM ones;\n")  # it is there to be locked
    with psycopg.connect(**url.for_libpq()) as writer, ThreadPoolExecutor(1) as threads:
        writer.execute("LOCK TABLE ones IN ROW EXCLUSIVE MODE")  # a build waits for such
        migrator = begin_migrator(url, release)
        wait_for(url, BUILDING, migrator)
        migrator.kill()
        migrator.wait()
        assert fetch(url, INVALID) == [("ones_one_idx",)]
        if ends == "after it":
            heir = threads.submit(migrations.migrate, url)
            time.sleep(2)
            writer.rollback()
            assert heir.result() == migration_ids()[2:]
    check_healed(url, dump(reference_url))


# Refused by name, and within bounds


def refused(url: DatabaseUrl, name: str) -> None:
    code, told = migrate(url)
    assert code == 1, told
    assert f"verbatim: {name}.sql" in told


@pytest.mark.faults
def test_an_edited_migration_is_named_and_fails_the_command(blank: DatabaseUrl, release: Path) -> None:
    add(release, "0001_create_ones", "CREATE TABLE ones (one bigint);")
    assert migrate(blank)[0] == 0
    add(release, "0001_create_ones", "CREATE TABLE ones (one bigint, two bigint);")
    refused(blank, "0001_create_ones")


@pytest.mark.faults
def test_a_dependency_that_is_not_there_is_named_and_fails_the_command(blank: DatabaseUrl, release: Path) -> None:
    add(release, "0002_create_twos", "CREATE TABLE twos (two bigint);", depends="0001_create_ones")
    refused(blank, "0002_create_twos")


@pytest.fixture
def stranger(server: EmbeddedServer) -> Iterator[str]:
    """A role without rights."""
    run_sql(server.url(), "CREATE ROLE {} LOGIN", "stranger")
    yield "stranger"
    run_sql(server.url(), "DROP ROLE {}", "stranger")


@pytest.mark.faults
def test_a_role_without_rights_is_told_which(stranger: str, blank: DatabaseUrl, release: Path) -> None:
    add(release, "0001_create_ones", "CREATE TABLE ones (one bigint);")
    code, told = migrate(replace(blank, user=stranger))
    assert code == 1
    assert "permission denied for schema public" in told
    assert migrate(blank)[0] == 0
    run_sql(blank, "GRANT CREATE ON SCHEMA public TO {}", stranger)
    run_sql(blank, "GRANT ALL ON ALL TABLES IN SCHEMA public TO {}", stranger)
    add(release, "0002_alter_ones", "ALTER TABLE ones ADD COLUMN two bigint;", depends="0001_create_ones")
    refused(replace(blank, user=stranger), "0002_alter_ones")
    assert migrate(blank)[0] == 0


@pytest.mark.faults
def test_a_held_lock_is_given_up_by_name_and_the_next_start_works(blank: DatabaseUrl, release: Path) -> None:
    add(release, "0001_create_ones", "CREATE TABLE ones (one bigint);")
    assert migrate(blank)[0] == 0
    alter = "ALTER TABLE ones ADD COLUMN two bigint;"
    add(release, "0002_alter_ones", alter, depends="0001_create_ones")
    with psycopg.connect(**blank.for_libpq()) as reader:
        reader.execute("SELECT FROM ones")
        begun_at = time.monotonic()
        refused(blank, "0002_alter_ones")
        assert time.monotonic() - begun_at < 15
    assert migrate(blank) == (0, "applied 0002_alter_ones\n")


# On large tables under load

FILLINGS = {
    "owners": "INSERT INTO owners SELECT uuid_of(n), 'acme', 'user-' || n, now() FROM generate_series(1, {rows}) AS n",
    "conversations": "INSERT INTO conversations (owner_id, id, created_at, updated_at, active_at, metadata)"
    " SELECT uuid_of(n), uuid_of(n), now(), now(), now(), '{{}}' FROM generate_series(1, {rows}) AS n",
    "messages": "INSERT INTO messages (owner_id, conversation_id, seq, created_at, body_bytes, role, status, content)"
    " SELECT uuid_of(n / 100), uuid_of(n / 100), n, now(), 40, 'user', 'completed',"
    " '\"Some words of a message, and then some more.\"' FROM generate_series(1, {rows}) AS n",
    "service_keys": "INSERT INTO service_keys (prefix, sha256, tenant_id, is_admin, created_at)"
    " SELECT n::text, sha256(n::text::bytea), 'acme', false, now() FROM generate_series(1, {rows}) AS n",
    "replies": "INSERT INTO replies (owner_id, conversation_id, seq, writer_id, created_at, renewed_at)"
    " SELECT uuid_of(n), uuid_of(n), n, uuid_of(n), now(), now() FROM generate_series(1, {rows}) AS n",
    "reply_chunks": "INSERT INTO reply_chunks (owner_id, conversation_id, seq, from_char, text)"
    " SELECT uuid_of(n / 100), uuid_of(n / 100), n, n, '\"Some words\"' FROM generate_series(1, {rows}) AS n",
    "rollups": "INSERT INTO rollups (name, after_active_at, after_owner, after_conversation)"
    " SELECT n::text, now(), uuid_of(n), uuid_of(n) FROM generate_series(1, {rows}) AS n",
    "conversation_tallies": "INSERT INTO conversation_tallies"
    " SELECT uuid_of(n), uuid_of(n), n, 0, 1, 1, 0, 0, 0, 10, 10, true FROM generate_series(1, {rows}) AS n",
    "conversation_days": "INSERT INTO conversation_days"
    " SELECT uuid_of(n), uuid_of(n), '2026-01-01', 'acme', 1, 1 FROM generate_series(1, {rows}) AS n",
    "owner_days": "INSERT INTO owner_days SELECT uuid_of(n), '2026-01-01', 'acme' FROM generate_series(1, {rows}) AS n",
    "tenant_days": "INSERT INTO tenant_days SELECT n::text, '2026-01-01', 1, 1, 1, 1, 1, 0, 0, 0, 10, 10, 1, 1, true"
    " FROM generate_series(1, {rows}) AS n",
    "ones": "INSERT INTO ones SELECT generate_series(1, {rows})",
}
UUID_OF = (
    "CREATE OR REPLACE FUNCTION uuid_of(n bigint) RETURNS uuid LANGUAGE sql IMMUTABLE"
    " RETURN lpad(to_hex(n), 32, '0')::uuid"
)
OWN_TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename NOT LIKE '%yoyo%'"


def fill(url: DatabaseUrl, filled: set[str], rows: int, to_come: str | None = None) -> set[str]:
    """Fills what tables there are and are not filled yet, of those that SQL to come names; all that are."""
    tables = {str(name) for (name,) in fetch(url, OWN_TABLES)} - {"migration_checksums"}
    assert tables <= FILLINGS.keys(), "say how the new table is filled"
    if to_come is not None:
        tables = {table for table in tables if re.search(rf"\b{table}", to_come)} | filled  # or names its index
    with psycopg.connect(**url.for_libpq(), autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")  # no foreign key is looked up
        connection.execute(UUID_OF)
        for table in tables - filled:
            connection.execute(FILLINGS[table].format(rows=rows).encode())
            connection.execute(f"ANALYZE {table}".encode())
    return tables


class Watch:
    """What a migration did to others: how long it held or asked for ACCESS EXCLUSIVE on a table; their longest wait."""

    def __init__(self) -> None:
        self.locked: dict[str, float] = {}
        self.longest_wait = 0.0
        self.statements = 0


ASKED = (
    "SELECT relation::regclass::text FROM pg_locks INNER JOIN pg_database ON pg_database.oid = database"
    " WHERE locktype = 'relation' AND mode = 'AccessExclusiveLock' AND datname = current_database()"
    " AND relation IN (SELECT to_regclass(name) FROM unnest(%s::text[]) AS t (name))"
)


@contextmanager
def watched(url: DatabaseUrl, tables: set[str]) -> Iterator[Watch]:
    """While the block runs, somebody reads and writes the tables, and somebody looks at the locks."""
    watch, stopped = Watch(), Event()

    def look() -> None:
        begun: dict[str, float] = {}
        with psycopg.connect(**url.for_libpq(), autocommit=True) as connection:
            while not stopped.wait(0.005):
                now = time.monotonic()
                names = {name for (name,) in connection.execute(ASKED, [list(tables)]).fetchall()}
                begun = {name: begun.get(name, now) for name in names}
                watch.locked |= {name: max(watch.locked.get(name, 0), now - begun[name]) for name in names}

    def use(table: str) -> None:
        statements = [f"LOCK TABLE {table} IN {mode} MODE" for mode in ("ACCESS SHARE", "ROW EXCLUSIVE")]  # as DML does
        with psycopg.connect(**url.for_libpq()) as connection:
            while not stopped.wait(0.01):
                for statement in statements:
                    begun_at = time.monotonic()
                    connection.execute(statement.encode())
                    connection.rollback()
                    watch.longest_wait = max(watch.longest_wait, time.monotonic() - begun_at)
                    watch.statements += 1

    with ThreadPoolExecutor(1 + len(tables)) as threads:
        tasks = [threads.submit(look), *(threads.submit(use, table) for table in tables)]
        try:
            yield watch
        finally:
            stopped.set()
            for task in tasks:
                task.result()


@pytest.mark.faults
def test_no_migration_shuts_out_the_service(blank: DatabaseUrl, release: Path) -> None:
    filled: set[str] = set()
    paths = [path for path in sorted(MIGRATIONS_DIR.glob("*.sql")) if not path.stem.endswith(".rollback")]
    for number, path in enumerate(paths, 1):
        shutil.copy(path, release)
        with watched(blank, filled) as watch:
            assert migrations.migrate(blank) == [path.stem]
        assert max(watch.locked.values(), default=0) <= LOCKED_SECONDS, f"{path.name}: {watch.locked}"
        assert watch.longest_wait <= 2 * LOCKED_SECONDS, f"{path.name} made others wait {watch.longest_wait:.1f} s"
        filled = fill(blank, filled, ROWS, "".join(later.read_text() for later in paths[number:]))
    assert {"owners", "conversations", "messages"} <= filled


@pytest.mark.faults
@pytest.mark.parametrize(
    ("statements", "locked_out"),
    [
        ("ALTER TABLE ones ADD COLUMN two bigint;", "nobody"),
        ("CREATE INDEX ones_one_idx ON ones (one);\nSELECT pg_sleep(2.2);", "writers"),
        ("ALTER TABLE ones ALTER COLUMN one TYPE numeric;\nSELECT pg_sleep(2.2);", "all"),
    ],
)
def test_a_migration_that_shuts_out_others_is_caught(
    blank: DatabaseUrl, release: Path, statements: str, locked_out: str
) -> None:
    add(release, "0001_create_ones", "CREATE TABLE ones (one bigint);")
    migrations.migrate(blank)
    filled = fill(blank, set(), 1000)
    add(release, "0002_alter_ones", statements, depends="0001_create_ones")
    with watched(blank, filled) as watch:
        migrations.migrate(blank)
    assert watch.statements > 0
    assert (max(watch.locked.values(), default=0) > LOCKED_SECONDS) is (locked_out == "all")
    assert (watch.longest_wait > 2 * LOCKED_SECONDS) is (locked_out != "nobody")
