"""Loads over HTTP: `wrk` for closed loops where it is installed, else our own driver; that one alone for open loops.

Run as a module this is our driver, which reads its orders from stdin and answers on stdout: it has a process of its
own, so that it is in nobody's way.
"""

import asyncio
import random
import re
import shutil
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory
from typing import cast

import msgspec
import uvloop
from msgspec import Struct

from tests.bench.outcomes import Outcome, quantile
from tests.bench.requests import UNIQUE, Address

_LUA = Path(__file__).with_name("wrk.lua")
_TAIL_SECONDS = 5
_TICK_SECONDS = 0.0005


class Orders(Struct, kw_only=True, frozen=True):
    """What to send: at a rate, or else again as soon as an answer is there."""

    address: Address
    requests: list[bytes]
    connections: int
    seconds: float
    rate: float | None = None
    is_ordered: bool = False
    """Takes the requests in turn, not at random."""


def run_closed(orders: Orders) -> Outcome:
    """How many answers come when each connection asks again at once."""
    return _run_wrk(orders) if shutil.which("wrk") else run_driver(orders)


def _run_wrk(orders: Orders) -> Outcome:
    with TemporaryDirectory() as directory:
        path = Path(directory, "requests")
        path.write_bytes(b"".join(b"%010d" % len(request) + request for request in orders.requests))
        url = f"http://{orders.address.host}:{orders.address.port}"
        command = ["wrk", "-t1", f"-c{orders.connections}", f"-d{round(orders.seconds)}s", "--timeout", "10s"]
        command += ["-s", str(_LUA), url, "--", str(path), UNIQUE.decode(), token_hex(8)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"^result (\d+) (\d+) (\d+) (\d+) (\d+)$", done.stdout, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"wrk failed: {done.stdout[-1000:]}{done.stderr[-1000:]}")
    count, microseconds, failed, p50, p99 = map(int, found.groups())
    return Outcome(
        count=count,
        per_second=count * 1e6 / microseconds,
        failed_count=failed,
        p50_ms=p50 / 1000,
        p99_ms=p99 / 1000,
    )


def run_driver(orders: Orders) -> Outcome:
    """What our own driver sees."""
    command = [sys.executable, "-m", "tests.bench.load"]
    done = subprocess.run(command, input=msgspec.msgpack.encode(orders), capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the driver failed: {done.stderr.decode()[-2000:]}")
    return msgspec.msgpack.decode(done.stdout, type=Outcome)


class _Connection(asyncio.Protocol):
    """One request at a time; the answer must say how long it is."""

    def __init__(self, driver: "_Driver") -> None:
        self._driver = driver
        self._answer = b""
        self._end: int | None = None
        self._transport = asyncio.Transport()
        self.due_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it

    def connection_lost(self, _error: Exception | None) -> None:
        self._driver.lose()

    def send(self, request: bytes, due_at: float) -> None:
        self.due_at = due_at
        self._transport.write(request)

    def close(self) -> None:
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._answer += data
        if self._end is None:
            head, blank, _ = self._answer.partition(b"\r\n\r\n")
            if not blank:
                return
            (length,) = re.findall(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
            self._end = len(head) + 4 + int(length)
        if len(self._answer) >= self._end:
            is_good = self._answer[9:10] == b"2"
            self._answer, self._end = b"", None
            self._driver.take(self, is_good=is_good)


class _Driver:
    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._place = 0
        self._latencies_ms: list[float] = []
        self._failed_count = self._asked_count = 0
        self._is_over = False
        self._idle: deque[_Connection] = deque()
        self._due: deque[float] = deque()

    async def run(self) -> Outcome:
        loop = asyncio.get_running_loop()
        host, port = self._orders.address.host, self._orders.address.port
        connections = [
            (await loop.create_connection(lambda: _Connection(self), host, port))[1]
            for _ in range(self._orders.connections)
        ]
        self._begun_at = time.perf_counter()
        self._ends_at = self._begun_at + self._orders.seconds
        if self._orders.rate is None:
            for connection in connections:
                self._send(connection, self._begun_at)
            await asyncio.sleep(self._orders.seconds)
        else:
            self._idle.extend(connections)
            await self._send_at(self._orders.rate)
        await self._wait_for_the_rest()
        seconds = time.perf_counter() - self._begun_at
        self._is_over = True
        for connection in connections:
            connection.close()
        return self._outcome(seconds)

    async def _send_at(self, rate: float) -> None:
        """Each request has its time; one that finds no idle connection waits, and is late by that."""
        place = 0
        while (now := time.perf_counter()) < self._ends_at:
            while (due_at := self._begun_at + place / rate) <= now:
                place += 1
                if self._idle:
                    self._send(self._idle.popleft(), due_at)
                else:
                    self._due.append(due_at)
            await asyncio.sleep(max(_TICK_SECONDS, due_at - now))

    async def _wait_for_the_rest(self) -> None:
        late_at = time.perf_counter() + _TAIL_SECONDS
        while len(self._latencies_ms) < self._asked_count + len(self._due) and time.perf_counter() < late_at:  # noqa: ASYNC110  # to be told of each answer would be slower
            await asyncio.sleep(0.01)

    def _send(self, connection: _Connection, due_at: float) -> None:
        requests = self._orders.requests
        place = self._asked_count % len(requests) if self._orders.is_ordered else random.randrange(len(requests))
        self._asked_count += 1
        connection.send(requests[place].replace(UNIQUE, b"%d-%s" % (self._asked_count, _RUN)), due_at)

    def take(self, connection: _Connection, *, is_good: bool) -> None:
        now = time.perf_counter()
        self._latencies_ms.append((now - connection.due_at) * 1000)
        self._failed_count += not is_good
        if self._orders.rate is None:
            if now < self._ends_at:
                self._send(connection, now)
        elif self._due:
            self._send(connection, self._due.popleft())
        else:
            self._idle.append(connection)

    def lose(self) -> None:
        self._failed_count += not self._is_over

    def _outcome(self, seconds: float) -> Outcome:
        unanswered = self._asked_count + len(self._due) - len(self._latencies_ms)
        return Outcome(
            count=len(self._latencies_ms),
            per_second=len(self._latencies_ms) / seconds,
            failed_count=self._failed_count + unanswered,
            p50_ms=quantile(self._latencies_ms, 0.5),
            p99_ms=quantile(self._latencies_ms, 0.99),
            latencies_ms=self._latencies_ms if self._orders.rate or self._orders.is_ordered else None,
        )


_RUN = token_hex(8).encode()

if __name__ == "__main__":
    _orders = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Orders)
    sys.stdout.buffer.write(msgspec.msgpack.encode(uvloop.run(_Driver(_orders).run())))
