"""All that runs while the benchmark does: PostgreSQL, the service, the floors, the baseline."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from subprocess import DEVNULL, Popen
from typing import Unpack
from urllib.parse import urlsplit

import psycopg
import sqlparse
from msgspec import Struct, structs

from app.database_url import DatabaseUrl
from tests.bench.data import Filling, Kind, fill
from tests.bench.requests import Address
from tests.postmasters import Postmaster, started_postmaster
from tests.processes import run_verbatim, serving, text_of

ROOT = Path(__file__).parent.parent.parent
BASELINE_PYTHON = ROOT / ".venv-bench" / "bin" / "python"
POSTGRES_SETTINGS = {
    "shared_buffers": "1GB",
    "max_connections": "300",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "1h",
    "autovacuum": "off",
}
"""Durable as ever; what would come in between, at no time of its own, is done between rounds instead."""


class Server(Struct, frozen=True):
    """A process that answers requests."""

    address: Address
    pid: int


class Postgres(Struct, frozen=True):
    """The server of the databases, and where pgbench is."""

    pid: int
    url: DatabaseUrl
    pgbench: Path

    def database(self, name: str) -> DatabaseUrl:
        """A new database of it."""
        with psycopg.connect(**self.url.for_libpq(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url_of(name)

    def url_of(self, name: str) -> DatabaseUrl:
        """Where one of its databases is."""
        return structs.replace(self.url, database=name)


@contextmanager
def running_postgres(**settings: str) -> Iterator[Postgres]:
    """PostgreSQL 18 over a new cluster, which goes in the end."""
    with started_postmaster(**{**POSTGRES_SETTINGS, **settings}) as postmaster:
        yield Postgres(_pid_of(postmaster), postmaster.url(), postmaster._binaries / "pgbench")


def _pid_of(postmaster: Postmaster) -> int:
    assert postmaster._process is not None
    return postmaster._process.pid


def migrated(postgres: Postgres, name: str, *kinds: Kind, **filling: Unpack[Filling]) -> DatabaseUrl:
    """A database of the service's own that holds these conversations."""
    url = postgres.database(name)
    run_verbatim("migrate", DATABASE_URL=text_of(url)).check_returncode()
    fill(url, *kinds, **filling)
    return url


@contextmanager
def running_service(url: DatabaseUrl, tenant: str, **settings: str) -> Iterator[Server]:
    """`verbatim serve` with all that it has by default, and an unbound key; settings of the environment count."""
    settings |= {
        name: value for name, value in os.environ.items() if name.startswith("VERBATIM_") and "BENCH" not in name
    }
    made = run_verbatim("keys", "create", "--tenant", tenant, DATABASE_URL=text_of(url))
    made.check_returncode()
    with serving(DATABASE_URL=text_of(url), **settings) as service:
        parts = urlsplit(service.wait_for_address())
        yield Server(Address(str(parts.hostname), parts.port or 80, made.stdout.strip()), service.process.pid)


@contextmanager
def _running_uvicorn(python: Path, application: str, directory: Path, **variables: str) -> Iterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command: list[str | Path] = [
        python,
        "-m",
        "uvicorn",
        "--app-dir",
        directory,
        application,
        "--port",
        str(port),
        "--no-access-log",
    ]
    command += ["--loop", "uvloop", "--http", "httptools", "--no-server-header", "--no-proxy-headers"]
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", **variables}
    with Popen(command, stdout=DEVNULL, stderr=DEVNULL, env=environment) as process:
        try:
            _wait_for(port, process)
            yield Server(Address("127.0.0.1", port), process.pid)
        finally:
            process.kill()


def _wait_for(port: int, process: Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{process.args!r} does not serve") from None
            time.sleep(0.05)
        else:
            return


def running_floor(name: str) -> AbstractContextManager[Server]:
    """An application of `floors` under the service's uvicorn."""
    return _running_uvicorn(Path(sys.executable), f"tests.bench.floors:{name}", ROOT)


def find_baseline() -> Path | None:
    """Where the baseline's servers are; None where they, or what they need, are not."""
    place = Path(os.environ.get("VERBATIM_BENCH_BASELINE", ROOT.parent / "shared" / "bench"))
    return place if (place / "servers" / "baseline_sync.py").exists() and BASELINE_PYTHON.exists() else None


@contextmanager
def running_baseline(place: Path, url: DatabaseUrl, name: str) -> Iterator[Server]:
    """One of the baseline's servers, as its authors would run it: the fast loop and parser, no access log."""
    ((host, _),) = url.hosts
    where = f"postgres@/{url.database}?host={host}"
    variables = {
        "BASELINE_DSN": f"postgresql+psycopg2://{where}",
        "BASELINE_ASYNC_DSN": f"postgresql+asyncpg://{where}",
    }
    with _running_uvicorn(BASELINE_PYTHON, f"{name}:app", place / "servers", **variables) as server:
        yield server


def baseline_database(postgres: Postgres, place: Path) -> DatabaseUrl:
    """A database with the baseline's own tables, filled with the same conversations."""
    url = postgres.database("baseline")
    ((host, _),) = url.hosts
    environment = os.environ | {
        "BASELINE_CREATE": "1",
        "BASELINE_DSN": f"postgresql+psycopg2://postgres@/baseline?host={host}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [BASELINE_PYTHON, "-W", "ignore", "-c", "import baseline_sync"]
    subprocess.run(command, cwd=place / "servers", env=environment, check=True)
    with psycopg.connect(**url.for_libpq(), autocommit=True) as connection:
        for statement in sqlparse.split((place / "sql" / "fill_baseline.sql").read_text()):
            connection.execute(statement)
    return url
