"""Slow, greedy and broken clients, on a real socket."""

import asyncio
import json
import socket
import time
from asyncio import StreamReader, StreamWriter, gather
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest

from app.embedded import EmbeddedServer
from app.protocol import LINGER_SECONDS
from tests.conftest import TEMPLATE, append, new_conversation, run_sql
from tests.processes import Service, run_verbatim, serving, text_of

MEGABYTE = 2**20


@pytest.fixture(scope="module")
def own_database(template: EmbeddedServer) -> Iterator[str]:
    """The URL of a database of this module's own."""
    run_sql(template.url(), "CREATE DATABASE {} TEMPLATE {}", "protocol", TEMPLATE)
    yield text_of(template.url("protocol"))
    run_sql(template.url(), "DROP DATABASE {} WITH (FORCE)", "protocol")


@pytest.fixture(scope="module")
def service(own_database: str) -> Iterator[Service]:
    with serving(DATABASE_URL=own_database, VERBATIM_CONNECTION_LIMIT=400, VERBATIM_KEEP_ALIVE_SECONDS=1) as service:
        yield service


@pytest.fixture(scope="module")
def key(own_database: str) -> str:
    return new_key(own_database, "--user", "alice")


@pytest.fixture(scope="module")
def unbound_key(own_database: str) -> str:
    return new_key(own_database)


def new_key(url: str, *options: str) -> str:
    return run_verbatim("keys", "create", "--tenant", "acme", *options, DATABASE_URL=url).stdout.strip()


@asynccontextmanager
async def connected(service: Service) -> AsyncIterator[tuple[StreamReader, StreamWriter]]:
    host, port = service.wait_for_address().removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def say(service: Service, *pieces: bytes) -> tuple[int, dict[str, str], bytes]:
    """What the service answers to bytes, as far as it takes them, before it closes the connection."""
    async with connected(service) as (reader, writer):
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
        except ConnectionError:
            pass  # it has heard enough
        head, _, body = (await asyncio.wait_for(reader.read(), 20)).partition(b"\r\n\r\n")
    status_line, *lines = head.decode().split("\r\n")
    return int(status_line.split()[1]), dict(line.lower().split(": ", 1) for line in lines), body


