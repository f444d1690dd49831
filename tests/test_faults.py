"""Whatever is killed, cut, delayed or full: what was acknowledged is there, once, in order, and the rest is a 503."""

import logging
import os
import re
import secrets
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from http.client import HTTPConnection, HTTPException
from itertools import count, pairwise
from pathlib import Path
from random import Random
from shutil import disk_usage
from threading import Lock
from typing import NamedTuple, TypeVar

import msgspec
import pytest
from msgspec import Raw, Struct

from app.database import connect
from app.database_url import DatabaseUrl
from app.migrations import migrate
from app.stores import service_keys
from tests.conftest import run_sql
from tests.fault_proxy import FaultProxy, fault_proxy
from tests.postmasters import Postmaster, started_postmaster
from tests.processes import Service, serving, text_of

T = TypeVar("T")

PATIENCE_SECONDS = 60
"""Nothing that is waited for here takes so long, on however slow a machine, unless it hangs."""

RECOVERY_SECONDS = 3

_logger = logging.getLogger(__name__)
_numbers = count(1)


class Place(Struct, frozen=True):
    """Of a message, as an answer tells it."""

    id: str
    seq: int
    created_at: str


class Appended(Struct, frozen=True):
    messages: list[Place]


class Message(Place, frozen=True):
    content: str


class Conversation(Struct, frozen=True):
    id: str
    last_seq: int


class Page(Struct, frozen=True):
    data: list[Raw]
    has_more: bool
    next_cursor: str | None


class Problem(Struct, frozen=True):
    type: str
    status: int


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    content: bytes


class Caller(NamedTuple):
    key: str
    user: str


class Request(NamedTuple):
    """An append, known by what it says: no two say the same."""

    path: str
    texts: tuple[str, ...]


