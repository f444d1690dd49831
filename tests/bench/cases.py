"""The cases: each is a load of some seconds on one of the servers."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import cached_property, partial
from time import perf_counter
from typing import Self

import uvloop
from msgspec import Struct, structs

from app.database import connect
from app.database_url import DatabaseUrl
from tests.bench import pgbench, requests, rows
from tests.bench.data import BULK, CONTENT, COPIED, DEEP, FEWER, MAIN, METADATA, SHALLOW, TENANT, Kind
from tests.bench.load import Orders, run_closed, run_driver
from tests.bench.outcomes import Outcome, quantile
from tests.bench.requests import Call, requests_of
from tests.bench.stage import (
    Postgres,
    Server,
    baseline_database,
    find_baseline,
    migrated,
    running_baseline,
    running_floor,
    running_postgres,
    running_service,
)

CONNECTIONS = 64
_FIRST_SECONDS = 6
"""In which every page of the reads is asked for, once."""

_COPIED_ROWS = 40_000
_COPIED_COLUMNS = [
    "owner_id",
    "conversation_id",
    "seq",
    "created_at",
    "body_bytes",
    "role",
    "status",
    "content",
    "metadata",
]


class Case(Struct, frozen=True, kw_only=True):
    """A load, and the process that serves it."""

    run: Callable[[], Mapping[str, Outcome]]
    """What each of its names has come to."""
    pid: int | None = None


class Stage:
    """Servers and cases, as far as the wanted ones need them; all ends with the block."""

    def __init__(self, wanted: set[str], *, is_quick: bool, seconds: int) -> None:
        self.kind = FEWER if is_quick else MAIN
        self._wanted = wanted
        self._seconds = seconds
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with self._stack as stack:
            self.postgres: Postgres = stack.enter_context(running_postgres())
            kinds = [BULK, COPIED, *([SHALLOW, DEEP] if rows.TEN_THOUSANDTH in self._wanted else [])]
            self.url = migrated(self.postgres, "verbatim", self.kind, *kinds)
            self.service = stack.enter_context(running_service(self.url, TENANT))
            self.cases = {name: case for name, case in self._all_cases() if name in self._wanted}
            self._read_all()
            self._stack = stack.pop_all()
        return self

    def _read_all(self) -> None:
        """The service knows the pages before the first round, as it does in its second minute."""
        calls = {rows.LAST_50: requests.LAST_50, rows.LIST_20: requests.LIST_20}
        for call in (call for name, call in calls.items() if name in self._wanted):
            run_driver(structs.replace(self._orders(call, seconds=_FIRST_SECONDS), is_ordered=True))

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def _all_cases(self) -> Iterator[tuple[str, Case]]:
        """In the order of a round: what is compared stands close together, what grows the tables last."""
        yield from self._appends()
        yield from self._reads()
        yield from self._baseline()
        yield from self._floors()
        yield from self._latencies()
        yield from self._depth()
        yield rows.BULK, self._bulk()
        yield rows.COPY, Case(run=_named(rows.COPY, _Copying(self.url).run))

    def _appends(self) -> Iterator[tuple[str, Case]]:
        yield self._pgbench(rows.PGBENCH_APPEND_1, "append_message", pgbench.APPEND, clients=1)
        yield self._closed(rows.APPEND_1, requests.APPEND, connections=1)
        yield self._pgbench(rows.PGBENCH_APPEND_16, "append_message", pgbench.APPEND)
        yield self._closed(rows.APPEND_64, requests.APPEND)
        yield self._closed(rows.KEYED, requests.KEYED_APPEND)
        yield self._closed(rows.REPLAY, requests.REPLAY, seconds=1)
        yield self._closed(rows.APPEND_16, requests.APPEND, connections=16, seconds=1)
        yield self._closed(rows.APPEND_256, requests.APPEND, connections=256, seconds=1)
        # Its time runs while it connects, client by client.
        longer = 2 * self._seconds
        yield self._pgbench(rows.PGBENCH_APPEND_64, "append_message", pgbench.APPEND, clients=64, seconds=longer)

    def _reads(self) -> Iterator[tuple[str, Case]]:
        yield self._pgbench(rows.PGBENCH_LAST_50, "list_messages_descending", pgbench.LAST_50)
        yield self._closed(rows.LAST_50, requests.LAST_50)
        if rows.LAST_50_ANEW in self._wanted:
            yield self._closed(rows.LAST_50_ANEW, requests.LAST_50, server=self._forgetful)
        yield self._pgbench(rows.PGBENCH_LIST_20, "list_conversations", pgbench.LIST_20)
        yield self._closed(rows.LIST_20, requests.LIST_20)
        if rows.LIST_20_ANEW in self._wanted:
            yield self._closed(rows.LIST_20_ANEW, requests.LIST_20, server=self._forgetful)
        yield self._pgbench(rows.PGBENCH_BY_KEY, "get_conversation_by_key", pgbench.BY_KEY, seconds=1)
        yield self._closed(rows.GET_OR_CREATE, requests.GET_OR_CREATE, seconds=1)

    @cached_property
    def _forgetful(self) -> Server:
        """A service that keeps no page."""
        return self._stack.enter_context(running_service(self.url, TENANT, VERBATIM_PAGE_CACHE_BYTES="0"))

    def _baseline(self) -> Iterator[tuple[str, Case]]:
        place = find_baseline()
        names = [name for name in (rows.SYNC, rows.ASYNC) if any(case.startswith(name) for case in self._wanted)]
        if not names:
            return
        if place is None:
            print("The usual stack is left out: its servers are not there, or not what `make bench` installs for them.")
            return
        url = baseline_database(self.postgres, place)
        calls = {
            "append": requests.BASELINE_APPEND,
            "first 50": requests.BASELINE_50,
            "list 20": requests.BASELINE_20,
        }
        for name in names:
            server = self._stack.enter_context(running_baseline(place, url, name))
            run_closed(self._orders(requests.BASELINE_50, server=server, kind=MAIN, seconds=1))  # it connects at first
            for what, call in calls.items():
                yield self._closed(f"{name} {what}", call, seconds=1, server=server, kind=MAIN)

    def _floors(self) -> Iterator[tuple[str, Case]]:
        for name, application in ((rows.BARE, "bare"), (rows.FRAMEWORK, "framework")):
            if name in self._wanted:
                server = self._stack.enter_context(running_floor(application))
                yield self._closed(name, requests.EMPTY, seconds=1, server=server)

    def _latencies(self) -> Iterator[tuple[str, Case]]:
        calls = {"appends": requests.APPEND, "lists": requests.LIST_20, "last 50": requests.LAST_50}
        for latency in rows.LATENCIES:
            orders = self._orders(calls[latency.case], seconds=1, rate=latency.rate)
            run = _named(latency.name, partial(run_driver, orders), is_append=latency.case == "appends")
            yield latency.name, Case(run=run, pid=self.service.pid)

    def _depth(self) -> Iterator[tuple[str, Case]]:
        short, long = (requests_of(requests.APPEND, self.service.address, kind) for kind in (SHALLOW, DEEP))
        in_turn = [request for pair in zip(short, long, strict=True) for request in pair]
        orders = Orders(
            address=self.service.address, requests=in_turn, connections=1, seconds=self._seconds, is_ordered=True
        )
        yield rows.TEN_THOUSANDTH, Case(run=partial(_run_in_turn, orders), pid=self.service.pid)

    def _bulk(self) -> Case:
        orders = self._orders(requests.BULK_APPEND, kind=BULK, connections=4)
        return Case(run=partial(_run_bulk, orders), pid=self.service.pid)

    def _pgbench(
        self, name: str, query: str, values: Mapping[str, str], *, clients: int = 16, seconds: int | None = None
    ) -> tuple[str, Case]:
        script = pgbench.pgbench_script(self.url, query, values, self.kind)
        run = partial(
            pgbench.run_pgbench, self.postgres.pgbench, self.url, script, clients, f"-T{seconds or self._seconds}"
        )
        return name, Case(run=_named(name, run, is_append=values is pgbench.APPEND))

    def _closed(
        self,
        name: str,
        call: Call,
        *,
        connections: int = CONNECTIONS,
        seconds: int | None = None,
        server: Server | None = None,
        kind: Kind | None = None,
    ) -> tuple[str, Case]:
        server = server or self.service
        orders = self._orders(call, server=server, kind=kind, connections=connections, seconds=seconds)
        is_append = call in {requests.APPEND, requests.KEYED_APPEND}
        return name, Case(run=_named(name, partial(run_closed, orders), is_append=is_append), pid=server.pid)

    def _orders(
        self,
        call: Call,
        *,
        server: Server | None = None,
        kind: Kind | None = None,
        connections: int = CONNECTIONS,
        seconds: int | None = None,
        rate: float | None = None,
    ) -> Orders:
        address = (server or self.service).address
        return Orders(
            address=address,
            requests=requests_of(call, address, kind or self.kind),
            connections=connections,
            seconds=seconds or self._seconds,
            rate=rate,
        )


def _named(name: str, run: Callable[[], Outcome], *, is_append: bool = False) -> Callable[[], Mapping[str, Outcome]]:
    def run_named() -> Mapping[str, Outcome]:
        outcome = run()
        if is_append:
            outcome.stored_count = outcome.count - outcome.failed_count
        return {name: outcome}

    return run_named


def _run_bulk(orders: Orders) -> Mapping[str, Outcome]:
    """Few and large: ours counts those too that are on their way in the end, and their time."""
    outcome = run_driver(orders)
    outcome.count *= requests.BATCH
    outcome.per_second *= requests.BATCH
    outcome.stored_count = outcome.count - outcome.failed_count * requests.BATCH
    return {rows.BULK: outcome}


def _run_in_turn(orders: Orders) -> Mapping[str, Outcome]:
    """One append to a short conversation, one to a long one, and so on: the same minute for both."""
    both = run_driver(orders)
    latencies = both.latencies_ms or []
    outcomes = {}
    for name, mine in ((rows.HUNDREDTH, latencies[::2]), (rows.TEN_THOUSANDTH, latencies[1::2])):
        outcomes[name] = Outcome(
            count=len(mine),
            per_second=1000 * len(mine) / sum(mine),
            failed_count=both.failed_count,
            stored_count=len(mine),
            p50_ms=quantile(mine, 0.5),
            p99_ms=quantile(mine, 0.99),
        )
    return outcomes


class _Copying:
    """asyncpg's COPY in this process, with the foreign key: what a bulk append is held against."""

    def __init__(self, url: DatabaseUrl) -> None:
        self._url = url
        self._owner_id = COPIED.owner_ids[0]
        self._length = 0

    def run(self) -> Outcome:
        return uvloop.run(self._copy())

    async def _copy(self) -> Outcome:
        each = _COPIED_ROWS // COPIED.count
        now = datetime.now(UTC)
        records = [
            (self._owner_id, COPIED.id(number), seq, now, len(CONTENT), "user", "completed", CONTENT, METADATA)
            for seq in range(self._length + 1, self._length + each + 1)
            for number in range(COPIED.count)
        ]
        connection = await connect(self._url, 10)
        begun_at = perf_counter()
        await connection.copy_records_to_table("messages", records=records, columns=_COPIED_COLUMNS)
        seconds = perf_counter() - begun_at
        self._length += each
        await connection.execute(
            "UPDATE conversations SET last_seq = $1 WHERE owner_id = $2", self._length, self._owner_id
        )
        await connection.close()
        return Outcome(count=len(records), per_second=len(records) / seconds, stored_count=len(records))