def rss_bytes(service: Service) -> int:
    for line in Path(f"/proc/{service.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    raise AssertionError


async def liveness_seconds(service: Service) -> float:
    begun_at = time.perf_counter()
    async with connected(service) as (reader, writer):
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b"200" in await reader.readline()
    return time.perf_counter() - begun_at


BROKEN = {
    "no HTTP": b"hello\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00" + b"x" * 200,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a space in a name": b"GET / HTTP/1.1\r\nHo st: x\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
    "a length and chunks": b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a negative length": b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    "a NUL in a value": b"GET / HTTP/1.1\r\nX: a\0b\r\n\r\n",
    "an unknown method": b"STEAL / HTTP/1.1\r\n\r\n",
    "no path": b"GET HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("name", BROKEN)
async def test_broken_http_is_answered_with_a_problem(service: Service, name: str) -> None:
    status, headers, body = await say(service, BROKEN[name])
    problem = json.loads(body)
    assert (status, problem["type"]) == (400, "urn:verbatim:problem:invalid-input")
    assert (headers["content-type"], headers["connection"]) == ("application/problem+json", "close")
    assert headers["x-request-id"] == problem["request_id"]
    assert problem["request_id"] in service.errors


@pytest.mark.parametrize("head", [
    b"GET /healthz HTTP/1.1\r\nX: %s\r\n\r\n" % (b"x" * 40_000),
    b"GET /healthz?%s HTTP/1.1\r\n\r\n" % (b"x" * 40_000),
    b"GET /healthz HTTP/1.1\r\n%s\r\n" % (b"X: y\r\n" * 20_000),
    b"GET /healthz HTTP/1.1\r\n%s: y\r\n\r\n" % (b"x" * 40_000),
], ids=["a value", "a query", "many", "a name"])  # fmt: skip
async def test_a_large_head_is_refused(service: Service, head: bytes) -> None:
    status, headers, body = await say(service, head)
    assert (status, json.loads(body)["type"]) == (431, "urn:verbatim:problem:head-too-large")
    assert headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("request_of", "code"),
    [
        (b"GET %b HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 40_000 + b"\r\n\r\n", "head_too_large"),
        (b"GET %b HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 40_000, "head_too_large"),
        (b"GET %b HTTP/9.1\r\nHost: x\r\n\r\n", "invalid_input"),
    ],
)
async def test_a_request_that_is_none_is_answered_in_the_words_of_its_door(
    service: Service, request_of: bytes, code: str
) -> None:
    _, headers, body = await say(service, request_of % b"/openai/v1/models?a=b")
    assert headers["content-type"] == "application/json"
    assert json.loads(body)["error"]["code"] == code
    _, headers, _ = await say(service, request_of % b"/v1/conversations?a=/openai/v1/models")
    assert headers["content-type"] == "application/problem+json"


async def test_a_head_may_be_as_large_as_the_limit(service: Service) -> None:
    status, _, _ = await say(service, b"GET /healthz HTTP/1.1\r\nConnection: close\r\nX: %s\r\n\r\n" % (b"x" * 32_000))
    assert status == 200


@pytest.mark.parametrize("opening", [
    b"GET /healthz HTTP/1.1\r\nX: ",
    b"POST /v1/conversations HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;",
    b"POST /v1/conversations HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX: ",
], ids=["a header", "a chunk's extension", "a trailer"])  # fmt: skip
async def test_what_has_no_end_takes_no_memory(service: Service, opening: bytes) -> None:
    await liveness_seconds(service)
    before = rss_bytes(service)
    with suppress(ConnectionError):  # it hangs up on who goes on talking
        await say(service, opening, *[b"x" * MEGABYTE] * 60)
    assert rss_bytes(service) - before < 20 * MEGABYTE
    assert await liveness_seconds(service) < 1


@pytest.mark.parametrize("is_in_trailer", [("Authorization", "X-User-Id"), ("X-User-Id",), ()])
async def test_a_trailer_says_nothing_of_who_asks(
    service: Service, unbound_key: str, is_in_trailer: tuple[str, ...]
) -> None:
    lines = {"Authorization": f"Bearer {unbound_key}", "X-User-Id": "mallory"}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if name not in is_in_trailer)
    trailer = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if name in is_in_trailer)
    request = "POST /v1/conversations HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
    request += f"{head}Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n{trailer}\r\n"
    status, _, _ = await say(service, request.encode())
    assert status == {2: 401, 1: 400, 0: 201}[len(is_in_trailer)]


@pytest.mark.faults
async def test_two_hundred_half_open_requests_leave_the_service_alive_and_are_ended(service: Service) -> None:
    openings = [
        b"",
        b"GET /healthz HT",
        b"GET /healthz HTTP/1.1\r\nX: y\r\n",
        b"POST /v1/conversations HTTP/1.1\r\nContent-Length: 9\r\n\r\nx",  # refused, and the rest never comes
    ]

    async def hold(opening: bytes) -> tuple[float, bytes]:
        begun_at = time.perf_counter()
        async with connected(service) as (reader, writer):
            writer.write(opening)
            said = await asyncio.wait_for(reader.read(), 30)
            return time.perf_counter() - begun_at, said

    held = [asyncio.create_task(hold(opening)) for opening in openings * 50]
    slowest = 0.0
    for _ in range(20):
        await asyncio.sleep(0.1)
        slowest = max(slowest, await liveness_seconds(service))
    assert slowest < 1
    ended = await gather(*held)
    assert max(seconds for seconds, _ in ended) < 20
    assert {said.partition(b"\r\n")[0] for _, said in ended} == {
        b"",
        b"HTTP/1.1 408 Request Timeout",
        b"HTTP/1.1 401 Unauthorized",
    }


@pytest.mark.faults
async def test_a_trickle_keeps_nothing_open(service: Service) -> None:
    """Each byte is new, and the request does not get longer."""
    async with connected(service) as (reader, writer):
        writer.write(b"GET /healthz HTTP/1.1\r\nX: ")
        begun_at = time.perf_counter()
        while not reader.at_eof() and time.perf_counter() - begun_at < 20:
            writer.write(b"x")
            await asyncio.sleep(0.2)
            if reader._buffer:
                break
        assert time.perf_counter() - begun_at < 15
        assert (await reader.readline()).startswith(b"HTTP/1.1 408")


async def said_at_length(client: httpx.AsyncClient, count: int) -> str:
    """A conversation of messages of a megabyte."""
    path = await new_conversation(client)
    for _ in range(count):
        assert (await append(client, path, "x" * MEGABYTE)).status_code == 201
    return path


@pytest.mark.faults
async def test_who_does_not_read_is_cut_off(service: Service, key: str) -> None:
    """Ten clients ask for 7 MB each and read none of it."""
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=service.wait_for_address(), headers=headers, timeout=30) as client:
        path = await said_at_length(client, 9)
        assert len((await client.get(f"{path}/messages")).content) > 7 * 10**6
        before = rss_bytes(service)
        request = f"GET {path}/messages HTTP/1.1\r\nAuthorization: {headers['Authorization']}\r\n\r\n".encode()

        async def ignore() -> None:
            async with connected(service) as (_, writer):
                writer.write(request)
                await asyncio.sleep(60)  # until the service has enough

        tasks = [asyncio.create_task(ignore()) for _ in range(10)]
        await asyncio.sleep(3)
        held = rss_bytes(service) - before
        assert await liveness_seconds(service) < 1
        assert held < 100 * MEGABYTE
        deadline = time.monotonic() + 30
        while connection_count(service) > 2 and time.monotonic() < deadline:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.5)
        assert connection_count(service) <= 2
        for task in tasks:
            task.cancel()
        await gather(*tasks, return_exceptions=True)


