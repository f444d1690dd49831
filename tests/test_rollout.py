"""A service is told to stop, and nobody notices: one alone, and replicas one after the other under load."""

import asyncio
import signal
import time
from asyncio import gather
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack

import httpx
import pytest

from app.database_url import DatabaseUrl
from tests.conftest import NewKey, contents, problem
from tests.processes import Service, serving, text_of

HOME = "/v1/conversations"
RESTART_COUNT = 10


@pytest.fixture
def service(url: DatabaseUrl) -> Iterator[Service]:
    with serving(DATABASE_URL=text_of(url), VERBATIM_DRAIN_SECONDS=1.5) as service:
        yield service


async def wait_for_exit(service: Service, seconds: float) -> int:
    return await asyncio.to_thread(service.process.wait, seconds)


async def until_ready(address: str) -> None:
    async with httpx.AsyncClient(base_url=address) as client, asyncio.timeout(30):
        while True:
            try:
                if (await client.get("/readyz")).status_code == 200:
                    return
            except httpx.TransportError:
                pass  # it does not listen yet
            await asyncio.sleep(0.05)


@pytest.mark.faults
async def test_a_service_that_is_about_to_stop_says_so_and_goes_on(service: Service, new_key: NewKey) -> None:
    headers = {"Authorization": f"Bearer {await new_key(user='alice')}"}
    async with httpx.AsyncClient(base_url=service.wait_for_address(), headers=headers) as client:
        assert "connection" not in (await client.get("/readyz")).headers
        service.process.send_signal(signal.SIGTERM)
        begun_at = time.monotonic()
        await asyncio.sleep(0.3)
        ready = await client.get("/readyz")
        assert (ready.status_code, problem(ready)) == (503, "unavailable")
        assert (await client.get("/healthz")).status_code == 200
        made = await client.post(HOME)
        assert (made.status_code, made.headers["connection"]) == (201, "close")
        assert await wait_for_exit(service, 10) == 0
        assert 1.3 < time.monotonic() - begun_at < 6


@pytest.mark.faults
async def test_a_second_signal_ends_the_wait(url: DatabaseUrl) -> None:
    with serving(DATABASE_URL=text_of(url), VERBATIM_DRAIN_SECONDS=60) as service:
        service.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.5)
        assert service.process.poll() is None
        service.process.send_signal(signal.SIGTERM)
        assert await wait_for_exit(service, 10) == 0


@pytest.mark.faults
async def test_what_is_in_flight_is_finished(service: Service, new_key: NewKey) -> None:
    """Also when the drain is over before its body is there."""
    arriving = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b'{"title": '
        arriving.set()
        await asyncio.sleep(2.5)
        yield b'"late"}'

    headers = {"Authorization": f"Bearer {await new_key(user='alice')}", "Content-Type": "application/json"}
    async with httpx.AsyncClient(base_url=service.wait_for_address(), headers=headers, timeout=10) as client:
        posting = asyncio.create_task(client.post(HOME, content=body()))
        await arriving.wait()
        service.process.send_signal(signal.SIGTERM)
        answer = await posting
        assert (answer.status_code, answer.json()["title"]) == (201, "late")
    assert await wait_for_exit(service, 10) == 0


class Gateway:
    """As gateways do: sends each request once, to a replica that said it was ready when it was last asked."""

    def __init__(self, addresses: list[str], key: str) -> None:
        headers = {"Authorization": f"Bearer {key}"}
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=32)
        self._clients = [
            httpx.AsyncClient(base_url=address, headers=headers, limits=limits, timeout=20) for address in addresses
        ]
        self._is_ready = [True for _ in addresses]
        self._turn = 0
        self._probes = [asyncio.create_task(self._probe(place)) for place in range(len(addresses))]

    async def _probe(self, place: int) -> None:
        while True:
            try:
                self._is_ready[place] = (await self._clients[place].get("/readyz", timeout=2)).status_code == 200
            except httpx.TransportError:
                self._is_ready[place] = False
            await asyncio.sleep(0.1)

    async def request(self, method: str, path: str, **kwargs: object) -> httpx.Response:
        self._turn += 1
        ready = [place for place, is_ready in enumerate(self._is_ready) if is_ready]
        client = self._clients[ready[self._turn % len(ready)]]
        return await client.request(method, path, **kwargs)

    async def close(self) -> None:
        for probe in self._probes:
            probe.cancel()
        await gather(*self._probes, return_exceptions=True)
        await gather(*(client.aclose() for client in self._clients))


@pytest.mark.faults
async def test_replicas_are_replaced_under_load_and_no_request_is_lost(url: DatabaseUrl, new_key: NewKey) -> None:
    key = await new_key(user="alice")
    with ExitStack() as stack:

        def start(port: int = 0) -> Service:
            variables = {"DATABASE_URL": text_of(url), "VERBATIM_DRAIN_SECONDS": 1.5, "VERBATIM_PORT": port}
            return stack.enter_context(serving(**variables))

        replicas = [start(), start()]
        addresses = [replica.wait_for_address() for replica in replicas]
        gateway = Gateway(addresses, key)
        paths = [(await gateway.request("POST", HOME)).headers["Location"] for _ in range(8)]
        outcomes: Counter[str] = Counter()
        said: dict[str, list[str]] = {path: [] for path in paths}
        is_over = asyncio.Event()

        async def talk(path: str) -> None:
            while not is_over.is_set():
                text = f"{len(said[path])}"
                try:
                    answer = await gateway.request("POST", f"{path}/messages", json={"role": "user", "content": text})
                    read = await gateway.request("GET", f"{path}/messages", params={"order": "desc", "limit": 1})
                except httpx.TransportError as error:
                    outcomes[type(error).__name__] += 1
                    return
                outcomes[f"{answer.status_code} {read.status_code}"] += 1
                said[path].append(text)

        talks = [asyncio.create_task(talk(path)) for path in paths]
        for number in range(RESTART_COUNT):
            place = number % 2
            await asyncio.sleep(0.5)
            replicas[place].process.send_signal(signal.SIGTERM)
            begun_at = time.monotonic()
            assert await wait_for_exit(replicas[place], 10) == 0
            assert time.monotonic() - begun_at < 10
            replicas[place] = await asyncio.to_thread(start, int(addresses[place].rpartition(":")[2]))
            await until_ready(addresses[place])
            await asyncio.sleep(0.3)  # a probe of the gateway
        is_over.set()
        await gather(*talks)
        assert outcomes.keys() == {"201 200"}, outcomes
        assert outcomes["201 200"] > 50 * RESTART_COUNT
        await gateway.close()
        async with httpx.AsyncClient(base_url=addresses[0], headers={"Authorization": f"Bearer {key}"}) as client:
            for path in paths:
                assert (await contents(client, path))[:1000] == said[path][:1000]
