"""What the benchmark's table says: each row compares a case with another one of the same rounds."""

from typing import Literal

from msgspec import Struct

Measure = Literal["per_second", "p99_ms", "cpu_ms"]
GROUPS = ("append", "last50", "list20", "get_or_create", "keyed", "bulk", "depth", "baseline", "floors", "latency")


class Row(Struct, frozen=True):
    """One line: a case, the case it is held against, and the ratio that there must be, and could be."""

    group: str
    case: str
    over: str | None = None
    must: float | None = None
    moonshot: float | None = None
    measure: Measure = "per_second"

    @property
    def is_ceiling(self) -> bool:
        """Whether less is better."""
        return self.measure != "per_second"


APPEND_1 = "append, 1 connection"
APPEND_16, APPEND_64, APPEND_256 = (f"append, {count} connections" for count in (16, 64, 256))
LAST_50, LIST_20 = "last 50", "list 20"
LAST_50_ANEW, LIST_20_ANEW = f"{LAST_50}, nothing kept", f"{LIST_20}, nothing kept"
PGBENCH_APPEND_1 = "pgbench append, 1 client"
PGBENCH_APPEND_16, PGBENCH_APPEND_64 = (f"pgbench append, {count} clients" for count in (16, 64))
PGBENCH_LAST_50, PGBENCH_LIST_20 = "pgbench last 50, 16 clients", "pgbench list 20, 16 clients"
PGBENCH_BY_KEY, GET_OR_CREATE = "pgbench get by key, 16 clients", "get-or-create"
KEYED, REPLAY = "keyed append", "replay of a keyed append"
BULK, COPY = "bulk append, messages", "COPY in process, messages"
HUNDREDTH, TEN_THOUSANDTH = "100th append of a conversation", "10,000th append of a conversation"
SYNC, ASYNC = "baseline_sync", "baseline_async"
BARE, FRAMEWORK = "floor: bare ASGI", "floor: Litestar"

ROWS = (
    Row("append", APPEND_64, PGBENCH_APPEND_16, 0.85, 1.3),
    Row("append", APPEND_1, PGBENCH_APPEND_1, 0.5, 0.7),
    Row("append", APPEND_16, PGBENCH_APPEND_16),
    Row("append", APPEND_256, PGBENCH_APPEND_16),
    Row("append", APPEND_64, PGBENCH_APPEND_64),
    Row("append", APPEND_64, None, 0.14, 0.075, "cpu_ms"),
    Row("last50", LAST_50, PGBENCH_LAST_50, 0.7, 1.9),
    Row("last50", LAST_50, None, 0.29, 0.09, "cpu_ms"),
    Row("last50", LAST_50_ANEW, PGBENCH_LAST_50),
    Row("list20", LIST_20, PGBENCH_LIST_20, 0.35, 0.6),
    Row("list20", LIST_20_ANEW, PGBENCH_LIST_20),
    Row("get_or_create", GET_OR_CREATE, PGBENCH_BY_KEY),
    Row("keyed", KEYED, APPEND_64, 0.75, 0.9),
    Row("keyed", REPLAY, APPEND_64),
    Row("bulk", BULK, COPY, 0.4, 0.8),
    Row("depth", TEN_THOUSANDTH, HUNDREDTH, 1.2, 1.05, "p99_ms"),
    Row("baseline", APPEND_64, f"{SYNC} append", 20, 35),
    Row("baseline", LAST_50, f"{SYNC} first 50", 25, 60),
    Row("baseline", LIST_20, f"{SYNC} list 20", 20, 40),
    Row("baseline", APPEND_64, f"{ASYNC} append", 15, 25),
    Row("baseline", LAST_50, f"{ASYNC} first 50", 15, 30),
    Row("baseline", LIST_20, f"{ASYNC} list 20", 12, 20),
    Row("floors", BARE),
    Row("floors", FRAMEWORK),
)


class Latency(Struct, frozen=True):
    """An open loop: so many requests a second, however slow the answers."""

    case: str
    rate: int
    must_p99_ms: float | None = None
    moonshot_p99_ms: float | None = None

    @property
    def name(self) -> str:
        """As the case is known."""
        return f"{self.rate:,} {self.case}/s"


LATENCIES = (
    Latency("appends", 150),
    Latency("appends", 1000, 12, 5),
    Latency("appends", 2000),
    Latency("lists", 1000),
    Latency("last 50", 500),
)


def cases_of(groups: list[str]) -> set[str]:
    """The cases that the rows of some groups need."""
    rows = [row for row in ROWS if row.group in groups]
    cases = {row.case for row in rows} | {row.over for row in rows if row.over is not None}
    return cases | ({latency.name for latency in LATENCIES} if "latency" in groups else set())