def connection_count(service: Service) -> int:
    """Of its clients."""
    port = f":{int(service.wait_for_address().rpartition(':')[2]):04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(port) and row[3] not in {"06", "0A"} for row in rows)  # TIME_WAIT, LISTEN


async def test_too_many_connections_are_refused_and_the_others_go_on(service: Service) -> None:
    address = service.wait_for_address().removeprefix("http://").split(":")
    held = [await asyncio.open_connection(address[0], int(address[1])) for _ in range(400)]
    status, headers, body = await say(service)
    assert (status, headers["retry-after"], json.loads(body)["status"]) == (503, "1", 503)
    reader, writer = held[0]
    writer.write(b"GET /healthz HTTP/1.1\r\n\r\n")
    assert b"200" in await reader.readline()
    for _, writer in held:
        writer.transport.abort()
    await asyncio.sleep(0.2)
    assert await liveness_seconds(service) < 1


async def test_an_answer_to_a_body_that_is_too_long_arrives(service: Service, key: str) -> None:
    """Though the client is still sending."""
    head = f"POST /v1/conversations HTTP/1.1\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"
    head += "Connection: close\r\n"
    for framing in (f"Content-Length: {33 * MEGABYTE}\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n"):
        piece = b"x" * MEGABYTE
        pieces = [piece] * 33 if "Length" in framing else [b"100000\r\n%s\r\n" % piece] * 33
        before = rss_bytes(service)
        status, _, body = await say(service, (head + framing).encode(), *pieces)
        assert (status, json.loads(body)["type"]) == (413, "urn:verbatim:problem:too-large")
        assert rss_bytes(service) - before < 120 * MEGABYTE


@pytest.mark.faults
async def test_who_was_refused_does_not_stay(template: EmbeddedServer) -> None:
    """Though it never hangs up; else a handful of them would keep everybody out."""
    url = text_of(template.url("protocol"))
    with serving(DATABASE_URL=url, VERBATIM_CONNECTION_LIMIT=4) as small:
        host, port = small.wait_for_address().removeprefix("http://").split(":")
        held = [await asyncio.open_connection(host, int(port)) for _ in range(4)]
        for _, writer in held:
            writer.write(b"\x01\r\n\r\n")
        await asyncio.sleep(LINGER_SECONDS + 0.5)
        assert await liveness_seconds(small) < 1
        for _, writer in held:
            writer.transport.abort()


