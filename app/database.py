"""The pool of connections, and what its errors mean."""

import logging
from asyncio import timeout as asyncio_timeout
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from msgspec import Raw

from app.database_url import DatabaseUrl
from app.errors import Unavailable
from app.queries import BULK_SECONDS, Conn
from app.settings import Settings

_logger = logging.getLogger("verbatim.database")

_PASSING_SQLSTATES = ("08", "53", "57P0", "57014", "40001", "40P01", "55P03", "25006", "58000")


def is_passing(error: BaseException) -> bool:
    """Whether an error of the driver says "not now": lost, refused, overloaded, too slow, restarted, failed over."""
    if isinstance(error, asyncpg.PostgresError):
        return (error.sqlstate or "").startswith(_PASSING_SQLSTATES)
    return isinstance(error, OSError | asyncpg.InterfaceError) and not isinstance(error, asyncpg.DataError)


async def _prepare_connection(connection: Conn) -> None:
    await connection.set_type_codec("json", schema="pg_catalog", encoder=bytes, decoder=Raw, format="binary")


async def _keep_as_it_is(_connection: Conn) -> None:
    """Requests change no session state: the driver's own reset would cost each a round trip."""


async def connect(url: DatabaseUrl, timeout_seconds: float) -> Conn:
    """One connection beside the pool, for commands. Raises what asyncpg raises."""
    connection: Conn = await asyncpg.connect(**url.for_asyncpg(), timeout=timeout_seconds, command_timeout=BULK_SECONDS)
    await _prepare_connection(connection)
    return connection


class Database:
    """The pool. Connections are opened when they are needed, so that a database that is down stops no start."""

    _pool: "asyncpg.Pool[asyncpg.Record]"

    def __init__(self, url: DatabaseUrl, settings: Settings) -> None:
        self._url = url
        self._settings = settings

    async def open(self) -> None:
        """Opens the pool, and no connection yet."""
        self._pool = await asyncpg.create_pool(
            **self._url.for_asyncpg(),
            min_size=0,
            max_size=self._settings.pool_size,
            timeout=self._settings.connect_timeout_seconds,
            command_timeout=self._settings.command_timeout_seconds,
            init=_prepare_connection,
            reset=_keep_as_it_is,
        )

    async def close(self) -> None:
        """Closes all connections, after 5 s by force."""
        try:
            async with asyncio_timeout(5):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Conn]:
        """A connection outside any transaction. Raises Unavailable for what may pass, unique violations as they are."""
        try:
            async with self._pool.acquire(timeout=self._settings.acquire_timeout_seconds) as connection:
                yield connection
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            if not is_passing(error):
                raise
            _logger.warning("%s %s", type(error).__name__, getattr(error, "sqlstate", None) or "-")
            raise Unavailable from None
