"""Whether the service can do its work now."""

import asyncio
from asyncio import Lock
from time import monotonic

import asyncpg
from msgspec import Struct

from app.database import Database
from app.errors import Unavailable
from app.migrations import find_differences
from app.queries import Query

_FRESH_SECONDS = 1.0
_PROBE_SECONDS = 1.0


class _Probe(Struct, frozen=True):
    id: object


_PROBE = Query("probe_conversations", _Probe)


class Health:
    """Readiness, asked of the database at most once a second."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = Lock()
        self._known_until = 0.0
        self._is_ready = False
        self._is_migrated = False

    async def is_ready(self) -> bool:
        """Whether conversations can be read and no migration is missing.

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
                return self._is_migrated
        except (Unavailable, asyncpg.PostgresError):
            return False
