"""PgBouncer in transaction mode between the service and the server of the run: `pytest --pgbouncer`."""

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psycopg
import pytest

from app.database_url import DatabaseUrl, parse_database_url
from app.embedded import EmbeddedServer
from tests import processes

POOL_SIZE = 3
"""Of server connections for a database, far fewer than the service has: most of its requests wait here for a while."""

CONFIGURATION = """
[databases]
* = host={server.socket_dir} port={server.port} user=verbatim

[pgbouncer]
listen_addr =
listen_port = 6432
unix_socket_dir = {directory}
unix_socket_mode = 0700
auth_type = any
pool_mode = transaction
default_pool_size = {size}
max_client_conn = 1000
# Else it would keep its connections to a database that a test drops.
server_idle_timeout = 2
autodb_idle_timeout = 60
logfile = {directory}/pgbouncer.log
stats_period = 3600
"""

# No superuser, and with the limits that the README gives to the role, since a pooler takes none from the service.
ROLE = [
    "CREATE ROLE verbatim LOGIN IN ROLE pg_read_all_data, pg_write_all_data",
    *re.findall(
        "^ALTER ROLE verbatim SET .*;$", Path(__file__).parents[1].joinpath("README.md").read_text(), re.MULTILINE
    ),
]

Hosts = tuple[tuple[str, int], ...]
_poolers: dict[Hosts, Hosts] = {}


def find_pgbouncer() -> str | None:
    """Debian's is where an ordinary user's PATH does not look."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")


def pooled(url: DatabaseUrl) -> DatabaseUrl:
    """The URL as the service has it: past no pooler, unless the run has one for this server."""
    hosts = _poolers.get(url.hosts)
    return msgspec.structs.replace(url, hosts=hosts, pooled=True) if hosts else url


@contextmanager
def pgbouncer(server: EmbeddedServer, size: int = POOL_SIZE) -> Iterator[None]:
    """While the block runs, what the tests start reaches the server through a PgBouncer of the server's own user."""
    owner = server.socket_dir.stat()
    directory = Path(tempfile.mkdtemp(prefix="verbatim-pgbouncer-"))
    os.chown(directory, owner.st_uid, owner.st_gid)
    with psycopg.connect(**server.url().for_libpq(), autocommit=True) as connection:
        for statement in ROLE:
            connection.execute(statement.encode())
    configuration = directory / "pgbouncer.ini"
    configuration.write_text(CONFIGURATION.format(server=server, directory=directory, size=size))
    configuration.chmod(0o644)
    as_owner = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    process = subprocess.Popen([str(find_pgbouncer()), "--quiet", configuration], cwd="/", **as_owner)
    hosts = server.url().hosts
    try:
        _poolers[hosts] = ((str(directory), 6432),)
        _wait_for(process, pooled(server.url()))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(processes, "_environment", _pooled_environment(processes._environment))
            yield
    finally:
        del _poolers[hosts]
        process.terminate()
        process.wait(10)
        shutil.rmtree(directory)


def _wait_for(process: subprocess.Popen[bytes], url: DatabaseUrl) -> None:
    deadline = time.monotonic() + 10
    while True:
        assert process.poll() is None, f"pgbouncer ended with {process.returncode}"
        try:
            psycopg.connect(**url.for_libpq()).close()
        except psycopg.OperationalError:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        else:
            return


def _pooled_environment(
    environment: Callable[[dict[str, object]], dict[str, str]],
) -> Callable[[dict[str, object]], dict[str, str]]:
    """The environment of a process as an operator writes it behind a pooler."""

    def of(variables: dict[str, object]) -> dict[str, str]:
        direct = variables.get("DATABASE_URL")
        if not direct or (url := parse_database_url(str(direct))) == (through := pooled(url)):
            return environment(variables)
        behind = {"VERBATIM_POOLED_DATABASE": "true", "VERBATIM_MIGRATION_DATABASE_URL": direct}
        return environment(behind | variables | {"DATABASE_URL": processes.text_of(through)})

    return of
