"""`verbatim` as an operator runs it: real processes, settings from the environment, data in a place of its own."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from subprocess import CompletedProcess, Popen
from typing import IO
from urllib.parse import quote
from uuid import uuid4

from app.database_url import DatabaseUrl

VERBATIM = Path(sys.executable).with_name("verbatim")


def run_verbatim(*arguments: str, **variables: object) -> CompletedProcess[str]:
    """A command, run to its end."""
    return subprocess.run(
        [VERBATIM, *arguments], env=_environment(variables), capture_output=True, text=True, timeout=30, check=False
    )


def _environment(variables: dict[str, object]) -> dict[str, str]:
    kept = {name: os.environ[name] for name in os.environ if name != "DATABASE_URL" and "VERBATIM" not in name}
    # Tests stop many services, and run most of them on a server that forgets when the machine fails.
    kept |= {"VERBATIM_DRAIN_SECONDS": "0", "VERBATIM_ALLOW_UNSAFE_DATABASE": "true"}
    return kept | {name: str(value) for name, value in variables.items()}


def _content(file: IO[bytes]) -> str:
    """Beside whoever is writing it."""
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode()


class Service:
    """`verbatim serve`, as far as its process has come."""

    def __init__(self, *arguments: str, **variables: object) -> None:
        with ExitStack() as stack:
            self._output = stack.enter_context(tempfile.TemporaryFile())
            self._errors = stack.enter_context(tempfile.TemporaryFile())
            self.process = Popen(
                [VERBATIM, "serve", *arguments],
                env=_environment({"VERBATIM_PORT": 0, **variables}),
                stdout=self._output,
                stderr=self._errors,
            )
            self._closing = stack.pop_all()

    @property
    def output(self) -> str:
        return _content(self._output)

    @property
    def errors(self) -> str:
        return _content(self._errors)

    def wait_for_address(self) -> str:
        deadline = time.monotonic() + 30
        while (
            found := re.search(r'serves on (http://\S+)|"address":"(http[^"]+)"', self.output + self.errors)
        ) is None:
            assert self.process.poll() is None, self.errors
            assert time.monotonic() < deadline, self.errors
            time.sleep(0.01)
        return found[1] or found[2]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Its exit code."""
        self.process.send_signal(number)
        return self.process.wait(10)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._closing.close()


@contextmanager
def serving(*arguments: str, **variables: object) -> Iterator[Service]:
    """A service that has said where it serves; it is killed if the block leaves it running."""
    service = Service(*arguments, **variables)
    try:
        service.wait_for_address()
        yield service
    finally:
        service.close()


@contextmanager
def new_data_dir(name: str = "verbatim-test") -> Iterator[Path]:
    """A place for data that is not there yet; in the end it goes, with every process in it."""
    data_dir = Path(tempfile.gettempdir(), f"{name}-{uuid4().hex[:12]}")
    try:
        yield data_dir
    finally:
        for pid in server_pids(data_dir):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(data_dir, ignore_errors=True)


def server_pids(data_dir: Path) -> list[int]:
    """The processes of the PostgreSQL of a data directory: they work in its cluster, or make it."""

    def is_there(process: Path) -> bool:
        try:
            works_there = (process / "cwd").readlink().is_relative_to(data_dir)
            return works_there or f" {data_dir}/" in (process / "cmdline").read_text().replace("\0", " ")
        except OSError:
            return False

    return [int(process.name) for process in Path("/proc").glob("[0-9]*") if is_there(process)]


def text_of(url: DatabaseUrl) -> str:
    """A DATABASE_URL for a database of the embedded server."""
    ((host, port),) = url.hosts
    return f"postgresql:///{url.database}?host={quote(host)}&port={port}&user={url.user}&sslmode=disable"
