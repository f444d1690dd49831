"""Migrations: plain SQL under yoyo, applied once whoever asks, and compared with what the database has."""

import re
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from hashlib import sha256
from pathlib import Path

import psycopg
import yoyo
from msgspec import Struct
from psycopg.conninfo import make_conninfo
from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend
from yoyo.exceptions import BadMigration
from yoyo.migrations import Migration

from app.database_url import DatabaseUrl
from app.queries import Conn, Query

MIGRATIONS_DIR = Path(__file__).parent.parent / "migrations"

_TABLE = "_yoyo_migration"
_LOCK_KEY = 0x766572626174696D  # "verbatim" in ASCII, one key of pg_try_advisory_lock
_WAIT_SECONDS = 600.0
_POLL_SECONDS = 0.2
_CREATE_CHECKSUMS = (
    "CREATE TABLE IF NOT EXISTS migration_checksums (migration_id text PRIMARY KEY, sha256 text NOT NULL)"
)
_NOTE_CHECKSUM = (
    "INSERT INTO migration_checksums (migration_id, sha256) VALUES (%s, %s)"
    " ON CONFLICT (migration_id) DO UPDATE SET sha256 = excluded.sha256"
)
# A migration that was taken back has left its checksum, but is applied no more.
_LIST_CHECKSUMS = "SELECT migration_id, sha256 FROM migration_checksums INNER JOIN _yoyo_migration USING (migration_id)"
_LIST_INVALID = "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid"
_LIST_UNFINISHED = (
    "SELECT relname, format('DROP INDEX CONCURRENTLY IF EXISTS %s', indexrelid::regclass)"
    " FROM pg_index INNER JOIN pg_class ON pg_class.oid = indexrelid WHERE NOT indisvalid"
)


class MigrationError(Exception):
    """The migrations cannot be applied, or are not what the database has; the message is one line for the operator."""


class _Applied(Struct, frozen=True):
    migration_id: str


class _Record(Struct, frozen=True):
    is_there: bool


_FIND_RECORD = Query("find_migration_record", _Record)
_LIST_APPLIED = Query("list_applied_migrations", _Applied)


class Backend(PostgresqlPsycopgBackend):
    """yoyo over our own connection arguments; a migration and its mark are one transaction."""

    def connect(self, dburi: DatabaseUrl) -> "psycopg.Connection[tuple[object, ...]]":
        """A connection that gives up on a lock rather than queue everybody behind it.

        The server ends its statement soon after we die: the locks of a killed migration are not in the next one's way.
        """
        conninfo = make_conninfo("", **({"connect_timeout": 10} | dburi.for_libpq()))
        connection = psycopg.connect(conninfo, autocommit=True)
        connection.execute("SET lock_timeout = '5s'")
        connection.execute("SET client_connection_check_interval = '1s'")
        return connection

    @contextmanager
    def lock(self, timeout: float = 0) -> Iterator[None]:  # noqa: ARG002  # yoyo's signature
        """Holds nothing: `migrate` has locked already, and not by a row that a killed migration would leave behind."""
        yield

    def apply_one(self, migration: Migration, force: bool = False, mark: bool = True) -> None:  # noqa: ARG002, FBT001, FBT002  # yoyo's signature
        """Applies and marks; what a migration does without a transaction must be re-runnable."""
        if not migration.use_transactions:
            self._drop_unfinished(migration)
            migration.process_steps(self, "apply")
        with self.transaction():
            if migration.use_transactions:
                migration.process_steps(self, "apply")
            self.mark_one(migration)
            self.connection.execute(_NOTE_CHECKSUM, (migration.id, _checksum(migration.id)))

    def _drop_unfinished(self, migration: Migration) -> None:
        """Drops the indexes whose concurrent build by this migration was cut short: IF NOT EXISTS would keep them."""
        statements = (MIGRATIONS_DIR / f"{migration.id}.sql").read_text()
        for index, drop in self.connection.execute(_LIST_UNFINISHED).fetchall():
            if re.search(rf"\b{re.escape(index)}\b", statements):
                self.connection.execute(drop)

    def get_log_data(self, migration: Migration | None = None, operation: str = "apply") -> dict[str, object]:
        """Yoyo's log entry without the names of host and user, which a container may not have."""
        data = {"username": "", "hostname": ""}
        identity = migration.id if migration else "", migration.hash if migration else ""
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
        digest = sha256(f"{identity}{operation}{time.time_ns()}".encode()).hexdigest()[:36]
        return data | {
            "id": digest,
            "migration_id": identity[0],
            "migration_hash": identity[1],
            "created_at_utc": stamp,
            "operation": operation,
        }