class AckLog:
    """What writers were told, and whether it is true in the end."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.statuses: Counter[int] = Counter()
        self.unanswered_count = self.message_count = 0
        self.last_acked_at = 0.0
        self._lock = Lock()
        self._told: dict[Request, list[list[Place]]] = {}
        self._heads: dict[tuple[str, str], int] = {}
        self._misplaced: list[Request] = []

    def __len__(self) -> int:
        """How many different requests were acknowledged."""
        return len(self._told)

    def add_unanswered(self) -> None:
        with self._lock:
            self.unanswered_count += 1

    def add(self, request: Request, answer: Answer, writer: str) -> None:
        """Takes down an answer to a writer, whose requests to a conversation must stand there in its order."""
        with self._lock:
            self.statuses[answer.status] += 1
            if answer.status not in {200, 201}:
                return
            places = msgspec.json.decode(answer.content, type=Appended).messages
            if places[0].seq <= self._heads.get((writer, request.path), 0):
                self._misplaced.append(request)
            self._heads[writer, request.path] = places[-1].seq
            self.message_count += 0 if request in self._told else len(places)
            self._told.setdefault(request, []).append(places)
            self.last_acked_at = time.monotonic()

    def check(self, client: "Client") -> None:
        """What was acknowledged is stored once, where each answer said, in order, without gaps; and nothing else is."""
        flaws: Counter[str] = Counter()
        examples: list[object] = []
        for flaw, example in self._find_flaws(client):
            flaws[flaw] += 1
            if flaws[flaw] <= 3:
                examples.append((flaw, example))
        sums = f"{len(self)} acknowledged, {dict(self.statuses)}, {self.unanswered_count} unanswered"
        assert not flaws, f"TEST_SEED={self.seed} {sums}, {dict(flaws)}: {examples}"
        _logger.info("TEST_SEED=%s %s", self.seed, sums)

    def _find_flaws(self, client: "Client") -> Iterator[tuple[str, object]]:
        yield from (("another status", status) for status in self.statuses.keys() - {200, 201, 503})
        yield from (("out of order", request) for request in self._misplaced)
        for path in {request.path for request in self._told}:
            stored = [
                msgspec.json.decode(row, type=Message) for row in client.read_pages(f"{path}/messages?limit=1000")
            ]
            last_seq = client.read(path, Conversation).last_seq
            seqs = [0, *(message.seq for message in stored), last_seq + 1]
            yield from (("gap", (path, pair)) for pair in pairwise(seqs) if pair[1] != pair[0] + 1)
            yield from (("back in time", pair) for pair in pairwise(stored) if pair[1].created_at < pair[0].created_at)
            copies: dict[str, list[Place]] = {}
            for message in stored:
                place = Place(message.id, message.seq, message.created_at)
                copies.setdefault(message.content, []).append(place)
            yield from (("duplicated", (path, places)) for places in copies.values() if len(places) > 1)
            yield from self._compare(path, copies)

    def _compare(self, path: str, copies: dict[str, list[Place]]) -> Iterator[tuple[str, object]]:
        for request, answers in self._told.items():
            if request.path != path:
                continue
            if any(answer != answers[0] for answer in answers):
                yield "told differently", (request, answers)
            for text, place in zip(request.texts, answers[0], strict=True):
                found = copies.pop(text, [])
                if place not in found:
                    yield "moved" if found else "lost", (path, place, found)
        yield from (("never acknowledged", (path, places)) for places in copies.values())


class Client:
    """A user's connection to a service."""

    def __init__(self, address: str, caller: Caller) -> None:
        self._connection = HTTPConnection(address.removeprefix("http://"), timeout=15)
        credentials = {"Authorization": f"Bearer {caller.key}", "X-User-Id": caller.user}
        self._headers = {**credentials, "Content-Type": "application/json"}

    def send(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        """Raises OSError or HTTPException when nobody answers."""
        encoded = None if body is None else msgspec.json.encode(body)
        try:
            self._connection.request(method, path, encoded, self._headers | headers)
            response = self._connection.getresponse()
            content = response.read()
        except (OSError, HTTPException):
            self._connection.close()
            raise
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, content)

    def read(self, path: str, kind: type[T]) -> T:
        answer = self.send("GET", path)
        assert answer.status == 200, answer
        return msgspec.json.decode(answer.content, type=kind)

    def read_pages(self, path: str) -> Iterator[Raw]:
        """All of a list, page by page; the path has a limit."""
        page = Page([], has_more=True, next_cursor=None)
        while page.has_more:
            page = self.read(f"{path}&after={page.next_cursor}" if page.next_cursor else path, Page)
            yield from page.data

    def new_conversation(self) -> str:
        """Its path."""
        answer = self.send("POST", "/v1/conversations", {})
        assert answer.status == 201, answer
        return answer.headers["location"]

    def close(self) -> None:
        self._connection.close()


class Writer(Client):
    """A client that takes no 503 for an answer."""

    def __init__(self, log: AckLog, name: str, address: str, caller: Caller) -> None:
        super().__init__(address, caller)
        self.rng = Random(f"{log.seed}/{name}")
        self._log = log
        self._name = name
        self._numbers = count(1)

    def new_texts(self) -> tuple[str, ...]:
        return texts_of(f"{self._name}-{next(self._numbers)}", self.rng)

    def append(self, path: str, texts: tuple[str, ...], key: str | None = None) -> None:
        """Repeats the request until it is acknowledged. Without a key the client ids mark it."""
        messages = [{"role": "user", "content": text} for text in texts]
        if key is None:
            messages = [{**message, "client_id": message["content"].split()[0]} for message in messages]
        body = messages[0] if len(messages) == 1 else {"messages": messages}
        headers = {} if key is None else {"Idempotency-Key": key}
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (answer := self._try("POST", f"{path}/messages", body, headers)) is None or answer.status == 503:
            assert time.monotonic() < deadline, f"TEST_SEED={self._log.seed} {answer}"
            if answer is not None:
                check_busy(answer)
                self._log.add(Request(path, texts), answer, self._name)
            time.sleep(self.rng.uniform(0.05, 0.2))
        self._log.add(Request(path, texts), answer, self._name)
        assert answer.status in {200, 201}, f"TEST_SEED={self._log.seed} {answer}"

    def _try(self, method: str, path: str, body: object, headers: dict[str, str]) -> Answer | None:
        try:
            return self.send(method, path, body, **headers)
        except (OSError, HTTPException):
            self._log.add_unanswered()
            return None


