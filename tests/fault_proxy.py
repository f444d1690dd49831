"""A proxy between the service and PostgreSQL that goes silent, delays commits, or cuts their answers."""

import asyncio
import re
import threading
from asyncio import StreamReader, StreamWriter
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

from app.database_url import DatabaseUrl

_WRITE = re.compile(rb"\b(?:INSERT INTO|DELETE FROM|(?<!FOR )(?<!KEY )UPDATE)\b")
_CANCEL_REQUEST = (80877102).to_bytes(4, "big")


class FaultProxy:
    """What passes is understood as far as it takes to know a commit.

    A statement writes when its text holds INSERT INTO, UPDATE or DELETE FROM. A commit is the Sync behind a Bind of
    such a statement outside a transaction block, where the server executes at once and commits at the Sync; a simple
    query that writes there; and the COMMIT of a block in which something wrote. Without TLS only.
    """

    def __init__(self, upstream: DatabaseUrl) -> None:
        self.commit_count = self.cut_count = 0
        self._upstream = upstream
        self._rng = Random()
        self._delay_seconds = self._cut_probability = 0.0
        self._loop = asyncio.new_event_loop()
        self._moving = asyncio.Event()
        self._moving.set()
        self._stopped = asyncio.Event()
        self._port = 0

    def url(self) -> DatabaseUrl:
        """The upstream's database as it is reached through here."""
        hosts = (("127.0.0.1", self._port),)
        return DatabaseUrl(hosts=hosts, user=self._upstream.user, database=self._upstream.database, sslmode="disable")

    def pass_all(self) -> None:
        """Lets everything through, also what was held back."""
        self._delay_seconds = self._cut_probability = 0.0
        self._loop.call_soon_threadsafe(self._moving.set)

    def blackhole(self) -> None:
        """Moves nothing, either way: connections stay open, new ones are let in, none gets an answer."""
        self._loop.call_soon_threadsafe(self._moving.clear)

    def delay_commits(self, longest_seconds: float, rng: Random) -> None:
        """Holds every commit back for a while: the server has done its work, holds its locks and shows nothing."""
        self._delay_seconds, self._rng = longest_seconds, rng

    def cut_commits(self, probability: float, rng: Random) -> None:
        """Drops connections between a commit, which is done, and its answer, of which nothing arrives."""
        self._cut_probability, self._rng = probability, rng

    async def _serve(self, started: threading.Event) -> None:
        server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self._port = server.sockets[0].getsockname()[1]
        started.set()
        await self._stopped.wait()
        server.close()
        links = asyncio.all_tasks() - {asyncio.current_task()}
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)

    async def _carry(self, reader: StreamReader, writer: StreamWriter) -> None:
        upstream_writer = None
        try:
            await self._moving.wait()
            ((host, port),) = self._upstream.hosts
            if host.startswith("/"):
                upstream_reader, upstream_writer = await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
            else:
                upstream_reader, upstream_writer = await asyncio.open_connection(host, port)
            link = _Link(self)
            pumps = [
                asyncio.ensure_future(link.carry_requests(reader, upstream_writer)),
                asyncio.ensure_future(link.carry_answers(upstream_reader, writer)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # the server is down, or the proxy stops
        finally:
            for each in filter(None, (writer, upstream_writer)):
                each.transport.abort()

    async def _forward(self, writer: StreamWriter, data: bytes) -> None:
        await self._moving.wait()
        writer.write(data)
        await writer.drain()


class _Link:
    """One connection."""

    def __init__(self, proxy: FaultProxy) -> None:
        self._proxy = proxy
        self._writes: dict[bytes, bool] = {}
        self._is_writing = self._is_in_block = self._is_cut = False

    async def carry_requests(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Ends with the client, as `asyncio.IncompleteReadError`."""
        size = await reader.readexactly(4)
        startup = await reader.readexactly(int.from_bytes(size, "big") - 4)
        await self._proxy._forward(writer, size + startup)
        if startup.startswith(_CANCEL_REQUEST):
            await reader.read()
        while True:
            kind, message = await _read_message(reader)
            if self._is_commit(kind, message[5:]):
                self._is_writing = False
                self._proxy.commit_count += 1
                self._is_cut = self._proxy._rng.random() < self._proxy._cut_probability
                await asyncio.sleep(self._proxy._rng.random() * self._proxy._delay_seconds)
            await self._proxy._forward(writer, message)

    def _is_commit(self, kind: bytes, body: bytes) -> bool:
        match kind:
            case b"P":
                name, text = body.split(b"\0", 2)[:2]
                self._writes[name] = bool(_WRITE.search(text))
            case b"B":
                self._is_writing |= self._writes.get(body.split(b"\0", 2)[1], False)
            case b"Q":
                self._is_writing |= bool(_WRITE.search(body))
                return self._is_writing and (not self._is_in_block or body.startswith(b"COMMIT"))
            case b"S":
                return self._is_writing and not self._is_in_block
        return False

    async def carry_answers(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Ends with the server, as `asyncio.IncompleteReadError`, or where the connection is cut."""
        while True:
            kind, message = await _read_message(reader)
            if kind == b"Z":
                self._is_in_block = message[5:] != b"I"
                self._is_writing &= self._is_in_block
                if self._is_cut:
                    self._proxy.cut_count += 1
                    return
            if not self._is_cut:
                await self._proxy._forward(writer, message)


async def _read_message(reader: StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readexactly(5)
    return head[:1], head + await reader.readexactly(int.from_bytes(head[1:], "big") - 4)


@contextmanager
def fault_proxy(upstream: DatabaseUrl) -> Iterator[FaultProxy]:
    """A proxy in a thread of its own, which lets everything through until it is told otherwise."""
    proxy = FaultProxy(upstream)
    started = threading.Event()
    thread = threading.Thread(target=proxy._loop.run_until_complete, args=(proxy._serve(started),))
    thread.start()
    try:
        started.wait(10)
        yield proxy
    finally:
        proxy._loop.call_soon_threadsafe(proxy._stopped.set)
        thread.join()
        proxy._loop.close()
