"""Replies while clients, replicas, the model and the database fail: the text that is read is the text that is kept."""

import asyncio
import os
import re
import secrets
import signal
import socket
import struct
import time
from asyncio import gather
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, aclosing, contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID, uuid4

import httpx
import msgspec
import pytest
from msgspec import Struct

from app import writers
from app.controllers import events
from app.database import connect
from app.database_url import DatabaseUrl
from app.errors import Unavailable
from app.migrations import migrate
from app.queries import Conn
from app.settings import Settings
from app.sse import RETRY
from app.stores import service_keys
from app.stores.appends import Append
from app.stores.replies import Begin, begin_reply
from tests import live
from tests.conftest import NewKey, new_conversation, problem, run_sql
from tests.fault_proxy import fault_proxy
from tests.model_server import (
    Close,
    Drop,
    Hang,
    Head,
    ModelServer,
    Recorded,
    Send,
    Step,
    Wait,
    chunk,
    model_server,
    text_steps,
)
from tests.postmasters import started_postmaster
from tests.processes import Service, serving, text_of

LEASE_SECONDS = 1.0
SWEEP_SECONDS = LEASE_SECONDS / 5
FLUSH_SECONDS = 0.25
MARGIN_SECONDS = 0.75
"""For what is between a word and its commit, and between the end of a lease and its notice, on a busy machine."""

PATIENCE_SECONDS = 60
"""Nothing here takes so long unless it hangs."""

_ABORT = struct.pack("ii", 1, 0)
_WORDS = ("ada ", "bøb ", "\U0001f600 ", "e\u0301t ", "\n", '"quoted" ', "漢字 ", "\u2028 ")


@pytest.fixture
def seed() -> int:
    """Of every choice that the test makes."""
    seed = int(os.environ.get("TEST_SEED") or secrets.randbelow(2**32))
    print(f"TEST_SEED={seed}")
    return seed


@pytest.fixture
def model() -> Iterator[ModelServer]:
    with model_server() as model:
        yield model


