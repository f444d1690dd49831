"""The OpenAI door of a service in a process of its own, with its own database; keys to it, and who hold them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import count

from msgspec import Struct
from openai import AsyncOpenAI, DefaultHttpxClient, OpenAI

from app.database import connect
from app.embedded import EmbeddedServer
from app.stores import service_keys
from tests.conftest import TEMPLATE, run_sql
from tests.processes import serving, text_of

os.environ["OPENAI_AGENTS_DISABLE_TRACING"] = "1"  # the agents would tell OpenAI of what they do

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


@cache
def _connections() -> DefaultHttpxClient:
    """Of all clients: each would read the machine's certificates again."""
    return DefaultHttpxClient()


def client_of(door: Door, key: str, **headers: str) -> OpenAI:
    """It validates every answer, and never tries twice."""
    return OpenAI(
        base_url=door.base_url,
        api_key=key,
        max_retries=0,
        default_headers=headers,
        http_client=_connections(),
        _strict_response_validation=True,
    )


def asynchronous_client_of(door: Door, key: str) -> AsyncOpenAI:
    """The same, to be closed by the caller."""
    return AsyncOpenAI(base_url=door.base_url, api_key=key, max_retries=0, _strict_response_validation=True)
