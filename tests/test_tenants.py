"""Many tenants at once on few connections, with requests given up and refused in between."""

import asyncio
import random
from asyncio import gather
from collections import Counter

import httpx
import pytest
from msgspec.structs import replace

from app.database_url import DatabaseUrl
from app.settings import Settings
from tests.conftest import NewKey, client_of, running

HOME = "/v1/conversations"


class Tenant:
    """A user who says nothing but one word of their own, and hears nothing else."""

    def __init__(self, client: httpx.AsyncClient, word: str, randomness: random.Random) -> None:
        self.client, self.word, self.random = client, word, randomness
        self.paths: list[str] = []
        self.statuses: Counter[int | str] = Counter()
        self.said_count = 0

    async def ask(self, method: str, path: str, body: object = None) -> httpx.Response | None:
        """The answer, None when the request was given up."""
        request = asyncio.ensure_future(self.client.request(method, path, json=body))
        if self.random.random() < 0.05:
            asyncio.get_running_loop().call_later(self.random.random() / 100, request.cancel)
        try:
            answer = await request
        except asyncio.CancelledError:
            self.statuses["given up"] += 1
            return None
        self.statuses[answer.status_code] += 1
        return answer

    async def act(self, others: "list[Tenant]") -> None:
        """One request: something is said, read, listed, or asked for that is another's."""
        if not self.paths:
            made = await self.ask("POST", HOME, {"title": self.word})
            if made is not None and made.status_code == 201:
                self.paths.append(made.headers["Location"])
            return
        path = self.random.choice(self.paths)
        other = self.random.choice(others)
        match self.random.randrange(6):
            case 0 | 1:
                content = {"role": "user", "content": self.word}
                answer = await self.ask("POST", f"{path}/messages", content)
                self.said_count += answer is not None and answer.status_code == 201
            case 2:
                self.check(await self.ask("GET", f"{path}/messages?order=desc&limit=5"), "content")
            case 3:
                self.check(await self.ask("GET", f"{HOME}?limit=5"), "title")
            case 4 if other.paths and other is not self:
                answer = await self.ask("GET", f"{other.paths[0]}/messages")
                assert answer is None or answer.status_code in {404, 503}
            case _:
                answer = await self.ask("POST", f"{path}/messages", {"role": "nobody", "content": self.word})
                assert answer is None or answer.status_code in {400, 503}

    def check(self, answer: httpx.Response | None, member: str) -> None:
        if answer is not None and answer.status_code == 200:
            assert {entry[member] for entry in answer.json()["data"]} <= {self.word}


@pytest.mark.parametrize("request_count", [1000, pytest.param(20_000, marks=pytest.mark.faults)])
async def test_nobody_hears_another_on_two_connections(
    settings: Settings, url: DatabaseUrl, new_key: NewKey, request_count: int
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    async with running(replace(settings, pool_size=2), url) as app:
        keys = [await new_key(tenant=f"tenant-{number}", user="u") for number in range(50)]
        clients = [client_of(app, key) for key in keys]
        tenants = [
            Tenant(client, f"word-{number}", random.Random(seed + number)) for number, client in enumerate(clients)
        ]

        async def live(tenant: Tenant) -> None:
            for _ in range(request_count // 50):
                await tenant.act(tenants)

        await gather(*(live(tenant) for tenant in tenants))
        statuses = sum((tenant.statuses for tenant in tenants), Counter())
        assert statuses.keys() <= {200, 201, 400, 404, 503, "given up"}, seed
        assert min(statuses[status] for status in (200, 201, 400, 404, 503)) > request_count // 200, statuses
        for tenant in tenants:
            page = (await tenant.client.get(f"{tenant.paths[0]}/messages?limit=1000")).json()
            assert {message["content"] for message in page["data"]} <= {tenant.word}, seed
        await gather(*(client.aclose() for client in clients))