async def until(is_so: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
    async with asyncio.timeout(seconds):
        while not is_so():  # noqa: ASYNC110  # what is waited for comes from everywhere
            await asyncio.sleep(0.02)


def words_of(rng: Random, count: int) -> list[str]:
    return [f"{rng.choice(_WORDS)}{number} " for number in range(count)]


@contextmanager
def replica(url: DatabaseUrl, model: ModelServer, **variables: object) -> Iterator[Service]:
    settings = {
        "DATABASE_URL": text_of(url),
        "VERBATIM_MODEL_BASE_URL": model.url,
        "VERBATIM_MODEL_NAME": "scripted",
        "VERBATIM_REPLY_FLUSH_SECONDS": FLUSH_SECONDS,
    }
    with serving(**(settings | variables)) as service:
        yield service


def api(address: str, key: str) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.AsyncClient(base_url=address, headers=headers, limits=limits, timeout=PATIENCE_SECONDS)


class Event(Struct, frozen=True):
    name: str
    id: str | None
    data: dict[str, Any]


class Reader:
    """A client of one stream, with what it keeps from one connection to the next."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.last_id: str | None = None
        self.connection_count = 0
        self.is_sent_on = False
        """Whether the last stream that began was ended with the word to come back."""
        self._tail = b""

    async def read(
        self, client: httpx.AsyncClient, cut_bytes: int | None = None, method: str = "GET", **request: Any
    ) -> int:
        """Reads until the stream ends, or aborts the connection after so many bytes of it; the status."""
        headers = {"Accept": "text/event-stream", **request.pop("headers", {})}
        if self.last_id is not None and method == "GET":
            headers["Last-Event-ID"] = self.last_id
        path = self.path if method == "GET" else request.pop("path")
        self.connection_count += 1
        self.is_sent_on, self._tail = True, b""
        async with client.stream(method, path, headers=headers, **request) as answer:
            if answer.status_code not in {200, 201}:
                self.refuse(answer.status_code, await answer.aread())
                return answer.status_code
            self.is_sent_on = False
            left_bytes = cut_bytes
            async with aclosing(answer.aiter_raw()) as pieces:
                async for piece in pieces:
                    self._take(piece if left_bytes is None else piece[:left_bytes])
                    if left_bytes is not None and (left_bytes := left_bytes - len(piece)) <= 0:
                        abort(answer)
                        break
        return answer.status_code

    def refuse(self, status: int, body: bytes) -> None:
        assert status in {204, 503}, body

    def _take(self, piece: bytes) -> None:
        *blocks, self._tail = (self._tail + piece).split(b"\n\n")
        for block in blocks:
            self.is_sent_on = block + b"\n\n" == RETRY
            self._take_block(block)

    def _take_block(self, block: bytes) -> None:
        fields = dict(line.split(": ", 1) for line in block.decode().split("\n") if ": " in line)
        self.last_id = fields.get("id", self.last_id)
        if "data" in fields:
            self.take(Event(fields["event"], self.last_id, msgspec.json.decode(fields["data"])))

    def take(self, event: Event) -> None:
        raise NotImplementedError


def abort(answer: httpx.Response) -> None:
    """Has the connection end with a reset."""
    stream = answer.extensions["network_stream"]
    stream.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)


class ReplyReader(Reader):
    """A client of one reply."""

    def __init__(self, conversation: str, question: str) -> None:
        super().__init__("")
        self.conversation, self.question = conversation, question
        self.key = secrets.token_hex(8)
        self.text = ""
        self.ended: dict[str, Any] | None = None

    async def ask(self, client: httpx.AsyncClient, cut_bytes: int | None = None) -> None:
        """Has the reply made, and begins to read it."""
        body = {"messages": [{"role": "user", "content": self.question}]}
        headers = {"Idempotency-Key": self.key}
        path = f"{self.conversation}/replies"
        await self.read(client, cut_bytes, "POST", path=path, json=body, headers=headers)

    async def go_on(self, clients: list[httpx.AsyncClient], rng: Random, cuts: Sequence[int] = ()) -> None:
        """Reads on anywhere until the reply has ended."""
        cuts_left = iter(cuts)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not self.ended:
                client = rng.choice(clients)
                try:
                    if self.path:
                        await self.read(client, next(cuts_left, None))
                    else:
                        await self.ask(client, next(cuts_left, None))
                except httpx.TransportError:
                    await asyncio.sleep(0.05)

    def take(self, event: Event) -> None:
        match event.name:
            case "reply.created":
                assert not self.path or self.last_id == "0"
                self.path = f"{self.conversation}/replies/{event.data['message']['id']}/events"
            case "reply.delta":
                assert event.data["from_char"] == len(self.text), "missing, or repeated"
                self.text += event.data["text"]
                assert event.id == str(len(self.text))
            case "reply.ended":
                assert (event.id, self.ended) == ("end", None)
                self.ended = event.data
            case name:
                pytest.fail(f"a {name}")


async def stored_reply(client: httpx.AsyncClient, reader: ReplyReader) -> dict[str, Any]:
    """The reply as it is kept: the only one of its conversation, behind the question."""
    answer = await client.get(f"{reader.conversation}/messages")
    question, reply = answer.json()["data"]
    assert (question["content"], reply["role"]) == (reader.question, "assistant")
    return reply


async def check_reply(client: httpx.AsyncClient, reader: ReplyReader) -> dict[str, Any]:
    """What was read is what is kept."""
    reply = await stored_reply(client, reader)
    assert reader.text == reply["content"]
    assert reader.ended is not None
    assert reader.ended["message"] == reply
    reader.last_id = "end"
    assert await reader.read(client) == 204
    return reply


def requests_of(model: ModelServer, question: str) -> list[Recorded]:
    return [request for request in model.requests if request.json["messages"][-1]["content"] == question]


async def ask_many(client: httpx.AsyncClient, count: int) -> list[ReplyReader]:
    return [ReplyReader(await new_conversation(client), f"question {number}") for number in range(count)]


@pytest.mark.faults
async def test_a_client_that_is_cut_off_anywhere_reads_the_whole_text(
    url: DatabaseUrl, new_key: NewKey, model: ModelServer, seed: int
) -> None:
    rng = Random(seed)
    key = await new_key(user="alice")
    model.answers(*(text_steps(*words_of(rng, 60), delay_seconds=0.025) for _ in range(20)))
    with replica(url, model) as one, replica(url, model) as other:
        clients = [api(service.wait_for_address(), key) for service in (one, other)]
        readers = await ask_many(clients[0], 20)

        async def read(reader: ReplyReader, rng: Random) -> None:
            await reader.go_on(clients, rng, [rng.randrange(1, 1200) for _ in range(8)])

        await gather(*(read(reader, Random(rng.random())) for reader in readers))
        for reader in readers:
            reply = await check_reply(clients[0], reader)
            (request,) = requests_of(model, reader.question)
            assert (reply["status"], reply["content"]) == ("completed", request.said())
            assert reader.connection_count > 3
        assert len(model.requests) == 20


@pytest.mark.faults
async def test_a_killed_replica_loses_at_most_what_was_said_in_a_flush_interval(
    url: DatabaseUrl, new_key: NewKey, model: ModelServer, connection: Conn, seed: int
) -> None:
    rng = Random(seed)
    key = await new_key(user="alice")
    lost_count, losses, delays = 0, [], []
    with ExitStack() as stack:

        def start(port: int | str = 0) -> Service:
            variables = {"VERBATIM_REPLY_LEASE_SECONDS": LEASE_SECONDS, "VERBATIM_PORT": port}
            return stack.enter_context(replica(url, model, **variables))

        replicas = [start(), start()]
        addresses = [service.wait_for_address() for service in replicas]
        clients = [api(address, key) for address in addresses]
        for number in range(10):
            place = number % 2
            readers = [ReplyReader(await new_conversation(clients[place]), f"{number} {turn}") for turn in range(6)]
            full = {}
            for reader in readers:
                full[reader.question] = words_of(rng, 40)
            model.answers(*(text_steps(*words, delay_seconds=0.02) for words in full.values()))

            async def read(reader: ReplyReader, rng: Random, place: int = place) -> None:
                await asyncio.sleep(rng.uniform(0, 0.2))
                with suppress(httpx.TransportError):
                    await reader.ask(clients[place])
                if not reader.ended:
                    await reader.go_on(clients, rng)

            reading = [asyncio.create_task(read(reader, Random(rng.random()))) for reader in readers]
            await asyncio.sleep(rng.uniform(0.05, 1.1))
            killed_at = time.time()
            replicas[place].close()
            port = addresses[place].rpartition(":")[2]
            replicas[place], *_ = await gather(asyncio.to_thread(start, port), *reading)
            for reader in readers:
                reply = await check_reply(clients[place], reader)
                requests = requests_of(model, reader.question)
                assert len(requests) <= 1
                said = requests[0].said() if requests else ""
                assert said.startswith(reply["content"])
                if reply["status"] == "completed":
                    assert (reply["content"], reader.ended["finish_reason"]) == (said, "stop")
                    continue
                assert (reply["status"], reader.ended["finish_reason"]) == ("incomplete", "lost")
                lost_count += 1
                kept_at = killed_at - FLUSH_SECONDS - MARGIN_SECONDS
                before = requests[0].said(kept_at) if requests else ""
                losses.append(len(said) - len(reply["content"]))
                assert reply["content"].startswith(before), (seed, number)
                ended_at = await connection.fetchval(
                    "SELECT extract(epoch FROM ended_at)::float8 FROM replies WHERE conversation_id = $1",
                    reader.conversation.rpartition("/")[2],
                )
                delays.append(ended_at - killed_at)
                assert delays[-1] < LEASE_SECONDS + SWEEP_SECONDS + MARGIN_SECONDS, (seed, number)
    print(f"{lost_count} lost, at most {max(losses)} characters each, ended after at most {max(delays):.2f} s")
    assert lost_count > 10


def broken_script(rng: Random) -> list[Step]:
    """An answer in pieces that end anywhere, whose server is gone somewhere behind its first byte."""
    (whole,) = [step.data for step in text_steps(*words_of(rng, 40)) if isinstance(step, Send)]
    data = whole[: rng.randrange(1, len(whole))]
    steps: list[Step] = []
    while data:
        size = rng.randrange(1, 300)
        steps += [Send(data[:size]), Wait(0.01)]
        data = data[size:]
    return [*steps, rng.choice([Drop(), Close(), Hang()])]


@pytest.mark.faults
async def test_what_a_model_server_said_before_it_died_is_kept(
    url: DatabaseUrl, new_key: NewKey, model: ModelServer, seed: int
) -> None:
    rng = Random(seed)
    key = await new_key(user="alice")
    model.answers(*(broken_script(rng) for _ in range(20)))
    with replica(url, model, VERBATIM_MODEL_TIMEOUT_SECONDS=1) as service:
        client = api(service.wait_for_address(), key)
        readers = await ask_many(client, 20)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await gather(*(reader.ask(client) for reader in readers))
        for reader in readers:
            reply = await check_reply(client, reader)
            (request,) = requests_of(model, reader.question)
            assert reply["content"] == request.said()
            reason = reader.ended["finish_reason"]
            if b'"finish_reason": "stop"' in b"".join(data for _, data in request.sent):
                assert (reply["status"], reason) == ("completed", "stop")
            else:
                assert (reply["status"], reason) == ("failed", "model-failed")
                assert reader.ended["problem"]["type"] == "urn:verbatim:problem:model-failed"


@pytest.mark.faults
@pytest.mark.parametrize("death", [Drop(), Close()], ids=["reset", "closed"])
async def test_a_model_server_that_dies_before_it_says_anything_is_asked_again_and_then_is_unavailable(
    url: DatabaseUrl, new_key: NewKey, model: ModelServer, death: Step
) -> None:
    key = await new_key(user="alice")
    model.answers([Head(), death], [death], [death], [death], *[text_steps("at last")])
    with replica(url, model) as service:
        client = api(service.wait_for_address(), key)
        first, second = await ask_many(client, 2)
        for reader in (first, second):
            async with asyncio.timeout(PATIENCE_SECONDS):
                await reader.ask(client)
        failed = await check_reply(client, first)
        assert (failed["status"], failed["content"]) == ("failed", "")
        assert first.ended["problem"]["type"] == "urn:verbatim:problem:model-unavailable"
        assert (await check_reply(client, second))["content"] == "at last"
        assert len(model.requests) == 5


@contextmanager
def durable_database() -> Iterator[tuple[Any, DatabaseUrl]]:
    """A PostgreSQL of the test's own, and a migrated database in it."""
    with started_postmaster() as postmaster:
        run_sql(postmaster.url(), "CREATE DATABASE {}", "verbatim")
        migrate(postmaster.url("verbatim"))
        yield postmaster, postmaster.url("verbatim")


async def key_in(url: DatabaseUrl) -> str:
    connection = await connect(url, 5)
    key = service_keys.new_key()
    await service_keys.create_service_key(connection, key, "acme", "alice", is_admin=False)
    await connection.close()
    return key


@pytest.mark.faults
async def test_replies_go_on_through_restarts_and_silences_of_the_database(model: ModelServer, seed: int) -> None:
    rng = Random(seed)
    with durable_database() as (postmaster, url), fault_proxy(url) as proxy:
        key = await key_in(url)
        with replica(proxy.url(), model) as one, replica(url, model) as other:
            clients = [api(service.wait_for_address(), key) for service in (one, other)]
            readers = await ask_many(clients[0], 12)
            model.answers(*(text_steps(*words_of(rng, 200), delay_seconds=0.03) for _ in readers))

            async def read(reader: ReplyReader, rng: Random) -> None:
                await asyncio.sleep(rng.uniform(0, 3))
                await reader.ask(clients[0])
                await reader.go_on(clients, rng)

            reading = [asyncio.create_task(read(reader, Random(rng.random()))) for reader in readers]
            for _ in range(2):
                await asyncio.sleep(rng.uniform(0.5, 1.5))
                await asyncio.to_thread(postmaster.kill)
                await asyncio.sleep(rng.uniform(0, 0.5))
                await asyncio.to_thread(postmaster.start)
                await asyncio.sleep(rng.uniform(0.5, 1.5))
                proxy.blackhole()
                await asyncio.sleep(2)
                proxy.pass_all()
            await gather(*reading)
            for reader in readers:
                reply = await check_reply(clients[1], reader)
                (request,) = requests_of(model, reader.question)
                assert (reply["status"], reply["content"]) == ("completed", request.said()), reader.ended


@pytest.mark.faults
async def test_no_cut_commit_doubles_a_reply_or_any_of_its_text(model: ModelServer, seed: int) -> None:
    rng = Random(seed)
    with durable_database() as (_, url), fault_proxy(url) as proxy:
        key = await key_in(url)
        with replica(proxy.url(), model, VERBATIM_REPLY_LEASE_SECONDS=5) as service, replica(url, model) as other:
            clients = [api(each.wait_for_address(), key) for each in (service, other)]
            readers = await ask_many(clients[1], 40)
            model.answers(*(text_steps(*words_of(rng, 60), delay_seconds=0.03) for _ in readers))
            proxy.cut_commits(0.3, rng)

            async def read(reader: ReplyReader, rng: Random) -> None:
                await asyncio.sleep(rng.uniform(0, 2))
                await reader.go_on([clients[0]], rng)

            await gather(*(read(reader, Random(rng.random())) for reader in readers))
            proxy.pass_all()
            for reader in readers:
                reply = await check_reply(clients[1], reader)
                (request,) = requests_of(model, reader.question)
                assert (reply["status"], reply["content"]) == ("completed", request.said()), reader.ended
    assert proxy.cut_count > 40
    print(f"{proxy.cut_count} of {proxy.commit_count} commits cut")


@pytest.mark.faults
async def test_a_request_that_is_repeated_everywhere_at_once_makes_one_reply(
    url: DatabaseUrl, new_key: NewKey, model: ModelServer
) -> None:
    key = await new_key(user="alice")
    model.word_count, model.word_delay_seconds = 40, 0.02
    with replica(url, model) as one, replica(url, model) as other:
        clients = [api(service.wait_for_address(), key) for service in (one, other)]
        path = f"{await new_conversation(clients[0])}/replies"
        body = {"messages": [{"role": "user", "content": "once"}]}
        headers = {"Idempotency-Key": "k"}
        async with asyncio.timeout(PATIENCE_SECONDS):
            answers = await gather(*(clients[n % 2].post(path, json=body, headers=headers) for n in range(20)))
        assert sorted(answer.status_code for answer in answers) == [200] * 19 + [201]
        assert len({answer.content for answer in answers}) == 1
        reply = answers[0].json()
        assert (reply["message"]["status"], reply["message"]["content"]) == ("completed", model.requests[0].said())
        assert len(model.requests) == 1
        for client in clients:
            again = await client.post(path, json=body, headers=headers)
            assert (again.status_code, again.json()) == (200, reply)
            body_of_another = {"messages": [{"role": "user", "content": "twice"}]}
            refused = await client.post(path, json=body_of_another, headers=headers)
            assert (refused.status_code, problem(refused)) == (422, "idempotency-key-reused")
        assert len(model.requests) == 1


class EventsReader(Reader):
    """A client that follows a conversation, and counts what it is told as new."""

    def __init__(self, conversation: str) -> None:
        super().__init__(f"{conversation}/events")
        self.conversation = conversation
        self.seqs: list[int] = []
        self.cut_short_count = 0

    def take(self, event: Event) -> None:
        if event.name == "message.created":
            self.seqs.append(event.data["seq"])
            assert event.id.partition(".")[0] == str(event.data["seq"])

    async def follow(self, clients: list[httpx.AsyncClient], rng: Random) -> None:
        while True:
            with suppress(httpx.TransportError):
                await self.read(rng.choice(clients))
            self.cut_short_count += not self.is_sent_on
            await asyncio.sleep(0.05)


class Load:
    """Appends to conversations that are followed, and replies in others, until it is over."""

    def __init__(self, clients: list[httpx.AsyncClient], followed: list[str]) -> None:
        self.is_over = False
        self.appended_counts = dict.fromkeys(followed, 0)
        self.readers: list[ReplyReader] = []
        self._clients = clients

    async def append(self, rng: Random) -> None:
        while not self.is_over:
            path = rng.choice(list(self.appended_counts))
            await self._post(f"{path}/messages", rng, {"role": "user", "content": "news"})
            self.appended_counts[path] += 1
            await asyncio.sleep(rng.uniform(0.05, 0.2))

    async def converse(self, rng: Random) -> None:
        while not self.is_over:
            made = await self._post("/v1/conversations", rng, {})
            reader = ReplyReader(made.headers["Location"], f"question {rng.random()}")
            self.readers.append(reader)
            await reader.go_on(self._clients, rng)

    async def _post(self, path: str, rng: Random, body: dict[str, str]) -> httpx.Response:
        headers = {"Idempotency-Key": secrets.token_hex(8)}
        while True:
            with suppress(httpx.TransportError):
                answer = await rng.choice(self._clients).post(path, json=body, headers=headers)
                if answer.status_code != 503:
                    assert answer.status_code in {200, 201}, answer.text
                    return answer
            await asyncio.sleep(0.05)


@pytest.mark.faults
async def test_replicas_are_replaced_and_no_event_and_no_reply_is_lost(
    url: DatabaseUrl, new_key: NewKey, model: ModelServer, seed: int
) -> None:
    rng = Random(seed)
    key = await new_key(user="alice")
    model.word_count, model.word_delay_seconds = 60, 0.03
    with ExitStack() as stack:

        def start() -> Service:
            return stack.enter_context(replica(url, model, VERBATIM_DRAIN_SECONDS=1))

        replicas = [start(), start()]
        clients = [api(service.wait_for_address(), key) for service in replicas]
        followed = [await new_conversation(clients[0]) for _ in range(10)]
        followers = [EventsReader(path) for path in followed for _ in range(5)]
        following = [asyncio.create_task(each.follow(clients, Random(rng.random()))) for each in followers]
        await until(lambda: all(each.last_id for each in followers))
        load = Load(clients, followed)
        work = [load.append(Random(rng.random())), *(load.converse(Random(rng.random())) for _ in range(4))]
        working = [asyncio.create_task(each) for each in work]
        longest_seconds = 0.0
        for number in range(10):
            place = number % 2
            await asyncio.sleep(rng.uniform(0.1, 0.4))
            old, begun_at = replicas[place], time.monotonic()
            old.process.send_signal(signal.SIGTERM)
            starting = asyncio.create_task(asyncio.to_thread(start))
            assert await asyncio.to_thread(old.process.wait, 10) == 0
            longest_seconds = max(longest_seconds, time.monotonic() - begun_at)
            replicas[place] = await starting
            clients[place] = api(replicas[place].wait_for_address(), key)
        load.is_over = True
        await gather(*working)
        await until(lambda: all(len(each.seqs) >= load.appended_counts[each.conversation] for each in followers))
        assert not any(task.done() for task in following)
        for task in following:
            task.cancel()
        await asyncio.wait(following)
        counts = f"{len(load.readers)} replies, {sum(load.appended_counts.values())} messages"
        print(f"gone after at most {longest_seconds:.1f} s; {counts}")
        for each in followers:
            assert each.seqs == list(range(1, load.appended_counts[each.conversation] + 1))
            assert (each.connection_count > 2, each.cut_short_count) == (True, 0)
        for reader in load.readers:
            reply = await check_reply(clients[0], reader)
            (request,) = requests_of(model, reader.question)
            assert (reply["status"], reply["content"]) == ("completed", request.said()), reader.ended


def peak_bytes(service: Service) -> int:
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) * 1024


