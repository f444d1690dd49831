"""The commands: `verbatim serve | migrate | keys create|list|revoke | purge`."""

import argparse
import asyncio
import logging
import shlex
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NoReturn, TypeVar

import asyncpg

from app.database import connect, is_passing, is_refused_startup
from app.database_url import DatabaseUrl
from app.embedded import EmbeddedError, embedded_postgres
from app.health import find_unsafe_settings
from app.identifiers import is_name
from app.logs import configure_logs
from app.migrations import MigrationError, find_differences, migrate
from app.queries import Conn
from app.settings import Settings, SettingsError, read_settings
from app.stores import purges, service_keys
from app.workers import Workers

T = TypeVar("T")

_CONNECT_SECONDS = 10.0
_logger = logging.getLogger("verbatim")


class CommandError(Exception):
    """The command cannot do its work; the message is one line for the operator."""


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; its exit code."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the background jobs of a shell are born deaf to it
    # So that every block is left, the embedded PostgreSQL's too.
    signal.signal(signal.SIGTERM, _leave_well if options.run is serve else _leave)
    try:
        settings = read_settings()
        configure_logs(settings.log_level)
        options.run(settings, options)
    except (SettingsError, EmbeddedError, MigrationError, CommandError) as error:
        print(f"verbatim: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0 if options.run is serve else 130
    return 0


def _leave_well(_number: int, _frame: object) -> NoReturn:
    raise SystemExit(0)


def _leave(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="verbatim", description="The store of record for conversations.")
    commands = parser.add_subparsers(required=True, metavar="command")
    serving = commands.add_parser("serve", help="serve the API")
    serving.add_argument("--local", action="store_true", help="migrate first, make a ready key, and say how to begin")
    serving.set_defaults(run=serve)
    commands.add_parser("migrate", help="bring the database up to date").set_defaults(run=migrate_database)
    commands.add_parser("purge", help="erase what is past its restore window").set_defaults(run=purge)
    keys = commands.add_parser("keys", help="who is let in").add_subparsers(required=True, metavar="command")
    creating = keys.add_parser("create", help="make a key; prints it, once, and nothing else")
    creating.add_argument("--tenant", required=True, help="the tenant it acts for")
    creating.add_argument("--user", help="the user it is bound to; without one, each request names its user")
    creating.add_argument("--admin", action="store_true", help="adds the tenant-wide routes")
    creating.set_defaults(run=create_key)
    keys.add_parser("list", help="list the keys, without their secrets").set_defaults(run=list_keys)
    revoking = keys.add_parser("revoke", help="let a key in no more")
    revoking.add_argument("key", help="its prefix, or the whole key")
    revoking.set_defaults(run=revoke_key)
    return parser


@contextmanager
def _database(settings: Settings, url: DatabaseUrl | None) -> Iterator[DatabaseUrl]:
    """The database of a URL, else the embedded one while the block runs."""
    if url is not None:
        yield url
        return
    with embedded_postgres(settings.data_dir) as server:
        yield server.url()


def _run(url: DatabaseUrl, work: Callable[[Conn], Awaitable[T]]) -> T:
    """Does some work on a connection of its own. Raises CommandError."""

    async def connected() -> T:
        connection = await connect(url, _CONNECT_SECONDS)
        try:
            return await work(connection)
        finally:
            await connection.close()

    try:
        return asyncio.run(connected())
    except asyncpg.UndefinedTableError:
        raise CommandError("the database has no tables yet: run `verbatim migrate`") from None
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        hint = "; if a pooler is there, set VERBATIM_POOLED_DATABASE" if is_refused_startup(error) else ""
        raise CommandError(f"the database {url} cannot be used: {type(error).__name__}{hint}") from error


def migrate_database(settings: Settings, _options: argparse.Namespace) -> None:
    """Applies the migrations that the database misses."""
    with _database(settings, settings.parsed_migration_url()) as url:
        applied = migrate(url)
    print(f"applied {', '.join(applied)}" if applied else "nothing to apply")


def create_key(settings: Settings, options: argparse.Namespace) -> None:
    """Makes a key and prints it."""
    for name in (options.tenant, options.user):
        if name is not None and not is_name(name):
            raise CommandError("a tenant or user is named by 1-255 characters, none of them a control character")
    if options.admin and options.user is not None:
        raise CommandError("--admin and --user exclude each other: an admin key acts for no single user")
    key = service_keys.new_key()
    with _database(settings, settings.parsed_database_url()) as url:
        _run(
            url,
            lambda connection: service_keys.create_service_key(
                connection, key, options.tenant, options.user, is_admin=options.admin
            ),
        )
    print(key)


def list_keys(settings: Settings, _options: argparse.Namespace) -> None:
    """Prints one line for each key, oldest first."""
    with _database(settings, settings.parsed_database_url()) as url:
        keys = _run(url, service_keys.list_service_keys)
    for key in keys:
        state = f"revoked {key.revoked_at:%Y-%m-%d}" if key.revoked_at else "live"
        used = f"used {key.last_used_at:%Y-%m-%d %H:00}" if key.last_used_at else "never used"
        kind = "admin" if key.is_admin else f"user={key.user_id}" if key.user_id is not None else "any user"
        print(f"{key.prefix}  tenant={key.tenant_id}  {kind}  created {key.created_at:%Y-%m-%d}  {used}  {state}")


def revoke_key(settings: Settings, options: argparse.Namespace) -> None:
    """Revokes a key; every replica refuses it within 5 seconds."""
    prefix = service_keys.prefix_of(options.key) or options.key
    with _database(settings, settings.parsed_database_url()) as url:
        is_known = _run(url, lambda connection: service_keys.revoke_service_key(connection, prefix))
    if not is_known:
        raise CommandError("there is no such key")
    print(f"revoked {prefix}")


def purge(settings: Settings, _options: argparse.Namespace) -> None:
    """Erases what was deleted longer ago than it can be restored."""
    with _database(settings, settings.parsed_database_url()) as url:
        conversations, messages = _run(url, lambda connection: purges.purge(connection, settings.restore_days))
    print(f"purged {conversations} conversations and {messages} single messages")


def serve(settings: Settings, options: argparse.Namespace) -> None:
    """Serves until it is told to stop."""
    from app.server import run_server  # noqa: PLC0415  # a second of imports that no other command needs

    with closing(_listen(settings)) as listener, _database(settings, settings.parsed_database_url()) as url:
        key_path = None
        if options.local:
            migrate(settings.parsed_migration_url() or url)
            key_path = settings.data_dir / "key"
            _ready_key(url, key_path)
        _check_database(settings, url)
        host, port = listener.getsockname()[:2]
        address = f"http://[{host}]:{port}" if listener.family == socket.AF_INET6 else f"http://{host}:{port}"

        def announce() -> None:
            _announce(settings, address, key_path)

        def work(life: int, on_ready: Callable[[], None]) -> None:
            run_server(settings, url, listener, on_ready, life)

        if settings.workers == 1:
            run_server(settings, url, listener, announce)
        elif code := Workers(settings.workers, work, listener.close).run(announce):
            raise SystemExit(code)


def _listen(settings: Settings) -> socket.socket:
    """Takes the port first of all: a taken one is the commonest reason not to start."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(2048)  # now, so that of two who start at once one is told
    except OSError as error:
        listener.close()
        raise CommandError(
            f"cannot listen on {settings.host}:{settings.port} ({error.strerror}): set VERBATIM_PORT or VERBATIM_HOST"
        ) from None
    return listener


def _ready_key(url: DatabaseUrl, path: Path) -> None:
    """Sees to it that the file holds a key that is let in; makes one where it does not."""
    try:
        key = path.read_text().strip() if path.exists() else ""
        prefix = service_keys.prefix_of(key)
        known = _run(url, lambda connection: service_keys.get_service_key(connection, prefix)) if prefix else None
        if known is not None and known.revoked_at is None and known.sha256 == service_keys.digest_of(key):
            return
        if known is not None or prefix is None:
            key = service_keys.new_key()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            path.touch(mode=0o600, exist_ok=False)
            path.write_text(f"{key}\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"VERBATIM_DATA_DIR: the key {path} cannot be kept: {type(error).__name__}") from None
    _run(url, lambda connection: service_keys.create_service_key(connection, key, "default", "local"))


def _check_database(settings: Settings, url: DatabaseUrl) -> None:
    """Refuses other migrations and what forgets; a database that is down is no reason not to start.

    Readiness tells of it, and asks again.
    """

    async def look(connection: Conn) -> tuple[list[str], list[str], list[str]]:
        missing, unknown = await find_differences(connection)
        return missing, unknown, await find_unsafe_settings(connection)

    try:
        missing, unknown, unsafe = _run(url, look)
    except CommandError as error:
        if not (error.__cause__ and is_passing(error.__cause__)):
            raise
        _logger.warning("%s; serving all the same", error)
        return
    if missing:
        raise CommandError(f"the database {url} misses {', '.join(missing)}: run `verbatim migrate`")
    if unknown:
        raise CommandError(f"the database {url} has {', '.join(unknown)}, which this release does not know")
    if unsafe:
        danger = f"the database {url} may lose what it acknowledged: {', '.join(unsafe)} off"
        if not settings.allow_unsafe_database:
            raise CommandError(f"{danger}; turn it on, or set VERBATIM_ALLOW_UNSAFE_DATABASE")
        _logger.warning(danger)


def _announce(settings: Settings, address: str, key_path: Path | None) -> None:
    if key_path is None:
        _logger.info("serving", extra={"fields": {"address": address}})
        return
    quoted_path, quoted_url = shlex.quote(str(key_path)), shlex.quote(f"{address}/v1/conversations/by-key/default")
    where = settings.parsed_database_url() or f"{settings.data_dir.absolute()}/postgres"
    key = key_path.read_text().strip()
    print(
        f"""
Verbatim serves on {address}  (API: {address}/docs)
  chat  {address}/#key={key}
  key   {key}  (in {key_path})
  data  {where}
  try   curl -H "Authorization: Bearer $(cat {quoted_path})" -X PUT {quoted_url}
Ctrl-C stops it; the data stays.
""",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
