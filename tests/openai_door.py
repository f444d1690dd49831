"""The OpenAI door of a service in a process of its own, with a database of its own, and keys to it."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

from msgspec import Struct

from app.database import connect
from app.embedded import EmbeddedServer
from app.stores import service_keys
from tests.conftest import TEMPLATE, run_sql
from tests.processes import serving, text_of

_numbers = count(1)


class Door(Struct, frozen=True):
    """Where it is, and a way to its keys."""

    address: str
    server: EmbeddedServer
    database: str

    @property
    def base_url(self) -> str:
        return f"{self.address}/openai/v1"

    async def new_key(self, *, is_bound: bool = True) -> str:
        """A key of a user whom nobody has seen before, or of a tenant."""
        key, user = service_keys.new_key(), f"user-{next(_numbers)}" if is_bound else None
        connection = await connect(self.server.url(self.database), 5)
        await service_keys.create_service_key(connection, key, "acme", user)
        await connection.close()
        return key


@contextmanager
def open_door(server: EmbeddedServer) -> Iterator[Door]:
    database = f"openai_{next(_numbers)}"
    run_sql(server.url(), "CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY", database, TEMPLATE)
    with serving(DATABASE_URL=text_of(server.url(database))) as service:
        yield Door(service.wait_for_address(), server, database)
        service.stop()
    run_sql(server.url(), "DROP DATABASE {} WITH (FORCE)", database)