@pytest.mark.faults
async def test_an_answer_of_a_hundred_thousand_tokens_is_whole_and_can_be_taken_up_in_its_middle(
    url: DatabaseUrl, new_key: NewKey, model: ModelServer, seed: int
) -> None:
    rng = Random(seed)
    key = await new_key(user="alice")
    (whole,) = [step.data for step in text_steps(*words_of(rng, 100_000)) if isinstance(step, Send)]
    size = len(whole) // 40
    pieces = [whole[start : start + size] for start in range(0, len(whole), size)]
    model.answers([step for piece in pieces for step in (Send(piece), Wait(0.05))])
    with replica(url, model) as one, replica(url, model) as other:
        clients = [api(service.wait_for_address(), key) for service in (one, other)]
        (reader,) = await ask_many(clients[0], 1)
        before = [peak_bytes(service) for service in (one, other)]
        begun_at = time.monotonic()
        await reader.ask(clients[0], 200_000)
        assert reader.ended is None
        await reader.go_on(clients, rng, [150_000, 1, 150_000])
        seconds = time.monotonic() - begun_at
        reply = await check_reply(clients[1], reader)
        assert (reply["status"], reply["content"]) == ("completed", model.requests[0].said())
        grown = [peak_bytes(service) - old for service, old in zip((one, other), before, strict=True)]
        print(f"{seconds:.1f} s, {[size // 2**20 for size in grown]} MiB")
        assert (seconds < 20, max(grown) < 100 * 2**20) == (True, True)
        middle = len(reader.text) // 2
        late = ReplyReader(reader.conversation, reader.question)
        late.path, late.last_id, late.text = reader.path, str(middle), reader.text[:middle]
        await late.read(clients[0])
        assert late.text == reader.text