def texts_of(name: str, rng: Random) -> tuple[str, ...]:
    return tuple(f"{name}-{place} {'x' * rng.randrange(200)}" for place in range(rng.choice([1, 1, 1, 1, 3])))


def check_busy(answer: Answer) -> None:
    """The answer says properly that this cannot be done now."""
    assert answer.status == 503, answer
    assert answer.headers["content-type"] == "application/problem+json", answer
    assert int(answer.headers["retry-after"]) > 0, answer
    assert msgspec.json.decode(answer.content, type=Problem) == Problem("urn:verbatim:problem:unavailable", 503)


class Work:
    """Threads that go on until it is over; who waits for what they do hears at once when one fails."""

    def __init__(self, threads: ThreadPoolExecutor, stack: ExitStack) -> None:
        self.is_over = False
        self._threads = threads
        self._stack = stack
        self._running: list[Future[None]] = []

    def keep(self, task: Callable[[Client], None], client: Client) -> None:
        """Does the task again and again, with a client that is closed in the end."""
        self._stack.enter_context(closing(client))

        def repeat() -> None:
            while not self.is_over:
                task(client)

        self._running.append(self._threads.submit(repeat))

    def keep_writing(self, log: AckLog, address: str, caller: Caller, paths: list[str]) -> None:
        """Has one writer for each path; a path may come several times."""
        for number, path in enumerate(paths):
            self.keep(partial(write, path), Writer(log, f"writer-{number}", address, caller))

    def wait_until(self, is_so: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while not is_so():
            for task in self._running:
                if task.done():
                    task.result()
            assert time.monotonic() < deadline, f"not so within {seconds} s"
            time.sleep(0.005)

    def finish(self) -> None:
        for task in self._running:
            task.result()


def write(path: str, writer: Writer) -> None:
    texts = writer.new_texts()
    writer.append(path, texts, key=texts[0].split()[0])


@contextmanager
def working() -> Iterator[Work]:
    """In the end the threads have done what they were at, all of them without an error."""
    with ExitStack() as stack, ThreadPoolExecutor(64) as threads:
        work = Work(threads, stack)
        try:
            yield work
        finally:
            work.is_over = True
        work.finish()


@contextmanager
def overheard(postmaster: Postmaster, *services: Service) -> Iterator[None]:
    """Shows with a failure what the processes said last, but for what every outage makes them say."""
    try:
        yield
    except BaseException:
        for said in (postmaster.log, *(service.errors for service in services)):
            lines = [line for line in said.splitlines() if not re.search("FATAL:|(?i:warning|unavailable)", line)]
            print(*lines[-30:], sep="\n")
        raise


@pytest.fixture
def seed() -> int:
    """Of every choice that the test makes."""
    seed = int(os.environ.get("TEST_SEED") or secrets.randbelow(2**32))
    print(f"TEST_SEED={seed}")
    return seed


@pytest.fixture(scope="module")
def postmaster() -> Iterator[Postmaster]:
    """Durable; new databases are migrated."""
    with started_postmaster() as postmaster:
        migrate(postmaster.url("template1"))
        yield postmaster


@pytest.fixture(scope="module")
async def key(postmaster: Postmaster) -> str:
    """Lets in wherever the database is a later one."""
    connection = await connect(postmaster.url("template1"), 5)
    key = service_keys.new_key()
    await service_keys.create_service_key(connection, key, "faults", None, is_admin=False)
    await connection.close()
    return key


@pytest.fixture(scope="module")
def database_url(postmaster: Postmaster, key: str) -> str:  # noqa: ARG001  # it is in the template by now
    """Of all tests' one database."""
    run_sql(postmaster.url(), "CREATE DATABASE {}", "verbatim")
    return text_of(postmaster.url("verbatim"))


@pytest.fixture
def caller(key: str) -> Caller:
    """A user of the test's own."""
    return Caller(key, f"user-{next(_numbers)}")


@pytest.fixture(scope="module")
def services(database_url: str) -> Iterator[list[Service]]:
    """Two replicas."""
    services = [Service(DATABASE_URL=database_url) for _ in range(2)]
    yield services
    for service in services:
        service.close()


@pytest.fixture
def addresses(postmaster: Postmaster, services: list[Service]) -> Iterator[list[str]]:
    """Theirs; they are the same processes at the end of the test."""
    with overheard(postmaster, *services):
        yield [service.wait_for_address() for service in services]
    assert [service.process.poll() for service in services] == [None, None]


@pytest.fixture(scope="module")
def way(postmaster: Postmaster, database_url: str) -> Iterator[tuple[FaultProxy, Service]]:  # noqa: ARG001  # it is made
    """A proxy before the database, and the service before the proxy."""
    with fault_proxy(postmaster.url("verbatim")) as proxy, serving(DATABASE_URL=text_of(proxy.url())) as service:
        yield proxy, service


@pytest.fixture
def proxy(way: tuple[FaultProxy, Service]) -> Iterator[FaultProxy]:
    """It lets everything through at first."""
    yield way[0]
    way[0].pass_all()


@pytest.fixture
def proxied_address(postmaster: Postmaster, way: tuple[FaultProxy, Service]) -> Iterator[str]:
    with overheard(postmaster, way[1]):
        yield way[1].wait_for_address()


def new_conversations(address: str, caller: Caller, number: int) -> list[str]:
    with closing(Client(address, caller)) as client:
        return [client.new_conversation() for _ in range(number)]


def check(log: AckLog, address: str, caller: Caller) -> None:
    with closing(Client(address, caller)) as client:
        log.check(client)


KILLS = [(2, 300), pytest.param(20, 10_000, marks=pytest.mark.faults)]


@pytest.mark.parametrize(("kill_count", "ack_count"), KILLS)
def test_a_killed_database_loses_no_acknowledged_append(
    postmaster: Postmaster, addresses: list[str], caller: Caller, seed: int, kill_count: int, ack_count: int
) -> None:
    log, rng = AckLog(seed), Random(seed)

    def restart() -> None:
        postmaster.kill()
        time.sleep(rng.uniform(0, 0.3))
        postmaster.start()

    kill_under_load(log, addresses[0], caller, [rng.uniform(0, 0.1) for _ in range(kill_count)], ack_count, restart)
    check(log, addresses[0], caller)
    assert (log.statuses[503] > 0, log.unanswered_count) == (True, 0), log.seed


@pytest.mark.parametrize(("kill_count", "ack_count"), KILLS[1:])
def test_a_killed_service_loses_no_acknowledged_append(
    database_url: str, caller: Caller, seed: int, kill_count: int, ack_count: int
) -> None:
    log, rng = AckLog(seed), Random(seed)
    service = Service(DATABASE_URL=database_url)
    try:
        address = service.wait_for_address()

        def restart() -> None:
            nonlocal service
            service.close()
            service = Service(DATABASE_URL=database_url, VERBATIM_PORT=address.rpartition(":")[2])
            service.wait_for_address()

        kill_under_load(log, address, caller, [rng.uniform(0, 0.1) for _ in range(kill_count)], ack_count, restart)
        check(log, address, caller)
    finally:
        service.close()
    assert log.unanswered_count > 0, log.seed


def kill_under_load(
    log: AckLog, address: str, caller: Caller, pauses: list[float], ack_count: int, restart: Callable[[], None]
) -> None:
    """Eight writers with a conversation each and four with a common one; each restart is followed by an answer soon."""
    hot, *others = new_conversations(address, caller, 9)
    with working() as work:
        work.keep_writing(log, address, caller, [*others, *[hot] * 4])
        for number, pause in enumerate(pauses, 1):
            work.wait_until(lambda number=number: len(log) >= ack_count * number // len(pauses))
            time.sleep(pause)
            restart()
            ready_at = time.monotonic()
            work.wait_until(lambda ready_at=ready_at: log.last_acked_at > ready_at, RECOVERY_SECONDS)


@pytest.mark.faults
@pytest.mark.parametrize("request_count", [300])
@pytest.mark.parametrize("has_key", [True, False], ids=["key", "client ids"])
def test_an_append_whose_answer_was_cut_is_repeated_into_the_same(
    proxy: FaultProxy, proxied_address: str, caller: Caller, seed: int, request_count: int, *, has_key: bool
) -> None:
    log = AckLog(seed)
    (path,) = new_conversations(proxied_address, caller, 1)
    cut_before = proxy.cut_count
    proxy.cut_commits(0.3, Random(seed))

    def write_twice(number: int) -> None:
        for name in (f"writer-{number}", f"again-{number}"):
            with closing(Writer(log, name, proxied_address, caller)) as writer:
                rng = Random(f"{seed}/{number}")
                for place in range(request_count // 4):
                    texts = texts_of(f"request-{number}-{place}", rng)
                    writer.append(path, texts, texts[0].split()[0] if has_key else None)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write_twice, range(4)))
    proxy.pass_all()
    check(log, proxied_address, caller)
    assert len(log) == request_count
    assert proxy.cut_count - cut_before > request_count / 8, seed


@pytest.mark.parametrize(
    ("key_count", "size"), [(20, 3), *(pytest.param(200, size, marks=pytest.mark.faults) for size in (1, 3, 50))]
)
def test_duplicates_at_once_through_two_replicas_append_once(
    addresses: list[str], caller: Caller, seed: int, size: int, key_count: int
) -> None:
    log = AckLog(seed)
    (path,) = new_conversations(addresses[0], caller, 1)

    def write_copy(number: int, copy: int) -> None:
        texts = tuple(f"{number}-{place}" for place in range(size))
        with closing(Writer(log, f"{number}/{copy}", addresses[copy % 2], caller)) as writer:
            writer.append(path, texts, f'"{number}"' if copy % 4 < 2 else f"{number}")

    with ThreadPoolExecutor(16) as threads:
        for written in [threads.submit(write_copy, number, copy) for number in range(key_count) for copy in range(8)]:
            written.result()
    assert (len(log), log.statuses[200] + log.statuses[201]) == (key_count, 8 * key_count)
    with closing(Client(addresses[1], caller)) as client:
        for number in range(key_count):
            name = f'"{number}"' if number % 2 else f"{number}"
            other = {"role": "user", "content": "other"}
            answer = client.send("POST", f"{path}/messages", other, **{"Idempotency-Key": name})
            assert (answer.status, b"idempotency-key-reused" in answer.content) == (422, True)
    check(log, addresses[0], caller)


@pytest.mark.parametrize("message_count", [150, pytest.param(2000, marks=pytest.mark.faults)])
def test_late_commits_hide_nothing_from_who_reads_on_from_a_cursor(
    proxy: FaultProxy, proxied_address: str, caller: Caller, seed: int, message_count: int
) -> None:
    log = AckLog(seed)
    idle = new_conversations(proxied_address, caller, 30)
    active = new_conversations(proxied_address, caller, 2)
    proxy.delay_commits(0.05, Random(seed))
    read: dict[tuple[str, int], list[Message]] = {(path, limit): [] for path in active for limit in (3, 100)}
    listed: list[Counter[str]] = []

    def read_on(path: str, limit: int, client: Client) -> None:
        known = read[path, limit]
        page = client.read(f"{path}/messages?limit={limit}&after={known[-1].seq if known else 0}", Page)
        known += [msgspec.json.decode(row, type=Message) for row in page.data]

    def list_all(client: Client) -> None:
        rows = client.read_pages("/v1/conversations?limit=7")
        listed.append(Counter(msgspec.json.decode(row, type=Conversation).id for row in rows))

    with working() as reading:
        for path, limit in read:
            reading.keep(partial(read_on, path, limit), Client(proxied_address, caller))
        reading.keep(list_all, Client(proxied_address, caller))
        with working() as writing:
            writing.keep_writing(log, proxied_address, caller, active * 4)
            writing.wait_until(lambda: log.message_count >= message_count)
        proxy.pass_all()
        check(log, proxied_address, caller)
        with closing(Client(proxied_address, caller)) as client:
            heads = {path: client.read(path, Conversation).last_seq for path in active}
        reading.wait_until(lambda: all(known and known[-1].seq >= heads[path] for (path, _), known in read.items()))
    for (path, _), known in read.items():
        assert [message.seq for message in known] == list(range(1, heads[path] + 1)), seed
    assert listed
    for listing in listed:
        assert {path: listing[path.rpartition("/")[2]] for path in idle} == dict.fromkeys(idle, 1), seed


@contextmanager
def small_disk(size: str, account_ids: tuple[int, int]) -> Iterator[Path]:
    """A file system in memory, of that user."""
    path = Path(tempfile.mkdtemp(prefix="verbatim-small-disk-"))
    options = "size={},mode=0700,uid={},gid={}".format(size, *account_ids)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], capture_output=True, check=False)
    try:
        if mounted.returncode:
            pytest.skip(f"A FULL DISK WAS NOT TESTED: only root can mount a small one here ({mounted.stderr.decode()})")
        yield path
    finally:
        if not mounted.returncode:
            subprocess.run(["umount", "--lazy", path], check=True)
        path.rmdir()


