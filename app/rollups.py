"""The background job that rolls up: in every replica, one of them at a time."""

import asyncio
import logging
import random

import asyncpg

from app.database import Database
from app.errors import Unavailable
from app.logs import cause_of
from app.stores import rollups
from app.stores.rollups import BATCH_SIZE

INTERVAL_SECONDS = 60.0
"""How often the job looks what is new."""

_PAUSE_SECONDS = 0.05  # between batches, for those who wait for a connection
_logger = logging.getLogger("verbatim.rollups")


class RollUp:
    """Counts what conversations have gained, again and again until it is cancelled."""

    def __init__(self, database: Database, batch_size: int = BATCH_SIZE) -> None:
        self._database = database
        self._batch_size = batch_size

    async def run(self) -> None:
        """Rolls up once in an interval; what goes wrong is logged, and tried again the next time."""
        while True:
            await asyncio.sleep(INTERVAL_SECONDS * random.uniform(0.9, 1.1))  # noqa: S311  # no secret: so that replicas do not wake at once
            try:
                await self.roll_up(INTERVAL_SECONDS / 2)
            except Unavailable:
                pass  # whoever has the connections has said so
            except Exception as error:  # noqa: BLE001  # no failure of one time is to end the job
                _logger.error("roll-up failed", extra={"fields": cause_of(error)})  # noqa: TRY400  # no traceback: it ends in its words

    async def roll_up(self, fresh_seconds: float = 0) -> None:
        """Counts all that is new, unless another does or did so `fresh_seconds` ago. Raises Unavailable."""
        async with self._database.connection() as connection:
            counting = await rollups.begin_counting(connection, fresh_seconds)
        while counting is not None and not counting.is_done:
            try:
                async with self._database.connection() as connection:
                    counting = await rollups.count_batch(connection, counting, self._batch_size)
            except asyncpg.ForeignKeyViolationError:
                pass  # one of them was purged meanwhile: it is not there the next time
            await asyncio.sleep(_PAUSE_SECONDS)
        if counting is None:
            return
        is_more = True
        while is_more:
            async with self._database.connection() as connection:
                is_more = await rollups.measure_batch(connection)
        async with self._database.connection() as connection:
            await rollups.finish_counting(connection, counting)