class Once:
    """A function that fails the first times it is called, and from then on does what it should."""

    def __init__(self, function: Callable[..., Awaitable[Any]], *errors: Exception | None) -> None:
        self._function, self._errors = function, list(errors)

    async def __call__(self, *arguments: Any, **members: Any) -> Any:
        if self._errors and (error := self._errors.pop(0)):
            raise error
        return await self._function(*arguments, **members)


@pytest.fixture
async def client(url: DatabaseUrl, new_key: NewKey, model: ModelServer) -> AsyncIterator[httpx.AsyncClient]:
    """Of a replica in this process."""
    settings = Settings(
        model_base_url=model.url, model_name="scripted", reply_lease_seconds=5, allow_unsafe_database=True
    )
    async with live.replica(settings, url) as replica, api(replica.address, await new_key(user="alice")) as client:
        yield client


@pytest.mark.faults
async def test_a_database_that_is_away_when_the_context_is_read_delays_the_reply(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writers, "get_context", Once(writers.get_context, Unavailable(), Unavailable()))
    (reader,) = await ask_many(client, 1)
    await reader.ask(client)
    assert (await check_reply(client, reader))["status"] == "completed"


@pytest.mark.faults
async def test_text_that_could_not_be_kept_is_kept_soon_though_the_model_says_no_more(
    client: httpx.AsyncClient, model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writers, "keep_reply", Once(writers.keep_reply, Unavailable()))
    monkeypatch.setattr(writers, "_RETRY_SECONDS", 0.05)
    model.answers([Send(chunk({"content": "Hello"})), Hang()])
    (reader,) = await ask_many(client, 1)
    asking = asyncio.create_task(reader.ask(client))
    await until(lambda: reader.text == "Hello", 0.9)
    await client.post(f"{reader.path.removesuffix('/events')}/cancel")
    await asking