async def test_a_connection_is_closed_in_time_after_an_answer_that_came_before_the_body(service: Service) -> None:
    async with connected(service) as (reader, writer):
        writer.write(b"POST /v1/conversations HTTP/1.1\r\nContent-Length: 9\r\n\r\n")
        assert b"401" in await reader.readline()
        writer.write(b"{" * 9)
        said = await asyncio.wait_for(reader.read(), 4)
        assert b"HTTP/1.1" not in said


async def test_an_upgrade_takes_no_body_for_a_request(service: Service, key: str) -> None:
    head = f"POST /v1/conversations HTTP/1.1\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n"
    smuggled = b"GET /docs HTTP/1.1\r\n\r\n"
    for framing in (b"Content-Length: %d\r\n\r\n" % len(smuggled), b"Transfer-Encoding: chunked\r\n\r\n"):
        async with connected(service) as (reader, writer):
            writer.write(head.encode() + upgrade + framing)
            await asyncio.sleep(0.1)
            writer.write(smuggled)
            said = await asyncio.wait_for(reader.read(), 10)
        assert (said[:12], said.count(b"HTTP/1.1 ")) == (b"HTTP/1.1 400", 1)
    async with connected(service) as (reader, writer):
        writer.write(b"GET /healthz HTTP/1.1\r\n" + upgrade + b"\r\n")
        assert b"200" in await reader.readline()


@pytest.mark.parametrize("tail", [b"x", b"\x01\r\n\r\n", b"GET"])
async def test_what_was_asked_before_the_garbage_is_answered(service: Service, key: str, tail: bytes) -> None:
    body = b'{"title": "kept"}'
    head = f"POST /v1/conversations HTTP/1.1\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"
    async with connected(service) as (reader, writer):
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body + tail)
        assert b"201" in await asyncio.wait_for(reader.readline(), 10)


async def test_a_broken_chunk_is_answered_once(service: Service, key: str) -> None:
    for credentials in (key, "nobody"):
        head = f"POST /v1/conversations HTTP/1.1\r\nAuthorization: Bearer {credentials}\r\n"
        head += "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        async with connected(service) as (reader, writer):
            writer.write(head.encode())
            await asyncio.sleep(0.2)
            writer.write(b"zz\r\n")
            said = await asyncio.wait_for(reader.read(), 10)
        expected = b"HTTP/1.1 400" if credentials == key else b"HTTP/1.1 401"
        assert (said[:12], said.count(b"HTTP/1.1 ")) == (expected, 1)


@pytest.mark.faults
async def test_a_slow_reader_gets_all_of_a_page(service: Service, key: str) -> None:
    """At 80 KB a second, as over a bad line."""
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=service.wait_for_address(), headers=headers, timeout=30) as client:
        path = await said_at_length(client, 4)
    request = f"GET {path}/messages HTTP/1.1\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\r\n"
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        host, port = service.wait_for_address().removeprefix("http://").split(":")
        slow.connect((host, int(port)))
        slow.sendall(request.encode())
        size = 0
        while piece := await asyncio.to_thread(slow.recv, 8192):
            size += len(piece)
            await asyncio.sleep(len(piece) / 80_000)
    assert size > 4 * MEGABYTE


async def test_requests_may_come_in_one_piece(service: Service, key: str) -> None:
    """As a client that pipelines sends them, also with bodies."""
    body = b'{"title": "x"}'
    post = f"POST /v1/conversations HTTP/1.1\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"
    request = f"{post}Content-Length: {len(body)}\r\n\r\n".encode() + body
    last = b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n"
    async with connected(service) as (reader, writer):
        writer.write(request * 20 + last)
        said = await asyncio.wait_for(reader.read(), 20)
    assert (said.count(b"HTTP/1.1 201 Created"), said.count(b"HTTP/1.1 200 OK")) == (20, 1)
