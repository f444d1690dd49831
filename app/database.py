"""The pool of connections, who waits for one, and what its errors mean."""

import asyncio
import logging
from asyncio import get_running_loop
from asyncio import timeout as asyncio_timeout
from collections.abc import Callable, Coroutine, Hashable
from contextlib import suppress
from contextvars import Context
from time import monotonic
from types import TracebackType
from typing import TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy
from msgspec import Raw

from app.database_url import AsyncpgArguments, DatabaseUrl
from app.errors import DomainError, Unavailable
from app.lanes import Lanes
from app.logs import cause_of
from app.queries import BULK_SECONDS, Conn
from app.settings import Settings

_Pooled: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"

_logger = logging.getLogger("verbatim.database")

_REFUSED_STARTUP = "08P01"  # a pooler that lets no settings through
_PASSING_SQLSTATES = ("08", "53", "57P0", "57014", "40001", "40P01", "55P03", "25006", "25P03", "58000", "58030")
# The last: of a connection taken after the server's farewell was read and before its end was seen.
_LOST = (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError)
_IDLE_SECONDS = 60  # no gateway between us and the database forgets a connection sooner
_ORPHAN_SECONDS = 10


def is_passing(error: BaseException) -> bool:
    """Whether an error of the driver says "not now": lost, refused, overloaded, too slow, restarted, failed over."""
    if isinstance(error, asyncpg.PostgresError):
        return (error.sqlstate or "").startswith(_PASSING_SQLSTATES) and error.sqlstate != _REFUSED_STARTUP
    return isinstance(error, _LOST) and not isinstance(error, ValueError)  # of a value that the driver cannot send


async def _prepare_connection(connection: Conn) -> None:
    await connection.set_type_codec("json", schema="pg_catalog", encoder=bytes, decoder=Raw, format="binary")


async def _keep_as_it_is(_connection: Conn) -> None:
    """Requests change no session state: the driver's own reset would cost each a round trip."""


def _is_lost(connection: _Pooled) -> bool:
    try:
        return connection.is_closed()
    except asyncpg.InterfaceError:  # the pool has seen its end, and taken it back
        return True


def is_refused_startup(error: BaseException | None) -> bool:
    """Whether what answers at the URL takes no settings of a session: a pooler."""
    return isinstance(error, asyncpg.PostgresError) and error.sqlstate == _REFUSED_STARTUP


def _session_arguments(url: DatabaseUrl, lock_timeout_seconds: float) -> AsyncpgArguments:
    """With limits that the server keeps: of locks, and of what a service that is gone has left behind.

    A pooler lets no such setting through; there they belong to the role.
    """
    arguments = url.for_asyncpg()
    if not url.pooled:
        limits = {
            "lock_timeout": f"{lock_timeout_seconds * 1000:.0f}",
            "statement_timeout": f"{BULK_SECONDS + _ORPHAN_SECONDS:.0f}s",
            "idle_in_transaction_session_timeout": f"{_ORPHAN_SECONDS}s",
            "tcp_user_timeout": f"{_ORPHAN_SECONDS}s",
            "tcp_keepalives_idle": f"{_ORPHAN_SECONDS}",
        }
        arguments["server_settings"] = limits | arguments["server_settings"]
    return arguments


async def connect(url: DatabaseUrl, timeout_seconds: float) -> Conn:
    """One connection beside the pool, for commands. Raises what asyncpg raises."""
    arguments = _session_arguments(url, BULK_SECONDS)
    connection: Conn = await asyncpg.connect(**arguments, timeout=timeout_seconds, command_timeout=BULK_SECONDS)
    await _prepare_connection(connection)
    return connection