def migration_ids() -> list[str]:
    """The migrations of this release, in order."""
    return sorted(path.stem for path in MIGRATIONS_DIR.glob("*.sql") if not path.stem.endswith(".rollback"))


async def find_differences(connection: Conn) -> tuple[list[str], list[str]]:
    """The migrations that the database misses, and those it has that this release does not know."""
    (record,) = await _FIND_RECORD.fetch(connection)
    rows = await _LIST_APPLIED.fetch(connection) if record.is_there else []
    applied, known = {row.migration_id for row in rows}, set(migration_ids())
    return sorted(known - applied), sorted(applied - known)


def migrate(url: DatabaseUrl) -> list[str]:
    """Applies what the database misses; the ids applied by this call. Several callers at once wait for the first.

    Raises MigrationError.
    """
    if url.pooled:
        raise MigrationError("migrations need a session: set VERBATIM_MIGRATION_DATABASE_URL past the pooler")
    try:
        backend = Backend(url, _TABLE)
        with closing(backend.connection):
            _wait_for_lock(backend.connection)
            return _apply(backend)
    except psycopg.Error as error:
        reason = (error.diag.message_primary or str(error).partition("\n")[0]) if error.diag else str(error)
        raise MigrationError(f"the database {url}: {reason}") from None


def _wait_for_lock(session: "psycopg.Connection[tuple[object, ...]]") -> None:
    """Polls: a session that blocked in pg_advisory_lock would hold up CREATE INDEX CONCURRENTLY for ever.

    The session is the one that migrates, so that a killed migration has the lock until its last statement has ended.
    """
    deadline = time.monotonic() + _WAIT_SECONDS
    while session.execute("SELECT pg_try_advisory_lock(%s)", (_LOCK_KEY,)).fetchone() != (True,):
        if time.monotonic() > deadline:
            raise MigrationError(f"another migration has run for {_WAIT_SECONDS:.0f} s")
        time.sleep(_POLL_SECONDS)


def _apply(backend: Backend) -> list[str]:
    encoding = backend.execute("SHOW server_encoding").fetchone()
    if encoding != ("UTF8",):
        raise MigrationError(f"the database {backend.uri} has the encoding {encoding[0]}; it must be UTF8")
    backend.ensure_internal_schema_updated()
    backend.execute(_CREATE_CHECKSUMS)
    migrations = _read_migrations()
    _refuse_edited(backend, {migration.id for migration in migrations})
    applied = []
    for migration in list(backend.to_apply(migrations)):
        _apply_one(backend, migration)
        applied.append(migration.id)
    if invalid := backend.execute(_LIST_INVALID).fetchall():
        raise MigrationError(f"invalid indexes: {', '.join(name for (name,) in invalid)}")
    return applied


def _read_migrations() -> yoyo.migrations.MigrationList:
    migrations = yoyo.read_migrations(str(MIGRATIONS_DIR))
    for migration in migrations:
        try:
            migration.load()
        except BadMigration:
            raise MigrationError(f"{migration.id}.sql depends on a migration that is not there") from None
    return migrations


def _refuse_edited(backend: Backend, known: set[str]) -> None:
    for migration_id, checksum in backend.execute(_LIST_CHECKSUMS).fetchall():
        if migration_id not in known:
            raise MigrationError(f"the database has the migration {migration_id}, which this release does not know")
        if checksum != _checksum(migration_id):
            raise MigrationError(f"{migration_id}.sql was edited after it was applied")


def _apply_one(backend: Backend, migration: Migration) -> None:
    try:
        backend.apply_one(migration)
    except psycopg.Error as error:
        raise MigrationError(f"{migration.id}.sql: {error.diag.message_primary or type(error).__name__}") from None


def _checksum(migration_id: str) -> str:
    return sha256((MIGRATIONS_DIR / f"{migration_id}.sql").read_bytes()).hexdigest()