@pytest.mark.faults
async def test_a_reply_that_cannot_be_kept_fails(
    client: httpx.AsyncClient, model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writers, "keep_reply", Once(writers.keep_reply, RuntimeError("broken")))
    model.answers([*text_steps("Hello", delay_seconds=0.05), Hang()])
    (reader,) = await ask_many(client, 1)
    async with asyncio.timeout(3):
        await reader.ask(client)
    assert ((await check_reply(client, reader))["status"], reader.ended["finish_reason"]) == (
        "failed",
        "internal-error",
    )
    assert model.open_count == 0


@pytest.mark.faults
async def test_a_reply_whose_conversation_is_locked_keeps_no_other_from_its_end(
    url: DatabaseUrl, client: httpx.AsyncClient, connection: Conn
) -> None:
    paths = [await new_conversation(client, ["Hello?"]) for _ in range(2)]
    (owner_id,) = {row["owner_id"] for row in await connection.fetch("SELECT owner_id FROM conversations")}
    for path in paths:
        left = Append(messages=[], key=None, fingerprint=b"", expected=None)
        begin = Begin(model="gone", writer_id=uuid4(), lease_seconds=5)
        await begin_reply(connection, owner_id, UUID(path.rpartition("/")[2]), left, begin)
    await connection.execute("UPDATE replies SET renewed_at = now() - interval '1 hour'")
    locking = await connect(url, 5)
    async with locking.transaction():
        await locking.execute("SELECT FROM conversations WHERE id = $1 FOR UPDATE", UUID(paths[0].rpartition("/")[2]))
        await asyncio.sleep(4)
        assert await connection.fetchval("SELECT count(*) FROM replies WHERE ended_at IS NULL") == 1
    await locking.close()


