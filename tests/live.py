"""The application on a socket, in the test's own loop: streams as a client sees them."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import httpx
import uvicorn
from msgspec import Struct

from app.database_url import DatabaseUrl
from app.edge import Drain
from app.main import create_app
from app.protocol import protocol_of
from app.settings import Settings
from tests.poolers import pooled


class Replica(Struct):
    """One process of the service, as far as its clients can tell."""

    address: str
    drain: Drain
    server: uvicorn.Server
    task: asyncio.Task[None]

    def client(self, key: str, **headers: str) -> httpx.AsyncClient:
        headers["Authorization"] = f"Bearer {key}"
        return httpx.AsyncClient(base_url=self.address, headers=headers, timeout=30)


@asynccontextmanager
async def replica(settings: Settings, url: DatabaseUrl, port: int = 0) -> AsyncIterator[Replica]:
    """A service on a port, else on one of its own."""
    drain = Drain()
    with socket.create_server(("127.0.0.1", port)) as listener:
        config = uvicorn.Config(
            create_app(settings, pooled(url), drain),
            http=protocol_of(settings),
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(config)
        server.capture_signals = nullcontext
        task = asyncio.create_task(server.serve([listener]))
        while not server.started:  # noqa: ASYNC110  # uvicorn has no event for it
            await asyncio.sleep(0.01)
        host, port = listener.getsockname()
        yield Replica(f"http://{host}:{port}", drain, server, task)
        server.should_exit = True
        await task


class Event(Struct, frozen=True):
    """A server-sent event; `id` is the last one seen."""

    name: str
    id: str | None
    data: Any


async def events_of(answer: httpx.Response) -> AsyncIterator[Event]:
    """The events of a stream, by the rules of browsers."""
    last_id, name, data = None, "message", []
    async for line in answer.aiter_lines():
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match field:
            case "" if not line:
                if data:
                    yield Event(name, last_id, json.loads("\n".join(data)))
                name, data = "message", []
            case "id":
                last_id = value
            case "event":
                name = value
            case "data":
                data.append(value)


async def read_events(
    client: httpx.AsyncClient, path: str, last_id: str | None = None, method: str = "GET", **request: Any
) -> list[Event]:
    """All events of a stream that ends."""
    headers = {"Accept": "text/event-stream", **request.pop("headers", {})}
    if last_id is not None:
        headers["Last-Event-ID"] = last_id
    async with client.stream(method, path, headers=headers, **request) as answer:
        assert answer.status_code in {200, 201}, await answer.aread()
        return [event async for event in events_of(answer)]