class Database:
    """The pool. Connections are opened when they are needed, so that a database that is down stops no start."""

    _pool: "asyncpg.Pool[asyncpg.Record]"

    def __init__(self, url: DatabaseUrl, settings: Settings) -> None:
        self._url = url
        self._settings = settings
        self._waiting = 0
        self._lanes = Lanes(settings.conversation_limit, settings.queue_limit, settings.acquire_timeout_seconds)
        self._is_closing = False
        self._idle: list[tuple[float, _Pooled]] = []
        self._idle_timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._listeners: list[Callable[[Hashable], None]] = []

    def listen(self, listener: Callable[[Hashable], None]) -> None:
        """Has the lane of what was written in this process told at once, behind its commit."""
        self._listeners.append(listener)

    def tell(self, lane: Hashable) -> None:
        """Tells who listens that something was written in a lane, and committed; `connection` does it for its own."""
        for listener in self._listeners:
            listener(lane)

    async def open(self) -> None:
        """Opens the pool, and no connection yet."""
        self._pool = await asyncpg.create_pool(
            **_session_arguments(self._url, self._settings.lock_timeout_seconds),
            min_size=0,
            max_size=self._settings.pool_size,
            max_inactive_connection_lifetime=_IDLE_SECONDS,
            timeout=self._settings.connect_timeout_seconds,
            command_timeout=self._settings.command_timeout_seconds,
            init=_prepare_connection,
            reset=_keep_as_it_is,
        )

    async def close(self) -> None:
        """Closes all connections, after 5 s by force."""
        self._is_closing = True
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        try:
            async with asyncio_timeout(5):
                await self._release_idle(0)
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()

    def connection(self, lane: Hashable = None) -> "Lease":
        """A connection outside any transaction, for a block; of those who name a lane, few at once have one.

        A lane is what they contend for, so that they wait for each other without the connections that others need.
        Raises Unavailable for what may pass, unique violations as they are.
        """
        return Lease(self, lane)

    async def lend(self, lane: Hashable) -> _Pooled:
        """What a lease begins with. Raises Unavailable, and what asyncpg raises."""
        ends_at = monotonic() + self._settings.acquire_timeout_seconds
        if lane is not None:
            await self._lanes.take(lane)
        try:
            return await self._take(ends_at)
        except BaseException:
            if lane is not None:
                self._lanes.give_back(lane)
            raise

    def end(self, lane: Hashable, connection: _Pooled, error: BaseException | None) -> None:
        """What a lease ends with."""
        if error is None or isinstance(error, DomainError):
            self._give_back(connection)
        else:
            # Behind the answer: what is to be cleaned up may take as long as what went wrong.
            self._later(self._release(connection, is_clean=False))
        if lane is not None:
            self._lanes.give_back(lane)
            if error is None:
                self.tell(lane)

    async def _take(self, ends_at: float) -> _Pooled:
        """The connection that was used last, else one of the pool's, which takes its time over each."""
        while self._idle:
            _, connection = self._idle.pop()
            if not _is_lost(connection):
                return connection
        if self._waiting >= self._settings.queue_limit:
            raise Unavailable
        self._waiting += 1
        try:
            return await self._pool.acquire(timeout=ends_at - monotonic())
        finally:
            self._waiting -= 1

    def _give_back(self, connection: _Pooled) -> None:
        if self._waiting or self._is_closing or _is_lost(connection):
            self._later(self._release(connection))  # who waits does so at the pool
            return
        self._idle.append((monotonic(), connection))
        if self._idle_timer is None:
            self._idle_timer = get_running_loop().call_later(_IDLE_SECONDS, self._look_at_idle, context=Context())

    def _look_at_idle(self) -> None:
        self._idle_timer = None
        self._later(self._release_idle(_IDLE_SECONDS))

    async def _release_idle(self, seconds: float) -> None:
        """Lets the pool have, and close in its time, what has not been used for so long."""
        until = monotonic() - seconds
        idle = [connection for used_at, connection in self._idle if used_at <= until]
        self._idle = [(used_at, connection) for used_at, connection in self._idle if used_at > until]
        for connection in idle:
            await self._release(connection)
        if self._idle and self._idle_timer is None:
            self._idle_timer = get_running_loop().call_later(_IDLE_SECONDS, self._look_at_idle)

    async def _release(self, connection: _Pooled, *, is_clean: bool = True) -> None:
        # One that was given up between Parse and Sync would hold its transaction, and a pooler's session, until it is
        # used again: a statement ends that.
        if not is_clean:
            with suppress(asyncpg.PostgresError, *_LOST):
                await connection.execute("SELECT 1")
        with suppress(asyncpg.PostgresError, *_LOST):
            await self._pool.release(connection)

    def _later(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class Lease:
    """A connection of the pool, while a block runs."""

    __slots__ = ("_connection", "_database", "_lane")
    _connection: _Pooled

    def __init__(self, database: Database, lane: Hashable) -> None:
        self._database, self._lane = database, lane

    async def __aenter__(self) -> Conn:
        """Takes it."""
        try:
            self._connection = await self._database.lend(self._lane)
        except (asyncpg.PostgresError, *_LOST) as error:
            _refuse_passing(error)
            raise
        return self._connection

    async def __aexit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _at: TracebackType | None
    ) -> None:
        """Gives it back."""
        self._database.end(self._lane, self._connection, error)
        if isinstance(error, (asyncpg.PostgresError, *_LOST)):
            _refuse_passing(error)


def _refuse_passing(error: BaseException) -> None:
    """Raises Unavailable for what may pass."""
    if is_passing(error):
        _logger.warning("unavailable", extra={"fields": cause_of(error)})
        raise Unavailable from None