@contextmanager
def database_on(disk: Path, postmaster: Postmaster) -> Iterator[DatabaseUrl]:
    """A database whose data is there, and whose write-ahead log is not."""
    run_sql(postmaster.url(), f"CREATE TABLESPACE {{}} LOCATION '{disk}'", "small")
    try:
        run_sql(postmaster.url(), "CREATE DATABASE {} TABLESPACE {}", "small", "small")
        yield postmaster.url("small")
    finally:
        run_sql(postmaster.url(), "DROP DATABASE IF EXISTS {} WITH (FORCE)", "small")
        run_sql(postmaster.url(), "DROP TABLESPACE {}", "small")


@pytest.mark.faults
def test_a_full_disk_stops_nothing_but_writes_and_only_while_it_is_full(
    postmaster: Postmaster, caller: Caller, seed: int
) -> None:
    log = AckLog(seed)
    with (
        small_disk("32m", postmaster.account_ids) as disk,
        database_on(disk, postmaster) as url,
        serving(DATABASE_URL=text_of(url)) as service,
        overheard(postmaster, service),
    ):
        address = service.wait_for_address()
        paths = new_conversations(address, caller, 4)
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(disk_usage(disk).free - 2**16))
        with working() as work, closing(Client(address, caller)) as client:
            work.keep_writing(log, address, caller, paths)
            work.wait_until(lambda: log.statuses[503] >= 50)
            while log.statuses[503] < 100:
                assert len(client.read("/v1/conversations", Page).data) == len(paths)
                for path in paths:
                    assert client.read(f"{path}/messages", Page).data
            ballast.unlink()
            acked_count = len(log)
            work.wait_until(lambda: len(log) > acked_count + 100)
        check(log, address, caller)
        assert service.process.poll() is None
    assert "No space left on device" in postmaster.log
