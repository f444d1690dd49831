"""Whether the service can do its work now."""

import asyncio
import logging
from asyncio import Lock
from time import monotonic

import asyncpg
from msgspec import Struct

from app.database import Database
from app.errors import Unavailable
from app.migrations import find_differences
from app.queries import Conn, Query

_FRESH_SECONDS = 1.0
_PROBE_SECONDS = 1.0
_logger = logging.getLogger("verbatim.health")


class _Durability(Struct, frozen=True):
    unsafe_settings: list[str]
    is_read_only: bool


class _Probe(Struct, frozen=True):
    id: object


_PROBE = Query("probe_conversations", _Probe)
_GET_DURABILITY = Query("get_durability", _Durability)


async def find_unsafe_settings(connection: Conn) -> list[str]:
    """The settings by which the database may lose what it acknowledged: those of durability that are off."""
    (durability,) = await _GET_DURABILITY.fetch(connection)
    return durability.unsafe_settings


class Health:
    """Readiness, asked of the database at most once a second."""

    def __init__(self, database: Database, *, allow_unsafe: bool) -> None:
        self._database = database
        self._allow_unsafe = allow_unsafe
        self._lock = Lock()
        self._known_until = 0.0
        self._is_ready = False
        self._is_migrated = False

    async def is_ready(self) -> bool:
        """Whether conversations can be read and written for good, and no migration is missing.

        One that is unknown here is no reason to stop: a newer release applies its own before its roll-out.
        """
        async with self._lock:
            if monotonic() >= self._known_until:
                self._is_ready = await self._probe()
                self._known_until = monotonic() + _FRESH_SECONDS
            return self._is_ready

    async def _probe(self) -> bool:
        """In time, whatever the driver still has to clean up: that goes on behind the answer."""
        probe = asyncio.ensure_future(self._ask())
        done, _ = await asyncio.wait({probe}, timeout=_PROBE_SECONDS)
        if not done:
            probe.cancel()
            return False
        return probe.result()

    async def _ask(self) -> bool:
        try:
            async with self._database.connection() as connection:
                if not self._is_migrated:
                    missing, _ = await find_differences(connection)
                    self._is_migrated = not missing
                await _PROBE.fetch_one(connection)
                (durability,) = await _GET_DURABILITY.fetch(connection)
        except (Unavailable, asyncpg.PostgresError):
            return False
        if durability.unsafe_settings and not self._allow_unsafe:
            _logger.error("the database may lose what it acknowledged: %s off", ", ".join(durability.unsafe_settings))
            return False
        return self._is_migrated and not durability.is_read_only