@pytest.mark.faults
async def test_what_a_stream_was_about_to_tell_when_the_database_went_away_is_told_later(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = await new_conversation(client, ["one", "two", "three"])
    ids = [message["id"] for message in (await client.get(f"{path}/messages")).json()["data"]]
    for message_id in ids:
        edited = await client.patch(f"{path}/messages/{message_id}", json={"content": "edited"})
        assert edited.status_code == 200
    monkeypatch.setattr(events, "list_messages", Once(events.list_messages, None, Unavailable()))
    told = []
    async with (
        asyncio.timeout(5),
        client.stream("GET", f"{path}/events", headers={"Last-Event-ID": "3.0"}) as answer,
        aclosing(live.events_of(answer)) as stream,
    ):
        async for event in stream:
            told.append((event.name, event.data["seq"]))
            if event.data["seq"] == 3:
                break
    assert told == [("message.updated", seq) for seq in (1, 2, 3)]


@pytest.mark.faults
async def test_an_outage_beyond_the_lease_ends_no_reply_whose_replica_lives(model: ModelServer, seed: int) -> None:
    rng = Random(seed)
    with durable_database() as (postmaster, url):
        key = await key_in(url)
        variables = {"VERBATIM_REPLY_LEASE_SECONDS": 2}
        with replica(url, model, **variables) as one, replica(url, model, **variables) as other:
            clients = [api(service.wait_for_address(), key) for service in (one, other)]
            readers = await ask_many(clients[0], 10)
            model.answers(*(text_steps(*words_of(rng, 100), delay_seconds=0.06) for _ in readers))
            reading = [asyncio.create_task(reader.go_on(clients, rng)) for reader in readers]
            await asyncio.sleep(1.5)
            await asyncio.to_thread(postmaster.kill)
            await asyncio.sleep(3)
            await asyncio.to_thread(postmaster.start)
            await gather(*reading)
            for reader in readers:
                reply = await check_reply(clients[0], reader)
                (request,) = requests_of(model, reader.question)
                assert (reply["status"], reply["content"]) == ("completed", request.said()), reader.ended
